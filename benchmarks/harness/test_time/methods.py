"""Inference-time methods: more calls of the same model for a better point. Each is a `Backend` around a `Backend`.

They return outputs in the model's own dialect, so everything behind them (parsing, scoring, resuming) is as without
them. `cost` counts every pass and token. Those that read or change attention are in `attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
from scipy import ndimage

from attention.maps import PromptAttention
from benchmarks.harness.backends.generate import Backend, Decoding, Output, Request, SupportsAttention
from benchmarks.harness.items import BenchmarkItem
from benchmarks.harness.test_time.attention_guided import ATTENTIVE
from benchmarks.harness.test_time.sampler import (
    Method,
    SampledAnswer,
    Sampler,
    around,
    click_of,
    cropped,
    outward,
    reply,
    snapped,
    spent,
)
from benchmarks.harness.test_time.words import WORDS
from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.targets import Box, Point

_KINDS = ("box", "point", "text_box")
_GRID = 64  # cells per side of the voting grid
_REACH = 0.03  # half the side of the region a point votes for, as a share of the image
_STEPS = 2  # crops after the first look
_CROP = 0.5  # side of a crop, as a share of what it is taken from
_SEED_STEP = 1_000_003  # keeps the seeds of a method's extra calls apart from the next batch's


class Wrapped:
    """A backend that answers through a method, for answers in words one that looks again beside the whole image.

    Raises:
        UsageError: a kind of answer the methods do not know, or attention is asked of a backend that shows none.
    """

    def __init__(
        self, backend: Backend, method: str, dialect: str, grammar: str, answer_kind: str, *, image_first: bool = True
    ):
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}{nearest(method, list(METHODS))}")
        _check_kind(method, answer_kind, "this benchmark")
        if method in ATTENTIVE and not isinstance(backend, SupportsAttention):
            raise UsageError(
                f"--method {method}: needs the model's attention, which backend {backend.name!r} does not show; "
                "use a model on this machine with --backend transformers"
            )
        self.name = f"{method}({backend.name})"
        self._backend = backend
        self._method = (WORDS if answer_kind == "text_box" else METHODS)[method]
        self._words = (dialect, grammar, answer_kind)
        self._image_first = image_first

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        if decoding.samples > 1:
            # Samples of a method, for the user or for a method around it: each rollout is a run that samples.
            one = replace(decoding, samples=1)
            runs = [self._run(requests, one, seed + _SEED_STEP * (k + 1)) for k in range(decoding.samples)]
            return [list(outputs) for outputs in zip(*runs, strict=True)]
        return [[output] for output in self._run(requests, decoding, seed)]

    def _run(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[Output]:
        return self._method(
            Sampler(self._backend, decoding, *self._words, image_first=self._image_first), requests, seed
        )


class Attentive(Wrapped):
    """`Wrapped` around a backend that shows its attention: it can be wrapped in methods that need it."""

    _backend: SupportsAttention

    def prompt_attention(self, requests: Sequence[Request], opening: str) -> list[PromptAttention]:
        return self._backend.prompt_attention(requests, opening)

    def redistribution(self) -> AbstractContextManager[None]:
        return self._backend.redistribution()


def check(methods: str, items: Sequence[BenchmarkItem]) -> None:
    """Raise `UsageError` for methods that do not exist or cannot serve these items; before a model is loaded."""
    for method in methods.split("+"):
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}{nearest(method, list(METHODS))}")
    kinds = sorted({item.answer_kind for item in items})
    for item in items:
        for method in methods.split("+"):
            _check_kind(method, item.answer_kind, f"item {item.id!r}")
    if len(kinds) > 1:
        raise UsageError(
            f"--method {methods}: works where all items ask for the same; these ask for {' and '.join(kinds)}"
        )


def _check_kind(method: str, answer_kind: str, who: str) -> None:
    if answer_kind not in _KINDS:
        raise UsageError(f"--method {method}: works for one box or point, or for words; {who} asks for {answer_kind}")
    if answer_kind == "text_box" and method not in WORDS:
        raise UsageError(f"--method {method}: reads a place off attention; {who} asks for words")


def wrap(
    backend: Backend, methods: str, dialect: str, grammar: str, answer_kind: str, *, image_first: bool = True
) -> Backend:
    """`backend` inside the methods of ``"outer+inner"``."""
    for number, method in enumerate(reversed(methods.split("+"))):
        if method == "attend" and number:
            raise UsageError(
                "--method attend: asks the model for nothing, so it can only stand last, as in vicrop+attend"
            )
        wrapper = Attentive if isinstance(backend, SupportsAttention) else Wrapped
        backend = wrapper(backend, method, dialect, grammar, answer_kind, image_first=image_first)
    return backend


def self_consistency(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Of several samples the one that most others agree with: the medoid of their clicks (Wang et al. 2022)."""
    return [spent(_medoid(answers).output, answers) for answers in look.several(requests, seed)]


def voting(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Region consistency (GUI-RC, Du et al. 2025): samples vote on a grid, the best region's center is clicked.

    A box votes for its cells, a point for a small square around it. The answer is the connected region of cells
    with the most votes; of several, the largest.
    """
    return [
        _vote(look, request, answers) for request, answers in zip(requests, look.several(requests, seed), strict=True)
    ]


def narrowing(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Iterative narrowing (Nguyen 2024): look again at a crop around the last click, and map back."""
    first = look.once(requests, seed)
    windows = [Box(0.0, 0.0, 1.0, 1.0) for _ in requests]
    places = [seen.region for seen in first]
    looked: list[list[SampledAnswer]] = [[seen] for seen in first]
    for step in range(1, _STEPS + 1):
        going = [i for i, place in enumerate(places) if place is not None and len(requests[i].images) == 1]
        for i in going:
            windows[i] = snapped(around(click_of(places[i]), _CROP**step), requests[i])
        looks = look.once([cropped(requests[i], windows[i]) for i in going], seed + step) if going else []
        for i, seen in zip(going, looks, strict=True):
            looked[i].append(seen)
            if seen.region is not None:
                places[i] = outward(seen.region, windows[i])
    return [
        reply(look, request, place, answers) for request, place, answers in zip(requests, places, looked, strict=True)
    ]


def crop_search(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """The whole image and five overlapping crops; the click most others lie near wins, the whole image breaks ties.

    ScreenSeekeR's search (Li et al. 2025) without its planner.
    """
    windows = [Box(0.0, 0.0, 1.0, 1.0)] + [
        around(Point(x, y), 0.6) for x, y in ((0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    ]
    views = [[snapped(w, r) for w in windows] for r in requests]
    asked = [cropped(r, w) if len(r.images) == 1 else r for r, own in zip(requests, views, strict=True) for w in own]
    looks = look.once(asked, seed)
    outputs = []
    for i, (request, own) in enumerate(zip(requests, views, strict=True)):
        answers = looks[i * len(windows) : (i + 1) * len(windows)]
        places = [
            None if a.region is None else outward(a.region, w) if len(request.images) == 1 else a.region
            for a, w in zip(answers, own, strict=True)
        ]
        outputs.append(reply(look, request, _supported(places), answers))
    return outputs


def fast_slow(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Two answers; only where they disagree, several more vote (the switch of FOCUS, by agreement)."""
    pairs = look.several(requests, seed, n=2)
    slow = [i for i, pair in enumerate(pairs) if not _agree(pair)]
    more = look.several([requests[i] for i in slow], seed + 1) if slow else []
    outputs = [spent(pair[0].output, pair) for pair in pairs]
    for i, answers in zip(slow, more, strict=True):
        outputs[i] = _vote(look, requests[i], [*pairs[i], *answers])
    return outputs


METHODS: dict[str, Method] = {
    "self_consistency": self_consistency,
    "voting": voting,
    "narrowing": narrowing,
    "crop_search": crop_search,
    "fast_slow": fast_slow,
    **ATTENTIVE,
}


def _medoid(answers: Sequence[SampledAnswer]) -> SampledAnswer:
    told = [answer for answer in answers if answer.click is not None]
    if not told:
        return answers[0]
    places = np.array([[a.click.x, a.click.y] for a in told if a.click is not None])
    apart = np.abs(places[:, None, :] - places[None, :, :]).sum(axis=(1, 2))
    return told[int(apart.argmin())]


def _vote(look: Sampler, request: Request, answers: Sequence[SampledAnswer]) -> Output:
    grid = np.zeros((_GRID, _GRID), dtype=int)
    for answer in answers:
        if answer.region is not None:
            rows, columns = _cells(answer.region)
            grid[rows, columns] += 1
    if not grid.any():
        return spent(answers[0].output, answers)
    regions, count = ndimage.label(grid == grid.max())
    sizes = ndimage.sum_labels(np.ones_like(grid), regions, range(1, count + 1))
    rows, columns = np.nonzero(regions == 1 + int(np.argmax(sizes)))
    x1, x2 = columns.min() / _GRID, (columns.max() + 1) / _GRID
    y1, y2 = rows.min() / _GRID, (rows.max() + 1) / _GRID
    box = Box(float(x1), float(y1), float(x2), float(y2))
    return reply(look, request, box if look.answer_kind == "box" else box.center, answers)


def _cells(region: Box | Point) -> tuple[slice, slice]:
    if isinstance(region, Point):
        region = Box(max(0.0, region.x - _REACH), max(0.0, region.y - _REACH),
                     min(1.0, region.x + _REACH), min(1.0, region.y + _REACH))  # fmt: skip

    def span(low: float, high: float) -> slice:
        start = min(int(low * _GRID), _GRID - 1)
        return slice(start, max(start + 1, int(np.ceil(high * _GRID))))

    return span(region.y1, region.y2), span(region.x1, region.x2)


def _supported(places: Sequence[Box | Point | None]) -> Box | Point | None:
    told = [place for place in places if place is not None]
    if not told:
        return None
    clicks = [click_of(place) for place in told]
    near = [sum(abs(a.x - b.x) < 2 * _REACH and abs(a.y - b.y) < 2 * _REACH for b in clicks) for a in clicks]
    return told[int(np.argmax(near))]


def _agree(pair: Sequence[SampledAnswer]) -> bool:
    first, second = pair[0].click, pair[1].click
    if first is None or second is None:
        return False
    return abs(first.x - second.x) < _REACH and abs(first.y - second.y) < _REACH
