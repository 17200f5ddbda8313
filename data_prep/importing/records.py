"""What annotation tools and tables say, in one shape: an image with its regions; and the items made of it."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from data_prep import Item, Reject, Sample, Split
from data_prep.pipeline.conversion import Rejected, convert_rows, instruction, number, target_of
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.presets import Conversion, Picture
from data_prep.pipeline.spaces import NumberFormat
from data_prep.sources.hub_datasets import TargetMapping
from grounding.folders import LISTING
from grounding.sample import ImageRef
from grounding.targets import Box, Point

MOST_FILES = 200_000  # looked through for an image that is not where the annotation says


@dataclass(frozen=True, slots=True)
class MarkedRegion:
    """A place in an image.

    Attributes:
        where: what locates it in the file; the id of its sample.
        text: what is asked for: a class, or words that say which one is meant.
        numbers: of a box or point, as written; of an outline its x and y in turn, which are boxed.
        label: `text` is a class, of which an image may show several: these are asked for together.
        error: why it cannot be used. Its class lacks it then, and so do all where `text` is None, not known.
    """

    where: str
    text: Any
    numbers: Any
    kind: Literal["box", "point", "outline"] = "box"
    label: bool = True
    error: Rejected | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An image: its name or its bytes, its regions, and what the file says of its size in pixels."""

    image: Any
    regions: Sequence[MarkedRegion]
    width: Any = None
    height: Any = None
    split: Split | None = None


def flat(region: MarkedRegion) -> list[float]:
    """The numbers of a region as a box or point has them. Raises Rejected."""
    if region.kind != "outline":
        count = 2 if region.kind == "point" else 4
        if (
            not isinstance(region.numbers, Sequence)
            or isinstance(region.numbers, str)
            or len(region.numbers) != count
        ):
            raise Rejected("wrong format", f"{region.kind} {region.numbers!r} needs {count} numbers")
        return [number(value, region.kind) for value in region.numbers]
    values = [number(value, "outline") for value in region.numbers]
    if len(values) < 4 or len(values) % 2:
        raise Rejected("wrong format", f"an outline of {len(values)} numbers")
    return [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]


def readers(box: NumberFormat, point: NumberFormat) -> dict[str, TargetMapping]:
    """What reads the numbers of each kind of region."""
    made = {}
    for kind, reading in (("box", box), ("outline", NumberFormat("xyxy", box.unit)), ("point", point)):
        unit = 1000 if reading.unit == "thousandth" else reading.unit
        target = "point" if kind == "point" else "box"
        made[kind] = TargetMapping(kind=target, column="numbers", format=reading.format, unit=unit)
    return made


def picture_of(run: Conversion, where: str, record: Record) -> Picture:
    """The image of a record. Raises Rejected."""
    if isinstance(record.image, str):
        return run.folder(record.image, record.width, record.height)
    return run.inside_row(where, record.image, record.width, record.height)


def convert_record(run: Conversion, where: str, record: Record) -> Iterator[Item | Reject | Sample]:
    """One sample for each thing that is asked for: what has one text in an image is one target.

    `run.prepared` is what `readers` returned. Where one of the regions of a text cannot be used, the others are
    rejected as "incomplete", because the target would lack it.
    """
    picture = picture_of(run, where, record)
    asked: dict[tuple[str, bool], list[tuple[MarkedRegion, Box | Point]]] = {}
    broken: set[str | None] = set()

    def read(place: str, region: MarkedRegion) -> Iterator[Item]:
        if region.error is not None:
            raise region.error
        text = instruction(region.text)
        found = run.prepared[region.kind].read({"numbers": flat(region)}, [picture[0]], run.spaces)
        asked.setdefault((text, isinstance(found, Box)), []).append((region, found))
        yield from ()

    for region in record.regions:
        for reject in convert_rows([(region.where, region)], read):
            yield reject
            broken.add(region.text.strip() if isinstance(region.text, str) else region.text)
    for (text, _), places in asked.items():
        first = places[0][0]
        if text in broken or (first.label and None in broken):
            yield Reject(first.where, "incomplete", f"another {text!r} of the image was rejected")
            continue
        regions = list(dict.fromkeys(place for _, place in places))
        several = first.label and len(regions) > 1
        meta = {"category": text} if first.label else {}
        target = target_of(regions)  # type: ignore[arg-type]
        yield run.item(first.where, [picture], f"every {text}" if several else text, target,
                       split=record.split or run.args.as_split, meta=meta)  # fmt: skip


_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the names of uploaded files
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class FoundImages(ImageFolder):
    """Images below a folder, wherever the path in the annotations begins.

    ``/data/shots/a.png``, ``C:\\shots\\a.png`` and ``../shots/a.png`` are ``shots/a.png`` or ``a.png`` below the
    folder, or the one file of that name that is anywhere in it. What is not certain is rejected: two names that lead
    to one file, and a name that several files have.

    Args:
        root: the folder.
        args: of the command.
        anywhere: take a path that is one on this machine as it is; not where the user has named the folder.

    Attributes:
        used: what was looked at: name in the annotations -> file.
    """

    def __init__(self, root: Path, args: Namespace, *, anywhere: bool = False):
        super().__init__(root, "images", args.images != "none", args.decode)
        self.root, self.anywhere = root, anywhere
        self._machine = ImageFolder(Path("/"), "images", args.images != "none", args.decode)
        self.used: dict[str, Path] = {}
        self._found: dict[str, str | Rejected] = {}
        self._owner: dict[str, str] = {}
        self._names: dict[str, list[str]] | None = None

    def __call__(self, name: str, width: Any = None, height: Any = None) -> tuple[ImageRef, Path]:
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise Rejected("missing image", f"the row names none: {name!r}")
        found = self._found.get(name)
        if found is None:
            try:
                found = self._find(name)
            except Rejected as error:
                found = error
            self._found[name] = found
        if isinstance(found, Rejected):
            raise Rejected(found.reason, found.detail)
        if found.startswith("/"):
            picture = self._machine(found[1:], width, height)
        else:
            picture = super().__call__(found, width, height)
        self.used[name] = picture[1]
        return picture

    def _find(self, name: str) -> str:
        if re.match(r"(?:https?|s3|gs)://", name):
            raise Rejected("missing image", f"{name} is an address: fetch the images first, then say --images DIR")
        path = unquote(name.partition("?d=")[2]) if "?d=" in name else name.removeprefix("file://")
        path = path.replace("\\", "/")
        if path.startswith("/") and Path(path).is_relative_to(self.root.absolute()):
            path = str(Path(path).relative_to(self.root.absolute()))
        parts = [part for part in path.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if os.path.isfile(os.path.join(self.root, tail)):  # noqa: PTH113, PTH118  called for every image
                return self._claim(tail, name if start else "")
            if self.anywhere and not start and os.path.isfile(path):  # noqa: PTH113
                return self._claim(os.path.abspath(path), "")  # noqa: PTH100
        for wanted in (parts[-1] if parts else "", _UPLOADED.sub("", parts[-1]) if parts else ""):
            matches = self._index().get(wanted, [])
            if len(matches) > 1:
                raise Rejected("image name is ambiguous", f"{name}: {matches[0]} or {matches[1]} in {self.root}?")
            if matches:
                return self._claim(matches[0], name)
        raise Rejected("missing image", f"{name} is not in {self.root}: say --images DIR")

    def _claim(self, found: str, name: str) -> str:
        """`found`, unless another name of the annotations has led there: then one of the two is wrong."""
        owner = self._owner.setdefault(found, name or found)
        if owner != (name or found):
            raise Rejected(
                "image name is ambiguous", f"{owner} and {name or found} would both be {self.root / found}"
            )
        return found

    def _index(self) -> dict[str, list[str]]:
        """Name of a file, and without its suffix -> paths below the root; data sets of ours are left out."""
        if self._names is None:
            self._names, seen = {}, 0
            for folder, inner, files in os.walk(self.root):
                inner[:] = sorted(each for each in inner if not each.startswith("."))
                if LISTING in files:
                    inner.clear()
                    continue
                for file in sorted(files):
                    stem, suffix = os.path.splitext(file)  # noqa: PTH122
                    if suffix.lower() in _SUFFIXES:
                        path = os.path.relpath(os.path.join(folder, file), self.root)  # noqa: PTH118
                        for key in (file, stem):
                            self._names.setdefault(key, []).append(path)
                seen += len(files)
                if seen > MOST_FILES:
                    break
        return self._names

    def state(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every image that was looked at: what changes when one is replaced."""
        stats = ((name, path.stat()) for name, path in sorted(self.used.items()))
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def texts_of(mapping: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first text that is not empty under one of the names."""
    values = (mapping.get(name) for name in names)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)
