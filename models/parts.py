"""The parts of a vision-language model that are trained or not: language model, projector, vision tower.

Known by the names that transformers gives their modules: `visual` with its `merger` (Qwen-VL), `vision_tower` and
`multi_modal_projector` (InternVL). The output layer and the embeddings belong to the language model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from peft import LoraConfig
from torch import nn

from grounding.errors import UsageError
from models.sharing import FAMILIES

LANGUAGE, PROJECTOR, TOWER = PARTS = ("language_model", "projector", "vision_tower")
_PROJECTOR = r"(?:.*\.)?(?:multi_modal_projector|visual\.merger|visual\.deepstack_merger_list)(?:\..*)?"
_SEEN = r"(?:.*\.)?(?:visual|vision_tower|vision_model|multi_modal_projector)\..*"
# Names of a part's modules and weights, to be matched as a whole
PATTERNS = {LANGUAGE: rf"(?!{_SEEN}).+", PROJECTOR: _PROJECTOR, TOWER: rf"(?!{_PROJECTOR}$){_SEEN}"}
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)  # they have no forward pass


def part_of(name: str) -> str:
    """The part that a weight or module belongs to by its whole name."""
    return next(part for part in (PROJECTOR, TOWER, LANGUAGE) if re.fullmatch(PATTERNS[part], name))


def plain_name(name: str) -> str:
    """A weight's name in the model, of its name in the adapted or wrapped model."""
    return re.sub(r"^(?:module\.)?(?:base_model\.model\.)?", "", name)


def check_parts(model_type: str, where: str) -> None:
    """Raise `UsageError` for a family whose parts are not known by their names."""
    if model_type not in FAMILIES:
        raise UsageError(f"{where}: the parts of {model_type} are not known (known: {', '.join(FAMILIES)})")


def others(parts: Collection[str]) -> str:
    """A pattern of the names of all parts but these."""
    return "|".join(f"(?:{PATTERNS[part]})" for part in PARTS if part not in parts)


def train_only(model: nn.Module, parts: Collection[str]) -> None:
    """Freeze all weights but those of some parts."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name) in parts)


def save_whole(lora: LoraConfig, model: nn.Module, parts: Collection[str]) -> None:
    """Have peft train and save parts of a model in full, beside the modules that the configuration names."""
    if parts:
        lora.modules_to_save = [*(lora.modules_to_save or ()), *modules_of(model, parts)]


def modules_of(model: nn.Module, parts: Collection[str]) -> list[str]:
    """The names of the largest modules that together hold all weights of some parts, and no others."""
    return [*_modules_of(model, set(parts), "")]


def _modules_of(module: nn.Module, parts: set[str], above: str) -> Iterator[str]:
    for own, child in module.named_children():
        name = f"{above}{own}"
        found = {part_of(f"{name}.{weight}") for weight, _ in child.named_parameters()}
        if found and found <= parts and not isinstance(child, CONTAINERS):
            yield name
        elif found & parts:
            yield from _modules_of(child, parts, f"{name}.")
