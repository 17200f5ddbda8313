"""The columns `attention`, `sinks` and `general` of the rewards on attention, for a trainer of TRL's.

Where TRL runs the policy over the finished rollouts anyway (for the old log-probabilities: vLLM, several iterations,
gradient accumulation out of step with generation), the maps come out of that pass. Else one more is made, without
gradients. A reward that contrasts with a general query costs a pass over each distinct prompt with that query.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from attention.maps import AttentionMaps, CapturedMaps
from grounding.answer import ImageSize
from grounding.errors import UsageError
from grounding.sample import Sample, from_row, regions_of

COLUMNS = frozenset({"attention", "general", "sinks"})


class RolloutAttention:
    """Fills the columns of each batch of rollouts.

    Args:
        trainer: whose policy looks. It calls `tokenized` with what `_tokenize_prompts` returned, wraps its forward
            passes during `scoring` in `observing`, and asks for `columns` before it calculates rewards.
        maps: reads the attention.
        general: whether a reward needs the contrast with a general query.

    Raises:
        UsageError: rollouts of several turns, whose images and tokens come from elsewhere than the prompt.
    """

    def __init__(self, trainer: GRPOTrainer, maps: AttentionMaps, general: bool):
        if trainer.tools or trainer.environment_factories is not None or trainer.rollout_func is not None:
            raise UsageError(
                "rewards on attention know single-turn rollouts only: no tools, environments, rollout_func"
            )
        self._trainer, self.maps, self._general = trainer, maps, general
        self._rows: Sequence[Mapping[str, Any]] | None = None
        self._tokenized: tuple[Any, ...] | None = None
        self._look: CapturedMaps | None = None
        self._passed = False  # a pass over the rollouts has been taken, or is being made
        self._logged: dict[str, list[float]] = defaultdict(list)
        self._seconds, self._since = 0.0, time.perf_counter()

    @contextmanager
    def scoring(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Around the generation and scoring of a batch."""
        self._rows, self._passed = rows, False
        try:
            yield
        finally:
            self._rows = self._look = self._tokenized = None

    def tokenized(self, prompts: tuple[Any, ...]) -> None:
        """Keep (prompt ids, images, fields of the processor), so that no image is prepared twice."""
        if self._rows is not None and self._tokenized is None:
            self._tokenized = (prompts[0], prompts[1], dict(prompts[2]))

    @contextmanager
    def observing(self, model: Any, ids: Tensor, valid: Tensor, keep: int) -> Iterator[None]:
        """Around a forward pass of TRL's: the first of the policy over the rollouts is taken."""
        if self._rows is None or self._passed or not self._is_policy(model):
            yield
            return
        self._passed = True
        started = time.perf_counter()
        weights, mask = self._weights(ids[:, -keep:], valid[:, -keep:])
        self._seconds += time.perf_counter() - started
        with self.maps.capturing(ids, valid, weights, mask) as self._look:
            yield
        self._seconds += self.maps.seconds

    def columns(self, prompts: Sequence[Any], completions: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """The columns of each rollout: numpy grids, None where there is no image.

        Args:
            prompts: conversations with their images in them, as TRL gives them to `_calculate_rewards`.
            completions: token ids.
        """
        started = time.perf_counter()
        samples = [from_row(json.loads(row["sample"]), "sample column") for row in self._rows]
        self._logged["own_pass"].append(float(not self._passed))
        look = self._look if self._passed else self._pass(*self._tokenized, completions)
        found = self._grids(look, self._tokenized, samples)
        general = self._general_grids(prompts, samples) if self._general else {}
        columns = [
            {"attention": pair and pair[0], "sinks": pair and pair[1], "general": general.get(row["sample"])}
            for pair, row in zip(found, self._rows, strict=True)
        ]
        self._logged["unread"].append(float(np.mean([pair is None or not pair[0].any() for pair in found])))
        self._seconds += time.perf_counter() - started
        return columns

    def metrics(self) -> dict[str, float]:
        """Means since the last call; empty when no rollouts were looked at.

        attention/unread (share of responses that hold no rows to read: no answer, or no thought), attention/own_pass
        (share of batches for which a pass was made on purpose), attention/seconds, and attention/time_share of the
        wall time since the last call.
        """
        if not self._logged:
            return {}
        now = time.perf_counter()
        values = {f"attention/{name}": sum(seen) / len(seen) for name, seen in self._logged.items()}
        values["attention/seconds"] = self._seconds
        values["attention/time_share"] = self._seconds / max(now - self._since, 1e-9)
        self._logged.clear()
        self._seconds, self._since = 0.0, now
        return values

    def _is_policy(self, model: Any) -> bool:
        """Not the reference: another model, or the policy with its adapter off or changed for the first one."""
        if model is not self._trainer.model:
            return False
        inner = self._trainer.accelerator.unwrap_model(model)
        if self._trainer.beta == 0.0 or not isinstance(inner, PeftModel):
            return True
        status = inner.get_model_status()
        return status.enabled is True and "ref" not in status.active_adapters

    def _weights(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [[ImageSize(*numbers) for numbers in json.loads(row["sizes"])] for row in self._rows]
        return self.maps.row_weights(ids, mask, sizes), mask.bool()

    def _pass(
        self, prompts: Any, images: Any, fields: Mapping[str, Any], completions: Sequence[Sequence[int]] | None = None
    ) -> CapturedMaps:
        """Run the policy over prompts, and their completions where there are any: else the last token looks."""
        trainer = self._trainer
        empty = [[]] * len(prompts) if completions is None else completions
        left, prompt_mask = self._padded(prompts, "left")
        right, mask = self._padded(empty, "right")
        ids, valid = torch.cat([left, right], 1), torch.cat([prompt_mask, mask], 1)
        given = {name: self._field(values, mask.shape[1]) for name, values in fields.items()}
        given["num_images"] = _counts(images, len(prompts))
        if completions is None:
            weights, mask, first = torch.ones(len(ids), 1, device=ids.device), None, ids.shape[1] - 1
        else:
            (weights, mask), first = self._weights(right, mask), None
        size = trainer.args.per_device_train_batch_size
        size = size if trainer.model.training else trainer.args.per_device_eval_batch_size
        kwargs = trainer.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(trainer.model, kwargs):
            self._passed = True
            with self.maps.capturing(ids, valid, weights, mask, first) as look:
                keep = max(1, right.shape[1])  # all of a completion, for its prompt may be shared
                trainer._get_per_token_logps_and_entropies(trainer.model, ids, valid, keep, batch_size=size, **given)
        return look

    def _grids(self, look: CapturedMaps, tokenized: tuple[Any, ...], samples: Sequence[Sample]) -> list[Any]:
        _, images, fields = tokenized
        counts = _counts(images, len(samples))
        if "image_grid_thw" not in fields and any(counts):
            raise UsageError("rewards on attention need a processor that tells image_grid_thw (the Qwen-VL kind)")
        grids = torch.as_tensor(np.array(fields.get("image_grid_thw", np.zeros((0, 3), int))))
        wanted = [_target_image(sample) for sample in samples]
        return self.maps.grids(look, grids, counts, wanted, [sample.id for sample in samples])

    def _general_grids(self, prompts: Sequence[Any], samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        """row's sample -> the map of the general query on its image, from one pass over the distinct prompts."""
        distinct: dict[str, int] = {}
        for index, row in enumerate(self._rows):
            distinct.setdefault(row["sample"], index)
        chosen = [index for index in distinct.values() if samples[index].images]
        own = torch.tensor(len(chosen), device=self._trainer.accelerator.device)
        most = int(self._trainer.accelerator.gather(own).max())
        if not most:
            return {}
        # under ZeRO-3 every process has to run the model equally often
        rows = (chosen or [0]) + (chosen or [0])[-1:] * (most - max(len(chosen), 1))
        asked = [general_prompt(prompts[index], self.maps.config.query) for index in rows]
        tokenized = self._trainer._tokenize_prompts(asked)
        found = self._grids(self._pass(*tokenized), tokenized, [samples[index] for index in rows])
        return {
            self._rows[index]["sample"]: pair[0] for index, pair in zip(rows, found, strict=True) if pair is not None
        }

    def _padded(self, lists: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(list(ids), dtype=torch.long) for ids in lists]
        device = self._trainer.accelerator.device
        ids = pad(rows, padding_value=self._trainer._tokenizer.pad_token_id, padding_side=side)
        return ids.to(device), pad([torch.ones_like(row) for row in rows], padding_side=side).to(device)

    def _field(self, values: Any, completion: int) -> Tensor:
        """A field of the processor as a tensor: per token (a list of lists) with zeros for the completion."""
        if isinstance(values, list) and values and isinstance(values[0], list):
            rows = [torch.tensor(own) for own in values]
            tensor = torch.nn.functional.pad(pad(rows, padding_side="left"), (0, completion))
        else:
            tensor = values if isinstance(values, Tensor) else torch.tensor(np.array(values))
        return self._trainer._prepare_input(tensor)


def general_prompt(prompt: Sequence[Mapping[str, Any]], query: str) -> list[dict[str, Any]]:
    """A conversation with its images where they were, and a general query for the words of its last user message."""
    messages = [dict(message) for message in prompt]
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    content = messages[last]["content"]
    if isinstance(content, str):
        messages[last]["content"] = query
        return messages
    words = [index for index, part in enumerate(content) if part["type"] == "text"]
    messages[last]["content"] = [
        {"type": "text", "text": query} if index == words[0] else part
        for index, part in enumerate(content)
        if index not in words[1:]
    ]
    return messages


def _counts(images: Sequence[Any] | None, rows: int) -> list[int]:
    """How many images each row shows."""
    return [0] * rows if images is None else [len(own) if own else 0 for own in images]


def _target_image(sample: Sample) -> int:
    """The image of the sample's first region; the first one where it has none."""
    return next((region.image for region in regions_of(sample.target) if hasattr(region, "image")), 0)
