"""What one call of TRL brings to a reward: the read completions, their groups, the columns, the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from grounding.errors import UsageError
from rewards import Reward
from rewards.reader import Completion, Reader, Rollout, required_column

DERIVED: dict[str, Callable[[Rollout, Reader], Any]] = {
    "text": lambda rollout, reader: rollout.text,
    "sizes": lambda rollout, reader: rollout.sizes,
    "messages": lambda rollout, reader: rollout.completion,
    "places": lambda rollout, reader: reader.dialect.read_thought(rollout.answer.thought or "", rollout.sizes),
}
COLUMN = {"tokens": "completion_ids", "prompt": "prompts"}  # what a reward calls it: what TRL calls it


class RewardBatch:
    """N completions of a step.

    Attributes:
        prompts, completions: as TRL gives them.
        columns: everything else TRL passes, by name, `completion_ids` and `prompts` among it.
        step: the trainer's global step, 0 outside a trainer.
    """

    def __init__(
        self,
        reader: Reader,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Any],
    ):
        self.prompts = prompts
        self.completions = completions
        self.columns = {**columns, "prompts": prompts}
        self.step = int(getattr(columns.get("trainer_state"), "global_step", 0))
        self._reader = reader
        self._rollouts: list[Rollout] | None = None

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions read, on first need: TRL's own reward functions need no samples."""
        if self._rollouts is None:
            self._rollouts = self._reader.read(self.completions, self.columns)
        return self._rollouts

    @property
    def groups(self) -> list[list[int]]:
        """Positions of the answers to each prompt: neighbors with the same sample, `num_generations` at a time.

        That column comes with the batch (the trainer knows whether it trains or evaluates); without it, outside a
        trainer, all neighbors with the same sample are one group.

        Raises:
            UsageError: a trainer does not say how large its groups are, or the border of the batch cuts one.
        """
        rows = required_column(self.columns, "sample")
        runs = [list(run) for _, run in groupby(range(len(self)), key=lambda i: rows[i])]
        if "num_generations" not in self.columns:
            if "trainer_state" in self.columns:
                raise UsageError(
                    "a reward compares the answers to a prompt, but no column num_generations of the batch says how "
                    "many there are; train with recipes.grpo.FoveaGRPOTrainer, or add the column to the data"
                )
            return runs
        groups = []
        for run in runs:
            size = int(self.columns["num_generations"][run[0]])
            if len(run) % size:
                raise UsageError(
                    f"a reward compares the {size} answers to a prompt, but the batch of {len(self)} cuts a group in "
                    "two; make per_device_train_batch_size * steps_per_generation (in evaluation, "
                    "per_device_eval_batch_size) a multiple of num_generations"
                )
            groups += [run[start : start + size] for start in range(0, len(run), size)]
        return groups

    def extras(self, reward: Reward, i: int) -> dict[str, Any]:
        """The keyword arguments `reward.needs` names, for completion `i`."""
        values = {}
        for wanted in reward.needs:
            need, optional = wanted.removesuffix("?"), wanted.endswith("?")
            if need in DERIVED:
                values[need] = DERIVED[need](self.rollouts[i], self._reader)
                continue
            name = COLUMN.get(need, need)
            if name in self.columns:
                values[need] = self.columns[name][i]
            elif optional:
                values[need] = None
            else:
                known = ", ".join(sorted(self.columns))
                raise UsageError(f"reward {reward.name!r} needs a column {name!r}; the batch has: {known}")
        return values
