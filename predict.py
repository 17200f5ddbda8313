"""Ask a model about one image, or several, and draw its answer.

    python predict.py --model runs/x/final --image shot.png "Click Save"
    python predict.py --model runs/x/final --image a.png --image b.png "the same dog" --kind box
    python predict.py --model NAME --endpoint http://host:8000/v1 --dialect qwen3_vl --image shot.png "Click Save"
    python predict.py --model runs/zoom/final --tools zoom --image shot.png "Click Save"

It asks as training and evaluation do, and prints what the model wrote, what that says in pixels of the images, and
where the drawing is. Many questions, with a score, are eval.py's business.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.harness.cli import OneLineParser, model_arguments
from benchmarks.harness.io.predictions import PredictionFormat, read_answer
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.images import image_size
from grounding.answer import Answer, ImageSize
from grounding.dialects import get_dialect
from grounding.errors import FoveaError, UsageError
from grounding.folders import check_new
from grounding.io import open_image
from grounding.region_drawing import ANSWER_COLOR, draw_regions
from grounding.sample import ImageRef
from models.find import find_model
from models.profile import Profile, read_profile

KINDS = ("point", "box", "boxes", "points", "text_box")
COLOR = ANSWER_COLOR


@dataclass(frozen=True)
class PredictedAnswer:
    """What the model wrote, what that says in the canonical frame, and the turns before it where there are tools."""

    text: str
    answer: Answer
    turns: Sequence[dict[str, Any]] = ()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = OneLineParser(
        prog="predict.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("instruction", help="what to find, in words")
    parser.add_argument("--image", type=Path, action="append", required=True, help="an image; again for each further")
    parser.add_argument("--kind", choices=KINDS, default="point", help="what is asked for (point)")
    parser.add_argument(
        "--out", type=Path, help="PNG to draw the answer into (IMAGE-answer.png in the working folder)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--tools", help="what it may call before it answers: zoom, or a recipe's file")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dialect", help="how coordinates are worded; default: what the model folder says")
    parser.add_argument("--grammar", choices=("bare", "think", "think_answer"))
    model_arguments(parser.add_argument_group("the model"))
    parser.set_defaults(backend="transformers")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        args = parse(argv)
        if args.model is None:
            raise UsageError("say who answers: --model NAME")
        images = [_open(path) for path in args.image]
        out = args.out or _beside(args.image[0])
        check_new(out)
        source, folder = (None, None) if args.endpoint else find_model(args.model)
        name = args.model if folder is None else str(folder)
        profile = read_profile(name, args.dialect, args.grammar, args.image_first, system=args.system)
        get_dialect(profile.dialect)  # a wrong name costs no loading
        told = ask(args, profile, source, images)
        report(args, images, told, draw(images, told.answer, out))
    except FoveaError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def ask(
    args: argparse.Namespace, profile: Profile, source: str | None, images: Sequence[Image.Image]
) -> PredictedAnswer:
    """Ask the model that the arguments name."""
    # torch and transformers: seconds that a misspelt file should not cost
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    from benchmarks.harness.backends.generate import Decoding, Request  # noqa: PLC0415
    from benchmarks.harness.backends.opening import open_backend  # noqa: PLC0415
    from models.prompting import question  # noqa: PLC0415

    disable_progress_bar()  # of loading weights
    backend = open_backend(args, profile, source)
    refs = [ImageRef(path.name, *image.size) for path, image in zip(args.image, images, strict=True)]
    # A server does not say how it resizes
    sizes = tuple(backend.seen(refs) if backend.seen else (ImageSize(*image.size) for image in images))
    text = question(profile, args.instruction, args.kind, sizes)
    decoding = Decoding(args.max_new_tokens, samples=int(args.temperature > 0), temperature=args.temperature)
    [[output]] = backend.generate([Request(text, tuple(images))], decoding, args.seed)
    if output.seen:
        sizes = tuple(ImageSize(i.width, i.height, *s) for i, s in zip(images, output.seen, strict=True))
    reading = PredictionFormat(dialect=profile.dialect, grammar=profile.grammar)
    answer = read_answer(output.text, sizes, reading, args.kind, output.episode)
    return PredictedAnswer(output.text, answer, (output.episode or {}).get("turns", ()))


def draw(images: Sequence[Image.Image], answer: Answer, out: Path) -> Path | None:
    """Draw the answer into a new file, the images side by side; None where there is nothing to draw."""
    if not answer.boxes and not answer.points:
        return None
    sheet = draw_regions(images, [(region, COLOR) for region in (*answer.boxes, *answer.points)])
    sheet.save(out, "PNG")
    return out


def report(
    args: argparse.Namespace, images: Sequence[Image.Image], told: PredictedAnswer, drawn: Path | None
) -> None:
    """Print the answer, in pixels of the images as they are."""
    answer = told.answer
    regions: list[dict[str, Any]] = []
    for region in (*answer.boxes, *answer.points):
        width, height = images[region.image].size
        coords = region.xyxy if hasattr(region, "xyxy") else (region.x, region.y)
        pixels = [round(value * (height if index % 2 else width), 1) for index, value in enumerate(coords)]
        kind = "box" if len(coords) == 4 else "point"
        regions.append(
            {"kind": kind, "image": str(args.image[region.image]), "pixels": pixels, "label": region.label}
        )
    found = {
        "output": told.text,
        "status": answer.status.value,
        "regions": regions,
        "text": answer.text,
        "absent": answer.absent,
        "turns": list(told.turns),
        "drawing": None if drawn is None else str(drawn),
    }
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    print(told.text.strip())
    for region in regions:
        print(f"{region['kind']} {region['pixels']} (pixels of {region['image']})")
    if answer.text is not None:
        print(f"text: {answer.text}")
    if not regions:
        print("absent: the model says there is nothing" if answer.absent else f"no place read: {answer.status.value}")
    if drawn is not None:
        print(f"drawn: {drawn}")


def _open(path: Path) -> Image.Image:
    try:
        size = image_size(path)
    except Rejected as error:
        said = {"missing image": "", "bad image": "not an image: "}.get(error.reason, f"{error.reason}: ")
        raise UsageError(f"--image {path}: {said}{error.detail}") from error
    return open_image(path.parent, ImageRef(path.name, *size))


def _beside(image: Path) -> Path:
    """A name in the working folder that no file has."""
    numbers = chain([""], (f"-{number}" for number in count(2)))
    return next(out for out in (Path(f"{image.stem}-answer{number}.png") for number in numbers) if not out.exists())


if __name__ == "__main__":
    sys.exit(main())
