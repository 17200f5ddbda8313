"""What a file of annotations is, and how it is converted: by its name, its first rows, and the numbers in them."""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep import Item, Reject, Sample, find_source
from data_prep.importing import tool_files
from data_prep.importing.chat_files import (
    CHAT_KEYS,
    chat_records,
    dialect_of,
    format_of,
    plain_lists,
    swift_objects,
    swift_unit,
    thinks,
)
from data_prep.importing.columns import find_columns, table_records, without_sides_as_box
from data_prep.importing.records import FoundImages, Record, convert_record, flat, picture_of, readers
from data_prep.pipeline.conversion import Rejected, convert_rows
from data_prep.pipeline.presets import Conversion
from data_prep.pipeline.readers import Row, read_json_array, read_rows, require
from data_prep.pipeline.spaces import UNITS, NumberFormat, Readings, Spaces
from data_prep.sources.detections import CAPTIONS
from grounding.errors import UsageError

FORMATS = ("CSV", "JSON lines", "JSON", "Parquet", "COCO", "YOLO", "Pascal VOC", "LabelMe", "CVAT", "Label Studio",
           "CreateML", "ShareGPT", "ms-swift", "VLM-R1")  # fmt: skip
SPACES = {"YOLO": ("fraction", "cxcywh"), "CreateML": ("pixel", "cxcywh"), "Label Studio": ("percent", "xyxy")}
"""Unit and order of the numbers as the readers hand them on, where these are not pixels of corners."""
TOOL_FILES = ("data.yaml", "data.yml", "classes.txt", "*.xml", "Annotations/*.xml", "*.json")
"""What the folder that a tool wrote has one of."""
HEAD = 50  # rows that decide what the columns are


@dataclass(frozen=True)
class Plan:
    """How a file is converted.

    Attributes:
        format: one of `FORMATS`.
        told: label and text of what is printed: what the columns were taken for, the space with its evidence.
        convert: the samples and rejects.
        inputs: the files whose content decides them.
        settings: arguments that the conversion was decided to have, for the manifest.
    """

    format: str
    told: list[tuple[str, str]]
    convert: Callable[[Namespace], Iterable[Item | Sample | Reject]]
    inputs: Sequence[Path]
    settings: Mapping[str, Any]


def recognize(args: Namespace) -> Plan:
    """The plan for `args.file`, a file or the folder that a tool writes.

    Raises:
        UsageError: it is nothing that is known, or the user has to say what its columns or numbers mean.
    """
    path: Path = args.file
    if path.is_dir():
        return _folder(path, args)
    require(path)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _tool("YOLO", args, path, tool_files.read_yolo, inputs=_labels_of(path))
    if suffix == ".xml":
        return _xml([path], args)
    if suffix in (".csv", ".tsv"):
        return _table("CSV", args)
    if suffix == ".parquet":
        head = _head(path)
        return _chat(args, head) if _is_chat(head) else _table("Parquet", args, _class_names(path))
    if suffix in (".json", ".jsonl"):
        return _json(path, args)
    raise UsageError(
        f"{path}: a {suffix or 'file without suffix'} is not known; give .csv, .tsv, .json, .jsonl, .parquet, .xml "
        "or data.yaml, or the folder that LabelImg, LabelMe or YOLO wrote"
    )


def _folder(path: Path, args: Namespace) -> Plan:
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (path / name).is_file():
            args.file = path / name
            return recognize(args)
    if (path / "classes.txt").is_file():
        return _tool("YOLO", args, path, tool_files.read_yolo, inputs=_labels_of(path))
    found = {
        suffix: sorted([*path.glob(f"*{suffix}"), *path.glob(f"Annotations/*{suffix}")])
        for suffix in (".xml", ".json", ".jsonl", ".csv", ".parquet")
    }
    there = {suffix: files for suffix, files in found.items() if files}
    if list(there) == [".xml"]:
        return _xml(there[".xml"], args)
    labelme = [file for file in there.get(".json", ()) if _keys(file) >= {"shapes", "imagePath"}]
    if labelme and len(labelme) == len(there[".json"]) and len(there) == 1:
        return _labelme(labelme, args)
    files = [file for own in there.values() for file in own]
    if len(files) == 1:
        args.file = files[0]
        return recognize(args)
    told = f"it has {', '.join(str(file.relative_to(path)) for file in files[:4])}: give one of them" if files else (
        "it has no annotations: no data.yaml, classes.txt, .xml, .json, .jsonl, .csv or .parquet")  # fmt: skip
    raise UsageError(f"{path}: {told}")


def _xml(paths: list[Path], args: Namespace) -> Plan:
    head = paths[0].read_text(encoding="utf-8", errors="replace")[:4096]
    tag = re.search(r"<([A-Za-z_]\w*)", head)
    if tag is not None and tag[1] == "annotations":
        return _tool("CVAT", args, paths[0], tool_files.read_cvat, inputs=[paths[0]])
    if tag is not None and tag[1] == "annotation":
        return _tool("Pascal VOC", args, paths, tool_files.read_voc, inputs=paths)
    raise UsageError(f"{paths[0]}: XML that begins with <{tag[1] if tag else '?'}> is neither Pascal VOC nor CVAT")


def _json(path: Path, args: Namespace) -> Plan:
    with path.open("rb") as stream:
        lines = path.suffix == ".jsonl" or not stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    keys = _keys(path) if lines else set()
    if keys >= {"shapes", "imagePath"}:
        return _labelme([path], args)
    if {"images", "annotations"} <= keys and "messages" not in keys:
        return _coco(path, args)
    head = _head(path)
    first = head[0]
    if isinstance(first.get("annotations"), list):
        inner = first["annotations"][0] if first["annotations"] else {}
        if isinstance(inner, dict) and isinstance(inner.get("coordinates"), dict):
            return _tool("CreateML", args, path, tool_files.read_createml, inputs=[path])
        if "data" in first:
            return _label_studio(path, args)
    if any(isinstance(one, dict) and "original_width" in one for value in first.values() if isinstance(value, list)
           for one in value):  # fmt: skip
        return _label_studio(path, args)
    if _is_chat(head):
        return _chat(args, head)
    return _table("JSON lines" if path.suffix == ".jsonl" else "JSON", args)


def _keys(path: Path) -> set[str]:
    """Keys of the object that a JSON file is, as far as they stand near its beginning or end."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - (1 << 16)))
        tail = stream.read()
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return set()
    if path.stat().st_size <= 64 << 20:
        try:
            return set(json.loads(path.read_text(encoding="utf-8-sig", errors="replace")))
        except (ValueError, RecursionError):
            return set()
    return {key.decode() for part in (head, tail) for key in re.findall(rb'"(\w{1,40})"\s*:', part)}


def _head(path: Path) -> list[dict[str, Any]]:
    """The first rows that can be read. Raises UsageError where there is none."""
    rows = [row for _, row in islice(read_rows(path), HEAD)]
    good = [row for row in rows if isinstance(row, dict)]
    if not good:
        why = next((f": {row.reason}, {row.detail}" for row in rows if isinstance(row, Rejected)), "")
        raise UsageError(f"{path}: no row can be read{why}")
    return good


def _labels_of(path: Path) -> list[Path]:
    _, places = tool_files.yolo_layout(path)
    files = [path if path.is_file() else path / "classes.txt"]
    for _, place in places:
        images = sorted(place.rglob("*")) if place.is_dir() else []
        files += [own for image in images if image.suffix.lower() in tool_files.IMAGES
                  and (own := tool_files.yolo_labels(image)) is not None]  # fmt: skip
    return files


def _labelme(paths: list[Path], args: Namespace) -> Plan:
    return _tool("LabelMe", args, paths, tool_files.read_labelme, inputs=paths)


def _label_studio(path: Path, args: Namespace) -> Plan:
    return _tool("Label Studio", args, path, tool_files.read_label_studio, inputs=[path])


_SAID = {
    "YOLO": "the class",
    "Pascal VOC": "the class",
    "CreateML": "the label",
    "LabelMe": "a shape's description, else its label",
    "CVAT": "the attribute `caption`, else the label",
    "Label Studio": "the text of a region, else its label",
}


def _tool(
    format: str, args: Namespace, place: Any, read: Callable[[Any], Iterator[Row]], *, inputs: list[Path]
) -> Plan:
    """A file of an annotation tool, whose numbers are in the tool's own space."""
    unit, order = SPACES.get(format, ("pixel", "xyxy"))
    reading = NumberFormat(order, args.space or unit)
    evidence = "as you said" if args.space else f"{format} writes them so"
    if format == "YOLO":
        _, places = tool_files.yolo_layout(place)
        folders = [one.absolute() if one.is_dir() else one.absolute().parent for _, one in places]
        args.pictures = FoundImages(Path(os.path.commonpath(folders)), args, anywhere=True)
    told = [("asked for", f"{_SAID[format]} (a class: all of one image together)"),
            ("space", f"{UNITS[reading.unit]}, {order}: {evidence}")]  # fmt: skip
    return _of_records(format, told, lambda: read(place), (reading, NumberFormat("xy", reading.unit)), inputs)


def _of_records(
    format: str,
    told: list[tuple[str, str]],
    records: Callable[[], Iterator[Row]],
    readings: tuple[NumberFormat, NumberFormat],
    inputs: Sequence[Path],
    *,
    trusted: bool = False,
) -> Plan:
    def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
        spaces = Spaces(
            f"--space {readings[0].unit}", Namespace(trust_space=args.trust_space or trusted, limit=args.limit)
        )
        run = Conversion("import", "unknown", args, args.pictures, spaces, readers(*readings))
        return spaces.watch(convert_rows(records(), partial(convert_record, run)))

    return Plan(format, told, convert, inputs, {"unit": readings[0].unit, "order": readings[0].format})


def _coco(path: Path, args: Namespace) -> Plan:
    spec = find_source("coco")
    own = {
        "annotations": [path.name],
        "image_folder": ".",
        "single": False,
        "instruction": args.columns.get("instruction"),
    }
    counted = _count_captions(path, args.columns.get("instruction"))
    told = [("asked for", counted), ("space", "pixels, xywh: COCO writes them so")]
    if args.space not in (None, "pixel"):
        raise UsageError(f"--space {args.space}: COCO's boxes are pixels; {path} would have to be rewritten")

    def convert(args: Namespace) -> Iterable[Item | Sample | Reject]:
        return spec.convert(Namespace(**{**vars(args), **own}))

    return Plan("COCO", told, convert, [path], {"instruction": args.columns.get("instruction")})


def _count_captions(path: Path, field: str | None) -> str:
    if field:
        return f"the annotations' field {field}"
    rows = [row for _, row in islice(read_json_array(path, "annotations"), HEAD) if isinstance(row, dict)]
    found = next((name for row in rows for name in CAPTIONS if row.get(name)), None)
    if found is not None:
        return f"the annotations' field {found} (--column instruction=category asks for categories)"
    return "the category, all objects of one in an image together"


def _is_chat(head: Sequence[Mapping[str, Any]]) -> bool:
    return any(key in head[0] for key in CHAT_KEYS) or {"problem", "solution"} <= set(head[0])


def _chat(args: Namespace, head: Sequence[Mapping[str, Any]]) -> Plan:
    path, format = args.file, format_of(head[0])
    told = [("asked for", "the question before each answer")]
    if format == "ms-swift":
        bbox_type, unit = swift_unit(head)
        args.space = args.space or unit
        told = [("asked for", "what names a <bbox> of the answer, else the question")]
        read = swift_objects(bbox_type)
        return _with_readings(format, told, args, lambda: chat_records(read_rows(path), read), ("xyxy",))
    if format == "VLM-R1":
        args.space = args.space or "pixel"
    dialect = args.dialect or (dialect_of(head) if format == "ShareGPT" else None)
    if dialect is None and any("seen" in row for row in head):
        dialect = "qwen2_5_vl"
    seen = args.seen

    def records() -> Iterator[Row]:
        return chat_records(read_rows(path), plain_lists)

    if dialect is None:
        plan = _with_readings(format, told, args, records, ("xyxy",))
        unit = str(plan.settings["unit"])
        if format == "VLM-R1" or not (thinks(head) or unit in ("pixel", "thousandth")):
            return plan
        if unit not in ("pixel", "thousandth"):
            raise UsageError(f"{path}: thoughts with {UNITS[unit]} in them cannot be read; say --dialect NAME")
        dialect, seen = ("qwen2_5_vl", "original") if unit == "pixel" else ("qwen3_vl", None)
        told = plan.told
    spec, flags = (
        find_source("sharegpt"),
        {"annotations": [path.name], "image_folder": ".", "dialect": dialect, "seen": seen},
    )
    flags |= {"strip": [], "image_prefix": ""}
    told = [*told, ("answers", f"in the words of {dialect}" + (", pixels of the files" if seen else ""))]

    def convert(args: Namespace) -> Iterable[Item | Sample | Reject]:
        return spec.convert(Namespace(**{**vars(args), **flags}))

    return Plan(format, told, convert, [path], {"dialect": dialect})


def _table(format: str, args: Namespace, classes: Mapping[str, Sequence[str]] | None = None) -> Plan:
    path: Path = args.file
    columns = find_columns(_head(path), args.columns, str(path))
    names = (classes or {}).get(columns.text)

    def records() -> Iterator[Row]:
        return table_records(read_rows(path), columns, names)

    if columns.formats == ("xywh",) and columns.sides is None and columns.places[2].lower().endswith("width"):
        sized = [row for row in _head(path) if _is_image_size(row, columns.image, columns.places[2:], args)]
        if sized and len(sized) == len(_head(path)):
            columns = without_sides_as_box(columns)
    return _with_readings(format, columns.told(), args, records, columns.formats)


def _is_image_size(row: Mapping[str, Any], image: str, sides: Sequence[str], args: Namespace) -> bool:
    try:
        picture, _ = args.pictures(row[image])
        return (picture.width, picture.height) == tuple(int(float(row[side])) for side in sides)
    except (Rejected, KeyError, TypeError, ValueError):
        return False


def _with_readings(
    format: str,
    told: list[tuple[str, str]],
    args: Namespace,
    records: Callable[[], Iterator[Row]],
    formats: Sequence[str],
) -> Plan:
    """Records whose numbers have to be understood first: by what the user says, else by all of them together."""
    known = [one for one in formats if args.box in (None, one)] or [args.box]
    readings = Readings(known, list(UNITS))
    said = " and ".join(f"--{name} {value}" for name in ("space", "box") if (value := vars(args)[name]))
    run = Conversion("import", "unknown", args, args.pictures)
    points = boxes = 0
    for where, record in records():
        if readings.full:
            break
        if not isinstance(record, Record):
            continue
        try:
            picture, _ = picture_of(run, where, record)
        except Rejected:
            continue
        for region in record.regions:
            if region.error is None:
                try:
                    numbers = flat(region)
                except Rejected:
                    continue
                boxes, points = boxes + (len(numbers) == 4), points + (len(numbers) == 2)
                if len(numbers) == (4 if boxes else 2):
                    readings.add(numbers, (picture.width, picture.height))
    if not boxes and points and not set(formats) & {"xy", "yx"}:
        known = ["xy"]
        readings = readings.with_formats(known, list(UNITS))
    found, evidence = readings.choose()
    if args.space and found is not None and found.unit != args.space and not args.trust_space:
        raise UsageError(
            f"{args.file}: --space {args.space}: its numbers look like {found} ({evidence}); choose that, or add "
            "--trust-space"
        )
    own = [one for one in readings.candidates if one.unit == args.space]
    if args.space and (found is None or found.unit != args.space) and points + boxes:
        found, evidence = (own[0], evidence) if len(own) == 1 else readings.with_formats(known, [args.space]).choose()
    if found is None:
        raise UsageError(f"{args.file}: {evidence}; {_ask(args, points + boxes, readings)}")
    told = [*told, ("space", f"{found}: {f'as you said ({said}); ' if said else ''}{evidence}")]
    box = found if found.format not in ("xy", "yx") else NumberFormat("xyxy", found.unit)
    point = found if found.format in ("xy", "yx") else NumberFormat("xy", found.unit)
    return _of_records(format, told, records, (box, point), [args.file], trusted=bool(args.space))


def _ask(args: Namespace, regions: int, readings: Readings) -> str:
    if not regions:
        return "are the images elsewhere? Say --images DIR"
    several = {one.format for one in readings.candidates}
    order = f", and --box {'|'.join(sorted(several))}" if len(several) > 1 else ""
    return f"say --space {'|'.join(UNITS)}{order}"


def _class_names(path: Path) -> dict[str, list[str]]:
    """The names of classes that a Parquet file of a Hub data set brings for its numbers, by dotted column."""
    schema = pq.read_schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import ClassLabel, Features  # noqa: PLC0415  slow to import

    found: dict[str, list[str]] = {}

    def look(feature: Any, name: str) -> None:
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, ClassLabel):
            found[name] = list(inner.names)
        elif isinstance(inner, Mapping):
            for key, part in inner.items():
                look(part, f"{name}.{key}" if name else key)
        elif isinstance(inner, list) and inner:
            look(inner[0], name)

    look(dict(Features.from_arrow_schema(schema)), "")
    return found
