"""Which of peft's adapters are trained and taken: those whose sum with the model is provably the trained model."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig, PeftConfig

from grounding.errors import UsageError

FILES = ("adapter_config.json", "adapter_model.safetensors")
# Beginnings that leave the model as it is. Others move a part of its weights into the adapter, and its folder alone
# does not say which.
BEGINNINGS = (True, False, "gaussian", "orthogonal")
_NO_SUM = "such an adapter cannot be added to the model's weights"
_CHANGES = "it changes the weights that the adapter is added to, which the saved adapter does not say"
UNPROVED = {
    "alora_invocation_tokens": _NO_SUM,
    "arrow_config": _NO_SUM,
    "monteclora_config": _NO_SUM,
    "lora_bias": "most layers have no bias that it could be added to",
    "kasa_config": _CHANGES,
    "layer_replication": "the merged model would have other layers than its configuration",
    "megatron_config": "no model here is split by Megatron",
    "use_qalora": "it needs weights quantized by GPTQ",
    "velora_config": "its gradients depend on what else is in the batch",
}


def check_mergeable(lora: LoraConfig, where: str) -> None:
    """Raise `UsageError` for an adapter whose sum with the model would not provably be the model that is trained."""
    if lora.init_lora_weights not in BEGINNINGS:
        known = ", ".join(str(one).lower() for one in BEGINNINGS)
        raise UsageError(f"{where}.init_lora_weights is {lora.init_lora_weights!r}: {_CHANGES}; take one of {known}")
    if lora.bias != "none":
        raise UsageError(
            f"{where}.bias: biases stay trained where the adapter is switched off, as for a reference; remove it"
        )
    for key, reason in UNPROVED.items():
        if getattr(lora, key, None):
            raise UsageError(f"{where}.{key}: {reason}; remove the key")


def check_adapter(path: str) -> None:
    """Raise `UsageError` where `model.adapter` is no adapter that can be added to the model."""
    where, folder = f"model.adapter {path}", Path(path)
    for name in FILES:
        if not (folder / name).is_file():
            raise UsageError(f"{where}: no {name} in this folder; give the folder of an adapter that peft saved")
    try:
        adapter = PeftConfig.from_pretrained(folder)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: {FILES[0]} is not peft's: {' '.join(str(error).split())}") from error
    if not isinstance(adapter, LoraConfig):
        raise UsageError(f"{where}: {adapter.peft_type} cannot be added to weights; take a LoRA adapter")
    check_mergeable(adapter, f"{where}: {FILES[0]}")
