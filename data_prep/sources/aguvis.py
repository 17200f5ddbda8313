"""Aguvis stage 1: screenshots with several exchanges each; answers are pyautogui calls with fractions.

    {"image": "a.png", "conversations": [..., {"from": "human", "value": "Click on ..."},
     {"from": "gpt", "recipient": "os", "value": "pyautogui.click(x=0.1234, y=0.5678)"}]}

Other calls (typing, keys, scrolling) do not point at one place and are passed over.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from data_prep import Item, Reject, source
from data_prep.pipeline.readers import add_files, annotation_files
from data_prep.sources.chats import conversation_arguments, convert_conversations
from grounding.sample import Sample

CLICK = r"pyautogui\.(?:click|moveTo|doubleClick|rightClick|middleClick|tripleClick)\("


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "*.json", "images")
    conversation_arguments(parser)


@source(
    "aguvis",
    reads="the conversations of Aguvis stage 1 (and the pyautogui files of Jedi)",
    license="Apache-2.0 (annotations); images: terms of their data sets",
    home="https://huggingface.co/datasets/xlangai/aguvis-stage1",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    return convert_conversations(args, "aguvis", "Apache-2.0", "aguvis", pick=CLICK)
