"""GUI-R1: Parquet rows with the screenshot inside.

    {"image": bytes | {"bytes"}, "instruction", "history", "task_type": "low" | "high", "gt_action", "gt_bbox",
     "gt_input_text"}; gt_bbox is a point [x, y] or a box [x1, y1, x2, y2], in fractions.

Only clicks point at something; rows of other actions are passed over.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline.conversion import box_from_xyxy, convert_rows, instruction, point_from_xy
from data_prep.pipeline.images import from_bytes
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from data_prep.sources.os_atlas import FRACTION_SLACK
from data_prep.sources.uground import image_bytes
from grounding.sample import Sample
from grounding.targets import Target


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.parquet")
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")


@source(
    "gui_r1",
    reads="*.parquet of GUI-R1-3K",
    license="Apache-2.0",
    home="https://huggingface.co/datasets/ritzzai/GUI-R1",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        if row["gt_action"] != "click":
            return
        image, data = from_bytes(where.replace(".parquet:", "-"), image_bytes(row["image"]))
        place = row["gt_bbox"]
        target: Target
        if len(place) == 2:
            target = point_from_xy(place, 1, 1, slack=FRACTION_SLACK)
        else:
            target = box_from_xyxy(place, 1, 1, slack=FRACTION_SLACK)
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(row["instruction"]),
            target=target,
            source="gui_r1",
            license="Apache-2.0",
            meta={"task_type": str(row.get("task_type", "")), "history": str(row.get("history", ""))},
        )
        yield Item(sample, {image.path: data}, args.as_split)

    return convert_rows(read_annotations(args), one)
