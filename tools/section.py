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
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.settings import Section, Whole, refuse
from tools import TOOLS, Tool


def _entries(value: Any) -> Any:
    entries = [value] if isinstance(value, (str, Mapping)) else value
    named = isinstance(entries, (list, tuple)) and all(
        isinstance(entry, str) or (isinstance(entry, Mapping) and isinstance(entry.get("name"), str))
        for entry in entries
    )
    if not named or not entries:
        raise refuse(value, "a tool's name, a mapping with a name, or a list of them")
    return tuple(entry if isinstance(entry, str) else dict(entry) for entry in entries)


def short_form(given: Any) -> Any:
    """A name, several with commas, or a list of tools as the section's mapping; what is none of them as it is."""
    if isinstance(given, str):
        return {"use": [name.strip() for name in given.split(",") if name.strip()]}
    return {"use": list(given)} if isinstance(given, (list, tuple)) else given


class ToolsConfig(Section):
    """What a model may call before it answers, and how often."""

    use: Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_entries)] = Field(
        description="tools: names, import paths, or mappings of `name` and the tool's own keys"
    )
    coordinates: Literal["crop", "image"] = Field(
        "crop", description="what the next numbers are of: the picture shown last, or the whole image"
    )
    turns: Whole = Field(3, ge=1, description="of the model at most, the answer included")
    image_tokens: Whole = Field(4096, ge=0, description="of all pictures that tools show in an episode")
    turn_tokens: Whole | None = Field(
        None, ge=1, description="of one turn of the model; null: as many as a completion may have"
    )
    protocol: Literal["auto", "template", "text"] = Field(
        "auto", description="how calls are written: by the chat template's tools, or as text; auto asks the template"
    )
    told: str | None = Field(
        None, description="what the question says about the tools; null: a sentence for each, or the template's words"
    )
    reply: str | None = Field(
        None, description="words beside a shown picture, with `{question}` for the question; null: ours"
    )

    @classmethod
    def from_given(cls, given: Any) -> ToolsConfig:
        """Read a name, a list of tools, or a mapping of the section's keys, and try the tools out.

        Raises:
            UsageError: naming an unknown key (with the nearest valid one) or a value out of range; or as `build`.
        """
        config = cls.from_mapping(short_form(given), "tools")
        config.build()
        return config

    def build(self) -> dict[str, Tool]:
        """The tools by the name a model calls them.

        Raises:
            UsageError: an unknown tool or parameter, a value a tool refuses, or two tools of one name.
        """
        found: dict[str, Tool] = {}
        for entry in self.use:
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
