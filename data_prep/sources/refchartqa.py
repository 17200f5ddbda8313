"""RefChartQA: a question about a chart, its answer, the regions that prove it.

Parquet rows {"id", "image": {"bytes"}, "query", "label", "type": "human" | "machine" | "pot",
"grounding_bboxes": [{"x", "y", "w", "h"}, ...]}, pixels.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from data_prep import SPLITS, Item, Reject, Split, source
from data_prep.pipeline.conversion import Rejected, box_from_xywh, convert_rows, instruction
from data_prep.pipeline.images import from_bytes
from data_prep.pipeline.readers import add_files, annotation_files, read_rows
from data_prep.sources.uground import image_bytes
from grounding.sample import Sample
from grounding.targets import TextBox


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "data/*.parquet")


@source(
    "refchartqa",
    reads="data/{train,validation,test}-*.parquet of RefChartQA",
    license="AGPL-3.0 (annotations); images: ChartQA, GPL-3.0",
    home="https://huggingface.co/datasets/omoured/RefChartQA",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        image, data = from_bytes(where.replace(".parquet:", "-"), image_bytes(row["image"]))
        regions = tuple(
            box_from_xywh([box[key] for key in ("x", "y", "w", "h")], image.width, image.height)
            for box in row["grounding_bboxes"]
        )
        if not regions:
            raise Rejected("empty box", "no region")
        label = row["label"]
        sample = Sample(
            id=f"{where}-{row['id']}",
            images=(image,),
            instruction=instruction(row["query"]),
            target=TextBox(", ".join(map(str, label)) if isinstance(label, list) else str(label), regions),
            source="refchartqa",
            license="AGPL-3.0",
            meta={"type": str(row.get("type", ""))},
        )
        yield Item(sample, {image.path: data}, _split(where))

    rows = (row for path in annotation_files(args) for row in read_rows(path))
    return convert_rows(rows, one)


def _split(name: str) -> Split:
    stem = PurePath(name).name.split("-")[0]
    return "val" if stem.startswith("val") else next((split for split in SPLITS if stem.startswith(split)), "train")
