"""Inference-time methods for answers in words: what is looked at again is shown beside the whole image.

Words need no frame, so a crop need not be asked about alone as places must be: the model sees the image and, as a
second one, a part of it, as the published versions of these methods do. Evidence it finds in the part is mapped back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image

from benchmarks.harness.backends.generate import Output, Request
from benchmarks.harness.scoring.text_match import plain
from benchmarks.harness.test_time.attention_guided import contrast_views, relative_views, var
from benchmarks.harness.test_time.sampler import Method, SampledAnswer, Sampler, around, cropped, snapped, spent
from grounding.targets import Box, Point

HALF = 0.5  # least side of what is looked at again, as a share of the image
CORNERS = ((0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
View = tuple[Image.Image, Box]
"""A part of an image as it is shown, and where it lies."""


def majority(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Of several samples, the first with the words that most of them say (self-consistency, Wang et al. 2022)."""
    return [spent(most_said(answers).output, answers) for answers in look.several(requests, seed)]


def most_said(answers: Sequence[SampledAnswer]) -> SampledAnswer:
    """The first answer with the most frequent words; ties go to what was said first, silence counts for nothing."""
    said = Counter(plain(answer.text) for answer in answers if answer.text is not None)
    if not said:
        return answers[0]
    best = said.most_common(1)[0][0]
    return next(answer for answer in answers if answer.text is not None and plain(answer.text) == best)


def fast_slow(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Two answers; only where their words differ, several more vote."""
    pairs = look.several(requests, seed, n=2)
    slow = [i for i, (a, b) in enumerate(pairs) if a.text is None or b.text is None or plain(a.text) != plain(b.text)]
    more = dict(zip(slow, look.several([requests[i] for i in slow], seed + 1) if slow else [], strict=True))
    told = [[*pair, *more.get(i, ())] for i, pair in enumerate(pairs)]
    return [spent(most_said(answers).output, answers) for answers in told]


def narrowing(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Look again at a part around the evidence of the first answer, beside the whole image."""
    first = look.once(requests, seed)
    views: list[View | None] = []
    for request, seen in zip(requests, first, strict=True):
        box = seen.region
        if not isinstance(box, Box) or len(request.images) != 1:
            views.append(None)
            continue
        side = min(1.0, max(HALF, 1.5 * (box.x2 - box.x1), 1.5 * (box.y2 - box.y1)))
        views.append(part_of(request, around(box.center, side)))
    return _again(look, requests, views, [[seen] for seen in first], seed + 1)


def crop_search(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """The whole image alone, and beside each of five overlapping parts; the words most often said win."""
    views = [
        [None, *(part_of(r, around(Point(x, y), 0.6)) if len(r.images) == 1 else None for x, y in CORNERS)]
        for r in requests
    ]
    asked = [beside(look, r, view) for r, own in zip(requests, views, strict=True) for view in own]
    looks = look.once(asked, seed)
    outputs = []
    for i, (request, own) in enumerate(zip(requests, views, strict=True)):
        answers = looks[i * len(own) : (i + 1) * len(own)]
        best = most_said(answers)
        at = next(n for n, answer in enumerate(answers) if answer is best)
        outputs.append(spent(whole(look, request, best, own[at]), answers))
    return outputs


def vicrop(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Attention crop (ViCrop) as published: the whole image and the part that relative attention chooses."""
    views, costs = relative_views(look, requests)
    return _again(look, requests, _parts(views), costs, seed)


def carve(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Contrastive attention (CARVE): the whole image and the part that stays when the rest is masked."""
    views, costs = contrast_views(look, requests)
    return _again(look, requests, _parts(views), costs, seed)


WORDS: dict[str, Method] = {
    "self_consistency": majority,
    "voting": majority,
    "narrowing": narrowing,
    "crop_search": crop_search,
    "fast_slow": fast_slow,
    "vicrop": vicrop,
    "carve": carve,
    "var": var,
}


def part_of(request: Request, window: Box) -> View:
    """A part of a request's only image, in whole pixels."""
    window = snapped(window, request)
    return cropped(request, window).images[0], window


def beside(look: Sampler, request: Request, view: View | None) -> Request:
    """The question about the whole image and, as a second one, its part."""
    return request if view is None else Request(look.text_beside(request.text), (*request.images, view[0]))


def whole(look: Sampler, request: Request, seen: SampledAnswer, view: View | None) -> Output:
    """An answer about an image and its part as one about the image alone."""
    return seen.output if view is None else look.say_words(seen.output, request, view)


def _parts(views: Sequence[tuple[Request, Box | None]]) -> list[View | None]:
    return [None if window is None else (request.images[0], window) for request, window in views]


def _again(
    look: Sampler,
    requests: Sequence[Request],
    views: Sequence[View | None],
    before: Sequence[Sequence[SampledAnswer]],
    seed: int,
) -> list[Output]:
    """Ask about image and part. Where nothing is said then, what was said before counts, or the whole image is asked.

    Args:
        before: per request what was asked already; the answer about the whole image first, where there was one.
    """
    looks = look.once([beside(look, r, view) for r, view in zip(requests, views, strict=True)], seed)
    silent = [i for i, seen in enumerate(looks) if seen.text is None and views[i] is not None]
    lost = [i for i in silent if before[i][0].text is None]
    again = dict(zip(lost, look.once([requests[i] for i in lost], seed + 1) if lost else [], strict=True))
    outputs = []
    for i, (request, seen, view, earlier) in enumerate(zip(requests, looks, views, before, strict=True)):
        asked = [seen, *earlier, *([again[i]] if i in again else [])]
        output = whole(look, request, seen, view) if i not in silent else again.get(i, earlier[0]).output
        outputs.append(spent(output, asked))
    return outputs
