"""RefCOCO, RefCOCO+ and RefCOCOg: one expression, one box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.files import (
    RowBenchmark,
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
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, ItemImage, Published, Rule, Truth
from data_prep.pipeline.pickles import load_plain
from data_prep.sources.referring import RECOMMENDED, read_instances

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

    asks = "box"
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
    return BenchmarkItem(name, (image,), words(sentence), Truth(boxes=(bbox,)), asks="box")


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
