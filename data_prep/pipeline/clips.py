"""Frames of a video file at given seconds, decoded by PyAV (`pip install -e '.[video]'`).

Seconds count from the first picture. Only the frames asked for become images: the decoder jumps to the last key frame
before each, and leaves out what no other frame needs, so time and memory do not grow with the clip's length.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.pipeline.conversion import Rejected
from grounding.errors import UsageError

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
END_GAP = 1.0
"""Seconds that a container may promise beyond its last frame."""
_REORDERED = 8  # frames by which the order in the file may differ from the order shown
_FAR = 5.0  # seconds ahead from which a jump pays where the file has no index


@dataclass(frozen=True, slots=True)
class Clip:
    """What a file says of itself: its length in seconds and how long a frame is shown."""

    duration: float
    frame: float


def find_clip(folder: Path, name: str) -> Path | None:
    """The video `name` in a folder or one of the folders in it, with or without its suffix."""
    places = [folder / f"{name}{end}" for end in ("", *SUFFIXES)]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        inner = (each / path.name for each in sorted(folder.iterdir()) if each.is_dir() for path in places)
        found = next((path for path in inner if path.is_file()), None)
    return found


def spread(duration: float, fps: float, most: int) -> list[float]:
    """Seconds at `fps` a second from 0 on, at most `most` of them, evenly spread; at least one."""
    count = max(1, int(duration * fps + 1e-6))
    kept = min(count, most)
    return [round(i * (count - 1) / max(kept - 1, 1)) / fps for i in range(kept)]


def read_frames(
    path: Path, choose: Callable[[Clip], Sequence[float]], most_pixels: int | None = None
) -> tuple[Clip, list[tuple[float, Image.Image]]]:
    """The clip, and for each second of `choose(clip)`, ascending, the frame shown then, upright RGB, with its time.

    A frame's time is its own where it is shown within half a frame of the second asked for, else that second.

    Args:
        most_pixels: larger frames are scaled down to this area.

    Raises:
        UsageError: PyAV is not installed.
        Rejected: "damaged video", "empty video".
    """
    try:
        import av  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError("reading videos needs PyAV: pip install -e '.[video]'") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Rejected("damaged video", f"{path.name}: no pictures in it")
            reader = _FrameReader(container, container.streams.video[0], path.name)
            frames = reader.at(choose(reader.clip))
            return reader.clip, [(time, _image(frame, most_pixels)) for time, frame in frames]
    except Rejected:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise Rejected("damaged video", f"{path.name}: {' '.join(str(error).split())}") from None


class _FrameReader:
    """One pass over the frames of a stream, forwards."""

    def __init__(self, container: Any, stream: Any, name: str):
        self._container, self._stream, self._name = container, stream, name
        stream.codec_context.thread_count = 1  # what is left out is decided packet by packet
        self._base = float(stream.time_base)
        self._start = stream.start_time or 0
        length = stream.duration * self._base if stream.duration else (container.duration or 0) / 1e6
        rates = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
        if length <= 0 or not rates:
            raise Rejected("empty video", f"{name}: {length:g} s")
        self.clip = Clip(length, 1 / float(max(rates)))  # frames of screen recordings may stay longer
        self._before = max(_REORDERED * self.clip.frame, 0.5)
        self._decoded = self._from(0.0)
        self._next: tuple[float, Any] | None = None
        self._wanted = 0.0

    def at(self, seconds: Sequence[float]) -> Iterator[tuple[float, Any]]:
        """The frame shown at each of these seconds, with its time."""
        half = self.clip.frame / 2 + 1e-6
        shown: tuple[float, Any] | None = None
        for wanted in seconds:
            position = shown[0] if shown else -1.0
            key = self._key_before(wanted - self._before)
            if key > position + self.clip.frame if key is not None else wanted - position > _FAR:
                shown = self._shown(wanted, self._from(wanted - self._before))
                if shown is None:  # the jump went too far
                    shown = self._shown(wanted, self._from(0.0))
            else:
                shown = self._shown(wanted) or shown
            shown = shown or self._next  # the first frame may come late
            if shown is None:
                raise Rejected("empty video", f"{self._name}: no frame in it")
            ended = self._next is None and wanted > shown[0] + self.clip.frame + END_GAP
            if ended or shown[1].is_corrupt:
                told = f"ends at {shown[0]:.1f} s" if ended else f"is damaged at {shown[0]:.1f} s"
                raise Rejected("damaged video", f"{self._name} {told} of {self.clip.duration:.1f} s")
            yield (shown[0] if abs(shown[0] - wanted) <= half else wanted), shown[1]

    def _shown(self, wanted: float, anew: Iterator[tuple[float, Any]] | None = None) -> tuple[float, Any] | None:
        """The last frame up to half a frame after `wanted`; None when all that are still to come are later."""
        if anew is not None:
            self._decoded, self._next = anew, None
        self._wanted = wanted
        found = None
        while self._next is None or self._next[0] <= wanted + self.clip.frame / 2 + 1e-6:
            found = self._next or found
            self._next = next(self._decoded, None)
            if self._next is None:
                break
        return found

    def _key_before(self, second: float) -> float | None:
        """The time of the last key frame that the file's index has up to `second`; None without an index."""
        entries = self._stream.index_entries
        found = entries.search_timestamp(int(second / self._base) + self._start, backward=True) if entries else -1
        return None if found < 0 else (entries[found].timestamp - self._start) * self._base

    def _from(self, second: float) -> Iterator[tuple[float, Any]]:
        """(time, frame) from the last key frame before `second` on; until shortly before the wanted one not all."""
        if second > 0:
            self._container.seek(int(second / self._base) + self._start, stream=self._stream, backward=True)
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            lasts = max((packet.duration or 0) * self._base, 3 * self.clip.frame)
            early = packet.pts is not None and self._time(packet.pts) + lasts < self._wanted
            context.skip_frame = "NONREF" if early else "DEFAULT"
            for frame in packet.decode():
                if frame.pts is not None:
                    yield self._time(frame.pts), frame

    def _time(self, pts: int) -> float:
        return (pts - self._start) * self._base


def _image(frame: Any, most_pixels: int | None) -> Image.Image:
    width, height = frame.width, frame.height
    share = 1.0 if most_pixels is None else min(1.0, (most_pixels / (width * height)) ** 0.5)
    size = {"width": max(1, int(width * share)), "height": max(1, int(height * share))}
    image: Image.Image = frame.reformat(format="rgb24", **size).to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image  # as phones film


def jpeg(image: Image.Image) -> bytes:
    """A frame as a JPEG; the same pixels give the same bytes."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()
