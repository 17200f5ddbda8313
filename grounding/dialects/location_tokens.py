"""Families with location tokens in their vocabulary: Florence-2, PaliGemma, Kosmos-2. Boxes only.

    florence2   the cup<loc_120><loc_340><loc_560><loc_780>                    1000 bins, x first, a bin is its center
    paligemma   <loc0340><loc0120><loc0780><loc0560> the cup ; <loc...        1024 steps, y first
    kosmos2     <phrase>the cup</phrase><object><patch_index_0100><patch_index_0350></object>    32 x 32 patches

They take task words, not instructions, so they are not asked for a thought; "not there" is the word "none", which is
Fovea's own convention. A label with angle brackets (in PaliGemma also with a semicolon) is left out.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from types import MappingProxyType

from grounding.answer import ImageSize, Status
from grounding.dialects import DIALECTS
from grounding.dialects.base import Dialect, Found, Reading, Space, forms
from grounding.dialects.markup import ANY_LABEL, writable_label
from grounding.parsing import MAX_PLACES, numbers_in
from grounding.targets import Box, Point

_LOC_RUN = re.compile(r"(?:<loc_?-?[0-9]++>\s*+)++")
_SPECIAL = re.compile(r"</?s>|<pad>|<eos>|<bos>")
_BEGUN = re.compile(r"<loc|<patch_index")
_WORDS = re.compile(r"[^<;]*+")
_LOC = re.compile(r"<loc_?(?P<number>-?[0-9]++)>")


class LocationDialect(Dialect):
    """What the three have in common."""

    kinds = frozenset({"box", "boxes", "absent"})
    labels = True
    thinks = False

    def _place_words(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        return self._render_one(region, sizes)

    def _fours(self, run: re.Match[str], sizes: Sequence[ImageSize], label: str | None) -> Iterator[Found]:
        """A run of location tokens as boxes of four; a remainder is malformed."""
        tokens = _LOC.finditer(run.string, run.start(), run.end())
        while four := list(islice(tokens, 4)):
            start, end = four[0].start(), four[-1].end()
            if len(four) == 4:
                yield self._found([float(token["number"]) for token in four], sizes, start, end, label=label)
            else:
                yield Found("box", Status.MALFORMED, start, end)

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        found = list(islice(self._boxes(text, original, sizes), MAX_PLACES + 1))
        begun = _BEGUN.search(text)
        if not found and begun:
            found.append(Found("box", Status.MALFORMED, begun.start(), begun.end()))
        return Reading(found)

    @abstractmethod
    def _boxes(self, text: str, original: str, sizes: Sequence[ImageSize]) -> Iterator[Found]: ...


class Florence2(LocationDialect):
    """Florence-2. Boxes that share a label may follow it in one run: an unlabeled box takes the label before it."""

    space = Space(1000, bins=True)
    question = "<CAPTION_TO_PHRASE_GROUNDING>{instruction}"
    questions = MappingProxyType({"boxes": "<OPEN_VOCABULARY_DETECTION>{instruction}"})
    _FOUR = r"(?:<loc_[0-9]++>){4}"
    patterns = forms(box=rf"{ANY_LABEL}{_FOUR}", boxes=rf"(?:{ANY_LABEL}(?:{_FOUR})++)++", absent="none")

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        return writable_label(region.label) + "".join(f"<loc_{number}>" for number in self.numbers(region, sizes))

    def _boxes(self, text: str, original: str, sizes: Sequence[ImageSize]) -> Iterator[Found]:
        end = 0
        label = None
        for run in _LOC_RUN.finditer(text):
            label = _SPECIAL.sub("", original[end : run.start()]).strip() or label
            yield from self._fours(run, sizes, label)
            end = run.end()


class PaliGemma(LocationDialect):
    """PaliGemma: y before x, steps of 1/1024 up to 1023, so that the right and bottom edge are 1/1024 inside."""

    space = Space(1024, top=1023)
    y_first = True
    question = "detect {instruction}"
    between = " ; "
    _FOUR = r"(?:<loc[0-9]{4}>){4}"
    patterns = forms(box=rf"{_FOUR}[^<>;]*+", boxes=rf"{_FOUR}[^<>;]*+(?:;\s*+{_FOUR}[^<>;]*+)*+", absent="none")

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        label = writable_label(region.label)
        tokens = "".join(f"<loc{number:0>4}>" for number in self.numbers(region, sizes))
        return f"{tokens} {label}" if label and ";" not in label else tokens

    def _boxes(self, text: str, original: str, sizes: Sequence[ImageSize]) -> Iterator[Found]:
        for run in _LOC_RUN.finditer(text):
            after = _WORDS.match(text, run.end())
            label = original[slice(*after.span())].strip() if after else ""
            yield from self._fours(run, sizes, label or None)


class Kosmos2(LocationDialect):
    """Kosmos-2: the patches of the upper left and lower right corner in a grid of 32 x 32.

    As its processor decodes them, corners are patch centers, or outer patch edges when both lie in one row or column.
    """

    side = 32
    space = Space(32, bins=True)
    question = "<grounding><phrase> {instruction}</phrase>"
    _TWO = r"<patch_index_[0-9]{4}><patch_index_[0-9]{4}>"
    _ONE = rf"(?:<phrase>{ANY_LABEL}</phrase>)?+<object>{_TWO}</object>"
    patterns = forms(box=_ONE, boxes=rf"(?:{_ONE})++", absent="none")
    _PHRASE = re.compile(r"<phrase>(?P<label>[^<]*+)</phrase>|(?P<patches>(?:<patch_index_[0-9]++>\s*+)++)")

    def tolerance(self, size: ImageSize) -> tuple[float, float]:
        return 1 / self.side, 1 / self.side

    def numbers(self, region: Box | Point, sizes: Sequence[ImageSize]) -> list[str]:
        """Row-major patch indices: one for a point, two for a box."""
        last = self.side - 1
        if isinstance(region, Point):
            column, row = (min(math.floor(value * self.side), last) for value in (region.x, region.y))
            return [f"{row * self.side + column:04d}"]
        left, top = (min(math.floor(value * self.side), last) for value in (region.x1, region.y1))
        right = max(math.ceil(region.x2 * self.side) - 1, left)
        bottom = max(math.ceil(region.y2 * self.side) - 1, top)
        return [f"{top * self.side + left:04d}", f"{bottom * self.side + right:04d}"]

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        label = writable_label(region.label)
        phrase = f"<phrase>{label}</phrase>" if label else ""
        tokens = "".join(f"<patch_index_{number}>" for number in self.numbers(region, sizes))
        return f"{phrase}<object>{tokens}</object>"

    def _boxes(self, text: str, original: str, sizes: Sequence[ImageSize]) -> Iterator[Found]:
        label = None
        for match in self._PHRASE.finditer(text):
            if match["patches"] is None:
                label = original[slice(*match.span("label"))].strip() or None
                continue
            indices = numbers_in(match["patches"])
            shared = "/delimiter_of_multi_objects" in text[match.end() : match.end() + 40]
            if len(indices) == 2:
                yield self._patches(indices, match.start(), match.end(), label, bool(sizes))
            else:
                yield Found("box", Status.MALFORMED, match.start(), match.end())
            label = label if shared else None

    def _patches(self, indices: Sequence[float], start: int, end: int, label: str | None, has_image: bool) -> Found:
        if not has_image or max(indices) >= self.side**2:  # infinity too, which many digits are read as
            return Found("box", Status.OUT_OF_RANGE, start, end)
        (top, left), (bottom, right) = (divmod(int(index), self.side) for index in indices)
        if left > right or top > bottom:
            return Found("box", Status.OUT_OF_RANGE, start, end)
        inset = 0.0 if left == right or top == bottom else 0.5
        x1, y1 = (left + inset) / self.side, (top + inset) / self.side
        x2, y2 = (right + 1 - inset) / self.side, (bottom + 1 - inset) / self.side
        return Found("box", Status.OK, start, end, Box(x1, y1, x2, y2, 0, label))


_DIALECTS: tuple[Dialect, ...] = (Florence2("florence2"), PaliGemma("paligemma"), Kosmos2("kosmos2"))
for _dialect in _DIALECTS:
    DIALECTS.register(_dialect.name)(_dialect)
