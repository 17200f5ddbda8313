"""Jedi: synthesised computer-use grounding, including refusals.

{"image": "images/a.png", "conversations": [system?, human, gpt]}: answers are computer_use tool calls with pixels
of the image (dialect qwen2_5_vl), or pyautogui calls with fractions (`--dialect aguvis`).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from data_prep import Item, Reject, source
from data_prep.pipeline.readers import add_files, annotation_files
from data_prep.sources.chats import conversation_arguments, convert_conversations
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.json*", ".")
    conversation_arguments(parser)
    parser.add_argument("--dialect", choices=("qwen2_5_vl", "aguvis"), default="qwen2_5_vl")


@source(
    "jedi",
    reads="the conversations of Jedi (OSWorld-G)",
    license="Apache-2.0 (annotations)",
    home="https://huggingface.co/datasets/xlangai/Jedi",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    return convert_conversations(args, "jedi", "Apache-2.0", args.dialect)
