"""Does the model look at what it is asked for? Figures per sample, for `python -m data_prep curate --attention`.

The map is the attention of the response's tokens on the image, mean over tokens, heads and the captured layers, with
its highest cell set to 1, as in SE-GUI's data filter (arXiv 2505.12370); there every token counts the same, here by
how much of its attention is on the image at all.
"""

from __future__ import annotations

from torch import Tensor


def target_scores(attention: Tensor, coverage: Tensor) -> dict[str, float]:
    """Of one map (V,) with the share of each cell (V,) that the target covers, all in [0, 1].

    peak: the highest cell that the target touches; inside: the mean over the target's area; overall: the mean of the
    map. All 0 where there is no attention at all; peak and inside 0 where there is no target.
    """
    highest, area = float(attention.max()), float(coverage.sum())
    if highest <= 0:
        return {"peak": 0.0, "inside": 0.0, "overall": 0.0}
    values = (attention / highest).double()
    inside = float((values * coverage).sum()) / area if area > 0 else 0.0
    return {
        "peak": float((values * (coverage > 0)).max()),
        "inside": min(1.0, inside),
        "overall": float(values.mean()),
    }
