"""Charades-STA: moments of household videos.

    charades_sta_train.txt, charades_sta_test.txt:  AO8RW 0.0 6.9##a person is putting a book on a shelf.

The text files do not give durations; `--lengths Charades_v1_train.csv` (column `length`) does. The JSON form of
the same annotations is read by `activitynet`.
"""

from __future__ import annotations

import csv
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline import frames as video_frames
from data_prep.pipeline.conversion import Rejected, convert_rows
from data_prep.pipeline.frames import Frames, span_item
from data_prep.pipeline.readers import annotation_files, require
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--annotations", nargs="+", default=["charades_sta_train.txt", "charades_sta_test.txt"])
    parser.add_argument("--lengths", nargs="*", default=[], help="Charades_v1_*.csv below --root")
    video_frames.add_arguments(parser)


def _inputs(args: Namespace) -> list[Path]:
    return [*annotation_files(args), *(args.root / name for name in args.lengths)]


@source(
    "charades_sta",
    reads="charades_sta_*.txt; frames of the Charades videos",
    license="research only (Charades)",
    home="https://github.com/jiyanggao/TALL, https://prior.allenai.org/projects/charades",
    add_arguments=add_arguments,
    inputs=_inputs,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    lengths: dict[str, str] = {}
    for name in args.lengths:
        with require(args.root / name).open(newline="") as stream:
            lengths.update((row["id"], row["length"]) for row in csv.DictReader(stream))
    frames = Frames(args)

    def rows() -> Iterator[tuple[str, Any]]:
        for path in annotation_files(args):
            with path.open(encoding="utf-8", errors="surrogateescape") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield f"{path.name}:{number}", (path.name, line)

    def one(where: str, row: tuple[str, str]) -> Iterator[Item]:
        name, line = row
        head, mark, sentence = line.partition("##")
        parts = head.split()
        if not mark or len(parts) != 3:
            raise Rejected("wrong format", line.strip()[:120])
        yield span_item(
            frames,
            id=where,
            video=parts[0],
            duration=lengths.get(parts[0]),
            span=parts[1:],
            sentence=sentence,
            source="charades_sta",
            license="research only (Charades)",
            split="test" if "test" in name else "train",
        )

    return convert_rows(rows(), one)
