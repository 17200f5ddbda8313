"""From an adapter and the model it was trained on to one model folder, which the next stage reads."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.integrations import unset_hf_deepspeed_config
from transformers.trainer_utils import align_special_tokens

from grounding.errors import FoveaError, UsageError
from grounding.fingerprint import files_digest, model_fingerprint
from grounding.io import replacing
from models.loading import load_config, load_policy, save_policy
from models.lora import FILES, check_adapter
from models.prompting import encode, messages, prompt_text
from models.quantizing import dequantized, is_quantized
from recipes.config import ModelSpec, Recipe
from recipes.stage import Job

# What a checkpoint holds besides the model.
TRAINING_STATE = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "global_step*", "latest")
# How far the merged model's logits may lie from the adapted model's, relative to these (Euclidean norms): weights
# of 16 bits are rounded once by the merge, and the errors of the layers add up.
MERGE_BOUND = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}

START = "start"  # folder of the model with `model.adapter` added, in the run folder
NOTE = "start.json"  # in it: what it was made of

CARD = """# {title}

The LoRA adapter of stage {index} ({kind}) of the run `{name}`, trained with Fovea on `{base}`.
`../model` is that model with this adapter merged into it.
"""


def finish_model(job: Job, trainer: Trainer, checkpoint: Path | None = None) -> dict[str, float]:
    """Save what was trained, as the adapter and the model it makes, or as the model alone.

    What was trained is the trainer's model, or a checkpoint when one of the last step is there already.

    The sum is made from what is on disk, on the main process, not taken from memory: there the weights may be
    sharded, cast, or tied to an optimizer.

    Returns:
        On the main process, of an adapter: how far the merged model's logits are from the adapted one's.

    Raises:
        FoveaError: weights are not finite, or the merged model is not the trained one.
    """
    apart: dict[str, float] = {}
    accelerator = trainer.accelerator
    adapter, whole = job.folder / "adapter", job.folder / ".trained"
    saved = adapter if job.spec.adapts else whole
    answered = None
    if checkpoint is None and saved == adapter and not is_sharded(trainer) and accelerator.is_main_process:
        spec = job.recipe.model
        batch = sample_batch(trainer.processing_class, spec.image_first, spec.system)
        answered = logits(accelerator.unwrap_model(trainer.model), batch)
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
            trained = accelerator.unwrap_model(trainer.model)
            rounded = trainer.args.device.type != "cpu" or trainer.args.bf16 or trainer.args.fp16
            apart["merged_apart"] = merge_adapter(job, trained, trainer.processing_class, answered, rounded=rounded)
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
    return apart


def is_sharded(trainer: Trainer) -> bool:
    """Whether a process holds parts of the weights only."""
    plugin = trainer.accelerator.state.deepspeed_plugin
    return trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)


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


def merge_adapter(
    job: Job, trained: PeftModel, processor: Any, answered: Tensor | None = None, *, rounded: bool = False
) -> float:
    """Add the adapter's weights to the model's and write the sum as the stage's model folder.

    Where the model's weights were held in 4 bits, it is added to what those 4 bits stand for, not to the weights they
    were rounded from: the adapter was trained on the former.

    Args:
        job: of the stage, whose `adapter/` is merged.
        trained: the policy as it was trained, for its configuration; its weights are not read.
        processor: that it was trained with.
        answered: (T, V) its logits for `sample_batch`, where it is known what it answered.
        rounded: these were computed in fewer bits than the weights have.

    Returns:
        How far the written model's logits are from the adapted one's, relative to these.

    Raises:
        FoveaError: the saved adapter answers otherwise than the trained one, or the written model than the adapted.
    """
    spec = job.recipe.model
    model, _ = load_policy(job.model_path, quantize=spec.quantize, **loading(spec))
    vocabulary = trained.config.get_text_config().vocab_size
    if model.config.get_text_config().vocab_size != vocabulary:  # a chat template brought new tokens
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    folders = {"adapter": job.folder / "adapter", "target": job.folder / "model"}
    known = {"trained": trained, "answered": answered, "rounded": rounded}
    return write_sum(model, processor, **folders, spec=spec, where=job.where, **known)


def loading(spec: ModelSpec) -> dict[str, Any]:
    """How the weights of a recipe's models are loaded."""
    return {
        "dtype": spec.dtype,
        "allow_pickle": spec.allow_pickle,
        "trust_remote_code": spec.trust_remote_code,
    }


def write_sum(
    model: PreTrainedModel,
    processor: Any,
    *,
    adapter: Path,
    target: Path,
    spec: ModelSpec,
    where: str,
    trained: PeftModel | None = None,
    answered: Tensor | None = None,
    rounded: bool = False,
    note: Mapping[str, str] | None = None,
) -> float:
    """Add an adapter to a model and write the sum to the folder `target`, which is there whole or not at all.

    Args:
        model, processor: that the adapter is of; the model is changed.
        adapter: peft's folder.
        spec: the recipe's.
        where: to begin an error with.
        trained, answered, rounded: as in `merge_adapter`; None for an adapter that was not trained here.
        note: texts to write into the folder, by the name of their file.

    Returns:
        How far the written model's logits are from the adapted one's, relative to these.

    Raises:
        FoveaError: weights are not finite, or one of these models answers otherwise than the one before.
    """
    tied = untie(model)
    adapted = with_adapter(model, adapter, where)
    batch = sample_batch(processor, spec.image_first, spec.system)
    expected = logits(adapted, batch)
    bound = MERGE_BOUND.get(model.dtype, MERGE_BOUND[torch.bfloat16])
    if answered is not None:  # by other kernels, on another device
        check_same(
            answered, expected, 4 * (MERGE_BOUND[torch.bfloat16] if rounded else bound), where, "the saved adapter"
        )
    if is_quantized(model):
        model = dequantized(adapted.unload())
        adapted = with_adapter(model, adapter, where)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Input and output embeddings are no longer tied"
        )  # tied again below
        merged = adapted.merge_and_unload()
    if tied:
        tie_again(merged)
    if trained is not None:
        merged.generation_config = trained.generation_config
        align_special_tokens(merged, processor)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_policy(unfinished, merged, processor)
    spec.profile.write(unfinished)
    for name, text in (note or {}).items():
        (unfinished / name).write_text(text, encoding="utf-8")
    del model, adapted, merged
    check_finite(unfinished, where)
    again, _ = load_policy(unfinished, **loading(spec))
    apart = check_same(expected, logits(again, batch), bound, where)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.replace(target)
    return apart


def make_start(recipe: Recipe) -> None:
    """Leave the model with its adapter added in the run folder's `start`, from which the first stage starts.

    Raises:
        UsageError: the adapter belongs to another model.
        FoveaError: the sum does not answer as the adapted model does.
    """
    spec, target = recipe.model, recipe.folder / START
    folder = Path(spec.adapter)
    check_adapter(spec.adapter)
    made_of = {
        "model": model_fingerprint(spec.path),
        "adapter": files_digest([folder / name for name in FILES], folder),
        "dtype": spec.dtype,
    }
    note = target / NOTE
    if note.is_file() and json.loads(note.read_bytes()) == made_of:
        return
    where, notes = f"model.adapter {folder}", {NOTE: json.dumps(made_of, indent=2) + "\n"}
    model, processor = load_policy(spec.path, **loading(spec))
    try:
        write_sum(model, processor, adapter=folder, target=target, spec=spec, where=where, note=notes)
    except (ValueError, RuntimeError, SafetensorError) as error:  # peft's
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from error


def with_adapter(model: PreTrainedModel, folder: Path, where: str) -> PeftModel:
    """The model with an adapter.

    Raises:
        FoveaError: layers of the adapter have no weights in its folder, or weights there belong to no layer.
    """
    with warnings.catch_warnings():  # peft would go on with new weights
        warnings.filterwarnings("error", message=r"(?s).*Found missing adapter keys")
        try:
            adapted = PeftModel.from_pretrained(model, folder).eval()
        except UserWarning as error:
            raise FoveaError(f"{where}: {folder} does not have all weights of its adapter: {error}") from error
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        saved = set(file.keys())
    own = get_peft_model_state_dict(adapted).keys()
    unknown = saved - own - adapted.state_dict().keys()
    if unknown and len(saved) != len(own):  # else they are of a transformers that had other names, and were found
        raise FoveaError(f"{where}: {folder} has weights of no layer of the model: {min(unknown)}")
    return adapted


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


def check_same(adapted: Tensor, merged: Tensor, bound: float, where: str, what: str = "the merged model") -> float:
    """How far two models' logits, (T, V), are apart, relative to the first's. Raises `FoveaError` beyond `bound`."""
    apart = float((merged - adapted).norm() / adapted.norm()) if merged.shape == adapted.shape else math.inf
    if not apart <= bound:  # not a number is no agreement
        raise FoveaError(
            f"{where}: {what} is not the trained one (its logits differ by {apart:.2g} of their size, at "
            f"most {bound:g} is rounding); the adapter is whole, in adapter/; train with other lora settings"
        )
    return apart
