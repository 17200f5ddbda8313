"""Runs of an experiment, one an arm and seed: each done once, whatever stops it, however many processes share them.

OUT/ARM--SEED.json    a finished run, one line
OUT/ARM--SEED.lock    held by the process that is at it
OUT/work/ARM--SEED/   its run folder and log; where it was stopped, the next call goes on
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from omegaconf import OmegaConf
from scipy.stats import t as student
from tqdm import tqdm
from transformers import set_seed

from benchmarks.harness.cli import main as evaluate
from grounding.io import replacing
from recipes.config import Recipe, load_recipe
from recipes.runner import run_recipe

Results: TypeAlias = dict[tuple[str, int], dict[str, Any]]


def load(out: Path) -> Results:
    """Finished runs by arm and seed, from a folder of theirs or a file with one a line."""
    if out.suffix == ".jsonl":
        texts = out.read_text(encoding="utf-8").splitlines()
    else:
        texts = [path.read_text(encoding="utf-8") for path in sorted(out.glob("*--*.json"))]
    return {(result["arm"], result["seed"]): result for result in map(json.loads, texts)}


def publish(results: Results, file: Path) -> None:
    """Write runs to a file, one a line, by arm and seed: what `load` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text("".join(json.dumps(results[key]) + "\n" for key in sorted(results)), encoding="utf-8")


def do_missing(
    out: Path, wanted: Sequence[tuple[str, int]], run: Callable[[str, int, Path], Mapping[str, Any]], *, keep: bool
) -> None:
    """Do what is wanted, not finished, and not being done by another process.

    Args:
        out: folder of the experiment.
        wanted: (arm, seed), in order.
        run: of an arm, a seed and the run's folder, which may hold what an interrupted call left, to what was found.
        keep: leave the run's folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = load(out)
    for arm, seed in tqdm([key for key in wanted if key not in done], desc="runs"):
        result, folder = out / f"{arm}--{seed}.json", out / "work" / f"{arm}--{seed}"
        with locked(out / f"{arm}--{seed}.lock", wait=False) as free:
            if not free or result.exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            began = time.process_time()
            found = {"arm": arm, "seed": seed, **run(arm, seed, folder)}
            found["cpu_seconds"] = round(time.process_time() - began)  # of the call that finished it
            with replacing(result) as part:
                part.write_text(json.dumps(found) + "\n", encoding="utf-8")
            if not keep:
                shutil.rmtree(folder)


@contextlib.contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock, which falls when its process ends, however it does; whether it was free, without waiting."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def train(content: Mapping[str, Any], folder: Path) -> Recipe:
    """Run a recipe, or go on with it; returns it. Its run folder is FOLDER/run, what it says is in FOLDER/log."""
    content = {**content, "name": "run", "output": str(folder), "wandb": "disabled"}
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(content), folder / "recipe.yaml")
    set_seed(int(content["seed"]))  # also what happens before a trainer sets its own, the adapter's weights among it
    with _quiet(folder):
        recipe = load_recipe(folder / "recipe.yaml")
        run_recipe(recipe)
    return recipe


def score(options: Sequence[str], folder: Path, name: str = "eval") -> dict[str, Any]:
    """The metrics of `eval.py` with these options, written to FOLDER/NAME; answers that are there stay."""
    with _quiet(folder):
        code = evaluate([*options, "--out", str(folder / name)])
    if code:
        raise SystemExit(f"{folder / name}: the evaluation failed with {code}; see {folder / 'log'}")
    metrics: dict[str, Any] = json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))
    return metrics


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    log = (folder / "log").open("a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def paired_interval(differences: np.ndarray, bootstraps: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of paired differences (N,)."""
    draws = np.random.default_rng(0).integers(len(differences), size=(bootstraps, len(differences)))
    low, high = np.percentile(differences[draws].mean(-1), [2.5, 97.5])
    return float(low), float(high)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t) of one value per seed; the interval is infinite for one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, -np.inf, np.inf
    half = float(student.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half
