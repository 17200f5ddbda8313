"""Objects365: COCO's format; the files say images/v1/patch0/NAME.jpg, the archives unpack to patch0/NAME.jpg."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import PurePosixPath

from data_prep import Item, Reject, source
from data_prep.pipeline.readers import add_files, annotation_files
from data_prep.sources.detections import convert_detection, detection_arguments
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "zhiyuan_objv2_train.json", ".")
    detection_arguments(parser)


def _below_patch(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[-2:])


@source(
    "objects365",
    reads="zhiyuan_objv2_*.json of Objects365",
    license="CC-BY-4.0 (annotations); images: Flickr terms",
    home="https://www.objects365.org",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    return convert_detection(args, "objects365", "CC-BY-4.0", _below_patch)
