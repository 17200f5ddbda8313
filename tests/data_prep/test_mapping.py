"""A mapping expresses the shapes that people have; what it leaves open is asked, not guessed."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from grounding.errors import UsageError
from grounding.targets import Box, Boxes, Point
from tests.data_prep.helpers_data import convert, picture, reasons, write_json, write_jsonl, write_picture

XYWH = ["x", "y", "width", "height"]
BOX = Box(0.1, 0.2, 0.4, 0.6)


def mapped(root, rows, target, flags=(), file="d.json", **keys):
    """What `hub` makes of rows about a.png, 100 x 50, asked for by their field `say`."""
    write_picture(root / "a.png", 100, 50)
    if isinstance(rows, list):
        write_json(root / file, [{"img": "a.png", "say": "it", **row} for row in rows])
    mapping = {"name": "mine", "files": [file], "image": "img", "instruction": "say", "target": target, **keys}
    (root / "m.yaml").write_text(yaml.safe_dump(mapping))
    items, rejects = convert("hub", root, "--mapping", str(root / "m.yaml"), *flags)
    return [item.sample for item in items], rejects


def same(found, wanted):
    return found.xyxy == pytest.approx(wanted.xyxy)


@pytest.mark.parametrize(
    ("rows", "target", "keys"),
    [
        ([{"x": 10, "y": 10, "w": 30, "h": 20}], {"fields": ["x", "y", "w", "h"], "format": "xywh"}, {}),
        ([{"at": dict(zip(XYWH, (25, 20, 30, 20), strict=True))}],
         {"column": "at", "fields": XYWH, "format": "cxcywh"}, {}),
        ([{"annotations": [{"label": "it", "coordinates": dict(zip(XYWH, (25, 20, 30, 20), strict=True))}]}],
         {"column": "coordinates", "fields": XYWH, "format": "cxcywh"},
         {"each": "annotations", "instruction": "label"}),
        ([{"regions": [{"phrase": "it", **dict(zip(XYWH, (10, 10, 30, 20), strict=True))}]}],
         {"fields": XYWH, "format": "xywh"}, {"each": "regions", "instruction": "phrase"}),
        ([{"annotations": [{"result": [{"value": {**dict(zip(XYWH, (10, 20, 30, 40), strict=True)),
                                                   "rectanglelabels": ["it"]}}]}]}],
         {"column": "value", "fields": XYWH, "format": "xywh", "unit": "percent"},
         {"each": "annotations.0.result", "instruction": "value.rectanglelabels.0"}),
        ([{"b": "[10, 10, 40, 30]"}], {"column": "b"}, {}),
        ([{"x1": "10", "y1": "10", "x2": "40", "y2": "30"}], {"fields": ["x1", "y1", "x2", "y2"]}, {}),
    ],
    ids=["fields", "dict", "CreateML", "Visual Genome", "Label Studio", "JSON text", "numbers in texts"],
)  # fmt: skip
def test_numbers_in_fields_of_their_own(tmp_path, rows, target, keys):
    (sample,), rejects = mapped(tmp_path, rows, {"kind": "box", **target}, **keys)
    assert same(sample.target, BOX) and sample.instruction == "it" and not rejects


def test_lists_of_objects(tmp_path):
    rows = [{"all": [{"x": 10, "y": 10, "w": 30, "h": 20}, {"x": 50, "y": 0, "w": 50, "h": 50}]}]
    target = {"kind": "boxes", "column": "all", "fields": ["x", "y", "w", "h"], "format": "xywh"}
    (sample,), _ = mapped(tmp_path, rows, target)
    assert isinstance(sample.target, Boxes) and same(sample.target.items[0], BOX)
    (sample,), _ = mapped(tmp_path, [{"p": {"x": 25, "y": 10}}], {"kind": "point", "column": "p", "format": "yx"})
    assert sample.target == Point(0.25, 0.2)


def test_an_object_without_fields_is_asked_about(tmp_path):
    _, rejects = mapped(tmp_path, [{"b": {"left": 1, "top": 2, "w": 3, "h": 4}}], {"kind": "box", "column": "b"})
    assert "the fields left, top, w, h: name the 4 in target.fields" in rejects[0].detail


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ({"kind": "box", "fields": ["x", "y"]}, "a box has 4 numbers"),
        ({"kind": "box"}, "target: column or fields must say"),
        ({"kind": "boxes", "fields": XYWH}, "target: column must name the list"),
        ({"kind": "box", "column": "b", "feilds": XYWH}, "fields"),
    ],
)
def test_a_mapping_that_says_too_little_is_refused(tmp_path, target, word):
    with pytest.raises(UsageError, match=word):
        mapped(tmp_path, [], target)


def test_an_objects_own_size_is_not_the_images(tmp_path):
    rows = [
        {"width": 100, "height": 50, "objects": [{"say": "it", "width": 30, "height": 20, "b": [10, 10, 40, 30]}]}
    ]
    for flags in ((), ("--images", "none")):
        (sample,), rejects = mapped(tmp_path, rows, {"kind": "box", "column": "b"}, flags, each="objects")
        assert same(sample.target, BOX) and not rejects
    rows[0].pop("width")
    _, rejects = mapped(tmp_path, rows, {"kind": "box", "column": "b"}, ("--images", "none"), each="objects")
    assert reasons(rejects) == ["missing image"]


def test_of_several_images_one_is_named(tmp_path):
    write_picture(tmp_path / "b.png", 50, 100)
    rows = [{"img": ["a.png", "b.png"], "b": [5, 20, 20, 60], "which": n} for n in (1, 2)]
    target = {"kind": "box", "column": "b"}
    _, rejects = mapped(tmp_path, rows, target)
    assert reasons(rejects) == ["image not named"] * 2
    (sample,), rejects = mapped(tmp_path, rows, {**target, "image": "which"})
    assert sample.target == Box(0.1, 0.2, 0.4, 0.6, image=1) and reasons(rejects) == ["image not named"]


def test_an_unknown_split_is_not_train(tmp_path):
    rows = [{"b": [10, 10, 40, 30], "part": part} for part in ("training", "dev", "validation", "testA", "holdout")]
    samples, rejects = mapped(tmp_path, rows, {"kind": "box", "column": "b"}, split={"column": "part"})
    assert len(samples) == 4 and [(reject.reason, reject.detail) for reject in rejects] == [
        ("unknown split", "holdout")
    ]
    with pytest.raises(UsageError, match="split 'part'"):
        mapped(tmp_path, rows, {"kind": "box", "column": "b"}, split="part")


def test_a_stated_size_is_compared_with_images_inside_rows(tmp_path):
    rows = [
        {"img": {"bytes": picture(40, 30)}, "say": "it", "width": w, "height": 30, "b": [4, 3, 9, 9]}
        for w in (40, 80)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    samples, rejects = mapped(tmp_path, None, {"kind": "box", "column": "b"}, file="d.parquet")
    assert len(samples) == 1 and reasons(rejects) == ["image size differs"]


def test_csv_is_read(tmp_path):
    (tmp_path / "d.csv").write_text("img,say,x1,y1,x2,y2\na.png,it,10,10,40,30\na.png,it,1\n")
    target = {"kind": "box", "fields": ["x1", "y1", "x2", "y2"]}
    (sample,), rejects = mapped(tmp_path, None, target, file="d.csv")
    assert same(sample.target, BOX) and reasons(rejects) == ["wrong format"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps({"version": "5", "flags": {}, "shapes": [], "imagePath": "a.png"}), "a LabelMe file"),
        (json.dumps({"images": [], "annotations": []}), "`python -m data_prep coco` reads it"),
        (json.dumps({"data": [1]}, indent=1), "an object with the fields data"),
        ("img,say\na.png,it\n", "it looks like CSV: give it the suffix .csv"),
        ("<html>", "it begins '<html>'"),
    ],
)
def test_another_file_is_called_what_it_is(tmp_path, content, told):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(UsageError, match=r"d\.json: ") as error:
        mapped(tmp_path, None, {"kind": "box", "column": "b"})
    assert told in str(error.value)


def test_json_lines_are_read_whatever_their_name(tmp_path):
    rows = [{"img": "a.png", "say": "it", "b": [10, 10, 40, 30]}] * 2
    write_jsonl(tmp_path / "d.json", rows)
    assert len(mapped(tmp_path, None, {"kind": "box", "column": "b"})[0]) == 2


def test_a_wrong_folder_names_the_right_one(tmp_path):
    write_json(tmp_path / "raw/refcoco/annotations/instances_train2017.json", {})
    with pytest.raises(UsageError, match=f"it is in {tmp_path}/raw/refcoco: give --root"):
        convert("coco", tmp_path)
    (tmp_path / "raw/refcoco/train2017").mkdir()
    with pytest.raises(UsageError, match=f"it is in {tmp_path}/raw/refcoco: give --root"):
        convert("coco", tmp_path / "raw/refcoco/train2017")
