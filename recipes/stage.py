"""What a stage is. A new kind of stage is one file in this folder that registers a `Stage`.

Below: keys of `args` that are refused, and names of keys in older TRL and in other repositories.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from grounding.errors import UsageError
from grounding.fingerprint import derived
from grounding.registry import Registry
from grounding.settings import check_keys
from recipes.config import Recipe, StageSpec, to_container

STAGES: Registry[type[Stage]] = Registry("stage", package="recipes")


@dataclass(frozen=True)
class Job:
    """A stage with everything it needs to run.

    Attributes:
        recipe: the whole recipe.
        spec: this stage of it.
        index: its position.
        folder: where it writes: `model/` at the end, `metrics.jsonl` and checkpoints on the way.
        model_path: the model it starts from.
        draws_with: the model that draws rollouts or looks at samples: the newest one, from which a stage of a round
            that resets its adapters does not start.
        keeper: folder of the stage whose kept samples it reads; None where its data is not the run's own.
    """

    recipe: Recipe
    spec: StageSpec
    index: int
    folder: Path
    model_path: str
    draws_with: str = ""
    keeper: Path | None = None

    @property
    def where(self) -> str:
        """What to call the stage in a message."""
        turn = "" if self.spec.round is None else f", round {self.spec.round}"
        return f"stages.{self.index} ({self.spec.kind}{turn})"

    @property
    def seed(self) -> int:
        """The recipe's; from the second round on one of the round's own, or all would draw the same."""
        turn = self.spec.round
        return self.recipe.seed if turn in (None, 1) else derived(self.recipe.seed, "round", turn) % 2**31

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def settings(self) -> dict[str, Any]:
        """Everything that decides the stage's result; a changed recipe is told by it."""
        recipe = to_container(self.recipe)
        stages = recipe["stages"][: self.index + 1]
        return json.loads(json.dumps({"model": recipe["model"], "seed": recipe["seed"], "stages": stages}))


class Stage(ABC):
    """A kind of stage.

    Attributes:
        args_type: dataclass whose fields are the legal keys of `args`.
        sections: the optional sections of a stage it reads, among lora, train, data, eval, rewards,
            credit, attention, tools, sampling and scale_by.
        needs: the sections it cannot do without.
        trains: it leaves a model; else the next stage starts from the model this one started from.
        keeps: it leaves a data set in `data/` for later stages, `recipes.loops.kept`.
        rejudged: keys of `args` that may change until it trains or is finished: what it has drawn stays.
    """

    args_type: ClassVar[type]
    sections: ClassVar[frozenset[str]] = frozenset({"data"})
    needs: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[bool] = True
    keeps: ClassVar[bool] = False
    rejudged: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, job: Job):
        self.job = job
        self._check_keys()

    @abstractmethod
    def run(self) -> None:
        """Do the work and leave a model in `job.folder / "model"`, or data. Called again after an interruption."""

    def check(self) -> None:  # noqa: B027 - a stage may have nothing more to check
        """Raise `UsageError` for what can be known to be wrong before any stage has started."""

    def describe(self) -> list[tuple[str, str]]:
        """(label, value) lines for `--dry-run`."""
        return []

    def _check_keys(self) -> None:
        spec = self.job.spec
        known = [f.name for f in dataclasses.fields(self.args_type) if f.init]
        check_args(spec.args, known, f"{self.job.where}.args")
        check_keys(spec.args, known, f"{self.job.where}.args")
        given = {
            "lora": bool(spec.lora),
            "train": spec.train is not None,
            "rewards": bool(spec.rewards),
            "credit": spec.credit is not None,
            "attention": spec.attention is not None,
            "tools": spec.tools is not None,
            "sampling": spec.sampling is not None,
            "scale_by": spec.scale_by is not None,
            "data": spec.data is not None,
            "eval": spec.eval is not None,
        }
        for section, there in given.items():
            if there and section != "data" and section not in self.sections:
                raise UsageError(f"{self.job.where} has no {section}; remove it, or give it to another stage")
        if spec.train is not None and spec.adapts and spec.lora is None:
            raise UsageError(f"{self.job.where}.train: a part is trained with lora, and lora is null; remove that")
        if spec.train is not None and spec.lora and not spec.adapts:
            raise UsageError(f"{self.job.where}.lora: no part in `train` is trained with it; remove the section")
        if spec.train is not None and "exclude_modules" in (spec.lora or {}):
            raise UsageError(
                f"{self.job.where}.lora.exclude_modules: `train` says which parts; remove one of the two"
            )
        for section in sorted(self.needs):
            if not given[section]:
                raise UsageError(f"{self.job.where} needs {section}")


_PLACED = "the run folder decides where a stage writes; remove the key"
_ONE_ROW = "rows with images cannot be joined; remove the key"
REFUSED: dict[str, str] = {
    "output_dir": _PLACED,
    "logging_dir": _PLACED,
    "resume_from_checkpoint": "the same command goes on from the last checkpoint by itself; remove the key",
    "save_only_model": "a stage could not be resumed; remove the key",
    "push_to_hub": "nothing is uploaded while training; upload the finished model/ with `hf upload`",
    "hub_model_id": "nothing is uploaded while training; remove the key",
    "hub_revision": "nothing is uploaded while training; remove the key",
    "log_completions_hub_repo": "nothing is uploaded while training; remove the key",
    "do_train": "has no effect here; remove the key",
    "do_eval": "has no effect here; give the stage `eval` and args.eval_strategy",
    "do_predict": "has no effect here; eval.py does that",
    "model_init_kwargs": "the recipe's `model` says how it is loaded (dtype, attn_implementation, ...)",
    "trust_remote_code": "set model.trust_remote_code",
    "chat_template_kwargs": "every stage and evaluation ask alike; change the chat template in the model's folder",
    "reward_weights": "give each entry of `rewards` its weight",
    "remove_unused_columns": "rows are made when they are read, no column can be removed; remove the key",
    "packing": _ONE_ROW,
    "eval_packing": _ONE_ROW,
    "padding_free": _ONE_ROW,
    "assistant_only_loss": "the loss is on the answer already; remove the key",
    "dataset_kwargs": "the stage prepares its rows itself; remove the key",
    "dataset_text_field": "the stage prepares its rows itself; remove the key",
    "truncation_mode": "rows are never cut; remove the key",
    "report_to": "set the recipe's `tracker`: wandb, tensorboard, trackio or none",
    "hub_token": "secrets do not belong in a recipe; use the HF_TOKEN variable or `hf auth login`",
}

# What is not a key of this stage's configuration, and where it belongs.
_LORA = "belongs in the stage's `lora` section"
_MODEL = "belongs in the recipe's `model` section, as model."
ELSEWHERE: dict[str, str] = {
    "max_prompt_length": "TRL no longer cuts prompts; make images smaller with model.max_pixels",
    "max_seq_length": "is called max_length",
    "cutoff_len": "is called max_length",
    "max_new_tokens": "is called max_completion_length",
    "evaluation_strategy": "is called eval_strategy",
    "warmup_ratio": "is gone from transformers; warmup_steps below 1 is a share of the steps",
    "group_by_length": "the length of a row is known only when its images are read",
    "logging_dir": _PLACED,
    "overwrite_output_dir": _PLACED,
    "no_cuda": "is called use_cpu",
    "kl_coef": "is called beta",
    "kl_loss_coef": "is called beta",
    "clip_ratio": "is called epsilon",
    "rollout_n": "is called num_generations",
    "lr": "is called learning_rate",
    "reward_funcs": "belongs in the stage's `rewards`",
    **dict.fromkeys(("vision_lr", "vit_lr"), "is train.vision_tower.learning_rate of the stage"),
    **dict.fromkeys(("projector_lr", "merger_lr", "aligner_lr"), "is train.projector.learning_rate of the stage"),
    **dict.fromkeys(
        ("freeze_vision_modules", "freeze_vision_tower", "freeze_vit", "tune_mm_vision", "freeze_llm"),
        "the stage's `train` says which parts are trained: {language_model: lora, vision_tower: frozen}",
    ),
    **dict.fromkeys(("r", "use_lora", "use_peft", "lora_r", "lora_rank", "lora_alpha", "lora_dropout"), _LORA),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), _LORA),
    **dict.fromkeys(("max_pixels", "image_max_pixels"), f"{_MODEL}max_pixels"),
    **dict.fromkeys(("min_pixels", "image_min_pixels"), f"{_MODEL}min_pixels"),
    **dict.fromkeys(("torch_dtype", "dtype"), f"{_MODEL}dtype"),
    **dict.fromkeys(("system_prompt", "system"), f"{_MODEL}system"),
    "attn_implementation": f"{_MODEL}attn_implementation",
    "model_name_or_path": f"{_MODEL}path",
    "prompt_template": f"{_MODEL}prompt",
    "dataset_name": "belongs in the recipe's `data`",
    "image_folders": "belongs in the recipe's `data`",
    "data_file_paths": "belongs in the recipe's `data`",
}


def check_args(args: Mapping[str, Any], known: list[str], where: str) -> None:
    """Raise `UsageError` for keys of `ELSEWHERE` that are not known here, and for `REFUSED` ones that are set."""
    for key, why in ELSEWHERE.items():
        if key in args and key not in known:
            raise UsageError(f"{where}.{key}: {why}")
    for key, why in REFUSED.items():
        if args.get(key) not in (None, False, ""):
            raise UsageError(f"{where}.{key}: {why}")
    strategy = args.get("train_sampling_strategy")
    if strategy in ("group_by_length", "batch_rebalance"):
        raise UsageError(f"{where}.train_sampling_strategy: {ELSEWHERE['group_by_length']}; remove the key")
