"""What a newcomer touches first: make and its targets, and the script that continuous integration runs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (
    "help",
    "install",
    "install-dev",
    "quickstart",
    "test",
    "test-torchvision",
    "gpu-check",
    "lint",
    "format",
    "clean",
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with the Makefile and nothing installed."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_make_alone_lists_every_target():
    listed = re.findall(r"^  make ([a-z-]+)", make().stdout, re.MULTILINE)
    assert listed == list(TARGETS)


@pytest.mark.parametrize("target", ["install", "quickstart", "test", "test-torchvision", "lint"])
def test_a_fresh_clone_makes_its_environment_first(clone, target):
    planned = make("--dry-run", target, folder=clone).stdout
    assert planned.index("-m venv .venv") < planned.index("pip install")
    assert planned.index('"torch==') < planned.index("-e ")  # DeepSpeed's build imports it


def test_an_installed_clone_installs_nothing(clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".fovea-torch", ".fovea-core", ".fovea-dev"):
        (clone / ".venv" / name).touch()
    assert "pip install" not in make("--dry-run", "test", folder=clone).stdout


def test_quickstart_goes_from_data_to_report():
    planned = make("--dry-run", "quickstart").stdout
    steps = (
        "-m data_prep screens",
        "train.py configs/recipes/quickstart.yaml",
        "eval.py",
        "-m reports runs/quickstart",
    )
    places = [planned.index(step) for step in steps]
    assert places == sorted(places)


def test_the_wrong_python_is_one_line(clone):
    done = make("PYTHON=", "install", folder=clone)
    assert done.returncode != 0
    assert "Fovea needs Python 3.11 or 3.12" in done.stderr
    assert "Traceback" not in done.stderr


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert script.rstrip().splitlines()[-2:] == ["make test", "make test-torchvision"]
    assert subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=False).returncode == 0
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["train.py", "configs/recipes/no_such_recipe.yaml"], 2),
        (["eval.py", "--benchmark", "screenspt_pro", "--model", "x", "--data", "y", "--out", "z"], 2),
        (["-m", "data_prep", "refcoc", "--out", "x"], 2),
        (["-m", "reports", "runs/no_such_run"], 2),
        (["-m", "rewards", "show", "iuo"], 2),
        (
            [
                "train.py",
                "configs/recipes/your_data.yaml",
                "model.path=runs/nowhere",
                "data=assets/example/labels.csv",
            ],
            2,
        ),
        (["train.py", "configs/recipes/your_data.yaml", "model.path=Qwen/Qwen9-VL"], 2),
        (["eval.py", "--model", "Qwen/Qwen9-VL", "--data", "assets/example", "--out", "o"], 2),
        (["predict.py", "--model", "runs/nowhere", "--image", "assets/example/0.png", "x"], 2),
        (["-m", "credit", "show", "--model", "Qwen/Qwen9-VL", "--data", "README.md"], 2),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_a_misspelt_name_is_one_line_within_two_seconds(command, code, tmp_path):
    """Without a network, imports included; seconds of the processor: a loaded machine takes longer by the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
