"""The `tools:` section of a stage, and of `eval.py --tools`.

tools:
  use: [zoom]                # names, import paths, or mappings with a tool's own keys: {name: zoom, square: true}
  coordinates: crop          # what the next numbers are of: crop (the picture shown last) | image (the whole image)
  turns: 3                   # of the model at most, the answer included
  image_tokens: 4096         # of all pictures tools show in an episode
  turn_tokens: null          # of one turn of the model; null: as many as a completion may have
  protocol: auto             # template | text; auto takes what the model's chat template can
  told: null                 # what the question says about the tools; null: a sentence for each
  reply: null                # words beside a shown picture, with {question} for the question; null: ours

`tools: zoom` and `tools: [zoom, mark]` are short for `use`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from grounding.errors import UsageError
from grounding.registry import nearest
from tools import TOOLS, Tool

COORDINATES = ("crop", "image")


@dataclass(frozen=True)
class ToolsConfig:
    """See the module's docstring; `from_given` reads and checks what a recipe or a flag says."""

    use: tuple[str | Mapping[str, Any], ...]
    coordinates: str = "crop"
    turns: int = 3
    image_tokens: int = 4096
    turn_tokens: int | None = None
    protocol: str = "auto"
    told: str | None = None
    reply: str | None = None

    def __post_init__(self) -> None:
        if not self.use:
            raise UsageError("tools.use is empty; name a tool, or remove the section")
        if self.coordinates not in COORDINATES:
            raise UsageError(f"tools.coordinates is {self.coordinates!r}, must be {' or '.join(COORDINATES)}")
        for key, least in (("turns", 1), ("image_tokens", 0), ("turn_tokens", 1)):
            value = getattr(self, key)
            if key == "turn_tokens" and value is None:
                continue
            if type(value) is not int or value < least:
                raise UsageError(f"tools.{key} is {value!r}, must be a whole number, at least {least}")
        for key in ("told", "reply"):
            if not isinstance(getattr(self, key), str | None):
                raise UsageError(f"tools.{key} is {getattr(self, key)!r}, must be a text")

    @classmethod
    def from_given(cls, given: Any) -> ToolsConfig:
        """Read a name, a list of tools, or a mapping of the section's keys.

        Raises:
            UsageError: naming an unknown key (with the nearest valid one) or a value out of range.
        """
        if isinstance(given, str):
            given = {"use": [name for name in given.split(",") if name]}
        elif isinstance(given, Sequence):
            given = {"use": list(given)}
        if not isinstance(given, Mapping):
            raise UsageError(f"tools is {given!r}, it has to be a name, a list of tools, or a mapping")
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise UsageError(f"tools: unknown key {key!r}{nearest(str(key), known)}")
        use = given.get("use") or ()
        config = cls(**{**given, "use": tuple([use] if isinstance(use, str | Mapping) else use)})
        config.build()
        return config

    def build(self) -> dict[str, Tool]:
        """The tools by the name a model calls them.

        Raises:
            UsageError: an unknown tool or parameter, a value a tool refuses, or two tools of one name.
        """
        found: dict[str, Tool] = {}
        for entry in self.use:
            if not isinstance(entry, str | Mapping) or (isinstance(entry, Mapping) and "name" not in entry):
                raise UsageError(f"tools.use: {entry!r} is neither a name nor a mapping with a name")
            name = entry if isinstance(entry, str) else str(entry["name"])
            given = {} if isinstance(entry, str) else {str(k): v for k, v in entry.items() if k != "name"}
            tool = _made(name, given)
            tool.name = tool.name or (name if name in TOOLS else type(tool).__name__.lower())
            if tool.name in found:
                raise UsageError(f"tools.use: two tools are called {tool.name!r}")
            found[tool.name] = tool
        return found


def _made(name: str, given: Mapping[str, Any]) -> Tool:
    kind = TOOLS.get(name)
    if not (inspect.isclass(kind) and issubclass(kind, Tool)):
        raise UsageError(f"tool {name!r} is no subclass of tools.Tool")
    known = list(inspect.signature(kind).parameters)
    for key in given:
        if key not in known:
            raise UsageError(f"tool {name}: unknown parameter {key!r}{nearest(key, known)}")
    try:
        return kind(**given)
    except TypeError as error:
        raise UsageError(f"tool {name}: {error}") from error
