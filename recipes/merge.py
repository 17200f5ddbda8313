"""From an adapter and the model it was trained on to one model folder, which the next stage reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from peft import PeftModel
from transformers import Trainer
from transformers.integrations import unset_hf_deepspeed_config

from models.loading import load_policy, save_policy
from recipes.config import ModelSpec
from recipes.stage import Job

# What a checkpoint holds besides the model.
TRAINING_STATE = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "global_step*", "latest")


def finish_model(job: Job, trainer: Trainer, checkpoint: Path | None = None) -> None:
    """Save what was trained, as the adapter and the model it makes, or as the model alone.

    What was trained is the trainer's model, or a checkpoint when one of the last step is there already.

    The sum is made from what is on disk, on the main process, not taken from memory: there the weights may be
    sharded, cast, or tied to an optimizer.
    """
    accelerator = trainer.accelerator
    adapter, whole = job.folder / "adapter", job.folder / ".trained"
    saved = adapter if job.spec.lora is not None else whole
    if checkpoint is None:
        trainer.save_model(str(saved))  # on all processes: gathering sharded weights takes them all
    elif accelerator.is_main_process:
        shutil.rmtree(saved, ignore_errors=True)
        shutil.copytree(checkpoint, saved, ignore=shutil.ignore_patterns(*TRAINING_STATE))
    accelerator.wait_for_everyone()
    # Otherwise loading would split the weights over processes that are not taking part
    unset_hf_deepspeed_config()
    if accelerator.is_main_process:
        if saved == adapter:
            merge_adapter(job.model_path, adapter, job.folder / "model", job.recipe.model)
        else:
            shutil.rmtree(job.folder / "model", ignore_errors=True)
            whole.replace(job.folder / "model")
        job.recipe.model.profile.write(job.folder / "model")
    accelerator.wait_for_everyone()


def merge_adapter(model_path: str, adapter: Path, target: Path, spec: ModelSpec) -> None:
    """Add the adapter's weights to the model's and write the sum as a model folder."""
    model, processor = load_policy(
        model_path,
        dtype=spec.dtype,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        allow_pickle=spec.allow_pickle,
        trust_remote_code=spec.trust_remote_code,
    )
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_policy(unfinished, merged, processor)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.replace(target)
