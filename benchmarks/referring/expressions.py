"""RefCOCO, RefCOCO+, RefCOCOg: one expression, one box. gRefCOCO: no, one or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from benchmarks.harness.io.row_files import read_rows
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, ItemImage, Published, Rule, Truth
from benchmarks.harness.row_benchmark import RowBenchmark
from data_prep.pipeline.pickles import load_plain
from data_prep.sources.referring import RECOMMENDED, read_instances
from grounding.errors import UsageError

_SETS = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test")}
_HUB = {"refcoco": "RefCOCO", "refcoco+": "RefCOCOplus", "refcocog": "RefCOCOg"}
_SPLITS = tuple(f"{name}_{part}" for name, parts in _SETS.items() for part in parts)
# Percent per split, in the order of _SPLITS: github.com/QwenLM/Qwen-VL README.md
_REPORTED = {
    "ONE-PEACE": (92.58, 94.18, 89.26, 88.77, 92.21, 83.23, 89.22, 89.27),
    "UNINEXT-H": (92.64, 94.33, 91.46, 85.24, 89.63, 79.79, 88.73, 89.37),
    "Qwen-VL-7B": (89.36, 92.26, 85.34, 83.12, 88.25, 77.21, 85.58, 85.48),
    "Shikra-7B": (87.01, 90.61, 80.24, 81.60, 87.36, 72.12, 82.27, 82.19),
}


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
    card = Card(
        title="RefCOCO / RefCOCO+ / RefCOCOg",
        paper="Kazemzadeh et al. 2014; Yu et al. 2016, arXiv:1608.00272; Mao et al. 2016, arXiv:1511.02283",
        get="https://github.com/lichengunc/refer, or a conversion: Visual-CoT llava/eval/REC, MiniGPT-4 "
        "eval_scripts/eval_data, Qwen-VL, lmms-lab/RefCOCO on the Hub; images: COCO train2014",
        license="Apache-2.0 (annotations); images: COCO terms of use",
        files="refcoco/refs(unc).p with instances.json; or one file per split: REC_refcoco_unc_val.jsonl (xyxy), "
        "refcoco_val.json (MiniGPT-4: xywh; VLM-R1: xyxy), refcoco_val.jsonl (Qwen-VL: xyxy), val-*.parquet "
        "(lmms-lab: xywh, several expressions a row)",
        rule="IoU >= 0.5 (Qwen-VL, InternVL, lmms-eval); MiniGPT-4 and VLM-R1 count IoU > 0.5: --iou-op gt",
        size={"refcoco_val": 10834, "refcoco_testA": 5657, "refcoco_testB": 5095, "refcoco+_val": 10758,
              "refcoco+_testA": 5726, "refcoco+_testB": 4889, "refcocog_val": 4896, "refcocog_test": 9602},
        published=tuple(
            Published(model, value, "github.com/QwenLM/Qwen-VL README.md", f"Acc@0.5 {split}")
            for split, values in zip(_SPLITS, zip(*_REPORTED.values(), strict=True), strict=True)
            for model, value in zip(_REPORTED, values, strict=True)
        ),
    )  # fmt: skip

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        name, _, part = split.rpartition("_")
        pickled = root / name / f"refs({RECOMMENDED.get(name)}).p"
        if pickled.is_file():
            return _from_pickle(pickled, root / name / "instances.json", part)
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


def _from_pickle(refs: Path, instances: Path, part: str) -> list[BenchmarkItem]:
    with naming(str(instances)):
        images, boxes = read_instances(instances)
    items = []
    for number, ref in enumerate(load_plain(refs)):
        with naming(f"{refs}[{number}]"):
            if ref["split"] != part:
                continue
            image = images[ref["image_id"]]
            shown = picture(image["file_name"], image["width"], image["height"])
            for sentence in listed(ref["sentences"]):
                bbox = corners(boxes[ref["ann_id"]])
                items.append(_item(identity(sentence["sent_id"]), shown, sentence["sent"], bbox))
    return items


@BENCHMARKS.register("grefcoco")
class GRefCOCO(Benchmark):
    """An image is right when its F1 is 1."""

    answer_kind = "boxes"
    splits = ("val", "testA", "testB")
    rule = Rule(iou_op="ge", thresholds=(0.5,), over="targets")
    card = Card(
        title="gRefCOCO (GREC)",
        paper="Liu et al. 2023, GRES, arXiv:2306.00968; He et al. 2023, GREC, arXiv:2308.16182",
        get="https://github.com/henghuiding/gRefCOCO; images: COCO train2014",
        license="CC-BY-NC-SA-4.0 (annotations)",
        files="grefs(unc).json and instances.json, in the folder or in grefcoco/",
        rule="greedy matching by generalized IoU, each pair at least 0.5; share of expressions with F1 = 1. Without "
        "a target, right means no box; N-acc and T-acc as in mdetr/datasets/refexp.py. An output nothing can be "
        "read from is wrong here; the original, a detector, has no such outputs.",
    )

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        folder = root / "grefcoco" if (root / "grefcoco").is_dir() else root
        refs = folder / "grefs(unc).json"
        if not refs.is_file() or not (folder / "instances.json").is_file():
            raise UsageError(f"{root}: has not both grefs(unc).json and instances.json; needed: {self.card.files}")
        with naming(str(folder / "instances.json")):
            images, boxes = read_instances(folder / "instances.json")
        items: list[BenchmarkItem] = []
        for where, ref in read_rows(refs):
            with naming(where):
                if words(ref["split"]) == split:
                    items += _expressions(ref, images[ref["image_id"]], boxes)
        return items

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


def _expressions(ref: dict[str, Any], image: dict[str, Any], boxes: dict[int, list[float]]) -> list[BenchmarkItem]:
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"ann_id {ids} names no annotation, or one twice; [-1] is an expression without a target")
    found = tuple(corners(boxes[i]) for i in ids if i != -1)
    targets = "none" if not found else "one" if len(found) == 1 else "several"
    return [
        BenchmarkItem(
            id=f"{identity(ref['ref_id'])}-{identity(sentence['sent_id'])}",
            images=(picture(image["file_name"], image["width"], image["height"]),),
            instruction=words(first(sentence, ("sent", "raw"))),
            truth=Truth(boxes=found, absent=not found),
            answer_kind="boxes",
            groups={"targets": targets},
        )
        for sentence in listed(ref["sentences"])
    ]
