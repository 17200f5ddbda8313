"""ShowUI-desktop and ShowUI-web: screenshots with elements, boxes and points as fractions.

ROOT/metadata/*.json  [{"img_url": "a.png", "img_size": [w, h], "element": [{"instruction", "bbox", "point",
                        "data_type"?}, ...]}, ...]
ROOT/images/
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, instruction, numbered, point_from_xy
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from data_prep.sources.os_atlas import FRACTION_SLACK
from grounding.sample import Sample
from grounding.targets import Target


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "metadata/*.json", "images")
    parser.add_argument("--target", choices=("box", "point"), default="box")


@source(
    "showui",
    reads="metadata/*.json of ShowUI-desktop or ShowUI-web",
    license="MIT (annotations)",
    home="https://huggingface.co/datasets/showlab/ShowUI-desktop",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)

    def rows() -> Iterator[tuple[str, Any]]:
        for where, row in read_annotations(args):
            if isinstance(row, dict) and isinstance(row.get("element"), list):
                yield from numbered(where, ((row, element) for element in row["element"]))
            else:
                yield where, row if isinstance(row, Rejected) else Rejected("wrong format", "no list of elements")

    def one(where: str, pair: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[Item]:
        screen, element = pair
        image, file = folder(screen["img_url"], *screen.get("img_size", (None, None)))
        target: Target
        if args.target == "box":
            target = box_from_xyxy(element["bbox"], 1, 1, slack=FRACTION_SLACK)
        else:
            target = point_from_xy(element["point"], 1, 1, slack=FRACTION_SLACK)
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(element["instruction"]),
            target=target,
            source="showui",
            license="MIT",
            meta={"data_type": str(element["data_type"])} if element.get("data_type") else {},
        )
        yield Item(sample, {image.path: file})

    return convert_rows(rows(), one)
