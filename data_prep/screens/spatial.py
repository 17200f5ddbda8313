"""Questions about where things of a screen lie to each other, answered in words that rest on their boxes.

    python -m data_prep spatial --out data/spatial

    direction   on which side of B is A: left, right, above, below (the axis on which they lie clearly apart)
    distance    which of B and C is nearer to A
    place       in which ninth of the screen A is

Made-up scenes teach such single steps, which carry over to longer ones that nobody was trained on (Sparkle,
arXiv:2410.16162). Sample i of a split is a function of (seed, split, i, size) alone; the combinations of color and
kind in `scenes.HELD_OUT` occur in no training scene.
"""

from __future__ import annotations

import math
import random
from argparse import ArgumentParser, Namespace

from PIL import Image

from data_prep import Split
from data_prep.screens.generated import HELD_OUT_SHARE, drawn_source, place_of, to_box
from data_prep.screens.scenes import Element, Scene, compose, count_named, draw
from grounding.sample import ImageRef, Sample
from grounding.targets import TextBox
from grounding.wording import write_place

DEFAULT_COUNTS: dict[Split, int] = {"train": 4000, "val": 200, "test": 600}
FORMS = ("direction", "distance", "place")
CLEAR = 0.1  # of the screen's side: by how much one distance must exceed another
Spatial = tuple[str, str, tuple[Element, ...]]
"""A question, its answer, and the elements it rests on."""


def ask_spatial(rng: random.Random, form: str, scene: Scene) -> Spatial | None:
    """A question of a form about elements whose names are their own; None where these are too few or too alike."""
    named = [element for element in scene.elements if count_named(scene, element.name) == 1]
    if len(named) < {"direction": 2, "distance": 3, "place": 1}[form]:
        return None
    a, *others = rng.sample(named, len(named))
    if form == "place":
        return f"Where on the screen is the {a.name}?", place_of(a, scene.size), (a,)
    if form == "direction":
        b = others[0]
        side = direction(a, b, scene.size)
        text = f"Is the {a.name} left of, right of, above or below the {b.name}?"
        return None if side is None else (text, side, (a, b))
    b, c = others[:2]
    to_b, to_c = math.dist(a.center, b.center), math.dist(a.center, c.center)
    if abs(to_b - to_c) < CLEAR * scene.size:
        return None
    near = b if to_b < to_c else c
    text = f"Which is nearer to the {a.name}: the {b.name} or the {c.name}?"
    return text, f"the {near.name}", (a, near)


def direction(a: Element, b: Element, size: int) -> str | None:
    """On which side of b the center of a lies; None where the two axes do not differ clearly."""
    x, y = (p - q for p, q in zip(a.center, b.center, strict=True))
    if abs(abs(x) - abs(y)) < CLEAR * size:
        return None
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "above" if y < 0 else "below"


def example(index: int, *, seed: int, split: str, size: int = 128) -> tuple[Sample, Image.Image]:
    """Sample `index` of a split and its screen."""
    rng = random.Random(f"spatial/{seed}/{split}/{index}/{size}")
    form = rng.choice(FORMS)
    asked = None
    while asked is None:
        scene, _ = compose(rng, 3, size, HELD_OUT_SHARE[split])
        asked = ask_spatial(rng, form, scene)
    text, answer, rests = asked
    id = f"spatial-{split}-{seed}-{index:06d}"
    boxes = tuple(to_box(element, size) for element in rests)
    found = " ".join(f"The {e.name} is at {write_place(box)}." for e, box in zip(rests, boxes, strict=True))
    sample = Sample(
        id=id,
        images=(ImageRef(f"images/{id}.png", size, size),),
        instruction=text,
        target=TextBox(answer, boxes),
        source="spatial",
        license="Apache-2.0",
        thought=f"{found} So the answer is {answer}.",
        meta={"form": form},
    )
    return sample, draw(scene)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=128, help="side of a screen in pixels (128)")


def _example(args: Namespace, split: Split, index: int) -> tuple[Sample, Image.Image]:
    return example(index, seed=args.seed, split=split, size=args.size)


drawn_source("spatial", DEFAULT_COUNTS, add_arguments, _example, noun="scenes")
