"""Questions about an image, with the answer and the regions that show it: Visual-CoT, RefChartQA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from data_prep import SPLITS, Item, Split
from data_prep.pipeline.conversion import Rejected, box_from_xywh, pixel_box
from data_prep.pipeline.presets import Conversion, row_source
from data_prep.sources import CARDS
from grounding.errors import UsageError
from grounding.sample import ToolTurn
from grounding.targets import Target, TextBox

_ASK = "Please provide the bounding box coordinate of the region"
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def _folders(run: Conversion) -> dict[str, str]:
    """What `--folders` says: data set -> folder of its images."""
    for pair in run.args.folders:
        if "=" not in pair:
            raise UsageError(f"--folders {pair}: give DATASET=FOLDER")
    return dict(pair.split("=", 1) for pair in run.args.folders)


@row_source(
    **CARDS["viscot"],
    flags={
        "--folders": {
            "nargs": "*",
            "default": [],
            "metavar": "DATASET=FOLDER",
            "help": "where the images of a part lie below --image-folder, for the metadata files"
            " (cub=CUB_200_2011/images)",
        },
        "--look": {
            "action": "store_true",
            "help": "rows with an answer and one region begin with a call of `zoom` on it, to be taught with `tools`",
        },
    },
    prepare=_folders,
)
def viscot(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """Boxes are pixels, xyxy.

    metadata   {"question", "answer", "image", "width", "height", "bboxs": [...], "dataset", "split"}
    363k file  {"image": [path, "path###[x1, y1, x2, y2]"], "conversations": [question, box, "<image>", answer], ...}
    detection  {"img_path", "expression", "bbox", "width", "height"}: the region only, no answer
    """
    part = str(row.get("dataset", ""))
    answer = None
    if "conversations" in row:
        name, _, box = row["image"][1].partition("###")
        question = row["conversations"][0]["value"].removeprefix("<image>").split(_ASK)[0]
        boxes, answer = [json.loads(box)], row["conversations"][3]["value"]
    elif "expression" in row:
        name, boxes, question = row["img_path"], [row["bbox"]], row["expression"]
    else:
        name, boxes, question, answer = row["image"], row["bboxs"], row["question"], str(row["answer"])
    if part in run.prepared:
        name = f"{run.prepared[part]}/{name}"
    picture = run.folder(name, row.get("width"), row.get("height"))
    regions = tuple(pixel_box(box, picture[0]) for box in boxes)
    if not regions:
        raise Rejected("empty box", "no region")
    target: Target = regions[0] if answer is None else TextBox(answer, regions)
    split = str(row.get("split", "train"))
    meta = {"dataset": part, "split": split}
    item = run.item(where, [picture], question, target, split=_SPLITS.get(split, "test"), meta=meta)
    if run.args.look and answer is not None and len(regions) == 1:
        item = replace(item, sample=replace(item.sample, turns=(ToolTurn("zoom", regions[0]),)))
    yield item


@row_source(**CARDS["refchartqa"])
def refchartqa(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """{"id", "image": {"bytes"}, "query", "label", "type": "human" | "machine" | "pot",
    "grounding_bboxes": [{"x", "y", "w", "h"}, ...]}, pixels.
    """
    picture = run.inside_row(where, row["image"])
    size = picture[0].width, picture[0].height
    boxes = ([box[key] for key in ("x", "y", "w", "h")] for box in row["grounding_bboxes"])
    regions = tuple(box_from_xywh(box, *size) for box in boxes)
    if not regions:
        raise Rejected("empty box", "no region")
    label = row["label"]
    answer = ", ".join(map(str, label)) if isinstance(label, list) else str(label)
    stem = PurePath(where).name.split("-")[0]
    split: Split = next((split for split in SPLITS if stem.startswith(split)), "train")
    meta = {"type": str(row.get("type", ""))}
    yield run.item(f"{where}-{row['id']}", [picture], row["query"], TextBox(answer, regions), split=split, meta=meta)
