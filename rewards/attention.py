"""Rewards for looking at the right place, on attention maps the trainer captured.

Maps are over the grid of image tokens of the target's image: (rows, columns), row 0 on top, any positive scale; what
the answer's tokens attended to. They come as columns of the batch: `attention`, for the contrast `general` (the same
for a query that names no target), and `sinks`, a grid of truth values for attention sinks (`attention.sinks`), which
must be left out before a mass means anything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attention.maps import mass_inside
from grounding.answer import Answer
from grounding.errors import FoveaError, UsageError
from grounding.geometry import FloatArray
from grounding.sample import Sample
from rewards import reward
from rewards.single_target import SINGLE, target_box


def _grid(
    values: npt.ArrayLike | None, name: str, sample: Sample, shape: tuple[int, ...] | None = None
) -> FloatArray:
    if values is None:
        raise UsageError(
            f"column {name!r} of sample {sample.id!r} is empty, its prompt shows no image; leave such rows out with "
            "`sources:` or `kinds:`"
        )
    grid = np.asarray(values, dtype=np.float64)
    if grid.ndim != 2 or grid.size == 0 or (shape is not None and grid.shape != shape):
        raise FoveaError(f"column {name!r} of sample {sample.id!r} has shape {grid.shape}; (rows, columns) is needed")
    if not np.isfinite(grid).all() or (grid < 0).any():
        raise FoveaError(f"column {name!r} of sample {sample.id!r} holds NaN, infinity or a negative number")
    return grid


def _without_sinks(grid: FloatArray, sinks: npt.ArrayLike | None, sample: Sample) -> FloatArray:
    return grid if sinks is None else np.where(_grid(sinks, "sinks", sample, grid.shape) > 0, 0.0, grid)


@reward(
    "attention_in_target",
    range=(0, 1),
    source="mass in the box as in SE-GUI (arXiv 2505.12370); AttBalance (AAAI 2024)",
    kinds=SINGLE,
    needs=("attention", "sinks?"),
)
def attention_in_target(
    answer: Answer, sample: Sample, *, attention: npt.ArrayLike, sinks: npt.ArrayLike | None
) -> float:
    """sum of A over the target / sum of A over the image, sinks left out."""
    grid = _grid(attention, "attention", sample)
    return mass_inside(_without_sinks(grid, sinks, sample), target_box(sample))


@reward(
    "attention_contrast",
    range=(0, 1),
    source="CARVE (arXiv 2509.06461)",
    kinds=SINGLE,
    needs=("attention", "general", "sinks?"),
)
def attention_contrast(
    answer: Answer,
    sample: Sample,
    *,
    attention: npt.ArrayLike,
    general: npt.ArrayLike,
    sinks: npt.ArrayLike | None,
    smoothing: float = 0.1,
) -> float:
    """Mass inside the target of C = A / (B + smoothing * mean(B)), A for the task's query, B for a general one.

    What draws the eye without a question (edges, text, sinks) is divided out. With B even, C is A.
    """
    if smoothing <= 0:
        raise UsageError(f"smoothing {smoothing} must be positive")
    grid = _grid(attention, "attention", sample)
    base = _grid(general, "general", sample, grid.shape)
    base = base / base.mean() if base.mean() > 0 else np.ones_like(base)
    contrast = grid / (base + smoothing)
    return mass_inside(_without_sinks(contrast, sinks, sample), target_box(sample))
