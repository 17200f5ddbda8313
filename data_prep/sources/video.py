"""Moments of videos that a sentence describes: ActivityNet Captions, Charades-STA, QVHighlights, Time-R1;
or that shows the answer to a question: NExT-GQA.

A video is a list of frames with time stamps: `--fps` of them a second, at most `--max-frames`, evenly spread. With
`--videos`, they are decoded from the files there (`data_prep.pipeline.clips`; needs `pip install -e '.[video]'`) and
scaled down to `--frame-pixels`. Otherwise they are images below `--frames`, one folder a video, in the order of their
names (9 before 10); number i (from 0) stands at i / `--fps` seconds. ffmpeg makes them:

    ffmpeg -i 3MSZA.mp4 -vf fps=2 frames/3MSZA/%05d.jpg

The times, in seconds, are in a sample's meta under `frame_times`, separated by blanks, beside `duration`, and a
prompt tells each before its frame.
"""

from __future__ import annotations

import csv
import json
import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep import Item, Split
from data_prep.pipeline.clips import Clip, find_clip, jpeg, read_frames, spread
from data_prep.pipeline.conversion import Rejected, instruction, number
from data_prep.pipeline.images import ImageFolder, inside
from data_prep.pipeline.presets import Conversion, Picture, row_source
from data_prep.pipeline.readers import Row, annotation_files, read_json_object, require
from data_prep.sources import CARDS
from grounding.errors import UsageError
from grounding.sample import ImageRef
from grounding.targets import Span

END_SLACK = 2.0
"""Seconds a span may reach beyond the end and be clipped: one Charades span in ten does, by up to 1.5 s."""


def frame_arguments(parser: ArgumentParser) -> None:
    """The flags of all sources whose images are frames."""
    parser.add_argument("--frames", default="frames", help="folder below --root with one folder of frames a video")
    parser.add_argument("--videos", help="folder below --root with the videos themselves, to decode frames from")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second, to decode or already extracted (2)")
    parser.add_argument("--max-frames", type=int, default=64, help="at most so many frames in a sample (64)")
    parser.add_argument("--frame-pixels", type=int, help="with --videos: scale frames down to this area")
    parser.add_argument(
        "--frame-size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="with --images none: pixels of a frame"
    )


class Frames:
    """The frames of videos: decoded, or found on disk (or assumed, with `--images none`)."""

    def __init__(self, run: Conversion):
        self._args = args = run.args
        self._root: Path = args.root / args.frames
        self._folder = ImageFolder.of(args, args.frames, "images")
        self._names = lru_cache(maxsize=256)(self._list)
        self._decoded = lru_cache(maxsize=4)(self._decode)  # the moments of a video stand close together
        if args.fps <= 0 or args.max_frames < 1 or (args.frame_pixels or 1) < 1:
            raise UsageError("--fps, --max-frames and --frame-pixels must be positive")
        if args.videos is not None and not (args.root / args.videos).is_dir():
            raise UsageError(f"--videos {args.videos}: no such folder below {args.root}")

    def __call__(
        self, video: str, duration: float | None, end: float, part: tuple[float, float] | None = None
    ) -> tuple[list[Picture], list[float], float | None]:
        """The frames of a video, their times in seconds, and its duration where the files or the caller know it.

        Args:
            duration: as annotated; None where it is not.
            end: of the span, the least it lasts.
            part: what is meant of the video, from and to; times count from its start.

        Raises:
            Rejected: "missing image" or "missing video" when there are none; as `ImageFolder` for a frame that is no
                image, as `read_frames` for a video.
        """
        if self._args.videos is not None:
            seconds, pictures, times = self._decoded(video, part)
            return list(pictures), list(times), seconds if duration is None else duration
        if part is not None:
            video = f"{video}_{part[0]:g}_{part[1]:g}"
        names = self._names(video, end if duration is None else duration)
        count = min(len(names), self._args.max_frames)
        picks = sorted({round(i * (len(names) - 1) / max(count - 1, 1)) for i in range(count)})
        size: Sequence[int | None] = self._args.frame_size or (None, None)
        placed = [self._folder(names[i], *(size if self._args.images == "none" else (None, None))) for i in picks]
        return placed, [round(i / self._args.fps, 3) for i in picks], duration

    def _decode(self, video: str, part: tuple[float, float] | None) -> tuple[float, list[Picture], list[float]]:
        folder = self._args.root / self._args.videos
        inside(folder, video)
        name = video if part is None else f"{video}_{part[0]:g}_{part[1]:g}"
        path = find_clip(folder, name)
        begin, until = 0.0, math.inf
        if path is None and part is not None:
            path, (begin, until) = find_clip(folder, video), part
        if path is None:
            raise Rejected("missing video", f"no {video} in {folder}")
        inside(folder, path.relative_to(folder).as_posix())  # nor a link that leads elsewhere

        def choose(clip: Clip) -> list[float]:
            length = min(until, clip.duration) - begin
            if length <= 0:
                raise Rejected("span outside", f"the part from {begin:g} s of {clip.duration:g} s")
            return [begin + second for second in spread(length, self._args.fps, self._args.max_frames)]

        clip, frames = read_frames(path, choose, self._args.frame_pixels)
        pictures: list[Picture] = []
        for time, image in frames:
            shape = f"{image.width}x{image.height}"
            ref = ImageRef(f"images/{name}/{time:09.3f}-{shape}.jpg", *image.size)
            pictures.append((ref, jpeg(image)))
        times = [max(0.0, round(time - begin, 3)) for time, _ in frames]
        return min(until, clip.duration) - begin, pictures, times

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
    part: tuple[float, float] | None = None,
    meta: Mapping[str, str] | None = None,
) -> Item:
    """The item of one described moment.

    Args:
        run: of a source whose `prepare` is `Frames`.
        moment: the video, its duration in seconds (None when the source does not say: then the frames do), the
            span's start and end in seconds, the sentence.
        part: of the video, from and to in seconds, where times count from its start.

    Raises:
        Rejected: "not a number", "swapped corners" (start after end), "span outside", "missing image", ...
    """
    video, duration, span, sentence = moment
    start, end = (number(value, "span") for value in span)
    if start > end:
        raise Rejected("swapped corners", f"span {start}..{end}")
    length = number(duration, "duration") if duration is not None else None
    pictures, times, length = run.prepared(video, length, end, part)
    if length is not None:
        if start < 0 or start >= length or end > length + END_SLACK:
            raise Rejected("span outside", f"{start}..{end} of {length} s")
        end = min(end, length)
    if start == end:
        raise Rejected("empty span", f"{start}..{end}")
    facts = {
        "video": video if part is None else f"{video}_{part[0]:g}_{part[1]:g}",
        "frame_times": " ".join(f"{time:g}" for time in times),
        **({"duration": length} if length is not None else {}),
        **(meta or {}),
    }
    return run.item(id, pictures, instruction(sentence), Span(start, end), split=split, meta=facts)


def _annotations(default: str) -> dict[str, dict[str, Any]]:
    return {"--annotations": {"nargs": "+", "default": [default], "help": "files or patterns below --root"}}


def _moments(args: Namespace) -> Iterator[Row]:
    """(video, duration, span, sentence) for each moment of a video."""
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
            for count, (span, sentence) in enumerate(moments, 1):
                yield f"{path.name}:{video}-{count}", (video, entry.get("duration"), span, sentence)


@row_source(
    **CARDS["activitynet"],
    arguments=frame_arguments,
    flags=_annotations("train.json"),
    rows=_moments,
    prepare=Frames,
)
def activitynet(run: Conversion, where: str, row: tuple[Any, Any, Any, Any]) -> Iterator[Item]:
    """{"v_uqiMw7tQ1Cc": {"duration": 55.15, "timestamps": [[0, 4.14], ...], "sentences": ["Two men ...", ...]}, ...}

    Every other set in this form is read too: Charades-STA as JSON, the splits of Time-R1's training.
    """
    yield span_item(run, where, row)


@row_source(
    **CARDS["qvhighlights"],
    arguments=frame_arguments,
    flags=_annotations("highlight_train_release.jsonl"),
    prepare=Frames,
)
def qvhighlights(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """{"qid": 2579, "query": "A girl and her mother ...", "duration": 150, "vid": "NUsG9BgSes0_210.0_360.0",
    "relevant_windows": [[82, 150]], ...}

    The target is the longest window; all of them are in the meta, and an evaluation takes the one that fits best.
    """
    windows = row["relevant_windows"]
    longest = max(windows, key=lambda window: window[1] - window[0], default=None)
    if longest is None:
        raise Rejected("empty span", "no relevant window")
    meta = {"qid": str(row["qid"]), "windows": " ".join(f"{number(x, 'window'):g}" for two in windows for x in two)}
    moment = (row["vid"], row["duration"], longest, row["query"])
    yield span_item(run, where, moment, meta=meta)


def _questions(args: Namespace) -> Iterator[Row]:
    """(annotation of the video, row) for each question that has moments."""
    for path in annotation_files(args):
        moments = json.loads(require(path.with_name(f"gsub_{path.stem}.json")).read_text(encoding="utf-8"))
        with path.open(newline="", encoding="utf-8") as stream:
            for count, row in enumerate(csv.DictReader(stream), 2):
                video = moments.get(row.get("video_id"), {})
                if str(row.get("qid")) in video.get("location", {}):
                    yield f"{path.name}:{count}", (video, row)


def _question_inputs(args: Namespace) -> list[Path]:
    return [each for path in annotation_files(args) for each in (path, path.with_name(f"gsub_{path.stem}.json"))]


@row_source(
    **CARDS["nextgqa"],
    arguments=frame_arguments,
    flags=_annotations("test.csv"),
    rows=_questions,
    inputs=_question_inputs,
    prepare=Frames,
)
def nextgqa(run: Conversion, where: str, row: tuple[dict[str, Any], dict[str, str]]) -> Iterator[Item]:
    """test.csv, val.csv:  video_id,question,answer,qid,type,a0,a1,a2,a3,a4     (the answer is an option's text)
    gsub_test.json:     {"4010069381": {"duration": 66.0, "location": {"5": [[29.4, 37.1], ...]}, "fps": ...}, ...}

    For the benchmark `nextgqa`: a sample's target is the longest moment, its answer and options are in the meta.
    """
    video, asked = row
    windows = [
        [max(0.0, number(start, "span")), number(end, "span")] for start, end in video["location"][asked["qid"]]
    ]
    meta = {
        "qid": asked["qid"],
        "type": asked["type"],
        "answer": asked["answer"],
        "options": "\n".join(asked[f"a{n}"] for n in range(5)),
        "windows": " ".join(f"{second:g}" for window in windows for second in window),
    }
    longest = max(windows, key=lambda window: window[1] - window[0])
    yield span_item(run, where, (asked["video_id"], video["duration"], longest, asked["question"]), meta=meta)


@row_source(
    **CARDS["time_r1"],
    arguments=frame_arguments,
    flags=_annotations("train_2k5.json"),
    prepare=Frames,
)
def time_r1(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """TimeRFT for training, TVGBench for evaluation.

    train_2k5.json  [{"video": ".../QtWT8rxUuNk.mp4", "duration", "timestamp": [s, e], "sentence", "qid",
                      "video_start", "video_end", "difficulty"}, ...]
    tvgbench.json   [{"path": ".../KWZSA.mp4", "duration", "answer": "13.4-28.1", "question", "start", "end"}, ...]

    Where a row gives the part of the video it is about (`video_start`, `start`), times count from the start of that
    part, and the frames are those of the part: their folder is named VIDEO_START_END.
    """
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
    bounds = None if part[0] is None else (number(part[0], "start"), number(part[1], "end"))
    moment = (PurePosixPath(path).stem, row["duration"], span, sentence)
    yield span_item(run, where, moment, part=bounds, meta=facts)


def _charades_arguments(parser: ArgumentParser) -> None:
    files = ["charades_sta_train.txt", "charades_sta_test.txt"]
    parser.add_argument("--annotations", action="several", default=files, help="files below --root")
    parser.add_argument("--lengths", action="several", default=[], help="Charades_v1_*.csv below --root")
    frame_arguments(parser)


def _charades_rows(args: Namespace) -> Iterator[Row]:
    """(file's name, duration by video, line) for each line."""
    lengths: dict[str, str] = {}
    for name in args.lengths:
        with require(args.root / name).open(newline="") as stream:
            lengths.update((row["id"], row["length"]) for row in csv.DictReader(stream))
    for path in annotation_files(args):
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path.name}:{number}", (path.name, lengths, line)


def _charades_inputs(args: Namespace) -> list[Path]:
    return [*annotation_files(args), *(args.root / name for name in args.lengths)]


@row_source(
    **CARDS["charades_sta"],
    arguments=_charades_arguments,
    inputs=_charades_inputs,
    rows=_charades_rows,
    prepare=Frames,
)
def charades_sta(run: Conversion, where: str, row: tuple[str, dict[str, str], str]) -> Iterator[Item]:
    """charades_sta_train.txt, charades_sta_test.txt:  AO8RW 0.0 6.9##a person is putting a book on a shelf.

    The text files do not give durations; `--lengths Charades_v1_train.csv` (column `length`) does. The JSON form of
    the same annotations is read by `activitynet`.
    """
    name, lengths, line = row
    head, mark, sentence = line.partition("##")
    parts = head.split()
    if not mark or len(parts) != 3:
        raise Rejected("wrong format", line.strip()[:120])
    video, *span = parts
    split = "test" if "test" in name else "train"
    yield span_item(run, where, (video, lengths.get(video), span, sentence), split=split)
