"""What the user is told: one line and an exit code."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import train
from grounding.errors import BrokenRow, FoveaError, UsageError
from recipes.callbacks import read_metrics
from recipes.config import save_recipe
from recipes.exit_codes import explain
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("no such reward"), 2, "no such reward"),
        (FoveaError("endpoint is dead"), 1, "endpoint is dead"),
        (BrokenRow("a.jsonl:3", "image missing"), 1, "a.jsonl:3: image missing"),
        (KeyboardInterrupt(), 1, "the same command goes on"),
        (OSError(errno.ENOSPC, "No space left on device", "x/model.safetensors"), 1, "disk is full (x/model"),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            1,
            "disk is full",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), 1, "per_device_train_batch_size"),
        (
            RuntimeError(
                "Caught BrokenRow in DataLoader worker process 0.\nTrace\ngrounding.errors.BrokenRow: a:3: bad\n"
            ),
            1,
            "a:3: bad",
        ),
        (ValueError("a bug of ours"), 1, None),
        (RuntimeError("Caught ValueError in DataLoader worker process 0.\nValueError: bug"), 1, None),
    ],
)
def test_errors_become_one_line_and_an_exit_code(error, code, says):
    line, exit_code = explain(error)
    assert exit_code == code
    if says is None:
        assert line is None
    else:
        assert says in line
        assert "\n" not in line


def test_a_full_disk_inside_another_error_is_found():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not write the checkpoint") from error
    except RuntimeError as error:
        assert "disk is full" in explain(error)[0]


@pytest.fixture
def recipe_file(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data", count=4)
    recipe = recipe_of(model, data, tmp_path, sft={"args": {"max_steps": 1, "per_device_train_batch_size": 4}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


def test_a_full_disk_is_one_line_and_costs_no_step(recipe_file, capsys, monkeypatch):
    def no_room(folder, model, processor):
        Path("/dev/full").write_text("a model")  # a real device without room

    with monkeypatch.context() as patch:
        patch.setattr("recipes.merge.save_policy", no_room)
        assert train.main([str(recipe_file)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: the disk is full")
    assert not (recipe_file.parent / "run/0-sft/DONE").exists()
    assert train.main([str(recipe_file)]) == 0
    assert [line["step"] for line in read_metrics(recipe_file.parent / "run/0-sft/metrics.jsonl")] == [1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_in_one_line(recipe_file, capsys, workers):
    (recipe_file.parent / "data/images/2.png").write_bytes(b"not an image")
    assert train.main([str(recipe_file), f"stages.0.args.dataloader_num_workers={workers}"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "images/2.png" in last


def test_usage_errors_exit_with_two_and_leave_nothing_behind(recipe_file, capsys):
    for override in (
        "stages.0.args.learning_rat=1",
        "model.dialect=klingon",
        "stages.0.kind=sfft",
        "stages.0.data.path=x",
    ):
        assert train.main([str(recipe_file), override]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ")
    assert train.main(["no_such_recipe.yaml"]) == 2
    assert not (recipe_file.parent / "run").exists()


def test_help_is_quick_and_names_the_commands():
    done = subprocess.run(
        [sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "--dry-run" in done.stdout
    assert "accelerate launch" in done.stdout
    code = (
        "import sys, train\ntry:\n    train.main(['--help'])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.strip().endswith("False")


def test_a_run_folder_keeps_no_secrets(recipe_file, monkeypatch):
    secret = "hf_THIS_IS_A_SECRET"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, secret)
    assert train.main([str(recipe_file)]) == 0
    for path in (recipe_file.parent / "run").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    environment = json.loads((recipe_file.parent / "run/environment.json").read_text())
    assert environment["processes"] == 1
