"""Other people's prediction files give other people's counts, to the item.

The excerpts in `peer/` always run. The whole files run when they lie, under their own names, anywhere below
`data/peer/` in the repository, or below the folder in the ini option `peer_files` (pytest -o peer_files=DIR).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Scored
from benchmarks.harness.io import external_formats as peers
from benchmarks.harness.io.predictions import PredictionFormat, match_rows
from benchmarks.harness.run import read_items
from grounding.errors import BrokenRow, UsageError

HERE = Path(__file__).parent / "peer"
ROOT = Path(__file__).parents[2]
PLAIN = PredictionFormat()


def log_count(benchmark, path, *, unit="pixel", data=None, split=None, reading=PLAIN, **rule):
    """(right, all, what the file says) of a log; with `data`, against the benchmark's own annotations."""
    bench = BENCHMARKS.get(benchmark)()
    entries = peers.read_log(path, peers.format_of(path), bench.answer_kind, unit)
    if data is None:
        replies = peers.score_log(entries, reading)
    else:
        replies = peers.match_log(entries, read_items(bench, data, split), reading)
    verdicts = bench.judge([i for i, _ in replies], [r.prediction for _, r in replies], replace(bench.rule, **rule))
    return sum(v.correct for v in verdicts), len(verdicts), (peers.claimed(entries) or {}).get("correct")


def submission(benchmark, path, data, space=None):
    """Verdicts and the official figures of a submission."""
    bench = BENCHMARKS.get(benchmark)()
    items = read_items(bench, data, None)
    rows = [(str(path), row) for row in peers.submission_rows(path, peers.format_of(path), items)]
    replies = match_rows(rows, items, PredictionFormat(space=space))
    predictions = [reply.prediction for _, reply in replies]
    verdicts = bench.judge(items, predictions, bench.rule)
    return (
        sum(v.correct for v in verdicts),
        len(items),
        bench.summarize(Scored(items, predictions, verdicts, bench.rule)),
    )


class TestExcerpts:
    def test_se_gui_half_open(self):
        assert log_count("screenspot_pro", HERE / "se_gui.json", unit="unit", boundary="half_open") == (4, 10, 4)

    def test_omniparser_counts_the_right_and_lower_edge_as_outside(self):
        # Five of the fifteen clicks lie exactly on such an edge.
        assert log_count("screenspot_pro", HERE / "omniparser.jsonl", boundary="half_open") == (5, 15, 5)
        assert log_count("screenspot_pro", HERE / "omniparser.jsonl", boundary="closed") == (10, 15, 5)

    def test_aguvis(self):
        assert log_count("screenspot_pro", HERE / "aguvis.json") == (5, 12, 5)

    @pytest.mark.parametrize("op", ["ge", "gt"])
    def test_vlm_r1(self, op):
        assert log_count("refcoco", HERE / "vlm_r1.json", iou_op=op) == (3, 11, 3)

    def test_vlm_r1_read_leniently_loses_its_strict_parser_artefact(self):
        reading = PredictionFormat(space="pixel", dialect="qwen2_5_vl", grammar="think")
        assert log_count("refcoco", HERE / "vlm_r1.json", reading=reading) == (8, 11, 3)

    def test_moment_detr(self):
        right, n, figures = submission(
            "qvhighlights", HERE / "moment_detr_preds.jsonl", HERE / "highlight_val_release.jsonl"
        )
        assert (right, n, figures["correct@0.7"]) == (5, 12, 3)
        # What the authors' standalone_eval prints for the same rows, in percent.
        expected = {"mAP": 28.51, "mAP@0.5": 53.59, "mAP_short": 0.0, "mAP_middle": 16.8, "mAP_long": 45.1}
        assert {name: round(100 * figures[name], 2) for name in expected} == expected

    def test_grounding_suite(self):
        right, n, _ = submission(
            "grounding_suite", HERE / "grounding_suite_preds.jsonl", HERE / "grounding_suite.jsonl", "pixel"
        )
        assert (right, n) == (4, 13)

    def test_mai_ui_on_its_own_copy_of_osworld_g(self):
        assert log_count("osworld_g", HERE / "mai_ui_osworld_g.json") == (6, 9, 6)

    def test_the_three_copies_of_screenspot_v2_say_the_same(self):
        bench = BENCHMARKS.get("screenspot_v2")()
        names = ["screenspot_web_v2", "screenspot_web_v2_convert", "screenspotv2_web_ug_target"]
        original, converted, unit = (read_items(bench, HERE / f"{name}.json", "web") for name in names)
        assert original[0].truth.boxes == ((2321.0, 129.0, 2529.0, 199.0),)
        boxes = [[item.truth.boxes for item in copy] for copy in (original, converted, unit)]
        assert boxes[0] == boxes[1] == boxes[2]

    def test_the_mangled_polygons_and_refusals_of_the_osworld_g_copy_are_restored(self):
        items = read_items(BENCHMARKS.get("osworld_g")(), HERE / "OSWorld-G_sspro_format.json", "test")
        assert [item.groups["shape"] for item in items] == ["bbox"] * 4 + ["polygon"] * 3 + ["refusal"] * 2
        assert items[4].truth.polygons[0][0] == (1197.26, 350.44)
        assert items[4].truth.polygons[0][1] == pytest.approx((1192.98, 357.56))  # 2390.24 - 1197.26, 708 - 350.44
        assert items[-1].truth.absent


class TestLogs:
    def write(self, path, content):
        path.write_text(json.dumps(content))
        return path

    def test_migician_logs_end_with_their_totals(self, tmp_path):
        row = {"task": "diff", "question": "q", "answer": "[0, 0, 0.5, 0.5]", "groundtruth": [0, 0, 0.5, 0.5]}
        totals = {"diff": {"IOU@0.5": 1, "TOTAL": 2}}
        log = self.write(
            tmp_path / "log.json", [{**row, "filter_answer": [0, 0, 0.5, 0.5]}, {**row, "filter_answer": []}, totals]
        )
        assert log_count("mig_bench", log, unit="unit") == (1, 2, None)

    def test_rows_are_matched_by_image_and_words_whatever_their_order(self, tmp_path):
        rows = json.loads((HERE / "aguvis.json").read_text())["details"]
        annotations = [
            {"img_filename": r["img_path"], "bbox": r["bbox"], "img_size": [3840, 2160], "id": str(n),
             "instruction": r["prompt_to_evaluate"]} for n, r in enumerate(rows)
        ]  # fmt: skip
        data = self.write(tmp_path / "official.json", annotations)
        log = self.write(tmp_path / "log.json", {"details": rows[::-1]})
        assert log_count("screenspot_pro", log, data=data) == (5, 12, 5)
        part = self.write(tmp_path / "log.json", {"details": rows[:6]})
        right, n, says = log_count("screenspot_pro", part, data=data)
        assert (right, n, says) == (5, 12, 5)  # six are missing and count as wrong
        for wrong, words in [
            (rows + rows[:1], "second answer"),
            ([{**rows[0], "prompt_to_evaluate": "?"}], "no such"),
        ]:
            log = self.write(tmp_path / "log.json", {"details": wrong})
            with pytest.raises(UsageError, match=words):
                log_count("screenspot_pro", log, data=data)

    def test_a_broken_row_and_an_empty_file_are_named(self, tmp_path):
        row = {"image": "a", "question": "q", "ground_truth": [1, 2, 3], "extracted_answer": [1, 2, 3, 4]}
        with pytest.raises(BrokenRow, match=r"log\.json\[0\]"):
            log_count("refcoco", self.write(tmp_path / "log.json", {"results": [row]}))
        with pytest.raises(UsageError, match="empty"):
            peers.format_of(self.write(tmp_path / "log.json", []))

    def test_ref_l4_submissions_in_both_box_formats(self, tmp_path):
        rows = [{"id": str(n), "caption": "x", "bbox": [10, 10, 20, 20], "file_name": "a.jpg"} for n in range(2)]
        data = self.write(tmp_path / "ref-l4-test.json", rows)
        preds = [{"id": "0", "pred_bbox": [10, 10, 20, 20], "format": "xywh"},
                 {"id": "1", "pred_bbox": [10, 10, 30, 30], "format": "xyxy"}]  # fmt: skip
        right, n, _ = submission("ref_l4", self.write(tmp_path / "preds.json", preds), data, "pixel")
        assert (right, n) == (2, 2)

    def test_coco_results_are_gathered_per_image(self, tmp_path):
        content = {"images": [{"id": k, "file_name": "a.jpg", "width": 9, "height": 9} for k in (1, 2)],
                   "categories": [{"id": 7, "name": "cat"}],
                   "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 4, 4]}]}  # fmt: skip
        data = self.write(tmp_path / "instances_val2017.json", content)
        found = [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 4, 4], "score": 0.9}]
        right, n, figures = submission("coco", self.write(tmp_path / "preds.json", found), data, "pixel")
        assert (right, n, figures["AP"]) == (2, 2, pytest.approx(1.0))


@pytest.fixture(scope="module")
def whole(pytestconfig):
    """Finds a whole file below the folder of peer files, or skips."""
    folder = Path(pytestconfig.getini("peer_files"))
    folder = folder if folder.is_absolute() else ROOT / folder

    def find(pattern):
        found = sorted(folder.rglob(pattern)) if folder.is_dir() else []
        if not found:
            pytest.skip(f"{pattern} is not below {folder}")
        return found

    return find


class TestWholeFiles:
    def test_se_gui(self, whole):
        (path,) = whole("rec_results_android_studio_macos_8k_SFT_0.json")
        assert log_count("screenspot_pro", path, unit="unit", boundary="half_open") == (12, 80, 12)

    def test_omniparser(self, whole):
        (path,) = whole("logs_sspro_omniv2.json")
        assert log_count("screenspot_pro", path, boundary="half_open") == (625, 1581, 625)
        assert log_count("screenspot_pro", path)[0] == 630

    def test_aguvis(self, whole):
        (path,) = whole("aguvis.json")
        assert log_count("screenspot_pro", path) == (367, 1581, 367)

    def test_aguvis_against_the_annotations(self, whole):
        (path,) = whole("aguvis.json")
        data = whole("ScreenSpot_Pro_data")[0]
        assert log_count("screenspot_pro", path, data=data) == (367, 1581, 367)

    @pytest.mark.slow
    def test_vlm_r1(self, whole):
        paths = [p for p in whole("rec_results_*.json") if "REC-lora" in str(p)]
        assert len(paths) == 36
        for path in paths:
            right, n, says = log_count("refcoco", path, iou_op="gt")
            accuracy = json.loads(path.read_text(encoding="utf-8"))["accuracy"]
            assert (right, n) == (says, 2000), path
            assert 100 * right / n == pytest.approx(accuracy), path

    def test_moment_detr(self, whole):
        right, n, figures = submission(
            "qvhighlights", whole("sample_val_preds.jsonl")[0], whole("highlight_val_release.jsonl")[0]
        )
        assert (right, figures["correct@0.7"], n) == (836, 540, 1550)
        assert round(100 * right / n, 2) == 53.94
        assert round(100 * figures["correct@0.7"] / n, 2) == 34.84
        assert round(100 * figures["mAP"], 2) == 32.2
        # HIT@1 and highlight mAP as in the authors' sample_val_preds_metrics_raw.json
        expected = {"Fair": (66.45, 67.77), "Good": (64.45, 58.09), "VeryGood": (55.55, 35.65)}
        found = {level: (figures[f"HIT@1_{level}"] / n, figures[f"highlight_mAP_{level}"]) for level in expected}
        assert {level: (round(100 * a, 2), round(100 * b, 2)) for level, (a, b) in found.items()} == expected

    @pytest.mark.parametrize(
        ("benchmark", "name", "right", "n"),
        [
            ("screenspot_pro", "output_local/SSPro.json", 1046, 1581),
            ("screenspot_pro", "output_server/SSPro.jsonl", 1060, 1581),
            ("screenspot_v2", "output_local/SSV2.json", 1210, 1272),
            ("screenspot_v2", "output_server/SSV2.jsonl", 1207, 1272),
            ("osworld_g", "output_local/OS_G.json", 344, 564),
            ("osworld_g", "output_local/OS_G_Refine.json", 388, 564),
            ("mmbench_gui", "output_server/MMBench.jsonl", 3190, 3594),
        ],
    )
    def test_mai_ui(self, whole, benchmark, name, right, n):
        assert log_count(benchmark, whole(name)[0]) == (right, n, right)
