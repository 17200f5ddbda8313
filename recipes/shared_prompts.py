"""A GRPO trainer that computes what the rollouts of a group have in common once: their prompt.

Whether it does is decided by the configuration, never by what a batch holds: under ZeRO and DDP all processes have to
run the model equally often.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from credit.text_attention import pretrained
from models.shared_prompts import pack, share_prompts, why_not

log = logging.getLogger("fovea")


class SharedPromptTrainer(GRPOTrainer):
    """TRL's GRPOTrainer over packed rows (`models.shared_prompts`), with the same numbers.

    Args:
        share_prompts: as in a recipe's `model` section; where the model cannot, the reason is logged once.
    """

    def __init__(self, *args: Any, share_prompts: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        reason = self._why_not() if share_prompts else None
        if reason is not None:
            log.warning("model.share_prompts: every rollout runs its own prompt, since %s", reason)
        self._share_prompts = share_prompts and reason is None

    def _why_not(self) -> str | None:
        if self.aux_loss_enabled:
            return "the auxiliary loss of a mixture of experts counts the tokens of every row"
        return why_not(self.accelerator.unwrap_model(self.model))

    def _shares_prompts(self) -> bool:
        """Whether a batch of this mode, training or evaluation, may hold a prompt twice."""
        args = self.args
        if self.model.training:
            return self._share_prompts and min(self.num_generations, args.per_device_train_batch_size) > 1
        return self._share_prompts and min(self.num_generations_eval, args.per_device_eval_batch_size) > 1

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
