"""How a family of models writes a call and reads the reply.

    template   the chat template's own tools: Qwen3-VL and newer. <tool_call> blocks; replies have the role `tool`
    text       ours, for templates that know no tools (Qwen2.5-VL, the embedded model):
               zoom({"bbox_2d": [104, 83, 292, 271]}) is a turn's answer, and the reply is the user's next message

In both the place is in the words of the model's dialect. What was written before is never rendered again: the tokens
of a reply are appended to those the model wrote, so every prompt is a prefix of the next one. A template that renders
a conversation otherwise when it goes on is refused.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from grounding.answer import ImageSize
from grounding.completion import END_THINK, Grammar, matches_grammar, split_completion
from grounding.decoding import render_chat, turn_ends
from grounding.dialects import Dialect
from grounding.errors import UsageError
from grounding.targets import Box
from tools import Tool

# Models whose images in later turns TRL and transformers place as these modules do, by `model_type`
FAMILIES = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen2_5_vl")
LONGEST = 8192  # characters of a call that are read
_TEMPLATE_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_XML_NAME = re.compile(r"\s*<function=([\w.-]{1,80})>")
_XML_PARAMETER = re.compile(r"<parameter=([\w.-]{1,80})>(.*?)</parameter>", re.DOTALL)
_SAID = "Said7f3a"  # stands for what a model said, where only the template around it is wanted
_SHOWN = "Shown5c1e"


class CallText(NamedTuple):
    """A call as it was written.

    Attributes:
        name: of the tool, known or not.
        words: what it is called with: the dialect's words for a place, or JSON. None for a call that cannot be read.
        strict: the turn is a thought (where the grammar has one) and this call, nothing else.
        more: further calls of the same turn, which are not carried out.
    """

    name: str
    words: str | None
    strict: bool
    more: int = 0


class Protocol(ABC):
    """One way to write calls and replies."""

    name: ClassVar[str]

    @abstractmethod
    def read(self, text: str, grammar: Grammar, tools: Mapping[str, Tool]) -> CallText | None:
        """The first call of a turn; None where there is none, and the turn is an answer. Never raises."""

    @abstractmethod
    def write(self, processor: Any, name: str, words: str) -> str:
        """A call with these words, as the model is taught to write it."""

    @abstractmethod
    def reply(self, name: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The message that answers a call to the tool `name`."""

    @abstractmethod
    def said(self, name: str) -> dict[str, Any]:
        """Any turn with a call to `name`, for the template's sake."""

    def schemas(self, tools: Mapping[str, Tool], dialect: Dialect) -> list[dict[str, Any]] | None:
        """The tools as a chat template takes them; None where it takes none."""
        return None

    def told(self, tools: Mapping[str, Tool], dialect: Dialect) -> str:
        """What the question says about the tools; empty where the template says it."""
        return ""

    def reply_text(self, processor: Any, name: str, content: list[dict[str, Any]]) -> str:
        """What stands between the last word of a turn and the next turn's first, the token that ends a turn first.

        Raises:
            UsageError: the chat template ends a turn with no special token, cannot render a reply, or renders what
                was said before otherwise when it goes on.
        """
        chat = [{"role": "user", "content": [{"type": "text", "text": "?"}]}, self.said(name)]
        before = render_chat(processor, chat, prompt=False)
        whole = render_chat(processor, [*chat, self.reply(name, content)], prompt=True)
        end = end_of_turn(processor)
        if not whole.startswith(before):
            raise UsageError(
                "tools: the chat template renders earlier turns otherwise when the conversation goes on; correct "
                "chat_template.jinja so that it only appends"
            )
        return whole[before.rfind(end) :]


class TextProtocol(Protocol):
    """Calls as a turn's answer, replies as the user's next message: for any template of alternating turns."""

    name = "text"

    def read(self, text: str, grammar: Grammar, tools: Mapping[str, Tool]) -> CallText | None:
        _, rest, _, closed = split_completion(text, grammar)
        if not closed:
            return None
        rest = rest.strip()
        name, paren, words = rest.partition("(")
        if not paren or name not in tools:
            return None
        if len(words) > LONGEST or not words.endswith(")"):
            return CallText(name, None, False)
        thoughts = "bare" if grammar == "bare" else "think"
        return CallText(name, words[:-1].strip(), matches_grammar(text, thoughts))  # type: ignore[arg-type]

    def write(self, processor: Any, name: str, words: str) -> str:
        return f"{name}({words})"

    def reply(self, name: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"role": "user", "content": content}

    def said(self, name: str) -> dict[str, Any]:
        return {"role": "assistant", "content": [{"type": "text", "text": _SAID}]}

    def told(self, tools: Mapping[str, Tool], dialect: Dialect) -> str:
        lines = [
            f"Before you answer you may write {_example(tool, dialect)}: {tool.description}"
            for tool in tools.values()
        ]
        return "\n".join([*lines, "The answer alone, without a call, comes last."])


class TemplateProtocol(Protocol):
    """The chat template's own tools, in JSON (Qwen3-VL) or in tags (Qwen3.5)."""

    name = "template"

    def read(self, text: str, grammar: Grammar, tools: Mapping[str, Tool]) -> CallText | None:
        _, rest, _, closed = split_completion(text, grammar)
        if not closed:
            return None
        found = _TEMPLATE_CALL.findall(rest[: 4 * LONGEST])
        if not found:
            return None
        name, words = _call_of(found[0][:LONGEST])
        alone = (
            not _TEMPLATE_CALL.sub("", rest).strip() and len(found) == 1 and rest.rstrip().endswith("</tool_call>")
        )
        has_thought = grammar == "bare" or (text.lstrip().startswith("<think>") and text.count(END_THINK) == 1)
        return CallText(name, words, words is not None and alone and has_thought, len(found) - 1)

    def write(self, processor: Any, name: str, words: str) -> str:
        try:
            arguments = json.loads(words)
        except ValueError as error:
            raise UsageError(f"tools: the chat template takes JSON, which {words[:60]!r} is not; {_TEXT}") from error
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        said = {"role": "assistant", "content": [{"type": "text", "text": _SAID}], "tool_calls": [call]}
        user = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        whole = render_chat(processor, [user, said], prompt=False)
        return whole[whole.rfind(_SAID) + len(_SAID) : whole.rfind(end_of_turn(processor))].strip()

    def reply(self, name: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"role": "tool", "name": name, "content": content}

    def said(self, name: str) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": name, "arguments": {}}}
        return {"role": "assistant", "content": [{"type": "text", "text": _SAID}], "tool_calls": [call]}

    def schemas(self, tools: Mapping[str, Tool], dialect: Dialect) -> list[dict[str, Any]] | None:
        return [_schema(name, tool, dialect) for name, tool in tools.items()]


_TEXT = "set tools.protocol: text"
PROTOCOLS: dict[str, Protocol] = {"text": TextProtocol(), "template": TemplateProtocol()}


def protocol_for(processor: Any, model_type: str, wanted: str = "auto") -> Protocol:
    """The protocol of a model: `wanted`, or by its chat template.

    Raises:
        UsageError: a family whose images in later turns are not placed, an unknown protocol, or one that its
            template cannot render.
    """
    if model_type not in FAMILIES:
        raise UsageError(
            f"tools: models of the family {model_type!r} cannot be shown pictures in later turns here (known: "
            f"{', '.join(FAMILIES)}); remove the section, or take one of these"
        )
    if wanted not in ("auto", *PROTOCOLS):
        raise UsageError(f"tools.protocol is {wanted!r}, must be auto, {' or '.join(PROTOCOLS)}")
    knows = _renders_tools(processor)
    if wanted == "template" and not knows:
        raise UsageError(f"tools.protocol: this model's chat template renders no tools; {_TEXT}")
    chosen = PROTOCOLS["template" if (knows if wanted == "auto" else wanted == "template") else "text"]
    chosen.reply_text(processor, "zoom", [{"type": "image"}, {"type": "text", "text": _SHOWN}])
    return chosen


def end_of_turn(processor: Any) -> str:
    """The special token a template writes after an assistant's turn. Raises `UsageError` where there is none."""
    ends = turn_ends(processor)
    if not ends:
        raise UsageError(
            "tools: the chat template ends an assistant's turn with no special token, so turns would merge"
        )
    tokenizer = getattr(processor, "tokenizer", processor)
    return str(tokenizer.decode([min(ends)], skip_special_tokens=False))


def _renders_tools(processor: Any) -> bool:
    """Whether the chat template writes tools into the prompt, and a picture and words of a tool's reply."""
    template = str(getattr(processor, "chat_template", None) or "")
    if "tools" not in template:
        return False
    content = [{"type": "image"}, {"type": "text", "text": _SHOWN}]
    try:
        text = PROTOCOLS["template"].reply_text(processor, "zoom", content)
    except UsageError:
        return False
    pad = str(getattr(processor, "image_token", None) or "<|image_pad|>")
    return _SHOWN in text and pad in text


def _call_of(block: str) -> tuple[str, str | None]:
    """(name, arguments as JSON) of what stands in a <tool_call>; None for what cannot be read."""
    named = _XML_NAME.match(block)
    if named:
        given = {key: _value(value.strip()) for key, value in _XML_PARAMETER.findall(block)}
        return named[1], json.dumps(given)
    try:
        call = json.loads(block)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return "", None
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        return call["name"][:80], arguments
    return call["name"][:80], json.dumps(arguments)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def place_words(dialect: Dialect) -> str:
    """How the dialect writes a box, with an example's numbers."""
    return dialect.render(Box(0.1, 0.2, 0.3, 0.4), [ImageSize(1000, 1000)])


def _example(tool: Tool, dialect: Dialect) -> str:
    return f"{tool.name}({place_words(dialect) if tool.takes_region else ''})"


def _schema(name: str, tool: Tool, dialect: Dialect) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if tool.takes_region:
        try:
            (key,) = json.loads(place_words(dialect))
        except ValueError as error:
            raise UsageError(
                f"tools: dialect {dialect.name!r} writes no JSON for the template's calls; {_TEXT}"
            ) from error
        numbers = {"type": "array", "items": {"type": "number"}, "description": "The region: [x1, y1, x2, y2]."}
        properties[key] = numbers
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def content_of(words: str, pictures: Sequence[Image.Image], image_first: bool) -> list[dict[str, Any]]:
    """A reply's content: its words and its pictures, in the model's order."""
    text = [{"type": "text", "text": words}] if words else []
    images = [{"type": "image"} for _ in pictures]
    return [*images, *text] if image_first else [*text, *images]
