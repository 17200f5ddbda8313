"""The passes of TRL's policy that `attention.rollout` needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from attention.rollout import image_counts
from grounding.errors import UsageError


class TrainerPasses:
    """`attention.rollout.PolicyPasses` of a trainer of TRL's.

    Raises:
        UsageError: rollouts of several turns, whose images and tokens come from elsewhere than the prompt.
    """

    def __init__(self, trainer: GRPOTrainer):
        if trainer.tools or trainer.environment_factories is not None or trainer.rollout_func is not None:
            raise UsageError(
                "rewards on attention know single-turn rollouts only: no tools, environments, rollout_func"
            )
        self._trainer = trainer
        self.device = trainer.accelerator.device

    def is_policy(self, model: Any) -> bool:
        """Not the reference: another model, or the policy with its adapter off or changed for the first one."""
        if model is not self._trainer.model:
            return False
        inner = self._trainer.accelerator.unwrap_model(model)
        if self._trainer.beta == 0.0 or not isinstance(inner, PeftModel):
            return True
        status = inner.get_model_status()
        return status.enabled is True and "ref" not in status.active_adapters

    def tokenize(self, prompts: Sequence[Any]) -> tuple[Any, Any, Mapping[str, Any]]:
        return self._trainer._tokenize_prompts(prompts)

    def inputs(
        self, prompts: Any, completions: Sequence[Sequence[int]], images: Any, fields: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        left, prompt_mask = self._padded(prompts, "left")
        right, mask = self._padded(completions, "right")
        given = {name: self._field(values, mask.shape[1]) for name, values in fields.items()}
        given["num_images"] = image_counts(images, len(prompts))
        return torch.cat([left, right], 1), torch.cat([prompt_mask, mask], 1), mask, given

    def run(self, ids: Tensor, valid: Tensor, keep: int, given: Mapping[str, Any]) -> None:
        trainer = self._trainer
        size = trainer.args.per_device_train_batch_size
        if not trainer.model.training:
            size = trainer.args.per_device_eval_batch_size
        kwargs = trainer.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(trainer.model, kwargs):
            trainer._get_per_token_logps_and_entropies(trainer.model, ids, valid, keep, batch_size=size, **given)

    def most(self, count: int) -> int:
        return int(self._trainer.accelerator.gather(torch.tensor(count, device=self.device)).max())

    def _padded(self, lists: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(list(ids), dtype=torch.long) for ids in lists]
        ids = pad(rows, padding_value=self._trainer._tokenizer.pad_token_id, padding_side=side)
        mask = pad([torch.ones_like(row) for row in rows], padding_side=side)
        return ids.to(self.device), mask.to(self.device)

    def _field(self, values: Any, completion: int) -> Tensor:
        """A field of the processor as a tensor: per token (a list of lists) with zeros for the completion."""
        if isinstance(values, list) and values and isinstance(values[0], list):
            rows = [torch.tensor(own) for own in values]
            tensor = torch.nn.functional.pad(pad(rows, padding_side="left"), (0, completion))
        else:
            tensor = values if isinstance(values, Tensor) else torch.tensor(np.array(values))
        return self._trainer._prepare_input(tensor)
