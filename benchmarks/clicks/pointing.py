"""Points: of free space and things described by relations, and of every instance of a thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.data_sets import read_split
from benchmarks.harness.io.official_files import identity, picture, words
from benchmarks.harness.items import XY, BenchmarkItem, Prediction, Rule, Truth, Verdict, read_card
from benchmarks.harness.row_benchmark import RowBenchmark
from benchmarks.harness.scoring import decide
from grounding.errors import BrokenRow


class _Masked(RowBenchmark):
    answer_kind = "points"
    rule = Rule(failure="skip", over="task")

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        points = prediction.clicks
        if not points:
            return decide.WRONG if prediction.absent else decide.unreadable(rule)
        share = share_inside(_mask(item.meta["mask"]), points)
        return Verdict(share > 0.5, share)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        counted = [v for v in scored.verdicts if not v.skipped]
        total = sum(v.value for v in counted)
        return {
            "mean_share_inside": total / len(counted) if counted else 0.0,
            "mean_share_inside_counting_all": total / len(scored.verdicts) if scored.verdicts else 0.0,
        }


def share_inside(mask: np.ndarray, points: Sequence[Sequence[float]]) -> float:
    """Share of points (x, y in [0, 1]) on non-zero pixels of a mask (H, W)."""
    height, width = mask.shape
    xs = np.asarray([int(x * width) for x, _ in points])
    ys = np.asarray([int(y * height) for _, y in points])
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return float(mask[ys[inside], xs[inside]].sum() / len(points))


@lru_cache(maxsize=64)
def _mask(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except OSError as error:
        raise BrokenRow(str(path), f"the mask cannot be read: {error}") from error
    return (pixels[..., 0] if pixels.ndim == 3 else pixels) > 0


def _item(name: str, image: str, question: str, task: str, mask: Path) -> BenchmarkItem:
    return BenchmarkItem(
        id=name,
        images=(picture(image),),
        instruction=question,
        truth=Truth(mask=str(mask)),
        answer_kind="points",
        groups={"task": task},
        frame="unit",
        meta={"mask": mask},
    )


@BENCHMARKS.register("refspatial")
class RefSpatial(_Masked):
    """Location, Placement and Unseen."""

    splits = ("all", "Location", "Placement", "Unseen")
    patterns: ClassVar = {
        "all": ["*/question.json", "**/question.json"],
        **{
            task: [f"{task}/question.json", f"**/{task}/question.json"]
            for task in ("Location", "Placement", "Unseen")
        },
    }
    card = read_card(__file__, "refspatial")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        task = file.parent.name
        image = f"{task}/{words(row['rgb_path'])}" if split == "all" else words(row["rgb_path"])
        mask = file.parent / words(row["mask_path"])
        yield _item(f"{task}-{identity(row['id'])}", image, words(row["prompt"]), task, mask)

    def image_root(self, root: Path) -> Path:
        return root if root.is_dir() else root.parent


@BENCHMARKS.register("where2place")
class Where2Place(_Masked):
    """Free space described by relations."""

    patterns: ClassVar = {"test": ["**/point_questions.jsonl"]}
    card = read_card(__file__, "where2place")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        name, image = identity(row["question_id"]), words(row["image"])
        question = words(row["text"]).partition(" Your answer should be")[0]
        yield _item(name, f"images/{image}", question, "place", file.parent / "masks" / image)


_NEAR = 0.05  # of the image's side


@BENCHMARKS.register("pixmo_points")
class PixMoPoints(Benchmark):
    """Precision, recall and F1 of matched points."""

    answer_kind = "points"
    splits = ("test", "val", "train")
    rule = Rule()
    card = read_card(__file__, "pixmo_points")

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        return read_split(root, split, self.answer_kind)

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        if item.truth.absent:
            return decide.RIGHT if prediction.absent and not prediction.points else decide.WRONG
        hits, answered, true = matches(item, prediction)
        f1 = 2 * hits / (answered + true) if answered + true else 0.0
        return Verdict(f1 >= 1.0, f1)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        counts = [matches(i, p) for i, p in scored.pairs if not i.truth.absent]
        hits, answered, true = (sum(c[k] for c in counts) for k in range(3))
        return {
            "points_matched": hits,
            "points_answered": answered,
            "points_true": true,
            "precision": hits / answered if answered else 0.0,
            "recall": hits / true if true else 0.0,
            "mean_F1": sum(v.value for v in scored.verdicts) / max(1, len(scored.verdicts)),
        }


def matches(item: BenchmarkItem, prediction: Prediction) -> tuple[int, int, int]:
    """(matched pairs, points answered, points true)."""
    answered: Sequence[XY] = prediction.points
    if not answered or not item.truth.points:
        return 0, len(answered), len(item.truth.points)
    apart = np.abs(np.asarray(answered)[:, None, :] - np.asarray(item.truth.points)[None, :, :])  # (A, T, 2)
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - half a second for the other benchmarks

    rows, columns = linear_sum_assignment(np.hypot(apart[..., 0], apart[..., 1]))
    near = (apart[rows, columns] <= _NEAR).all(axis=1)
    return int(near.sum()), len(answered), len(item.truth.points)
