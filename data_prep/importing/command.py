"""Import a file of your own: it says what the file is, how its numbers are read, and what was rejected.

    python -m data_prep import labels.csv --images shots
    python -m data_prep import annotations.json --images shots --out data/mine --source mine --license CC0-1.0
    python -m data_prep import rows.jsonl --space thousandth --column instruction=say --column box=x0,y0,x1,y1

It reads CSV, JSON, JSON lines and Parquet tables, COCO (with captions), YOLO, Pascal VOC, LabelMe, CVAT, Label
Studio, CreateML, and conversations of ShareGPT, ms-swift and VLM-R1. FILE may be the folder that a tool wrote. Where
the numbers are legible in two ways, it asks instead of guessing. A recipe's `data` takes the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep import Item, Sample, Source, named_by_the_user
from data_prep.importing.recognize import FORMATS, Plan, recognize
from data_prep.importing.records import FoundImages
from data_prep.pipeline.spaces import UNITS
from data_prep.pipeline.writer import REJECTS, State, run
from grounding.command_line import CommandParser
from grounding.errors import UsageError
from grounding.io import open_image, read_samples
from grounding.region_drawing import TARGET_COLOR, draw_regions
from grounding.sample import regions_of

VAL = 0.1
DRAWN = 3
PREVIEW = "preview.png"
SPEC = Source("import", lambda args: (), reads=", ".join(FORMATS), license="unknown")


@dataclass(frozen=True)
class Imported:
    """A finished import."""

    plan: Plan
    out: Path
    manifest: dict[str, Any]


def _column(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROLE=COLUMN, for instance instruction=say")
    return role, name


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m data_prep import", description=__doc__)
    parser.add_argument("file", type=Path, help="the annotations: a file, or the folder that a tool wrote")
    parser.add_argument("--images", dest="folder", type=Path, help="folder of the images (beside the file)")
    parser.add_argument("--out", type=Path, help="folder of the data set to make (data/NAME of the file)")
    parser.add_argument("--space", choices=tuple(UNITS), help="what the numbers are, where the file does not say it")
    parser.add_argument("--box", choices=("xyxy", "xywh", "cxcywh", "yxyx"), help="order of the four numbers")
    parser.add_argument(
        "--column",
        type=_column,
        action="append",
        default=[],
        metavar="ROLE=COLUMN",
        help="what a column is: image, instruction, label, box (or LEFT,TOP,RIGHT,BOTTOM), point (repeatable)",
    )
    parser.add_argument("--dialect", help="the words that answers of a conversation are in, for instance qwen2_vl")
    parser.add_argument("--seen", choices=("original",), help="pixels in answers are those of the files")
    parser.add_argument("--source", help="what the rows say they come from (the file's name)")
    parser.add_argument("--license", help="the license that the rows state (unknown)")
    parser.add_argument("--val", type=_share, default=VAL, help=f"share of the images whose rows go to val ({VAL:g})")
    parser.add_argument("--limit", type=int, help="stop after so many samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-rejects", type=float, default=0.1, help="share of rejected rows at which it stops (0.1)"
    )
    parser.add_argument("--trust-space", action="store_true", help="keep a space that other numbers speak against")
    parser.add_argument("--overwrite", action="store_true", help="replace another data set in --out")
    return parser


def import_file(
    args: argparse.Namespace, progress: Callable[[State], None] | None = None, *, where: Path | None = None
) -> Imported:
    """Convert what `args.file` is. The images are looked at twice, once before anything is written.

    Args:
        args: of `build_parser`.
        where: a folder for data sets named after their content, in place of `args.out`.

    Raises:
        UsageError: it is nothing known, or the user has to say what it means.
        FoveaError: too many rows are rejected.
    """
    args = argparse.Namespace(**vars(args))
    if not args.file.exists():
        raise UsageError(f"{args.file}: no such file")
    if args.folder is not None and not args.folder.is_dir():
        raise UsageError(f"--images {args.folder}: no such folder")
    name = args.file.name if args.file.is_dir() else args.file.stem
    if name in ("data", "annotations", "dataset", "_annotations.coco", "result"):  # what tools call every file
        name = args.file.absolute().parent.name
    given = args.file.absolute()
    folder = args.folder or (given if given.is_dir() else given.parent)
    args.images, args.decode, args.format, args.as_split, args.start = "link", False, "jsonl", "train", 0
    args.columns, args.source = dict(args.column), args.source or name
    args.root = given if given.is_dir() else given.parent
    look = partial(FoundImages, folder.absolute(), args, anywhere=args.folder is None)
    args.pictures = look()
    plan = recognize(args)
    args.root = args.file.absolute().parent
    found = args.pictures
    for item in islice(plan.convert(args), args.limit):
        if isinstance(item, (Item, Sample)):
            continue
    args.pictures = type(found)(found.root, args, anywhere=found.anywhere)
    args.decided = json.dumps(dict(plan.settings), sort_keys=True)
    args.image_state = hashlib.sha256(json.dumps(found.state()).encode()).hexdigest()
    spec = replace(
        SPEC, convert=named_by_the_user(plan.convert), inputs=lambda _: list(plan.inputs), finish=draw_rows
    )
    if where is not None:
        identity = [
            args.image_state,
            args.decided,
            args.space,
            args.box,
            str(args.column),
            args.val,
            args.seed,
            args.source,
        ]
        digest = hashlib.sha256(json.dumps([identity, *map(_content, plan.inputs)]).encode()).hexdigest()
        args.out = where / f"{name}-{digest[:12]}"
    args.out = args.out or Path("data") / name
    return Imported(plan, args.out, run(spec, args, progress))


def _content(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def draw_rows(folder: Path) -> None:
    """Three rows of the data set in `folder`, of different images, in one picture."""
    sheets: list[Image.Image] = []
    drawn: set[str] = set()
    for split in ("train", "val", "test"):
        file = folder / f"{split}.jsonl"
        for sample in read_samples(file) if file.is_file() else ():
            if sample.images[0].path in drawn or len(sheets) == DRAWN:
                continue
            drawn.add(sample.images[0].path)
            images = [open_image(folder, image) for image in sample.images]
            regions = [(region, TARGET_COLOR) for region in regions_of(sample.target)]
            sheet = draw_regions(images, regions)
            sheet.thumbnail((640, 640))
            sheets.append(draw_regions([sheet], [], caption=sample.words[:100]))
        if len(sheets) == DRAWN:
            break
    if sheets:
        whole = Image.new("RGB", (sum(s.width + 8 for s in sheets), max(s.height for s in sheets)), (255, 255, 255))
        for number, sheet in enumerate(sheets):
            whole.paste(sheet, (sum(s.width + 8 for s in sheets[:number]), 0))
        whole.save(folder / PREVIEW)


def describe_import(file: Path, done: Imported) -> list[str]:
    """The lines that say what was done."""
    manifest, out = done.manifest, done.out
    lines = [f"{file}: {done.plan.format}", *(f"  {label:<12} {text}" for label, text in done.plan.told)]
    rows = ", ".join(f"{count} {split}" for split, count in manifest["rows"].items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in manifest["targets"].items())
    lines.append(f"{out}: {rows} ({kinds}); {manifest['rejected']} rejected")
    for reason, count in sorted(manifest["rejects"].items(), key=lambda pair: -pair[1]):
        lines.append(f"  {count:8d}  {reason}: {_first(out / REJECTS, reason)}")
    return [*lines, f"drawn: {out / PREVIEW}", f"next:  {next_command(out, manifest)}"]


def _first(rejects: Path, reason: str) -> str:
    with rejects.open(encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        row = next(row for row in rows if row["reason"] == reason)
    return f"{row['where']}, {row['detail']}"[:160].removesuffix(", ")


def next_command(out: Path, manifest: dict[str, Any]) -> str:
    """What trains on it."""
    words = ["python", "train.py", "configs/recipes/your_data.yaml", f"data={out}", f"name={out.name}"]
    if "val" not in manifest["rows"]:
        words += ["stages.1.eval=null", "stages.1.args.eval_strategy=no"]
    return shlex.join(words)
