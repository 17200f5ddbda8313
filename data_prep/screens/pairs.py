"""Questions about two or three screens, whose answer lies in one of them: the data of `multi_image_rl`.

    python -m data_prep screen_pairs --out data/pairs

    same      the first shows one thing; find it in the second, where it is larger or smaller and elsewhere
    kind      find there what is of the same kind, in another color
    missing   two screens alike, but the second lacks one thing: find it in the first
    changed   two screens alike, but one thing has another color in the second: find it there
    odd       three screens alike, but one has a thing that the others lack: find it

The target names its image. Every question is checked against the drawn scenes: exactly one element is right. Sample i
of a split is a function of (seed, split, i, size) alone, and splits share no random stream; combinations of color and
kind in `scenes.HELD_OUT` are the target of no training sample.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from data_prep import Split
from data_prep.screens.generated import HELD_OUT_SHARE, drawn_source, place_of, to_box
from data_prep.screens.scenes import COLORS, HELD_OUT, Element, Scene, compose, draw, place
from grounding.sample import ImageRef, Sample

DEFAULT_COUNTS: dict[Split, int] = {"train": 4000, "val": 200, "test": 600}
ASKS = {
    "same": (
        "Find the thing of the first image in the second image.",
        "Where in the second image is the thing that the first image shows?",
        "Find the thing of <image> in <image>.",
    ),
    "kind": (
        "Find in the second image what has the same shape as the thing of the first image.",
        "Which thing of the second image is of the same kind as the one in the first image?",
    ),
    "missing": (
        "One thing of the first image is missing in the second image. Find it in the first image.",
        "What of <image> is not in <image>?",
    ),
    "changed": (
        "One thing has another color in the second image than in the first. Find it in the second image.",
        "Which thing of the second image has changed its color?",
    ),
    "odd": ("One of the images has a thing that the others lack. Find it.",),
}
Scenes = tuple[list[Scene], Element, int]
"""Screens, the right element, and the index of its screen."""


def _same(rng: random.Random, scene: Scene, target: Element) -> Scenes | None:
    shown = place(rng, [(target.color, target.kind)], 1, scene.size)
    return None if shown is None else ([Scene(scene.size, scene.ground, tuple(shown)), scene], target, 1)


def _kind(rng: random.Random, scene: Scene, target: Element) -> Scenes | None:
    colors = [color for color in COLORS if color != target.color and (color, target.kind) not in HELD_OUT]
    shown = place(rng, [(rng.choice(colors), target.kind)], 1, scene.size)
    return None if shown is None else ([Scene(scene.size, scene.ground, tuple(shown)), scene], target, 1)


def _missing(rng: random.Random, scene: Scene, target: Element) -> Scenes | None:
    return [scene, without(scene, target)], target, 0


def _changed(rng: random.Random, scene: Scene, target: Element) -> Scenes | None:
    taken = {(element.color, element.kind) for element in scene.elements} | HELD_OUT
    colors = [color for color in COLORS if (color, target.kind) not in taken]
    if not colors:
        return None
    before = replace(target, color=rng.choice(colors))
    first = replace(scene, elements=tuple(before if e is target else e for e in scene.elements))
    return [first, scene], target, 1


def _odd(rng: random.Random, scene: Scene, target: Element) -> Scenes | None:
    images = [without(scene, target)] * 3
    index = rng.randrange(3)
    return [scene if n == index else one for n, one in enumerate(images)], target, index


TASKS: dict[str, Callable[[random.Random, Scene, Element], Scenes | None]] = {
    "same": _same,
    "kind": _kind,
    "missing": _missing,
    "changed": _changed,
    "odd": _odd,
}


def without(scene: Scene, gone: Element) -> Scene:
    """The scene with one element less."""
    return replace(scene, elements=tuple(element for element in scene.elements if element is not gone))


def right(task: str, scenes: Sequence[Scene]) -> list[tuple[int, Element]]:
    """Every (image, element) that answers a task's question, worked out from what is drawn alone."""
    first, second = scenes[0].elements, scenes[1].elements
    if task == "same":
        return [(1, e) for e in second if e.name == first[0].name]
    if task == "kind":
        return [(1, e) for e in second if e.kind == first[0].kind]
    if task == "missing":
        return [(0, e) for e in first if e not in second]
    if task == "changed":
        others = {(e.kind, e.box): e.color for e in first}
        return [(1, e) for e in second if others.get((e.kind, e.box)) != e.color]
    return [
        (n, e)
        for n, scene in enumerate(scenes)
        for e in scene.elements
        if not any(e in other.elements for m, other in enumerate(scenes) if m != n)
    ]


def example(index: int, *, seed: int, split: str, size: int = 96) -> tuple[Sample, list[Image.Image]]:
    """Sample `index` of a split and its images."""
    rng = random.Random(f"pairs/{seed}/{split}/{index}/{size}")
    task = rng.choice(tuple(TASKS))
    while True:
        scene, query = compose(rng, rng.choice((2, 3)), size, HELD_OUT_SHARE[split])
        made = TASKS[task](rng, scene, query.target) if query.target is not None else None
        if made is not None and right(task, made[0]) == [(made[2], made[1])]:
            break
    scenes, target, image = made
    box = replace(to_box(target, size), image=image)
    id = f"pairs-{split}-{seed}-{index:06d}"
    ordinal = ("first", "second", "third")[image]
    where = f"It is at the {place_of(target, size)} of the {ordinal} image."
    sample = Sample(
        id=id,
        images=tuple(ImageRef(f"images/{id}-{n}.png", size, size) for n in range(1, len(scenes) + 1)),
        instruction=rng.choice(ASKS[task]),
        target=box,
        source="screen_pairs",
        license="Apache-2.0",
        thought=f"I look for the {target.name}. {where}",
        meta={
            "task": task,
            "answer_image": image + 1,
            "held_out": (target.color, target.kind) in HELD_OUT,
        },
    )
    return sample, [draw(scene) for scene in scenes]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=96, help="side of a screen in pixels (96)")


def _example(args: Namespace, split: Split, index: int) -> tuple[Sample, list[Image.Image]]:
    return example(index, seed=args.seed, split=split, size=args.size)


drawn_source("screen_pairs", DEFAULT_COUNTS, add_arguments, _example)
