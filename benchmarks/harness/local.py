"""A Hugging Face model on this machine, answering in batches with left padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig, set_seed

from benchmarks.harness.gaze import read_gaze, redistribution
from benchmarks.harness.generate import Decoding, Gaze, Output, Request
from credit.tokens import merge_size
from models.loading import processor_sizes
from models.profile import messages
from models.sharing import share_images


class LocalModel:
    """A `Backend` over `model.generate`.

    Args:
        model, processor: as `models.loading.load_policy` gives them.
        image_first: images before the text in the user's turn.
        system: the system message; None leaves it to the chat template.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        image_first: bool = True,
        name: str = "transformers",
        *,
        system: str | None = None,
    ):
        self.model = model.eval()
        share_images(model)  # several questions to a picture, several rollouts of a question
        self.processor = processor
        self.image_first = image_first
        self.system = system
        self.name = name

    def encode(self, requests: Sequence[Request], opening: str = "") -> Any:
        """The processor's inputs for a batch, left-padded, on the model's device; `opening` begins every answer."""
        texts = [
            self.processor.apply_chat_template(
                messages(r.text, len(r.images), image_first=self.image_first, system=self.system),
                tokenize=False,
                add_generation_prompt=True,
            )
            + opening
            for r in requests
        ]
        return self.processor(
            text=texts,
            images=[list(r.images) for r in requests],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)

    def gaze(self, requests: Sequence[Request], opening: str) -> list[Gaze]:
        """See `Sighted`."""
        inputs = self.encode(requests, opening)
        merge = merge_size(self.processor)
        found = read_gaze(self.model, inputs, merge, [len(r.images) for r in requests])
        seen = self._seen(inputs, requests)
        return [
            replace(gaze, seen=own, cost={"tokens": 0, "passes": 1}) for gaze, own in zip(found, seen, strict=True)
        ]

    def redistribution(self) -> AbstractContextManager[None]:
        """See `Sighted`."""
        return redistribution(self.model)

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        inputs = self.encode(requests)
        if decoding.samples:
            set_seed(seed)
        with torch.inference_mode():
            sequences = self.model.generate(**inputs, generation_config=self._config(decoding))
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
        ends = [i for i, token in enumerate(tokens) if token in self._ends()]
        kept = tokens[: ends[0]] if ends else tokens
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=False)
        return Output(text, seen, {"tokens": len(kept) + bool(ends), "passes": 1})

    def _ends(self) -> set[int]:
        end = self.model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        return (ends | {self.processor.tokenizer.eos_token_id, self.processor.tokenizer.pad_token_id}) - {None}

    def _config(self, decoding: Decoding) -> GenerationConfig:
        """Only what `decoding` says: a published generation_config may hide a repetition penalty or a top-k."""
        sampling: dict[str, Any] = (
            {
                "do_sample": True,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "top_k": 0,
                "num_return_sequences": decoding.samples,
            }
            if decoding.samples
            else {"do_sample": False}
        )
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            repetition_penalty=1.0,
            eos_token_id=sorted(self._ends()),
            pad_token_id=self.processor.tokenizer.pad_token_id or 0,
            use_cache=True,
            **sampling,
        )
