"""An OpenAI-compatible server (vLLM, SGLang, llama.cpp, a provider) that answers questions with images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from benchmarks.harness.generate import Decoding, Output, Request
from grounding.endpoint import Client, EndpointError, Limits
from grounding.errors import FoveaError, UsageError
from grounding.pictures import arrange

_PATIENT = Limits(timeout=600.0, retries=3)  # a long thought on a busy server


class Endpoint:
    """A `Backend` that sends a batch as concurrent chat completions, images as lossless PNG.

    The server resizes as it likes, so `seen` is unknown: dialects that answer in pixels of the resized image read
    against the original size.

    Args:
        url: base URL, for instance ``http://host:8000/v1``.
        key: sent as a bearer token when given.
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
        limits: Limits = _PATIENT,
    ):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {url}: needs http:// or https://")
        self.name = "endpoint"
        self.seen = None  # a server does not say how it resizes
        self._client = Client(url, limits, key=key or "")
        self._model = model
        self._image_first = image_first
        self._system = system
        self._pool = ThreadPoolExecutor(limits.parallel)

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        return list(self._pool.map(lambda request: self._ask(request, decoding, seed), requests))

    def _ask(self, request: Request, decoding: Decoding, seed: int) -> list[Output]:
        urls = (_data_url(image) for image in request.images)
        content = [
            {"type": "image_url", "image_url": {"url": next(urls)}}
            if part is None
            else {"type": "text", "text": part}
            for part in arrange(request.text, len(request.images), self._image_first)
        ]
        user = {"role": "user", "content": content}
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [user] if self._system is None else [{"role": "system", "content": self._system}, user],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature if decoding.samples else 0.0,
            "top_p": decoding.top_p if decoding.samples else 1.0,
            "n": decoding.rollouts,
            "seed": seed,
        }
        try:
            reply = self._client.ask(body, usable=lambda _: True)  # no text is an answer too: a wrong one
        except EndpointError as error:
            hint = "" if error.permanent else "; run the same command again to continue"
            raise FoveaError(f"{error}{hint}") from error
        return [
            Output(text, (), {"tokens": reply.output_tokens if i == 0 else 0, "passes": 1})
            for i, text in enumerate(reply.texts)
        ]


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
