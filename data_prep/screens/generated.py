"""Generated screens with exact boxes: the data of the quickstart and of the embedded model.

    python -m data_prep screens --out data/screens --difficulty 3

Sample i of a split is a function of (seed, split, i, difficulty, size) alone, so the same arguments give the same
bytes, and splits never share a random stream. The combinations of color and kind in `scenes.HELD_OUT` appear on no
training screen; half of the test targets are among them.

Every sample carries a grounded thought that was checked against the scene: what is looked for, where it is. With
`--thought steps` it goes on from there to the target's middle and to its box, so that the answer repeats what the
thought has found.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from PIL import Image

from data_prep import Item, Split, source
from data_prep.pipeline.images import png
from data_prep.screens.appearance import ninth
from data_prep.screens.scenes import DIFFICULTIES, HELD_OUT, Element, Query, Scene, compose, count_named, draw, holds
from grounding.geometry import point_in_box
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Point
from grounding.wording import read_places, rewrite_places, write_place

THOUGHTS = ("place", "steps")
ASKS = ("Click {}.", "Find {}.", "Where is {}?", "Point at {}.", "Locate {}.")
# Shares of a split's targets that the held-out combinations make up; in training they do not occur at all.
HELD_OUT_SHARE = {"pretrain": 0.0, "train": 0.0, "val": 0.0, "test": 0.5}
DEFAULT_COUNTS: dict[Split, int] = {"train": 2000, "val": 200, "test": 600}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--difficulty", type=int, choices=DIFFICULTIES, default=3, help="1 to 5 (3)")
    parser.add_argument("--size", type=int, default=128, help="side of a screen in pixels (128)")
    parser.add_argument(
        "--thought",
        choices=THOUGHTS,
        default="place",
        help="how far a thought goes: to the place in words (place), or on to the middle and the box (steps)",
    )


def drawn_source(
    name: str,
    counts: Mapping[Split, int],
    add_arguments: Callable[[ArgumentParser], None] | None,
    draw_one: Callable[[Namespace, Split, int], tuple[Sample, Image.Image | Sequence[Image.Image]]],
    noun: str = "screens",
) -> None:
    """Register a source of drawn screens, train first; `counts` are the defaults of `--train-screens` and so on.

    Args:
        draw_one: makes a sample and its image, or the images of a sample that has several.
        noun: what is drawn, for the flags and the words about them.
    """

    def arguments(parser: ArgumentParser) -> None:
        for split, count in counts.items():
            text = f"{noun} of split {split} ({count})"
            parser.add_argument(f"--{split}-{noun}", type=int, default=count, help=text)
        if add_arguments is not None:
            add_arguments(parser)

    def convert(args: Namespace) -> Iterator[Item]:
        slots = ((split, index) for split in counts for index in range(getattr(args, f"{split}_{noun}")))
        for split, index in islice(slots, args.start, None):
            sample, drawn = draw_one(args, split, index)
            images = [drawn] if isinstance(drawn, Image.Image) else drawn
            files = {ref.path: png(image) for ref, image in zip(sample.images, images, strict=True)}
            yield Item(sample, files, split)

    about = {"reads": f"nothing: {noun} are drawn", "license": "Apache-2.0", "needs_root": False, "seeks": True}
    source(name, add_arguments=arguments, **about)(convert)


def _example(args: Namespace, split: Split, index: int) -> tuple[Sample, Image.Image]:
    how = {"difficulty": args.difficulty, "size": args.size, "thought": args.thought}
    return example(index, seed=args.seed, split=split, **how)


drawn_source("screens", DEFAULT_COUNTS, add_arguments, _example)


def example(
    index: int, *, seed: int, split: str, difficulty: int, size: int = 96, thought: str = "place"
) -> tuple[Sample, Image.Image]:
    """Sample `index` of a split and its image; `thought`, of THOUGHTS, changes nothing but the thought."""
    if split not in HELD_OUT_SHARE:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(HELD_OUT_SHARE)}")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty {difficulty} is not one of {DIFFICULTIES}")
    rng = random.Random(f"screens/{seed}/{split}/{index}/{difficulty}/{size}")
    scene, query = compose(rng, difficulty, size, HELD_OUT_SHARE[split])
    id = f"screens-{split}-{seed}-d{difficulty}-{index:06d}"
    return describe(scene, query, rng, id, difficulty=difficulty, thought=thought), draw(scene)


def describe(
    scene: Scene, query: Query, rng: random.Random, id: str, *, difficulty: int, thought: str = "place"
) -> Sample:
    """The sample of a question: instruction, target box and a thought that `verify` accepts."""
    target = Absent() if query.target is None else to_box(query.target, scene.size)
    sample = Sample(
        id=id,
        images=(ImageRef(f"images/{id}.png", scene.size, scene.size),),
        instruction=rng.choice(ASKS).format(query.text),
        target=target,
        source="screens",
        license="Apache-2.0",
        thought=think(scene, query, thought),
        meta={
            "difficulty": difficulty,
            "elements": len(scene.elements),
            "color": query.target.color if query.target else None,
            "kind": query.target.kind if query.target else None,
            "held_out": query.target is not None and (query.target.color, query.target.kind) in HELD_OUT,
            "relation": query.relation,
        },
    )
    problem = verify(sample.thought or "", scene, query)
    if problem:
        raise AssertionError(f"{id}: thought {sample.thought!r} is wrong: {problem}")
    return sample


def to_box(element: Element, size: int) -> Box:
    """An element's box in the canonical frame."""
    x1, y1, x2, y2 = (value / size for value in element.box)
    return Box(x1, y1, x2, y2)


def place_of(element: Element, size: int) -> str:
    """Where an element's center lies, in words: the screen's ninths."""
    return ninth(*(3 * value / size for value in element.center))


def think(scene: Scene, query: Query, form: str = "place") -> str:
    """The grounded thought, its form of THOUGHTS: what is looked for, where it is; the anchor of a relation first.

    Coordinates are canonical, written [x, y] with three decimals; dialects turn them into their own numbers.
    """
    if query.target is None:
        return f"I look for {query.text}. It is not there."
    found = f"It is at the {place_of(query.target, scene.size)}."
    if form == "steps":
        box = to_box(query.target, scene.size)
        found += f" It is at {write_place(box.center)}. It is at {write_place(box)}."
    if query.anchor is None:
        return f"I look for {query.text}. {found}"
    anchor = write_place(to_box(query.anchor, scene.size).center)
    return f"The {query.anchor.name} is at {anchor}. I look for the {query.target.name} {query.relation} it. {found}"


def verify(thought: str, scene: Scene, query: Query) -> str:
    """What is false in a thought about a scene, "" when all of it holds.

    Checked against the drawn elements, not against how the thought was made: the target it names is on the screen
    (or is not), the place it names is the target's, and so is a box; coordinates of a middle lie in their element.
    """
    if query.target is None:
        name = query.text.removeprefix("the ")
        if "not there" not in thought:
            return "does not say that the target is absent"
        return f"{name} is on the screen" if count_named(scene, name) else ""
    if query.target.name not in thought:
        return f"does not name the {query.target.name}"
    before, found, after = thought.partition(f"It is at the {place_of(query.target, scene.size)}.")
    if not found:
        return "names another place"
    target = to_box(query.target, scene.size)
    if rewrite_places(after, lambda _: "").replace(" It is at .", ""):
        return "says more than where the target is"
    for place in read_places(after):
        near = _close(place, target) if isinstance(place, Box) else point_in_box((place.x, place.y), target.xyxy)
        if not near:
            return f"finds the target at {write_place(place)}"
    fitting = [e for e in scene.elements if e.name == query.target.name]
    if query.anchor is not None and query.relation is not None:
        anchor = to_box(query.anchor, scene.size)
        places = [place for place in read_places(before) if isinstance(place, Point)]
        if not places or not all(point_in_box((place.x, place.y), anchor.xyxy) for place in places):
            return "the anchor is elsewhere"
        fitting = [e for e in fitting if holds(e, query.relation, query.anchor)]
    return "" if fitting == [query.target] else f"fits {len(fitting)} elements"


def _close(found: Box, target: Box) -> bool:
    return all(abs(a - b) < 0.001 for a, b in zip(found.xyxy, target.xyxy, strict=True))
