"""RefCOCO/+/g in the JSON conversions that circulate, told apart by the names of their fields.

MiniGPT-4  {"img_id": "COCO_train2014_000000580957_4", "sents": ..., "bbox": xywh, "height", "width"}
Visual-CoT {"img_path": "COCO_train2014_....jpg", "expression": ..., "bbox": xyxy, "height", "width", "split"}
Qwen-VL    {"image": "data/.../COCO_train2014_....jpg", "sent": ..., "bbox": xyxy, "height", "width"}
Hub        {"file_name": "COCO_train2014_000000580957_0.jpg", "answer": [...], "bbox": xywh} (lmms-lab; Parquet)
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline.conversion import (
    Rejected,
    box_from_xywh,
    box_from_xyxy,
    convert_rows,
    in_pixels,
    instruction,
    numbered,
)
from data_prep.pipeline.images import ImageFolder, from_bytes
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from grounding.sample import Sample

_ANNOTATION_ID = re.compile(r"(COCO_train2014_\d{12})_\d+")


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.json*", "train2014")
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")


@source(
    "refcoco_json",
    reads="JSON conversions of RefCOCO/+/g (MiniGPT-4, Visual-CoT, Qwen-VL, lmms-lab)",
    license="Apache-2.0 (annotations); images: COCO terms of use",
    home="https://github.com/Vision-CAIR/MiniGPT-4 eval_scripts/eval_data, https://github.com/deepcs233/Visual-CoT",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)

    def one(where: str, row: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
        name, sentences, to_box = _fields(row)
        content = row.get("image")
        if isinstance(content, dict):
            image, file = from_bytes(name.rpartition(".")[0], content["bytes"], row.get("width"), row.get("height"))
        else:
            image, file = folder(name, row.get("width"), row.get("height"))
        box = to_box(in_pixels(row["bbox"], image.width, image.height), image.width, image.height)

        def said(where: str, sentence: Any) -> Iterator[Item]:
            sample = Sample(
                id=where,
                images=(image,),
                instruction=instruction(sentence),
                target=box,
                source="refcoco_json",
                license="Apache-2.0",
                meta={"split": row["split"]} if isinstance(row.get("split"), str) else {},
            )
            yield Item(sample, {image.path: file}, args.as_split)

        yield from convert_rows(numbered(where, sentences) if len(sentences) > 1 else [(where, sentences[0])], said)

    return convert_rows(read_annotations(args), one)


def _fields(row: dict[str, Any]) -> tuple[str, list[str], Any]:
    """File name, sentences, and how the box is written."""
    if "img_id" in row:
        found = _ANNOTATION_ID.fullmatch(row["img_id"])
        if not found:
            raise Rejected("wrong format", f"img_id {row['img_id']!r}")
        return f"{found[1]}.jpg", [row["sents"]], box_from_xywh
    if "img_path" in row:
        return row["img_path"], [row["expression"]], box_from_xyxy
    if "sent" in row:
        return PurePosixPath(row["image"]).name, [row["sent"]], box_from_xyxy
    if "answer" in row and "file_name" in row:
        return _ANNOTATION_ID.sub(r"\1", row["file_name"]), list(row["answer"]), box_from_xywh
    raise Rejected("wrong format", f"none of the known conversions has the fields {', '.join(sorted(row))}")
