"""PixMo-Points: what to point at, and every instance of it.

Parquet or JSON lines {"image_url", "image_sha256", "label", "points": [{"x", "y"}, ...], "count"}; x and y are
percent. The data set has addresses only: fetch the images first (for instance with img2dataset) and
name each file by the SHA-256 in `image_sha256`. An empty list of points is an absent target.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline.conversion import Rejected, convert_rows, instruction, point_from_xy
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from grounding.sample import Sample
from grounding.targets import Absent, Points, Target


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "data/*.parquet", "images")
    parser.add_argument("--suffix", default=".jpg", help="suffix of the image files (.jpg)")


@source(
    "pixmo_points",
    reads="data/*.parquet of PixMo-Points, images fetched by their addresses",
    license="ODC-BY-1.0 (annotations); images: terms of their sites",
    home="https://huggingface.co/datasets/allenai/pixmo-points",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)

    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        name = row["image_sha256"]
        if not isinstance(name, str) or not name.isalnum():
            raise Rejected("wrong format", f"image_sha256 {name!r}")
        image, file = folder(name + args.suffix)
        points = tuple(point_from_xy((p["x"], p["y"]), 100, 100, slack=0.2) for p in row["points"])
        if "count" in row and row["count"] is not None and row["count"] != len(points):
            raise Rejected("count differs", f"{len(points)} points, count {row['count']}")
        target: Target = Absent() if not points else points[0] if len(points) == 1 else Points(points)
        sample = Sample(
            id=where,
            images=(image,),
            instruction=instruction(row["label"]),
            target=target,
            source="pixmo_points",
            license="ODC-BY-1.0",
            meta={"method": str(row.get("collection_method") or "")},
        )
        yield Item(sample, {image.path: file})

    return convert_rows(read_annotations(args), one)
