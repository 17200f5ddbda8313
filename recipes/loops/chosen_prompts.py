"""GRPO that chooses its prompts: rows by their running reward, and other prompts for groups without spread.

Neither changes TRL's loss or loop. The first is a sampler. The second takes place inside TRL's generation: what is
generated is scored there, groups whose rewards are all equal give way to those of further prompts, and TRL goes on
with the rows, completions and rewards that result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.data_utils import prepare_multimodal_messages

from recipes.loops.difficulty import ChosenRows, SamplingConfig

FLAT = 1e-6  # rewards of a group that differ by no more are equal


class DifficultySampler(Sampler[int]):
    """`ChosenRows` in the layout of TRL's RepeatSampler.

    Args:
        rows: what chooses.
        count: rows of the data set; an epoch has as many draws.
        size: distinct rows of a generation batch.
        group: rollouts of a row.
        repeat: how often TRL asks for a generation batch.
    """

    def __init__(self, rows: ChosenRows, count: int, *, size: int, group: int, repeat: int):
        self._rows, self._chunks = rows, count // size
        self._size, self._group, self._repeat = size, group, repeat

    def __iter__(self) -> Iterator[int]:
        for number in range(self._chunks):
            chunk = self._rows.chunk(number, self._size)
            for _ in range(self._repeat):
                for row in chunk:
                    yield from [row] * self._group

    def __len__(self) -> int:
        return self._chunks * self._size * self._group * self._repeat


class Epochs(TrainerCallback):
    """Tells the rows which epoch it is; a sampler behind Accelerate's wrappers is not told."""

    def __init__(self, rows: ChosenRows):
        self._rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._rows.begin(int((state.epoch or 0.0) + 1e-6))


class ChosenPrompts:
    """Before a GRPO trainer of TRL's: prompts as a recipe's `sampling` section says; TRL's own without one."""

    chosen: ChosenRows | None = None
    _sampling: SamplingConfig | None = None
    _open: list[dict[str, Any]] | None = None  # rows of the generation batch that is being made
    _scored: Tensor | None = None  # its rewards once they are known

    def choose(self, config: SamplingConfig | None) -> None:
        """Take over the choice of prompts. To be called once the trainer is made."""
        if config is not None:
            self._sampling = config
            self.chosen = ChosenRows(config, len(self.train_dataset), self.args.seed)
            self.add_callback(Epochs(self.chosen))

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        if self.chosen is None:
            return super()._get_train_sampler(dataset)
        args = self.args
        return DifficultySampler(
            self.chosen,
            len(self.train_dataset),
            size=args.generation_batch_size // self.num_generations,
            group=self.num_generations,
            repeat=self.num_iterations * args.steps_per_generation,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        replaces = self._sampling is not None and self._sampling.extra and self.model.training
        self._open, self._scored = (inputs if replaces else None), None
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._open = self._scored = None

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        generated = super()._generate(prompts)
        if self._open is None:
            return generated
        rows, self._open = self._open, None
        return self._with_spread(rows, prompts, generated)

    def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, completion_ids: Any) -> Any:
        if self._scored is not None:
            return self._scored
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        if self.chosen is not None and self.model.training:
            began = time.perf_counter()
            own = torch.tensor([row["index"] for row in inputs], device=rewards.device)
            rows = self.accelerator.gather(own)[:: self.num_generations].tolist()
            groups = self._followed(rewards).view(-1, self.num_generations)
            highest = groups.nan_to_num(-torch.inf).amax(1)
            self.chosen.update(rows, torch.nanmean(groups, 1).tolist(), highest.tolist())
            self._note("inside", self.chosen.inside)
            self._note("rare", float(len(self.chosen.rare)))
            self._note("seconds", time.perf_counter() - began)
        return rewards

    def _with_spread(self, rows: list[Any], prompts: list[Any], generated: tuple[Any, ...]) -> tuple[Any, ...]:
        """What was generated, with groups of further prompts in the place of those without spread.

        TRL's lists of rows and prompts are changed where they are, since TRL goes on with them.
        """
        group, world = self.num_generations, self.accelerator.num_processes
        rewards = self._calculate_rewards(rows, prompts, generated[3], generated[1])
        flat = self._is_flat(rewards).view(world, -1)
        # Every process has to generate equally often and equally much
        count = min(int(flat.sum(1).max()), self._sampling.extra // world)
        asked = self.accelerator.gather(torch.tensor([row["index"] for row in rows], device=rewards.device)).tolist()
        more = self.chosen.more(count * world, set(asked), self.state.global_step) if count else []
        count = len(more) // world
        replaced = 0
        if count:
            rank = self.accelerator.process_index
            own = [dict(self.train_dataset[row]) for row in more[rank * count : (rank + 1) * count]]
            own = [dict(row) for row in own for _ in range(group)]
            asks = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in own]
            other = super()._generate(asks)
            scored = self._calculate_rewards(own, asks, other[3], other[1])
            good = ~self._is_flat(scored).view(world, -1)
            rewards = rewards.clone()
            for process in range(world):
                places, found = flat[process].nonzero().flatten().tolist(), good[process].nonzero().flatten().tolist()
                for old, new in zip(places, found, strict=False):
                    here, there = _rollouts(old, group), _rollouts(new, group)
                    start, begin = process * flat.shape[1] * group, process * count * group
                    rewards[start + here.start : start + here.stop] = scored[begin + there.start : begin + there.stop]
                    replaced += 1
                    if process == rank:
                        for mine, others in ((rows, own), (prompts, asks), *zip(generated, other, strict=True)):
                            if isinstance(mine, list) and mine:
                                mine[here] = others[there]
        self._note("flat", float(flat.float().mean()))
        self._note("replaced", float(replaced))
        self._note("extra_rollouts", float(count * world * group))
        self._scored = rewards
        return generated

    def _followed(self, rewards: Tensor) -> Tensor:
        """(N, F) rewards to the (N,) whose mean is followed; not a number where nothing applied."""
        if self._sampling.reward is not None:
            return rewards[:, self.reward_func_names.index(self._sampling.reward)]
        weights = self.reward_weights.to(rewards.device)
        return self._total(rewards) / weights.abs().sum()

    def _total(self, rewards: Tensor) -> Tensor:
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        return total.masked_fill(rewards.isnan().all(1), torch.nan)

    def _is_flat(self, rewards: Tensor) -> Tensor:
        """(N, F) rewards of all processes to (groups,): whether a group's are all equal, or none is there."""
        groups = self._total(rewards).view(-1, self.num_generations)
        spread = groups.nan_to_num(-torch.inf).amax(1) - groups.nan_to_num(torch.inf).amin(1)
        return ~(spread > FLAT)

    def _note(self, name: str, value: float) -> None:
        self._metrics["train"][f"sampling/{name}"].append(value)


def _rollouts(place: int, group: int) -> slice:
    return slice(place * group, (place + 1) * group)
