"""Rows that teach a model to say no: absent targets, and pairs of phrase and box that do not belong together.

`absent_targets` adds to an image a phrase of another image that shares no word of meaning with any phrase of this
one; the right answer is that the thing is not there. `corrupted_pairs` asks whether a box shows a phrase: a third of
them true, a third with another image's phrase, a third with a box moved away; the answer is yes or no, with the
right box.

Phrases are drawn from a pool of `--pool` rows that is spread evenly over the data set, by seed.
"""

from __future__ import annotations

import random
import re
import zlib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_prep import Item, Reject
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.dataset import dataset_source, derived, samples_of, transform
from grounding.geometry import iou
from grounding.sample import Sample
from grounding.targets import Absent, Box, TextBox
from grounding.wording import quoted, thing, write_place

TRIES = 50
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_EMPTY = """
the a an of on in at to from with by and or for is are it its that this one two left right top bottom middle center
upper lower side near next front back click open go button icon select press tap show find where what
"""
_EMPTY_WORDS = frozenset(_EMPTY.split())


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--share", type=float, default=1.0, help="make a row from this share of the rows (1)")
    parser.add_argument("--pool", type=int, default=10_000, help="phrases to draw from (10000)")


def words_of(text: str) -> frozenset[str]:
    """The words of a phrase that say what is meant, in lower case, without a plural's s."""
    return frozenset(word.rstrip("s") for word in _WORD.findall(text.lower()) if word not in _EMPTY_WORDS)


def _mask(text: str) -> int:
    """The words of a phrase as bits of a 512-bit number: words in common have bits in common."""
    mask = 0
    for word in words_of(text):
        mask |= 1 << (zlib.crc32(word.encode()) % 512)
    return mask


@dataclass
class Pool:
    """Phrases with the images they belong to, and which words each image knows."""

    phrases: list[tuple[str, str]] = field(default_factory=list)
    known: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, args: Namespace) -> Pool:
        """One pass over the data set: a sample of phrases (algorithm R) and 64 bytes an image."""
        pool, dice = cls(), random.Random(args.seed)
        for number, sample in enumerate(samples_of(args)):
            image = sample.images[0].path
            key = zlib.crc32(image.encode())  # two images under one key only make the choice stricter
            pool.known[key] = pool.known.get(key, 0) | _mask(sample.instruction)
            entry = (sample.words, image)
            if len(pool.phrases) < args.pool:
                pool.phrases.append(entry)
            elif (slot := dice.randrange(number + 1)) < args.pool:
                pool.phrases[slot] = entry
        return pool

    def foreign(self, sample: Sample, dice: random.Random) -> str:
        """A phrase that has nothing in common with the phrases of the sample's image; Rejected when none is found."""
        image = sample.images[0].path
        known = self.known[zlib.crc32(image.encode())]
        for _ in range(TRIES):
            phrase, origin = dice.choice(self.phrases)
            mask = _mask(phrase)
            if origin != image and mask and not mask & known:
                return phrase
        raise Rejected("no foreign phrase", f"{TRIES} phrases of the pool share words with the image")


@dataset_source(
    "absent_targets",
    reads="any data set",
    add_arguments=add_arguments,
    max_rejects=0.9,
)
def absent_targets(args: Namespace) -> Iterator[Item | Sample | Reject]:
    pool = Pool.read(args)

    def change(sample: Sample) -> Iterator[Sample]:
        dice = random.Random(f"{args.seed}:absent:{sample.id}")
        if dice.random() < args.share:
            phrase = pool.foreign(sample, dice)
            yield derived(sample, "absent", phrase, Absent(), source="absent_targets", task="absent")

    return transform(args, change)


@dataset_source(
    "corrupted_pairs",
    reads="a data set with one box a row",
    add_arguments=add_arguments,
    max_rejects=0.9,
)
def corrupted_pairs(args: Namespace) -> Iterator[Item | Sample | Reject]:
    pool = Pool.read(args)

    def change(sample: Sample) -> Iterator[Sample]:
        dice = random.Random(f"{args.seed}:pair:{sample.id}")
        box = sample.target
        if not isinstance(box, Box) or dice.random() >= args.share:
            return
        phrase, shown = sample.words, box
        corruption = dice.choice(("none", "phrase", "box"))
        if corruption == "phrase":
            phrase = pool.foreign(sample, dice)
        if corruption == "box":
            shown = moved(box, dice)
        evidence = () if corruption == "phrase" else (box,)
        asked = f"{does_it_fit(write_place(shown), phrase)} Answer yes or no."
        answer = TextBox("yes" if corruption == "none" else "no", evidence)
        yield derived(sample, "pair", asked, answer, source="corrupted_pairs", task="pair", corruption=corruption)

    return transform(args, change)


def does_it_fit(place: str, instruction: str) -> str:
    """The question whether a place is what an instruction asks for."""
    named = thing(instruction)
    if named is not None:
        return f"Does {place} show {named}?"
    if instruction.rstrip().endswith("?"):
        return f"Does {place} answer the question {quoted(instruction)}"
    return f"Does {place} fit the request {quoted(instruction)}?"


def moved(box: Box, dice: random.Random) -> Box:
    """A box of the same size somewhere else, with an IoU below 0.1; Rejected when there is no room."""
    width, height = box.x2 - box.x1, box.y2 - box.y1
    for _ in range(TRIES):
        x, y = dice.uniform(0, 1 - width), dice.uniform(0, 1 - height)
        other = Box(x, y, min(1.0, x + width), min(1.0, y + height), box.image)
        if iou(other.xyxy, box.xyxy) < 0.1:
            return other
    raise Rejected("no room", "the box fills the image")
