"""Screens too large for one look: what decides is visible only where a tool shows a part of them again.

    python -m data_prep screen_groups --out data/groups

Each screen has three small windows, each framed in a color of its own and with four shapes of that color and of four
kinds, and asks for one shape by color and kind. Shown whole at a quarter of its size, color and place of a window
survive, kinds do not: a single look can do little better than one of the window's four. A crop of the window shows
which.

Samples carry the calls that lead there, the window's region first (`Sample.turns`), shifted and scaled at random as a
model's own are; `--turns 0` leaves them out, with a thought about the whole screen, for comparison on the same
screens. Thoughts are checked against what is drawn. Sample i of a split is a function of (seed, split, i, size)
alone. The combinations of color and kind in `scenes.HELD_OUT` are the target of no training screen.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace

from PIL import Image

from data_prep import Split
from data_prep.screens.generated import ASKS, HELD_OUT_SHARE, drawn_source, place_of, to_box
from data_prep.screens.scenes import COLORS, GROUNDS, HELD_OUT, SHAPES, Element, Scene, draw
from grounding.crops import Crop
from grounding.sample import ImageRef, Sample, ToolTurn
from grounding.targets import Box

GROUPS, EACH = 3, 4
SIDES = (18, 21)  # of a shape, in pixels: at a quarter of the size too small for its kind to be told
GAP = 12  # between the cells of a window's shapes
MARGIN = 17  # from a window's edge to the nearest cell; most of it is the frame
WINDOW = 2 * SIDES[1] + GAP + 2 * MARGIN
APART = 20  # between windows
SHIFT = 0.2  # of a call's region: of its side at most, each way, and as much in size; small shifts are likelier
STEPS = 96  # a region's numbers are multiples of 1/96: what the embedded model's view resolves, and can be learned
DEFAULT_COUNTS: dict[Split, int] = {"train": 2000, "val": 100, "test": 300}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=384, help="side of a screen in pixels (384)")
    parser.add_argument(
        "--region",
        type=int,
        default=96,
        help="least side in pixels of what zoom shows, as in the recipe (min_side); thoughts speak of it (96)",
    )
    parser.add_argument("--turns", type=int, choices=(0, 1), default=1, help="calls before the answer (1)")


def _example(args: Namespace, split: Split, index: int) -> tuple[Sample, Image.Image]:
    how = {"size": args.size, "region": args.region, "turns": args.turns}
    return example(index, seed=args.seed, split=split, **how)


drawn_source("screen_groups", DEFAULT_COUNTS, add_arguments, _example)


def example(
    index: int, *, seed: int, split: str, size: int = 384, region: int = 96, turns: int = 1
) -> tuple[Sample, Image.Image]:
    """Sample `index` of a split and its image; `region` and `turns` change neither the image nor the question."""
    if split not in HELD_OUT_SHARE:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(HELD_OUT_SHARE)}")
    rng = random.Random(f"groups/{seed}/{split}/{index}/{size}")
    groups = compose(rng, size)
    while True:
        target = rng.choice([element for group in groups for element in group])
        held_out = (target.color, target.kind) in HELD_OUT
        if not held_out or rng.random() < HELD_OUT_SHARE[split]:
            break
    shown = tuple(element for group in groups for element in (bounds(group), *group))
    scene = Scene(size, rng.choice(tuple(GROUNDS)), shown)
    id = f"groups-{split}-{seed}-{index:06d}"
    instruction = rng.choice(ASKS).format(f"the {target.name}")
    group = next(group for group in groups if target in group)
    thought = f"I look for the {target.name}. It is at the {place_of(target, size)}."
    calls: tuple[ToolTurn, ...] = ()
    if turns:
        asked = jittered(rng, bounds(group), size)
        whole = f"I look for the {target.color} window. It is at the {place_of(bounds(group), size)}."
        calls = (ToolTurn("zoom", to_box(asked, size), whole),)
        crop = Crop.around(to_box(asked, size), size, size, min_side=region, square=True)
        inner = crop.to_crop(to_box(target, size))
        if inner is None:
            raise AssertionError(f"{id}: the region {asked.box} does not show the target {target.box}")
        thought = f"I look for the {target.name}. It is at the {_ninth(inner)}."
    sample = Sample(
        id=id,
        images=(ImageRef(f"images/{id}.png", size, size),),
        instruction=instruction,
        target=to_box(target, size),
        source="screen_groups",
        license="Apache-2.0",
        thought=thought,
        meta={"color": target.color, "kind": target.kind, "held_out": held_out},
        turns=calls,
    )
    problem = verify(sample, groups, size)
    if problem:
        raise AssertionError(f"{id}: {problem}")
    return sample, draw(scene)


def compose(rng: random.Random, size: int) -> list[list[Element]]:
    """The shapes of windows of different colors that keep apart; in each, four kinds, two by two."""
    while True:
        groups: list[list[Element]] = []
        for color in rng.sample(tuple(COLORS), GROUPS):
            for _ in range(40):
                left, top = rng.randint(4, size - WINDOW - 4), rng.randint(4, size - WINDOW - 4)
                box = (left - APART, top - APART, left + WINDOW + APART, top + WINDOW + APART)
                if all(_clear(box, bounds(group).box) for group in groups):
                    break
            else:
                break
            groups.append([])
            for at, kind in enumerate(rng.sample(SHAPES, EACH)):
                side = rng.randint(*SIDES)
                inset = MARGIN + (SIDES[1] - side) // 2
                x = left + inset + at % 2 * (SIDES[1] + GAP)
                y = top + inset + at // 2 * (SIDES[1] + GAP)
                groups[-1].append(Element(kind, color, (x, y, x + side, y + side)))
        if len(groups) == GROUPS:
            return groups


def bounds(group: list[Element]) -> Element:
    """The window around its shapes."""
    first = group[0]
    inset = MARGIN + (SIDES[1] - round(first.box[2] - first.box[0])) // 2
    left, top = first.box[0] - inset, first.box[1] - inset
    return Element("panel", first.color, (left, top, left + WINDOW, top + WINDOW))


def jittered(rng: random.Random, window: Element, size: int) -> Element:
    """A region about a window as a model might name it: shifted and scaled a little, inside the screen."""
    x, y = (center + WINDOW * rng.triangular(-SHIFT, SHIFT) for center in window.center)
    half = WINDOW * rng.triangular(1 - SHIFT, 1 + SHIFT) / 2
    step = size / STEPS
    box = (max(0.0, x - half), max(0.0, y - half), min(float(size), x + half), min(float(size), y + half))
    return Element("region", window.color, tuple(step * round(value / step) for value in box))  # type: ignore[arg-type]


def verify(sample: Sample, groups: list[list[Element]], size: int) -> str:
    """What is false in a sample, "" when all of it holds: the target is the only one of its name, its group the only
    one of its color, and a call's region touches that group and no other."""
    elements = [element for group in groups for element in group]
    name = f"{sample.meta['color']} {sample.meta['kind']}"
    fitting = [element for element in elements if element.name == name]
    if len(fitting) != 1 or to_box(fitting[0], size) != sample.target:
        return f"{len(fitting)} elements are a {name}"
    if name not in (sample.thought or ""):
        return f"the thought does not name the {name}"
    for turn in sample.turns:
        touched = {element.color for element in elements if _overlap(turn.region, to_box(element, size))}
        if touched != {fitting[0].color}:
            return f"the region shows {', '.join(sorted(touched)) or 'nothing'}"
    return ""


def _ninth(box: Box) -> str:
    """Where a box of the shown crop lies, in words."""
    return place_of(Element("", "", box.xyxy), 1)


def _clear(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]


def _overlap(a: object, b: Box) -> bool:
    return isinstance(a, Box) and a.x1 < b.x2 and b.x1 < a.x2 and a.y1 < b.y2 and b.y1 < a.y2
