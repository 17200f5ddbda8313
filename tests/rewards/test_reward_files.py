"""A reward of a file of one's own: named by its path, tried on a sample, and an error that says where it is."""

from __future__ import annotations

import pytest

from grounding.errors import FoveaError, UsageError
from grounding.io import write_samples
from rewards import REWARDS
from rewards.__main__ import main
from rewards.compose import build_rewards
from rewards.trial import try_rewards
from tests.rewards.making import TARGET, a_sample
from tests.rewards.test_trial import row

GOOD = """
def inside(answer, sample, *, margin: float = 0.1) -> float:
    return float(answer.ok and sample.target.x1 + margin < 1)


def by_length(completions, **columns):
    return [float(len(text)) if isinstance(text, str) else 1.0 for text in completions]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


@pytest.fixture
def data(tmp_path):
    write_samples(tmp_path / "set" / "train.jsonl", [a_sample(TARGET)])
    return tmp_path / "set"


def test_a_file_is_run_once_and_gives_its_functions(file):
    first, second = (REWARDS.get(f"{file}:{name}") for name in ("inside", "by_length"))
    assert first.__module__ == second.__module__ and first is REWARDS.get(f"{file}:inside")
    (function,) = build_rewards([{"name": f"{file}:inside", "params": {"margin": 0.2}}], "qwen3_vl", "think")
    (trial,) = try_rewards([function], "qwen3_vl", "think", [row()])
    assert (trial.reward, trial.right, trial.unreadable) == ("inside", 1.0, 0.0)


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (GOOD, "insdie", r"mine\.py: has no 'insdie'; did you mean 'inside'"),
        ("def inside(:\n", "inside", r"line 1: SyntaxError"),
        ("import json\n\njson.loads('{')\n", "inside", r"line 3: JSONDecodeError"),
        (None, "inside", r"mine\.py:inside: no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, name, told):
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=told):
        build_rewards([f"{tmp_path}/mine.py:{name}"], "qwen3_vl")


@pytest.mark.parametrize(
    "content",
    [
        "def bad(answer, sample):\n    x = 1\n    return sample.meta['colour'] + x\n",
        "def bad(completions, **columns):\n    x = 1\n    return [columns['sample'][0].meta['colour']]\n",
        "import json\ndef bad(answer, sample):\n    return json.loads('{colour')\n",  # a library raises
    ],
)
def test_an_error_names_reward_line_and_sample(tmp_path, content):
    (tmp_path / "mine.py").write_text(content)
    functions = build_rewards([f"{tmp_path}/mine.py:bad"], "qwen3_vl", "think")
    with pytest.raises(FoveaError, match=r"mine\.py:bad' raised \w+.*at mine\.py:3") as error:
        try_rewards(functions, "qwen3_vl", "think", [row()])
    assert "'one'" in str(error.value) and "\n" not in str(error.value)


def test_try_tells_what_each_answer_earns(file, data, capsys):
    assert main(["try", "iou", "--data", str(data), "--completion", "nothing", "--grammar", "bare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["right", "1.0000"],
        ["wrong", "0.0000"],
        ["unreadable", "0.0000"],
        ["yours", "0.0000"],
    ]
    assert "bbox_2d" in lines[1]
    assert main(["try", f"{file}:inside", "--data", str(data), "--params", "{margin: 2}"]) == 0
    assert "right         0.0000" in capsys.readouterr().out
    assert main(["try", "iou", "--data", str(data), "--sample", "nobody"]) == 2
    assert "--sample nobody" in capsys.readouterr().err
