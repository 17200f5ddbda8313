"""The same questions answered by vLLM in this process. vLLM schedules on its own; a batch is one call."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.backends.generate import Decoding, Output, Request
from grounding.completion import Grammar
from grounding.decoding import Decoder
from grounding.errors import UsageError
from models.loading import SeenSizes, load_processor
from models.prompting import messages, prompt_text


class VllmModel:
    """A `Backend` over `vllm.LLM`.

    Raises:
        UsageError: vLLM is not installed.
    """

    def __init__(
        self,
        path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        trust_remote_code: bool = False,
        *,
        dtype: str = "auto",
        image_first: bool = True,
        system: str | None = None,
        grammar: Grammar = "think",
    ):
        try:
            self._vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise UsageError("--backend vllm: vLLM is not installed: pip install -e '.[vllm]'") from error
        self.name = "vllm"
        self._image_first = image_first
        self._system = system
        self._processor = load_processor(
            path, min_pixels=min_pixels, max_pixels=max_pixels, trust_remote_code=trust_remote_code
        )
        self.seen = SeenSizes(self._processor).of
        self._decoder = Decoder.of(self._processor, None, grammar)
        pixels = {k: v for k, v in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if v is not None}
        self._model = self._vllm.LLM(
            model=path,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            mm_processor_kwargs=pixels or None,
            limit_mm_per_prompt={"image": 16},
        )

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        params = self._vllm.SamplingParams(
            n=decoding.rollouts,
            temperature=decoding.temperature if decoding.samples else 0.0,
            top_p=decoding.top_p if decoding.samples else 1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=decoding.max_new_tokens,
            stop_token_ids=sorted(self._decoder.ends),
            seed=seed,
            skip_special_tokens=False,
        )
        prompts = [
            {"prompt": self._prompt(request), "multi_modal_data": {"image": list(request.images)}}
            for request in requests
        ]
        results = self._model.generate(prompts, params, use_tqdm=False)
        return [
            [self._output(choice, request) for choice in result.outputs]
            for request, result in zip(requests, results, strict=True)
        ]

    def _prompt(self, request: Request) -> str:
        chat = messages(request.text, len(request.images), image_first=self._image_first, system=self._system)
        return prompt_text(self._processor, chat)

    def _output(self, choice: Any, request: Request) -> Output:
        sizes = self.seen(request.images)
        seen = tuple((s.input_width, s.input_height) for s in sizes)
        return Output(self._decoder(choice.token_ids), seen, {"tokens": len(choice.token_ids), "passes": 1})
