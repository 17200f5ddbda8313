"""VLM-R1 (RefCOCO/+/g for RL, LISA-Grounding): boxes xyxy in pixels.

jsonl  {"id", "image": "train2014/COCO_....jpg", "conversations": [{"from": "human", "value": "<image>Please provide
        the bounding box coordinate of the region this sentence describes: ..."}, {"from": "gpt", "value": [...]}]}
json   [{"image", "problem", "normal_caption"?, "solution": [x1, y1, x2, y2]}, ...]
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, in_pixels, instruction
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from grounding.sample import Sample

_WRAPPING = re.compile(
    r"^(?:<image>\s*)?Please provide the bounding box coordinates? of the region .*?describes:\s*", re.I
)
_ANSWER = re.compile(r"</?answer>|```(?:json)?")


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.jsonl", ".")
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")


@source(
    "vlm_r1",
    reads="rec_jsons / rec_jsonsl of VLM-R1, and LISA-Grounding in that form",
    license="Apache-2.0 (annotations); images: COCO terms of use",
    home="https://huggingface.co/datasets/omlab/VLM-R1",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)

    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        text, box = _fields(row)
        image, file = folder(row["image"], row.get("width"), row.get("height"))
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(_WRAPPING.sub("", text).removesuffix(".")),
            target=box_from_xyxy(in_pixels(box, image.width, image.height), image.width, image.height),
            source="vlm_r1",
            license="Apache-2.0",
            meta={"dataset": str(row["dataset"])} if "dataset" in row else {},
        )
        yield Item(sample, {image.path: file}, args.as_split)

    return convert_rows(read_annotations(args), one)


def _fields(row: dict[str, Any]) -> tuple[str, Any]:
    """The sentence and the box."""
    if "solution" in row:
        return row.get("normal_caption") or row["problem"], _box(row["solution"])
    question, answer = row["conversations"][:2]
    return question["value"], _box(answer["value"])


def _box(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(_ANSWER.sub("", value))
    except ValueError:
        raise Rejected("wrong format", f"solution {value[:80]!r}") from None
