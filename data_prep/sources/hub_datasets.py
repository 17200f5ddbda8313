"""Any data set of the Hugging Face Hub, or any .parquet / .jsonl / .json, through a mapping in YAML.

    # python -m data_prep hub --mapping lisa.yaml --root DIR --out data/lisa
    name: lisa_grounding            # what `source` of the rows says
    license: Apache-2.0
    files: [data/train-*.parquet]   # below --root: .parquet, .jsonl, .json (an array), .csv; or, from the Hub:
    # hub: {path: omlab/LISA, name: null, split: train}
    split: train                    # a name, or {column: split}
    image: image                    # a column with bytes, {"bytes": ...}, a path, or a list of these
    image_folder: images
    instruction: problem            # a column, or a text with columns in braces: "Find {caption}."
    target:
      kind: box                     # box, boxes, point, points, span, text_box, absent
      column: solution              # dotted names reach into objects: objects.bbox
      fields: null                  # numbers in fields of their own: [x, y, width, height], in `column` or the row
      image: null                   # of several images, the one meant: a number from 0, or a column with it
      format: xyxy                  # xyxy, xywh, yxyx, cxcywh; for points xy or yx
      unit: pixel                   # pixel, percent, fraction, or the number that stands for a whole side: 1000
      text: answer                  # the answer's column, for text_box
    each: null                      # a column that holds a list: one sample an element, its fields beside the row's
    where: {type: human}            # only rows with these values
    thought: null                   # a column
    meta: [type]                    # columns to keep

Numbers in fields of their own, for example: CreateML has `{each: annotations, instruction: label, target: {kind: box,
column: coordinates, fields: [x, y, width, height], format: cxcywh}}`, Visual Genome `{each: regions, instruction:
phrase, target: {kind: box, fields: [x, y, width, height], format: xywh}}`, Label Studio `{each: annotations.0.result,
instruction: value.rectanglelabels.0, target: {kind: box, column: value, fields: [x, y, width, height], format: xywh,
unit: percent}}`.

Data sets that need code of their own to load are refused.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from data_prep import Item, Reject, source
from data_prep.pipeline import spaces
from data_prep.pipeline.conversion import convert_rows
from data_prep.pipeline.mapping import Mapping, load_mapping
from data_prep.pipeline.readers import elsewhere, read_rows, require
from data_prep.pipeline.spaces import Spaces
from grounding.errors import UsageError
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--mapping", type=Path, required=True, help="YAML file; see the top of data_prep/sources/hub_datasets.py"
    )
    spaces.add_arguments(parser)


def _files(args: Namespace, mapping: Mapping) -> list[Path]:
    if args.root is None:
        raise UsageError("--root is needed: the mapping names files")
    found: list[Path] = []
    for pattern in mapping.files:
        matches = sorted(path for path in args.root.glob(pattern) if path.is_file())
        if not matches:
            raise UsageError(
                f"{args.mapping}: files: nothing matches {pattern} in {args.root}{elsewhere(args.root, pattern)}"
            )
        found += matches
    return found


def _mapping(args: Namespace) -> Mapping:
    try:
        content = yaml.safe_load(require(args.mapping).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{args.mapping}: {error}") from error
    return load_mapping(content, str(args.mapping))


def _inputs(args: Namespace) -> list[Path]:
    mapping = _mapping(args)
    return [args.mapping, *(_files(args, mapping) if mapping.files else ())]


@source(
    "hub",
    reads="any Hub data set, Parquet or JSON, through --mapping FILE.yaml",
    license="given in the mapping",
    add_arguments=add_arguments,
    inputs=_inputs,
    needs_root=False,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    mapping = _mapping(args)

    def rows() -> Iterator[tuple[str, Any]]:
        if mapping.files:
            for path in _files(args, mapping):
                yield from read_rows(path)
        else:
            yield from _stream(mapping.hub)

    statistics = Spaces(f"{args.mapping}: target.unit {mapping.target.unit}", args)
    one = partial(mapping.convert, mapping.run(args, statistics))
    return statistics.watch(convert_rows(mapping.explode(rows()), one))


def _stream(hub: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    from datasets import Image, load_dataset  # noqa: PLC0415  slow to import, needed here only

    try:
        data = load_dataset(**hub, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"the Hub data set {hub.get('path')}: {error}") from error
    for column, feature in (data.features or {}).items():
        if isinstance(feature, Image):
            data = data.cast_column(column, Image(decode=False))  # the bytes, as they are
    for number, row in enumerate(data, 1):
        yield f"{hub['path']}:{number}", row
