"""A file as its own tool writes it becomes samples whose boxes are exact, in one command and without a mapping."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from data_prep.__main__ import main
from data_prep.importing.command import build_parser, describe_import, import_file
from grounding.errors import UsageError
from grounding.io import read_samples
from grounding.sample import regions_of
from tests.data_prep.helpers_data import write_json, write_jsonl, write_picture

SIZES = [(640, 480), (480, 640), (800, 600), (320, 240)]
NAMES = ["cat", "dog"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with four pictures in `shots`."""
    for number, size in enumerate(SIZES):
        write_picture(tmp_path / "shots" / f"{number}.jpg", *size)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def objects(per_image=6, seed=0):
    """(image, class, box) all over the pictures: whole pixels, no two alike."""
    dice = random.Random(seed)
    made = []
    for number, (width, height) in enumerate(SIZES):
        for _ in range(per_image):
            x, y = dice.randrange(0, width - 60), dice.randrange(0, height - 60)
            box = [x, y, x + dice.randrange(20, 60), y + dice.randrange(20, 60)]
            made.append((number, dice.choice(NAMES), box))
    return made


def imported(*words):
    """Samples, rejects, and what was told of an import."""
    done = import_file(build_parser().parse_args([str(word) for word in words]))
    samples = [sample for split in done.manifest["rows"] for sample in read_samples(done.out / f"{split}.jsonl")]
    rejects = [json.loads(line) for line in (done.out / "rejects.jsonl").read_text().splitlines()]
    return samples, rejects, "\n".join(describe_import(Path(words[0]), done))


def pixels(samples):
    """{(image, instruction): boxes in pixels, sorted} of the samples."""
    found = {}
    for sample in samples:
        image = sample.images[0]
        boxes = sorted(
            tuple(
                round(value * (image.height if index % 2 else image.width), 6) for index, value in enumerate(coords)
            )
            for coords in (
                getattr(region, "xyxy", None) or (region.x, region.y) for region in regions_of(sample.target)
            )
        )
        found[int(Path(image.path).stem), sample.instruction] = boxes
    return found


def by_class(made):
    """What is to be found where every class of an image is asked for."""
    found = {}
    for number, name, box in made:
        found.setdefault((number, name), []).append(tuple(map(float, box)))
    return {
        (number, f"every {name}" if len(boxes) > 1 else name): sorted(boxes)
        for (number, name), boxes in found.items()
    }


def by_caption(made):
    return {(number, f"the {name} {row}"): [tuple(map(float, box))] for row, (number, name, box) in enumerate(made)}


def table(made):
    return [
        {"file_name": f"{number}.jpg", "caption": f"the {name} {row}", "box": box}
        for row, (number, name, box) in enumerate(made)
    ]


# Tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_pandas(folder, separator):
    sides = ("xmin", "ymin", "xmax", "ymax")
    rows = [{**row, **dict(zip(sides, row["box"], strict=True))} for row in table(objects())]
    pd.DataFrame(rows).drop(columns="box").to_csv(folder / "labels.csv", sep=separator, index=False)
    samples, rejects, told = imported("labels.csv", "--images", "shots")
    assert pixels(samples) == by_caption(objects()) and not rejects
    assert "CSV" in told and "caption" in told and "xmin, ymin, xmax, ymax" in told
    assert "pixels, xyxy: 100% of 24 regions lie in their images" in told
    assert {(sample.source, sample.license) for sample in samples} == {("labels", "unknown")}
    assert Image.open("data/labels/preview.png").width > 640


def test_csv_of_tensorflows_object_detection_tutorial(folder):
    """filename,width,height,class,xmin,ymin,xmax,ymax: sizes are the image's, classes are asked for together."""
    rows = [
        dict(zip(("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"),
                 (f"{number}.jpg", *SIZES[number], name, *box), strict=True))
        for number, name, box in objects()
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "train_labels.csv", index=False)
    samples, rejects, _ = imported("train_labels.csv", "--images", "shots")
    assert pixels(samples) == by_class(objects()) and not rejects
    rows[0]["width"] = 999
    pd.DataFrame(rows).to_csv(folder / "wrong.csv", index=False)
    samples, rejects, _ = imported("wrong.csv", "--images", "shots", "--space", "pixel", "--max-rejects", "1")
    assert [(reject["where"], reject["reason"]) for reject in rejects] == [("wrong.csv:2", "image size differs")]
    assert pixels(samples) == {key: boxes for key, boxes in by_class(objects()).items() if key[0] != 0}


def test_every_means_every(folder):
    """One broken line of a class costs the image's other objects of it: the target would lack one."""
    lines = ["0 0.5 0.5 0.1 0.1", "0 0.2 0.2 0.1 zero", "1 0.3 0.3 0.1 0.2"]
    (folder / "shots/0.txt").write_text("\n".join(lines) + "\n")
    (folder / "shots/1.txt").write_text("7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
    (folder / "shots/classes.txt").write_text("cat\ndog\n")
    samples, rejects, _ = imported("shots", "--max-rejects", "1")
    assert pixels(samples) == {(0, "dog"): [(160, 96, 224, 192)]}
    assert [(reject["where"], reject["reason"]) for reject in rejects] == [
        ("shots/0.txt:2", "wrong format"),
        ("shots/0.txt:1", "incomplete"),
        ("shots/1.txt:1", "wrong format"),
        ("shots/1.txt:2", "incomplete"),
    ]


def test_json_lines_with_lists(folder):
    write_jsonl(folder / "rows.jsonl", table(objects()))
    samples, rejects, told = imported("rows.jsonl", "--images", "shots")
    assert pixels(samples) == by_caption(objects()) and not rejects and "JSON lines" in told


@pytest.mark.parametrize("unit", [1000, 1, 100])
def test_the_space_of_a_table_is_found(folder, unit):
    def written(number, box):
        return [round(value / SIZES[number][i % 2] * unit, 6) for i, value in enumerate(box)]

    made = objects()
    rows = [{**row, "box": written(number, box)} for row, (number, _, box) in zip(table(made), made, strict=True)]
    write_json(folder / "rows.json", rows)
    samples, _, told = imported("rows.json", "--images", "shots")
    wanted = by_caption(made)
    assert all(boxes[0] == pytest.approx(wanted[key][0], abs=1e-3) for key, boxes in pixels(samples).items())
    assert {1000: "thousandths", 1: "fractions", 100: "percent"}[unit] in told and len(samples) == len(made)


def test_the_order_of_the_numbers_is_found(folder):
    rows = table(objects())
    for row in rows:
        x, y, right, bottom = row["box"]
        row["box"] = [x, y, right - x, bottom - y]
    write_jsonl(folder / "rows.jsonl", rows)
    samples, _, told = imported("rows.jsonl", "--images", "shots")
    assert pixels(samples) == by_caption(objects()) and "pixels, xywh" in told


def test_what_is_legible_in_two_spaces_is_asked(folder):
    """Boxes in the upper left are pixels or thousandths, and nobody knows."""
    rows = [{"image": f"{n % 4}.jpg", "instruction": f"thing {n}", "bbox": [n, n, n + 50, n + 40]} for n in range(40)]
    write_jsonl(folder / "rows.jsonl", rows)
    with pytest.raises(UsageError, match=r"legible in several ways .*pixels.*say --space pixel\|thousandth"):
        imported("rows.jsonl", "--images", "shots")
    assert not (folder / "data").exists()
    samples, _, told = imported("rows.jsonl", "--images", "shots", "--space", "pixel", "--box", "xyxy")
    assert pixels(samples)[3, "thing 3"] == [(3, 3, 53, 43)] and "as you said (--space pixel and --box xyxy)" in told


def test_a_space_that_the_numbers_speak_against_has_to_be_insisted_on(folder):
    write_jsonl(folder / "rows.jsonl", table(objects()))
    with pytest.raises(UsageError, match=r"--space thousandth: its numbers look like pixels, xyxy .*--trust-space"):
        imported("rows.jsonl", "--images", "shots", "--space", "thousandth")
    words = ["--space", "thousandth", "--trust-space", "--box", "xyxy"]
    assert len(imported("rows.jsonl", "--images", "shots", *words)[0]) == 24


def test_a_few_rows_are_asked_about(folder):
    write_jsonl(folder / "rows.jsonl", table(objects())[:5])
    with pytest.raises(UsageError, match="say --space"):
        imported("rows.jsonl", "--images", "shots")
    assert len(imported("rows.jsonl", "--images", "shots", "--space", "pixel", "--box", "xyxy")[0]) == 5


def test_clicks_with_the_size_of_the_image_beside_them(folder):
    rows = []
    for row, (number, _, box) in enumerate(objects()):
        width, height = SIZES[number]
        rows.append({"image": f"{number}.jpg", "task": f"click {row}", "x": box[2], "y": box[3],
                     "width": width, "height": height})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "clicks.csv", index=False)
    samples, _, told = imported("clicks.csv", "--images", "shots")
    wanted = {(n, f"click {row}"): [tuple(map(float, box[2:]))] for row, (n, _, box) in enumerate(objects())}
    assert pixels(samples) == wanted and "point" in told


def test_parquet_of_a_hub_data_set(folder):
    """`objects` with lists of boxes and ClassLabels, images in the rows: the Hub's layout for object detection."""
    made = objects()
    rows = []
    for number in range(len(SIZES)):
        own = [(name, box) for image, name, box in made if image == number]
        boxes = [[x, y, right - x, bottom - y] for _, (x, y, right, bottom) in own]
        rows.append({"image": str(folder / "shots" / f"{number}.jpg"),
                     "objects": {"bbox": boxes, "category": [NAMES.index(name) for name, _ in own]}})  # fmt: skip
    features = Features(
        {
            "image": ImageFeature(),
            "objects": {"bbox": List(List(Value("float32"), 4)), "category": List(ClassLabel(names=NAMES))},
        }
    )
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    samples, rejects, told = imported("train.parquet")
    found = {(sample.id.split("-")[0], sample.instruction): boxes
             for sample, boxes in zip(samples, pixels_in_order(samples), strict=True)}  # fmt: skip
    wanted = {(f"train.parquet:{number + 1}", text): boxes for (number, text), boxes in by_class(made).items()}
    assert found == wanted and not rejects and "objects.category" in told and "xywh" in told


def pixels_in_order(samples):
    return [
        sorted(
            tuple(round(v * (s.images[0].height if i % 2 else s.images[0].width), 4) for i, v in enumerate(r.xyxy))
            for r in regions_of(s.target)
        )
        for s in samples
    ]


def test_what_names_leave_open_is_asked_and_can_be_said(folder):
    rows = [{"pic": f"{n}.jpg", "say": "it", "a": 1, "b": 2, "c": 300, "d": 200} for n in range(4)]
    write_jsonl(folder / "rows.jsonl", rows)
    with pytest.raises(UsageError, match=r"rows\.jsonl: no column looks like an image; it has pic, say, a, b, c, d"):
        imported("rows.jsonl", "--images", "shots")
    words = ["--column", "image=pic", "--column", "instruction=say", "--column", "box=a,b,c,d"]
    samples, _, _ = imported("rows.jsonl", "--images", "shots", *words, "--space", "pixel", "--box", "xyxy")
    assert pixels(samples)[2, "it"] == [(1, 2, 300, 200)]
    with pytest.raises(UsageError, match=r"--column 'sya': rows.jsonl has no such column; did you mean 'say'"):
        imported("rows.jsonl", "--images", "shots", *words, "--column", "instruction=sya")


# Files of annotation tools


@pytest.fixture
def detections(folder):
    return detections_of(folder)


def detections_of(folder):
    """The objects as a data set of `supervision`, which writes YOLO, Pascal VOC and COCO."""
    sv = pytest.importorskip("supervision")
    annotations = {}
    for number in range(len(SIZES)):
        own = [(name, box) for image, name, box in objects() if image == number]
        annotations[str(folder / "shots" / f"{number}.jpg")] = sv.Detections(
            xyxy=np.array([box for _, box in own], dtype=float), class_id=np.array([NAMES.index(n) for n, _ in own])
        )
    return sv.DetectionDataset(classes=NAMES, images=list(annotations), annotations=annotations)


def near(found, wanted, by):
    assert found.keys() == wanted.keys()
    for key, boxes in found.items():
        assert np.abs(np.array(boxes) - np.array(wanted[key])).max() <= by, key


def test_yolo_of_supervision(folder, detections):
    detections.as_yolo("yolo/images", "yolo/labels", "yolo/data.yaml")
    content = (folder / "yolo/data.yaml").read_text()
    (folder / "yolo/data.yaml").write_text(content + "train: images\n")
    samples, rejects, told = imported("yolo/data.yaml")
    near(pixels(samples), by_class(objects()), 0.01)  # it writes five decimals
    assert not rejects and "fractions, cxcywh: YOLO writes them so" in told
    assert {sample.source for sample in samples} == {"yolo"}


def test_pascal_voc_of_supervision(folder, detections):
    detections.as_pascal_voc(annotations_directory_path="voc")
    samples, rejects, _ = imported("voc", "--images", "shots")
    assert pixels(samples) == by_class(objects()) and not rejects


def test_coco_of_supervision(folder, detections):
    detections.as_coco(annotations_path="coco.json")
    samples, rejects, told = imported("coco.json", "--images", "shots")
    assert pixels(samples) == by_class(objects()) and not rejects and "the category" in told


def coco(folder, **more):
    made = objects()
    annotations = [
        {"id": row, "image_id": number, "category_id": NAMES.index(name), "iscrowd": 0, "area": 1,
         "bbox": [x, y, right - x, bottom - y], **{key: value(row) for key, value in more.items()}}
        for row, (number, name, (x, y, right, bottom)) in enumerate(made)
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"/content/drive/shots/{n}.jpg", "width": w, "height": h}
              for n, (w, h) in enumerate(SIZES)]  # fmt: skip
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    return write_json(folder / "coco.json", content)


def test_coco_with_captions_and_paths_of_another_machine(folder):
    coco(folder, caption=lambda row: f"the {objects()[row][1]} {row}")
    samples, rejects, told = imported("coco.json")
    assert pixels(samples) == by_caption(objects()) and not rejects and "field caption" in told
    samples, _, _ = imported("coco.json", "--column", "instruction=category", "--out", "data/classes")
    assert pixels(samples) == by_class(objects())


def test_labelme(folder):
    """As `labelme.LabelFile.save` writes it (labelme 5)."""
    made = objects()
    for number, (width, height) in enumerate(SIZES):
        shapes = [
            {"label": name, "points": [[right, bottom], [x, y]], "group_id": None, "description": "", "flags": {},
             "shape_type": "rectangle", "mask": None}
            for image, name, (x, y, right, bottom) in made if image == number
        ]  # fmt: skip
        outline = [[10.5, 20], [40, 30.25], [20, 60]]
        shapes.append({"label": "leaf", "points": outline, "group_id": None, "description": "the torn leaf",
                       "shape_type": "polygon", "flags": {}, "mask": None})  # fmt: skip
        shapes.append({"label": "edge", "points": [[0, 0], [5, 5]], "shape_type": "line", "flags": {}})
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"..\\shots\\{number}.jpg",
                   "imageData": None, "imageHeight": height, "imageWidth": width}  # fmt: skip
        write_json(folder / "labels" / f"{number}.json", content)
    samples, rejects, _ = imported("labels", "--images", "shots", "--max-rejects", "0.5")
    wanted = by_class(made) | {(number, "the torn leaf"): [(10.5, 20, 40, 60)] for number in range(4)}
    assert pixels(samples) == wanted
    assert [(reject["reason"], reject["detail"]) for reject in rejects] == [
        ("wrong format", "a line is no region")
    ] * 4


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>shots</name></task></meta>
{images}</annotations>
"""


def test_cvat_for_images(folder):
    """The format's documentation: docs.cvat.ai, "CVAT for images" (xml_format)."""
    images = ""
    for number, (width, height) in enumerate(SIZES):
        boxes = "".join(
            f'<box label="{name}" source="manual" occluded="0" xtl="{x:.2f}" ytl="{y:.2f}" xbr="{right:.2f}" '
            f'ybr="{bottom:.2f}" z_order="0"></box>\n'
            for image, name, (x, y, right, bottom) in objects() if image == number
        )  # fmt: skip
        said = '<attribute name="caption">the one on the left</attribute>'
        boxes += f'<box label="cat" occluded="0" xtl="1.5" ytl="2" xbr="30" ybr="40" z_order="0">{said}</box>'
        boxes += (
            '<polygon label="leaf" occluded="0" points="10.00,20.00;40.00,30.00;20.00,60.00" z_order="0"></polygon>'
        )
        boxes += '<points label="eye" occluded="0" points="7.00,9.00" z_order="0"></points>'
        images += f'<image id="{number}" name="{number}.jpg" width="{width}" height="{height}">\n{boxes}</image>\n'
    (folder / "annotations.xml").write_text(CVAT.format(images=images))
    samples, rejects, told = imported("annotations.xml", "--images", "shots", "--out", "data/cvat")
    wanted = by_class(objects())
    for number in range(4):
        wanted |= {(number, "the one on the left"): [(1.5, 2, 30, 40)], (number, "leaf"): [(10, 20, 40, 60)],
                   (number, "eye"): [(7, 9)]}  # fmt: skip
    assert pixels(samples) == wanted and not rejects and "CVAT" in told


def percent(number, box):
    width, height = SIZES[number]
    x, y, right, bottom = box
    return {"x": x / width * 100, "y": y / height * 100, "width": (right - x) / width * 100,
            "height": (bottom - y) / height * 100, "rotation": 0}  # fmt: skip


def test_label_studio(folder):
    """The JSON export of labelstud.io/guide/export; uploaded files have a prefix, a text area names a region."""
    made, tasks = objects(), []
    for number, (width, height) in enumerate(SIZES):
        result = []
        for row, (image, name, box) in enumerate(made):
            if image == number:
                shared = {"id": f"r{row}", "original_width": width, "original_height": height, "image_rotation": 0,
                          "to_name": "image", "origin": "manual"}  # fmt: skip
                value = {**percent(number, box), "rectanglelabels": [name]}
                result.append({**shared, "from_name": "label", "type": "rectanglelabels", "value": value})
                if row % 2:
                    said = {**percent(number, box), "text": [f"the {name} {row}"]}
                    result.append({**shared, "from_name": "caption", "type": "textarea", "value": said})
        tasks.append(
            {"id": number, "annotations": [{"id": 9, "was_cancelled": False, "result": result}], "predictions": [],
             "data": {"image": f"/data/upload/1/3f2a91bc-{number}.jpg"}, "file_upload": f"3f2a91bc-{number}.jpg"}
        )  # fmt: skip
    tasks.append({**tasks[0], "annotations": [{"id": 10, "was_cancelled": True, "result": []}]})
    write_json(folder / "project-1.json", tasks)
    samples, rejects, told = imported("project-1.json", "--images", "shots")
    wanted = {key: box for row, (key, box) in enumerate(by_caption(made).items()) if row % 2}
    wanted |= by_class([one for row, one in enumerate(made) if row % 2 == 0])
    near(pixels(samples), wanted, 1e-5)
    assert [reject["reason"] for reject in rejects] == ["no annotation"] and "percent" in told


def test_createml(folder):
    """developer.apple.com/documentation/createml/building-an-object-detector-data-source: centers, in pixels."""
    rows = []
    for number in range(len(SIZES)):
        annotations = [
            {"label": name, "coordinates": {"x": (x + right) / 2, "y": (y + bottom) / 2, "width": right - x,
                                            "height": bottom - y}}
            for image, name, (x, y, right, bottom) in objects() if image == number
        ]  # fmt: skip
        rows.append({"image": f"{number}.jpg", "annotations": annotations})
    write_json(folder / "_annotations.createml.json", rows)
    samples, rejects, told = imported("_annotations.createml.json", "--images", "shots", "--out", "data/apple")
    assert pixels(samples) == by_class(objects()) and not rejects and "CreateML" in told


# Conversations


def talk(number, asked, said, **row):
    turns = [{"from": "human", "value": f"<image>{asked}"}, {"from": "gpt", "value": said}]
    return {"image": f"{number}.jpg", "conversations": turns, **row}


@pytest.mark.parametrize(("unit", "dialect"), [(None, "qwen2_5_vl"), (1000, "qwen3_vl")])
def test_sharegpt_with_json_answers(folder, unit, dialect):
    """LLaMA-Factory's data/README: `conversations` with from and value; the space is in the numbers alone."""
    rows = []
    for row, (number, name, box) in enumerate(objects()):
        numbers = [round(v / SIZES[number][i % 2] * unit) if unit else v for i, v in enumerate(box)]
        rows.append(talk(number, f"the {name} {row}", json.dumps([{"bbox_2d": numbers, "label": name}])))
    write_json(folder / "chat.json", rows)
    samples, rejects, told = imported("chat.json", "--images", "shots")
    near(pixels(samples), by_caption(objects()), 0.5 if unit else 0)
    assert not rejects and ("thousandths" if unit else "pixels") in told


def test_sharegpt_with_markup_and_thoughts(folder):
    rows = [
        talk(n, f"thing {n}", f"<think>It is there.</think><|box_start|>(100,200),({300 + n},400)<|box_end|>")
        for n in range(4)
    ]
    write_json(folder / "chat.json", rows)
    samples, _, told = imported("chat.json", "--images", "shots")
    assert pixels(samples)[0, "thing 0"] == [(64, 96, 192, 192)] and samples[0].thought == "It is there."
    assert "in the words of qwen2_vl" in told


def test_llava_with_fractions(folder):
    """LLaVA's own grounding data: a plain list of fractions is the answer."""
    rows = []
    for row, (number, name, box) in enumerate(objects()):
        numbers = [round(value / SIZES[number][i % 2], 3) for i, value in enumerate(box)]
        rows.append(talk(number, f"the {name} {row}", str(numbers)))
    write_json(folder / "llava.json", rows)
    samples, rejects, told = imported("llava.json", "--images", "shots")
    near(pixels(samples), by_caption(objects()), 0.41)  # three decimals
    assert not rejects and "fractions" in told


def test_ms_swift_objects(folder):
    """swift.readthedocs.io, custom dataset, grounding: <ref-object> and <bbox> stand for the entries of `objects`."""
    rows = []
    for row, (number, name, box) in enumerate(objects()):
        said = {"role": "assistant", "content": "<bbox>" if row % 2 else "There: <ref-object><bbox>"}
        asked = "<image>Find <ref-object>" if row % 2 else "<image>Describe the picture"
        rows.append({"messages": [{"role": "user", "content": asked}, said], "images": [f"/data/{number}.jpg"],
                     "objects": {"ref": [f"the {name} {row}"], "bbox": [box]}})  # fmt: skip
    write_jsonl(folder / "swift.jsonl", rows)
    samples, rejects, told = imported("swift.jsonl", "--images", "shots")
    wanted = {(n, text if row % 2 == 0 else f"Find {text}"): box
              for row, ((n, text), box) in enumerate(by_caption(objects()).items())}  # fmt: skip
    assert pixels(samples) == wanted and not rejects and "ms-swift" in told
    for row in rows:
        (box,), number = row["objects"]["bbox"], int(Path(row["images"][0]).stem)
        row["objects"] |= {"bbox_type": "norm1", "bbox": [[v / SIZES[number][i % 2] for i, v in enumerate(box)]]}
    write_jsonl(folder / "norm.jsonl", rows)
    samples, _, told = imported("norm.jsonl", "--images", "shots")
    near(pixels(samples), wanted, 1e-9)


def test_vlm_r1(folder):
    """github.com/om-ai-lab/VLM-R1, rec_jsons_processed: a list of pixels as the answer."""
    asked = "Please provide the bounding box coordinate of the region this sentence describes: the {} {}."
    rows = [
        {"id": row, "dataset": "refcoco", **talk(number, asked.format(name, row), box)}
        for row, (number, name, box) in enumerate(objects())
    ]
    write_jsonl(folder / "rec.jsonl", rows)
    samples, rejects, told = imported("rec.jsonl", "--images", "shots")
    assert pixels(samples) == by_caption(objects())
    assert not rejects and "VLM-R1" in told


# What goes wrong


def test_the_command_tells_everything(folder, capsys):
    rows = table(objects())
    rows[0]["file_name"], rows[1]["box"] = "gone.jpg", [1, 2, 3, "x"]
    write_jsonl(folder / "rows.jsonl", rows)
    assert main(["import", "rows.jsonl", "--images", "shots", "--license", "CC0-1.0", "--source", "shop"]) == 0
    told = capsys.readouterr().out
    assert "missing image: rows.jsonl:1, gone.jpg is not in" in told and "not a number: rows.jsonl:2" in told
    assert "next:  python train.py configs/recipes/your_data.yaml data=data/rows name=rows" in told
    sample = next(read_samples("data/rows/train.jsonl"))
    assert (sample.source, sample.license) == ("shop", "CC0-1.0")


def test_one_name_for_two_pictures_is_rejected(folder):
    write_picture(folder / "other" / "0.jpg", 640, 480)
    rows = [{**row, "file_name": f"/x/{name}/0.jpg"} for row, name in zip(table(objects())[:2], "ab", strict=True)]
    write_jsonl(folder / "rows.jsonl", rows)
    words = ["--images", "shots", "--space", "pixel", "--box", "xyxy", "--max-rejects", "1"]
    samples, rejects, _ = imported("rows.jsonl", *words)
    assert len(samples) == 1 and rejects[0]["reason"] == "image name is ambiguous"
    with pytest.raises(UsageError):  # 0.jpg is in two folders: without --images nobody knows which one
        imported("rows.jsonl", "--space", "pixel", "--box", "xyxy")


def test_another_picture_of_the_name_is_another_data_set(folder):
    write_jsonl(folder / "rows.jsonl", table(objects()))
    imported("rows.jsonl", "--images", "shots")
    (folder / "shots/1.jpg").unlink()
    write_picture(folder / "shots/1.jpg", 480, 640)
    with pytest.raises(UsageError, match="made with other arguments"):
        imported("rows.jsonl", "--images", "shots")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "x", "a .txt is not known"),
        ("a.xml", "<root/>", "begins with <root>"),
        ("a.xml", "<annotations><track/></annotations>", "export the task as 'CVAT for images 1.1'"),
        ("a.json", "[]", "no row can be read"),
        ("a.json", '{"rows": [1]}', "an object with the fields rows"),
        ("a.csv", "picture,word\n0.jpg,x\n", "no column looks like a box or a point"),
        ("a.yaml", "train: images\n", "names no classes"),
        ("a.yaml", "train: images\nnames: [x]\n", "train: images is not there"),
        ("a.parquet", "x", "no row can be read: damaged file"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(folder, name, content, told):
    (folder / name).write_text(content)
    with pytest.raises(UsageError) as error:
        imported(name, "--images", "shots")
    assert told in str(error.value) and name in str(error.value) and "\n" not in str(error.value)
