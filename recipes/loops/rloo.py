"""`kind: rloo`: REINFORCE leave-one-out (arXiv 2402.14740), TRL's RLOOTrainer with our rewards; no token credit."""

from __future__ import annotations

from typing import Any

from trl import RLOOConfig, RLOOTrainer

from grounding.completion import check_grammar
from grounding.decoding import Decoder
from grounding.dialects import get_dialect
from recipes.callbacks import StageState
from recipes.grpo import PolicyStage, RewardedAnswers, ScheduledWeights, WholeBatches
from recipes.stage import STAGES
from recipes.training import build_datasets, build_lora, load_for
from rewards.spec import has_weight_schedule


class FoveaRLOOTrainer(RewardedAnswers, RLOOTrainer):
    """TRL's RLOOTrainer whose rewards read the answers as the dialect writes them.

    Args:
        dialect, grammar: of the model's completions; the other arguments are TRL's.
    """

    tools: tuple[Any, ...] = ()

    def __init__(self, *args: Any, dialect: str | None = None, grammar: str = "think", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.reader, self.grammar = None if dialect is None else get_dialect(dialect), check_grammar(grammar)
        self.decoder = Decoder.of(self.processing_class, self.eos_token_ids, check_grammar(grammar))
        self.add_callback(StageState())
        self.add_callback(WholeBatches(self))


@STAGES.register("rloo")
class LeaveOneOutStage(PolicyStage):
    """REINFORCE leave-one-out; `args` are the keys of `trl.RLOOConfig`."""

    args_type = RLOOConfig
    sections = frozenset({"data", "eval", "lora", "rewards"})

    def trainer(self) -> FoveaRLOOTrainer:
        """The stage's trainer."""
        job = self.job
        args = self.arguments()  # before the model: DeepSpeed's stage 3 decides how it is loaded
        rewards = self.rewards()
        model, processor = load_for(job, args)
        trainer = FoveaRLOOTrainer(
            model=model,
            reward_funcs=rewards,
            args=args,
            **build_datasets(job, processor),
            processing_class=processor,
            peft_config=build_lora(job),
            dialect=job.recipe.model.dialect,
            grammar=job.recipe.model.grammar,
        )
        if has_weight_schedule(job.spec.rewards):
            trainer.add_callback(ScheduledWeights(trainer, job.spec.rewards))
        return trainer
