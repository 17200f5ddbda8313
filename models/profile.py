"""How a model is prompted: dialect, grammar, order of image and text, system message, prompt template.

A folder written by Fovea says so in `fovea.json`::

    {"dialect": "qwen3_vl", "grammar": "think", "image_first": false, "system": null, "prompt": null}

For other folders the dialect is that of the published family (`model_type` in `config.json`), without a thought.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grounding.errors import UsageError
from grounding.io import replacing

FILE_NAME = "fovea.json"
_FAMILIES = {
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "internvl": "internvl",
    "internvl_chat": "internvl",
    "florence2": "florence2",
    "paligemma": "paligemma",
    "kosmos-2": "kosmos2",
    "molmo": "molmo",
}
FAMILY_DIALECTS = frozenset(_FAMILIES.values())


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is prompted.

    Attributes:
        dialect, grammar: as in `grounding`.
        image_first: images before a text that does not place them itself.
        system: the system message; None leaves it to the chat template.
        prompt: the user's text with `{instruction}` in it; None is the dialect's own words.
    """

    dialect: str
    grammar: str = "bare"
    image_first: bool = True
    system: str | None = None
    prompt: str | None = None

    def write(self, folder: Path) -> None:
        """Write it to a model folder."""
        with replacing(folder / FILE_NAME) as part:
            part.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read_profile(
    model: str | None,
    dialect: str | None = None,
    grammar: str | None = None,
    image_first: bool | None = None,
    *,
    system: str | None = None,
) -> Profile:
    """The profile given by the flags, and where they are None by the model folder.

    Raises:
        UsageError: neither says which dialect the model speaks.
    """
    told: dict[str, Any] = {}
    if model is not None and (Path(model) / FILE_NAME).is_file():
        told = _read(Path(model) / FILE_NAME)
    dialect = dialect or told.get("dialect") or _family(model)
    if dialect is None:
        raise UsageError(f"{model or 'this endpoint'}: which coordinates does it answer in? Say --dialect NAME")
    return Profile(
        dialect=dialect,
        grammar=grammar or told.get("grammar", "bare"),
        image_first=told.get("image_first", True) if image_first is None else image_first,
        system=told.get("system") if system is None else system,
        prompt=told.get("prompt"),
    )


def _family(model: str | None) -> str | None:
    if model is None or not (Path(model) / "config.json").is_file():
        return None
    return family_dialect(str(_read(Path(model) / "config.json").get("model_type", "")))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: a JSON object is needed")
    return content


def family_dialect(model_type: str) -> str | None:
    """The dialect that models of a transformers `model_type` were published with; None for families not known."""
    return _FAMILIES.get(model_type)
