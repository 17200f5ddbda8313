"""Ask one model question after question, each about images of its own, and see where it looked."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness.io.predictions import PredictionFormat, read_answer
from grounding.answer import Answer, ImageSize
from grounding.errors import FoveaError, UsageError
from grounding.sample import ImageRef
from grounding.wording import timed
from models.profile import Profile

KINDS = ("point", "box", "boxes", "points", "text_box", "span")
_OPEN = re.compile(r"[\s\[({]*")  # what stands between the place an answer is read from and its first digit
_NUMBERS = re.compile(r"[\[(]\s*(?=\d)")


@dataclass(frozen=True)
class AskedQuestion:
    """A question about images, or about a video's frames with their `times` in seconds."""

    instruction: str
    images: Sequence[Image.Image]
    kind: str
    times: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise UsageError("the instruction is empty: say what to find")
        if not self.images:
            raise UsageError("there is no image: give one, or a video")

    @property
    def words(self) -> str:
        """As `Sample.question`."""
        return timed(self.times) + self.instruction if self.times else self.instruction


@dataclass(frozen=True)
class PredictedAnswer:
    """What the model wrote, what that says in the canonical frame, and the turns before it where there are tools."""

    text: str
    answer: Answer
    turns: Sequence[dict[str, Any]] = ()


class Predictor:
    """A loaded model, or one behind an endpoint.

    Args:
        args: of `benchmarks.harness.cli.model_arguments`, with backend, tools, max_new_tokens, temperature, seed.
        profile: how it is asked.
        source: what to load it from; None for an endpoint.

    Raises:
        UsageError: as `open_backend`.
    """

    def __init__(self, args: argparse.Namespace, profile: Profile, source: str | None):
        # torch and transformers: seconds that a misspelt file should not cost
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

        from benchmarks.harness.backends.opening import open_backend  # noqa: PLC0415

        disable_progress_bar()  # of loading weights
        self._args, self._profile = args, profile
        self._backend = open_backend(args, profile, source)

    def ask(self, asked: AskedQuestion) -> PredictedAnswer:
        """Its answer."""
        from benchmarks.harness.backends.generate import Decoding  # noqa: PLC0415

        args, images = self._args, asked.images
        decoding = Decoding(args.max_new_tokens, samples=int(args.temperature > 0), temperature=args.temperature)
        [[output]] = self._backend.generate([self._request(asked)], decoding, args.seed)
        sizes = self._sizes(images)
        if output.seen:
            sizes = tuple(ImageSize(i.width, i.height, *s) for i, s in zip(images, output.seen, strict=True))
        reading = PredictionFormat(dialect=self._profile.dialect, grammar=self._profile.grammar)
        answer = read_answer(output.text, sizes, reading, asked.kind, output.episode)
        return PredictedAnswer(output.text, answer, (output.episode or {}).get("turns", ()))

    def attention(self, asked: AskedQuestion, told: PredictedAnswer) -> list[np.ndarray]:
        """Where it looked as it was about to write the place: (rows, columns) in [0, 1] of each image.

        One scale for all images, 1 being the highest cell. With tools it is the first turn's place, since what the
        later turns look at are also the pictures the tools gave.

        Raises:
            UsageError: attention cannot be read of this model.
        """
        from benchmarks.harness.backends.episode_model import EpisodeModel  # noqa: PLC0415
        from benchmarks.harness.backends.generate import Request  # noqa: PLC0415
        from benchmarks.harness.backends.local_model import LocalModel  # noqa: PLC0415
        from benchmarks.harness.test_time.attention_guided import blend  # noqa: PLC0415

        backend, request = self._backend, self._request(asked)
        said = told.turns[0]["text"] if told.turns else told.text
        span = None if told.turns and len(told.turns) > 1 else told.answer.char_span
        if isinstance(backend, EpisodeModel):
            toolbox, backend = backend.toolbox, backend.inner
            request = Request(toolbox.question(request.text), request.images)
            prompt = toolbox.prompt_text(toolbox.chat(request.text, len(request.images)))
        elif isinstance(backend, LocalModel):
            [prompt] = backend.prompts([request])
        else:
            raise UsageError("attention is read of models on this machine only")
        opening = before_numbers(said, span).removeprefix(backend.decoder.opened)
        [found] = backend.attention_of([request], [prompt + opening])
        heat = blend(found)
        heat = heat / max(float(heat.max()), 1e-12)
        ends = np.cumsum([rows * columns for rows, columns in found.grids])[:-1]
        return [own.reshape(grid) for own, grid in zip(np.split(heat, ends), found.grids, strict=True)]

    def _request(self, asked: AskedQuestion) -> Any:
        from benchmarks.harness.backends.generate import Request  # noqa: PLC0415
        from models.prompting import question  # noqa: PLC0415

        text = question(self._profile, asked.words, asked.kind, self._sizes(asked.images))
        return Request(text, tuple(asked.images))

    def _sizes(self, images: Sequence[Image.Image]) -> tuple[ImageSize, ...]:
        if self._backend.seen is None:  # a server, of a dialect whose numbers do not hang on how it resizes
            return tuple(ImageSize(*image.size) for image in images)
        return tuple(self._backend.seen([ImageRef(f"{i}", *image.size) for i, image in enumerate(images)]))


def before_numbers(text: str, span: tuple[int, int] | None) -> str:
    """What a model had written when it was about to write the first number of its answer.

    Args:
        span: of the answer in `text`; without one the last list of numbers counts, and without that nothing.
    """
    if span is not None:
        return text[: span[0]] + (_OPEN.match(text[span[0] :]) or [""])[0]
    lists = list(_NUMBERS.finditer(text))
    return text[: lists[-1].end()] if lists else ""


def attention_of(predictor: Predictor, asked: AskedQuestion, told: PredictedAnswer) -> list[np.ndarray] | str:
    """`Predictor.attention`, or why there is none."""
    try:
        return predictor.attention(asked, told)
    except FoveaError as error:
        return str(error)
