"""What all dialects share: canonical regions to numbers and back, and findings to one `Answer`."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from grounding.answer import Answer, ImageSize, OutOfBounds, Status
from grounding.completion import THINK, Grammar, matches_grammar, split_completion
from grounding.errors import UsageError
from grounding.parsing import MAX_PLACES, NUMBER, normalize, numbers_in, without_typed
from grounding.targets import Absent, Box, Boxes, Point, Points, Span, Target, TextBox, Unlabeled, kind_of
from grounding.wording import NUMBERED, TIMED, quoted, retimed, rewrite_places, split_head

_FAR = 1000.0  # image sizes; numbers further out are not a place
ONE = frozenset({"box", "point", "span"})  # kinds of which exactly one is asked for

_SEEN = r"(?:present|visible|there|here|shown|found|seen|displayed|depicted|detected|located|identified)"
_IMAGE = r"(?:in|on) (?:the|this|that) (?:given |provided )?(?:image|picture|photo|screen|screenshot|scene|page)"
_DECLINES = re.compile(
    r"\b(?:"
    rf"(?:is|are|was|were)(?: not|n't) (?:{_SEEN}|in the|on the|any\b)"
    r"|(?:do|does|did)(?: not|n't) (?:exist|appear|contain|show|see|find)"
    r"|(?:can(?:not|'t| not)|could not|couldn't|(?:am|is|was|were|are) unable to|unable to) "
    rf"(?:be {_SEEN}|find|locate|see|identify|detect|spot)"
    rf"|no (?:[\w'-]++ ){{1,8}}(?:(?:is|are|was|were|can be|could be) (?:{_SEEN}|{_IMAGE})|{_IMAGE})"
    r"|not (?:found|visible|present)|no such|no matching|there (?:is|are) (?:no|none)|infeasible"
    r")\b"
    r"|(?:没有|没)(?:找到|发现|看到|看见|出现|检测到|任何|符合|这|该|此)|不存在|(?:找|看|见)不(?:到|见)|不可见"
    r"|未(?:能)?(?:找到|发现|看到|出现|检测到)|(?:无法|不能)(?:找到|看到|定位|识别|检测)|(?:中|里|上)(?:并)?没有",
    re.IGNORECASE,
)
_DECLINES_ALONE = re.compile(r"\W*+(none|null|nothing|absent|no target|n/?a|无|没有)\W*+", re.IGNORECASE)
_THOUGHT_PLACE = re.compile(
    rf"(?:\bimage (?P<image>[0-9]{{1,4}}) )?+(?P<place>[\[(]\s*+{NUMBER}(?:\s*+,\s*+{NUMBER})++\s*+[\])])"
)
_PLACEHOLDER = re.compile(r"\{(instruction|quoted)\}")
_THINK_SENTENCE = {
    "bare": "",
    "think": " First think between <think> and </think>, then give only the answer.",
    "think_answer": " Think between <think> and </think>, then give the answer between <answer> and </answer>.",
}


@dataclass(frozen=True, slots=True)
class Space:
    """Canonical [0, 1] to the numbers of a model family and back.

    Attributes:
        scale: what 1.0 is written as; None for pixels of the image the model saw.
        decimals: digits after the point.
        bins: the numbers name `scale` equal cells, counted from 0; a cell stands for its center.
        top: the largest number there is, where that is not `scale` (or `scale` - 1 with bins).
    """

    scale: int | None
    decimals: int = 0
    bins: bool = False
    top: int | None = None

    def encode(self, value: float, extent: int) -> str:
        """A canonical coordinate as the family writes it. extent: width (for x) or height (for y) the model saw."""
        scale = self.scale or extent
        if self.bins:
            return str(min(math.floor(value * scale), scale - 1))
        number = round(value * scale, self.decimals)
        if self.top is not None:
            number = min(number, self.top)
        return f"{number:.{self.decimals}f}"

    def decode(self, number: float, extent: int) -> float:
        """A number of the family as a canonical coordinate; outside [0, 1] when the number is out of range."""
        scale = self.scale or extent
        if self.bins:
            return (number + 0.5) / scale if 0 <= number <= scale - 1 else math.inf
        if self.top is not None and number > self.top:
            return math.inf
        return number / scale

    def tolerance(self, extent: int) -> float:
        """The largest error of decode(encode(v)), in canonical units."""
        scale = self.scale or extent
        half_step = 0.5 * 10.0**-self.decimals / scale
        return max(half_step, 1 - (scale if self.top is None else self.top) / scale)


class Found(NamedTuple):
    """One thing in an answer text that names a place; a tuple, because every completion makes some.

    Attributes:
        kind: "box", "point", "span", or "absent" for a refusal in the dialect's form.
        status: OK, MALFORMED or OUT_OF_RANGE; with the last two there is no region.
        start, end: where it stands in the answer text.
        out_of_bounds: with OUT_OF_RANGE, the numbers all the same.
    """

    kind: str
    status: Status
    start: int
    end: int
    region: Box | Point | Span | None = None
    out_of_bounds: OutOfBounds | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything a dialect finds in an answer text, in the order of the text; `text` is the answer in words.

    contradicts: the answer is given in words more than once, in different ones.
    """

    found: Sequence[Found] = ()
    text: str | None = None
    text_range: tuple[int, int] | None = None
    contradicts: bool = False


@dataclass(frozen=True, slots=True)
class _Completion:
    """A completion taken apart, and what was asked."""

    text: str
    answer: str
    offset: int
    thought: str | None
    grammar: Grammar
    answer_kind: str | None

    def range(self, start: int, end: int) -> tuple[int, int]:
        """A range of the answer text as one of the completion."""
        return self.offset + start, self.offset + end


def forms(**patterns: str) -> Mapping[str, re.Pattern[str]]:
    """`Dialect.patterns` from the source of one regular expression per kind."""
    return MappingProxyType({kind: re.compile(pattern) for kind, pattern in patterns.items()})


class Dialect(ABC):
    """The output format of one model family.

    Attributes:
        name: its name in the registry.
        space: the number line of its coordinates.
        kinds: the kinds of target it can express.
        y_first: coordinates are written y before x.
        multi_image: it can say which of several images a region lies in.
        labels: it writes the label of a region.
        thinks: its models take instructions, so that they can be asked for a thought; otherwise only "bare" is.
        says_grammar: its prompts say in which tags to answer.
        question, questions: what asks for a target, and the same for the kinds that are asked for in other words;
            `{instruction}` stands for what to find, `{quoted}` for that in quotes.
        numbering: how the family's published examples number several images, `{number}` from 1.
        which_image: tells, where there are several images, how to say which one a region lies in.
        timing: what stands for a frame of a video, `{time}` in seconds and `{number}` from 1.
        between: what stands between several regions.
        refusal: what says that the target is not there.
        patterns: per kind, the exact form of the dialect's own answers (`Answer.strict`).
    """

    space: Space
    kinds: frozenset[str]
    y_first: bool = False
    multi_image: bool = False
    labels: bool = False
    thinks: bool = True
    says_grammar: bool = True
    question: str = "{instruction}"
    questions: Mapping[str, str] = MappingProxyType({})
    numbering: str = NUMBERED
    timing: str = TIMED
    which_image: str = ""
    between: str = ""
    refusal: str = "none"
    patterns: Mapping[str, re.Pattern[str]]

    def __init__(self, name: str | None = None):
        self.name = name or type(self).__name__

    # Writing

    def render(self, target: Target, sizes: Sequence[ImageSize]) -> str:
        """The family's words for `target`, without a thought.

        Args:
            target: canonical.
            sizes: of all images of the sample, in order.

        Raises:
            UsageError: the family has no words for such a target, or there is none.
        """
        if isinstance(target, Unlabeled):
            raise UsageError("a sample without a label (`data_prep benchmark`) has no right answer to be written")
        kind = kind_of(target)
        if kind not in self.kinds:
            raise UsageError(f"dialect {self.name!r} cannot express a {kind}; it has {', '.join(sorted(self.kinds))}")
        if isinstance(target, Absent):
            return self.refusal
        if isinstance(target, Span):
            return self._render_span(target)
        if isinstance(target, TextBox):
            self._check_images(target.boxes, sizes)
            return self._render_text_box(target, sizes)
        regions = target.items if isinstance(target, (Boxes, Points)) else (target,)
        self._check_images(regions, sizes)
        if isinstance(target, (Boxes, Points)):
            return self._render_several(target.items, sizes)
        return self._render_one(target, sizes)  # type: ignore[arg-type]  # a polygon is in no dialect's `kinds`

    def render_thought(self, thought: str, sizes: Sequence[ImageSize]) -> str:
        """`thought` with its canonical places (`grounding.wording`) written as [n, n] in the dialect's numbers.

        Raises:
            UsageError: the family has no thoughts, or a place lies in an image beyond `sizes`.
        """
        if not self.thinks:
            raise UsageError(f"dialect {self.name!r} has no thoughts: use the grammar 'bare'")
        return self.render_places(thought, sizes)

    def render_places(self, text: str, sizes: Sequence[ImageSize]) -> str:
        """`text`, a thought or an instruction, with its canonical places in the dialect's words.

        Raises:
            UsageError: a place lies in an image beyond `sizes`.
        """

        def write(region: Box | Point) -> str:
            if region.image >= len(sizes):
                raise UsageError(f"image {region.image + 1} is named, but {len(sizes)} image sizes are given")
            return self._place_words(region, sizes)

        return rewrite_places(text, write)

    def _place_words(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        return f"[{', '.join(self.numbers(region, sizes))}]"

    def numbers(self, region: Box | Point, sizes: Sequence[ImageSize]) -> list[str]:
        """The coordinates of a region, in the dialect's order and numbers."""
        size = sizes[region.image]
        coords = region.xyxy if isinstance(region, Box) else (region.x, region.y)
        extents = (size.input_width, size.input_height) * 2
        written = [self.space.encode(value, extent) for value, extent in zip(coords, extents, strict=False)]
        if self.y_first:
            written[::2], written[1::2] = written[1::2], written[::2]
        return written

    def tolerance(self, size: ImageSize) -> tuple[float, float]:
        """How far parse(render(x)) may be from x, as (in x, in y) and canonical."""
        return self.space.tolerance(size.input_width), self.space.tolerance(size.input_height)

    @abstractmethod
    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str: ...

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        return self.between.join(self._render_one(region, sizes) for region in regions)

    def _render_text_box(self, target: TextBox, sizes: Sequence[ImageSize]) -> str:
        raise NotImplementedError(f"{self.name} lists text_box in `kinds`")

    def _render_span(self, span: Span) -> str:
        raise NotImplementedError(f"{self.name} lists span in `kinds`")

    def _check_images(self, regions: Sequence[object], sizes: Sequence[ImageSize]) -> None:
        for region in regions:
            image = getattr(region, "image", 0)
            if image >= len(sizes):
                raise UsageError(f"a region lies in image {image}, but {len(sizes)} image sizes are given")
            if image and not self.multi_image:
                raise UsageError(f"dialect {self.name!r} has no words for the second of several images")

    # Prompting

    def prompt(
        self,
        instruction: str,
        answer_kind: str,
        grammar: Grammar = "think",
        sizes: Sequence[ImageSize] | None = None,
        *,
        template: str | None = None,
    ) -> str:
        """The user's text that asks for `answer_kind` as the family was published with, plus the grammar's sentence.

        Args:
            sizes: of all images of the sample; the places an instruction names (`grounding.wording`) are then
                written in the dialect's numbers. Without, they stay as they are.
            template: a text with `{instruction}` in it, in place of the family's words. One that speaks of <think>
                itself gets no sentence about the grammar.

        Raises:
            UsageError: the family takes no instructions beyond its task words, and the grammar is not "bare"; or a
                place lies in an image beyond `sizes`.
        """
        if grammar != "bare" and not self.thinks:
            raise UsageError(f"dialect {self.name!r} has no thoughts: use the grammar 'bare', not {grammar!r}")
        head, words = split_head(instruction if sizes is None else self.render_places(instruction, sizes))
        asked = self._question(words, answer_kind) if template is None else template.replace("{instruction}", words)
        if template is None and answer_kind != "span" and sizes is not None and len(sizes) > 1:
            asked += self.which_image
        told = not self.says_grammar or (template is not None and THINK in template)
        return retimed(head, self.timing) + asked + ("" if told else _THINK_SENTENCE[grammar])

    def _question(self, instruction: str, answer_kind: str) -> str:
        words = {"instruction": instruction, "quoted": quoted(instruction)}
        form = self.questions.get(answer_kind, self.question)
        return _PLACEHOLDER.sub(lambda match: words[match[1]], form)

    # Reading

    def parse(
        self, text: str, sizes: Sequence[ImageSize], *, grammar: Grammar = "think", answer_kind: str | None = None
    ) -> Answer:
        """What a completion says. Never raises, takes linear time.

        A thought left open gives NO_ANSWER, except in the grammar "bare", where tags mean nothing when unbalanced.

        Args:
            text: the completion.
            sizes: of all images of the sample, in order.
            grammar: what was asked for; only `Answer.strict` and open thoughts depend on it.
            answer_kind: the kind asked for, never derived from the truth. With "box", "point" and "span", several
                different ones are AMBIGUOUS (the same one repeated is one); with None nothing is.
        """
        thought, answer, offset, closed = split_completion(text, grammar)
        if not closed:
            if grammar != "bare":
                return Answer(Status.NO_ANSWER, thought=thought)
            thought, answer, offset = None, text, 0
        quick = self._quick(answer, sizes, answer_kind)
        if quick is not None:
            region, where = quick.region, (offset + quick.start, offset + quick.end)
            strict = matches_grammar(text, grammar)
            if isinstance(region, Box):
                return Answer(Status.OK, (region,), thought=thought, strict=strict, char_span=where)
            if isinstance(region, Point):
                return Answer(Status.OK, points=(region,), thought=thought, strict=strict, char_span=where)
        reading = self._read(without_typed(normalize(answer)), answer, sizes, answer_kind)
        return self._decide(reading, _Completion(text, answer, offset, thought, grammar, answer_kind))

    def _quick(self, answer: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Found | None:
        """A shortcut for the most common answer, to the letter; must agree with `_read`."""
        return None

    @abstractmethod
    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        """Everything in an answer text that names a place. `text` is `original` in ASCII digits, same positions."""

    def _found(
        self,
        numbers: Sequence[float],
        sizes: Sequence[ImageSize],
        start: int,
        end: int,
        *,
        image: int = 0,
        label: str | None = None,
    ) -> Found:
        """Two numbers as a point, four as a box, anything else as malformed."""
        kind = "point" if len(numbers) == 2 else "box"
        if len(numbers) not in (2, 4) or not all(map(math.isfinite, numbers)):
            return Found(kind, Status.MALFORMED, start, end)
        if not 0 <= image < len(sizes):
            return Found(kind, Status.OUT_OF_RANGE, start, end)
        width, height = sizes[image].input_width, sizes[image].input_height
        decode = self.space.decode
        x, y = (1, 0) if self.y_first else (0, 1)
        coords: tuple[float, ...]
        x1, y1 = coords = decode(numbers[x], width), decode(numbers[y], height)
        if kind == "box":
            x2, y2 = decode(numbers[x + 2], width), decode(numbers[y + 2], height)
            coords = x1, y1, x2, y2
            if 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1:
                return Found(kind, Status.OK, start, end, Box(x1, y1, x2, y2, image, label))
        elif 0 <= x1 <= 1 and 0 <= y1 <= 1:
            return Found(kind, Status.OK, start, end, Point(x1, y1, image, label))
        outside = OutOfBounds(coords, image, label) if all(abs(value) <= _FAR for value in coords) else None
        return Found(kind, Status.OUT_OF_RANGE, start, end, out_of_bounds=outside)

    def read_thought(self, thought: str, sizes: Sequence[ImageSize]) -> tuple[Box | Point, ...]:
        """The places in range that a model's thought names as [n, n] or [n, n, n, n], in order.

        They lie in the first image, or in the one that "image N " right before the bracket names.
        """
        places: list[Box | Point] = []
        if not self.thinks:
            return ()
        for match in _THOUGHT_PLACE.finditer(normalize(thought)):
            image = int(match["image"] or 1) - 1
            region = self._found(numbers_in(match["place"]), sizes, 0, 0, image=image).region
            if isinstance(region, (Box, Point)):
                places.append(region)
        return tuple(places)

    def _decide(self, reading: Reading, said: _Completion) -> Answer:
        if len(reading.found) > MAX_PLACES:
            return Answer(Status.MALFORMED, thought=said.thought)
        good = [found for found in reading.found if found.region is not None]
        if said.answer_kind not in (
            "boxes",
            "points",
            "text_box",
        ):  # there, saying a thing twice is part of the answer
            firsts: dict[tuple[object, ...], Found] = {}
            for found in good:
                firsts.setdefault(_place(found.region), found)
            good = list(firsts.values())
        refused = next((found for found in reading.found if found.kind == "absent"), None)
        failed = {found.status for found in reading.found} - {Status.OK}
        if not good and failed:
            worst = Status.OUT_OF_RANGE if Status.OUT_OF_RANGE in failed else Status.MALFORMED
            return Answer(
                worst, text=reading.text, thought=said.thought, out_of_bounds=_out_of_bounds(reading.found, good)
            )
        if not good:
            return self._without_region(refused, reading, said)
        one = said.answer_kind in ONE
        read_from = [found for found in good if found.kind == said.answer_kind] if one else good
        read_from = read_from or good
        contradicts = (one and len(read_from) > 1) or refused is not None or Status.OUT_OF_RANGE in failed
        contradicts = contradicts or reading.contradicts
        regions = [found.region for found in good]
        return Answer(
            Status.AMBIGUOUS if contradicts else Status.OK,
            boxes=tuple(region for region in regions if isinstance(region, Box)),
            points=tuple(region for region in regions if isinstance(region, Point)),
            spans=tuple(region for region in regions if isinstance(region, Span)),
            text=reading.text,
            thought=said.thought,
            strict=not contradicts and self._is_strict(said),
            char_span=said.range(read_from[0].start, read_from[-1].end),
            out_of_bounds=_out_of_bounds(reading.found, good),
        )

    def _without_region(self, refused: Found | None, reading: Reading, said: _Completion) -> Answer:
        """A refusal, an answer in words only, or nothing."""
        where = reading.text_range if said.answer_kind in (None, "text_box", "text_span") else None
        absent = False
        if refused is not None:
            where, absent = (refused.start, refused.end), True
        elif where is None:
            plain = normalize(said.answer).replace("’", "'")
            alone = _DECLINES_ALONE.fullmatch(plain)
            match = alone or _DECLINES.search(plain)
            if match is None:
                return Answer(Status.NO_ANSWER, text=reading.text, thought=said.thought)
            where, absent = match.span(1 if alone else 0), True
        return Answer(
            Status.AMBIGUOUS if reading.contradicts else Status.OK,
            text=reading.text,
            absent=absent,
            thought=said.thought,
            strict=not reading.contradicts and self._is_strict(said),
            char_span=said.range(*where),
        )

    def _is_strict(self, said: _Completion) -> bool:
        kinds = self.patterns if said.answer_kind is None else (said.answer_kind, "absent")
        answer = said.answer.strip()
        fits = any(kind in self.patterns and self.patterns[kind].fullmatch(answer) for kind in kinds)
        return fits and matches_grammar(said.text, said.grammar)


def _out_of_bounds(found: Sequence[Found], good: Sequence[Found]) -> tuple[OutOfBounds, ...]:
    """Each place out of bounds of the answer once, with its rank among the regions of its kind."""
    counted = {id(item) for item in good}
    before: Counter[str] = Counter()
    kept: dict[tuple[object, ...], OutOfBounds] = {}
    for item in found:
        if id(item) in counted:
            before[item.kind] += 1
        elif item.out_of_bounds is not None:
            kept.setdefault(
                (item.out_of_bounds.coords, item.out_of_bounds.image),
                replace(item.out_of_bounds, rank=before[item.kind]),
            )
    return tuple(kept.values())


def _place(region: object) -> tuple[float, ...]:
    """What makes two regions the same answer: where they are, not how they are labeled."""
    if isinstance(region, Box):
        return (*region.xyxy, region.image)
    if isinstance(region, Point):
        return (region.x, region.y, region.image)
    return (region.start, region.end) if isinstance(region, Span) else ()
