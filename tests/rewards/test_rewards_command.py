"""`python -m rewards`: list, show with its heat map, score."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from grounding.errors import UsageError
from grounding.io import write_samples
from grounding.targets import Box
from rewards import REWARDS
from rewards.__main__ import main
from rewards.heat_map import HEIGHT, TARGET, WIDTH, draw_heat_map, has_heat_map, values
from tests.rewards.making import TARGET as BUTTON
from tests.rewards.making import a_sample, write


@pytest.fixture
def folder(tmp_path):
    write_samples(tmp_path / "val.jsonl", [a_sample(id="one"), a_sample(Box(0.7, 0.7, 0.9, 0.9), id="two")])
    lines = [
        {"id": "one", "completion": write(BUTTON)},
        {"id": "two", "completions": [write(BUTTON), "no idea"], "sizes": [[200, 100, 200, 100]]},
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return tmp_path


def score(folder, *more, rewards="iou,format"):
    given = [
        "--data",
        str(folder / "val.jsonl"),
        "--completions",
        str(folder / "answers.jsonl"),
        "--rewards",
        rewards,
    ]
    return main(["score", *given, "--expect", "box", *more])


def test_the_command_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "rewards", "list"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in REWARDS)


def test_show_prints_formula_range_and_source(capsys):
    assert main(["show", "gaussian_point"]) == 0
    text = capsys.readouterr().out
    assert "exp(-((dx / sx)^2" in text
    assert "[0, 1]" in text
    assert "GUI-G2" in text
    assert "alpha=0.5" in text


def test_show_writes_a_heat_map(tmp_path, capsys):
    assert main(["show", "iou", "--plot", str(tmp_path / "iou.png")]) == 0
    assert Image.open(tmp_path / "iou.png").size == (WIDTH, HEIGHT)


def test_every_reward_can_be_shown(capsys):
    assert all(main(["show", name]) == 0 for name in REWARDS)


def test_the_heat_map_is_hottest_on_the_target():
    for name in ("iou", "click_in_box", "gaussian_point", "matched_iou", "ranked_points"):
        assert has_heat_map(REWARDS.get(name))
        grid = values(REWARDS.get(name))
        row, column = np.unravel_index(np.argmax(grid), grid.shape)
        x, y = (column + 0.5) / grid.shape[1], (row + 0.5) / grid.shape[0]
        assert TARGET.x1 <= x <= TARGET.x2, name
        assert TARGET.y1 <= y <= TARGET.y2, name
        assert np.ptp(grid) > 0, name


def test_a_heat_map_runs_from_blue_to_red():
    picture = np.asarray(draw_heat_map(REWARDS.get("click_in_box"))).astype(int)
    inside = picture[int(TARGET.y1 * HEIGHT) + 12, int(TARGET.x1 * WIDTH) + 12]
    outside = picture[5, 5]
    assert inside[0] > inside[2]
    assert outside[2] > outside[0]


def test_no_heat_map_of_what_is_not_about_a_place(capsys):
    assert main(["show", "overlong", "--plot", "never.png"]) == 2
    assert "no heat map" in capsys.readouterr().err
    with pytest.raises(UsageError):
        draw_heat_map(REWARDS.get("format"))


def test_score_prints_means_and_writes_values(folder, capsys):
    assert score(folder, "--out", str(folder / "scores.jsonl")) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert table["iou"] == ["0.3333", "0.0000", "1.0000", "3"]
    assert table["format"] == ["0.6667", "0.0000", "1.0000", "3"]
    records = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [r["id"] for r in records] == ["one", "two", "two"]
    assert [r["total"] for r in records] == pytest.approx([2.0, 1.0, 0.0])


def test_a_dialect_in_pixels_needs_the_size_the_model_was_shown(folder, capsys):
    answers = folder / "answers.jsonl"
    line = {"id": "one", "completion": '{"bbox_2d": [1, 2, 3, 4]}'}
    answers.write_text(json.dumps(line) + "\n")
    assert score(folder, "--dialect", "qwen2_5_vl", rewards="iou") == 1
    assert "answers.jsonl:1: dialect 'qwen2_5_vl' answers in pixels" in capsys.readouterr().err
    answers.write_text(json.dumps({**line, "sizes": [[200, 100]]}) + "\n")
    assert score(folder, "--dialect", "qwen2_5_vl", rewards="iou") == 0


def test_score_takes_a_recipes_list(folder, capsys):
    (folder / "rewards.yaml").write_text(
        "rewards:\n  - {name: iou, weight: 3}\n  - {name: iou, kinds: [point], label: none}\n"
    )
    assert score(folder, rewards=str(folder / "rewards.yaml")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["none", "nan", "nan", "nan", "0"]
    assert lines[3].split()[:4] == ["weighted", "sum", "1.0000", "0.0000"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "answers.jsonl:1: not a JSON object"),
        ("[" * 100_000, "answers.jsonl:1: not a JSON object"),
        ("[]", "answers.jsonl:1: not a JSON object"),
        ('{"id": "one"}', "answers.jsonl:1: key 'completion' is missing"),
        ('{"completion": "x"}', "answers.jsonl:1: key 'id' is missing"),
        ('{"id": "three", "completion": "x"}', "answers.jsonl:1: the data has no sample 'three'"),
        ('{"id": "one", "completion": 3}', "answers.jsonl:1: `completion` is a text"),
        ('{"id": "one", "completion": "x", "sizes": [[1]]}', "answers.jsonl:1: 'sizes' is not"),
        ('{"id": "one", "completion": "x", "sizes": [[0, 9]]}', "answers.jsonl:1: 'sizes' is not"),
    ],
)
def test_a_broken_line_is_named(folder, capsys, line, message):
    (folder / "answers.jsonl").write_text(line)
    assert score(folder) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rewards", "message"),
    [("iuo", "did you mean 'iou'"), ("no.yaml", "no.yaml: no such file"), ("", "the list is empty")],
)
def test_wrong_usage_exits_with_2(folder, capsys, rewards, message):
    assert score(folder, rewards=rewards) == 2
    assert message in capsys.readouterr().err


def test_broken_yaml_and_missing_files(folder, capsys):
    (folder / "bad.yaml").write_text("rewards: [")
    assert score(folder, rewards=str(folder / "bad.yaml")) == 2
    (folder / "answers.jsonl").write_text("")
    assert score(folder) == 2
    (folder / "answers.jsonl").unlink()
    assert score(folder) == 2
    errors = capsys.readouterr().err.splitlines()
    assert ["not YAML" in errors[0], "no completions" in errors[1], "no such file" in errors[2]] == [True] * 3
    assert score(folder, "--out", str(folder / "nowhere" / "x.jsonl")) in (1, 2)
