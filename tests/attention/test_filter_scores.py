"""`python -m credit attention`: how well attention meets the target, for curation to filter by."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attention.maps import target_scores
from credit.__main__ import main
from data_prep.__main__ import main as data_prep
from data_prep.screens.generated import example
from grounding.io import write_samples
from grounding.journal import read_journal

MODEL = "assets/fovea-tiny"


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screens")
    (folder / "images").mkdir()
    samples = []
    for index in range(12):
        sample, image = example(index, seed=0, split="test", difficulty=3)
        (folder / sample.images[0].path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / sample.images[0].path)
        samples.append(sample)
    write_samples(folder / "train.jsonl", samples)
    return folder


def test_the_figures_by_hand():
    attention = np.array([0.1, 0.4, 0.2, 0.1])
    scores = target_scores(attention, np.array([0.0, 0.5, 1.0, 0.0]))
    assert scores == pytest.approx({"peak": 1.0, "inside": (0.5 * 1 + 1 * 0.5) / 1.5, "overall": 0.5})
    scores = target_scores(attention, np.array([1.0, 0.0, 0.0, 0.0]))
    assert scores == pytest.approx({"peak": 0.25, "inside": 0.25, "overall": 0.5})
    assert target_scores(np.zeros(4), np.ones(4)) == {"peak": 0.0, "inside": 0.0, "overall": 0.0}
    assert target_scores(attention, np.zeros(4))["peak"] == 0.0


def test_a_trained_model_looks_at_the_target_and_curation_keeps_what_it_looks_at(screens, tmp_path):
    scores = tmp_path / "scores.jsonl"
    command = ["attention", "--model", MODEL, "--data", str(screens / "train.jsonl"), "--out", str(scores)]
    options = ["--max-new-tokens", "64", "--batch-size", "4"]
    assert main([*command, *options, "--limit", "5"]) == 0
    with scores.open("a") as file:
        file.write('{"id": "cut o')  # as a kill leaves it
    assert main([*command, *options]) == 0
    rows = list(read_journal(scores))
    assert len({row["id"] for row in rows}) == len(rows) == 12
    looks = [row for row in rows if row["peak"] > 0.2 and row["inside"] > row["overall"]]
    assert len(looks) >= 10
    rows[0].update(peak=0.1)
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "curated"
    assert data_prep(["curate", "--root", str(screens), "--out", str(out), "--attention", str(scores)]) == 0
    kept = {json.loads(line)["id"] for line in (out / "train.jsonl").read_text().splitlines()}
    assert rows[0]["id"] not in kept
    assert kept <= {row["id"] for row in rows if row["inside"] > row["overall"]}
    assert kept


def test_a_file_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "scores.jsonl").write_text('{"score": 1}\n')
    data = tmp_path / "train.jsonl"
    data.touch()
    assert main(["attention", "--model", MODEL, "--data", str(data), "--out", str(tmp_path / "scores.jsonl")]) == 2
    assert "scores.jsonl: is not a file of this command" in capsys.readouterr().err
    assert (tmp_path / "scores.jsonl").read_text() == '{"score": 1}\n'
