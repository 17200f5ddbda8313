"""A GRPO trainer that computes what the rollouts of a group have in common once: their prompt.

Whether it does is decided by the configuration, never by what a batch holds: under ZeRO and DDP all processes have to
run the model equally often.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from attention.text_attention import pretrained
from models.packing import pack, share_prompts, why_not
from models.sharing import PreparingOnce

log = logging.getLogger("fovea")

GROUP = "prompt_group"  # key of the rows' groups in TRL's inputs


class SharedPromptTrainer(GRPOTrainer):
    """TRL's GRPOTrainer over packed rows (`models.packing`), with the same numbers.

    Args:
        share_prompts: as in a recipe's `model` section; where the model cannot, the reason is logged once.
    """

    def __init__(self, *args: Any, share_prompts: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        reason = self._why_not() if share_prompts else None
        if reason is not None:
            log.warning("model.share_prompts: every rollout runs its own prompt, since %s", reason)
        self._share_prompts = share_prompts and reason is None

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # A sharded weight cannot be added to, and in 16 bits the sum is rounded: rollouts of another policy.
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        merges = self._share_prompts and not sharded and not self.use_vllm
        # `generate` goes around the autocasting of the training pass, which modules in 32 bits among 16 need
        casts = any(isinstance(module, ModulesToSaveWrapper) for module in self.model.modules())
        with (
            merged_adapter(self.model) if merges else nullcontext(),
            self.accelerator.autocast() if casts else nullcontext(),
        ):
            return super()._generate_single_turn(*args, **kwargs)

    def _why_not(self) -> str | None:
        if self.aux_loss_enabled:
            return "the auxiliary loss of a mixture of experts counts the tokens of every row"
        return why_not(self.accelerator.unwrap_model(self.model))

    def _repeats_prompts(self) -> bool:
        """Whether prompts are shared, and have several rollouts in this mode: training or evaluation."""
        rollouts = self.num_generations if self.model.training else self.num_generations_eval
        return self._share_prompts and rollouts > 1

    def _shares_prompts(self) -> bool:
        """Whether a pass over rollouts may hold a prompt twice."""
        args = self.args
        rows = args.per_device_train_batch_size if self.model.training else args.per_device_eval_batch_size
        return self._repeats_prompts() and rows > 1

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._repeats_prompts():
            return super()._generate_and_score_completions(inputs)
        processor = self.processing_class
        self.processing_class = PreparingOnce(processor, pretrained(self.model).config)
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.processing_class = processor
        if self.model.training:
            rows = torch.arange(len(inputs)) + self.accelerator.process_index * len(inputs)
            output[GROUP] = rows.to(output["prompt_ids"].device) // self.num_generations  # as TRL's sampler lays them
        return output

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training or not self._share_prompts or self._buffered_inputs is before:
            return inputs
        if len(self._buffered_inputs) > 1:
            self._buffered_inputs = keep_together(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        if not self._shares_prompts():
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        return self._shared_pass(model, *args, **kwargs)

    def _shared_pass(
        self,
        model: Any,
        ids: Tensor,
        valid: Tensor,
        keep: int,
        *,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """TRL's pass, in its parts of `batch_size` rows, each of them one packed row."""
        fields.pop("compute_aux_loss", None)
        share_prompts(pretrained(model))
        logps, entropies = [], []
        size = batch_size or len(ids)
        for start in range(0, len(ids), size):
            part = range(start, min(start + size, len(ids)))
            packed = pack(model, ids, valid, keep, fields=fields, part=part)
            with self.accelerator.autocast():
                output = model(**packed.inputs, fused_lm_head=True)
            logps.append(packed.unpack(output.log_probs))
            if compute_entropy:
                entropies.append(packed.unpack(output.entropy))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None


@contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """Add the adapter of a model in float32 to its weights meanwhile: two products less per layer and token.

    Afterwards the weights are what they were, to the bit. Nothing happens without an adapter, or in another type.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    weights = [weight for layer in layers for weight in layer.get_base_layer().parameters(recurse=False)]
    if not isinstance(model, PeftModel) or any(weight.dtype != torch.float32 for weight in weights):
        yield
        return
    before = [weight.detach().clone() for weight in weights]
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()
        with torch.no_grad():
            for weight, was in zip(weights, before, strict=True):
                weight.copy_(was)


def keep_together(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deal the rows of a shuffled generation batch out again so that groups stay whole where they fit.

    Groups come in the order in which they first appear, so it stays a random one; with B a multiple of G every batch
    holds B / G prompts, where independently shuffled rows would show almost as many prompts as there are.

    Args:
        batches: TRL's parts of one generation batch, of equal size, with the rows' groups in `GROUP`.
    """
    apart = [split_pixel_values_by_grid(batch) for batch in batches]
    whole = {key: _joined([batch[key] for batch in apart]) for key in apart[0]}
    group = whole[GROUP].tolist()
    first = {own: group.index(own) for own in set(group)}
    order = sorted(range(len(group)), key=lambda row: first[group[row]])
    whole = {key: _in_order(value, order) for key, value in whole.items()}
    return [unsplit_pixel_values_by_grid(batch) for batch in split_tensor_dict(whole, len(batches))]


def _joined(parts: Sequence[Any]) -> Any:
    """One value of all batches: rows behind each other; what has no rows is the same in all."""
    if isinstance(parts[0], list):
        return [*chain(*parts)]
    return torch.cat([*parts]) if isinstance(parts[0], Tensor) and parts[0].ndim else parts[0]


def _in_order(value: Any, order: Sequence[int]) -> Any:
    if isinstance(value, list):
        return [value[row] for row in order]
    return value[torch.tensor(order, device=value.device)] if isinstance(value, Tensor) and value.ndim else value
