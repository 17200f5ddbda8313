"""Inference-time methods that read the model's attention, or change it. Shapes: K heads, V image tokens.

    attend   the point is read straight off attention; nothing is generated
    vicrop   attention, relative to a general question's, says where to crop
    carve    the contrast with a general question's attention says what to mask away
    var      attention that rests on visual sinks is given back to the image

They need a backend that shows its attention (`generate.SupportsAttention`); what is read there is plain NumPy here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from attention.maps import PromptAttention
from benchmarks.harness.backends.generate import Output, Request
from benchmarks.harness.test_time.sampler import (
    Method,
    SampledAnswer,
    Sampler,
    around,
    cropped,
    outward,
    snapped,
    spent,
)
from grounding.targets import Box, Point

GENERAL = "Write a general description of the image."
REGION = 0.5  # cells with at least this share of the peak belong to its region
WINDOWS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)  # sides of a crop, as shares of the image: 1 to 2 times a quarter
_TINY = 1e-12
AskedView = tuple[Request, Box | None]
"""The question about a part of an image, and where that lies; the request itself where there is no part to show."""


def attend(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Read the box or point off the attention of the token that is about to write the first coordinate.

    The training-free baseline of attend-and-segment (Cao et al. 2024, arXiv:2410.08209) and GUI-AIMA (Zhou et al.
    2025, arXiv:2511.00810): one forward pass, nothing generated. `blend` joins the heads; the answer is the connected
    region of cells around the peak with at least half of its attention (GUI-AIMA takes 0.3 for a trained model): its
    bounds, or the center of its attention.
    """
    outputs = []
    for request, found in zip(requests, look.prompt_attention(requests), strict=True):
        empty = Output("", found.seen, found.cost)
        place = _strongest(blend(found), found.grids, look.answer_kind)
        outputs.append(empty if place is None else replace(empty, text=look.say(place, empty, request)))
    return outputs


def vicrop(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Attention crop (ViCrop, Zhang et al. 2025, "MLLMs Know Where to Look", arXiv:2502.17422), mapped back.

    The map is relative attention, A(question) / A(general question), mean over the captured heads; the crop is chosen
    by `sharpest_window`. The original shows the model image and crop together, for answers in words; coordinates need
    one frame, so here the crop is asked about alone and its answer mapped back. Where the crop answers nothing, the
    whole image is asked.
    """
    views, costs = relative_views(look, requests)
    return _answers(look, requests, views, costs, seed)


def relative_views(look: Sampler, requests: Sequence[Request]) -> tuple[list[AskedView], list[list[SampledAnswer]]]:
    """What ViCrop looks at of every request's image, and what finding it cost."""
    maps, costs = _contrasts(look, requests, lambda own, general: own / np.maximum(general, _TINY))
    views: list[AskedView] = []
    for request, found in zip(requests, maps, strict=True):
        window = None if found is None else snapped(sharpest_window(found), request)
        views.append((request if window is None else cropped(request, window), window))
    return views, costs


def carve(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Contrastive attention (CARVE, Ge et al. 2025, arXiv:2509.06461): mask what a general question looks at as well.

    The map is A(question) / (A(general question) + lambda), mean over the captured heads; lambda is the general
    question's mean, since a fixed number would depend on how many image tokens there are. Cells with at least half of
    the peak stay, and the ones next to them; the rest takes the image's mean color. The model is asked about the
    masked image cropped to a window around what stays, at least half the image wide, and its answer mapped back.
    """
    views, costs = contrast_views(look, requests)
    return _answers(look, requests, views, costs, seed)


def contrast_views(look: Sampler, requests: Sequence[Request]) -> tuple[list[AskedView], list[list[SampledAnswer]]]:
    """What CARVE leaves of every request's image, and what finding it cost."""
    maps, costs = _contrasts(look, requests, lambda own, general: own / np.maximum(general + general.mean(), _TINY))
    views: list[AskedView] = []
    for request, found in zip(requests, maps, strict=True):
        if found is None:
            views.append((request, None))
            continue
        kept = ndimage.binary_dilation(region_of(found), np.ones((3, 3)))
        bounds = bounds_of(kept)
        side = max(bounds.x2 - bounds.x1, bounds.y2 - bounds.y1, *WINDOWS)
        window = snapped(around(bounds.center, side), request)
        views.append((cropped(Request(request.text, (masked(request.images[0], kept),)), window), window))
    return views, costs


def var(look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]:
    """Visual attention redistribution (VAR, Kang et al. 2025, "See What You Are Told", arXiv:2503.03321).

    The model answers as always, but heads that read the image give part of the attention they spend on sinks to the
    other image tokens (`attention.prompt.redistribute`).
    """
    with look.redistribution():
        return [seen.output for seen in look.once(requests, seed)]


ATTENTIVE: dict[str, Method] = {"attend": attend, "vicrop": vicrop, "carve": carve, "var": var}


def blend(attention: PromptAttention) -> np.ndarray:
    """One map (V,) of all heads, sinks left out.

    Each head counts by how much it looks like all of them (GUI-AIMA): weights = softmax over heads of -KL(g || p_h),
    p_h the head's attention normalized over the image and g the mean of all p_h. Attention itself is what is added
    up, so that a head that ignores the image says little.
    """
    heads = np.where(attention.sinks, 0.0, attention.heads)
    shares = heads / np.maximum(heads.sum(-1, keepdims=True), _TINY)
    together = shares.mean(0)
    apart = (together * np.log((together + _TINY) / (shares + _TINY))).sum(-1)
    weights = np.exp(-(apart - apart.min()))
    return (weights / weights.sum()) @ heads


def region_of(heat: np.ndarray, share: float = REGION) -> np.ndarray:
    """The connected cells around the peak with at least `share` of it: (rows, columns) bool."""
    labels, _ = ndimage.label(heat >= share * heat.max())
    return labels == labels[np.unravel_index(int(heat.argmax()), heat.shape)]


def bounds_of(cells: np.ndarray) -> Box:
    """The smallest box around the cells that are True."""
    (rows, columns), shape = np.nonzero(cells), cells.shape
    x1, x2 = int(columns.min()) / shape[1], (int(columns.max()) + 1) / shape[1]
    y1, y2 = int(rows.min()) / shape[0], (int(rows.max()) + 1) / shape[0]
    return Box(x1, y1, x2, y2)


def center_of(heat: np.ndarray, cells: np.ndarray) -> Point:
    """The mean of the cells' centers, weighted by their heat."""
    weights = np.where(cells, heat, 0.0)
    x = weights.sum(0) @ (np.arange(heat.shape[1]) + 0.5) / heat.shape[1]
    y = weights.sum(1) @ (np.arange(heat.shape[0]) + 0.5) / heat.shape[0]
    return Point(float(x / weights.sum()), float(y / weights.sum()))


def sharpest_window(heat: np.ndarray) -> Box:
    """Of the best windows of several sizes, the one that stands out most from its neighbors (ViCrop's choice).

    Per size, the best window has the largest sum; it stands out by (sum - mean sum of the windows one cell to its
    sides) / its number of cells. The original takes 1 to 2 times the input side of its model (224 or 336 pixels);
    models that take any size have none, so here it is 1 to 2 times a quarter of the image.
    """
    rows, columns = heat.shape
    integral = np.pad(heat.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best: tuple[float, Box] | None = None
    for share in WINDOWS:
        h, w = max(1, round(share * rows)), max(1, round(share * columns))
        sums = integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w]
        y, x = np.unravel_index(int(sums.argmax()), sums.shape)
        beside = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
        others = [sums[i, j] for i, j in beside if 0 <= i < sums.shape[0] and 0 <= j < sums.shape[1]]
        sharpness = float(sums[y, x] - (np.mean(others) if others else 0.0)) / (h * w)
        if best is None or sharpness > best[0]:
            best = sharpness, Box(x / columns, y / rows, min(1.0, (x + w) / columns), min(1.0, (y + h) / rows))
    if best is None:
        raise ValueError("no window sizes")
    return best[1]


def masked(image: Image.Image, kept: np.ndarray) -> Image.Image:
    """The image with its mean color outside the cells that are True."""
    mask = Image.fromarray(kept.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    mean = tuple(round(float(v)) for v in np.asarray(image).reshape(-1, 3).mean(0))
    return Image.composite(image, Image.new("RGB", image.size, mean), mask)


def _strongest(heat: np.ndarray, grids: Sequence[tuple[int, int]], answer_kind: str) -> Box | Point | None:
    """The region or its center in the image with the highest peak; None where nothing is looked at."""
    if not heat.size or not heat.max() > 0:
        return None
    ends = np.cumsum([rows * columns for rows, columns in grids])
    image = int(np.searchsorted(ends, int(heat.argmax()), side="right"))
    own = heat[ends[image] - grids[image][0] * grids[image][1] : ends[image]].reshape(grids[image])
    cells = region_of(own)
    place = bounds_of(cells) if answer_kind == "box" else center_of(own, cells)
    return replace(place, image=image)


def _contrasts(
    look: Sampler, requests: Sequence[Request], against: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray | None], list[list[SampledAnswer]]]:
    """Per request the question's map against the general question's (None for several images), and what it cost."""
    own = look.prompt_attention(requests)
    general = look.prompt_attention([Request(GENERAL, request.images) for request in requests])
    costs = [
        [SampledAnswer(Output("", g.seen, g.cost), None) for g in pair] for pair in zip(own, general, strict=True)
    ]
    maps: list[np.ndarray | None] = []
    for mine, other in zip(own, general, strict=True):
        if len(mine.grids) != 1 or not mine.heads.size:
            maps.append(None)
            continue
        contrast = against(mine.heads.mean(0), other.heads.mean(0))
        maps.append(np.where(mine.sinks, 0.0, contrast).reshape(mine.grids[0]))
    return maps, costs


def _answers(
    look: Sampler,
    requests: Sequence[Request],
    views: Sequence[tuple[Request, Box | None]],
    costs: Sequence[list[SampledAnswer]],
    seed: int,
) -> list[Output]:
    """Ask about the crops, map back, and ask about the whole image where a crop answers nothing."""
    looks = look.once([view for view, _ in views], seed)
    lost = [i for i, seen in enumerate(looks) if seen.region is None and views[i][1] is not None]
    again = look.once([requests[i] for i in lost], seed + 1) if lost else []
    second = dict(zip(lost, again, strict=True))
    outputs = []
    for i, (request, seen, (_, window)) in enumerate(zip(requests, looks, views, strict=True)):
        answers = [seen, *costs[i]]
        if i in second:
            outputs.append(spent(second[i].output, [*answers, second[i]]))
        elif seen.region is None or window is None:
            outputs.append(spent(seen.output, answers))
        else:
            size = replace(seen.output, seen=costs[i][0].output.seen)
            text = look.say(outward(seen.region, window), size, request)
            outputs.append(spent(replace(size, text=text), answers))
    return outputs
