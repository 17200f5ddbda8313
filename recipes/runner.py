"""Runs a recipe: stages in order, the processes they run in, and the run folder that says all about it.

runs/<name>/
  resolved.yaml, environment.json
  start/   the model with `model.adapter` added, where there is one
  0-sft/   settings.json, metrics.jsonl, training.json, checkpoints/, adapter/, model/, DONE
  1-grpo/  ...
  final -> 1-grpo/model
"""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from credit.strategies import STRATEGIES
from grounding.errors import FoveaError, UsageError
from grounding.fingerprint import data_fingerprint, differences, model_fingerprint
from grounding.folders import owning
from grounding.io import read_samples, replacing
from grounding.redact import redact
from grounding.settings import Section
from models.loading import load_config
from recipes.config import DataSpec, ModelSpec, Recipe, StageSpec, save_recipe
from recipes.data import data_files, imported
from recipes.exit_codes import check_model
from recipes.merge import START, make_start
from recipes.records.checkpoints import last_checkpoint
from recipes.records.summary import run_lines, stage_lines, write_card
from recipes.stage import STAGES, Job, Stage
from rewards import REWARDS

log = logging.getLogger("fovea")
T = TypeVar("T")

PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "vllm", "numpy", "pillow", "wandb",
)  # fmt: skip
DONE = "DONE"
SETTINGS = "settings.json"
# Arguments that leave the steps already trained as they are: how long to train, what to save, log and evaluate.
LENGTH = ("max_steps", "num_train_epochs")
FREE = re.compile(
    r"save_(?!only)\w+|log\w+|eval_(steps|strategy|delay|on_start)|per_device_eval_batch_size|dataloader_\w+|hub_\w+"
    r"|push_to_hub|report_to|run_name|disable_tqdm|num_completions_to_print|max_steps|num_train_epochs"
)
STRAY = re.compile(  # what a kill leaves of `replacing`: nobody else's dot files
    r"\.final\.new|\.(DONE|resolved\.yaml|(environment|settings|training|wandb)\.json|metrics\.jsonl)\.[a-z0-9_]{8}"
)


def run_recipe(recipe: Recipe) -> None:
    """Run the stages in order, each from the model of the one before; finished ones are skipped.

    Every stage is checked before the first one starts.

    Raises:
        UsageError: something in the recipe, its model or its data is wrong.
        FoveaError: a stage failed or was interrupted; the same call goes on where it stopped.
    """
    for stage in prepared(jobs_of(recipe, planned=True)):
        stage.check()
    jobs = jobs_of(recipe)
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(owning(recipe.folder, "run")))
        on_main(lambda: open_run(recipe))
        if recipe.model.adapter is not None:
            on_main(lambda: make_start(recipe))
        for job in jobs:
            run_stage(job)
        on_main(lambda: link_final(recipe, jobs[-1]))
        if this_process().is_main_process:
            for line in run_lines(recipe, jobs[-1]):
                log.info(line)


def prepared(jobs: Sequence[Job]) -> list[Stage]:
    """The stages, with their keys checked; the model is looked for, and data in other formats is imported.

    Raises:
        UsageError: a wrong key, no such model, or a file that cannot be imported.
    """
    stages = [STAGES.get(job.spec.kind)(job) for job in jobs]
    on_main(lambda: check_model(jobs[0].recipe.model.path))
    for spec in (spec for job in jobs for spec in (job.spec.data, job.spec.eval) if spec is not None):
        for name in spec.path:
            on_main(partial(_import, name, spec))
    return stages


def _import(path: str, spec: DataSpec) -> None:
    imported(path, spec.images, spec.space)  # the path that it returns is asked for again where it is needed


def run_stage(job: Job) -> None:
    """Run one stage unless it is finished."""
    if on_main(lambda: claim(job)):
        if this_process().is_main_process:
            log.info("%s is finished: skipped", job.folder)
        return
    stage = STAGES.get(job.spec.kind)(job)
    if job.keeper is not None:
        stage.check()  # what was kept may be too little to train on
    stage.run()
    this_process().wait_for_everyone()
    on_main(lambda: write_card(job))
    on_main(lambda: mark_done(job))
    if this_process().is_main_process:
        for line in stage_lines(job):
            log.info(line)
    gc.collect()  # the stage's model and optimizer, before the next one loads its own
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dry_run(recipe: Recipe) -> Iterator[str]:
    """Check a recipe without training and tell what it would do, line by line. Raises as `run_recipe`."""
    jobs = jobs_of(recipe, planned=True)
    for job, stage in zip(jobs, prepared(jobs), strict=True):
        stage.check()
        turn = "" if job.spec.round is None else f", round {job.spec.round}"
        made = job.folder / ("model" if stage.trains else "data")
        yield f"{job.index} {job.spec.kind}{turn}: {job.model_path} -> {made}"
        if job.keeper is not None:
            yield f"  {'reads':<12} what {job.keeper.name} keeps; shown are all the samples it chooses from"
        for label, value in stage.describe():
            yield f"  {label:<12} {value}"


def this_process() -> PartialState:
    """This process among those that `accelerate launch` started, on GPUs or, where there are none, on CPUs."""
    return PartialState(cpu=not torch.cuda.is_available())


def on_main(action: Callable[[], T]) -> T:
    """What `action` returned on the main process, on every process. A collective call.

    Raises:
        FoveaError: what it raised there, on every process.
    """
    process = this_process()
    outcome: list = [None, None, 0]
    if process.is_main_process:
        try:
            outcome[0] = action()
        except FoveaError as error:
            outcome[1:] = str(error), error.exit_code
    if process.num_processes > 1:
        broadcast_object_list(outcome)
    value, message, code = outcome
    if message is not None:
        raise UsageError(message) if code == UsageError.exit_code else FoveaError(message)
    return value


def jobs_of(recipe: Recipe, *, planned: bool = False) -> list[Job]:
    """The stages of a recipe with their folders; each starts from the model of the last one before that trains.

    In rounds that reset their adapters the first that trains starts from the model that went into the first round.

    Args:
        planned: before anything has run, a stage that reads what another keeps is given all of which that keeps some.

    Raises:
        UsageError: a stage of an unknown kind; a stage reads what none keeps, or nothing reads what one keeps.
    """
    jobs: list[Job] = []
    newest, start = (recipe.model.path if recipe.model.adapter is None else str(recipe.folder / START)), None
    keeper, unread = None, None
    for index, spec in enumerate(recipe.stages):
        kind = STAGES.get(spec.kind)
        folder = recipe.folder / ("" if spec.round is None else f"round-{spec.round}") / f"{index}-{spec.kind}"
        if spec.starts_with is not None:
            if not 0 <= spec.starts_with < index:
                raise UsageError(
                    f"stages.{index}.starts_with is {spec.starts_with}: give the index of a stage before"
                )
            start = jobs[spec.starts_with].model_path
        job = Job(recipe, spec, index, folder, start if kind.trains and start is not None else newest, newest)
        if spec.eval is not None and spec.eval.kept:
            raise UsageError(f"{job.where}.eval: samples that were kept are trained on; give a path")
        if spec.data is not None and spec.data.kept:
            if keeper is None:
                raise UsageError(f"{job.where}.data.kept: no stage before this one keeps samples; add a `select`")
            read = spec.data.model_copy(update={"kept": False, "path": (str(keeper.folder / "data"),)})
            if planned:
                asks = {"answer_kind": spec.data.answer_kind or keeper.spec.data.answer_kind}
                read = keeper.spec.data.model_copy(update=asks)
            job = replace(job, spec=spec.model_copy(update={"data": read}), keeper=keeper.folder)
            unread = None if unread is keeper else unread
        if kind.keeps:
            _check_read(unread)
            keeper = unread = job
        if kind.trains:
            newest, start = str(folder / "model"), None
        jobs.append(job)
    if unread is not jobs[-1]:
        _check_read(unread)
    return jobs


def _check_read(unread: Job | None) -> None:
    if unread is not None:
        raise UsageError(f"{unread.where}: no later stage reads what it keeps; give one `data: {{kept: true}}`")


def open_run(recipe: Recipe) -> None:
    """Make the run folder and write what it says about the run; what a killed process left of its files goes.

    Raises:
        FoveaError: it cannot be written.
    """
    for folder in (recipe.folder, *(job.folder for job in jobs_of(recipe))):
        for file in folder.glob(".*"):
            if STRAY.fullmatch(file.name):
                file.unlink()
    with replacing(recipe.folder / "resolved.yaml") as file:
        save_recipe(recipe, file)
    with replacing(recipe.folder / "environment.json") as file:
        file.write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")


def claim(job: Job) -> bool:
    """Make the stage's folder, or take up the one that is there; whether the stage is finished.

    A stage that started from another model of the run, which has been trained again since, or from other samples that
    the run has kept, starts anew; its folder is kept under another name.

    Raises:
        UsageError: it was made with other settings, model or data, which would mix two experiments under one name.
    """
    now = {**job.settings(), "inputs": inputs_of(job)}
    before = read_settings(job)
    if before is not None and job.index > 0 and (earlier := _made_again(job, before, now)):
        log.warning("%s was trained from an earlier %s; kept as %s", job.folder, earlier, set_aside(job.folder))
        before = None
    if before is not None:
        compare(job, before, now)
        extend(job, before, now)
    if before != now:
        with replacing(job.folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    return (job.folder / DONE).is_file()


def _made_again(job: Job, before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What of the run's own the stage was made from, which is another by now."""
    old, new = before["inputs"], now["inputs"]
    if differences(old["model"], new["model"]):
        return job.model_path
    if differences(old.get("draws_with"), new.get("draws_with")):
        return job.draws_with
    if job.keeper is not None and "kept" in old["data"] and differences(old["data"], new["data"]):
        return f"{job.keeper}/data"
    return None


def read_settings(job: Job) -> dict[str, Any] | None:
    """What the stage's folder says it was made with; None when there is none.

    Raises:
        UsageError: it cannot be read.
    """
    file = job.folder / SETTINGS
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
        found.setdefault("inputs", inputs_of(job))  # written before runs knew their inputs
        found["inputs"].setdefault("code", user_code(job))
        found["stages"] = [as_written_now(StageSpec, stage) for stage in found["stages"]]
        found["model"] = as_written_now(ModelSpec, found["model"])
        found["stages"][job.index]["args"].items()
        found["inputs"]["model"], found["inputs"]["data"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(f"{file}: not a stage's settings; remove {job.folder} to train the stage again") from error
    return found


def as_written_now(section: type[Section], content: Any) -> Any:
    """A section of the settings of an earlier version, in the keys of this one; as it is if it cannot be read."""
    try:
        return section.from_mapping(content, "settings").model_dump(mode="json")
    except UsageError:
        return content


def inputs_of(job: Job) -> dict[str, Any]:
    """The fingerprints of the model the stage starts from, of its samples with their images, of the user's code."""
    if not Path(job.model_path).is_dir():
        load_config(job.model_path, trust_remote_code=job.recipe.model.trust_remote_code)  # brings it into the cache
    spec, data = job.spec.data, {}
    for path, file in () if spec is None else zip(spec.path, data_files(spec), strict=True):
        name = path if job.keeper is None else "kept"  # so that a run folder may move
        images = {image.path for sample in read_samples(file, limit=spec.limit) for image in sample.images}
        data[name] = data_fingerprint([file], images, file.parent)
    found = {"model": model_fingerprint(job.model_path), "data": data, "code": user_code(job)}
    return (
        found
        if job.draws_with in ("", job.model_path)
        else {**found, "draws_with": model_fingerprint(job.draws_with)}
    )


def user_code(job: Job) -> dict[str, str]:
    """SHA-256 of the file of every reward and credit strategy of the stage, and of its kind, that the user wrote."""
    named = [(STAGES, job.spec.kind), *((REWARDS, reward.name) for reward in job.spec.rewards or ())]
    if job.spec.credit is not None:
        named.append((STRATEGIES, job.spec.credit.strategy))
    files = {name: file for registry, name in named if (file := registry.user_file(name)) is not None}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items()}


def compare(job: Job, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UsageError` where what a stage was made with differs from what it would be made with now."""
    advice = f"give the run another name=..., or remove {job.folder} to train the stage again"
    if differences(before["inputs"], now["inputs"]):
        changed = [path for path, own in now["inputs"]["data"].items() if before["inputs"]["data"].get(path) != own]
        what = f"data {changed[0]}" if changed else f"model {job.model_path}"
        edited = differences(before["inputs"]["code"], now["inputs"]["code"])
        what = f"the file of {edited[0]}" if edited else what
        raise UsageError(f"{job.folder} was made from another content of {what}, which has changed since; {advice}")
    begun = (job.folder / DONE).is_file() or last_checkpoint(job.folder / "checkpoints") is not None
    free = frozenset() if begun else STAGES.get(job.spec.kind).rejudged
    old, new = lasting(before, free), lasting(now, free)
    if old != new:
        raise UsageError(f"{job.folder} was made with other settings ({difference(old, new)}); {advice}")


def lasting(settings: dict[str, Any], rejudged: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Settings without those that leave what is done already as it is; `rejudged`: further keys of the last stage."""
    kept = copy.deepcopy({key: value for key, value in settings.items() if key != "inputs"})
    for stage in kept["stages"]:
        stage["args"] = {key: value for key, value in stage["args"].items() if not FREE.fullmatch(key)}
        stage.pop("eval", None)
    last = kept["stages"][-1]
    last["args"] = {key: value for key, value in last["args"].items() if key not in rejudged}
    return kept


def extend(job: Job, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Tell which settings are new, and take up a finished stage again that is to be longer.

    Raises:
        UsageError: a finished stage is to be shorter, or has no checkpoint to go on from.
    """
    old, new = (settings["stages"][job.index]["args"] for settings in (before, now))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in changed:
        log.info("%s.args: %s from here on", job.where, difference(old.get(key), new.get(key), key))
    done = job.folder / DONE
    if not done.is_file() or not set(changed) & set(LENGTH):
        return
    for key in LENGTH:
        if key in old and key in new and new[key] < old[key]:
            raise UsageError(
                f"{job.folder} is finished with {key}={old[key]}, more than {new[key]}; give the run another name=..."
            )
    if last_checkpoint(job.folder / "checkpoints") is None:
        raise UsageError(
            f"{job.folder} is finished and has no checkpoint to go on from; give the run another name=..."
        )
    done.unlink()


def set_aside(folder: Path) -> Path:
    """Give a stage's folder another name, which is free, and return it."""
    names = (folder.with_name(f"{folder.name}.before-{number}") for number in range(1, 10**6))
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    return aside


def mark_done(job: Job) -> None:
    with replacing(job.folder / DONE) as file:
        file.write_text("", encoding="utf-8")


def link_final(recipe: Recipe, job: Job) -> None:
    """Point `final` at the newest model, where the run has made one."""
    link = recipe.folder / "final"
    made = Path(job.model_path) if not STAGES.get(job.spec.kind).trains else job.folder / "model"
    if not made.is_relative_to(recipe.folder):  # no stage has trained
        return
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link}: is not the link that a run makes; move it away and run again")
    temporary = recipe.folder / ".final.new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(made.relative_to(recipe.folder), target_is_directory=True)
    temporary.replace(link)


def difference(before: Any, after: Any, where: str = "") -> str:
    """The first place where two settings differ: ``stages.1.args.beta: 0.0 -> 0.04``."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            if before.get(key) != after.get(key):
                return difference(before.get(key), after.get(key), f"{where}.{key}" if where else key)
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            if one != other:
                return difference(one, other, f"{where}.{index}")
    return f"{where}: {json.dumps(before)} -> {json.dumps(after)}"


def environment() -> dict[str, Any]:
    """Code, packages, hardware and command of this run; nothing from the environment's variables, no secrets."""
    return {
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "device": device_name(),
        "cpus": os.cpu_count(),
        "processes": this_process().num_processes,
        "command": [Path(sys.argv[0]).name, *map(redact, sys.argv[1:])],
    }


def git_state() -> dict[str, Any] | None:
    """Revision of this code, and whether files differ from it; None outside a git checkout."""
    try:
        return {"revision": _git("rev-parse", "HEAD"), "modified": bool(_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*args: str) -> str:
    command = ["git", *args]
    here = Path(__file__).resolve().parent
    return subprocess.run(  # noqa: S603 - our own words only
        command, cwd=here, capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()


def package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_name() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return platform.processor() or platform.machine()
