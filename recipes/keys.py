"""Keys of a stage's `args` that are refused, and names of keys in older TRL and in other repositories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grounding.errors import UsageError

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
    "vision_lr": "all trained weights have one learning rate; lora.exclude_modules leaves parts out",
    "projector_lr": "all trained weights have one learning rate; lora.exclude_modules leaves parts out",
    **dict.fromkeys(
        ("freeze_vision_modules", "freeze_vision_tower", "freeze_vit", "tune_mm_vision"),
        "the vision tower is left out by lora.exclude_modules",
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
