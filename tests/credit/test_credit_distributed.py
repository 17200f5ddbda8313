"""Credit and attention rewards on two processes that share prompts: every weight as in one plain process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.tiny import make_data, make_model

ROOT = Path(__file__).resolve().parents[2]


def step(launcher: list[str], folder: Path, model: Path, data: Path, each: int) -> list[dict[str, Any]]:
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        *launcher,
        "tests.credit.zero_step",
        str(model),
        str(data),
        str(folder),
        str(each),
        "shared" if launcher else "plain",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("zero")
    return make_model(folder / "model", "qwen3_vl"), make_data(folder / "data", count=2)


@pytest.fixture(scope="module")
def plain(places: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    (alone,) = step([], tmp_path_factory.mktemp("plain") / "out", *places, each=4)
    assert not alone["distributed"]
    return {str(one["ids"]): one for one in alone["responses"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("config", ["cpu_zero2", "cpu_zero3"])
def test_two_processes_under_deepspeed_give_the_plain_weights(
    config: str, places: Any, plain: Any, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    launcher = ["accelerate.commands.launch", "--config_file", f"configs/accelerate/{config}.yaml"]
    parts = step([*launcher, "--main_process_port", "0", "--module"], tmp_path / "out", *places, each=2)
    assert [part["distributed"] for part in parts] == [True, True]
    found = [one for part in parts for one in part["responses"]]
    assert sorted(str(one["ids"]) for one in found) == sorted(plain)
    for one in found:
        expected = plain[str(one["ids"])]
        assert max(abs(weight - 1) for weight in expected["weights"]) > 0.1
        np.testing.assert_allclose(one["weights"], expected["weights"], rtol=1e-4)
        for name in ("attention", "general"):
            assert np.sum(expected[name]) > 0
            np.testing.assert_allclose(one[name], expected[name], rtol=1e-4, atol=1e-7)
