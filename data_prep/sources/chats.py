"""Any grounding conversations in LLaVA, ShareGPT or LLaMA-Factory shape: one sample per exchange.

The answers are read by the dialect they are written in (`--dialect`). With several images, the answer or else the
question must name one ("the third image"); otherwise the exchange is rejected as "image not named". `<think>` chains
are kept as thoughts; places in them, and boxes in a question, become canonical. Dialects in pixels mean those of the
image the model saw: a row gives its size in "seen": [[width, height], ...], one for each image, or `--seen original`
says that nothing was resized.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline import spaces
from data_prep.pipeline.conversations import (
    AnswerReader,
    Exchange,
    canonical,
    exchanges,
    image_names,
    placed,
    sound,
    without_bare_marks,
    without_references,
)
from data_prep.pipeline.conversion import Rejected, convert_rows, instruction, numbered
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import add_files, annotation_files, read_annotations
from data_prep.pipeline.spaces import Spaces
from grounding.answer import ImageSize
from grounding.errors import UsageError
from grounding.sample import ImageRef, Sample


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.json*")
    conversation_arguments(parser)
    parser.add_argument("--dialect", required=True, help="how answers are written, for instance qwen2_vl")
    parser.add_argument("--seen", choices=("original",), help="pixels in answers are those of the files, not resized")


def conversation_arguments(parser: ArgumentParser) -> None:
    """The flags of all sources that read conversations."""
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")
    parser.add_argument(
        "--strip",
        action="append",
        default=[],
        metavar="REGEX",
        help="remove what matches from questions: the prompt around the instruction (repeatable)",
    )
    parser.add_argument("--image-prefix", default="", help="remove this from the start of image names")
    spaces.add_arguments(parser)


@source(
    "sharegpt",
    reads="conversations of LLaVA / ShareGPT / LLaMA-Factory shape with boxes or points in the answers",
    license="given by --license",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    return convert_conversations(args, "sharegpt", "unknown", args.dialect, original=args.seen == "original")


def convert_conversations(
    args: Namespace, name: str, license: str, dialect: str, *, pick: str | None = None, original: bool = True
) -> Iterator[Item | Sample | Reject]:
    """Samples from conversations.

    Args:
        pick: only exchanges whose answer matches this pattern are meant to point at something; others are passed
            over, not rejected.
        original: pixels in answers are those of the image files.
    """
    folder = ImageFolder.of(args, args.image_folder)
    wrapping = [re.compile(pattern, re.DOTALL | re.IGNORECASE) for pattern in args.strip]
    wanted = re.compile(pick) if pick else None
    statistics = Spaces(f"dialect {dialect}", args)
    reader = AnswerReader(dialect, statistics)
    in_pixels = reader.dialect.space.scale is None

    def one(where: str, row: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
        names = [image.removeprefix(args.image_prefix).lstrip("/") for image in image_names(row)]
        images = [folder(image, row.get("width"), row.get("height")) for image in names]
        sizes = _sizes([image for image, _ in images], row.get("seen"))
        if in_pixels and not original and "seen" not in row:
            raise UsageError(
                f"{where}: dialect {dialect} answers in pixels of the resized image: give the row"
                ' "seen": [[width, height], ...], or --seen original where nothing was resized'
            )
        meta = {"task": row["task"]} if isinstance(row.get("task"), str) else {}

        def answered(where: str, exchange: Exchange) -> Iterator[Item]:
            answer = sound(exchange.answer)
            if wanted and not wanted.search(answer):
                return
            question, count = placed(without_references(sound(exchange.question)), exchange.shown, len(images))
            head, words = without_bare_marks(question)
            for pattern in wrapping:
                words = pattern.sub("", words)
            asked = canonical(head + words, reader.dialect, sizes[:count], boxes_only=True)
            target, thought = reader(answer, question, sizes[:count])
            sample = Sample(
                id=where,
                images=tuple(image for image, _ in images[:count]),
                instruction=instruction(asked),
                target=target,
                source=name,
                license=license,
                thought=thought,
                meta=meta,
            )
            yield Item(sample, {image.path: file for image, file in images[:count]}, args.as_split)

        yield from convert_rows(numbered(where, exchanges(row)), answered)

    return statistics.watch(convert_rows(read_annotations(args), one))


def _sizes(images: Sequence[ImageRef], seen: Any) -> list[ImageSize]:
    """Sizes of a row's images, as files and as the model saw them."""
    if seen is None:
        return [ImageSize(image.width, image.height) for image in images]
    try:
        return [_seen(image, *size) for image, size in zip(images, seen, strict=True)]
    except (TypeError, ValueError):
        raise Rejected(
            "wrong format", f"seen {seen!r} is not [[width, height], ...] of {len(images)} images"
        ) from None


def _seen(image: ImageRef, width: int, height: int) -> ImageSize:
    if min(width, height) <= 0:
        raise ValueError("a side that is not positive")
    return ImageSize(image.width, image.height, width, height)
