"""Video as a list of frames with time stamps, and the samples that spans of it make.

Frames are images below `--frames`, one folder a video, in the order of their names (9 before 10); number i (from
0) stands at i / `--fps` seconds. ffmpeg makes them:

    ffmpeg -i 3MSZA.mp4 -vf fps=2 frames/3MSZA/%05d.jpg

A sample has at most `--max-frames` of them, evenly spread; their times, in seconds, are in its meta under
`frame_times`, separated by blanks, beside `duration`, and a prompt tells each before its frame.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep import Item, Split
from data_prep.pipeline.conversion import Rejected, instruction, number
from data_prep.pipeline.images import ImageFolder, inside
from data_prep.pipeline.presets import Conversion, Picture
from grounding.targets import Span

END_SLACK = 2.0
"""Seconds a span may reach beyond the end and be clipped: one Charades span in ten does, by up to 1.5 s."""


def frame_arguments(parser: ArgumentParser) -> None:
    """The flags of all sources whose images are frames."""
    parser.add_argument("--frames", default="frames", help="folder below --root with one folder of frames a video")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second that were extracted (2)")
    parser.add_argument("--max-frames", type=int, default=64, help="at most so many frames in a sample (64)")
    parser.add_argument(
        "--frame-size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="with --images none: pixels of a frame"
    )


class Frames:
    """The frames of videos, found on disk (or assumed, with `--images none`)."""

    def __init__(self, run: Conversion):
        self._args = args = run.args
        self._root: Path = args.root / args.frames
        self._folder = ImageFolder.of(args, args.frames, "images")
        self._names = lru_cache(maxsize=256)(self._list)

    def __call__(self, video: str, duration: float) -> tuple[list[Picture], list[float]]:
        """The frames of a video and their times in seconds.

        Raises:
            Rejected: "missing image" when there are none; as `ImageFolder` for a frame that is no image.
        """
        names = self._names(video, duration)
        count = min(len(names), self._args.max_frames)
        picks = sorted({round(i * (len(names) - 1) / max(count - 1, 1)) for i in range(count)})
        size: Sequence[int | None] = self._args.frame_size or (None, None)
        placed = [self._folder(names[i], *(size if self._args.images == "none" else (None, None))) for i in picks]
        return placed, [round(i / self._args.fps, 3) for i in picks]

    def _list(self, video: str, duration: float) -> list[str]:
        if self._args.images == "none":
            return [f"{video}/{i + 1:05d}.jpg" for i in range(max(1, int(duration * self._args.fps)))]
        folder = inside(self._root, video)
        paths = [path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")]
        names = [path.name for path in sorted(paths, key=_number_first)]
        if not names:
            raise Rejected("missing image", f"no frames in {folder}")
        return [f"{video}/{name}" for name in names]


def _number_first(path: Path) -> tuple[list[str | int], str]:
    """Sorts "frame_9.jpg" before "frame_10.jpg"."""
    parts = re.split(r"([0-9]+)", path.stem)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def span_item(
    run: Conversion,
    id: str,
    moment: tuple[Any, Any, Sequence[Any], Any],
    *,
    split: Split | None = None,
    meta: Mapping[str, str] | None = None,
) -> Item:
    """The item of one described moment.

    Args:
        run: of a source whose `prepare` is `Frames`.
        moment: the video, its duration in seconds (None when the source does not say: then the frames do), the
            span's start and end in seconds, the sentence.

    Raises:
        Rejected: "not a number", "swapped corners" (start after end), "span outside", "missing image", ...
    """
    video, duration, span, sentence = moment
    start, end = (number(value, "span") for value in span)
    if start > end:
        raise Rejected("swapped corners", f"span {start}..{end}")
    length = number(duration, "duration") if duration is not None else None
    pictures, times = run.prepared(video, length if length is not None else end)
    if length is not None:
        if start < 0 or start >= length or end > length + END_SLACK:
            raise Rejected("span outside", f"{start}..{end} of {length} s")
        end = min(end, length)
    if start == end:
        raise Rejected("empty span", f"{start}..{end}")
    facts = {
        "video": video,
        "frame_times": " ".join(f"{time:g}" for time in times),
        **({"duration": length} if length is not None else {}),
        **(meta or {}),
    }
    return run.item(id, pictures, instruction(sentence), Span(start, end), split=split, meta=facts)
