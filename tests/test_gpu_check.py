"""`make gpu-check`, in small: parts run, what is done is not run again, and what fails is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perf.gpu_check import PARTS

ROOT = Path(__file__).parents[1]


def check(*arguments):
    command = [sys.executable, ROOT / "perf/gpu_check.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_parts_run_in_small_and_only_once(tmp_path):
    """Those under DeepSpeed differ in their configuration, which tests/recipes/test_distributed.py runs."""
    parts = ["signals", "one", "vllm"]
    done = check("--shrunken", "--out", tmp_path, "--only", *parts)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()[1:]]
    states = {row["id"]: row["state"] for row in rows}
    assert states["signals"] == states["one"] == "ok"
    assert states["vllm"] == ("ok" if torch.cuda.is_available() else "not run")
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {PARTS[name].about} | {states[name]} |" in table for name in parts)
    (tmp_path / "table.md").unlink()
    again = check("--shrunken", "--out", tmp_path, "--only", *parts)
    assert again.returncode == 0
    assert (tmp_path / "table.md").read_text() == table


def test_another_checkout_or_size_does_not_go_on(tmp_path):
    (tmp_path / "parts.jsonl").write_text('{"header": {"device": "another", "torch": "1"}}\n')
    done = check("--shrunken", "--out", tmp_path, "--only", "vllm")
    assert done.returncode == 2
    assert "parts.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_whole_check_is_refused(tmp_path):
    done = check("--out", tmp_path)
    assert done.returncode == 2
    assert "--shrunken" in done.stderr
