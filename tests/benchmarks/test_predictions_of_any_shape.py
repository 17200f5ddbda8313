"""A predictions file, a log or a submission of whatever shape is read right, or refused in one line that names it."""

from __future__ import annotations

import json

import pytest

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Scored
from benchmarks.harness.io import external_formats as peers
from benchmarks.harness.io.predictions import PredictionFormat, Predictions, match_rows, space_warning
from benchmarks.harness.io.row_files import located_rows, read_rows
from benchmarks.harness.items import BenchmarkItem, ItemImage, Prediction, Rule, Truth
from benchmarks.harness.run import read_items
from benchmarks.harness.scoring.decide import clicks, spans
from grounding.answer import Status
from grounding.errors import BrokenRow, FoveaError, UsageError

PIXEL = PredictionFormat(space="pixel")


def read_predictions(path, items, reading):
    return list(Predictions(located_rows(path), path).replies(items, reading))


def item(identity="a", answer_kind="box", size=(1000, 500), **truth):
    return BenchmarkItem(
        identity, (ItemImage("x.png", *size),), "it", Truth(**(truth or {"boxes": ((1, 1, 2, 2),)})), answer_kind
    )


def one(row, asked=None, reading=PIXEL):
    ((_, reply),) = match_rows([("preds.jsonl:1", row)], [asked or item()], reading)
    return reply


class TestWhatIsMissing:
    @pytest.mark.parametrize("row", [{"output": None}, {"box": None}, {"boxes": None, "absent": None}, {}])
    def test_null_is_missing_and_never_a_refusal(self, row):
        refusal = item("a", "point", absent=True)
        reply = one({"id": "a", **row}, refusal, PredictionFormat("pixel", "qwen3_vl"))
        assert reply.missing
        assert reply.prediction.failed
        assert not clicks([refusal], [reply.prediction], Rule())[0].correct

    @pytest.mark.parametrize("key", ["boxes", "points", "spans"])
    def test_an_empty_list_is_a_refusal_only_where_several_are_asked_for(self, key):
        single = "span" if key == "spans" else "point"
        assert one({"id": "a", key: []}, item("a", single)).prediction.status is Status.NO_ANSWER
        assert one({"id": "a", key: []}, item("a", "boxes")).prediction.absent == (key != "spans")

    def test_a_span_of_an_absent_target_is_declined_by_saying_so(self):
        asked = item("a", "span", absent=True)
        for row, right in [({"absent": True}, True), ({"span": [1, 2]}, False), ({"spans": []}, False)]:
            assert spans([asked], [one({"id": "a", **row}, asked).prediction], Rule())[0].correct is right


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": None}, "no 'id'"),
        ({"id": ["a"]}, "is not an id"),
        ({"id": True, "box": [1, 2, 3, 4]}, "is not an id"),
        ({"id": "a", "rollout": "x"}, "rollout"),
        ({"id": "a", "rollout": -1}, "rollout"),
        ({"id": "a", "rollout": 10**9, "box": [1, 2, 3, 4]}, "numbered from 0"),
        ({"id": "a", "output": 5}, "'output' is the model's text"),
        ({"id": "a", "output": "x", "box": [1, 2, 3, 4]}, "has both 'output' and 'box'"),
        ({"id": "a", "box": [1, 2, 3, 4], "boxes": [[1, 2, 3, 4]]}, "has both 'box' and 'boxes'"),
        ({"id": "a", "absent": "false"}, "'absent' is true or false"),
        ({"id": "a", "text": ["x"]}, "'text' is words"),
        ({"id": "a", "box": [1, 2, 3, 4], "scores": 0.9}, "'scores' is a list of 1"),
        ({"id": "a", "box": [1, 2, 3, 4], "scores": [0.9, 0.1]}, "'scores' is a list of 1"),
        ({"id": "a", "box": [1, 2, 3, 4], "scores": ["high"]}, "'high' is not a number"),
        ({"id": "a", "boxes": [[1, 2, 3, 4]] * 2, "labels": "ok"}, "'labels' is a list of 2"),
        ({"id": "a", "box": [1, 2, 3, 4], "labels": [5]}, "'labels' holds texts"),
        ({"id": "a", "box": [1, 2, 3, 4], "images": 0}, "'images' is a list of 1"),
        ({"id": "a", "box": [1, 2, 3, 4], "images": [1]}, "'images' holds indices"),
        ({"id": "a", "box": [1, 2, 3, 4], "seen": ["a", "b"]}, "is not a number"),
        ({"id": "a", "box": [1, 2, 3, 4], "seen": [[0, 5]]}, "'seen' needs"),
        ({"id": "a", "box": [1, 2, 3, 4], "seen": 5}, "a list is needed"),
        ({"id": "a", "saliency": "0.5"}, "'saliency' is a list"),
        ({"id": "a", "mask": {"size": [2, 2], "counts": "zzzz"}}, "run-length"),
        ({"id": "a", "mask": {"size": [10**6, 10**6], "counts": [10**12]}}, "run-length"),
        ({"ID": "a", "id": "a", "Box": [1, 2, 3, 4]}, "unknown key"),
    ],
)
def test_a_value_that_no_prediction_has_is_named(row, words):
    with pytest.raises(BrokenRow, match=rf"preds\.jsonl:1: .*{words}"):
        one(row)


@pytest.mark.parametrize("box", ["1234", [True, 1, 2, 3], [1, 2, 3, 10**400], {"x": 1}, [[1, 2, 3, 4]], 7])
def test_what_are_no_coordinates_is_a_wrong_answer(box):
    assert one({"id": "a", "box": box}).prediction.status is Status.MALFORMED


def test_pixels_of_a_resized_image_need_its_size():
    output = {"id": "a", "output": '{"point_2d": [60, 110]}'}
    asked = item("a", "point")
    with pytest.raises(UsageError, match=r"preds\.jsonl:1.*'seen'.*--space pixel"):
        one(output, asked, PredictionFormat(dialect="qwen2_5_vl"))
    seen = one({**output, "seen": [[500, 250]]}, asked, PredictionFormat(dialect="qwen2_5_vl"))
    assert seen.prediction.points == ((120, 220),)
    whole = one(output, asked, PredictionFormat(space="pixel", dialect="qwen2_5_vl"))
    assert whole.prediction.points == ((60, 110),)
    assert one(output, asked, PredictionFormat(dialect="qwen3_vl")).prediction.points == ((60, 55),)


def test_an_answer_near_the_edge_raises_no_false_alarm():
    # One answer in twenty misses the image by a few pixels: no reason to think of another space.
    items = [item(str(n), size=(800, 600)) for n in range(20)]
    rows = [{"id": str(n), "box": [10, 10, 790, 590]} for n in range(19)] + [{"id": "19", "box": [10, 10, 805, 605]}]
    warning = space_warning(rows, items, "pixel")
    assert warning is None or "likelier" not in warning


BOX = {"box": [1, 1, 2, 2]}
SHAPES = {
    "list": [{"id": "a", **BOX}, {"id": "b", **BOX}],
    "by id": {"a": BOX, "b": BOX},
    "held": {"model": "m", "results": [{"id": "a", **BOX}, {"id": "b", **BOX}]},
    "held by id": {"predictions": {"a": BOX, "b": BOX}},
    "nested": {"results": {"details": [{"id": "a", **BOX}, {"id": "b", **BOX}], "metrics": {"accuracy": 1}}},
    "by set": {"web": [{"id": "a", **BOX}], "mobile": [{"id": "b", **BOX}]},
    "annotations": {"annotations": [{"id": "a", **BOX}, {"id": "b", **BOX}]},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("indent", [None, 2])
def test_every_shape_people_write_is_read(tmp_path, shape, indent):
    path = tmp_path / "preds.json"
    path.write_text(json.dumps(SHAPES[shape], indent=indent))
    replies = read_predictions(path, [item("a"), item("b")], PIXEL)
    assert [reply.prediction.boxes for _, reply in replies] == [((1, 1, 2, 2),)] * 2


@pytest.mark.parametrize("name", ["preds.json", "preds.jsonl", "preds.txt"])
def test_json_lines_are_read_whatever_the_file_is_called(tmp_path, name):
    path = tmp_path / name
    path.write_text("\ufeff" + "".join(json.dumps(row) + "\n\n" for row in SHAPES["list"]), encoding="utf-8")
    assert [where.rpartition("/")[2] for where, _ in read_rows(path)] == [f"{name}:1", f"{name}:3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("[]", "the file is empty"),
        ('{"a": [1, 2, 3, 4]}', "rows are needed"),
        ('{"a": {"box": [1, 1, 2, 2]}, "a": {"box": [1, 1, 2, 2]}}', "'a' appears twice"),
        ('{"id": "a", "box": [1, 1, 2, 2], "box": [5, 5, 6, 6]}\n{"id": "b"}', "preds.json:1: not JSON: key 'box'"),
        ("[1, 2]", r"\[0\]: a JSON object is needed, this is a number"),
        ("7", "this is a number"),
        ('{"id": "a"}\n{"id": ', "preds.json:2"),
        ("[" * 100_000, "not JSON"),
        ('{"a": {"id": "b", "box": [1, 1, 2, 2]}, "c": {}}', "its 'id' is 'b', its key in the file 'a'"),
    ],
)
def test_a_file_that_holds_no_rows_is_told_truly(tmp_path, text, words):
    path = tmp_path / "preds.json"
    path.write_text(text)
    with pytest.raises(FoveaError, match=words) as told:
        read_predictions(path, [item("a"), item("b")], PIXEL)
    assert "\n" not in str(told.value)


def test_bytes_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "preds.jsonl"
    path.write_bytes(b'{"id": "a", "absent": true}\n{"id": "\xff"}\n')
    with pytest.raises(BrokenRow, match=r"preds\.jsonl:2: not JSON"):
        read_predictions(path, [item("a")], PIXEL)


SSPRO = {"img_filename": "a.png", "img_size": [1000, 500], "instruction": "press", "bbox": [100, 100, 200, 200],
         "pred": [150, 150], "correctness": "correct"}  # fmt: skip


class TestLogs:
    def read(self, tmp_path, rows, space=None, answer_kind="point"):
        path = tmp_path / "log.json"
        path.write_text(json.dumps({"details": rows}))
        return peers.read_log(path, peers.format_of(path), answer_kind, space)

    def right(self, entries, reading=PIXEL):
        pairs = peers.score_log(entries, reading)
        return [v.correct for v in clicks([i for i, _ in pairs], [r.prediction for _, r in pairs], Rule())], pairs

    def test_all_numbers_are_in_the_declared_unit(self, tmp_path):
        thousandths = {**SSPRO, "bbox": [100, 200, 200, 400], "pred": [150, 300]}
        assert self.right(self.read(tmp_path, [thousandths], "thousand"))[0] == [True]
        with pytest.raises(BrokenRow, match=r"log\.json\[0\].*not in \[0, 1\]"):
            self.read(tmp_path, [SSPRO], "unit")
        with pytest.raises(UsageError, match="share a unit"):
            self.read(tmp_path, [SSPRO], "resized")

    def test_predictions_that_do_not_look_like_the_unit_are_warned_of(self, tmp_path):
        entries = self.read(tmp_path, [{**SSPRO, "pred": [0.15, 0.3]}] * 3)
        assert "space 'unit' is likelier than 'pixel'" in peers.log_warning(entries)

    def test_a_log_in_parts_is_placed_in_the_pixels_of_the_annotations(self, tmp_path):
        entries = self.read(tmp_path, [{**SSPRO, "bbox": [0.1, 0.2, 0.2, 0.4], "pred": [0.15, 0.3]}], "unit")
        official = BenchmarkItem(
            "x", (ItemImage("a.png", 1000, 500),), "press", Truth(boxes=((100, 100, 200, 200),)), "point"
        )
        ((_, reply),) = peers.match_log(entries, [official], PredictionFormat("unit"))
        assert reply.prediction.points == ((150, 150),)

    @pytest.mark.parametrize("pred", [[float("nan"), 5], [1, 2, 3], "somewhere", {"x": 1, "y": 2}, [True, 1]])
    def test_what_cannot_be_read_is_malformed(self, tmp_path, pred):
        verdicts, pairs = self.right(self.read(tmp_path, [{**SSPRO, "pred": pred}]))
        assert verdicts == [False]
        assert pairs[0][1].prediction.status is Status.MALFORMED

    @pytest.mark.parametrize("pred", [None, [], [0, 0], [0, 0, 0, 0]])
    def test_null_and_zeros_are_no_answer(self, tmp_path, pred):
        assert self.right(self.read(tmp_path, [{**SSPRO, "pred": pred}]))[1][0][1].prediction == Prediction(
            Status.NO_ANSWER
        )

    def test_targets_that_are_not_there_do_not_reject_the_log(self, tmp_path):
        negative = {key: value for key, value in SSPRO.items() if key != "bbox"} | {"gt_type": "negative"}
        rows = [
            {**negative, "pred": None, "correctness": "correct"},
            {**negative, "pred": None, "correctness": "wrong_format"},
            {**negative, "correctness": "wrong"},
            {**SSPRO, "bbox": [-1, -1, -1, -1], "pred": None, "correctness": "wrong"},
            SSPRO,
        ]
        assert self.right(self.read(tmp_path, rows))[0] == [True, False, False, False, True]

    @pytest.mark.parametrize(
        "change", [{"bbox": None}, {"bbox": [1, 2]}, {"bbox": [5, 5, 1, 1]}, {"img_size": 5}, {"instruction": None}]
    )
    def test_a_row_without_what_a_log_has_is_named(self, tmp_path, change):
        with pytest.raises(BrokenRow, match=r"log\.json\[1\]: not a row of a sspro log"):
            self.read(tmp_path, [SSPRO, {**SSPRO, **change}])

    def test_raw_outputs_that_are_missing_are_not_replaced_by_the_extracted_answer(self, tmp_path):
        entries = self.read(tmp_path, [{**SSPRO, "raw_response": None}])
        assert peers.score_log(entries, PredictionFormat(dialect="qwen3_vl"))[0][1].missing


COCO = {
    "images": [{"id": k, "file_name": "a.jpg", "width": 90, "height": 90} for k in (2, 1)],
    "categories": [{"id": 0, "name": "Bird"}, {"id": 1, "name": "bird"}],
    "annotations": [{"image_id": 2, "category_id": 0, "bbox": [0, 0, 40, 40]}],
}
RESULT = {"image_id": 2, "category_id": 0, "bbox": [0, 0, 40, 40], "score": 0.5}


class TestSubmissions:
    def figures(self, tmp_path, rows, content=COCO):
        (tmp_path / "instances_val2017.json").write_text(json.dumps(content))
        path = tmp_path / "results.txt"
        path.write_text(json.dumps(rows))
        bench = BENCHMARKS.get("coco")()
        items = read_items(bench, tmp_path, None)
        pairs = match_rows(peers.prediction_rows(path, peers.format_of(path), items), items, PIXEL)
        predictions = [reply.prediction for _, reply in pairs]
        return bench.summarize(Scored(items, predictions, bench.judge(items, predictions, bench.rule), bench.rule))

    def test_ties_are_broken_by_the_image_id_as_pycocotools_does(self, tmp_path):
        # The wrong box on image 1 comes before the right one on image 2, though image 2 is listed first.
        rows = [RESULT, {**RESULT, "image_id": 1}]
        assert self.figures(tmp_path, rows)["AP"] == pytest.approx(0.5)

    def test_categories_equal_up_to_case_are_two(self, tmp_path):
        assert self.figures(tmp_path, [{**RESULT, "category_id": 1}])["AP"] == 0.0
        assert self.figures(tmp_path, {"annotations": [RESULT]})["AP"] == pytest.approx(1.0)

    def test_where_no_true_box_is_of_a_size_there_is_no_figure(self, tmp_path):
        figures = self.figures(tmp_path, [RESULT])
        assert (figures["AP_small"], figures["AP_medium"], figures["AP_large"]) == (-1.0, pytest.approx(1.0), -1.0)
        empty = self.figures(tmp_path, [{**RESULT, "image_id": 1}], {**COCO, "annotations": []})
        assert set(empty.values()) == {-1.0, 0.5}  # mean_F1: one image declined, one not

    @pytest.mark.parametrize(
        ("change", "words"),
        [({"score": None}, "not a number"), ({"bbox": [1, 2, 3]}, "4 numbers"), ({"category_id": 9}, "no category 9"),
         ({"image_id": 9}, "no image 9"), ({"image_id": None}, "not an id")],
    )  # fmt: skip
    def test_an_odd_result_is_named(self, tmp_path, change, words):
        with pytest.raises(BrokenRow, match=rf"results\.txt\[1\]: not a row of COCO results: .*{words}"):
            self.figures(tmp_path, [RESULT, {**RESULT, **change}])

    @pytest.mark.parametrize(
        ("row", "words"),
        [({"qid": 1, "pred_relevant_windows": None}, "windows"),
         ({"qid": 1, "pred_relevant_windows": [3]}, "windows"),
         ({"idx": None, "predicted_box": [1, 2, 3, 4]}, "not an id"),
         ({"id": 1, "pred_bbox": [1, 2, 3, 4], "format": "cxcywh"}, "neither xyxy nor xywh")],
    )  # fmt: skip
    def test_an_odd_row_of_a_submission_is_named(self, tmp_path, row, words):
        path = tmp_path / "preds.json"
        path.write_text(json.dumps([row]))
        with pytest.raises(BrokenRow, match=rf"preds\.json\[0\]: not a row of a \w+ submission: .*{words}"):
            list(peers.submission_rows(path, peers.format_of(path), []))


def test_the_last_of_several_answers_is_looked_for_in_its_own_image():
    asked = BenchmarkItem(
        "a",
        (ItemImage("x", 9, 9), ItemImage("y", 9, 9)),
        "it",
        Truth(boxes=((1, 1, 4, 4),), box_images=(1,)),
        "point",
    )
    answer = Prediction(Status.AMBIGUOUS, points=((8, 8), (2, 2)), images=(0, 1))
    assert clicks([asked], [answer], Rule(pick="last"))[0].correct
    assert not clicks([asked], [answer], Rule(pick="first"))[0].correct


def test_captions_in_coco_form_are_moments(tmp_path):
    path = tmp_path / "test.caption_coco_format.json"
    rows = [{"image_id": "AO8RW.mp4", "id": 7, "caption": "a person opens a door.", "timestamp": [0.0, 6.9]}]
    path.write_text(json.dumps({"annotations": rows}))
    (found,) = read_items(BENCHMARKS.get("charades_sta")(), tmp_path, None)
    assert (found.id, found.instruction, found.truth.spans) == ("7", "a person opens a door.", ((0.0, 6.9),))


def test_sets_of_odinw_are_kept_apart(tmp_path):
    for name, boxes in (("Aquarium/v1", [0, 0, 40, 40]), ("Pistols", [5, 5, 40, 40])):
        folder = tmp_path / name / "test"
        folder.mkdir(parents=True)
        content = {
            **COCO,
            "categories": [{"id": 0, "name": "thing"}, {"id": 1, "name": "thing"}],  # a set and its only class
            "annotations": [{"image_id": 2, "category_id": 1, "bbox": boxes}],
        }
        (folder / "annotations_without_background.json").write_text(json.dumps(content))
    bench = BENCHMARKS.get("odinw")()
    items = read_items(bench, tmp_path, None)
    assert [i.id for i in items] == ["Aquarium/v1/2", "Aquarium/v1/1", "Pistols/2", "Pistols/1"]
    assert items[0].images[0].path == "Aquarium/v1/test/a.jpg"
    rows = [("r", {"id": i.id, "box": [0, 0, 40, 40], "labels": ["thing"]}) for i in items]
    predictions = [reply.prediction for _, reply in match_rows(rows, items, PIXEL)]
    figures = bench.summarize(Scored(items, predictions, bench.judge(items, predictions, bench.rule), bench.rule))
    # The wrong box on image 1 of each set comes first: precision 1/2. In the second set IoU is 35^2 / 1975 = 0.62.
    assert figures["Aquarium/v1 AP"] == pytest.approx(0.5)
    assert figures["Pistols AP50"] == pytest.approx(0.5)
    assert figures["mean_AP"] == pytest.approx((0.5 + 0.5 * 3 / 10) / 2)
