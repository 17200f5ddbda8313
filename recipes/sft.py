"""`kind: sft`: supervised fine-tuning on right answers with their thoughts, the cold start before GRPO.

TRL's SFTTrainer as it is. Rows are prompt and completion, so the loss is on the completion alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from trl import SFTConfig, SFTTrainer

from grounding.errors import UsageError
from recipes.data import whole_rows
from recipes.dry_run import check_training, describe_training
from recipes.records.tracking import ShownRollout
from recipes.stage import STAGES, Stage
from recipes.training import build_args, build_datasets, build_lora, build_toolbox, load_for, run_training


@STAGES.register("sft")
class SupervisedStage(Stage):
    """Supervised fine-tuning; `args` are the keys of `trl.SFTConfig`."""

    args_type: ClassVar[type[SFTConfig]] = SFTConfig
    sections = frozenset({"data", "eval", "lora", "train", "tools"})
    needs = frozenset({"data"})
    drawn: Sequence[ShownRollout] = ()  # before the training, where the stage makes its own answers

    def arguments(self) -> SFTConfig:
        return build_args(self.job, self.args_type, max_length=None)

    def check(self) -> None:
        args = self.arguments()
        self.check_learned(args)
        check_training(self.job, args, supervised=True)

    def check_learned(self, args: SFTConfig) -> None:
        """Raise `UsageError` where tokens that a tool writes would be learned."""
        if self.job.spec.tools is not None and args.completion_only_loss is False:
            key = f"{self.job.where}.args.completion_only_loss"
            raise UsageError(f"{key}: with tools only what the model writes is learned; remove the key")

    def describe(self) -> list[tuple[str, str]]:
        return describe_training(self.job, self.arguments(), supervised=True)

    def datasets(self, processor: Any) -> dict[str, Any]:
        """The trainer's `train_dataset`, and `eval_dataset` where there is one: rows with a completion."""
        toolbox = build_toolbox(self.job, processor)
        return build_datasets(self.job, processor, with_completion=True, toolbox=toolbox)

    def run(self) -> None:
        args = self.arguments()  # before the model: DeepSpeed's stage 3 decides how it is loaded
        model, processor = load_for(self.job, args)
        trainer = SFTTrainer(
            model=model,
            args=args,
            data_collator=whole_rows(args, processor),
            **self.datasets(processor),
            processing_class=processor,
            peft_config=build_lora(self.job, model),
        )
        run_training(self.job, trainer, self.drawn)
