"""Maps of attention over an image: a prompt's, and how well a map meets the target. No torch.

Used by rewards, signals, curation and the inference-time methods of benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from grounding.geometry import FloatArray
from grounding.targets import Box, Point, Polygon


@dataclass(frozen=True, slots=True)
class PromptAttention:
    """Attention of the last token of a prompt on the prompt's images, K heads on V image tokens.

    Attributes:
        heads: (K, V), image by image in reading order, float64.
        sinks: (V,) bool, see `attention.sinks`.
        grids: (rows, columns) of image tokens per image; their products add up to V.
        seen: (width, height) of each image after the processor's resizing; empty when not known.
        cost: {"tokens": generated, "passes": calls of the model it took}.
    """

    heads: np.ndarray
    sinks: np.ndarray
    grids: tuple[tuple[int, int], ...]
    seen: tuple[tuple[int, int], ...] = ()
    cost: dict[str, int] = field(default_factory=dict)


def coverage(rows: int, columns: int, region: object) -> FloatArray:
    """Share of every cell of a grid that lies in a region of its image: (rows, columns) in [0, 1].

    A point fills the cell it lies in; a polygon counts as its bounding box; nothing else has a place.
    """
    cover: FloatArray = np.zeros((rows, columns))
    if isinstance(region, Point):
        cover[min(int(region.y * rows), rows - 1), min(int(region.x * columns), columns - 1)] = 1.0
    box = region.bounds if isinstance(region, Polygon) else region
    if isinstance(box, Box):
        cover = np.outer(_inside(rows, box.y1, box.y2), _inside(columns, box.x1, box.x2))
    return cover


def _inside(count: int, low: float, high: float) -> FloatArray:
    """(count,) share of each of `count` equal cells of [0, 1] inside [low, high]."""
    edges = np.arange(count + 1) / count
    share: FloatArray = np.maximum(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0) * count
    return share


def mass_inside(attention: FloatArray, box: Box) -> float:
    """Share of the attention that falls into a box, spread evenly within a cell; 0 when there is none at all."""
    total = attention.sum()
    if total <= 0.0:
        return 0.0
    return float(min(1.0, (attention * coverage(attention.shape[0], attention.shape[1], box)).sum() / total))


def target_scores(attention: FloatArray, cover: FloatArray) -> dict[str, float]:
    """Figures of a sample to filter by, for `python -m data_prep curate --attention`.

    The map is the attention of the response's tokens on the image, mean over tokens, heads and the captured layers,
    with its highest cell set to 1, as in SE-GUI's data filter (arXiv 2505.12370); there every token counts the same,
    here by how much of its attention is on the image at all.

    Args:
        attention: (V,), at least 0.
        cover: (V,) share of each cell that the target covers.

    Returns:
        peak, the highest cell that the target touches; inside, the mean over the target's area; overall, the mean of
        the map; all in [0, 1]. All 0 where there is no attention at all; peak and inside 0 where there is no target.
    """
    highest, area = float(attention.max()), float(cover.sum())
    if highest <= 0:
        return {"peak": 0.0, "inside": 0.0, "overall": 0.0}
    values = attention / highest
    inside = float((values * cover).sum()) / area if area > 0 else 0.0
    return {
        "peak": float((values * (cover > 0)).max()),
        "inside": min(1.0, inside),
        "overall": float(values.mean()),
    }
