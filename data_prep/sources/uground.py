"""UGround-V1-Data and UGround-V1-Data-Box: web screenshots, several instructions each.

Parquet rows {"image": bytes, "width", "height", "conversations": JSON text}; answers are "(x, y)" or
"(x1, y1, x2, y2)" in thousandths of the sides. `--unit 999` reads them as bins 0..999 whose last stands for the edge.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline import spaces
from data_prep.pipeline.conversations import Exchange, exchanges, sound
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, instruction, numbered, point_from_xy
from data_prep.pipeline.images import from_bytes
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from data_prep.pipeline.spaces import Spaces
from grounding.pictures import words_alone
from grounding.sample import Sample

_TUPLE = re.compile(r"\s*[(\[]?\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){1,3})\s*[)\]]?\s*")
_WRAPPING = re.compile(r"^.*?Description:\s*", re.DOTALL)


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.parquet")
    parser.add_argument("--unit", type=float, default=1000.0, help="number that stands for a whole side (1000)")
    spaces.add_arguments(parser)


@source(
    "uground",
    reads="Parquet of UGround-V1-Data or UGround-V1-Data-Box",
    license="CC-BY-NC-SA-4.0",
    home="https://huggingface.co/datasets/osunlp/UGround-V1-Data-Box",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    unit = args.unit
    statistics = Spaces(f"--unit {unit:g}", args)

    def one(where: str, row: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
        name = where.replace(".parquet:", "-").replace("/", "_")
        image, data = from_bytes(name, image_bytes(row["image"]), row.get("width"), row.get("height"))

        def answered(where: str, exchange: Exchange) -> Iterator[Item]:
            question = words_alone(sound(exchange.question))
            numbers = read_numbers(sound(exchange.answer))
            statistics.add(numbers, (image.width, image.height), (unit, unit))
            sample = Sample(
                id=where,
                images=(image,),
                instruction=instruction(_WRAPPING.sub("", question)),
                target=(box_from_xyxy if len(numbers) == 4 else point_from_xy)(numbers, unit, unit, slack=unit / 500),
                source="uground",
                license="CC-BY-NC-SA-4.0",
            )
            yield Item(sample, {image.path: data})

        yield from convert_rows(numbered(where, exchanges(row)), answered)

    return statistics.watch(convert_rows(read_annotations(args), one))


def image_bytes(value: Any) -> bytes:
    """An image column of a Hub data set: bytes, or {"bytes": ..., "path": ...}.

    Raises:
        Rejected: "missing image" when there are no bytes.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise Rejected("missing image", "the row holds no image")
    return data


def read_numbers(text: str) -> list[float]:
    """The numbers of "(x, y)" or "(x1, y1, x2, y2)"."""
    match = _TUPLE.fullmatch(text)
    numbers = [float(part) for part in match[1].split(",")] if match else []
    if len(numbers) not in (2, 4):
        raise Rejected("wrong format", f"answer {text[:80]!r}")
    return numbers
