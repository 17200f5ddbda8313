"""Every adapter reads an official row whatever is wrong with it: a named one-line error, or items of sound values."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import pickle

import pytest
from PIL import Image

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.predictions import PredictionFormat, match_rows
from benchmarks.harness.run import read_items
from grounding.errors import FoveaError
from grounding.sample import ImageRef, Sample, to_row
from grounding.targets import Box, Point, TextBox

BOX, SIZE = [10, 20, 30, 40], {"width": 200, "height": 100}
GUI = {"img_filename": "a.png", "bbox": BOX, "img_size": [200, 100], "instruction": "press"}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "pair_image_id": 2, "text": "both", **SIZE},
               {"id": 2, "file_name": "b.jpg", "pair_image_id": 1, "text": "both", **SIZE}],
    "categories": [{"id": 1, "name": "group 1"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20], "area": 400, "iscrowd": 0}],
}  # fmt: skip
REFS = [{"ref_id": 1, "image_id": 1, "ann_id": 1, "split": "val", "sentences": [{"sent": "cup", "sent_id": 3}]}]
LABELME = {"shapes": [{"label": "target", "points": [[0, 0], [9, 0], [9, 9]]}], "text": ["it"], "is_sentence": True}
VIDEOS = {"V": {"duration": 30, "timestamps": [[0, 9]], "sentences": ["a"]}}
VSTAR = {"question": "color?", "options": ["red", "blue"], "bbox": [[1, 1, 5, 5]]}
ACTSPOT = {"image_id": "Text-1", "task_en": "drag", "polygons": [
    {"type": "Target", "rank": "1", "points": [[0, 0], [9, 0], [9, 9]]}]}  # fmt: skip
QVH = {"qid": 7, "query": "q", "vid": "v", "duration": 10, "relevant_windows": [[2, 6]],
       "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 3, 0], [2, 4, 1]]}  # fmt: skip


def sample(target):
    return to_row(Sample("s", (ImageRef("images/a.png", 200, 100),), "it", target, "test", "CC0-1.0"))


# benchmark: (split, the file whose values are changed, its content, further files)
OFFICIAL = {
    "screenspot_pro": (None, "annotations/a.json", [GUI], {}),
    "screenspot": ("web", "screenspot_web.json", [{**GUI, "img_size": None, "data_type": "icon"}], {}),
    "screenspot_v2": ("web", "screenspot_web_v2.json", [{**GUI, "bbox": [0.1, 0.2, 0.3, 0.4], "img_size": None,
                                                         "image_size": [200, 100]}], {}),
    "ui_vision": ("basic", "element_grounding_basic.json", [GUI], {}),
    "mmbench_gui": (None, "L2_annotations.json", [{"image_path": "a.png", "image_size": [200, 100], "index": 4,
                    "bbox": [0.1, 0.2, 0.3, 0.4], "basic_instruction": "a", "advanced_instruction": "b"}], {}),
    "ui_i2e": (None, "i2e.jsonl", [{"image": "a.png", "instruction": "p", "bounding_box": BOX, "annotations":
               {"instr_type": 2}}], {}),
    "showdown": (None, "data.csv", [{"image": "a.png", "instruction": "p", "x1": 1, "y1": 2, "x2": 3, "y2": 4,
                 **SIZE}], {}),
    "osworld_g": (None, "OSWorld-G.json", [{"id": "t", "image_path": "a.png", "image_size": [200, 100],
                  "instruction": "x", "GUI_types": ["Icon"], "box_type": "polygon",
                  "box_coordinates": [0, 0, 9, 0, 9, 9]}], {}),
    "cuactspot": (None, "Text-1.json", ACTSPOT, {}),
    "refcoco": ("refcoco_val", "refcoco_val.jsonl", [{"image": "a.jpg", "sent": "cup", "bbox": BOX, **SIZE}], {}),
    "grefcoco": (None, "grefs(unc).json", REFS, {"instances.json": COCO}),
    "ref_l4": (None, "ref-l4-test.jsonl", [{"id": 1, "caption": "x", "bbox": BOX, "file_name": "a.jpg", **SIZE,
               "ori_category_id": "o365_1"}], {}),
    "kvg_bench": (None, "kvg.json", [{"id": 1, "images": ["a.png"], "query": "which", "category": "dog",
                  "answer": "<|box_start|>(10,20),(30,40)<|box_end|>"}], {}),
    "mig_bench": (None, "MIG_data.json", [{"images": ["a.jpg", "b.jpg"], "question": "q", "task": "diff",
                  "answer": [0.1, 0.1, 0.5, 0.5]}], {}),
    "mc_bench": (None, "MC-Bench_coco_format.json", COCO, {}),
    "coco": (None, "instances_val2017.json", COCO, {}),
    "odinw": (None, "Set/test/_annotations.coco.json", COCO, {}),
    "ovdeval": (None, "color.json", COCO, {}),
    "grounding_suite": (None, "GroundingSuite-Eval.jsonl", [{"idx": 1, "image_path": "a.jpg", "caption": "it",
                        "box": BOX, "label": "x", "class_id": 1, "segmentation": {"size": [100, 200]}}], {}),
    "viscot": ("gqa", "gqa.jsonl", [{"img_path": "a.jpg", "expression": "it", "bbox": BOX, **SIZE}], {}),
    "reasonseg": (None, "test/1.json", LABELME, {}),
    "charades_sta": (None, "charades_test.json", VIDEOS, {}),
    "activitynet": (None, "test.json", VIDEOS, {}),
    "nextgqa": (None, "test.csv", [{"video_id": "v", "question": "q", "answer": "x", "qid": "1", "type": "CW",
                "a0": "x", "a1": "y", "a2": "z", "a3": "u", "a4": "w"}],
                {"gsub_test.json": {"v": {"duration": 9.0, "location": {"1": [[1, 2]]}}}}),
    "tvgbench": (None, "tvgbench.json", [{"path": "v.mp4", "question": "q", "answer": "1.5-2", "duration": 30}], {}),
    "qvhighlights": (None, "highlight_val_release.jsonl", [QVH], {}),
    "refspatial": ("Location", "Location/question.json", [{"id": 1, "rgb_path": "a.png", "mask_path": "m.png",
                   "prompt": "it"}], {}),
    "where2place": (None, "point_questions.jsonl", [{"question_id": 1, "image": "a.png", "text": "it"}], {}),
    "vstar": ("direct_attributes", "direct_attributes/a.json", VSTAR, {"direct_attributes/a.png": None}),
    "screens": (None, "test.jsonl", [sample(Box(0.1, 0.1, 0.5, 0.5))], {}),
    "flickr30k": (None, "test.jsonl", [sample(Box(0.1, 0.1, 0.5, 0.5))], {}),
    "flickr30k_merged": (None, "test.jsonl", [sample(Box(0.1, 0.1, 0.5, 0.5))], {}),
    "pixmo_points": (None, "test.jsonl", [sample(Point(0.1, 0.1))], {}),
    "refchartqa": (None, "test.jsonl", [sample(TextBox("7", (Box(0.1, 0.1, 0.5, 0.5),)))], {}),
}  # fmt: skip
ODD = [None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**400, "", "x", "7", [], {}, [None], ["x"], [[]], [1, 2],
       [9, 9, 1, 1], [-5, -5, -9, -9], [[1, 2], [1]], {"a": 1}, [1, 2, 3, float("nan")], "1234"]  # fmt: skip


def names():
    found = ((name, BENCHMARKS.get(name)) for name in BENCHMARKS)
    adapters = [name for name, entry in found if isinstance(entry, type) and issubclass(entry, Benchmark)]
    return [name for name in adapters if name != "miniwob"]  # pages of a browser, no rows


def test_every_benchmark_is_tried():
    assert set(names()) - set(OFFICIAL) == set()


def places(value, path=()):
    """Every place in a JSON value, itself excepted."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed(content, path, make):
    result = copy.deepcopy(content)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    make(holder, path[-1])
    return result


def mutations(content):
    """(what was done, content) for every place and every odd value; places missing, twice, in another case."""
    for path in places(content):
        for odd in ODD:
            yield (
                f"{path} = {odd!r:.30}",
                changed(content, path, lambda holder, key, odd=odd: holder.__setitem__(key, odd)),
            )
        yield f"{path} missing", changed(content, path, lambda holder, key: holder.__delitem__(key))
        if isinstance(path[-1], int):
            yield f"{path} twice", changed(content, path, lambda holder, key: holder.append(holder[key]))
        else:
            yield (
                f"{path} in capitals",
                changed(content, path, lambda holder, key: holder.__setitem__(key.upper(), holder.pop(key))),
            )


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGB", (9, 9)).save(path)
    elif path.suffix == ".csv":
        rows = [row for row in content if isinstance(row, dict) and row] or [{"image": "a.png"}]
        text = io.StringIO()
        table = csv.DictWriter(text, sorted({key for row in rows for key in row}))
        table.writeheader()
        table.writerows(rows)
        path.write_text(text.getvalue())
    elif path.suffix == ".jsonl" and isinstance(content, list):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif path.suffix == ".p":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(json.dumps(content))


def sound(item):
    """What every scorer relies on."""
    truth = item.truth
    numbers = [value for place in (*truth.boxes, *truth.points, *truth.spans) for value in place]
    numbers += [value for outline in truth.polygons for vertex in outline for value in vertex]
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in numbers)
    assert all(len(box) == 4 for box in truth.boxes)
    assert isinstance(item.instruction, str)
    assert isinstance(item.id, str)
    assert item.id not in ("", "None", "nan")
    assert all(isinstance(p.path, str) and p.path for p in item.images)
    assert all(type(p.width) is int and type(p.height) is int for p in item.images)
    assert (
        truth.boxes
        or truth.points
        or truth.spans
        or truth.polygons
        or truth.absent
        or truth.mask
        or truth.text
        or (
            item.answer_kind == "points"  # a click is forbidden somewhere, and needed nowhere
        )
    )


@pytest.mark.parametrize("name", names())
def test_an_odd_row_is_named_or_read(name, tmp_path):
    split, file, content, more = OFFICIAL[name]
    bench = BENCHMARKS.get(name)()
    for other, inside in more.items():
        write(tmp_path / other, inside)
    dropped = {"img_size": None}  # what a row of a form without this key has
    if isinstance(content, list):
        content = [{k: v for k, v in row.items() if dropped.get(k, 0) is not v} for row in content]
    write(tmp_path / file, content)
    whole = read_items(bench, tmp_path, split)
    assert whole
    for number, (what, odd) in enumerate(mutations(content)):
        write(tmp_path / file, odd)
        try:
            items = read_items(bench, tmp_path, split)
        except FoveaError as error:
            assert "\n" not in str(error), what
            assert tmp_path.name in str(error) or "item id" in str(error), (what, str(error))
            continue
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        for item in items:
            sound(item)
        try:
            replies = match_rows(
                [("row", {"id": item.id, "absent": True}) for item in items], items, PredictionFormat("pixel")
            )
            predictions = [reply.prediction for _, reply in replies]
            if not any(item.truth.mask for item in items):
                verdicts = bench.judge(items, predictions, bench.rule)
                if number % 11 == 0:  # average precision takes its time
                    bench.summarize(Scored(items, predictions, verdicts, bench.rule))
        except Exception as error:
            raise AssertionError(f"{what}, judged: {error!r}") from error
