"""Instructions made from places: `pseudo_queries` for detections, `query_inference` for the reverse task.

Pseudo queries are referring expressions from detections alone (Pseudo-Q, arXiv 2203.08481). The source reads a data
set of detections whose boxes carry their category as label (`coco`, `objects365`), the rows of an image following
each other. From nouns, positions, sizes and neighbors it writes queries that fit exactly one box of the image, which
is checked, not assumed:

    the dog                          the only one
    the dog on the left              of two or more: its center is clearly the leftmost
    the second dog from the left     of three or more, in a row
    the largest dog                  clearly
    the dog above the bicycle        the only dog above the only bicycle
    the black dog                    clearly black, and no other dog has any black

Colors are read from the picture (`--no-colors` leaves it closed). People are not called by the color of what
they wear.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from data_prep import Item, Reject
from data_prep.pipeline.dataset import carry, dataset_source, derived, read_dataset, transform
from data_prep.screens.appearance import TRACE, Shares, clear_color, color_shares
from grounding.errors import BrokenRow
from grounding.io import open_image
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, TextBox
from grounding.wording import write_place

CLEAR = 0.05  # of the image's side: how far two centers must be apart to be told by position
CLEARLY_LARGER = 1.3
ORDINALS = ("second", "third", "fourth", "fifth")
PEOPLE = frozenset({"person", "people", "man", "woman", "boy", "girl", "child", "human face"})


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--per-image", type=int, default=6, help="at most so many queries of an image (6)")
    parser.add_argument("--min-side", type=float, default=0.02, help="ignore objects with a shorter side (0.02)")
    parser.add_argument("--no-colors", action="store_true", help="do not open the pictures")


@dataset_source(
    "pseudo_queries",
    reads="a data set of detections (coco, objects365)",
    license="that of the detections",
    home="https://arxiv.org/abs/2203.08481",
    add_arguments=add_arguments,
)
def pseudo_queries(args: Namespace) -> Iterator[Item | Sample | Reject]:
    for (split, path), rows in groupby(
        read_dataset(args), lambda row: (row[0], row[1].images[0].path if isinstance(row[1], Sample) else "")
    ):
        if not path:
            yield from (row for _, row in rows if isinstance(row, Reject))
            continue
        samples = [row for _, row in rows if isinstance(row, Sample)]
        boxes = [
            region
            for sample in samples
            for region in regions_of(sample.target)
            if isinstance(region, Box) and region.label and _large_enough(region, args.min_side)
        ]
        colors: dict[Box, Shares] = {}
        if not args.no_colors and args.images != "none":
            try:
                picture = open_image(args.root, samples[0].images[0])
            except BrokenRow as error:
                yield Reject(path, "bad image", error.reason)
                continue
            colors = {box: color_shares(picture, box, boxes) for box in boxes if box.label not in PEOPLE}
        found = queries(boxes, colors)
        dice = random.Random(f"{args.seed}:{path}")
        dice.shuffle(found)
        for number, (query, box) in enumerate(found[: args.per_image], 1):
            sample = replace(
                samples[0],
                id=f"pseudo-{path}-{number}",
                instruction=query,
                target=box,
                source="pseudo_queries",
                thought=None,  # what leads to the detection leads not to this box
                turns=(),
                meta={"category": box.label},
            )
            yield carry(sample, args.root, split)


def _large_enough(box: Box, side: float) -> bool:
    return min(box.x2 - box.x1, box.y2 - box.y1) >= side


def queries(boxes: Sequence[Box], colors: Mapping[Box, Shares] | None = None) -> list[tuple[str, Box]]:
    """(query, the one box it fits) for labeled boxes of one image.

    Args:
        colors: of the boxes whose colors are known, how much of them has which.
    """
    groups: dict[str, list[Box]] = {}
    for box in boxes:
        groups.setdefault(box.label or "", []).append(box)
    found: list[tuple[str, Box]] = []
    for noun, members in groups.items():
        found += _by_color(noun, members, colors or {})
        if len(members) == 1:
            found.append((f"the {noun}", members[0]))
            continue
        found += _by_position(noun, members, lambda box: box.center.x, ("left", "right"))
        found += _by_position(noun, members, lambda box: box.center.y, ("top", "bottom"))
        found += _by_size(noun, members)
        for other, anchors in groups.items():
            if other != noun and len(anchors) == 1:
                found += _by_neighbor(noun, members, other, anchors[0])
    return found


def _by_position(
    noun: str, boxes: list[Box], along: Callable[[Box], float], sides: tuple[str, str]
) -> list[tuple[str, Box]]:
    order = sorted(boxes, key=along)
    if any(along(b) - along(a) < CLEAR for a, b in pairwise(order)):
        return []
    place = "on the {}" if sides[0] == "left" else "at the {}"
    found = [(f"the {noun} {place.format(sides[0])}", order[0]), (f"the {noun} {place.format(sides[1])}", order[-1])]
    inner = order[1:-1]
    if len(inner) <= len(ORDINALS):
        found += [(f"the {ORDINALS[i]} {noun} from the {sides[0]}", box) for i, box in enumerate(inner)]
    return found


def _by_color(noun: str, boxes: list[Box], colors: Mapping[Box, Shares]) -> list[tuple[str, Box]]:
    """Queries by color, where it is known of every box and only one has more than a trace of it."""
    shares = [colors.get(box) for box in boxes]
    if not all(shares):
        return []
    found = []
    for box, own in zip(boxes, shares, strict=True):
        color = clear_color(own or {})
        if color and sum((other or {}).get(color, 0.0) > TRACE for other in shares) == 1:
            found.append((f"the {color} {noun}", box))
    return found


def _by_size(noun: str, boxes: list[Box]) -> list[tuple[str, Box]]:
    order = sorted(boxes, key=lambda box: box.area)
    found = []
    if order[-1].area >= CLEARLY_LARGER * order[-2].area:
        found.append((f"the largest {noun}", order[-1]))
    if order[1].area >= CLEARLY_LARGER * order[0].area:
        found.append((f"the smallest {noun}", order[0]))
    return found


def _by_neighbor(noun: str, boxes: list[Box], other: str, anchor: Box) -> list[tuple[str, Box]]:
    """Queries that relate to the only `other`; a box fits when it lies wholly on that side."""
    relations: dict[str, Callable[[Box], bool]] = {
        "to the left of": lambda box: box.x2 <= anchor.x1,
        "to the right of": lambda box: box.x1 >= anchor.x2,
        "above": lambda box: box.y2 <= anchor.y1,
        "below": lambda box: box.y1 >= anchor.y2,
    }
    center = anchor.center
    loose: dict[str, Callable[[Box], bool]] = {  # nobody else may even look as if it did
        "to the left of": lambda box: box.center.x < center.x,
        "to the right of": lambda box: box.center.x > center.x,
        "above": lambda box: box.center.y < center.y,
        "below": lambda box: box.center.y > center.y,
    }
    found = []
    for words, fits in relations.items():
        strict = [box for box in boxes if fits(box)]
        if len(strict) == 1 and sum(map(loose[words], boxes)) == 1:
            found.append((f"the {noun} {words} the {other}", strict[0]))
    return found


QUESTIONS = (
    "What would a user ask for to be led to {place}?",
    "Which instruction does {place} answer?",
    "Say what is at {place}, as a user who looks for it would.",
)


@dataset_source(
    "query_inference",
    reads="a data set with one box or point a row",
    home="https://arxiv.org/abs/2503.00401",
)
def query_inference(args: Namespace) -> Iterator[Item | Sample | Reject]:
    """From a place to the instruction it answers, the pivot task of GUIPivot (arXiv 2503.00401).

    Every row with one box or point becomes its reverse: the place stands in the instruction, in the convention of
    `grounding.wording`, and the answer is what the user would have said, with the place as evidence.
    """

    def reverse(sample: Sample) -> Iterator[Sample]:
        target = sample.target
        if isinstance(target, (Box, Point)):
            question = random.Random(f"{args.seed}:{sample.id}").choice(QUESTIONS)
            asked = question.format(place=write_place(target))
            answer = TextBox(sample.words, (target,) if isinstance(target, Box) else ())
            yield derived(sample, "query", asked, answer, source="query_inference", task="query_inference")

    return transform(args, reverse)
