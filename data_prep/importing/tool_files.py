"""Readers of what annotation tools write: YOLO, Pascal VOC, LabelMe, CVAT, Label Studio, CreateML -> records.

Each yields (where, `Record`), or (where, `Rejected`) for a file or row that cannot be read. Outlines are boxed.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from data_prep import Split
from data_prep.importing.records import MarkedRegion, Record, texts_of
from data_prep.pipeline.conversion import Rejected, number
from data_prep.pipeline.readers import Row, read_json_array, require
from data_prep.sources.detections import CAPTIONS
from grounding.errors import UsageError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _text(path: Path) -> str:
    return require(path).read_text(encoding="utf-8-sig", errors="surrogateescape")


# YOLO: one text file an image, lines "class x_center y_center width height" in fractions


def yolo_layout(path: Path) -> tuple[dict[int, str], list[tuple[Split, Path]]]:
    """The names of the classes, and the image folders or lists of images with their splits.

    Args:
        path: data.yaml (Ultralytics), or a folder with classes.txt (LabelImg, darknet) and the labels.

    Raises:
        UsageError: no names, or none of the folders is there.
    """
    if path.is_dir():
        names = dict(enumerate(_text(path / "classes.txt").split("\n")))
        return {key: name.strip() for key, name in names.items() if name.strip()}, [("train", path)]
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content.get("names"):
        raise UsageError(f"{path}: not a YOLO data set: it names no classes under `names`")
    names = content["names"]
    classes = dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}
    bases = [path.parent / str(content.get("path") or "."), path.parent]
    places: list[tuple[Split, Path]] = []
    for split in ("train", "val", "test"):
        for named in [content[split]] if isinstance(content.get(split), str) else content.get(split) or ():
            tries = [base / text for base in bases for text in (named, re.sub(r"^(\.\./)+", "", named))]
            found = next((place for place in tries if place.exists()), None)
            if found is None:
                raise UsageError(f"{path}: {split}: {named} is not there (looked in {tries[0]})")
            places.append((split, found))  # type: ignore[arg-type]
    if not places:
        raise UsageError(f"{path}: names neither train nor val nor test")
    return {key: str(name) for key, name in classes.items()}, places


def read_yolo(path: Path) -> Iterator[Row]:
    classes, places = yolo_layout(path)
    for split, place in places:
        if place.is_file():
            listed = [place.parent / line.strip() for line in _text(place).splitlines() if line.strip()]
            images = [image for image in listed if image.suffix.lower() in IMAGES]
        else:
            images = sorted(image for image in place.rglob("*") if image.suffix.lower() in IMAGES)
        for image in images:
            labels = yolo_labels(image)
            if labels is not None:  # an image without a file shows nothing
                regions = list(_yolo_lines(labels, classes))
                yield labels.name, Record(image.absolute().as_posix(), regions, split=split)


def yolo_labels(image: Path) -> Path | None:
    """The file of an image's labels: `images` in its path is `labels` there; or it lies beside the image."""
    parts = list(image.parts)
    places = [image.with_suffix(".txt")]
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        places.insert(0, Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt"))
    return next((place for place in places if place.is_file()), None)


def _yolo_lines(path: Path, classes: dict[int, str]) -> Iterator[MarkedRegion]:
    for count, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        where = f"{path.parent.name}/{path.name}:{count}"
        if not words:
            continue
        try:
            values = [number(word) for word in words[1:]]
            name = classes[int(words[0])]
        except (Rejected, KeyError, ValueError):
            error = Rejected("wrong format", f"no class of {len(classes)} and numbers: {line[:80]!r}")
            yield MarkedRegion(where, classes.get(int(words[0])) if words[0].isdecimal() else None, (), error=error)
            continue
        if len(values) == 4:
            yield MarkedRegion(where, name, values)
        elif len(values) >= 6 and len(values) % 2 == 0:
            yield MarkedRegion(where, name, values, "outline")
        else:
            error = Rejected("wrong format", f"{len(values)} numbers after the class, 4 are a box: {line[:80]!r}")
            yield MarkedRegion(where, name, (), error=error)


# XML


def _parse(path: Path) -> ElementTree.Element:
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities could expand without end
        raise Rejected("wrong format", f"{path.name} declares a document type")
    try:
        return ElementTree.fromstring(text)  # noqa: S314  nothing can expand without a document type
    except ElementTree.ParseError as error:
        raise Rejected("wrong format", f"{path.name}: {error}") from None


def read_voc(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        try:
            root = _parse(path)
        except Rejected as error:
            yield path.name, error
            continue
        if root.tag != "annotation":
            yield path.name, Rejected("wrong format", f"<{root.tag}> is no Pascal VOC annotation")
            continue
        # The challenge and supervision count pixels from 1, the last one inside; LabelImg and CVAT count from 0
        first = 1 if re.search("VOC20|roboflow.ai", root.findtext("source/database", "")) else 0
        regions: list[MarkedRegion] = []
        for count, thing in enumerate(root.iterfind("object"), 1):
            where = f"{path.name}:{count}"
            box = [thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
            try:
                numbers = [number(value, "box") for value in box]
            except Rejected as error:
                regions.append(MarkedRegion(where, thing.findtext("name"), (), error=error))
                continue
            numbers = [numbers[0] - first, numbers[1] - first, *numbers[2:]]
            regions.append(MarkedRegion(where, thing.findtext("name", ""), numbers))
        size = root.findtext("size/width"), root.findtext("size/height")
        width, height = (None if not side or side == "0" else side for side in size)
        yield path.name, Record(root.findtext("filename", "") or path.stem, regions, width, height)


def read_cvat(path: Path) -> Iterator[Row]:
    """ "CVAT for images 1.1". An attribute called `caption` (or as in COCO's files) says which one is meant."""
    try:
        root = _parse(path)
    except Rejected as error:
        yield path.name, error
        return
    if root.find("track") is not None:
        raise UsageError(f"{path}: a video's tracks; export the task as 'CVAT for images 1.1'")
    for image in root.iterfind("image"):
        name = image.get("name", "")
        regions: list[MarkedRegion] = []
        for count, shape in enumerate(chain.from_iterable(image.iterfind(tag) for tag in _CVAT), 1):
            where = f"{path.name}:{name}:{count}"
            told = {each.get("name", ""): each.text for each in shape.iterfind("attribute")}
            said = texts_of(told, CAPTIONS)
            text, label = (said, False) if said else (shape.get("label"), True)
            if float(shape.get("rotation") or 0) % 360:
                error = Rejected("rotated box", f"by {shape.get('rotation')} degrees")
                regions.append(MarkedRegion(where, text, (), error=error))
            elif shape.tag == "box":
                regions.append(
                    MarkedRegion(
                        where, text, [shape.get(side) for side in ("xtl", "ytl", "xbr", "ybr")], "box", label
                    )
                )
            else:
                numbers = re.split(r"[,;]", shape.get("points", ""))
                kind: Any = "point" if shape.tag == "points" and len(numbers) == 2 else "outline"
                regions.append(MarkedRegion(where, text, numbers, kind, label))
        yield f"{path.name}:{name}", Record(name, regions, image.get("width"), image.get("height"))


_CVAT = ("box", "polygon", "points")


# JSON


def read_labelme(paths: Sequence[Path]) -> Iterator[Row]:
    """LabelMe: one file an image; a shape's description, where it has one, is what is asked for."""
    for path in paths:
        try:
            content = json.loads(_text(path))
            shapes, name = content["shapes"], content["imagePath"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            yield path.name, Rejected("wrong format", f"no LabelMe file: {error}")
            continue
        regions: list[MarkedRegion] = []
        for count, shape in enumerate(shapes, 1):
            where, kind = f"{path.name}:{count}", shape.get("shape_type") or "polygon"
            said = texts_of(shape, ("description",))
            text, label = (said, False) if said else (shape.get("label"), True)
            points = [value for point in shape.get("points") or () for value in point]
            if kind == "circle" and len(points) == 4:  # its center, and a point on it
                x, y, radius = *points[:2], ((points[0] - points[2]) ** 2 + (points[1] - points[3]) ** 2) ** 0.5
                points = [x - radius, y - radius, x + radius, y + radius]
            if kind in _LABELME:
                regions.append(MarkedRegion(where, text, points, _LABELME[kind], label))
            else:
                regions.append(
                    MarkedRegion(where, text, (), error=Rejected("wrong format", f"a {kind} is no region"))
                )
        image: Any = name
        stored = content.get("imageData")
        beside = path.parent / str(name).replace("\\", "/")
        if stored and not beside.is_file():
            image = b64decode(stored)
        yield path.name, Record(image, regions, content.get("imageWidth"), content.get("imageHeight"))


_LABELME: dict[str, Any] = {"rectangle": "outline", "polygon": "outline", "circle": "outline", "point": "point"}
_SHAPES = {"rectanglelabels": "box", "keypointlabels": "point", "polygonlabels": "outline", "rectangle": "box"}


def read_label_studio(path: Path) -> Iterator[Row]:
    """Label Studio's JSON and JSON-MIN; numbers are percent. A text area of a region says which one is meant."""
    for where, task in read_json_array(path):
        try:
            if isinstance(task, Rejected):
                raise task
            yield where, _task(where, task)
        except Rejected as error:
            yield where, error
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            yield where, Rejected("wrong format", f"no task of Label Studio: {error!r}")


def _task(where: str, task: dict[str, Any]) -> Record:
    whole = "data" in task and "annotations" in task
    data = task["data"] if whole else task
    image = next((data[key] for key in ("image", "img", "ocr", "captioning") if isinstance(data.get(key), str)), None)
    image = image or next(v for v in data.values() if isinstance(v, str) and v.lower().endswith(IMAGES))
    regions: list[MarkedRegion] = []
    if whole:
        answers = [each for each in task["annotations"] if not each.get("was_cancelled")]
        if not answers:
            raise Rejected("no annotation", "the task was skipped or not done")
        results = answers[0]["result"]
        other = Rejected("another annotator", "the first annotation is read")
        regions += [MarkedRegion(where, "", (), error=other) for _ in answers[1:]]
    else:
        lists = [value for value in task.values() if isinstance(value, list)]
        results = [{"value": one, "type": next((key for key in _SHAPES if key in one), ""), **one}
                   for values in lists for one in values if isinstance(one, dict)]  # fmt: skip
    said = {one.get("id"): one["value"]["text"] for one in results if one.get("type") == "textarea"}
    size: list[Any] = [None, None]
    for count, one in enumerate(results, 1):
        kind, value, place = _SHAPES.get(str(one.get("type"))), one["value"], f"{where}-{count}"
        if kind is None:
            continue
        size = [one.get("original_width"), one.get("original_height")]
        caption = said.get(one.get("id"))
        caption = caption[0] if isinstance(caption, list) and caption else caption
        classes = value.get(one["type"]) or ()
        text, label = (caption, False) if caption else (classes[0] if classes else None, True)
        if (value.get("rotation") or 0) % 360:
            error = Rejected("rotated box", f"by {value['rotation']} degrees")
            regions.append(MarkedRegion(place, text, (), error=error))
            continue
        if kind == "box":
            x, y, width, height = (number(value[key]) for key in ("x", "y", "width", "height"))
            numbers = [x, y, x + width, y + height]
        elif kind == "point":
            numbers = [value["x"], value["y"]]
        else:
            numbers = [each for point in value["points"] for each in point]
        regions.append(MarkedRegion(place, text, numbers, kind, label))  # type: ignore[arg-type]
    return Record(image, regions, *size)


def read_createml(path: Path) -> Iterator[Row]:
    """CreateML: x and y of `coordinates` are the middle of the box, in pixels."""
    for where, row in read_json_array(path):
        if isinstance(row, Rejected):
            yield where, row
            continue
        try:
            regions = []
            for count, one in enumerate(row["annotations"], 1):
                place = one["coordinates"]
                numbers = [place[key] for key in ("x", "y", "width", "height")]
                regions.append(MarkedRegion(f"{where}-{count}", one["label"], numbers))
            image = next(row[key] for key in ("image", "imagefilename", "filename") if key in row)
        except (KeyError, TypeError, StopIteration) as error:
            yield where, Rejected("wrong format", f"no row of CreateML: {error!r}")
            continue
        yield where, Record(image, regions)
