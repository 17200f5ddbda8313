"""One GRPO step with credit and attention rewards on responses that are given: `python -m tests.credit.zero_step`.

Run alone and under `accelerate launch` by test_credit_distributed.py, which compares what each process wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from credit.assigner import WEIGHTS
from recipes.grpo import FoveaGRPOTrainer
from recipes.runner import jobs_of
from recipes.stage import STAGES
from tests.recipes.test_stages import recipe_of

PROMPTS, GENERATIONS = 2, 2
CREDIT = {
    "strategy": "coupled_rhythm",
    "params": {"min_length": 1, "waad_quantile": 0.8, "delta_quantile": 0.2},
    "horizon": [1, 6],
    "normalize": "batch",  # over the responses of all processes
}
SEEN: dict[tuple[int, ...], dict[str, Any]] = {}


def witness(completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
    """A reward of TRL's signature: different for every response, so that none has an advantage of zero."""
    for at, ids in enumerate(completion_ids):
        SEEN[tuple(ids)] = {name: columns[name][at].tolist() for name in ("attention", "general")}
    return [float(sum(ids)) for ids in completion_ids]


class Given(FoveaGRPOTrainer):
    """Instead of generating, every process takes its part of the same responses."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        first = self.accelerator.process_index * len(prompt_ids)
        responses = []
        for index in range(first, first + len(prompt_ids)):
            draw = torch.Generator().manual_seed(index)
            responses.append(torch.randint(10, 200, (20 - 3 * index,), generator=draw).tolist())
        return responses, None

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        for ids, mask, weights in zip(
            inputs["completion_ids"], inputs["completion_mask"].bool(), inputs[WEIGHTS], strict=True
        ):
            SEEN[tuple(ids[mask].tolist())]["weights"] = weights[mask].tolist()
        return loss


def main(model: str, data: str, out: str, *, each: int, shared: bool) -> None:
    grpo = {
        "rewards": ["attention_in_target", "attention_contrast", f"{__name__}.witness"],
        "attention": {"rows": "response"},
        "credit": CREDIT,
        "lora": {"r": 4},
        "args": {
            "max_steps": 1,
            "per_device_train_batch_size": each,
            "num_generations": GENERATIONS,
            "save_strategy": "no",
            "gradient_checkpointing": True,
        },
    }
    recipe = recipe_of(Path(model), Path(data), Path(out), grpo=grpo)
    (job,) = jobs_of(recipe.model_copy(update={"model": recipe.model.model_copy(update={"share_prompts": shared})}))
    trainer = STAGES.get("grpo")(job).trainer(Given)
    trainer.train()
    found = [{"ids": list(ids), **seen} for ids, seen in SEEN.items()]
    file = Path(out) / f"{trainer.accelerator.process_index}.json"
    file.write_text(json.dumps({"distributed": trainer.is_deepspeed_enabled, "responses": found}), encoding="utf-8")


if __name__ == "__main__":
    sys.modules["tests.credit.zero_step"] = sys.modules["__main__"]  # where the recipe looks for the reward
    witness.__module__ = "tests.credit.zero_step"
    __name__ = "tests.credit.zero_step"
    main(*sys.argv[1:4], each=int(sys.argv[4]), shared=sys.argv[5] == "shared")
