import json
import math
import os

import pytest

from grounding.errors import UsageError
from reports.__main__ import main
from reports.page import around, build
from reports.read_run import read_run


def test_a_complete_run_is_read_in_order(workshop):
    run = read_run(workshop.run())
    assert [stage.name for stage in run.stages] == ["0-sft", "1-grpo"]
    assert [evaluation.title for evaluation in run.evaluations] == ["Base", "SFT", "GRPO"]
    assert all(stage.done for stage in run.stages)
    assert run.notes == ()


def test_logged_nulls_and_text_are_gaps(workshop):
    run = workshop.run()
    (run / "0-sft" / "metrics.jsonl").write_text(
        '{"step": 1, "loss": null}\n{"step": 2, "loss": "x"}\n{"step": 3, "loss": NaN}\n'
    )
    steps, values = read_run(run).stages[0].curve("loss")
    assert steps == [1, 2, 3]
    assert all(math.isnan(value) for value in values)
    assert read_run(run).stages[0].logged() == ["step"]


def test_a_line_cut_off_by_a_kill_is_left_out_and_said(workshop):
    run = workshop.run()
    with (run / "1-grpo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "rewa')
    found = read_run(run)
    assert len(found.stages[1].rows) == 100
    assert found.notes == ("1-grpo/metrics.jsonl:101: not a JSON object; 1 such lines are left out",)


def test_rows_that_are_no_results_are_left_out_and_said(workshop):
    run = workshop.run()
    path = run / "eval" / "grpo" / "results.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    row["prediction"]["boxes"] = [[0.1, 0.2, "x", 0.4]]
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n[1, 2]\n" + json.dumps({"id": "q1", "correct": "yes"}) + "\n")
    found = read_run(run)
    assert len(found.evaluations[-1].rows) == 60
    assert any("2 rows are not as eval.py writes them" in note for note in found.notes)


def test_the_evaluations_around_a_stage(workshop):
    run = read_run(workshop.run())
    before, after = around(run, run.stages[1])
    assert (before.label, after.label) == ("sft", "grpo")


def test_final_stands_for_the_last_stage(workshop):
    folder = workshop.run()
    (folder / "eval" / "grpo").rename(folder / "eval" / "final")
    run = read_run(folder)
    assert [e.label for e in run.evaluations] == ["base", "sft", "final"]
    assert [e.label for e in around(run, run.stages[1])] == ["sft", "final"]


def test_baselines_come_first_and_several_benchmarks_are_told_apart(workshop):
    folder = workshop.run()
    rows = [workshop.result(i, False) for i in range(60)]
    workshop.evaluation(folder, "random", rows)
    workshop.evaluation(folder, "miniwob/sft", rows)
    run = read_run(folder)
    assert [e.title for e in run.evaluations] == ["random", "Base", "miniwob · SFT", "SFT", "GRPO"]
    assert "+55.0 points over Base" in build(folder).read_text()


def test_image_folder_is_found_from_the_run_folder(workshop, monkeypatch):
    folder = workshop.run()
    metrics = folder / "eval" / "grpo" / "metrics.json"
    metrics.write_text(json.dumps({"benchmark": "screens", "data": "data"}))  # as given on eval.py's command line
    monkeypatch.chdir("/")
    assert read_run(folder).evaluations[-1].image_root == workshop.data


@pytest.mark.parametrize("missing", ["eval", "resolved.yaml", "environment.json", "0-sft", "1-grpo"])
def test_a_partial_run_still_gives_a_page(workshop, missing):
    run = workshop.run()
    path = run / missing
    path.rename(run.parent / "elsewhere")
    assert build(run).read_text().rstrip().endswith("</html>")


def test_an_empty_metrics_file_and_an_unfinished_stage(workshop):
    run = workshop.run()
    (run / "1-grpo" / "metrics.jsonl").write_text("")
    (run / "1-grpo" / "DONE").unlink()
    page = build(run).read_text()
    assert "1-grpo: not finished" in page
    assert "Nothing was logged for this stage" in page


def test_no_run_folder_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(UsageError, match="no such run folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UsageError, match="not a run folder"):
        read_run(tmp_path)
    assert main([str(tmp_path / "nothing")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_page_that_cannot_be_written_is_one_line(workshop, capsys):
    assert main([str(workshop.run()), "--out", "/proc/report.html"]) == 1
    assert capsys.readouterr().err.startswith("error: /proc/report.html: cannot be written")


def test_a_file_of_the_users_is_not_written_over(workshop, tmp_path, capsys):
    mine = tmp_path / "notes.html"
    mine.write_text("<html>mine")
    assert main([str(workshop.run()), "--out", str(mine)]) == 2
    assert "notes.html: exists and was not made by this command" in capsys.readouterr().err
    assert mine.read_text() == "<html>mine"
    for _ in range(2):
        assert main([str(workshop.run()), "--out", str(tmp_path / "report.html")]) == 0


def test_evaluations_are_called_what_they_are(workshop):
    run = workshop.run()
    for label, split in (("base", "train"), ("sft", "test")):
        path = run / "eval" / label / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "title": "mine", "split": split}))
    first, second = (next(e for e in read_run(run).evaluations if e.label == label) for label in ("base", "sft"))
    assert (first.benchmark_title, second.benchmark_title) == ("mine, train", "mine, test")
    assert first.benchmark != second.benchmark
    assert "held-out" not in build(run).read_text()


def test_files_that_would_block_or_are_nested_too_deeply_are_left_out_and_said(workshop):
    run = workshop.run()
    (run / "eval/base/results.jsonl").unlink()
    os.mkfifo(run / "eval/base/results.jsonl")
    with (run / "eval/sft/results.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    path = run / "eval/sft/metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_root": "x" * 5000, "data": "x" * 5000}))
    with (run / "0-sft/metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 1' + "0" * 400 + "}\n")
    notes = read_run(run).notes
    assert "base/results.jsonl: results.jsonl is no regular file" in notes
    assert any(note.startswith("sft/results.jsonl:61: not a JSON object") for note in notes)
    assert build(run).is_file()


def test_one_evaluation_is_shown_by_itself(workshop, capsys):
    folder = workshop.run() / "eval" / "sft"
    read = read_run(folder)
    assert [one.label for one in read.evaluations] == ["sft"] and len(read.evaluations[0].rows) == 60
    assert not read.stages and not read.notes and read.evaluations[0].image_root == workshop.data
    assert main([str(folder)]) == 0
    assert "the red square number 0" in (folder / "report.html").read_text()
