"""A model on this machine that may call tools before it answers: the loop it was trained with (`tools.loop`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import set_seed

from benchmarks.harness.backends.generate import Decoding, Output, Request
from benchmarks.harness.backends.local_model import LocalModel
from grounding.targets import Box
from models.profile import Profile
from models.sampling import generation_config
from tools.episode import EpisodeTurn
from tools.loop import LocalTurns, Played, play
from tools.section import ToolsConfig
from tools.toolbox import Toolbox


class EpisodeModel:
    """A `Backend` of episodes.

    Args:
        inner: the model.
        config: what it may call.
        profile: how it is asked.

    Raises:
        UsageError: a family, a chat template or a dialect that tools cannot be used with.
    """

    def __init__(self, inner: LocalModel, config: ToolsConfig, profile: Profile):
        self.inner, self.name, self.seen = inner, f"{inner.name}+tools", inner.seen
        self.toolbox = Toolbox(config, inner.processor, inner.model.config.model_type, profile)

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        """For each request its episodes."""
        if decoding.samples:
            set_seed(seed)
        toolbox, rows = self.toolbox, []
        for request in requests:
            text, images = toolbox.question(request.text), list(request.images)
            prompt = toolbox.prompt_ids(toolbox.chat(text, len(images)), images)
            rows += [Played(toolbox.episode(images, question=text), prompt, images) for _ in range(decoding.rollouts)]
        generation = generation_config(
            self.inner.model,
            max_new_tokens=toolbox.config.turn_tokens or decoding.max_new_tokens,
            temperature=decoding.temperature if decoding.samples else 0.0,
            top_p=decoding.top_p,
        )
        sampler = LocalTurns(self.inner.model, self.inner.processor, generation, self.inner.decoder, len(rows))
        play(toolbox, rows, sampler, self.inner.decoder)
        outputs = [self._output(row) for row in rows]
        return [outputs[at : at + decoding.rollouts] for at in range(0, len(rows), decoding.rollouts)]

    def _output(self, row: Played) -> Output:
        episode = row.episode
        last = episode.turns[-1]
        seen = tuple((size.input_width, size.input_height) for size in self.seen(row.images))
        told = {"turns": [_turn(turn) for turn in episode.turns], "frame": self._frame(row)}
        cost = {"tokens": sum(row.written), "passes": len(episode.turns)}
        return Output(last.text if last.tool is None else "", seen, cost, told)

    def _frame(self, row: Played) -> dict[str, Any] | None:
        """What the numbers of the answer are of, where that is a crop."""
        episode = row.episode
        if self.toolbox.config.coordinates != "crop" or not episode.cropped:
            return None
        crop, (size,) = episode.crop, episode.sizes
        return {
            "image": crop.image,
            "pixels": list(crop.pixels),
            "of": [crop.width, crop.height],
            "size": [size.width, size.height, size.input_width, size.input_height],
        }


def _turn(turn: EpisodeTurn) -> dict[str, Any]:
    """A turn as a journal keeps it; places canonical in the original image."""
    region = turn.region
    place = None if region is None else list(region.xyxy) if isinstance(region, Box) else [region.x, region.y]
    return {
        "text": turn.text,
        "tool": turn.tool,
        "region": place,
        "image": 0 if region is None else region.image,
        "shown": None if turn.crop is None else list(turn.crop.box.xyxy),
        "reply": turn.reply,
        "error": turn.error,
    }
