"""Every benchmark reads rows of its official form and decides by its official rule; cases worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.predictions import PredictionFormat, match_rows
from benchmarks.harness.items import Prediction
from benchmarks.harness.run import read_items
from benchmarks.harness.scoring.decide import SKIPPED
from benchmarks.harness.scoring.text_match import relaxed_match
from grounding.answer import Status
from grounding.errors import BrokenRow, UsageError

SIZED = {"width": 200, "height": 100}
GUI = {"img_filename": "a.png", "bbox": [10, 20, 30, 40], "img_size": [200, 100], "instruction": "press"}


@pytest.fixture
def score(tmp_path):
    """Write official files, read them, judge rows of predictions; gives (items, verdicts, figures)."""

    def run(name, files, rows, split=None, space="pixel", **rule):
        for file, content in files.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Image.Image):
                content.save(path)
            elif file.endswith(".jsonl"):
                path.write_text("".join(json.dumps(row) + "\n" for row in content))
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        bench = BENCHMARKS.get(name)()
        items = read_items(bench, tmp_path, split)
        replies = match_rows([("row", row) for row in rows(items) if row], items, PredictionFormat(space=space))
        predictions = [reply.prediction for _, reply in replies]
        used = type(bench.rule)(**{**{f: getattr(bench.rule, f) for f in bench.rule.__slots__}, **rule})
        verdicts = bench.judge(items, predictions, used)
        return items, verdicts, bench.summarize(Scored(items, predictions, verdicts, used))

    return run


def points(*places):
    return lambda items: [{"id": i.id, "point": list(p)} for i, p in zip(items, places, strict=True)]


def boxes(*places):
    return lambda items: [{"id": i.id, "box": list(p)} for i, p in zip(items, places, strict=True)]


def right(verdicts):
    return [v.correct for v in verdicts]


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("screenspot_pro", "annotations/word.json", [GUI]),
        ("screenspot_v2", "screenspot_web_v2.json", [{**GUI, "bbox": [10, 20, 20, 20], "img_size": None}]),
        ("screenspot", "screenspot_web.json", [{**GUI, "bbox": [10, 20, 20, 20], "img_size": None}]),
        ("ui_vision", "element_grounding_basic.json", [GUI]),
        ("mmbench_gui", "L2_annotations.json", [GUI]),
        ("ui_i2e", "i2e_bench.jsonl", [{"image": "a.png", "instruction": "press", "bounding_box": [10, 20, 30, 40]}]),
        (
            "showdown",
            "data.csv",
            "id,image,instruction,x1,y1,x2,y2,width,height\ns,a.png,press,10,20,30,40,200,100\n",
        ),
    ],
)
def test_a_click_on_the_edge_is_inside_unless_declared_half_open(score, name, file, row):
    rows = row if isinstance(row, str) else [{k: v for k, v in r.items() if v is not None} for r in row]
    split = {"screenspot_v2": "web", "screenspot": "web", "ui_vision": "basic"}.get(name)
    for place, closed, half_open in [((30, 40), True, False), ((10, 20), True, True), ((30.5, 40), False, False)]:
        assert right(score(name, {file: rows}, points(place), split)[1]) == [closed]
        assert right(score(name, {file: rows}, points(place), split, boundary="half_open")[1]) == [half_open]
    assert right(score(name, {file: rows}, boxes((0, 10, 40, 50)), split)[1]) == [True]  # its center is clicked


SCREENSPOT = {"img_filename": "mobile_1.png", "bbox": [500, 900, 40, 50], "instruction": "x", "data_type": "icon"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (SCREENSPOT, (500, 900, 540, 950)),
        ({**SCREENSPOT, "image_size": [1000, 1000]}, (500, 900, 540, 950)),  # an original with the size added
        ({**SCREENSPOT, "bbox": [0.5, 0.9, 0.54, 0.95], "image_size": [1000, 1000]}, (500, 900, 540, 950)),
        ({**SCREENSPOT, "bbox": [500, 900, 540, 950], "img_size": [1000, 1000]}, (500, 900, 540, 950)),
        ({**SCREENSPOT, "bbox": [5, 9, 508, 600]}, (5, 9, 513, 609)),  # xywh, whatever the other rows look like
    ],
)
def test_screenspot_boxes_are_read_by_the_keys_of_their_row(score, row, expected):
    items, _, _ = score("screenspot_v2", {"screenspot_web_v2.json": [row] * 25}, lambda items: [], "web")
    assert {item.truth.boxes for item in items} == {(expected,)}
    assert items[0].groups["platform"] == "mobile"  # by the name of the image, not of the annotation file


@pytest.mark.parametrize(
    "row",
    [
        {**SCREENSPOT, "img_size": [1000, 1000]},  # an original in the form of the copies: x2 < x1
        {**SCREENSPOT, "bbox": [500, 900, 540, 950], "image_size": [1000, 1000]},  # 900 + 950 > 1000
    ],
)
def test_screenspot_boxes_that_fit_no_form_are_refused(score, row):
    with pytest.raises(BrokenRow, match=r"web_v2\.json\[0\].*(x2 < x1|reaches beyond its image)"):
        score("screenspot_v2", {"screenspot_web_v2.json": [row]}, lambda items: [], "web")


def test_osworld_g_boxes_polygons_and_refusals(score):
    common = {"image_path": "a.png", "image_size": [200, 100], "instruction": "x", "GUI_types": ["Icon"]}
    rows = [
        {**common, "id": "box", "box_type": "bbox", "box_coordinates": [10, 20, 20, 20]},
        {**common, "id": "tri", "box_type": "polygon", "box_coordinates": [0, 0, 100, 0, 0, 100]},
        {**common, "id": "no", "box_type": "refusal", "box_coordinates": [-1, -1, -1, -1]},
    ]
    files = {"OSWorld-G.json": rows}
    assert right(score("osworld_g", files, points((30, 40), (40, 40), (5, 5)))[1]) == [True, True, False]
    declined = lambda items: [{"id": i.id, "absent": True} for i in items]  # noqa: E731
    assert right(score("osworld_g", files, declined)[1]) == [False, False, True]
    outside = points((31, 40), (60, 60), (5, 5))
    assert right(score("osworld_g", files, outside)[1]) == [False, False, False]


def test_cuactspot_order_and_banned_regions(score):
    square = lambda x: [[x, 0], [x + 10, 0], [x + 10, 10], [x, 10]]  # noqa: E731
    row = {"image_id": "Text-1", "task_en": "drag", "polygons": [
        {"type": "Target", "rank": "1", "points": square(0)}, {"type": "Target", "rank": "2", "points": square(50)},
        {"type": "Banned", "rank": "", "points": square(100)}]}  # fmt: skip
    for clicks, verdict in [
        ([[5, 5], [55, 5]], True),
        ([[55, 5], [5, 5]], False),
        ([[5, 5]], False),
        ([[5, 5], [55, 5], [105, 5]], False),
        ([[5, 5], [55, 5], [80, 80]], True),
    ]:
        rows = lambda items, clicks=clicks: [{"id": items[0].id, "points": clicks}]  # noqa: E731
        assert right(score("cuactspot", {"Text-1.json": row}, rows)[1]) == [verdict]
    unranked = {**row, "polygons": [{**p, "rank": ""} for p in row["polygons"][:2]]}
    both = lambda items: [{"id": items[0].id, "points": [[55, 5], [5, 5]]}]  # noqa: E731
    assert right(score("cuactspot", {"Text-1.json": unranked}, both)[1]) == [True]


REFCOCO = {
    "Visual-CoT": (
        "REC_refcoco_unc_val.jsonl",
        {"img_path": "a.jpg", "expression": "cup", "bbox": [10, 20, 30, 40], **SIZED},
    ),
    "MiniGPT-4": ("refcoco_val.json", {"img_id": "a_7", "sents": "cup", "bbox": [10, 20, 20, 20], **SIZED}),
    "Qwen-VL": ("refcoco_val.jsonl", {"image": "a.jpg", "sent": "cup", "bbox": [10, 20, 30, 40], **SIZED}),
    "VLM-R1": ("refcoco_val.json", {"image": "a.jpg", "problem": "cup", "solution": [10, 20, 30, 40]}),
}


@pytest.mark.parametrize("conversion", REFCOCO)
def test_refcoco_conversions_and_the_threshold_met_exactly(score, conversion):
    file, row = REFCOCO[conversion]
    content = [row]
    half = boxes((10, 20, 30, 30))  # half of the true box: IoU is exactly 0.5
    items, verdicts, figures = score("refcoco", {file: content}, half, "refcoco_val")
    assert items[0].images[0].path == "a.jpg"
    assert items[0].truth.boxes == ((10, 20, 30, 40),)
    assert (right(verdicts), verdicts[0].value, figures["correct@0.5"]) == ([True], 0.5, 1)
    assert right(score("refcoco", {file: content}, half, "refcoco_val", iou_op="gt")[1]) == [False]


def test_refcoco_pickles(score, tmp_path):
    import pickle

    ref = {"image_id": 1, "ann_id": 5}
    refs = [
        {**ref, "split": "val", "sentences": [{"sent": "cup", "sent_id": 9}]},
        {**ref, "split": "testA", "sentences": [{"sent": "mug", "sent_id": 10}]},
    ]
    instances = {
        "images": [{"id": 1, "file_name": "a.jpg", **SIZED}],
        "annotations": [{"id": 5, "bbox": [10, 20, 20, 20]}],
    }
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    items, verdicts, _ = score(
        "refcoco", {"refcoco/instances.json": instances}, boxes((10, 20, 30, 40)), "refcoco_val"
    )
    assert [i.instruction for i in items] == ["cup"]
    assert right(verdicts) == [True]


def test_grefcoco_needs_every_box_and_none_more(score):
    ref = {"ref_id": 1, "image_id": 1, "split": "val", "sentences": [{"sent": "both", "sent_id": 0}]}
    refs = [{**ref, "ann_id": [5, 6]}, {**ref, "ref_id": 2, "ann_id": [-1]}]
    instances = {"images": [{"id": 1, "file_name": "a.jpg", **SIZED}],
                 "annotations": [{"id": 5, "bbox": [0, 0, 20, 20]}, {"id": 6, "bbox": [50, 50, 20, 20]}]}  # fmt: skip
    files = {"grefs(unc).json": refs, "instances.json": instances}
    two, three = [[0, 0, 20, 20], [50, 50, 70, 70]], [[0, 0, 20, 20], [50, 50, 70, 70], [90, 90, 99, 99]]
    for answer, verdict, f1 in [(two[::-1], True, 1.0), (two[:1], False, 2 / 3), (three, False, 0.8)]:
        rows = lambda items, a=answer: [{"id": "1-0", "boxes": a}, {"id": "2-0", "boxes": []}]  # noqa: E731
        _, verdicts, figures = score("grefcoco", files, rows)
        assert right(verdicts) == [verdict, True]
        assert verdicts[0].value == pytest.approx(f1)
    rows = lambda items: [{"id": "1-0", "boxes": two}, {"id": "2-0", "boxes": two}]  # noqa: E731
    _, verdicts, figures = score("grefcoco", files, rows)
    assert (right(verdicts), figures["N_acc"], figures["T_acc"]) == ([True, False], 0.0, 1.0)
    missing = lambda items: [{"id": "1-0", "boxes": two}]  # noqa: E731
    assert right(score("grefcoco", files, missing)[1]) == [True, False]  # no line is not "there is nothing"


def test_ref_l4_is_strict_and_groups_by_size(score):
    rows = [{"id": n, "caption": "x", "bbox": [0, 0, side, side], "file_name": "a.jpg", "width": 900, "height": 900}
            for n, side in enumerate((100, 128, 256, 300))]  # fmt: skip
    half = boxes(*[(0, 0, side, side / 2) for side in (100, 128, 256, 300)])
    items, verdicts, figures = score("ref_l4", {"ref-l4-test.jsonl": rows}, half)
    assert [i.groups["size"] for i in items] == ["small", "medium", "medium", "large"]
    assert (right(verdicts), figures["mAcc"]) == ([False] * 4, 0.0)


def test_mig_bench_thresholds_and_task_average(score):
    row = {"images": ["./MIG-Bench/images/a.jpg"] * 2, "question": "q", "answer": [0.0, 0.0, 0.5, 0.5]}
    rows = [{**row, "task": "diff"}, {**row, "task": "diff"}, {**row, "task": "region"}]

    def answers(items):
        return [
            {"id": "0", "box": [0, 0, 500, 500], "images": [1]},
            {"id": "1", "box": [0, 0, 500, 200]},
            {"id": "2", "box": [600, 600, 700, 700]},
        ]

    items, verdicts, figures = score("mig_bench", {"MIG_data.json": rows}, answers, space="thousand")
    assert items[0].images[0].path == "images/a.jpg"
    assert right(verdicts) == [True, False, False]
    assert (figures["correct@0.3"], figures["correct@0.7"]) == (2, 1)
    assert figures["macro_accuracy@0.5"] == 0.25
    assert figures["mean_iou"] == pytest.approx((1 + 0.4) / 3)


def test_moments(score):
    videos = {"V": {"duration": 30.0, "timestamps": [[0, 10], [10, 20]], "sentences": ["a", "b"]}}
    answers = lambda items: [{"id": "V_0", "span": [0, 5]}, {"id": "V_1", "span": [17, 20]}]  # noqa: E731
    items, verdicts, figures = score("charades_sta", {"charades_test.json": videos}, answers)
    assert items[0].meta["duration"] == 30.0
    assert right(verdicts) == [True, False]
    assert (figures["correct@0.3"], figures["mean_iou"]) == (2, pytest.approx(0.4))
    assert right(score("charades_sta", {"charades_test.json": videos}, answers, iou_op="gt")[1]) == [False, False]
    rows = [{"path": "v.mp4", "question": "q", "answer": "13.4-28.1", "duration": 30.1, "qsemtype": "Pose"}]
    whole = lambda items: [{"id": "0", "span": [13.4, 28.1]}]  # noqa: E731
    items, verdicts, _ = score("tvgbench", {"tvgbench.json": rows}, whole)
    assert (items[0].groups["kind"], right(verdicts)) == ("Pose", [True])


def test_an_answer_and_the_moment_that_shows_it(score):
    """Worked by hand after eval_ground.py: IoP is the share of the answered span inside the best true one."""
    head = "video_id,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    asked = (
        "".join(f"v,why,fire,{n},CW,rain,fire,fun,call,food\n" for n in range(5))
        + "v,not grounded,fire,9,CW,a,b,c,d,e\n"
    )
    moments = {"v": {"duration": 30.0, "location": {str(n): [[-0.1, 4], [10, 20]] for n in range(5)}}}
    answers = lambda items: [  # noqa: E731
        {"id": "v_0", "text": "B", "span": [8, 12]},  # half inside: right
        {"id": "v_1", "text": "(B) fire", "span": [7, 12]},  # two fifths inside
        {"id": "v_2", "text": "rain", "span": [10, 20]},  # the wrong option
        {"id": "v_3", "text": "fire", "span": [3, 3]},  # an instant inside
        {"id": "v_4", "text": "fire"},  # no moment
    ]
    files = {"test.csv": head + asked, "gsub_test.json": moments}
    items, verdicts, figures = score("nextgqa", files, answers)
    assert len(items) == 5 and items[0].truth.spans == ((0.0, 4.0), (10.0, 20.0))
    assert right(verdicts) == [True, False, False, True, False]
    assert figures["correct_qa"] == 4 and figures["mIoP"] == pytest.approx((0.5 + 0.4 + 1 + 1 + 0) / 5)
    assert (figures["IoP@0.3"], figures["IoP@0.5"]) == (4, 3)
    assert figures["mIoU"] == pytest.approx((2 / 12 + 2 / 13 + 1 + 0 + 0) / 5) and figures["IoU@0.5"] == 1


@pytest.fixture
def place_files():
    mask = Image.fromarray(np.kron(np.array([[255, 0], [0, 0]], np.uint8), np.ones((10, 10), np.uint8)))
    question = {"question_id": 0, "image": "a.png", "text": "free space. Your answer should be"}
    return {"point_questions.jsonl": [question], "masks/a.png": mask}


def test_where2place_is_the_share_of_points_in_the_mask(score, place_files):
    rows = lambda items: [{"id": "0", "points": [[0.1, 0.1], [0.49, 0.49], [0.51, 0.1], [1.5, 0.1]]}]  # noqa: E731
    items, verdicts, figures = score("where2place", place_files, rows, space="unit")
    assert items[0].instruction == "free space."
    assert (verdicts[0].value, figures["mean_share_inside"]) == (0.5, 0.5)


def test_where2place_leaves_unreadable_answers_out_as_the_original_does(score, place_files):
    bad = lambda items: [{"id": "0", "point": "?"}]  # noqa: E731
    assert score("where2place", place_files, bad, space="unit")[1] == [SKIPPED]
    assert right(score("where2place", place_files, bad, space="unit", failure="wrong")[1]) == [False]


def test_vstar_shuffles_so_that_the_first_option_is_not_always_right(score):
    row = {"question": "color?", "options": ["red", "blue", "green", "grey"], "bbox": [[1, 1, 5, 5]]}
    names = [f"{kind}/{n}" for kind in ("direct_attributes", "relative_position") for n in range(8)]
    files = {f"{name}.json": row for name in names} | {f"{name}.png": Image.new("RGB", (9, 9)) for name in names}
    first = lambda items: [{"id": i.id, "text": "A"} for i in items]  # noqa: E731
    _, verdicts, _ = score("vstar", files, first)
    assert 0 < sum(right(verdicts)) < len(verdicts)
    named = lambda items: [{"id": i.id, "text": "It is red."} for i in items]  # noqa: E731
    assert all(right(score("vstar", files, named)[1]))
    both = lambda items: [{"id": i.id, "text": "red or blue"} for i in items]  # noqa: E731
    assert not any(right(score("vstar", files, both)[1]))


def test_coco_average_precision(score):
    content = {"images": [{"id": 1, "file_name": "a.jpg", **SIZED}, {"id": 2, "file_name": "b.jpg", **SIZED}],
               "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
               "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]},
                               {"image_id": 1, "category_id": 3, "bbox": [60, 0, 50, 50]}]}  # fmt: skip
    files = {"instances_val2017.json": content}
    found = [[0, 0, 50, 50], [60, 0, 110, 50]]
    rows = lambda items: [{"id": "1", "boxes": found, "labels": ["Cat", "dog"]}, {"id": "2", "absent": True}]  # noqa: E731
    _, verdicts, figures = score("coco", files, rows)
    assert (right(verdicts), figures["AP"]) == ([True, True], pytest.approx(1.0))
    swapped = lambda items: [{"id": "1", "boxes": found, "labels": ["dog", "cat"]}]  # noqa: E731
    assert score("coco", files, swapped)[2]["AP"] == 0.0


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [("10.4", "10", True), ("10.6", "10", False), ("Yes", "yes", True), ("12%", "0.12", True), ("0", "0", True),
     ("0.1", "0", False), ("1,000", "1000", True), ("no", "yes", False)],
)  # fmt: skip
def test_relaxed_match(answer, truth, same):
    assert relaxed_match(answer, truth) is same


def test_every_benchmark_says_where_it_comes_from_and_survives_no_answer():
    for name in BENCHMARKS:
        entry = BENCHMARKS.get(name)
        if not (isinstance(entry, type) and issubclass(entry, Benchmark)):
            continue
        card = entry.card
        assert all((card.title, card.paper, card.get, card.license, card.files, card.rule)), name
        assert entry.splits
        assert entry.answer_kind in ("point", "points", "box", "boxes", "span", "text_box", "text_span"), name
        assert entry().judge([], [], entry.rule) == []
        assert Prediction(Status.NO_ANSWER).failed


def test_a_bad_row_and_a_wrong_folder_are_named(score, tmp_path):
    with pytest.raises(BrokenRow, match=r"word\.json\[0\].*bbox"):
        score("screenspot_pro", {"word.json": [{"img_filename": "a.png", "instruction": "x"}]}, lambda items: [])
    with pytest.raises(UsageError, match=r"has none of .*GroundingSuite-Eval\.jsonl"):
        score("grounding_suite", {"other/readme.txt": "x"}, lambda items: [])
    with pytest.raises(UsageError, match="no split 'nope'"):
        score("charades_sta", {"charades_test.json": {}}, lambda items: [], "nope")
