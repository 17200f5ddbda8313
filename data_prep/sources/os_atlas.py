"""OS-Atlas grounding data: boxes as fractions [left, top, right, bottom].

[{"img_filename": "a.png", "instruction": "...", "bbox": [0.1, 0.2, 0.3, 0.4], "data_type": "icon"}, ...]
or one row per screenshot: {"img_filename", "elements": [{"instruction", "bbox", "data_type"}, ...]}
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline.conversion import box_from_xyxy, convert_rows, instruction, numbered
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from grounding.sample import Sample

FRACTION_SLACK = 0.002


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.json", "images")


@source(
    "os_atlas",
    reads="*.json of OS-Atlas-data (mobile, desktop and web domains)",
    license="Apache-2.0 (annotations); images: terms of their data sets",
    home="https://huggingface.co/datasets/OS-Copilot/OS-Atlas-data",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)

    def rows() -> Iterator[tuple[str, Any]]:
        for where, row in read_annotations(args):
            elements = row.get("elements") if isinstance(row, dict) else None
            if not isinstance(elements, list):
                yield where, row
                continue
            for place, element in numbered(where, elements):
                known = {"img_filename": row.get("img_filename")}
                yield place, {**known, **element} if isinstance(element, dict) else element

    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        image, file = folder(row["img_filename"])
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(row["instruction"]),
            target=box_from_xyxy(row["bbox"], 1, 1, slack=FRACTION_SLACK),
            source="os_atlas",
            license="Apache-2.0",
            meta={"data_type": str(row["data_type"])} if row.get("data_type") else {},
        )
        yield Item(sample, {image.path: file})

    return convert_rows(rows(), one)
