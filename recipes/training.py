"""What every stage that trains with TRL shares: arguments, LoRA, resuming, stopping, saving."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from peft import LoraConfig
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import rotate_checkpoints

from grounding.errors import FoveaError, UsageError
from grounding.io import replacing
from grounding.settings import check_keys
from models.loading import load_config, load_policy
from models.lora import check_mergeable
from models.parts import PARTS, others, part_of, plain_name, save_whole, train_only
from models.quantizing import is_quantized
from models.sharing import share_images, share_prefill
from recipes.callbacks import (
    Alarms,
    MetricsFile,
    NoStubs,
    PartRates,
    ProgressBar,
    StageState,
    StopOnDivergence,
    StopOnSignal,
)
from recipes.data import build_dataset, check_data
from recipes.merge import finish_model
from recipes.records.checkpoints import last_checkpoint, state_of, sweep
from recipes.records.tracking import RolloutPages, ShownRollout, check_tracker, tracked, tracker_callbacks
from recipes.runner import on_main
from recipes.stage import Job
from tools.toolbox import Toolbox

# The vision tower stays as it was trained: adapting it costs a quarter of a step, and needs more data than RL has.
LORA_DEFAULTS: Mapping[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": "all-linear",
    "exclude_modules": r".*(visual|vision_tower|vision_model)\..*",
}


class Interrupted(FoveaError):
    """A signal stopped the stage; a checkpoint was saved."""


def build_args(job: Job, args_type: type[TrainingArguments], **more: Any) -> TrainingArguments:
    """The stage's TRL configuration: the recipe's own keys over ours, everything else TRL's default.

    Raises:
        UsageError: TRL refuses a value.
    """
    on_cpu = not torch.cuda.is_available()
    check_values(job, args_type)
    check_tracker(job.recipe.tracking)
    defaults = {
        "output_dir": str(job.folder / "checkpoints"),
        "seed": job.seed,
        "report_to": {"tensorboard": "none"}.get(job.recipe.tracking, job.recipe.tracking),  # its callback is ours
        "project": job.recipe.project,
        "run_name": f"{job.recipe.name}/{job.folder.name}",
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would write a loss of 0 where there is none
        "save_steps": 50,
        "save_total_limit": 2,
        "remove_unused_columns": False,  # rows are made on the fly, their columns are not in the file
        "dataloader_pin_memory": not on_cpu,
        **({"bf16": False, "use_cpu": True} if on_cpu else {}),
        **more,
    }
    try:
        return args_type(**{**defaults, **job.spec.args})
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"{job.where}.args: {' '.join(str(error).split())}") from error


def check_values(job: Job, args_type: type[TrainingArguments]) -> None:
    """Raise `UsageError` for a text where a number or truth value belongs: libraries notice it while training."""
    hints = get_type_hints(args_type)
    for key, value in job.spec.args.items():
        kinds = set(get_args(hints.get(key))) or {hints.get(key)}
        if isinstance(value, str) and kinds <= {int, float, bool, type(None)}:
            wanted = "true or false" if kinds <= {bool, type(None)} else "a number"
            raise UsageError(f"{job.where}.args.{key}: {wanted} is needed, got {value!r}")


def build_lora(job: Job, model: PreTrainedModel | None = None) -> LoraConfig | None:
    """The stage's LoRA configuration; None where the recipe trains no adapter.

    Args:
        model: to be adapted; parts of it that are trained in full beside the adapters become modules to save, which
            takes their names. Without one these are left out.

    Raises:
        UsageError: an unknown key, or a value peft refuses.
    """
    spec = job.spec
    if not spec.adapts:
        return None
    check_keys(spec.lora, [f.name for f in dataclasses.fields(LoraConfig)], f"{job.where}.lora")
    settings = {**LORA_DEFAULTS, **spec.lora}
    if spec.train is not None:
        settings["exclude_modules"] = others(spec.train.parts("lora"))
    try:
        lora = LoraConfig(**settings)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{job.where}.lora: {' '.join(str(error).split())}") from error
    check_mergeable(lora, f"{job.where}.lora")
    if model is not None:
        save_whole(lora, model, full_parts(job))
    return lora


def full_parts(job: Job) -> tuple[str, ...]:
    """The parts that are trained in full beside adapters."""
    return job.spec.train.parts("full") if job.spec.train is not None and job.spec.adapts else ()


def load_for(
    job: Job, args: TrainingArguments | None = None, *, path: str = "", shares: bool = True
) -> tuple[Any, Any]:
    """The stage's starting model, or the one at `path`, and its processor.

    Args:
        args: of a training. Where it trains every weight itself, these are loaded in 32 bits: steps of a usual
            learning rate are lost in the rounding of 16. DeepSpeed keeps such a copy of its own.
        shares: compute once what rows have in common, as the recipe's model section says.
    """
    spec = job.recipe.model
    masters = args is not None and not job.spec.adapts and args.deepspeed_plugin is None
    model, processor = load_policy(
        path or job.model_path,
        dtype=torch.float32 if masters else spec.dtype,
        attn_implementation=spec.attn_implementation,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        quantize=spec.quantize,
        allow_pickle=spec.allow_pickle,
        trust_remote_code=spec.trust_remote_code,
    )
    if args is not None and not job.spec.adapts and job.spec.train is not None:
        train_only(model, job.spec.train.parts("full"))
    if spec.share_images and shares:
        share_images(model)
    if spec.share_prompts and shares:
        share_prefill(model)
    return model, processor


def check_datasets(job: Job) -> None:
    """Raise `UsageError` or `BrokenRow` for what can be known to be wrong with the stage's samples."""
    for spec in (job.spec.data, job.spec.eval):
        if spec is not None:
            check_data(spec, job.recipe.model)


def build_toolbox(job: Job, processor: Any) -> Toolbox | None:
    """The stage's tools for its model; None where it has none. Raises `UsageError` as `Toolbox`."""
    if job.spec.tools is None:
        return None
    spec = job.recipe.model
    config = load_config(spec.path, trust_remote_code=spec.trust_remote_code)
    return Toolbox(job.spec.tools, processor, config.model_type, spec.profile)


def build_datasets(
    job: Job, processor: Any, *, with_completion: bool = False, toolbox: Toolbox | None = None
) -> dict[str, Any]:
    """The trainer's `train_dataset` and, where the stage has one, its `eval_dataset`."""
    named = {"train_dataset": job.spec.data, "eval_dataset": job.spec.eval}
    return {
        name: build_dataset(spec, job.recipe.model, processor, with_completion=with_completion, toolbox=toolbox)
        for name, spec in named.items()
        if spec is not None
    }


def run_training(job: Job, trainer: Trainer, drawn: Sequence[ShownRollout] = ()) -> None:
    """Train (or go on from the newest whole checkpoint), then leave the merged model at `job.folder / "model"`.

    Args:
        drawn: rollouts from before, for the tracker.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; a checkpoint was saved.
        UsageError: more steps were trained than are asked for now.
        FoveaError: training diverged, or no step was taken.
    """
    args = trainer.args
    if trainer.is_fsdp_enabled and is_quantized(trainer.model):
        raise UsageError(f"{job.where}: model.quantize: FSDP cannot split 4-bit weights; use zero2 or multi_gpu")
    keep_in_32_bits(trainer)
    if job.spec.train is not None and job.spec.train.rates():
        set_rates(job, trainer, job.spec.train.rates())
    folder = Path(args.output_dir)
    checkpoint = on_main(lambda: last_checkpoint(folder))
    on_main(lambda: sweep(folder, checkpoint))
    done = 0 if checkpoint is None else state_of(checkpoint)["global_step"]
    total = trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1]
    if done > total:
        raise UsageError(
            f"{job.where}: {done} steps are trained already, more than the {total} asked for; give the run another "
            f"name=..., or remove {job.folder} to train the stage again"
        )
    if checkpoint is not None and done == total:  # transformers would train a step too many
        trainer.state.global_step = done
    else:
        train_from(job, trainer, checkpoint, drawn)
    if trainer.state.global_step == 0:
        raise FoveaError(
            f"{job.where}: no optimizer step was taken: its samples do not fill a batch; lower "
            "per_device_train_batch_size, gradient_accumulation_steps or generation_batch_size, or give more samples"
        )
    apart = finish_model(job, trainer, checkpoint if done == total else None)
    if trainer.is_world_process_zero():
        rotate_checkpoints(str(folder), args.save_total_limit, trainer.state.best_model_checkpoint)
        with replacing(job.folder / "training.json") as file:
            file.write_text(json.dumps(facts(trainer) | apart, indent=2) + "\n", encoding="utf-8")


def keep_in_32_bits(trainer: Trainer) -> None:
    """Train weights of 32 bits: steps of a usual learning rate are lost in the rounding of 16.

    TRL rounds adapters on 4-bit weights, peft leaves modules to save in the model's type. DeepSpeed keeps a copy of
    its own.
    """
    if trainer.accelerator.state.deepspeed_plugin is None:
        for weight in trainer.model.parameters():
            if weight.requires_grad and weight.dtype.itemsize == 2:
                weight.data = weight.data.float()


def set_rates(job: Job, trainer: Trainer, rates: Mapping[str, float]) -> None:
    """Give parts of the model learning rates of their own; the schedule is the same for all.

    Raises:
        UsageError: the optimizer groups the weights itself.
    """
    kind, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    if is_optimizer_factory(kind) or settings.keys() & {"params", "model", "optimizer_dict"}:
        raise UsageError(f"{job.where}.train: learning rates of parts do not go with args.optim={trainer.args.optim}")

    def by_part(groups: Sequence[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
        names = {id(weight): plain_name(name) for name, weight in trainer.model.named_parameters()}
        split = []
        for group, part in itertools.product(groups, PARTS):
            own = [weight for weight in group["params"] if part_of(names[id(weight)]) == part]
            if own:
                split.append({**group, "params": own, "lr": rates.get(part, rate), "part": part})
        return split

    class RatedOptimizer(kind):
        def __init__(self, groups: Any, **more: Any):
            super().__init__(by_part(groups, more["lr"]), **more)

    RatedOptimizer.__name__, RatedOptimizer.__module__ = kind.__name__, kind.__module__  # by which it is known
    RatedOptimizer.__qualname__ = kind.__qualname__
    trainer.optimizer_cls_and_kwargs = RatedOptimizer, settings


def train_from(job: Job, trainer: Trainer, checkpoint: Path | None, drawn: Sequence[ShownRollout] = ()) -> None:
    """TRL's training with our callbacks, from a checkpoint where there is one. Raises as `run_training`."""
    stop = StopOnSignal()
    bar = ProgressBar(f"{job.index} {job.spec.kind}")
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not any(isinstance(callback, StageState) for callback in trainer.callback_handler.callbacks):
        trainer.add_callback(StageState())
    diverging = StopOnDivergence(job.where, scaled=trainer.accelerator.mixed_precision == "fp16")
    for callback in (stop, PartRates(), MetricsFile(job.metrics), Alarms(), NoStubs(), bar, diverging):
        trainer.add_callback(callback)
    step = 0 if checkpoint is None else state_of(checkpoint)["global_step"]
    tracking = tracked(job, main_process=trainer.is_world_process_zero(), step=step)
    with tracking as tracker, stop.listening(), closing(bar):
        for callback in (*tracker_callbacks(tracker), RolloutPages(job, trainer, tracker, drawn)):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stop.signal is not None:
        raise Interrupted(
            f"{job.where} stopped by {stop.signal} at step {trainer.state.global_step}; "
            f"the same command goes on from there"
        )


def facts(trainer: Trainer) -> dict[str, Any]:
    """How a stage was trained, as it turned out: steps, weights, processes and what was split between them."""
    accelerator = trainer.accelerator
    plugin = accelerator.state.deepspeed_plugin
    return {
        "steps": trainer.state.global_step,
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value.lower(),
        "zero_stage": None if plugin is None else plugin.zero_stage,
        "trainable_weights": sum(
            getattr(weight, "ds_numel", weight.numel())
            for weight in trainer.model.parameters()
            if weight.requires_grad
        ),
    }
