"""Runs a recipe from its first unfinished stage to the last."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import ExitStack

import torch

from grounding.folders import owning
from recipes.config import Recipe
from recipes.processes import on_main, this_process
from recipes.run_folder import claim, jobs_of, link_final, mark_done, open_run
from recipes.stage import STAGES, Job

log = logging.getLogger("fovea")


def run_recipe(recipe: Recipe) -> None:
    """Run the stages in order, each from the model of the one before; finished ones are skipped.

    Every stage is checked before the first one starts.

    Raises:
        UsageError: something in the recipe, its model or its data is wrong.
        FoveaError: a stage failed or was interrupted; the same call goes on where it stopped.
    """
    jobs = jobs_of(recipe)
    for job in jobs:
        STAGES.get(job.spec.kind)(job).check()
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(owning(recipe.folder, "run")))
        on_main(lambda: open_run(recipe))
        for job in jobs:
            run_stage(job)
        on_main(lambda: link_final(recipe, jobs[-1]))


def run_stage(job: Job) -> None:
    """Run one stage unless it is finished."""
    if on_main(lambda: claim(job)):
        if this_process().is_main_process:
            log.info("%s is finished: skipped", job.folder)
        return
    STAGES.get(job.spec.kind)(job).run()
    this_process().wait_for_everyone()
    on_main(lambda: mark_done(job))
    gc.collect()  # the stage's model and optimizer, before the next one loads its own
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dry_run(recipe: Recipe) -> Iterator[str]:
    """Check a recipe without training and tell what it would do, line by line. Raises as `run_recipe`."""
    for job in jobs_of(recipe):
        stage = STAGES.get(job.spec.kind)(job)
        stage.check()
        yield f"{job.index} {job.spec.kind}: {job.model_path} -> {job.folder / 'model'}"
        for label, value in stage.describe():
            yield f"  {label:<12} {value}"
