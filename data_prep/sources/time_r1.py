"""Time-R1: TimeRFT for training, TVGBench for evaluation.

    train_2k5.json  [{"video": ".../QtWT8rxUuNk.mp4", "duration", "timestamp": [s, e], "sentence", "qid",
                      "video_start", "video_end", "difficulty"}, ...]
    tvgbench.json   [{"path": ".../KWZSA.mp4", "duration", "answer": "13.4-28.1", "question", "start", "end"}, ...]

Where a row gives the part of the video it is about (`video_start`, `start`), times count from the start of that part,
and the frames are those of the part: their folder is named VIDEO_START_END.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline import frames as video_frames
from data_prep.pipeline.conversion import Rejected, convert_rows
from data_prep.pipeline.frames import Frames, span_item
from data_prep.pipeline.readers import annotation_files, read_annotations
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--annotations", nargs="+", default=["train_2k5.json"], help="files or patterns below --root")
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")
    video_frames.add_arguments(parser)


@source(
    "time_r1",
    reads="train_2k5.json (TimeRFT) or tvgbench.json of Time-R1; frames of the videos",
    license="Apache-2.0 (annotations); videos: terms of their data sets",
    home="https://github.com/xiaomi-research/time-r1",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    frames = Frames(args)

    def one(where: str, row: dict[str, Any]) -> Iterator[Item]:
        if "answer" in row:
            path, sentence, part = row["path"], row["question"], (row.get("start"), row.get("end"))
            span: Any = row["answer"].split("-")
            facts = {"dataset": str(row.get("dataset_name", "")), "type": str(row.get("qsemtype", ""))}
        else:
            path, sentence, part = row["video"], row["sentence"], (row.get("video_start"), row.get("video_end"))
            span = row["timestamp"]
            difficulty = row.get("difficulty")
            facts = {"qid": str(row.get("qid", "")), "difficulty": "" if difficulty is None else str(difficulty)}
        if len(span) != 2:
            raise Rejected("wrong format", f"span {span!r}")
        video = PurePosixPath(path).stem
        if part[0] is not None:
            video = f"{video}_{part[0]:g}_{part[1]:g}"
        yield span_item(
            frames,
            id=where,
            video=video,
            duration=row["duration"],
            span=span,
            sentence=sentence,
            source="time_r1",
            license="Apache-2.0",
            split=args.as_split,
            meta={**facts},
        )

    return convert_rows(read_annotations(args), one)
