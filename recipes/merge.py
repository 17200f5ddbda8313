"""From an adapter and the model it was trained on to one model folder, which the next stage reads."""

from __future__ import annotations

import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.integrations import unset_hf_deepspeed_config
from transformers.trainer_utils import align_special_tokens

from grounding.errors import FoveaError
from grounding.io import replacing
from models.loading import load_config, load_policy, save_policy
from models.prompting import encode, messages, prompt_text
from recipes.stage import Job

# What a checkpoint holds besides the model.
TRAINING_STATE = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "global_step*", "latest")
# How far the merged model's logits may lie from the adapted model's, relative to these (Euclidean norms): weights
# of 16 bits are rounded once by the merge, and the errors of the layers add up.
MERGE_BOUND = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}

CARD = """# {title}

The LoRA adapter of stage {index} ({kind}) of the run `{name}`, trained with Fovea on `{base}`.
`../model` is that model with this adapter merged into it.
"""


def finish_model(job: Job, trainer: Trainer, checkpoint: Path | None = None) -> None:
    """Save what was trained, as the adapter and the model it makes, or as the model alone.

    What was trained is the trainer's model, or a checkpoint when one of the last step is there already.

    The sum is made from what is on disk, on the main process, not taken from memory: there the weights may be
    sharded, cast, or tied to an optimizer.

    Raises:
        FoveaError: weights are not finite, or the merged model is not the trained one.
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
        check_finite(saved, job.where)
        if saved == adapter:
            merge_adapter(job, accelerator.unwrap_model(trainer.model), trainer.processing_class)
            card = CARD.format(
                title=f"{job.recipe.name}/{job.folder.name}",
                index=job.index,
                kind=job.spec.kind,
                name=job.recipe.name,
                base=job.model_path,
            )
            with replacing(adapter / "README.md") as file:
                file.write_text(card, encoding="utf-8")
        else:
            round_weights(job, whole)
            job.recipe.model.profile.write(whole)
            shutil.rmtree(job.folder / "model", ignore_errors=True)
            whole.replace(job.folder / "model")
    accelerator.wait_for_everyone()


def round_weights(job: Job, folder: Path) -> None:
    """Bring a fully trained model, whose weights were trained in 32 bits, back to the type it started from."""
    spec = job.recipe.model
    trust = {"trust_remote_code": spec.trust_remote_code}
    dtype = load_config(job.model_path, **trust).dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    if dtype is None or load_config(folder, **trust).dtype == dtype:
        return
    model, processor = load_policy(folder, dtype=dtype, **trust)
    rounded = folder.with_name(f"{folder.name}.rounded")
    shutil.rmtree(rounded, ignore_errors=True)
    save_policy(rounded, model, processor)
    check_finite(rounded, job.where)
    shutil.rmtree(folder)
    rounded.replace(folder)


def check_finite(folder: Path, where: str) -> None:
    """Raise `FoveaError` when a weight in a folder's safetensors files is not a finite number."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                if not weights.get_tensor(name).isfinite().all():
                    raise FoveaError(
                        f"{where}: the trained weights are not finite ({name}); lower the learning rate, then "
                        f"remove {folder.parent} to train the stage again"
                    )


def merge_adapter(job: Job, trained: PeftModel, processor: Any) -> None:
    """Add the adapter's weights to the model's and write the sum as the stage's model folder.

    Args:
        job: of the stage, whose `adapter/` is merged.
        trained: the policy as it was trained, for its configuration; its weights are not read.
        processor: that it was trained with.

    Raises:
        FoveaError: the written model answers otherwise than the adapted one.
    """
    spec, target = job.recipe.model, job.folder / "model"
    loading = {
        "dtype": spec.dtype,
        "allow_pickle": spec.allow_pickle,
        "trust_remote_code": spec.trust_remote_code,
    }
    model, _ = load_policy(job.model_path, **loading)
    vocabulary = trained.config.get_text_config().vocab_size
    if model.config.get_text_config().vocab_size != vocabulary:  # a chat template brought new tokens
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    tied = untie(model)
    adapted = PeftModel.from_pretrained(model, job.folder / "adapter").eval()
    batch = sample_batch(processor, spec.image_first, spec.system)
    expected = logits(adapted, batch)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Input and output embeddings are no longer tied"
        )  # tied again below
        merged = adapted.merge_and_unload()
    if tied:
        tie_again(merged)
    merged.generation_config = trained.generation_config
    align_special_tokens(merged, processor)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_policy(unfinished, merged, processor)
    job.recipe.model.profile.write(unfinished)
    del model, adapted, merged
    check_finite(unfinished, job.where)
    again, _ = load_policy(unfinished, **loading)
    check_same(expected, logits(again, batch), MERGE_BOUND.get(again.dtype, MERGE_BOUND[torch.bfloat16]), job.where)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.replace(target)


def untie(model: PreTrainedModel) -> bool:
    """Give the output layer a copy of weights it shares with the input embeddings; whether it shared them.

    An adapter of one of the two would be merged into both, and one of both twice.
    """
    source, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not source.weight:
        return False
    head.weight = nn.Parameter(source.weight.detach().clone(), requires_grad=source.weight.requires_grad)
    return True


def tie_again(model: PreTrainedModel) -> None:
    """Share the weights that `untie` parted where they are still equal; else the model is saved with both."""
    source, head = model.get_input_embeddings(), model.get_output_embeddings()
    equal = torch.equal(source.weight, head.weight)
    if equal:
        head.weight = source.weight
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = equal


def sample_batch(processor: Any, image_first: bool, system: str | None) -> Any:
    """A question about a picture of noise, as the processor prepares it: the same every time."""
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    asked = messages("Where is the brightest spot?", 1, image_first=image_first, system=system)
    return encode(processor, [prompt_text(processor, asked)], [[Image.fromarray(noise)]])


@torch.inference_mode()
def logits(model: nn.Module, batch: Any) -> Tensor:
    """(T, V) float32 logits of the batch's only row."""
    model.eval()
    return model(**batch.to(next(model.parameters()).device)).logits[0].float().cpu()


def check_same(adapted: Tensor, merged: Tensor, bound: float, where: str) -> None:
    """Raise `FoveaError` when two models' logits, (T, V), differ by more than `bound`, relative to the first's."""
    apart = float((merged - adapted).norm() / adapted.norm()) if merged.shape == adapted.shape else math.inf
    if not apart <= bound:  # not a number is no agreement
        raise FoveaError(
            f"{where}: the merged model is not the trained one (its logits differ by {apart:.2g} of their size, at "
            f"most {bound:g} is rounding); the adapter is whole, in adapter/; train with other lora settings"
        )
