"""`kind: grpo`: reinforcement learning with verifiable rewards, and credit per token where the recipe asks for it."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer, RLOOConfig
from trl.models.utils import disable_gradient_checkpointing

from attention.reading import layers_of
from attention.rollout import COLUMNS, RolloutAttention
from attention.specification import MapConfig
from credit.assigner import CreditAssigner
from credit.schema import CreditConfig
from grounding.completion import Grammar, check_grammar
from grounding.decoding import Decoder
from grounding.dialects import Dialect, get_dialect
from grounding.errors import UsageError
from grounding.registry import nearest
from models.loading import load_config
from recipes.callbacks import StageState
from recipes.dry_run import check_training, describe_training, rewards_line
from recipes.episodes import EpisodeTrainer, chat_text
from recipes.loops.chosen_prompts import ChosenPrompts
from recipes.loops.difficulty import SamplingConfig
from recipes.loops.task_scale import TaskScale
from recipes.records.tracking import SHOWN, ShownRollout
from recipes.rollout_passes import TrainerPasses
from recipes.stage import STAGES, Stage
from recipes.training import build_args, build_datasets, build_lora, build_toolbox, load_for, run_training
from rewards.compose import RewardFunction, build_rewards, columns_read
from rewards.spec import RewardSpec, has_weight_schedule, weights
from tools.loop import Played


class RewardedAnswers:
    """Before a trainer of TRL's: rewards get the answers as they are read elsewhere, and the size of their groups.

    Attributes:
        decoder: of the completions.
        reader: parses them, to be shown; None where no dialect is known.
        shown_rollouts: of the newest generation batch.
    """

    decoder: Decoder
    reader: Dialect | None = None
    grammar: Grammar = "think"
    shown_rollouts: Sequence[ShownRollout] = ()
    _played: Sequence[Played] = ()  # where there are tools

    def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, completion_ids: Any) -> Any:
        if not self.tools:  # TRL leaves special tokens out, which the answers of some families are made of
            completions = [[{"role": "assistant", "content": self.decoder(ids)}] for ids in completion_ids]
        size = self.num_generations if self.model.training else self.num_generations_eval
        mode = {"num_generations": size, "training": self.model.training}  # only the trainer knows them
        inputs = [{**row, **mode} for row in inputs]
        paid = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        if self.model.training and self.reader is not None and self.accelerator.is_main_process:
            self.shown_rollouts = self._shown(inputs, completions, paid)
        return paid

    def _shown(self, inputs: list[Any], completions: Any, paid: torch.Tensor) -> list[ShownRollout]:
        """The first completions of some prompts; this process's rows of `paid` (rows, rewards) come first."""
        found = []
        for index in range(0, len(inputs), self.num_generations)[:SHOWN]:
            row, text = inputs[index], chat_text(completions[index])
            if self._played:
                answer = self._played[index].episode.answer
            else:
                answer = self.reader.parse(text, row["sizes"], grammar=self.grammar)
            values = [None if value.isnan() else float(value) for value in paid[index]]
            rewards = dict(zip(self.reward_func_names, values, strict=True))
            found.append(ShownRollout(row["sample"], row["images"], text, answer, rewards))
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.log_completions:  # a table of wandb's takes texts, not lists of an image and a text
            for name in ("prompt", "completion"):
                chats = self._logs[name]
                self._logs[name] = deque(map(chat_text, chats), chats.maxlen)
        super().log(logs, start_time)


class FoveaGRPOTrainer(TaskScale, RewardedAnswers, ChosenPrompts, EpisodeTrainer):
    """TRL's GRPOTrainer with advantages of shape (B, T) where there is a credit strategy; without one, TRL's own.

    TRL reads the advantages of a batch after its training forward pass, and takes (B, T) as well as (B,). So the
    weights are made between the two, from what that very forward pass showed.
    """

    def __init__(
        self,
        *args: Any,
        credit: CreditConfig | Mapping[str, Any] | None = None,
        attention: MapConfig | Mapping[str, Any] | None = None,
        sampling: SamplingConfig | None = None,
        scale_by: str | None = None,
        dialect: str | None = None,
        grammar: str = "think",
        **kwargs: Any,
    ):
        """Arguments as in TRL, and `credit`, `attention`, `sampling` and `scale_by`, the recipe's, with the model's
        dialect and grammar. Attention is looked at only where a reward reads it."""
        super().__init__(*args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        self.decoder = Decoder.of(self.processing_class, self.eos_token_ids, check_grammar(grammar))
        reader = None if dialect is None else get_dialect(dialect)
        self.reader, self.grammar = reader, check_grammar(grammar)
        self.credit: CreditAssigner | None = None
        if credit is not None:
            draws = {"seed": self.args.seed, "rank": self.accelerator.process_index}
            told = reader if self.toolbox is None else None  # a text of several turns has no one answer to find
            self.credit = CreditAssigner(credit, policy, self.processing_class, told, grammar, **draws)
        self.rollout_attention: RolloutAttention | None = None
        read = columns_read(self.reward_funcs) & COLUMNS
        if read:
            passes = TrainerPasses(self)
            given = (attention or {}, policy, self.processing_class, reader, grammar)
            self.rollout_attention = RolloutAttention(*given, passes=passes, general="general" in read)
        self._crediting: tuple[dict[str, Any], dict[str, Any]] | None = None
        self.choose(sampling)
        self.scale_by = scale_by
        parts = {
            "sampling": self.chosen,
            "credit": self.credit,
            "attention": None if self.rollout_attention is None else self.rollout_attention.reader,
        }
        self.add_callback(StageState({name: part for name, part in parts.items() if part is not None}))
        self.add_callback(WholeBatches(self))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with nullcontext() if self.rollout_attention is None else self.rollout_attention.scoring(inputs):
            output = super()._generate_and_score_completions(inputs)
        if self.credit is not None:
            output.update(self.credit.annotate(inputs, output, self._step))
            if self.credit.over_batch and self.model.training and self.args.steps_per_generation > 1:
                self._weigh_whole(output)
        return output

    def _weigh_whole(self, output: dict[str, Any]) -> None:
        """Make the weights of a whole generation batch, before it is split: one more pass, without gradients."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        valid = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        known = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
        given = {name: output[name] for name in known if name in output}
        given |= {"batch_size": self.args.per_device_train_batch_size, "compute_entropy": True}
        shown = self.model, ids, valid, output["completion_ids"].shape[1]
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            with self.credit.capturing(output):
                logps, entropies, _ = self._get_per_token_logps_and_entropies(*shown, **given)
            masked_logps = None
            if self.credit.wants_masked_logps(output):
                given["pixel_values"] = self.credit.masked_pixels(output, self._step)
                masked_logps, _, _ = self._get_per_token_logps_and_entropies(*shown, **given)
        self.credit.weights(output, logps, entropies, masked_logps)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, ...]:
        tokenized = super()._tokenize_prompts(prompts)
        if self.rollout_attention is not None:
            self.rollout_attention.tokenized(tokenized)
        return tokenized

    def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, completion_ids: Any) -> Any:
        if self.rollout_attention is not None:
            columns = self.rollout_attention.columns(prompts, completion_ids)
            inputs = [{**row, **own} for row, own in zip(inputs, columns, strict=True)]
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self.credit is None or not self.model.training:
            return super()._compute_loss(model, inputs)
        batch = dict(inputs)  # the buffered batch keeps its (B,) advantages for the next iteration
        self._crediting = (inputs, batch)
        try:
            return super()._compute_loss(model, batch)
        finally:
            self._crediting = None

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        if self._crediting is None and self.rollout_attention is not None:
            with self.rollout_attention.observing(model, *args[:3]):
                return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        if self._crediting is None:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        inputs, batch = self._crediting
        with self.credit.capturing(inputs):
            logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        masked_logps = None
        if self.credit.wants_masked_logps(inputs):
            with torch.no_grad():
                masked = {**kwargs, "pixel_values": self.credit.masked_pixels(inputs, self._step)}
                masked_logps, _, _ = super()._get_per_token_logps_and_entropies(model, *args, **masked)
        token_weights = self.credit.weights(inputs, logps, entropies, masked_logps)
        batch["advantages"] = self.credit.apply(token_weights, inputs["advantages"])
        return logps, entropies, aux_loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.credit is not None and self.model.training:
            logs.update(self.credit.metrics())
        if self.rollout_attention is not None and self.model.training:
            logs.update(self.rollout_attention.metrics())
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.credit is not None and self.args.should_save:
            self.credit.save(Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")


class WholeBatches(TrainerCallback):
    """Saves only between two generation batches, so that a resumed run draws the rollouts an uninterrupted one draws.

    A checkpoint holds no rollouts; where a batch of them serves several steps, one in between could only go on with
    new ones. A save that is due waits for the batch's last step; the one on a signal does not.
    """

    def __init__(self, trainer: GRPOTrainer):
        self._trainer = trainer
        self._waiting = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # TRL counts from 0 after a resume, and would generate out of step with its sampler
        self._trainer._step = state.global_step * args.gradient_accumulation_steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        due = control.should_save or self._waiting
        steps = args.steps_per_generation * args.num_iterations
        between = state.global_step * args.gradient_accumulation_steps % steps == 0
        control.should_save = due and (between or state.global_step >= state.max_steps)
        self._waiting = due and not control.should_save


class ScheduledWeights(TrainerCallback):
    """Gives TRL the weights of the rewards as the recipe's schedule has them at each step."""

    def __init__(self, trainer: GRPOTrainer, specs: Sequence[RewardSpec]):
        self._trainer, self._specs = trainer, specs

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer.reward_weights = torch.tensor(weights(self._specs, state.global_step), dtype=torch.float32)


@STAGES.register("grpo")
class PolicyStage(Stage):
    """Group relative policy optimization; `args` are the keys of `trl.GRPOConfig`."""

    args_type: ClassVar[type[GRPOConfig | RLOOConfig]] = GRPOConfig
    sections = frozenset(
        {"data", "eval", "lora", "train", "rewards", "credit", "attention", "tools", "sampling", "scale_by"}
    )
    needs = frozenset({"data", "rewards"})

    def arguments(self) -> Any:
        return build_args(
            self.job,
            self.args_type,
            reward_weights=weights(self.job.spec.rewards),
            # The template writes every special token itself, as in the other stages and in evaluation
            chat_template_kwargs={"processor_kwargs": {"add_special_tokens": False}},
        )

    def rewards(self) -> list[RewardFunction]:
        model = self.job.recipe.model
        specs = self.job.spec.rewards
        return build_rewards(specs, model.dialect, model.grammar)

    def check(self) -> None:
        args = self.arguments()
        self._maps(self.rewards())
        self._check_sampling(args)
        self._check_scale(args)
        check_training(self.job, args)

    def _check_scale(self, args: GRPOConfig) -> None:
        if self.job.spec.scale_by is None:
            return
        where = f"{self.job.where}.scale_by"
        if args.scale_rewards != "none":
            raise UsageError(f"{where}: TRL scales by {args.scale_rewards} already; set args.scale_rewards: none")
        if args.multi_objective_aggregation != "sum_then_normalize":
            raise UsageError(f"{where}: not with args.multi_objective_aggregation; remove one of the two")

    def _check_sampling(self, args: GRPOConfig) -> None:
        sampling, where = self.job.spec.sampling, f"{self.job.where}.sampling"
        labels = [spec.display for spec in self.job.spec.rewards]
        if sampling is None:
            return
        if sampling.reward is not None and sampling.reward not in labels:
            raise UsageError(f"{where}.reward: no reward {sampling.reward!r}{nearest(sampling.reward, labels)}")
        if not sampling.extra:
            return
        if self.job.spec.tools is not None or columns_read(self.rewards()) & COLUMNS:
            raise UsageError(f"{where}.extra: not with tools or rewards on attention; remove the key")
        if args.per_device_train_batch_size * args.steps_per_generation % args.num_generations:
            raise UsageError(
                f"{where}.extra: groups lie across processes; make per_device_train_batch_size * "
                "steps_per_generation a multiple of num_generations"
            )
        if sampling.extra < args.world_size:
            raise UsageError(f"{where}.extra is {sampling.extra}: at least one prompt a process, {args.world_size}")

    def describe(self) -> list[tuple[str, str]]:
        args = self.arguments()
        specs = self.job.spec.rewards
        lines = describe_training(self.job, args, supervised=False, rewards=self.rewards())
        lines.append(rewards_line(specs))
        credit = self.job.spec.credit
        lines.append(("credit", "none: every token alike" if credit is None else credit.strategy))
        maps = self._maps(self.rewards())
        if maps is not None:
            path, trust = self.job.recipe.model.path, self.job.recipe.model.trust_remote_code
            layers = ", ".join(map(str, layers_of(maps.layers, load_config(path, trust_remote_code=trust))))
            lines.append(
                (
                    "attention",
                    f"what the {maps.rows}'s tokens look at, layers {layers}; from TRL's pass over the finished "
                    "rollouts where it makes one, else from one more",
                )
            )
        return lines

    def _maps(self, functions: Sequence[RewardFunction]) -> MapConfig | None:
        """How attention is read, where a reward does."""
        if columns_read(functions) & COLUMNS:
            return self.job.spec.attention or MapConfig()
        if self.job.spec.attention is not None:
            raise UsageError(
                f"{self.job.where}: no reward reads the attention; remove the section, or add attention_in_target"
            )
        return None

    def trainer(self, trainer_class: type[GRPOTrainer] = FoveaGRPOTrainer) -> GRPOTrainer:
        """The stage's trainer; TRL's own class can be asked for where there is no credit, for comparison."""
        job, model_spec = self.job, self.job.recipe.model
        args = self.arguments()  # before the model: DeepSpeed's stage 3 decides how it is loaded
        reward_functions = self.rewards()
        model, processor = load_for(job, args)
        ours = {"dialect": model_spec.dialect, "grammar": model_spec.grammar}
        ours |= {"credit": job.spec.credit, "attention": job.spec.attention, "sampling": job.spec.sampling}
        ours["scale_by"] = job.spec.scale_by
        toolbox = build_toolbox(job, processor)
        ours |= {"share_prompts": model_spec.share_prompts, "toolbox": toolbox}
        trainer = trainer_class(
            model=model,
            reward_funcs=reward_functions,
            args=args,
            **build_datasets(job, processor, toolbox=toolbox),
            processing_class=processor,
            peft_config=build_lora(job, model),
            **(ours if trainer_class is not GRPOTrainer else {}),
        )
        specs = job.spec.rewards
        if has_weight_schedule(specs):
            trainer.add_callback(ScheduledWeights(trainer, specs))
        return trainer

    def run(self) -> None:
        run_training(self.job, self.trainer())
