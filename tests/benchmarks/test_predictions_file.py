"""Scoring anybody's predictions: declared spaces, bad input, and nothing read with the truth in hand."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from benchmarks.fovea_data import Screens
from benchmarks.harness.io.predictions import PredictionFormat, Predictions, match_rows, space_warning
from benchmarks.harness.io.row_files import located_rows
from benchmarks.harness.items import BenchmarkItem, ItemImage, Truth
from grounding.answer import Status
from grounding.errors import BrokenRow, UsageError


def read_predictions(path, items, reading):
    return list(Predictions(located_rows(path), path).replies(items, reading))


def item(identity="a", truth=(100, 50, 300, 150), size=(1000, 500), answer_kind="box"):
    return BenchmarkItem(identity, (ItemImage("x.png", *size),), "it", Truth(boxes=(truth,)), answer_kind)


def read(row, items=None, **reading):
    items = items or [item()]
    return [reply for _, reply in match_rows([("row 1", row)], items, PredictionFormat(**reading))]


@pytest.mark.parametrize(
    ("space", "box", "extra"),
    [
        ("pixel", [100, 50, 300, 150], {}),
        ("unit", [0.1, 0.1, 0.3, 0.3], {}),
        ("thousand", [100, 100, 300, 300], {}),
        ("resized", [50, 25, 150, 75], {"seen": [[500, 250]]}),
    ],
)
def test_every_space_gives_the_same_pixels(space, box, extra):
    (reply,) = read({"id": "a", "box": box, **extra}, space=space)
    assert reply.prediction.boxes[0] == pytest.approx((100, 50, 300, 150))
    assert reply.prediction.status is Status.OK


def test_raw_text_and_coordinates_score_alike():
    (raw,) = read({"id": "a", "output": '{"bbox_2d": [100, 100, 300, 300]}'}, dialect="qwen3_vl")
    (plain,) = read({"id": "a", "box": [100, 50, 300, 150]}, space="pixel")
    assert raw.prediction.boxes == plain.prediction.boxes


def test_an_integer_pixel_survives_the_canonical_frame():
    # 1 / 49 * 49 is not 1 in floating point; a click on the edge must still count.
    odd = item(truth=(1, 1, 2, 2), size=(49, 49))
    (reply,) = read({"id": "a", "output": '{"bbox_2d": [1, 1, 2, 2]}'}, [odd], dialect="qwen2_5_vl", space="pixel")
    assert reply.prediction.boxes == ((1, 1, 2, 2),)


def test_a_box_that_sticks_out_is_scored_as_it_is_and_marked():
    (reply,) = read({"id": "a", "output": '{"bbox_2d": [900, 400, 1004, 500]}'}, dialect="qwen2_5_vl", space="pixel")
    assert reply.prediction.boxes == ((900, 400, 1004, 500),)
    assert reply.prediction.status is Status.OUT_OF_RANGE
    assert not reply.prediction.strict


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, float("nan")], "here", [1, 2, 3, "x"]])
def test_unreadable_coordinates_are_a_counted_failure(box):
    (reply,) = read({"id": "a", "box": box}, space="pixel")
    assert reply.prediction.status is Status.MALFORMED
    assert not reply.missing


def test_an_empty_list_of_boxes_says_that_there_is_nothing():
    (reply,) = read({"id": "a", "boxes": []}, [item(answer_kind="boxes")], space="pixel")
    assert reply.prediction.absent
    (reply,) = read({"id": "a", "box": None}, space="pixel")
    assert reply.prediction.status is Status.NO_ANSWER


def test_coordinates_without_a_declared_space_are_refused():
    with pytest.raises(UsageError, match="--space"):
        read({"id": "a", "box": [1, 2, 3, 4]})
    with pytest.raises(UsageError, match="--dialect"):
        read({"id": "a", "output": "x"})
    with pytest.raises(UsageError, match="seen"):
        read({"id": "a", "box": [1, 2, 3, 4]}, space="resized")


def test_missing_predictions_stay_in_the_denominator(jsonl):
    items = [item("a"), item("b"), item("c")]
    path = jsonl([{"id": "b", "box": [100, 50, 300, 150]}])
    replies = read_predictions(path, items, PredictionFormat(space="pixel"))
    assert [(i.id, r.missing) for i, r in replies] == [("a", True), ("b", False), ("c", True)]


def test_duplicate_unknown_and_nameless_rows_are_errors(jsonl):
    box = {"box": [1, 2, 3, 4]}
    for rows, error, words in [
        ([{"id": "a", **box}, {"id": "a", **box}], BrokenRow, "preds.jsonl:2.*second prediction for id 'a'"),
        ([{"id": "z", **box}], UsageError, "no such item.*'z'"),
        ([box], BrokenRow, "no 'id'"),
        ([{"id": "a", "bbox": [1, 2, 3, 4]}], BrokenRow, "unknown key 'bbox'"),
        ([], UsageError, "empty"),
    ]:
        with pytest.raises(error, match=words):
            read_predictions(jsonl(rows), [item("a")], PredictionFormat(space="pixel"))


def test_broken_json_names_the_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "absent": true}\n{"id": \n')
    with pytest.raises(BrokenRow, match=r"p\.jsonl:2"):
        read_predictions(path, [item("a")], PredictionFormat())


def test_a_wrong_space_is_warned_of_and_nothing_is_changed():
    items = [item(str(i)) for i in range(10)]
    unit = [{"id": str(i), "box": [0.1, 0.1, 0.3, 0.3]} for i in range(10)]
    assert "'unit' is likelier than 'pixel'" in space_warning(unit, items, "pixel")
    pixels = [{"id": str(i), "box": [100, 450, 990, 499]} for i in range(10)]
    assert space_warning(pixels, items, "pixel") is None
    warning = space_warning(pixels, items, "unit")
    assert "100.0% of the coordinates lie outside space 'unit'" in warning
    big = [{"id": str(i), "box": [100, 510, 990, 990]} for i in range(10)]
    assert "'thousand' is likelier" in space_warning(big, items, "pixel")
    replies = match_rows([("r", row) for row in big], items, PredictionFormat(space="pixel"))
    assert replies[0][1].prediction.boxes == ((100, 510, 990, 990),)


OUTPUTS = [
    '{"bbox_2d": [10, 20, 300, 400]}',
    '{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}',
    '{"bbox_2d": [100, 200, 300, 400]} or {"bbox_2d": [1, 2, 3, 4]}',
    '{"bbox_2d": null}',
    "no idea",
    '<think>[1, 2, 3, 4]</think>{"bbox_2d": [5, 6, 7, 8]}',
    '{"bbox_2d": [900, 900, 1200, 1300]}',
]


@pytest.mark.parametrize("dialect", ["qwen3_vl", "qwen2_5_vl", "internvl", "ui_tars", "molmo"])
def test_swapping_the_truth_changes_no_answer(dialect):
    rng = random.Random(dialect)
    items, swapped = [], []
    for number in range(len(OUTPUTS)):
        left, top = rng.randrange(400), rng.randrange(200)
        items.append(item(str(number), (left, top, left + 90, top + 90)))
        truths = [Truth(absent=True), Truth(boxes=((0.1, 0.2, 0.3, 0.4),)), Truth(boxes=((5, 6, 7, 8),)), Truth()]
        swapped.append(dataclasses.replace(items[-1], truth=rng.choice(truths)))
    rows = [("r", {"id": str(n), "output": text}) for n, text in enumerate(OUTPUTS)]
    reading = PredictionFormat(dialect=dialect, grammar="think", space="pixel")
    first, second = (match_rows(rows, some, reading) for some in (items, swapped))
    assert [reply for _, reply in first] == [reply for _, reply in second]


def test_swapping_the_truth_of_a_log_changes_no_answer(tmp_path):
    from benchmarks.harness.io import external_formats as peers

    row = {"image": "a.png", "question": "q", "extracted_answer": [1, 2, 3, 4], "correct": 1}
    answers = []
    for truth in ([1, 2, 3, 4], [500, 500, 900, 900], [0.1, 0.1, 0.2, 0.2]):
        path = tmp_path / "log.json"
        path.write_text(json.dumps({"results": [{**row, "ground_truth": truth}]}))
        (entry,) = peers.read_log(path, peers.format_of(path), "box", "pixel")
        answers.append(entry.answer)
    assert answers[0] == answers[1] == answers[2]


def test_command_line(screens, jsonl, evaluate):
    items = list(Screens().read(screens, "test"))
    rows = [
        {"id": i.id, "absent": True} if i.truth.absent else {"id": i.id, "box": list(i.truth.boxes[0])} for i in items
    ]
    metrics, results, printed = evaluate("--data", screens, "--predictions", jsonl(rows), "--space", "unit")
    assert (metrics["n"], metrics["correct"], metrics["strict_correct"]) == (24, 24, 24)
    assert metrics["groups"]["target"]["absent"]["n"] == 4
    assert metrics["official"]["boxes"] == 20
    assert metrics["official"]["correct@0.5"] == 20
    assert results[0]["prediction"]["boxes"] == results[0]["truth"]["boxes"]
    assert "100.00%" in printed
    metrics, _, _ = evaluate("--data", screens, "--predictions", jsonl(rows[:6]), "--space", "unit")
    assert (metrics["n"], metrics["correct"], metrics["missing"]) == (24, 6, 18)


def test_a_json_list_is_read_like_json_lines(screens, tmp_path, evaluate):
    path = tmp_path / "preds.json"
    path.write_text(json.dumps([{"id": "s5", "absent": True}, {"id": "s0", "box": [0, 0, 1]}]))
    metrics, _, _ = evaluate("--data", screens, "--predictions", path, "--space", "unit")
    assert (metrics["correct"], metrics["missing"], metrics["parse"]["malformed"]) == (1, 22, 1)


def test_usage_errors(screens, jsonl, evaluate):
    preds = jsonl([{"id": "s0", "box": [0, 0, 1, 1]}])
    for args, words in [
        (["--data", screens], "--model NAME or --predictions FILE"),
        (
            ["--data", screens, "--predictions", preds, "--benchmark", "screenspot_prop"],
            "did you mean 'screenspot_pro'",
        ),
        (["--predictions", preds, "--space", "unit"], "--data DIR is needed"),
        (["--data", screens / "nowhere", "--predictions", preds], "no such folder"),
        (["--data", screens, "--split", "nope", "--predictions", preds], r"no nope\.parquet"),
        (["--data", screens, "--predictions", preds, "--space", "inches"], "inches"),
    ]:
        with pytest.raises(UsageError, match=words):
            evaluate(*args)
