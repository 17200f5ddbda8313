"""How a model wants to be asked: its dialect, its grammar, the order of image and text, a system message.

A folder written by Fovea says so in `fovea.json`::

    {"dialect": "qwen3_vl", "grammar": "think", "image_first": false, "system": null}

For other folders the dialect is that of the published family (`model_type` in `config.json`), without a thought.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grounding.errors import UsageError
from grounding.pictures import arrange

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


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is asked.

    Attributes:
        dialect, grammar: as in `grounding`.
        image_first: images before a text that does not place them itself.
        system: the system message; None leaves it to the chat template.
    """

    dialect: str
    grammar: str = "bare"
    image_first: bool = True
    system: str | None = None

    def write(self, folder: Path) -> None:
        """Say so in a model folder."""
        (folder / FILE_NAME).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def messages(text: str, images: int, *, image_first: bool, system: str | None) -> list[dict[str, Any]]:
    """A question as a chat template takes it, with the system message before it where there is one.

    Images stand where `text` has `<image>` marks, else before or after it, numbered where there are several.
    """
    parts = arrange(text, images, image_first)
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    user: dict[str, Any] = {"role": "user", "content": content}
    if system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def read_profile(
    model: str | None,
    dialect: str | None = None,
    grammar: str | None = None,
    image_first: bool | None = None,
    *,
    system: str | None = None,
) -> Profile:
    """What the flags say, else what the model folder says.

    Raises:
        UsageError: neither says which dialect the model speaks.
    """
    told: dict[str, Any] = {}
    if model is not None and (Path(model) / FILE_NAME).is_file():
        told = json.loads((Path(model) / FILE_NAME).read_text(encoding="utf-8"))
    dialect = dialect or told.get("dialect") or _family(model)
    if dialect is None:
        raise UsageError(f"{model or 'this endpoint'}: which coordinates does it answer in? Say --dialect NAME")
    return Profile(
        dialect=dialect,
        grammar=grammar or told.get("grammar", "bare"),
        image_first=told.get("image_first", True) if image_first is None else image_first,
        system=told.get("system") if system is None else system,
    )


def _family(model: str | None) -> str | None:
    if model is None or not (Path(model) / "config.json").is_file():
        return None
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    return _FAMILIES.get(config.get("model_type", ""))
