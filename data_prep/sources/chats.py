"""Grounding conversations in LLaVA, ShareGPT or LLaMA-Factory shape: one sample per exchange.

`sharegpt` reads any of them; Jedi, Aguvis and MGrounding are presets of the same.

The answers are read by the dialect they are written in (`--dialect`). With several images, the answer or else the
question must name one ("the third image"); otherwise the exchange is rejected as "image not named". `<think>` chains
are kept as thoughts; places in them, and boxes in a question, become canonical. With `--check-thoughts`, a row whose
chain `data_prep.cot.verify` finds wrong is rejected: one whose last place is not the answer, for instance. Dialects
in pixels mean those of the image the model saw: a row gives its size in "seen": [[width, height], ...], one for each
image, or `--seen original` says that nothing was resized.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep import Item, Reject
from data_prep.cot.forms import FORMS
from data_prep.cot.verify import verify
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
from data_prep.pipeline.conversion import Rejected, convert_rows, numbered
from data_prep.pipeline.presets import Conversion, row_source
from data_prep.sources import CARDS
from grounding.answer import ImageSize
from grounding.errors import UsageError
from grounding.sample import ImageRef, Sample
from grounding.wording import read_places


def question_arguments(parser: ArgumentParser) -> None:
    """The flags of all sources whose questions and image names may need trimming."""
    parser.add_argument(
        "--strip",
        action="several",
        default=[],
        metavar="REGEX",
        help="remove what matches from questions: the prompt around the instruction",
    )
    parser.add_argument("--image-prefix", default="", help="remove this from the start of image names")


def _chat_arguments(parser: ArgumentParser) -> None:
    question_arguments(parser)
    parser.add_argument("--check-thoughts", action="store_true", help="reject rows whose chain does not hold")


def unwrapped(question: str, args: Namespace) -> str:
    """The question without what `--strip` names."""
    for pattern in args.strip:
        question = re.sub(pattern, "", question, flags=re.DOTALL | re.IGNORECASE)
    return question


def chat_source(
    name: str,
    *,
    dialect: str | None = None,
    pick: str | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    **about: Any,
) -> None:
    """Register a source of conversations.

    Args:
        dialect: the words answers are written in; None where `--dialect`, one of `flags`, says it.
        pick: only exchanges whose answer matches this pattern are meant to point at something; others are passed
            over, not rejected.
        about: as for `row_source`.
    """

    def convert(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
        reader: AnswerReader = run.prepared
        names = [image.removeprefix(run.args.image_prefix).lstrip("/") for image in image_names(row)]
        pictures = [run.folder(image, row.get("width"), row.get("height")) for image in names]
        sizes = _sizes([image for image, _ in pictures], row.get("seen"))
        original = vars(run.args).get("seen", "original") == "original"
        if reader.dialect.space.scale is None and not original and "seen" not in row:
            raise UsageError(
                f"{where}: dialect {dialect or run.args.dialect} answers in pixels of the resized image: give the row"
                ' "seen": [[width, height], ...], or --seen original where nothing was resized'
            )
        meta = {"task": row["task"]} if isinstance(row.get("task"), str) else {}

        def answered(where: str, exchange: Exchange) -> Iterator[Item]:
            answer = sound(exchange.answer)
            if pick and not re.search(pick, answer):
                return
            question, count = placed(without_references(sound(exchange.question)), exchange.shown, len(pictures))
            head, words = without_bare_marks(question)
            asked = canonical(head + unwrapped(words, run.args), reader.dialect, sizes[:count], boxes_only=True)
            target, thought = reader(answer, question, sizes[:count])
            item = run.item(where, pictures[:count], asked, target, thought=thought, meta=meta)
            if thought is not None and vars(run.args).get("check_thoughts"):
                verify(thought, item.sample, FORMS["knowledge" if read_places(thought) else "free"])
            yield item

        yield from convert_rows(numbered(where, exchanges(row)), answered)

    row_source(
        name,
        as_split=True,
        arguments=_chat_arguments,
        flags=flags,
        space=lambda args: f"dialect {dialect or args.dialect}",
        prepare=lambda run: AnswerReader(dialect or run.args.dialect, run.spaces),
        **about,
    )(convert)


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


chat_source(
    **CARDS["sharegpt"],
    flags={
        "--dialect": {"required": True, "help": "how answers are written, for instance qwen2_vl"},
        "--seen": {"choices": ("original",), "help": "pixels in answers are those of the files, not resized"},
    },
)

# {"image": "images/a.png", "conversations": [system?, human, gpt]}: answers are computer_use tool calls with pixels
# of the image, or pyautogui calls with fractions (`--dialect aguvis`); refusals are among them.
chat_source(
    **CARDS["jedi"],
    flags={"--dialect": {"choices": ("qwen2_5_vl", "aguvis"), "default": "qwen2_5_vl"}},
)

# {"image": "a.png", "conversations": [..., {"from": "human", "value": "Click on ..."},
#  {"from": "gpt", "recipient": "os", "value": "pyautogui.click(x=0.1234, y=0.5678)"}]}
# Several exchanges a screenshot. Other calls (typing, keys, scrolling) do not point at one place and are passed over.
chat_source(
    **CARDS["aguvis"],
    dialect="aguvis",
    pick=r"pyautogui\.(?:click|moveTo|doubleClick|rightClick|middleClick|tripleClick)\(",
)

# {"images": ["./MGrounding-630k/Common_Object/...jpg", ...], "conversations": [human, gpt, ...]}, answers with
# <|object_ref_start|>...<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>, thousandths. Exchanges without a
# box in the answer (they go from a box to words) are passed over.
chat_source(
    **CARDS["mgrounding"],
    dialect="qwen2_vl",
    pick=r"\d\s*\)\s*,\s*\(",
)
