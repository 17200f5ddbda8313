"""No command touches a file of the user's: beside, inside, above or in the place of what it writes, killed or not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from benchmarks.harness import cli as evaluation
from benchmarks.miniwob.__main__ import main as miniwob
from credit.__main__ import main as credit
from data_prep.__main__ import main as data_prep
from grounding.errors import FoveaError
from grounding.folders import LOCK_NAME, STAGING
from recipes.pretrain import main as pretrain
from reports.__main__ import main as reports
from rewards.__main__ import main as rewards
from tests.data_prep.helpers_data import write_json, write_jsonl, write_picture
from train import main as train

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "assets" / "fovea-tiny"
ROW = {"image": "a.png", "problem": "the red thing beside the door", "solution": [1, 1, 20, 20]}

Command = Callable[[Path, str], int]


def _data(*words: str) -> Command:
    def run(out: Path, seed: str) -> int:
        base = out_base(out)
        return data_prep([*(word.format(base=base) for word in words), "--out", str(out), "--seed", seed])

    return run


def out_base(out: Path) -> Path:
    """The sandbox: the folder with `raw`, `set` and `run` that `out` is or lies in."""
    return next(path for path in (out, *out.parents) if (path / "raw" / "a.json").exists())


def _scores(out: Path, _: str) -> int:
    base = out_base(out)
    return rewards(["score", "--data", f"{base}/set/train.jsonl", "--completions", f"{base}/completions.jsonl",
                    "--rewards", "iou", "--out", str(out)])  # fmt: skip


def _evaluate(out: Path, _: str) -> int:
    base = out_base(out)
    return evaluation.main(
        ["--benchmark", "screens", "--data", f"{base}/set", "--split", "train", "--dialect", "qwen3_vl",
         "--predictions", f"{base}/said.jsonl", "--out", str(out)]
    )  # fmt: skip


FOLDERS: dict[str, Command] = {
    "vlm_r1": _data("vlm_r1", "--root", "{base}/raw", "--annotations", "a.json", "--image-folder", "images"),
    "overwrite": _data("vlm_r1", "--root", "{base}/raw", "--annotations", "a.json", "--image-folder", "images",
                       "--overwrite"),
    "curate": _data("curate", "--root", "{base}/set", "--overwrite"),
    "cot": _data("cot", "--root", "{base}/set", "--form", "grounded", "--overwrite"),
    "screens": _data("screens", "--train-screens", "2", "--val-screens", "0", "--test-screens", "0", "--overwrite"),
    "view": lambda out, _: data_prep(["view", "--root", f"{out_base(out)}/set", "--out", str(out)]),
    "eval": _evaluate,
}  # fmt: skip
FILES: dict[str, Command] = {
    "reports": lambda out, _: reports([f"{out_base(out)}/run", "--out", str(out)]),
    "rewards score": _scores,
    "rewards show": lambda out, _: rewards(["show", "iou", "--plot", str(out)]),
    "credit attention": lambda out, _: credit(
        ["attention", "--model", str(MODEL), "--data", f"{out_base(out)}/set/train.jsonl", "--out", str(out)]
    ),
}


def _train(out: Path, seed: str) -> int:
    base = out_base(out)
    recipe = base.parent / f"{base.name}.yaml"
    recipe.write_text(json.dumps({
        "name": out.name, "output": str(out.parent), "data": f"{base}/set",
        "model": {"path": str(MODEL), "dialect": "fovea", "grammar": "bare"},
        "wandb": "disabled", "seed": int(seed),
        "stages": [{"kind": "sft", "args": {"max_steps": 1, "per_device_train_batch_size": 2}}],
    }))  # fmt: skip
    return train([str(recipe)])


def _miniwob_benchmark(out: Path, seed: str) -> int:
    episodes = out_base(out).parent / "episodes"
    return miniwob(["--policy", "oracle", "--data", str(episodes), "--out", str(out), "--seed", seed,
                    "--per-task", "1", "--tasks", "click-test"])  # fmt: skip


def _show(out: Path, _: str) -> int:
    return credit(["show", "--model", str(MODEL), "--data", f"{out_base(out)}/set/train.jsonl", "--limit", "2",
                   "--response", "(500,500)", "--horizon", "1", "4", "--out", str(out)])  # fmt: skip


# Seconds a run, so that each is tried on every place once instead of on many random ones.
SLOW: dict[str, Command] = {
    "web": _data("web", "--root", "{base}/pages", "--screens", "320x240", "--max-rejects", "1"),
    "miniwob": _data("miniwob", "--per-task", "1", "--val-per-task", "0", "--tasks", "click-test"),
    "miniwob benchmark": _miniwob_benchmark,
    "credit show": _show,
    "train": _train,
    "pretrain": lambda out, seed: pretrain(["--out", str(out), "--minutes", "0.01", "--seed", seed]),
}  # fmt: skip
OVERWRITES = ("overwrite", "curate", "cot", "screens")
PLACES = (
    "out", "a/b/out", ".", "raw", "raw/images", "raw/new", "set", "set/view", "set/view/x", "run", "said.jsonl",
    "link", "link/images", "raw/a.json", "set/train.jsonl", "file",
)  # fmt: skip
NAMES = (
    "train.jsonl", "val.jsonl", "rejects.jsonl", "manifest.json", "images/a.png", "images/mine.png", "index.html",
    "data/index.js", "data/rows-0.js", "results.jsonl", "metrics.json", "generations.jsonl", "report.html",
    "notes.txt", ".convert/state.json", ".convert/notes.txt", ".fovea.jsonl", ".fovea.next.jsonl",
    ".fovea.new/images/a.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        for image in ("a.png", "b.png"):
            write_picture(base / "raw/images" / image, 40, 30)
        write_json(base / "raw/a.json", [ROW, {**ROW, "image": "b.png", "problem": "a blue square on the left"}])
        assert FOLDERS["vlm_r1"](base / "set", "0") == 0
        ids = [json.loads(line)["id"] for line in (base / "set/train.jsonl").read_text().splitlines()]
        write_jsonl(base / "said.jsonl", [{"id": id_, "output": "[1, 1, 20, 20]"} for id_ in ids])
        write_jsonl(base / "completions.jsonl", [{"id": id_, "completion": "[1, 1, 20, 20]"} for id_ in ids])
        write_json(base / "run/environment.json", {})
        (base / "run/resolved.yaml").write_text("name: run\n")
        (base / "link").symlink_to(base / "raw")
        yield base


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below `folder`; whatever a command may add is not its matter."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and path.name != LOCK_NAME:
            found[name] = path.read_bytes()
    return found


def run(command: Command, out: Path, seed: str = "0") -> int:
    try:
        return command(out, seed)
    except SystemExit as error:
        return int(error.code or 0)
    except FoveaError as error:  # which eval.py prints
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


@settings(max_examples=50, phases=[Phase.explicit, Phase.generate], deadline=None, derandomize=True)
@given(
    name=st.sampled_from([*FOLDERS, *(name for name in FILES if not name.startswith("credit"))]),
    place=st.sampled_from(PLACES),
    mine=st.dictionaries(st.sampled_from(NAMES), st.binary(min_size=1, max_size=20), max_size=4),
)  # fmt: skip
def test_nothing_of_the_users_changes_wherever_a_command_writes(sandbox, name, place, mine):
    assume(place != "set" or name not in OVERWRITES)  # there it is what was asked for
    base = sandbox.parent / "trial"
    shutil.copytree(sandbox, base, symlinks=True)
    try:
        command, out = {**FOLDERS, **FILES}[name], base / place
        if place == "file":
            out.write_bytes(b"a file of the user's")
        elif not out.exists():
            put(out, mine)
        before = tree(base)
        for seed in ("0", "1"):
            assert run(command, out, seed) in (0, 1, 2)
            after = tree(base)
            assert {path: after.get(path) for path in before} == before, (name, place, seed)
    finally:
        shutil.rmtree(base)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_command_changes_nothing_either(sandbox, name, tmp_path, chromium):
    for number, place in enumerate(PLACES):
        base = tmp_path / f"base{number}"
        shutil.copytree(sandbox, base, symlinks=True)
        (base / "pages").mkdir()
        (base / "pages/a.html").write_text("<button>Save the file</button>")
        out = base / place
        if place == "file":
            out.write_bytes(b"a file of the user's")
        elif not out.exists() and number % 2:
            put(out, dict.fromkeys(NAMES, b"mine"))
        before = tree(base)
        assert run(SLOW[name], out) in (0, 1, 2)
        after = tree(base)
        assert {path: after.get(path) for path in before} == before, place
    assert run(SLOW[name], tmp_path / "base0/new") == 0  # it can do its work


def put(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


@pytest.mark.parametrize("name", FOLDERS)
def test_files_put_into_our_folders_survive_the_next_run(sandbox, tmp_path, name):
    base, command = tmp_path / "base", FOLDERS[name]
    shutil.copytree(sandbox, base, symlinks=True)
    out = base / "out"
    assert run(command, out) == 0
    made = tree(out)
    mine = {path: b"mine" for path in NAMES if path not in made and not path.startswith((STAGING, ".fovea"))}
    put(out, mine)
    assert run(command, out, "1") in (0, 2)
    after = tree(out)
    assert {path: after.get(path) for path in mine} == mine


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_users_is_never_written_over(sandbox, name, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(sandbox, base, symlinks=True)
    for content in (b"mine", b"mine\n", b'{"id": "a"}\n', b"<html>"):
        (base / "file").write_bytes(content)
        assert run(FILES[name], base / "file") == 2
        assert "file" in capsys.readouterr().err
        assert (base / "file").read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vlm_r1", "curate", "view"])
def test_killed_at_any_moment(sandbox, name, tmp_path):
    base, chance = tmp_path / "base", random.Random(name)
    shutil.copytree(sandbox, base, symlinks=True)
    out, raw = base / "out", base / "raw"
    arguments = {
        "vlm_r1": ["vlm_r1", "--root", raw, "--annotations", "a.json", "--image-folder", "images", "--overwrite"],
        "curate": ["curate", "--root", base / "set", "--overwrite"],
        "view": ["view", "--root", base / "set"],
    }[name]  # fmt: skip
    assert run({"vlm_r1": FOLDERS["overwrite"]}.get(name) or FOLDERS[name], out) == 0
    put(out, {"images/mine.png": b"mine", "notes.txt": b"mine"})
    before = {path: content for path, content in tree(base).items() if not path.startswith("out/")}
    for seed in range(3):
        seeds = [] if name == "view" else ["--seed", str(seed + 1)]
        command = [sys.executable, "-m", "data_prep", *arguments, "--out", out, *seeds]
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.DEVNULL)
        while not (out / LOCK_NAME).exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = tree(base)
        assert {path: found.get(path) for path in before} == before
        assert found["out/images/mine.png"] == found["out/notes.txt"] == b"mine"
    assert run({"vlm_r1": FOLDERS["overwrite"]}.get(name) or FOLDERS[name], out) == 0
