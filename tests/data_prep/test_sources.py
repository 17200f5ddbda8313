"""Sources of natural images read files of their exact format; expected numbers are worked by hand."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grounding.errors import UsageError
from grounding.sample import ToolTurn
from grounding.targets import Absent, Box, Boxes, Point, Points, TextBox
from tests.data_prep.helpers_data import convert, picture, reasons, write_json, write_jsonl, write_picture

COCO_NAME = "COCO_train2014_000000580957"


def approx(box, *xyxy):
    return box.xyxy == pytest.approx(xyxy)


def instances(root, folder, boxes):
    write_json(
        root / folder / "instances.json",
        {
            "info": {"year": 2014},
            "images": [{"id": 7, "file_name": f"{COCO_NAME}.jpg", "width": 200, "height": 100}],
            "annotations": [{"id": i, "image_id": 7, "bbox": box} for i, box in boxes.items()],
            "categories": [{"id": 1, "name": "person"}],
        },
    )
    write_picture(root / "images/mscoco/images/train2014" / f"{COCO_NAME}.jpg", 200, 100)


def test_refcoco_pickle(tmp_path):
    instances(tmp_path, "refcoco", {11: [20, 10, 100, 50]})
    ref = {
        "ref_id": 3,
        "ann_id": 11,
        "image_id": 7,
        "split": "testA",
        "file_name": f"{COCO_NAME}_3.jpg",
        "category_id": 1,
        "sent_ids": [5, 6],
        "sentences": [
            {"sent_id": 5, "sent": "left man", "raw": "Left man", "tokens": ["left", "man"]},
            {"sent_id": 6, "sent": " ", "raw": "", "tokens": []},
            {"sent_id": 8, "sent": "guy", "raw": "guy", "tokens": ["guy"]},
        ],
    }
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([ref, {**ref, "ann_id": 99}], protocol=0))
    items, rejects = convert("refcoco", tmp_path)
    assert [item.sample.instruction for item in items] == ["left man", "guy"]
    assert approx(items[0].sample.target, 0.1, 0.1, 0.6, 0.6)  # 20..120 of 200, 10..60 of 100
    assert items[0].sample.id == "refcoco-3-5" and items[0].split == "test"
    assert items[0].sample.meta["split"] == "testA"
    assert reasons(rejects) == ["empty instruction", "wrong format"]
    assert convert("refcoco", tmp_path, "--splits", "train") == ([], [])


def test_refcoco_json_conversions(tmp_path):
    write_picture(tmp_path / "train2014" / f"{COCO_NAME}.jpg", 200, 100)
    size = {"width": 200, "height": 100}
    write_json(tmp_path / "m.json", [{"img_id": f"{COCO_NAME}_4", "sents": "a", "bbox": [20, 10, 100, 50], **size}])
    write_jsonl(
        tmp_path / "v.jsonl",
        [{"img_path": f"{COCO_NAME}.jpg", "expression": "b", "bbox": [20, 10, 120, 60], "split": "val", **size}],
    )
    write_jsonl(
        tmp_path / "q.jsonl",
        [{"image": f"data/coco/{COCO_NAME}.jpg", "sent": "c", "bbox": [20, 10, 120, 60], **size}],
    )
    write_json(tmp_path / "x.json", [{"filename": "a.jpg", "box": [1, 2, 3, 4]}])
    table = pa.table(
        {
            "file_name": [f"{COCO_NAME}_0.jpg"],
            "image": [{"bytes": picture(200, 100, "JPEG"), "path": None}],
            "answer": [["d", "e"]],
            "bbox": [[20.0, 10.0, 100.0, 50.0]],
        }
    )
    pq.write_table(table, tmp_path / "l.parquet")
    items, rejects = convert("refcoco_json", tmp_path, "--annotations", "*.json", "*.jsonl", "*.parquet")
    found = {item.sample.instruction: item.sample for item in items}
    assert sorted(found) == ["a", "b", "c", "d", "e"]
    assert all(approx(sample.target, 0.1, 0.1, 0.6, 0.6) for sample in found.values())
    assert found["a"].images[0].path == f"images/{COCO_NAME}.jpg"
    assert reasons(rejects) == ["wrong format"]


def test_grefcoco_none_one_many(tmp_path):
    instances(tmp_path, "grefcoco", {1: [0, 0, 20, 10], 2: [100, 50, 100, 50]})
    ref = {"image_id": 7, "split": "train"}
    write_json(
        tmp_path / "grefcoco" / "grefs(unc).json",
        [
            {**ref, "ref_id": 1, "ann_id": [1, 2], "no_target": False, "sentences": [{"sent_id": 1, "sent": "both"}]},
            {**ref, "ref_id": 2, "ann_id": [2], "no_target": False, "sentences": [{"sent_id": 2, "sent": "it"}]},
            {**ref, "ref_id": 3, "ann_id": [-1], "no_target": True, "sentences": [{"sent_id": 3, "sent": "cow"}]},
        ],
    )
    items, rejects = convert("grefcoco", tmp_path)
    both, one, none = (item.sample.target for item in items)
    assert isinstance(both, Boxes) and approx(both.items[0], 0, 0, 0.1, 0.1) and approx(both.items[1], 0.5, 0.5, 1, 1)
    assert isinstance(one, Box) and none == Absent() and not rejects


def test_what_is_no_annotation_of_coco_is_named(tmp_path):
    instances(tmp_path, "grefcoco", {1: [0, 0, 20, 10]})
    path = tmp_path / "grefcoco" / "instances.json"
    content = json.loads(path.read_text())
    for bad in (7, {"image_id": 7, "bbox": [0, 0, 1, 1]}, {"id": 2}, {"id": [2], "bbox": []}):
        write_json(path, {**content, "annotations": [*content["annotations"], bad]})
        write_json(tmp_path / "grefcoco" / "grefs(unc).json", [])
        with pytest.raises(UsageError, match=r"instances\.json:annotations:2: not an annotation of COCO's format"):
            convert("grefcoco", tmp_path)


def test_folders_of_viscot_are_pairs(tmp_path):
    write_json(tmp_path / "viscot_363k.json", [])
    with pytest.raises(UsageError, match="--folders cub: give DATASET=FOLDER"):
        convert("viscot", tmp_path, "--folders", "cub")


def test_viscot_three_layouts(tmp_path):
    write_picture(tmp_path / "cot/docvqa/a.png", 1695, 2200)
    write_picture(tmp_path / "CUB/b.png", 500, 336)
    write_json(
        tmp_path / "viscot_363k.json",
        [
            {
                "dataset": "docvqa",
                "split": "train",
                "question_id": 0,
                "image": ["cot/docvqa/a.png", "cot/docvqa/a.png###[339, 440, 678, 1100]"],
                "conversations": [
                    {
                        "from": "human",
                        "value": "<image>\nWhat is the name? Please provide the bounding box coordinate of the"
                        " region that can help you answer the question better.",
                    },
                    {"from": "gpt", "value": "[0.2, 0.2, 0.4, 0.5]"},
                    {"from": "human", "value": "<image>"},
                    {"from": "gpt", "value": "A. C. Monk"},
                ],
            }
        ],
    )
    write_jsonl(
        tmp_path / "metadata/cub.jsonl",
        [
            {"question": "Grey?", "answer": "Yes", "image": "b.png", "width": 500, "height": 336, "dataset": "cub",
             "bboxs": [[50, 84, 100, 168]], "split": "val"}
        ],
    )  # fmt: skip
    write_jsonl(
        tmp_path / "det.jsonl",
        [{"img_path": "CUB/b.png", "expression": "wing", "bbox": [0, 0, 250, 168], "width": 500, "height": 336}],
    )
    flags = ("--annotations", "viscot_363k.json", "metadata/*.jsonl", "det.jsonl", "--folders", "cub=CUB")
    items, rejects = convert("viscot", tmp_path, *flags)
    sharegpt, metadata, detection = (item.sample for item in items)
    assert sharegpt.instruction == "What is the name?" and sharegpt.target.text == "A. C. Monk"
    assert approx(sharegpt.target.boxes[0], 0.2, 0.2, 0.4, 0.5)
    assert metadata.target == TextBox("Yes", metadata.target.boxes) and items[1].split == "val"
    assert approx(metadata.target.boxes[0], 0.1, 0.25, 0.2, 0.5)
    assert approx(detection.target, 0, 0, 0.5, 0.5) and not rejects
    looked, _ = convert("viscot", tmp_path, *flags, "--look")
    assert [item.sample.turns for item in looked] == [
        (ToolTurn("zoom", sharegpt.target.boxes[0]),),
        (ToolTurn("zoom", metadata.target.boxes[0]),),
        (),
    ]
    assert [replace(item.sample, turns=()) for item in looked] == [sharegpt, metadata, detection]


def test_flickr30k_entities(tmp_path):
    write_picture(tmp_path / "flickr30k-images/36979.jpg", 500, 400)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Sentences").mkdir()
    (tmp_path / "Annotations/36979.xml").write_text(
        "<annotation><size><width>500</width><height>400</height><depth>3</depth></size>"
        "<object><name>1</name><bndbox><xmin>50</xmin><ymin>40</ymin><xmax>250</xmax><ymax>200</ymax></bndbox></object>"
        "<object><name>2</name><name>1</name>"
        "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>100</xmax><ymax>100</ymax></bndbox></object>"
        "<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"
    )
    (tmp_path / "Sentences/36979.txt").write_text(
        "[/EN#1/people Two men] with [/EN#2/clothing a red hat] in [/EN#3/scene a park] .\n"
    )
    for split, keys in {"train": "36979\nnone\n", "val": "", "test": ""}.items():
        (tmp_path / f"{split}.txt").write_text(keys)
    items, rejects = convert("flickr30k_entities", tmp_path)
    assert [item.sample.instruction for item in items] == ["Two men", "a red hat"]
    men, hat = (item.sample.target for item in items)
    assert approx(men.items[0], 0.1, 0.1, 0.5, 0.5) and approx(hat, 0, 0, 0.2, 0.25)
    assert items[0].sample.meta["caption"] == "Two men with a red hat in a park ."
    assert reasons(rejects) == ["missing file"]


def test_flickr30k_refuses_entities_that_expand(tmp_path):
    write_picture(tmp_path / "flickr30k-images/1.jpg", 10, 10)
    for folder in ("Annotations", "Sentences"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Annotations/1.xml").write_text('<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>&b;</annotation>')
    (tmp_path / "Sentences/1.txt").write_text("[/EN#1/people A man]")
    (tmp_path / "train.txt").write_text("1")
    items, rejects = convert("flickr30k_entities", tmp_path, "--splits", "train")
    assert not items and "document type" in rejects[0].detail


def test_reasonseg_boxes_the_outline(tmp_path):
    write_picture(tmp_path / "train/1_2.jpg", 100, 50)
    write_json(
        tmp_path / "train/1_2.json",
        {
            "text": ["the thing that tells the time"],
            "is_sentence": True,
            "shapes": [
                {"label": "target", "points": [[10, 5], [30, 5], [30, 25]]},
                {"label": "target", "points": [[40, 20], [50, 20], [45, 30]]},
                {"label": "ignore", "points": [[0, 0], [99, 0], [99, 49]]},
            ],
        },
    )
    write_json(tmp_path / "train/9_9.json", {"text": ["x"], "shapes": []})
    items, rejects = convert("reasonseg", tmp_path, "--splits", "train")
    assert approx(items[0].sample.target, 0.1, 0.1, 0.5, 0.6)
    assert reasons(rejects) == ["missing image"]


def test_coco_detection_in_any_order(tmp_path):
    write_picture(tmp_path / "train2017/1.jpg", 100, 100)
    write_picture(tmp_path / "train2017/2.jpg", 200, 100)
    write_json(
        tmp_path / "annotations/instances_train2017.json",
        {
            "annotations": [
                {"image_id": 2, "category_id": 1, "bbox": [0, 0, 100, 100], "iscrowd": 0},
                {"image_id": 1, "category_id": 3, "bbox": [10, 10, 30, 30], "iscrowd": 0},
                {"image_id": 2, "category_id": 1, "bbox": [100, 0, 100, 50], "iscrowd": 0},
                {"image_id": 1, "category_id": 3, "bbox": [0, 0, 90, 90], "iscrowd": 1},
                {"image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0},
                {"image_id": 1, "category_id": 1, "bbox": [0, 0, "x", 1]},
                7,
            ],
            "images": [
                {"id": 1, "file_name": "1.jpg", "width": 100, "height": 100},
                {"id": 2, "file_name": "2.jpg", "width": 200, "height": 100},
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
        },
    )
    items, rejects = convert("coco", tmp_path)
    dog, cats = (item.sample for item in items)
    assert dog.instruction == "dog" and approx(dog.target, 0.1, 0.1, 0.4, 0.4)
    assert cats.instruction == "every cat" and approx(cats.target.items[1], 0.5, 0, 1, 0.5)
    assert cats.target.items[0].label == "cat"
    assert reasons(rejects) == ["wrong format"] * 3
    single, _ = convert("coco", tmp_path, "--single")
    assert [item.sample.instruction for item in single] == ["dog"]


def test_objects365_paths(tmp_path):
    write_picture(tmp_path / "patch8/o_1.jpg", 100, 100)
    write_json(
        tmp_path / "zhiyuan_objv2_train.json",
        {
            "images": [{"id": 1, "file_name": "images/v1/patch8/o_1.jpg", "width": 100, "height": 100}],
            "categories": [{"id": 1, "name": "Sneakers"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 0}],
        },
    )
    items, rejects = convert("objects365", tmp_path)
    assert items[0].sample.images[0].path == "images/patch8/o_1.jpg" and not rejects


def test_vlm_r1_both_layouts(tmp_path):
    write_picture(tmp_path / "train2014/a.jpg", 100, 200)
    question = "<image>Please provide the bounding box coordinate of the region this sentence describes: left man."
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": [10, 20, 50, 100]}]
    write_jsonl(tmp_path / "r.jsonl", [{"id": 1, "image": "train2014/a.jpg", "conversations": turns}])
    write_json(
        tmp_path / "lisa.json",
        [
            {
                "image": "train2014/a.jpg",
                "problem": "what tells time?",
                "solution": "<answer>[10, 20, 50, 100]</answer>",
            },
            {"image": "train2014/a.jpg", "problem": question, "normal_caption": "clock", "solution": [1, 2, 3]},
        ],
    )
    items, rejects = convert("vlm_r1", tmp_path, "--annotations", "r.jsonl", "lisa.json")
    assert [item.sample.instruction for item in items] == ["left man", "what tells time?"]
    assert all(approx(item.sample.target, 0.1, 0.1, 0.5, 0.5) for item in items)
    assert reasons(rejects) == ["wrong format"]


def test_refchartqa_answer_and_evidence(tmp_path):
    row = {
        "id": "x1",
        "image": {"bytes": picture(200, 100), "path": None},
        "query": "Which bar is highest?",
        "label": ["2019"],
        "type": "human",
        "grounding_bboxes": [
            {"x": 20.0, "y": 10.0, "w": 40.0, "h": 30.0},
            {"x": -1.0, "y": 0.0, "w": 201.0, "h": 101.5},
        ],
    }
    (tmp_path / "data").mkdir()
    pq.write_table(
        pa.Table.from_pylist([row, {**row, "grounding_bboxes": []}]), tmp_path / "data/validation-0.parquet"
    )
    items, rejects = convert("refchartqa", tmp_path)
    target = items[0].sample.target
    assert (
        target.text == "2019" and approx(target.boxes[0], 0.1, 0.1, 0.3, 0.4) and approx(target.boxes[1], 0, 0, 1, 1)
    )
    assert items[0].split == "val" and reasons(rejects) == ["empty box"]


def test_pixmo_points(tmp_path):
    write_picture(tmp_path / "images/ab12.jpg", 10, 10)
    row = {"image_sha256": "ab12", "image_url": "http://x/y", "collection_method": "pointing"}
    write_jsonl(
        tmp_path / "p.jsonl",
        [
            {**row, "label": "dots", "points": [{"x": 25.0, "y": 50.0}, {"x": 100.0, "y": 0.0}], "count": 2},
            {**row, "label": "dot", "points": [{"x": 25.0, "y": 50.0}], "count": 1},
            {**row, "label": "cow", "points": [], "count": 0},
            {**row, "label": "bad", "points": [], "count": 1},
            {**row, "image_sha256": "../ab12", "label": "bad", "points": [], "count": 0},
        ],
    )
    items, rejects = convert("pixmo_points", tmp_path, "--annotations", "p.jsonl")
    many, one, none = (item.sample.target for item in items)
    assert many == Points((Point(0.25, 0.5), Point(1, 0))) and one == Point(0.25, 0.5) and none == Absent()
    assert reasons(rejects) == ["count differs", "wrong format"]


def test_hub_mapping(tmp_path):
    rows = [
        {
            "img": {"bytes": picture(200, 100), "path": None},
            "objects": [{"caption": "cat", "box": {"at": [10.0, 20.0, 30.0, 40.0]}, "kind": "x"},
                        {"caption": "dog", "box": {"at": [10.0, 20.0, 30.0, 40.0]}, "kind": "y"}],
            "part": "validation",
        }
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    (tmp_path / "m.yaml").write_text(
        "name: mine\nlicense: MIT\nfiles: ['*.parquet']\nimage: img\neach: objects\nwhere: {kind: x}\n"
        "instruction: 'the {caption}'\nsplit: {column: part}\nmeta: [kind]\n"
        "target: {kind: box, column: box.at, format: yxyx, unit: percent}\n"
    )
    items, rejects = convert("hub", tmp_path, "--mapping", str(tmp_path / "m.yaml"))
    assert len(items) == 1 and not rejects
    sample = items[0].sample
    assert sample.instruction == "the cat" and sample.source == "mine" and sample.meta == {"kind": "x"}
    assert approx(sample.target, 0.2, 0.1, 0.4, 0.3) and items[0].split == "val"


def test_a_bad_sentence_costs_no_other(tmp_path):
    said = [{"sent_id": n, "sent": text} for n, text in enumerate(("a", " ", "b"))]
    ref = {"ref_id": 1, "image_id": 7, "split": "train", "ann_id": [1], "sentences": said}
    instances(tmp_path, "grefcoco", {1: [0, 0, 20, 10]})
    write_json(tmp_path / "grefcoco" / "grefs(unc).json", [ref])
    hub = {"file_name": f"{COCO_NAME}_0.jpg", "answer": ["a", "", "b"], "bbox": [20, 10, 30, 40]}
    write_json(tmp_path / "hub.json", [hub])
    write_picture(tmp_path / "train2014" / f"{COCO_NAME}.jpg", 200, 100)
    write_picture(tmp_path / "train" / "s.jpg", 200, 100)
    outline = {"label": "target", "points": [[10, 10], [50, 10], [50, 50]]}
    write_json(tmp_path / "train" / "s.json", {"text": ["a", "", "b"], "shapes": [outline]})
    for name, flags in (
        ("grefcoco", ()),
        ("refcoco_json", ("--annotations", "hub.json")),
        ("reasonseg", ("--splits", "train")),
    ):
        items, rejects = convert(name, tmp_path, *flags)
        assert ([item.sample.instruction for item in items], reasons(rejects)) == (["a", "b"], ["empty instruction"])


def test_an_id_that_two_annotations_have_is_nobodys(tmp_path):
    instances(tmp_path, "grefcoco", {1: [0, 0, 20, 10], 2: [0, 0, 20, 10]})
    path = tmp_path / "grefcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"].append({**content["annotations"][0], "bbox": [5, 5, 20, 10]})
    write_json(path, content)
    refs = [
        {"ref_id": n, "image_id": 7, "split": "train", "ann_id": [n], "sentences": [{"sent_id": n, "sent": "a"}]}
        for n in (1, 2)
    ]
    write_json(tmp_path / "grefcoco" / "grefs(unc).json", refs)
    items, rejects = convert("grefcoco", tmp_path)
    assert [item.sample.id for item in items] == ["grefcoco-2-2"]
    assert [(reject.reason, reject.detail[:12]) for reject in rejects] == [("duplicate id", "annotation 1")]
