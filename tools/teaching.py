"""A sample of several turns as what a model is taught: calls are carried out, and only its own words are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from grounding.completion import opened_by, render_completion
from grounding.errors import BrokenRow, UsageError
from grounding.sample import Sample
from grounding.targets import Box, Point, Target
from tools.episode import ToolEpisode, ToolReply
from tools.toolbox import Toolbox


@dataclass(slots=True)
class Taught:
    """A whole episode to learn.

    Attributes:
        prompt: tokens of the question.
        completion: tokens after it, the tools' replies among them.
        learned: for each of them 1 where the model is to write it, 0 where a tool does.
        pictures: what the tools show, in order.
        text: the episode as text, for people.
        episode: what it came to, of a sample's own turns.
    """

    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    text: str = ""
    episode: ToolEpisode | None = None


def teach(
    toolbox: Toolbox, sample: Sample, images: Sequence[Image.Image], *, question: str, answer_kind: str
) -> Taught:
    """Play the sample's turns and its answer.

    Args:
        question: the user's text, of `Toolbox.question`.

    Raises:
        BrokenRow: a tool refuses a call of the sample, it has more turns than an episode may have, or its answer or
            a thought names a place that the crop before it does not show.
    """
    chat = toolbox.chat(question, len(images))
    taught = Taught(toolbox.prompt_ids(chat, images))
    opened = opened_by(toolbox.prompt_text(chat), toolbox.grammar)
    lesson = _Lesson(toolbox, toolbox.episode(images, question=question, answer_kind=answer_kind), sample, opened)
    for number, turn in enumerate(sample.turns, start=1):
        if turn.tool not in toolbox.tools:
            known = ", ".join(toolbox.tools)
            raise BrokenRow(lesson.where, f"turn {number} calls {turn.tool!r}; the stage's tools are {known}")
        words = toolbox.dialect.render(replace(lesson.in_frame(turn.region), label=None), lesson.episode.sizes)
        text = lesson.text(toolbox.protocol.write(toolbox.processor, turn.tool, words), turn.thought)
        reply = lesson.episode.take(opened + text)
        if reply is None or lesson.episode.turns[-1].error:
            why = lesson.episode.turns[-1].reply or "it is no call"
            raise BrokenRow(lesson.where, f"turn {number} cannot be taught: {why}")
        _told(taught, toolbox, reply, _said(taught, toolbox, text))
    answer = toolbox.dialect.render(lesson.in_frame(sample.target), lesson.episode.sizes)
    last = lesson.text(answer, sample.thought, final=True)
    _said(taught, toolbox, last)
    lesson.episode.take(opened + last)
    taught.episode = lesson.episode
    return taught


def relate(
    toolbox: Toolbox,
    turns: Sequence[str],
    chat: Sequence[Mapping[str, Any]],
    images: Sequence[Image.Image],
    *,
    question: str,
    answer_kind: str,
) -> Taught:
    """Play an episode again whose turns were written before, by the policy itself.

    Args:
        turns: what it said (`EpisodeTurn.text`), the answer last.
        chat: the prompt.
        question: its words, for replies that repeat them.

    Raises:
        BrokenRow: with these tools the episode ends before its last turn.
    """
    taught = Taught(toolbox.prompt_ids(chat, images))
    opened = opened_by(toolbox.prompt_text(chat), toolbox.grammar)
    episode = toolbox.episode(images, question=question, answer_kind=answer_kind)
    for number, said in enumerate(turns, start=1):
        last = _said(taught, toolbox, said.removeprefix(opened))
        if number == len(turns):
            break
        reply = episode.take(said)
        if reply is None:
            raise BrokenRow(f"turn {number} of {len(turns)}", "ends the episode; were the stage's `tools` changed?")
        _told(taught, toolbox, reply, last)
    return taught


def _told(taught: Taught, toolbox: Toolbox, reply: ToolReply, last: int) -> None:
    """Append a tool's reply to the turn that ended with the token `last`."""
    told = toolbox.reply_ids(reply, last)
    taught.completion += told
    taught.learned += [0] * len(told)
    taught.pictures += reply.pictures
    taught.text += f"[{reply.tool}: {reply.words}]"


def _said(taught: Taught, toolbox: Toolbox, text: str) -> int:
    """Append a turn with the token that ends it; returns that token."""
    ids = [
        int(token) for token in toolbox.processor.tokenizer(text + toolbox.end, add_special_tokens=False)["input_ids"]
    ]
    taught.completion += ids
    taught.learned += [1] * len(ids)
    taught.text += text
    return ids[-1]


@dataclass(frozen=True)
class _Lesson:
    """A sample in the middle of its episode; `opened` is what every prompt has begun of a turn."""

    toolbox: Toolbox
    episode: ToolEpisode
    sample: Sample
    opened: str

    @property
    def where(self) -> str:
        return f"sample {self.sample.id!r}"

    @property
    def cropped(self) -> bool:
        """Whether the next turn speaks in the coordinates of a crop."""
        return self.toolbox.config.coordinates == "crop" and self.episode.cropped

    def text(self, words: str, thought: str | None, *, final: bool = False) -> str:
        """A turn: the thought, and a call or the answer."""
        grammar = self.toolbox.grammar
        if grammar == "think_answer" and not final:
            grammar = "think"
        told = None
        if thought is not None and grammar != "bare":
            try:
                own = self.episode.crop.thought(thought) if self.cropped else thought
            except ValueError as error:
                raise BrokenRow(self.where, str(error)) from error
            told = self.toolbox.dialect.render_thought(own, self.episode.sizes)
        return render_completion(words, told, grammar, opened=self.opened)

    def in_frame(self, target: Target) -> Any:
        """A target in the coordinates that the next turn speaks in."""
        if not self.cropped:
            return target
        if not isinstance(target, Box | Point):
            kind = type(target).__name__.lower()
            raise UsageError(f"{self.where}: a {kind} cannot be taught in a crop; set tools.coordinates to image")
        inner = self.episode.crop.to_crop(target)
        if inner is None:
            raise BrokenRow(self.where, f"crop {self.episode.crop.pixels} does not show {target}")
        return inner
