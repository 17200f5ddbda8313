"""Rollouts of several turns in TRL's GRPO: the loop of `tools.loop` in the place of TRL's own tool loop.

TRL takes what its `_tool_call_loop` returns: completions with the tools' tokens in them, a mask that leaves those out
of the loss, and the pictures of every turn, which it shows the model in each of its passes. Its own loop calls Python
functions with arguments in the template's syntax; ours reads calls in the model's dialect, keeps budgets, works with
templates that know no tools, and is the one evaluation uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from grounding.completion import check_grammar
from grounding.decoding import Decoder
from grounding.errors import UsageError
from recipes.shared_prompts import SharedPromptTrainer
from tools.episode import ToolEpisode
from tools.loop import Played, play
from tools.toolbox import Toolbox


class EpisodeTrainer(SharedPromptTrainer):
    """TRL's GRPOTrainer with episodes in the place of single answers where it is given tools.

    Rewards get what an episode came to in columns of the batch: `answers` (canonical, of the whole image),
    `executed_calls` and `turns`; the token ids they get are those the model wrote.

    Args:
        toolbox: the model's tools; None is TRL's single turn.

    Raises:
        UsageError: several processes that would have to run the model equally often, which episodes do not.
    """

    def __init__(self, *args: Any, toolbox: Toolbox | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.toolbox = toolbox
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._played: list[Played] = []
        if toolbox is None:
            return
        self._check_processes()
        # TRL hands these to the chat template, and asks whether there are any
        self.tools = toolbox.declared
        self._turn_decoder = Decoder.of(self.processing_class, self.eos_token_ids, check_grammar(toolbox.grammar))
        if toolbox.config.turn_tokens is not None:
            if self.use_vllm:
                self.vllm_generation.max_completion_length = toolbox.config.turn_tokens
            else:
                self.generation_config.max_new_tokens = toolbox.config.turn_tokens
                self.generation_kwargs["max_new_tokens"] = toolbox.config.turn_tokens

    def _check_processes(self) -> None:
        if self.accelerator.num_processes == 1:
            return
        plugin = self.accelerator.state.deepspeed_plugin
        sharded = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        served = self.use_vllm and (self.vllm_mode == "server" or self.args.vllm_tensor_parallel_size > 1)
        if sharded or served:
            raise UsageError(
                "tools: the processes' episodes have different numbers of turns, and "
                + ("sharded weights (ZeRO-3, FSDP)" if sharded else "a shared vLLM")
                + " need them to generate in step; take ZeRO-2 or DDP, and one vLLM per process"
            )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows, self._played = inputs, []
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._rows, self._played = (), []

    def _tool_call_loop(  # noqa: PLR0917 - TRL's signature
        self,
        prompts: Any,
        prompt_ids: Sequence[list[int]],
        completion_ids: list[list[int]],
        completions: Any,
        logprobs: Any,
        images: Sequence[list[Image.Image] | None] | None,
        multimodal_fields: Any,
    ) -> tuple[Any, ...]:
        """TRL's loop, with episodes. Returns tool_mask, completions, completion_ids, logprobs, the numbers of calls
        and of failures, and the tools' pictures of each rollout."""
        toolbox = self.toolbox
        self._played = [
            Played(
                toolbox.episode(pictures, question=question_of(prompt), answer_kind=row.get("answer_kind")),
                list(ids),
                list(pictures),
            )
            for row, prompt, ids, pictures in zip(self._rows, prompts, prompt_ids, images or (), strict=True)
        ]
        first = ([list(ids) for ids in completion_ids], logprobs)
        play(toolbox, self._played, self._draw, self._turn_decoder, longest=self.max_completion_length, first=first)
        turns = [turn for row in self._played for turn in row.episode.turns]
        mode = "train" if self.model.training else "eval"
        counts = [len(turns), sum(len(row.pictures) for row in self._played), len(self._played)]
        whole = torch.tensor(counts, dtype=torch.float32, device=self.accelerator.device)
        played, shown, rows = self.accelerator.reduce(whole, "sum").tolist()  # of all processes
        self._metrics[mode]["tools/turns"].append(played / rows)
        self._metrics[mode]["tools/pictures"].append(shown / rows)
        return (
            [row.written for row in self._played],
            [messages_of(row.episode) for row in self._played],
            [row.completion for row in self._played],
            [row.logprobs for row in self._played] if logprobs is not None else None,
            sum(turn.tool is not None for turn in turns),
            sum(turn.error for turn in turns),
            [row.pictures for row in self._played],
        )

    def _draw(self, rows: Sequence[Played]) -> tuple[list[list[int]], list[list[float]] | None]:
        """The next turn of some episodes, by TRL's own generation."""
        images = [[*row.images, *row.pictures] for row in rows]
        flat = [picture for own in images for picture in own]
        fields = dict(self.processing_class.image_processor(images=flat, return_tensors="pt"))
        drawn: tuple[list[list[int]], list[list[float]] | None] = self._generate_single_turn(
            [row.ids for row in rows], images, fields, num_generations=1, has_tool_images=True
        )
        return drawn

    def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, completion_ids: Any) -> Any:
        if self._played:
            inputs = [{**row, **columns_of(own.episode)} for row, own in zip(inputs, self._played, strict=True)]
            completion_ids = [
                [token for token, own in zip(row.completion, row.written, strict=True) if own] for row in self._played
            ]
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids)


def columns_of(episode: ToolEpisode) -> dict[str, Any]:
    """What rewards read of an episode."""
    return {"answers": episode.answer, "executed_calls": episode.calls, "turns": episode.turns}


def messages_of(episode: ToolEpisode) -> list[dict[str, Any]]:
    """An episode as a conversation: what the model said, what it was told."""
    chat: list[dict[str, Any]] = []
    for turn in episode.turns:
        chat.append({"role": "assistant", "content": turn.text})
        if turn.reply:
            chat.append({"role": "tool", "name": turn.tool, "content": turn.reply})
    return chat


def chat_text(chat: Any) -> str:
    """A conversation as one text, with `<image>` for its images."""
    if isinstance(chat, str):
        return chat
    parts = [
        part if isinstance(part, str) else part.get("text", f"<{part['type']}>")
        for message in chat
        for part in ([message["content"]] if isinstance(message["content"], str) else message["content"] or ())
    ]
    return "\n".join(parts)


def question_of(prompt: Sequence[Mapping[str, Any]]) -> str:
    """The words of a prompt's last user message."""
    last = next(message for message in reversed(prompt) if message["role"] == "user")
    content = last["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text").strip()
