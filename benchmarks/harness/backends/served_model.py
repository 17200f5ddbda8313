"""An OpenAI-compatible server (vLLM, SGLang, llama.cpp, a provider) that answers questions with images."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from benchmarks.harness.backends.generate import Decoding, Output, Request
from grounding.answer import ImageSize
from grounding.errors import FoveaError, UsageError
from grounding.redact import redact
from grounding.wording import arrange
from models.chat_client import Client, EndpointError, Reply, RequestLimits

log = logging.getLogger("fovea.eval")

MIN_PIXELS = 56 * 56  # the Qwen-VL processors' own
# What servers of models take beyond OpenAI's protocol. Without, they fill in from the model's generation_config.json
_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_SEED_STEP = 1_000_003  # as inference-time methods keep their calls apart
_PATIENT = RequestLimits(timeout=600.0, retries=3)  # a long thought on a busy server


class EndpointBackend:
    """A `Backend` that sends a batch as concurrent chat completions, images as lossless PNG.

    Nothing but the decoding asked for shapes the answers: the penalties and cuts that servers take from a model's
    generation configuration are sent as neutral values, and left out, with a warning, for a server that refuses them.

    Args:
        url: base URL, for instance ``http://host:8000/v1``.
        key: sent as a bearer token when given.
        pixels: least and largest area at which the server's Qwen-VL processor shows an image. Images are sent at the
            size it would give them, so that it keeps it and `seen` is known. None sends them as they are; the server
            then resizes as it likes, and `seen` is not known.
        limits: how patiently to ask, and how often at once.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        image_first: bool = True,
        system: str | None = None,
        pixels: tuple[int, int] | None = None,
        limits: RequestLimits = _PATIENT,
    ):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {redact(url)}: needs http:// or https://")
        self.name = "endpoint"
        self.seen = None if pixels is None else self._sizes  # a server does not say how it resizes
        self._client = Client(url, limits, key=key or "")
        self._model = model
        self._image_first = image_first
        self._system = system
        self._pixels = pixels
        self._neutral = dict(_NEUTRAL)
        self._pool = ThreadPoolExecutor(limits.parallel)

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        return list(self._pool.map(lambda request: self._ask(request, decoding, seed), requests))

    def _ask(self, request: Request, decoding: Decoding, seed: int) -> list[Output]:
        images = [self._resized(image) for image in request.images]
        urls = (_data_url(image) for image in images)
        content = [
            {"type": "image_url", "image_url": {"url": next(urls)}}
            if part is None
            else {"type": "text", "text": part}
            for part in arrange(request.text, len(images), self._image_first)
        ]
        user = {"role": "user", "content": content}
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [user] if self._system is None else [{"role": "system", "content": self._system}, user],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature if decoding.samples else 0.0,
            "top_p": decoding.top_p if decoding.samples else 1.0,
            "frequency_penalty": 0.0,
            "seed": seed,
        }
        seen = () if self._pixels is None else tuple(image.size for image in images)
        outputs: list[Output] = []
        while len(outputs) < decoding.rollouts:  # some servers give one choice whatever is asked for
            reply = self._reply(
                {**body, "seed": seed + _SEED_STEP * len(outputs), "n": decoding.rollouts - len(outputs)}
            )
            outputs += [
                Output(text, seen, {"tokens": reply.output_tokens if i == 0 else 0, "passes": 1})
                for i, text in enumerate(reply.texts)
            ]
        return outputs[: decoding.rollouts]

    def _reply(self, body: dict[str, Any]) -> Reply:
        neutral = self._neutral
        try:
            return self._client.ask({**body, **neutral}, usable=lambda _: True)  # no text is a wrong answer
        except EndpointError as error:
            if neutral and error.status in (400, 422):
                reply = self._without_neutral(body, error)
                if reply is not None:
                    return reply
            hint = "" if error.permanent else "; run the same command again to continue"
            raise FoveaError(f"{error}{hint}") from error

    def _without_neutral(self, body: dict[str, Any], refusal: EndpointError) -> Reply | None:
        """The reply to a request of the plain protocol; None where the server refuses that as well."""
        try:
            reply = self._client.ask(body, usable=lambda _: True)
        except EndpointError:
            return None
        if self._neutral:
            self._neutral = {}
            log.warning(
                "warning: the server takes no %s, so its own defaults for them hold (%s)",
                ", ".join(_NEUTRAL),
                refusal,
            )
        return reply

    def _sizes(self, images: Sequence[Any]) -> tuple[ImageSize, ...]:
        return tuple(ImageSize(i.width, i.height, *self._size(i)) for i in images)

    def _size(self, image: Any) -> tuple[int, int]:
        # Seconds that asking a server without `pixels` should not cost
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize  # noqa: PLC0415

        low, high = self._pixels or (0, 0)
        try:
            height, width = smart_resize(image.height, image.width, min_pixels=low, max_pixels=high)
        except ValueError as error:
            raise FoveaError(f"an image of {image.width}x{image.height} cannot be sent: {error}") from error
        return width, height

    def _resized(self, image: Image.Image) -> Image.Image:
        if self._pixels is None:
            return image
        size = self._size(image)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
