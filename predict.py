"""Ask a model about one image, several, or a video, and draw its answer.

    python predict.py --model runs/x/final --image shot.png "Click Save"
    python predict.py --model runs/x/final --image a.png --image b.png --kind box "the same dog"
    python predict.py --model runs/x/final --video clip.mp4 "the door opens"
    python predict.py --model NAME --endpoint http://host:8000/v1 --dialect qwen3_vl --image shot.png "Click Save"
    python predict.py --model runs/zoom/final --tools zoom --image shot.png "Click Save"
    python predict.py --model runs/x/final --serve                a page on this machine: drop a picture, type, look

It asks as training and evaluation do, and prints what the model wrote, what that says in pixels of the images, and
where the drawing is. Many questions, with a score, are eval.py's business.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmarks.harness.cli import check_backend, model_arguments
from benchmarks.harness.predictor import KINDS, AskedQuestion, PredictedAnswer, Predictor, attention_of
from data_prep.pipeline.clips import SUFFIXES, read_frames, spread
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.images import image_size
from grounding.command_line import CommandParser, run_command
from grounding.completion import GRAMMARS
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.folders import check_new
from grounding.io import open_image, read_image
from grounding.sample import ImageRef
from models.find import find_model, short_name
from models.profile import read_profile
from reports.answer_drawing import draw_answer, pixels_of
from reports.local_page import PORT, AnswerQuestion, answer_row, asked_files, serve

FPS, FRAMES = 2.0, 64  # of a video, as `data_prep`'s sources of videos have them


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = CommandParser(prog="predict.py", description=__doc__)
    parser.add_argument("instruction", nargs="?", help="what to find, in words")
    parser.add_argument("--image", type=Path, action="append", help="an image; again for each further")
    parser.add_argument("--video", type=Path, help="a video instead of images")
    parser.add_argument("--fps", type=float, default=FPS, help="frames a second of the video")
    parser.add_argument("--max-frames", type=int, default=FRAMES, help="of the video, evenly spread")
    parser.add_argument("--kind", choices=KINDS, help="what is asked for (point; span of a video)")
    parser.add_argument("--out", type=Path, help="PNG to draw the answer into (./IMAGE-answer.png)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--serve", type=int, nargs="?", const=PORT, metavar="PORT",
                        help=f"open a page at http://127.0.0.1:PORT instead ({PORT})")  # fmt: skip
    parser.add_argument("--tools", help="what it may call before it answers: zoom, or a recipe's file")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="of an answer, at most")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 is greedy")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument("--dialect", help="how coordinates are worded (what the model folder says)")
    parser.add_argument("--grammar", choices=GRAMMARS, help="completion format (what the model folder says)")
    model_arguments(parser.add_argument_group("the model"))
    parser.set_defaults(backend="transformers")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return run_command(lambda: _run(parse(argv)))


def _run(args: argparse.Namespace) -> None:
    if args.model is None:
        raise UsageError("say who answers: --model NAME")
    asked, names, out = _question(args) if args.serve is None else _no_question(args)
    source, folder = (None, None) if args.endpoint else find_model(args.model)
    name = args.model if folder is None else str(folder)
    profile = read_profile(name, args.dialect, args.grammar, args.image_first, system=args.system)
    get_dialect(profile.dialect)  # a wrong name costs no loading
    check_backend(args, profile)
    if asked is None:
        serve(args.serve, *page_of(args, Predictor(args, profile, source)))
        return
    told = Predictor(args, profile, source).ask(asked)
    sheet = draw_answer(asked.images, told.answer, told.turns, asked.times)
    if sheet is not None:
        sheet.save(out, "PNG")
    report(asked, told, names, out if sheet is not None else None, as_json=args.json)


def _question(args: argparse.Namespace) -> tuple[AskedQuestion, list[str], Path]:
    """What is asked, the images' names, and where the drawing goes."""
    if args.instruction is None:
        raise UsageError('say what to find: predict.py ... "Click Save"')
    if (args.image is None) == (args.video is None):
        raise UsageError("say about what: --image FILE (again for each further) or --video FILE (one of them)")
    out = args.out or _beside(args.video or args.image[0])
    check_new(out)
    if args.video is not None:
        images, times = frames(args.video, args.fps, args.max_frames)
        names = [f"{args.video} at {time:g} s" for time in times]
        return AskedQuestion(args.instruction, images, args.kind or "span", times), names, out
    images = [_open(path) for path in args.image]
    return AskedQuestion(args.instruction, images, args.kind or "point"), list(map(str, args.image)), out


def frames(video: Path, fps: float = FPS, most: int = FRAMES) -> tuple[list[Image.Image], list[float]]:
    """Frames of a video, evenly spread, and their times in seconds. Raises `UsageError`."""
    if fps <= 0 or most < 1:
        raise UsageError("--fps and --max-frames must be positive")
    if not video.is_file():
        raise UsageError(f"--video {video}: no such file")
    try:
        _, found = read_frames(video, lambda clip: spread(clip.duration, fps, most))
    except Rejected as error:
        raise UsageError(f"--video {video}: {error.reason}: {error.detail}") from error
    return [image for _, image in found], [round(time, 3) for time, _ in found]


def report(
    asked: AskedQuestion, told: PredictedAnswer, names: Sequence[str], drawn: Path | None, *, as_json: bool
) -> None:
    """Print the answer, in pixels of the images as they are."""
    answer = told.answer
    regions = [
        {"kind": kind, "image": names[region.image], "pixels": pixels, "label": region.label}
        for region in (*answer.boxes, *answer.points)
        for kind, pixels in [pixels_of(region, asked.images[region.image].size)]
    ]
    spans = [[span.start, span.end] for span in answer.spans]
    if as_json:
        found = {
            "output": told.text,
            "status": answer.status.value,
            "regions": regions,
            "spans": spans,
            "text": answer.text,
            "absent": answer.absent,
            "turns": list(told.turns),
            "drawing": None if drawn is None else str(drawn),
        }
        print(json.dumps(found, ensure_ascii=False))
        return
    for number, turn in enumerate(told.turns[:-1], start=1):
        print(f"turn {number}: {turn['text'].strip()}\n  {turn['tool'] or 'no tool'}: {turn['reply'].strip()}")
    print(told.text.strip())
    for region in regions:
        print(f"{region['kind']} {region['pixels']} (pixels of {region['image']})")
    for start, end in spans:
        print(f"span {start:g} s to {end:g} s")
    if answer.text is not None:
        print(f"text: {answer.text}")
    if not regions and not spans:
        print("absent: the model says there is nothing" if answer.absent else f"no place read: {answer.status.value}")
    if drawn is not None:
        print(f"drawn: {drawn}")


def _no_question(args: argparse.Namespace) -> tuple[None, list[str], None]:
    given = [name for name in ("instruction", "image", "video", "out") if getattr(args, name) is not None]
    if given or args.json:
        raise UsageError(f"--serve: {(given or ['json'])[0]} is given on the page; leave it out")
    return None, [], None


def page_of(args: argparse.Namespace, predictor: Predictor) -> tuple[dict[str, Any], AnswerQuestion]:
    """What the page says, and how it is answered."""

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        images: list[Image.Image] = []
        times: list[float] = []
        for name, data in asked_files(body):
            suffix = Path(name).suffix.lower()
            if suffix not in SUFFIXES:
                images.append(read_image(data, name))
                continue
            if len(body["files"]) > 1:
                raise UsageError(f"{name}: a video is asked about alone")
            with TemporaryDirectory() as folder:
                file = Path(folder) / f"video{suffix}"
                file.write_bytes(data)
                images, times = frames(file, args.fps, args.max_frames)
        asked = AskedQuestion(str(body.get("instruction", "")), images, str(body.get("kind")), times)
        if asked.kind not in KINDS:
            raise UsageError(f"kind {asked.kind!r}: one of {', '.join(KINDS)}")
        told = predictor.ask(asked)
        heat = attention_of(predictor, asked, told)
        return answer_row(images, told.text, told.answer, told.turns, heat=heat, times=times)

    facts = {"model": short_name(args.model), "kinds": KINDS, "kind": args.kind or "point", "tools": args.tools or ""}
    return facts, answer


def _open(path: Path) -> Image.Image:
    try:
        size = image_size(path)
    except Rejected as error:
        said = {"missing image": "", "bad image": "not an image: "}.get(error.reason, f"{error.reason}: ")
        raise UsageError(f"--image {path}: {said}{error.detail}") from error
    return open_image(path.parent, ImageRef(path.name, *size))


def _beside(file: Path) -> Path:
    """A name in the working folder that no file has."""
    numbers = chain([""], (f"-{number}" for number in count(2)))
    return next(out for out in (Path(f"{file.stem}-answer{number}.png") for number in numbers) if not out.exists())


if __name__ == "__main__":
    sys.exit(main())
