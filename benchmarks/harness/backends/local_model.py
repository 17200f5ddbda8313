"""A Hugging Face model on this machine, answering in batches with left padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from transformers import set_seed

from attention.maps import PromptAttention
from attention.prompt import read_prompts, redistribution
from attention.visual import merge_size
from benchmarks.harness.backends.generate import Decoding, Output, Request
from grounding.completion import Grammar
from grounding.decoding import Decoder
from models.loading import SeenSizes, processor_sizes
from models.prompting import encode, messages, prompt_text
from models.sampling import generation_config
from models.sharing import share_images, share_prefill


class LocalModel:
    """A `Backend` over `model.generate`.

    Args:
        model, processor: as `models.loading.load_policy` gives them.
        image_first: images before the text in the user's turn.
        system: the system message; None leaves it to the chat template.
        grammar: what is asked for.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        image_first: bool = True,
        name: str = "transformers",
        *,
        system: str | None = None,
        grammar: Grammar = "think",
    ):
        self.model = model.eval()
        share_images(model)  # several questions to a picture
        share_prefill(model)  # several rollouts of a question
        self.processor = processor
        self.seen = SeenSizes(processor).of
        self.decoder = Decoder.of(processor, model.generation_config.eos_token_id, grammar)
        self.image_first = image_first
        self.system = system
        self.name = name

    def prompts(self, requests: Sequence[Request]) -> list[str]:
        """The chats as the model reads them, up to where its answers begin."""
        how = {"image_first": self.image_first, "system": self.system}
        return [prompt_text(self.processor, messages(r.text, len(r.images), **how)) for r in requests]

    def encode(self, requests: Sequence[Request], texts: Sequence[str] | None = None) -> Any:
        """The processor's inputs for a batch, left-padded, on the model's device; `texts` instead of its prompts."""
        texts = self.prompts(requests) if texts is None else texts
        return encode(self.processor, texts, [r.images for r in requests]).to(self.model.device)

    def prompt_attention(self, requests: Sequence[Request], opening: str) -> list[PromptAttention]:
        """See `SupportsAttention`."""
        return self.attention_of(requests, [text + opening for text in self.prompts(requests)])

    def attention_of(self, requests: Sequence[Request], texts: Sequence[str]) -> list[PromptAttention]:
        """Attention of the last token of each text, a prompt with or without the first words of an answer."""
        inputs = self.encode(requests, texts)
        merge = merge_size(self.processor)
        found = read_prompts(self.model, inputs, merge, [len(r.images) for r in requests])
        seen = self._seen(inputs, requests)
        return [replace(one, seen=own, cost={"tokens": 0, "passes": 1}) for one, own in zip(found, seen, strict=True)]

    def redistribution(self) -> AbstractContextManager[None]:
        """See `SupportsAttention`."""
        return redistribution(self.model)

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        inputs = self.encode(requests)
        if decoding.samples:
            set_seed(seed)
        with torch.inference_mode():
            sequences = self.model.generate(
                **inputs,
                generation_config=generation_config(
                    self.model,
                    max_new_tokens=decoding.max_new_tokens,
                    temperature=decoding.temperature if decoding.samples else 0.0,
                    top_p=decoding.top_p,
                    answers=decoding.rollouts,
                ),
            )
        replies = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        outputs: list[list[Output]] = []
        for row, seen in enumerate(self._seen(inputs, requests)):
            chunk = replies[row * decoding.rollouts : (row + 1) * decoding.rollouts]
            outputs.append([self._output(tokens, seen) for tokens in chunk])
        return outputs

    def _seen(self, inputs: Any, requests: Sequence[Request]) -> list[tuple[tuple[int, int], ...]]:
        """(width, height) of every image of each request as the model sees it."""
        sizes = iter(processor_sizes(self.processor, inputs))
        return [tuple((int(w), int(h)) for w, h in islice(sizes, len(r.images))) for r in requests]

    def _output(self, tokens: list[int], seen: tuple[tuple[int, int], ...]) -> Output:
        return Output(self.decoder(tokens), seen, {"tokens": self.decoder.length(tokens), "passes": 1})
