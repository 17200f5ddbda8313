"""ActivityNet Captions, and every other set in its form (Charades-STA as JSON, the splits of Time-R1's training).

{"v_uqiMw7tQ1Cc": {"duration": 55.15, "timestamps": [[0, 4.14], ...], "sentences": ["Two men ...", ...]}, ...}
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline import frames as video_frames
from data_prep.pipeline.conversion import Rejected, convert_rows
from data_prep.pipeline.frames import Frames, span_item
from data_prep.pipeline.readers import annotation_files, read_json_object
from grounding.sample import Sample


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--annotations", nargs="+", default=["train.json"], help="files or patterns below --root")
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")
    video_frames.add_arguments(parser)


@source(
    "activitynet",
    reads="train.json / val_1.json / val_2.json of ActivityNet Captions; Charades-STA in that form",
    license="research only",
    home="https://cs.stanford.edu/people/ranjaykrishna/densevid/",
    add_arguments=add_arguments,
    inputs=annotation_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    frames = Frames(args)

    def rows() -> Iterator[tuple[str, Any]]:
        for path in annotation_files(args):
            for where, pair in read_json_object(path):
                if isinstance(pair, Rejected):
                    yield where, pair
                    continue
                video, entry = pair
                try:
                    moments = list(zip(entry["timestamps"], entry["sentences"], strict=True))
                except (KeyError, TypeError, ValueError) as error:
                    yield where, Rejected("wrong format", repr(error))
                    continue
                for number, (span, sentence) in enumerate(moments, 1):
                    yield f"{path.name}:{video}-{number}", (video, entry.get("duration"), span, sentence)

    def one(where: str, row: tuple[Any, Any, Any, Any]) -> Iterator[Item]:
        video, duration, span, sentence = row
        yield span_item(
            frames,
            id=where,
            video=video,
            duration=duration,
            span=span,
            sentence=sentence,
            source="activitynet",
            license="research only",
            split=args.as_split,
        )

    return convert_rows(rows(), one)
