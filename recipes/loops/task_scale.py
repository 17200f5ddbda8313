"""Advantages of a mixed set, each over the spread of its own task.

With `scale_rewards: none` TRL's advantage is a reward minus its group's mean. A task whose rewards differ by little
(IoU of large boxes) then weighs less than one that is right or wrong; over the group's own deviation (TRL's default)
a group that hardly differs weighs as much as one that does. Task-wise, the deviation is that of all rollouts of the
task in the generation batch: TRL's `scale_rewards: batch` (arXiv 2508.08221), task by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

SMALL = 1e-4  # as in TRL


def deviations(rewards: Tensor, tasks: Sequence[str]) -> Tensor:
    """The standard deviation (over n - 1, at least two rewards) of the rewards of each rollout's task.

    Args:
        rewards: (N,); NaN where no reward applied, which counts nowhere.
        tasks: of each rollout.

    Returns:
        (N,), 0 for a task with fewer than two rewards.
    """
    found = torch.zeros_like(rewards)
    names = list(tasks)
    for task in set(names):
        own = torch.tensor([name == task for name in names], device=rewards.device)
        known = rewards[own & ~rewards.isnan()]
        found[own] = known.std() if len(known) > 1 else 0.0
    return found


class TaskScale:
    """Before a GRPO trainer of TRL's, in front of `_calculate_rewards`: advantages as `deviations` scales them.

    Attributes:
        scale_by: `source` or `kind` of a sample, which makes a task; None leaves advantages as TRL makes them.
    """

    scale_by: str | None = None
    _paid: Tensor

    def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, completion_ids: Any) -> Any:
        self._paid = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        return self._paid

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.scale_by is None or not self.model.training:
            return output
        paid = self._paid * self.reward_weights.to(self._paid.device)
        total = paid.nansum(1).masked_fill(self._paid.isnan().all(1), torch.nan)
        own = [getattr(row["sample"], self.scale_by) for row in inputs]  # by now: dynamic sampling swaps
        spread = deviations(total, gather_object(own))  # of all processes, as TRL's rewards are
        rank, count = self.accelerator.process_index, len(own)
        output["advantages"] = output["advantages"] / (spread[rank * count : (rank + 1) * count] + SMALL)
        return output
