"""MGrounding-630k (Migician): multi-image grounding conversations.

    {"images": ["./MGrounding-630k/Common_Object/...jpg", ...], "conversations": [human, gpt, ...]}, answers with
    <|object_ref_start|>...<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>, thousandths.

Exchanges without a box in the answer (they go from a box to words) are passed over. UniVG-R1's stage files have
the same shape.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from data_prep import Item, Reject, source
from data_prep.pipeline.readers import add_files, annotation_files
from data_prep.sources.chats import conversation_arguments, convert_conversations
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    add_files(parser, "MGrounding-630k.json", ".")
    conversation_arguments(parser)


@source(
    "mgrounding",
    reads="MGrounding-630k.json (Migician), and UniVG-R1's files of the same shape",
    license="Apache-2.0 (annotations); images: terms of their data sets",
    home="https://huggingface.co/datasets/Michael4933/MGrounding-630k",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    return convert_conversations(args, "mgrounding", "Apache-2.0", "qwen2_vl", pick=r"\d\s*\)\s*,\s*\(")
