"""Query inference: from a place to the instruction it answers, the pivot task of GUIPivot (arXiv 2503.00401).

Every row with one box or point becomes its reverse: the place stands in the instruction, in the convention of
`grounding.thought`, and the answer is what the user would have said, with the place as evidence.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace

from data_prep import Item, Reject, source
from data_prep.pipeline import dataset as datasets
from data_prep.pipeline.dataset import dataset_files, transform
from grounding.sample import Sample
from grounding.targets import Box, Point, TextBox
from grounding.thought import write_place

QUESTIONS = (
    "What would a user ask for to be led to {place}?",
    "Which instruction does {place} answer?",
    "Say what is at {place}, as a user who looks for it would.",
)


def add_arguments(parser: ArgumentParser) -> None:
    datasets.add_arguments(parser)


@source(
    "query_inference",
    reads="a data set with one box or point a row",
    license="that of the data set",
    home="https://arxiv.org/abs/2503.00401",
    add_arguments=add_arguments,
    inputs=dataset_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    def reverse(sample: Sample) -> Iterator[Sample]:
        target = sample.target
        if not isinstance(target, (Box, Point)):
            return
        question = random.Random(f"{args.seed}:{sample.id}").choice(QUESTIONS)
        yield replace(
            sample,
            id=f"query-{sample.id}",
            instruction=question.format(place=write_place(target)),
            target=TextBox(sample.words, (target,) if isinstance(target, Box) else ()),
            source="query_inference",
            thought=None,
            meta={**sample.meta, "task": "query_inference"},
        )

    return transform(args, reverse)
