"""Visual-CoT: a question, the region that answers it, the answer.

metadata   {"question", "answer", "image", "width", "height", "bboxs": [xyxy, ...], "dataset", "split"}
363k file  {"image": [path, "path###[x1, y1, x2, y2]"], "conversations": [question, box, "<image>", answer], ...}
detection  {"img_path", "expression", "bbox": xyxy, "width", "height"}: the region only, no answer
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject, Split, source
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, in_pixels, instruction
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from grounding.sample import Sample
from grounding.targets import Target, TextBox

_ASK = "Please provide the bounding box coordinate of the region"
_FILES: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "viscot_363k.json", ".")
    parser.add_argument(
        "--folders",
        nargs="*",
        default=[],
        metavar="DATASET=FOLDER",
        help="where the images of a part lie below --image-folder, for the metadata files (cub=CUB_200_2011/images)",
    )


@source(
    "viscot",
    reads="viscot_363k.json, metadata/*.jsonl or benchmark_det/*.jsonl of Visual-CoT",
    license="Apache-2.0 (annotations); images: terms of the twelve data sets",
    home="https://huggingface.co/datasets/deepcs233/Visual-CoT, https://github.com/deepcs233/Visual-CoT",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)
    folders = dict(pair.split("=", 1) for pair in args.folders)

    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        part = str(row.get("dataset", ""))
        name, boxes, question, answer = _fields(row)
        if part in folders:
            name = f"{folders[part]}/{name}"
        image, file = folder(name, row.get("width"), row.get("height"))
        size = image.width, image.height
        regions = tuple(box_from_xyxy(in_pixels(box, *size), *size) for box in boxes)
        if not regions:
            raise Rejected("empty box", "no region")
        target: Target = regions[0] if answer is None else TextBox(answer, regions)
        split = str(row.get("split", "train"))
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(question),
            target=target,
            source="viscot",
            license="Apache-2.0",
            meta={"dataset": part, "split": split},
        )
        yield Item(sample, {image.path: file}, _FILES.get(split, "test"))

    return convert_rows(read_annotations(args), one)


def _fields(row: dict[str, Any]) -> tuple[str, list[Any], Any, str | None]:
    """File name, boxes (xyxy in pixels), question, answer (None in the detection files)."""
    if "conversations" in row:
        name, _, box = row["image"][1].partition("###")
        question = row["conversations"][0]["value"].removeprefix("<image>").split(_ASK)[0]
        return name, [json.loads(box)], question, row["conversations"][3]["value"]
    if "expression" in row:
        return row["img_path"], [row["bbox"]], row["expression"], None
    return row["image"], row["bboxs"], row["question"], str(row["answer"])
