"""SE-GUI-3k and GTA1: conversations whose row also has the box.

    {"images": ["a.png"], "bbox": [x1, y1, x2, y2], "conversations": [system?, human, gpt]}

SE-GUI writes pixels, GTA1's grounding data (HelloKKMe/grounding_dataset) thousandths: `--unit thousandth`.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline.conversations import exchanges, image_names, sound
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, in_pixels, instruction, number
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from data_prep.pipeline.spaces import Spaces
from data_prep.sources.chats import conversation_arguments
from grounding.pictures import words_alone
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.json", "images")
    conversation_arguments(parser)
    parser.add_argument("--unit", choices=("pixel", "thousandth"), default="pixel")


@source(
    "se_gui",
    reads="the JSON of SE-GUI-3k (pixels) or of GTA1's grounding data (thousandths)",
    license="Apache-2.0 (annotations)",
    home="https://huggingface.co/datasets/XinBB/SE-GUI-3k, https://huggingface.co/datasets/HelloKKMe/grounding_dataset",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)
    statistics = Spaces(f"--unit {args.unit}", args)
    wrapping = [re.compile(pattern, re.DOTALL | re.IGNORECASE) for pattern in args.strip]

    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        image, file = folder(image_names(row)[0].removeprefix(args.image_prefix))
        width, height, slack = (1000, 1000, 2.0) if args.unit == "thousandth" else (image.width, image.height, None)
        first = next(exchanges(row), None)
        if first is None:
            raise Rejected("empty instruction", "no exchange")
        question = words_alone(sound(first.question))
        for pattern in wrapping:
            question = pattern.sub("", question)
        statistics.add([number(n) for n in row["bbox"]], (image.width, image.height), (width, height))
        if args.unit == "pixel":
            in_pixels(row["bbox"], image.width, image.height)
        box = box_from_xyxy(row["bbox"], width, height, slack=slack)
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(question),
            target=box,
            source="se_gui",
            license="Apache-2.0",
        )
        yield Item(sample, {image.path: file}, args.as_split)

    return statistics.watch(convert_rows(read_annotations(args), one))
