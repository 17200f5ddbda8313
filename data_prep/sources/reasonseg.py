"""ReasonSeg (LISA): implicit questions; here the box around the target's outline.

ROOT/train/NAME.jpg and NAME.json (labelme): {"text": [...], "is_sentence": bool,
    "shapes": [{"label": "target" | "ignore" | "flag", "points": [[x, y], ...]}, ...]}
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, instruction, number, numbered
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import require
from grounding.errors import UsageError
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["train", "val"])


def _files(args: Namespace) -> list[Path]:
    files = [path for split in args.splits for path in sorted((args.root / split).glob("*.json"))]
    if not files:
        raise UsageError(f"no .json in {', '.join(str(args.root / split) for split in args.splits)}")
    return files


@source(
    "reasonseg",
    reads="train/*.json and val/*.json (labelme) of ReasonSeg, boxed",
    license="Apache-2.0 (annotations); images: OpenImages and ScanNet terms",
    home="https://github.com/dvlab-research/LISA",
    add_arguments=add_arguments,
    inputs=_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args)

    def one(where: str, path: Path) -> Iterator[Item | Sample | Reject]:
        split: Any = path.parent.name
        row = json.loads(require(path).read_text(encoding="utf-8", errors="surrogateescape"))
        image, file = folder(f"{split}/{path.stem}.jpg", row.get("imageWidth"), row.get("imageHeight"))
        outlines = [shape["points"] for shape in row["shapes"] if shape["label"] == "target"]
        points = [(number(x), number(y)) for outline in outlines for x, y in outline]
        if not points:
            raise Rejected("empty box", "no outline is labeled target")
        xs, ys = zip(*points, strict=True)
        box = box_from_xyxy((min(xs), min(ys), max(xs), max(ys)), image.width, image.height)

        def said(where: str, text: Any) -> Iterator[Item]:
            sample = Sample(
                id=where,
                images=(image,),
                instruction=instruction(text),
                target=box,
                source="reasonseg",
                license="Apache-2.0",
                meta={"split": split, "sentence": bool(row.get("is_sentence", False))},
            )
            yield Item(sample, {image.path: file}, split)

        yield from convert_rows(numbered(f"reasonseg-{split}-{path.stem}", row["text"]), said)

    return convert_rows(((f"{path.parent.name}/{path.name}", path) for path in _files(args)), one)
