"""Every instance of a thing in an image is one target: COCO detection, files in its format, PixMo-Points.

Where annotations carry a caption (`caption`, `phrase`, `expression`; `--instruction KEY` for another field), that
is what is asked for, with all boxes of the same caption as target. `--instruction category` asks for the categories
all the same.

Annotations come in no order of images, so they are gathered first: some 80 bytes each, and their captions. Crowds
(iscrowd = 1, one box around many) are left out. What is asked for "every" object of is rejected when one of them was.
"""

from __future__ import annotations

from argparse import Namespace
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_prep import Item
from data_prep.pipeline.conversion import Rejected, instruction, pixel_box, point_in, target_of
from data_prep.pipeline.presets import Conversion, row_source
from data_prep.pipeline.readers import annotation_files, read_json_array
from data_prep.sources import CARDS

CAPTIONS = ("caption", "captions", "phrase", "expression", "referring_expression", "description", "sentence",
            "sentences")  # fmt: skip
"""Fields of an annotation that say in words which object it is."""


def detection_source(name: str, *, file_name: Callable[[str], str] = str, **about: Any) -> None:
    """Register a source of files in COCO's detection format.

    Args:
        file_name: the annotation's file name -> path below the image folder.
        about: as for `row_source`.
    """

    def convert(run: Conversion, where: str, row: tuple[_Gathered, _Group]) -> Iterator[Item]:
        found, group = row
        if run.args.single and len(group.boxes) > 1:
            return
        if group.incomplete:
            raise Rejected("incomplete", "another of its annotations was rejected")
        file_of, width, height = _known(found.images, group.image, "image")
        said = found.captions[group.caption] if group.caption >= 0 else None
        category = None if group.category is None else _known(found.categories, group.category, "category")
        picture = run.folder(file_name(file_of), width, height)
        boxes = [pixel_box(box, picture[0], xywh=True, label=said or category) for box in group.boxes.tolist()]
        asked = said or (category if len(boxes) == 1 else f"every {category}")
        id = f"{name}-{group.image}-{group.category if said is None else f'caption-{group.caption}'}"
        meta = {"image_id": group.image, **({"category": category} if category else {})}
        yield run.item(id, [picture], asked, target_of(boxes), meta=meta)

    row_source(name, as_split=True, flags=_FLAGS, rows=_groups, **about)(convert)


_FLAGS = {
    "--single": {"action": "store_true", "help": "only what has one object in the image"},
    "--instruction": {
        "metavar": "KEY",
        "help": "field of an annotation that says what is asked for; 'category' for the category's name (a caption"
        " where annotations have one, else the category)",
    },
}


def _groups(args: Namespace) -> Iterator[tuple[str, tuple[_Gathered, _Group] | Rejected]]:
    for path in annotation_files(args):
        found = _Gathered.read(path, args.instruction)
        yield from found.rejects
        for where, group in found.groups(path.name):
            yield where, group if isinstance(group, Rejected) else (found, group)


detection_source(**CARDS["coco"])
detection_source(
    **CARDS["objects365"],
    file_name=lambda name: "/".join(PurePosixPath(name).parts[-2:]),  # archives unpack to patch0/NAME.jpg
)


@row_source(
    **CARDS["pixmo_points"],
    flags={"--suffix": {"default": ".jpg", "help": "suffix of the image files (.jpg)"}},
)
def pixmo_points(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """What to point at, and every instance of it.

    {"image_url", "image_sha256", "label", "points": [{"x", "y"}, ...], "count"}; x and y are percent.

    The data set has addresses only: fetch the images first (for instance with img2dataset) and name each file by the
    SHA-256 in `image_sha256`. An empty list of points is an absent target.
    """
    name = row["image_sha256"]
    if not isinstance(name, str) or not name.isalnum():
        raise Rejected("wrong format", f"image_sha256 {name!r}")
    picture = run.folder(name + run.args.suffix)
    points = [point_in(100, (p["x"], p["y"])) for p in row["points"]]
    if "count" in row and row["count"] is not None and row["count"] != len(points):
        raise Rejected("count differs", f"{len(points)} points, count {row['count']}")
    meta = {"method": str(row.get("collection_method") or "")}
    yield run.item(where, [picture], row["label"], target_of(points), meta=meta)


def _known(table: dict[Any, Any], key: Any, what: str) -> Any:
    """The entry of an image or category; one that two rows claim is none."""
    if key not in table:
        raise Rejected("wrong format", f"no {what} {key}")
    if table[key] is None:
        raise Rejected("duplicate id", f"{what} {key} is there twice, with different content")
    return table[key]


@dataclass(frozen=True, slots=True)
class _Group:
    """What one sample asks for: boxes (xywh, pixels) of one image.

    Attributes:
        category: its id; None where a caption's boxes are of several.
        caption: its number, -1 for none.
        incomplete: an annotation of it could not be read.
    """

    image: int
    category: int | None
    caption: int
    boxes: np.ndarray
    incomplete: bool


@dataclass
class _Gathered:
    """The content of a file: what is there twice under one id with different content stands as None."""

    images: dict[int, tuple[str, Any, Any] | None] = field(default_factory=dict)
    categories: dict[int, str | None] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)
    rejects: list[tuple[str, Rejected]] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("q"))  # of every annotation; -1 where it has none
    keys: array[int] = field(default_factory=lambda: array("q"))  # image, category, caption, position in `ids`
    boxes: array[float] = field(default_factory=lambda: array("d"))
    broken: set[tuple[int, int]] = field(default_factory=set)  # image, category

    @classmethod
    def read(cls, path: Path, key: str | None) -> _Gathered:
        """Read a file; `key` is the field of an annotation that is asked for."""
        found = cls()
        numbers: dict[str, int] = {}
        names: dict[str, int] = {}

        def take_image(row: dict[str, Any]) -> None:
            _enter(found.images, row["id"], (row["file_name"], row.get("width"), row.get("height")), "image")

        def take_category(row: dict[str, Any]) -> None:
            if names.setdefault(row["name"], row["id"]) != row["id"]:
                raise Rejected("duplicate name", f"categories {names[row['name']]} and {row['id']}: {row['name']!r}")
            _enter(found.categories, row["id"], row["name"], "category")

        def take_box(row: dict[str, Any]) -> None:
            if row.get("iscrowd"):
                return
            image, category = int(row["image_id"]), int(row.get("category_id", -1))
            try:
                x, y, width, height = (float(value) for value in row["bbox"])
                asked = _captions(row, key)
            except (Rejected, KeyError, TypeError, ValueError):
                found.broken.add((image, category))
                raise
            if category == -1 and not asked:
                raise Rejected("wrong format", "neither category_id nor a caption")
            identity = row.get("id")
            for caption in asked or ("",):
                number = numbers.setdefault(caption, len(numbers)) if caption else -1
                found.keys.extend(array("q", (image, category, number, len(found.ids))))
                found.boxes.extend((x, y, width, height))
            found.ids.append(identity if type(identity) is int and 0 <= identity < 2**63 else -1)

        def read(part: str, take: Callable[[dict[str, Any]], None]) -> None:
            for where, row in read_json_array(path, part):
                try:
                    if isinstance(row, Rejected):
                        raise row
                    take(row)
                except Rejected as error:
                    found.rejects.append((where, error))
                except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                    found.rejects.append((where, Rejected("wrong format", repr(error))))

        read("images", take_image)
        read("categories", take_category)
        read("annotations", take_box)
        found.captions = list(numbers)
        return found

    def groups(self, file: str) -> Iterator[tuple[str, _Group | Rejected]]:
        """The boxes of each category (or caption) of each image, and the annotations that cannot be used."""
        if not self.ids:
            return
        ids = np.frombuffer(self.ids, dtype=np.int64)
        keys = np.frombuffer(self.keys, dtype=np.int64).reshape(-1, 4)
        boxes = np.frombuffer(self.boxes, dtype=np.float64).reshape(-1, 4)
        clashing = _clashing(ids, keys, boxes)
        usable = ~np.isin(keys[:, 3], list(clashing))
        for annotation, copy in clashing.items():
            told = "the same annotation twice" if copy else "annotations of different content have it"
            yield f"{file}:annotation {ids[annotation]}", Rejected("duplicate id", told)
        lost = np.isin(keys[:, 3], [annotation for annotation, copy in clashing.items() if not copy])
        self.broken.update((int(image), int(category)) for image, category in keys[lost, :2])
        if self.captions:
            for row in np.flatnonzero(keys[:, 2] < 0):
                where = f"{file}:annotation {ids[keys[row, 3]]} of image {keys[row, 0]}"
                yield where, Rejected("no caption", "others have one; --instruction category asks for categories")
            usable &= keys[:, 2] >= 0
        by = keys[:, 2] if self.captions else keys[:, 1]
        order = np.lexsort((by, keys[:, 0]))
        order = order[usable[order]]
        changes = np.flatnonzero((np.diff(keys[order, 0]) != 0) | (np.diff(by[order]) != 0)) + 1
        for begin, end in pairwise([0, *changes.tolist(), len(order)]) if len(order) else ():
            rows = order[begin:end]
            _, firsts = np.unique(boxes[rows], axis=0, return_index=True)
            for copy in sorted(set(range(len(rows))) - set(firsts.tolist())):
                where = f"{file}:annotation {ids[keys[rows[copy], 3]]} of image {keys[rows[copy], 0]}"
                yield where, Rejected("duplicate annotation", f"{boxes[rows[copy]].tolist()} is there twice")
            image, category, caption, _ = (int(value) for value in keys[rows[0]])
            own = set(keys[rows, 1].tolist()) == {category} and category != -1
            broken = not self.captions and (image, category) in self.broken
            named = f"caption {self.captions[caption]!r}" if self.captions else f"category {category}"
            group = _Group(image, category if own else None, caption, boxes[rows[np.sort(firsts)]], broken)
            yield f"{file}:image {image}, {named}", group


def _enter(table: dict[int, Any], key: int, value: Any, what: str) -> None:
    if key in table:
        told = "with different content" if table[key] != value else "with the same content"
        if table[key] != value:
            table[key] = None
        raise Rejected("duplicate id", f"{what} {key} is there twice, {told}")
    table[key] = value


def _captions(row: dict[str, Any], key: str | None) -> list[str]:
    """What an annotation says in words that it is."""
    if key == "category":
        return []
    values = [row[key]] if key else [row[name] for name in CAPTIONS if row.get(name)][:1]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(instruction(text) for text in texts))


def _clashing(ids: np.ndarray, keys: np.ndarray, boxes: np.ndarray) -> dict[int, bool]:
    """Annotations whose id another one has: True for copies of a first one, False where the content differs."""
    order = np.argsort(ids, kind="stable")
    again = order[1:][(np.diff(ids[order]) == 0) & (ids[order][1:] >= 0)]
    members: dict[int, list[int]] = {}
    for number in np.flatnonzero(np.isin(ids, ids[again])).tolist() if len(again) else ():
        members.setdefault(int(ids[number]), []).append(number)
    found: dict[int, bool] = {}
    for numbers in members.values():
        rows = [slice(*np.searchsorted(keys[:, 3], (number, number + 1))) for number in numbers]
        same = len({(keys[own, :3].tobytes(), boxes[own].tobytes()) for own in rows}) == 1
        found.update(dict.fromkeys(numbers[1:] if same else numbers, same))
    return found
