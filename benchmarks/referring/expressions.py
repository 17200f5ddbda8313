"""RefCOCO, RefCOCO+, RefCOCOg: one expression, one box. gRefCOCO: no, one or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.official_files import (
    box,
    corners,
    embedded,
    first,
    identity,
    listed,
    naming,
    picture,
    words,
)
from benchmarks.harness.io.row_files import Row, read_rows
from benchmarks.harness.items import XYXY, BenchmarkItem, ItemImage, Rule, Truth, read_card
from benchmarks.harness.row_benchmark import RowBenchmark
from data_prep.pipeline.pickles import load_plain
from data_prep.sources.referring import RECOMMENDED, read_instances
from grounding.errors import UsageError

_SETS = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test")}
_HUB = {"refcoco": "RefCOCO", "refcoco+": "RefCOCOplus", "refcocog": "RefCOCOg"}
_SPLITS = tuple(f"{name}_{part}" for name, parts in _SETS.items() for part in parts)


def _patterns(split: str) -> list[str]:
    name, _, part = split.rpartition("_")
    return [
        f"**/REC_{name}_{RECOMMENDED[name]}_{part}.jsonl",  # Visual-CoT
        f"**/{split}.jsonl",  # Qwen-VL
        f"**/{split}.json",  # MiniGPT-4, VLM-R1
        f"**/{_HUB[name]}/**/{part}-*.parquet",  # lmms-lab on the Hub
        f"data/{part}-*.parquet",
    ]


@BENCHMARKS.register("refcoco")
class RefCOCO(RowBenchmark):
    """All eight splits; a split is named `refcoco+_testA`."""

    answer_kind = "box"
    splits = _SPLITS
    patterns: ClassVar = {split: _patterns(split) for split in _SPLITS}
    rule = Rule(iou_op="ge", thresholds=(0.5,), main=0.5)
    card = read_card(__file__, "refcoco")

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        name, _, part = split.rpartition("_")
        pickled = root / name / f"refs({RECOMMENDED.get(name)}).p"
        if pickled.is_file():
            rows = ((f"{pickled}[{number}]", ref) for number, ref in enumerate(load_plain(pickled)))
            return _references(rows, root / name / "instances.json", part, "box")
        return super().read(root, split)

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        image, bbox, sentences = _row(row, file)
        for extra, sentence in enumerate(listed(sentences)):
            suffix = f"-{extra}" if len(sentences) > 1 else ""
            yield _item(f"{number}{suffix}", image, sentence, bbox)


def _item(name: str, image: ItemImage, sentence: Any, bbox: XYXY) -> BenchmarkItem:
    return BenchmarkItem(name, (image,), words(sentence), Truth(boxes=(bbox,)), answer_kind="box")


def _row(row: Mapping[str, Any], file: Path) -> tuple[ItemImage, XYXY, Any]:
    """Image, box and expressions of a row, by the keys of the five conversions."""
    size = row.get("width"), row.get("height")
    if "expression" in row:  # Visual-CoT
        return picture(row["img_path"], *size), box(row["bbox"]), [row["expression"]]
    if "sents" in row:  # MiniGPT-4; the image id carries the number of the annotation
        sentences = [row["sents"]] if isinstance(row["sents"], str) else row["sents"]
        return picture(f"{words(row['img_id']).rpartition('_')[0]}.jpg", *size), corners(row["bbox"]), sentences
    if "sent" in row:  # Qwen-VL
        return picture(row["image"], *size), box(row["bbox"]), [row["sent"]]
    if "solution" in row:  # VLM-R1
        return picture(row["image"], *size), box(row["solution"]), [first(row, ("normal_caption", "problem"))]
    sentences = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if row.get("image") is not None:  # lmms-lab, with the image
        return embedded(row["image"], file), corners(row["bbox"]), sentences
    return picture(row["file_name"], *size), corners(row["bbox"]), sentences


@BENCHMARKS.register("grefcoco")
class GRefCOCO(Benchmark):
    """An image is right when its F1 is 1."""

    answer_kind = "boxes"
    splits = ("val", "testA", "testB")
    rule = Rule(iou_op="ge", thresholds=(0.5,), over="targets")
    card = read_card(__file__, "grefcoco")

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        folder = root / "grefcoco" if (root / "grefcoco").is_dir() else root
        refs = folder / "grefs(unc).json"
        if not refs.is_file() or not (folder / "instances.json").is_file():
            raise UsageError(f"{root}: has not both grefs(unc).json and instances.json; needed: {self.card.files}")
        return _references(read_rows(refs), folder / "instances.json", split, "boxes")

    def summarize(self, scored: Scored) -> dict[str, Any]:
        pairs = list(scored.pairs)
        empty = [p for i, p in pairs if i.truth.absent]
        present = [p for i, p in pairs if not i.truth.absent]
        return {
            "no_target": len(empty),
            "no_target_without_box": sum(not p.boxes for p in empty),
            "N_acc": sum(not p.boxes for p in empty) / len(empty) if empty else 0.0,
            "T_acc": sum(bool(p.boxes) for p in present) / len(present) if present else 0.0,
            "mean_F1": sum(v.value for v in scored.verdicts) / len(scored.verdicts) if scored.verdicts else 0.0,
        }


def _references(rows: Iterable[Row], instances: Path, split: str, answer_kind: str) -> Iterator[BenchmarkItem]:
    """The expressions of references: one box each, or as many as are meant."""
    with naming(str(instances)):
        images, boxes = read_instances(instances)
    for where, ref in rows:
        with naming(where):
            if words(ref["split"]) != split:
                continue
            several, image = answer_kind == "boxes", images[ref["image_id"]]
            ids = ref["ann_id"] if several and isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            if not ids or len(set(ids)) < len(ids):
                raise ValueError(
                    f"ann_id {ids} names no annotation, or one twice; [-1] is an expression without a target"
                )
            prefix = f"{identity(ref['ref_id'])}-" if several else ""
            found = tuple(corners(boxes[i]) for i in ids if not (several and i == -1))
            targets = {0: "none", 1: "one"}.get(len(found), "several")
            items = [
                BenchmarkItem(
                    id=prefix + identity(sentence["sent_id"]),
                    images=(picture(image["file_name"], image["width"], image["height"]),),
                    instruction=words(first(sentence, ("sent", "raw"))),
                    truth=Truth(boxes=found, absent=not found),
                    answer_kind=answer_kind,
                    groups={"targets": targets} if several else {},
                )
                for sentence in listed(ref["sentences"])
            ]
        yield from items
