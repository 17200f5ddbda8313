"""Weights & Biases, when the recipe does not disable it: online after `wandb login`, else a folder in the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import wandb

from grounding.io import replacing
from recipes.stage import Job

PROJECT = "fovea"


@contextmanager
def tracked(job: Job, *, main_process: bool) -> Iterator[None]:
    """The stage's wandb run, the same after an interruption; transformers' own callback logs into it."""
    if job.recipe.wandb == "disabled" or not main_process:
        yield
        return
    file = job.folder / "wandb.json"
    known = json.loads(file.read_bytes())["id"] if file.is_file() else None
    online = job.recipe.wandb == "auto" and wandb.login(prompt=False, verify=False)
    run = wandb.init(
        project=PROJECT,
        id=known,
        resume="allow",
        allow_val_change=True,  # of what may change in a stage that goes on
        group=job.recipe.name,
        name=f"{job.recipe.name}/{job.folder.name}",
        dir=job.folder,
        mode="online" if online else "offline",
        config=job.settings(),
        settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
    )
    with replacing(file) as temporary:
        temporary.write_text(json.dumps({"id": run.id}) + "\n", encoding="utf-8")
    try:
        yield
    finally:
        run.finish()
