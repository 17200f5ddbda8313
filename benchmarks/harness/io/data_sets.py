"""Items from a Fovea data set folder: for our own held-out data, and for sets `data_prep` converts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.harness.items import XY, BenchmarkItem, ItemImage, Truth
from grounding.errors import UsageError
from grounding.io import read_samples
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon, Span

_MOST_GROUPS = 24  # a meta key with more values than this is an identifier, not a sub-group


def read_split(root: Path, split: str, answer_kind: str | None) -> Iterator[BenchmarkItem]:
    """Every sample of a split, read twice: sub-groups are the meta keys with few values.

    Args:
        answer_kind: what all are asked for; None asks each as training does (`Sample.answer_kind`).
    """
    file = split_file(root, split)
    axes = _axes(read_samples(file))
    for sample in read_samples(file):
        groups = {axis: str(sample.meta[axis]) for axis in axes if axis in sample.meta}
        yield item_of(sample, answer_kind or sample.answer_kind, groups)


def split_file(root: Path, split: str) -> Path:
    """`split.parquet` or `split.jsonl` in a data set folder, or `root` itself when it is a file."""
    if root.is_file():
        return root
    for suffix in (".parquet", ".jsonl"):
        if (root / f"{split}{suffix}").is_file():
            return root / f"{split}{suffix}"
    raise UsageError(f"{root}: has no {split}.parquet and no {split}.jsonl; make it with `python -m data_prep`")


def item_of(sample: Sample, answer_kind: str, groups: dict[str, str]) -> BenchmarkItem:
    """A sample as an item, in the canonical frame. Raises UsageError for one without a label."""
    if sample.kind == "unlabeled":
        raise UsageError(
            f"sample {sample.id!r} has no label to score against; give the files it was made of: "
            f"eval.py --benchmark {sample.source} --data DIR"
        )
    regions = regions_of(sample.target)
    boxes = [r for r in regions if isinstance(r, Box)]
    return BenchmarkItem(
        id=sample.id,
        images=tuple(ItemImage(i.path, i.width, i.height) for i in sample.images),
        instruction=sample.question,
        truth=Truth(
            boxes=tuple(b.xyxy for b in boxes),
            box_images=tuple(b.image for b in boxes),
            polygons=tuple(r.vertices for r in regions if isinstance(r, Polygon)),
            points=tuple((r.x, r.y) for r in regions if isinstance(r, Point)),
            spans=_windows(sample) or tuple((r.start, r.end) for r in regions if isinstance(r, Span)),
            text=getattr(sample.target, "text", None),
            absent=sample.kind == "absent",
        ),
        answer_kind=answer_kind,
        groups={"target": sample.kind, **groups},
        frame="unit",
        meta=dict(sample.meta),
    )


def _windows(sample: Sample) -> tuple[XY, ...]:
    """All right moments of a sample whose target is one of several (`meta["windows"]`, seconds)."""
    numbers = [float(number) for number in str(sample.meta.get("windows", "")).split()]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def manifest_asks(root: Path) -> str | None:
    """What the data set says it asks for (`asks` in manifest.json); None when it does not say."""
    manifest = (root if root.is_dir() else root.parent) / "manifest.json"
    if not manifest.is_file():
        return None
    return json.loads(manifest.read_text(encoding="utf-8")).get("asks")


def _axes(samples: Iterable[Sample]) -> list[str]:
    values: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        for key, value in sample.meta.items():
            if not isinstance(value, float) and len(values[key]) <= _MOST_GROUPS:
                values[key].add(str(value))
    return sorted(key for key, found in values.items() if 1 < len(found) <= _MOST_GROUPS)
