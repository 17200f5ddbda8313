"""The tools of one model: what its questions say about them, new episodes, and replies as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from grounding.completion import check_grammar
from grounding.dialects import get_dialect
from models.profile import Profile
from models.prompting import messages, prompt_text
from models.viewing import PictureSizes
from tools.episode import ToolEpisode, ToolReply
from tools.protocols import content_of, end_of_turn, protocol_for
from tools.section import ToolsConfig


class Toolbox:
    """Everything a loop over episodes needs to know about a model.

    Args:
        config: the `tools` section.
        processor: of the model.
        model_type: of the model's configuration.
        profile: how it is asked.

    Attributes:
        end: the special token that ends a turn.

    Raises:
        UsageError: a family, a chat template or a dialect that tools cannot be used with.
    """

    def __init__(self, config: ToolsConfig, processor: Any, model_type: str, profile: Profile):
        self.config, self.processor, self.profile = config, processor, profile
        self.tools = config.build()
        self.dialect, self.grammar = get_dialect(profile.dialect), check_grammar(profile.grammar)
        self.protocol = protocol_for(processor, model_type, config.protocol)
        self.schemas = self.protocol.schemas(self.tools, self.dialect)
        self.viewer = PictureSizes(processor)
        end = end_of_turn(processor)
        self.end, self._end_id = end, processor.tokenizer.convert_tokens_to_ids(end)
        told = config.told
        self._told = self.protocol.told(self.tools, self.dialect) if told is None else told

    @property
    def declared(self) -> list[dict[str, Any]]:
        """A schema for each tool, also where the chat template takes none."""
        return self.schemas or [
            {"type": "function", "function": {"name": name, "description": tool.description}}
            for name, tool in self.tools.items()
        ]

    def question(self, text: str) -> str:
        """The user's text of a question, with what it says about the tools."""
        return f"{text}\n{self._told}" if self._told else text

    def chat(self, text: str, images: int) -> list[dict[str, Any]]:
        """A question (of `question`) as the chat that a prompt is made of."""
        return messages(text, images, image_first=self.profile.image_first, system=self.profile.system)

    def prompt_ids(self, chat: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]) -> list[int]:
        """The tokens of a prompt, as training and evaluation ask."""
        return self._ids(self.prompt_text(chat), images)

    def prompt_text(self, chat: Sequence[Mapping[str, Any]]) -> str:
        """A prompt as text, up to where the first turn begins."""
        return prompt_text(self.processor, chat, tools=self.schemas)

    def episode(
        self, images: Sequence[Image.Image], *, question: str = "", answer_kind: str | None = None
    ) -> ToolEpisode:
        """A new episode over a sample's pictures in their original pixels.

        Args:
            question: the user's text, for replies that repeat it; what it says about the tools is left out of these.
            answer_kind: the kind asked for.
        """
        return ToolEpisode(
            self.config,
            tools=self.tools,
            protocol=self.protocol,
            dialect=self.dialect,
            grammar=self.grammar,
            images=images,
            viewer=self.viewer,
            question=question.removesuffix(f"\n{self._told}"),
            answer_kind=answer_kind,
        )

    def reply_ids(self, reply: ToolReply, last: int | None = None) -> list[int]:
        """The tokens between a turn that called a tool and the next turn.

        Args:
            last: the turn's last token; where the model ended the turn itself it is not written again.
        """
        content = content_of(reply.words, reply.pictures, self.profile.image_first)
        text = self.protocol.reply_text(self.processor, reply.tool, content)
        if last == self._end_id:
            text = text.removeprefix(self.end)
        return self._ids(text, reply.pictures)

    def _ids(self, text: str, images: Sequence[Image.Image]) -> list[int]:
        made = self.processor(text=[text], images=[list(images)] if images else None, add_special_tokens=False)
        return [int(token) for token in made["input_ids"][0]]
