"""`kind: distill`: a smaller model answers, and each of its tokens is drawn towards a larger model's distribution.

On-policy distillation (arXiv 2306.13649) with TRL's DistillationTrainer, images included. Student and teacher have to
read alike: one vocabulary, one way to prepare images, which is checked on a sample.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import DistillationConfig, DistillationTrainer

from grounding.completion import check_grammar
from grounding.decoding import Decoder
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from models.loading import load_policy, load_processor
from models.prompting import encode, prompt_text
from recipes.callbacks import StageState
from recipes.data import build_dataset
from recipes.dry_run import check_training, describe_training
from recipes.records.tracking import SHOWN, ShownRollout
from recipes.stage import STAGES, Stage
from recipes.training import build_args, build_datasets, build_lora, load_for, run_training

TEACHER = "teacher_model_name_or_path"


class FoveaDistillationTrainer(DistillationTrainer):
    """TRL's DistillationTrainer that keeps some of the student's answers to be shown.

    Args:
        dialect, grammar: of the answers; the other arguments are TRL's.
    """

    def __init__(self, *args: Any, dialect: str, grammar: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._reader, self._grammar = get_dialect(dialect), check_grammar(grammar)
        self._decoder = Decoder.of(self.processing_class, self.model.generation_config.eos_token_id, self._grammar)
        self.shown_rollouts: list[ShownRollout] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training and self.accelerator.is_main_process:
            self.shown_rollouts = []
            for row, ids, mask in zip(inputs, output["completion_ids"], output["completion_mask"], strict=True):
                if len(self.shown_rollouts) == SHOWN:
                    break
                text = self._decoder(ids[mask.bool()].tolist())
                answer = self._reader.parse(text, row["sizes"], grammar=self._grammar)
                self.shown_rollouts.append(ShownRollout(row["sample"], row["images"], text, answer, {}))
        return output


@STAGES.register("distill")
class DistillationStage(Stage):
    """On-policy distillation; `args` are the keys of `trl.DistillationConfig`, with a teacher."""

    args_type = DistillationConfig
    sections = frozenset({"data", "lora"})
    needs = frozenset({"data"})

    def arguments(self) -> DistillationConfig:
        asked = {"processor_kwargs": {"add_special_tokens": False}}  # the template writes every special token itself
        args = build_args(self.job, DistillationConfig, chat_template_kwargs=asked)
        if not args.teacher_model_name_or_path:
            raise UsageError(
                f"{self.job.where}.args.{TEACHER} is missing: the folder or Hub name of the larger model"
            )
        return args

    def check(self) -> None:
        args = self.arguments()
        check_training(self.job, args)
        self._check_teacher(args)

    def describe(self) -> list[tuple[str, str]]:
        args = self.arguments()
        lines = describe_training(self.job, args, supervised=False)
        return [
            *lines,
            ("teacher", f"{args.teacher_model_name_or_path}; its weights come on top of the memory above"),
        ]

    def _check_teacher(self, args: DistillationConfig) -> None:
        """Raise `UsageError` where there is no teacher, or one that does not read what the student reads."""
        spec, where = self.job.recipe.model, f"{self.job.where}.args.{TEACHER}"
        limits = {"min_pixels": spec.min_pixels, "max_pixels": spec.max_pixels}
        try:
            teacher = load_processor(
                args.teacher_model_name_or_path, **limits, trust_remote_code=spec.trust_remote_code
            )
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        student = load_processor(spec.path, **limits, trust_remote_code=spec.trust_remote_code)
        if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
            raise UsageError(f"{where}: its vocabulary is not that of {spec.path}; take a teacher of the same family")
        row = build_dataset(self.job.spec.data, spec, student)[0]
        asked = [prompt_text(student, row["prompt"])]
        own, other = (encode(one, asked, [row["images"]]) for one in (student, teacher))
        if own.keys() != other.keys() or not all(torch.equal(own[key], other[key]) for key in own):
            raise UsageError(f"{where}: it prepares images otherwise than {spec.path}; take one of the same family")

    def run(self) -> None:
        args = self.arguments()  # before the model: DeepSpeed's stage 3 decides how it is loaded
        job, spec = self.job, self.job.recipe.model
        model, processor = load_for(job, args)
        teacher, _ = load_policy(
            args.teacher_model_name_or_path,
            dtype=spec.dtype,
            attn_implementation=spec.attn_implementation,
            allow_pickle=spec.allow_pickle,
            trust_remote_code=spec.trust_remote_code,
        )
        trainer = FoveaDistillationTrainer(
            model=model,
            teacher_model=teacher.requires_grad_(False),
            args=args,
            **build_datasets(job, processor),
            processing_class=processor,
            peft_config=build_lora(job),
            dialect=spec.dialect,
            grammar=spec.grammar,
        )
        trainer.add_callback(StageState())
        run_training(job, trainer)
