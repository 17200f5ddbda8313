"""Figures beyond accuracy, by the rules of the official scripts; cases worked by hand."""

from __future__ import annotations

import json
import random
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Scored
from benchmarks.harness.io import external_formats as peers
from benchmarks.harness.io.predictions import PredictionFormat, match_rows
from benchmarks.harness.items import Prediction
from benchmarks.harness.run import read_items, with_sizes
from benchmarks.harness.scoring import masks
from benchmarks.harness.scoring.average_precision import thinned
from benchmarks.video import _clip_precision
from grounding.answer import Status
from grounding.errors import BrokenRow

SIZED = {"width": 200, "height": 100}


@pytest.fixture
def figures(tmp_path):
    """Official figures of rows of predictions against official files."""

    def run(name, files, rows, split=None, **reading):
        for file, content in files.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Image.Image):
                content.save(path)
            else:
                lines = "".join(json.dumps(row) + "\n" for row in content) if file.endswith(".jsonl") else None
                path.write_text(lines or json.dumps(content))
        bench = BENCHMARKS.get(name)()
        items = read_items(bench, tmp_path, split)
        if not all(p.known or "." not in p.path for item in items for p in item.images):
            items = with_sizes(items, bench.image_root(tmp_path))
        replies = match_rows([("row", row) for row in rows], items, PredictionFormat(**{"space": "pixel", **reading}))
        predictions = [reply.prediction for _, reply in replies]
        verdicts = bench.judge(items, predictions, bench.rule)
        return bench.summarize(Scored(items, predictions, verdicts, bench.rule)), verdicts

    return run


class TestOutOfRange:
    """The benchmark's rule decides about an answer that reaches outside the image."""

    def test_its_overlap_counts(self, figures):
        row = {"img_path": "a.jpg", "expression": "cup", "bbox": [100, 0, 200, 100], **SIZED}
        output = {"id": "0", "output": '{"bbox_2d": [500, 0, 1050, 1000]}'}
        official, verdicts = figures(
            "refcoco", {"REC_refcoco_unc_val.jsonl": [row]}, [output], "refcoco_val", dialect="qwen3_vl"
        )
        assert verdicts[0].correct
        assert official["mean_iou"] == pytest.approx(100 / 110)

    def test_where_only_one_answer_counts_it_is_none(self, screens):
        bench = BENCHMARKS.get("screens")()
        items = read_items(bench, screens, None)
        rows = [("row", {"id": item.id, "output": '{"bbox_2d": [-500, -500, 1500, 1500]}'}) for item in items]
        replies = match_rows(rows, items, PredictionFormat(dialect="qwen3_vl"))
        assert {reply.prediction.status for _, reply in replies} == {Status.OUT_OF_RANGE}
        verdicts = bench.judge(items, [reply.prediction for _, reply in replies], bench.rule)
        assert not any(verdict.correct for verdict in verdicts)


class TestOVDEval:
    def test_of_several_labels_on_one_object_the_best_scored_stays(self):
        cup, other = (0, 0, 10, 10), (50, 50, 60, 60)
        answer = Prediction(
            Status.OK, boxes=(cup, cup, other, (0, 0, 10, 5)), labels=("red cup", "blue cup", "red cup", "cup"),
            scores=(0.5, 0.9, 0.1, 1.0), images=(0, 0, 0, 0),
        )  # fmt: skip
        left = thinned(answer, [cup])
        # The last one has IoU 0.5 exactly, which is not more than 0.5; the third lies over nothing.
        assert left.labels == ("blue cup", "red cup", "cup")
        assert left.scores == (0.9, 0.1, 1.0)
        assert thinned(answer, []) == answer

    def test_the_best_for_one_object_is_not_removed_for_another(self):
        boxes = ((0.0, 0, 10, 10), (0.0, 0, 10, 9))
        answer = Prediction(Status.OK, boxes=boxes, scores=(0.9, 0.5))
        # Over the second object only the second box has IoU > 0.5... and over the first, both.
        assert thinned(answer, [(0, 0, 10, 10), (0, 4, 10, 9)]).boxes == boxes

    def test_a_wrong_label_beside_a_better_right_one_costs_ap_only_before_nms(self, figures):
        content = {"images": [{"id": 1, "file_name": "a.jpg", **SIZED}],
                   "categories": [{"id": 1, "name": "red cup"}, {"id": 2, "name": "blue cup"}],
                   "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]},
                                   {"image_id": 1, "category_id": 2, "bbox": [100, 0, 50, 50]}]}  # fmt: skip
        first, second = [0, 0, 50, 50], [100, 0, 150, 50]
        rows = [{"id": "1", "boxes": [first, first, second], "labels": ["red cup", "blue cup", "blue cup"],
                 "scores": [0.9, 0.8, 0.7]}]  # fmt: skip
        official, _ = figures("ovdeval", {"color.json": content}, rows)
        # Before: the blue class has a false positive above its true one, precision 1/2: AP = (1 + 0.5) / 2.
        assert official["AP50"] == pytest.approx(0.75)
        assert official["NMS-AP50"] == pytest.approx(1.0)


class TestReasonSeg:
    def files(self, size=(20, 10), labels=("target",)):
        square = lambda x: [[x, 0], [x + 4, 0], [x + 4, 4], [x, 4]]  # noqa: E731 - 5 x 5 pixels, edges included
        shapes = [{"label": label, "points": square(10 * n)} for n, label in enumerate(labels)]
        content = {"shapes": shapes, "text": ["the thing", "same thing"], "is_sentence": True}
        return {"test/1.json": content, "test/1.jpg": Image.new("RGB", size)}

    def test_a_box_stands_for_its_filled_mask(self, figures):
        official, verdicts = figures("reasonseg", self.files(), [{"id": "1-0", "box": [0, 0, 5, 10]}])
        # 25 pixels of the target among the 50 of the box.
        assert (official["masks"], official["box_gIoU"]) == (1, pytest.approx(0.5, abs=1e-6))
        assert official["box_cIoU"] == pytest.approx(0.5)
        assert verdicts[0].value == pytest.approx(16 / 50)  # the official box ends at the vertices

    def test_masks_and_ignored_areas(self, figures):
        mask = np.zeros((10, 20), dtype=bool)
        mask[:5, :4] = True  # 20 of the 25 pixels
        mask[:5, 10:15] = True  # all on the ignored square
        rle = {"size": [10, 20], "counts": runs(mask)}
        official, verdicts = figures(
            "reasonseg", self.files(labels=("target", "ignore")), [{"id": "1-0", "mask": rle}]
        )
        assert official["gIoU"] == pytest.approx(20 / 25, abs=1e-6)
        assert official["cIoU"] == pytest.approx(20 / 25)
        assert verdicts[0].value == pytest.approx(16 / (15 * 5))  # the box around the mask: 0 0 15 5

    def test_means_per_image_and_over_all_pixels_differ(self, figures):
        files = self.files() | {
            "test/2.json": {**self.files()["test/1.json"]},
            "test/2.jpg": Image.new("RGB", (20, 10)),
        }
        rows = [{"id": "1-0", "box": [0, 0, 5, 5]}, {"id": "2-0", "box": [0, 0, 20, 10]}]
        official, _ = figures("reasonseg", files, rows)
        assert official["box_gIoU"] == pytest.approx((1 + 25 / 200) / 2, abs=1e-6)
        assert official["box_cIoU"] == pytest.approx(50 / 225)

    def test_a_bad_mask_is_named(self, figures):
        for bad in ({"size": [10, 20]}, {"size": [10, 20], "counts": [3, 4]}, {"size": [0, 1], "counts": "a"}, "x"):
            with pytest.raises(BrokenRow, match="run-length"):
                figures("reasonseg", self.files(), [{"id": "1-0", "mask": bad}])

    def test_run_lengths_as_lists_and_compressed_say_the_same(self):
        tool = pytest.importorskip("pycocotools.mask")
        mask = np.random.default_rng(0).random((7, 9)) > 0.6
        packed = tool.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (masks.decode({"size": [7, 9], "counts": packed["counts"].decode()}) == mask).all()
        assert (masks.decode({"size": [7, 9], "counts": runs(mask)}) == mask).all()


def runs(mask):
    """Uncompressed run lengths, column by column, beginning with zeros."""
    counts, value = [0], False
    for pixel in mask.T.flatten():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return [int(c) for c in counts]


class TestQVHighlights:
    ROW: ClassVar = {"qid": 7, "query": "q", "vid": "v", "duration": 10, "relevant_windows": [[2, 6]],
           "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 3, 0], [2, 4, 1]]}  # fmt: skip

    def test_hit_and_average_precision_by_hand(self, figures):
        rows = [{"id": "7", "span": [2, 6], "saliency": [0.1, 0.5, 0.9, 0.0, 0.2]}]
        official, _ = figures("qvhighlights", {"highlight_val_release.jsonl": [self.ROW]}, rows)
        assert official["highlights"] == 1
        # Clip 2 is scored highest; annotators give it 2, 4, 1.
        assert [official[f"HIT@1_{level}"] for level in ("Fair", "Good", "VeryGood")] == [1, 1, 1]
        # Fair: clips 1 and 2 come first for two annotators (AP 1, 1), the third has none (0).
        assert official["highlight_mAP_Fair"] == pytest.approx(2 / 3)
        # VeryGood: the first annotator's only clip is 1, found second (1/2); the second's is 2, found first (1).
        assert official["highlight_mAP_VeryGood"] == pytest.approx((0.5 + 1 + 0) / 3)

    def test_short_long_and_missing_scores(self, figures):
        other = {**self.ROW, "qid": 8}
        rows = [{"id": "7", "span": [2, 6], "saliency": [0, 0, 0, 0, 0, 0, 9.0]}, {"id": "8", "span": [2, 6]}]
        official, _ = figures("qvhighlights", {"highlight_val_release.jsonl": [self.ROW, other]}, rows)
        assert (official["highlights"], official["HIT@1_Fair"]) == (2, 0)  # the highest clip is beyond the video
        # All five clips tie: both right ones are found together among five, 2/5, for two of six annotators' lists.
        assert official["highlight_mAP_Fair"] == pytest.approx((2 / 5 + 2 / 5) / 6)

    def test_without_saliency_nothing_is_said_about_it(self, figures):
        official, _ = figures(
            "qvhighlights", {"highlight_val_release.jsonl": [self.ROW]}, [{"id": "7", "span": [2, 6]}]
        )
        assert not [name for name in official if "HIT" in name or "highlight" in name]

    def test_precision_is_interpolated_from_later_recall(self):
        right = np.array([False, True, True, True])
        # Found at ranks 2, 3, 4: precisions 1/2, 2/3, 3/4, each raised to the best at higher recall: 3/4.
        assert _clip_precision(right, np.array([4.0, 3, 2, 1])) == pytest.approx(0.75)
        assert _clip_precision(np.zeros(3, bool), np.ones(3)) == 0.0
        assert _clip_precision(np.ones(3, bool), np.ones(3)) == 1.0


def test_ref_l4_averages_over_merged_classes(figures):
    def row(number, category):
        return {"id": str(number), "caption": "x", "bbox": [0, 0, 10, 10], "file_name": "a.jpg",
                "ori_category_id": category, **SIZED}  # fmt: skip

    # COCO's 1 and Objects365's 1 are one class; a category without a counterpart is its own.
    rows = [row(0, "refcoco_1"), row(1, "o365_1"), row(2, "o365_1"), row(3, "refcoco_26")]
    right, wrong = [0, 0, 10, 10], [50, 50, 60, 60]
    answers = [{"id": str(n), "box": box} for n, box in enumerate([right, wrong, wrong, right])]
    official, _ = figures("ref_l4", {"ref-l4-test.json": rows}, answers)
    assert (official["classes"], official["class_Acc"]) == (2, pytest.approx((1 / 3 + 1) / 2))
    assert official["class_mAcc"] == pytest.approx((1 / 3 + 1) / 2)
    assert official["mAcc"] == 0.5


class TestMCBench:
    A, B = (0, 0, 10, 10), (50, 50, 10, 10)  # xywh

    def files(self, pairs=1):
        images, annotations = [], []
        for n in range(pairs):
            first, second = 2 * n + 1, 2 * n + 2
            common = {"file_name": "a.jpg", "text": "both", **SIZED}
            images += [
                {"id": first, "pair_image_id": second, **common},
                {"id": second, "pair_image_id": first, **common},
            ]
            annotations += [{"image_id": i, "category_id": c, "bbox": box}
                            for i in (first, second) for c, box in ((1, self.A), (2, self.B))]  # fmt: skip
        categories = [{"id": 1, "name": "group 1"}, {"id": 2, "name": "group 2"}]
        return {"MC-Bench_coco_format.json": {"images": images, "annotations": annotations, "categories": categories}}

    def answer(self, identity, labels):
        a, b = [0, 0, 10, 10], [50, 50, 60, 60]
        return {"id": identity, "boxes": [a, b, a, b], "images": [0, 0, 1, 1], "labels": labels}

    def test_groups_are_matched_whatever_they_are_called(self, figures):
        for labels in (["1", "2", "1", "2"], ["group 2", "group 1", "group 2", "group 1"]):
            official, verdicts = figures("mc_bench", self.files(), [self.answer("1-2", labels)])
            assert official["AP50"] == pytest.approx(1.0)
            assert official["AP50_matched"] == pytest.approx(1.0)
            assert (official["image_level"], verdicts[0].correct) == (1, True)

    def test_one_name_for_both_groups_finds_half(self, figures):
        official, _ = figures("mc_bench", self.files(), [self.answer("1-2", ["1"] * 4)])
        # Group 1: its two true boxes among four answers of equal score; nothing in group 2.
        assert 0 < official["AP50"] <= 0.5

    def test_the_script_keeps_the_matching_of_the_last_pair_only(self, figures):
        swapped = ["2", "1", "2", "1"]
        rows = [self.answer("1-2", swapped), self.answer("3-4", swapped)]
        official, _ = figures("mc_bench", self.files(2), rows)
        assert official["AP50_matched"] == pytest.approx(1.0)
        assert official["AP50"] < 0.9

    def test_the_script_renames_group_after_group_so_that_a_swap_merges_them(self, figures):
        official, _ = figures("mc_bench", self.files(), [self.answer("1-2", ["2", "1", "2", "1"])])
        # Its four answers, of equal score, all end in group 1: right, wrong, right, wrong. Recall 1/2 at precision 1,
        # recall 1 at precision 2/3: 51 of the 101 steps have 1, 50 have 2/3. Group 2, half of the boxes, has none.
        assert official["AP50_script"] == pytest.approx((51 + 50 * 2 / 3) / 101 / 2)
        assert official["AP50_matched"] == pytest.approx(1.0)

    def test_image_level_needs_boxes_exactly_where_there_are_some(self, figures):
        files = self.files()
        content = files["MC-Bench_coco_format.json"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
        official, verdicts = figures("mc_bench", files, [self.answer("1-2", ["1", "2", "1", "2"])])
        assert (official["image_level"], official["image_accuracy"], verdicts[0].correct) == (0, 0.0, False)


class TestAveragePrecision:
    """Equal to pycocotools on the same files, whatever ties and in whatever order the images are listed."""

    def random_set(self, seed):
        rng = random.Random(seed)
        ids = rng.sample(range(1, 2000), rng.randint(2, 6))
        categories = [
            {"id": i, "name": n} for i, n in zip(rng.sample(range(50), 3), ("Bird", "bird", "cat"), strict=True)
        ]

        def place():
            low, high = rng.sample([(0, 20), (10, 120)], 1)[0]
            number = rng.randint if seed % 2 else lambda a, b: round(rng.uniform(a, b), 2)
            return [number(0, 20), number(0, 20), number(low + 1, high), number(low + 1, high)]

        annotations = [
            {"id": n + 1, "image_id": rng.choice(ids), "category_id": rng.choice(categories)["id"], "bbox": place(),
             "iscrowd": int(rng.random() < 0.1)} for n in range(rng.randint(3, 12))
        ]  # fmt: skip
        for annotation in annotations:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        images = [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in ids]
        results = []
        for _ in range(20):
            box = rng.choice(annotations)["bbox"] if rng.random() < 0.7 else place()
            result = {"image_id": rng.choice(ids), "category_id": rng.choice(categories)["id"], "bbox": box}
            results.append(result | {"score": rng.choice([0.5, 0.9])})
        return {"images": images, "categories": categories, "annotations": annotations}, results

    @pytest.mark.parametrize(
        ("name", "file"),
        [("coco", "instances_val2017.json"), ("odinw", "Set/test/_annotations.coco.json"), ("ovdeval", "a.json")],
    )
    def test_it_is_what_pycocotools_says(self, tmp_path, capsys, name, file):
        coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
        bench = BENCHMARKS.get(name)()
        data, preds = tmp_path / "data" / file, tmp_path / "results.json"
        data.parent.mkdir(parents=True)
        for seed in range(8):
            content, results = self.random_set(seed)
            data.write_text(json.dumps(content))
            preds.write_text(json.dumps(results))
            truth = coco.COCO(str(data))
            theirs = cocoeval.COCOeval(truth, truth.loadRes(str(preds)), "bbox")
            theirs.evaluate()
            theirs.accumulate()
            theirs.summarize()
            items = read_items(bench, tmp_path / "data", None)
            replies = match_rows(peers.prediction_rows(preds, "coco", items), items, PredictionFormat(space="pixel"))
            predictions = [reply.prediction for _, reply in replies]
            ours = bench.summarize(
                Scored(items, predictions, bench.judge(items, predictions, bench.rule), bench.rule)
            )
            expected = dict(
                zip(("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"), theirs.stats, strict=False)
            )
            assert {key: ours[key] for key in expected} == pytest.approx(expected, abs=1e-6), seed
