"""The model a command of credit looks at: how it is asked, what it answers, and what its attention shows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention.maps import target_scores
from attention.reading import AttentionReader, CapturedPass, ResponseBatch
from attention.response import TextReader, decoder_of
from attention.visual import batch_coverage, image_cells, merge_size
from grounding.dialects import get_dialect
from grounding.io import open_image
from grounding.sample import Sample
from models.loading import SeenSizes, load_policy
from models.profile import Profile, read_profile
from models.prompting import encode, messages, prompt_text, question
from models.sampling import generation_config


class LookedAtPolicy:
    """A policy, how it is spoken to, and the file its samples come from.

    Args:
        model, processor: of `models.loading.load_policy`.
        profile: how it is asked.
        file: of the samples; None where prompts are made elsewhere.
    """

    def __init__(self, model: Any, processor: Any, profile: Profile, file: Path | None = None):
        self.file, self._profile = file, profile
        dialect, grammar = get_dialect(self._profile.dialect), self._profile.grammar
        self.model, self.processor = model.eval(), processor
        self.reader = TextReader(
            decoder_of(self.model, self.processor, grammar),
            partial(dialect.parse, grammar=grammar),
            partial(dialect.parse, grammar="bare"),
        )
        self._seen, self._merge = SeenSizes(self.processor), merge_size(self.processor)

    @classmethod
    def of(cls, args: argparse.Namespace) -> LookedAtPolicy:
        """What a command line asks for: the model found at `source` and `folder`, the samples in `file`, and what
        overrides the folder's profile."""
        profile = read_profile(str(args.folder), args.dialect, args.grammar, args.image_first, system=args.system)
        return cls(*load_policy(args.source), profile, args.file)

    def images(self, sample: Sample) -> list[Any]:
        return [open_image(self.file.parent, image) for image in sample.images]

    def sizes(self, sample: Sample) -> Any:
        return self._seen.of(sample.images)

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The processor's output for the samples, left-padded."""
        texts, how = [], self._profile
        for sample in samples:
            asked = question(how, sample.question, sample.answer_kind, self.sizes(sample))
            chat = messages(asked, len(sample.images), image_first=how.image_first, system=how.system)
            texts.append(prompt_text(self.processor, chat))
        return dict(encode(self.processor, texts, [self.images(sample) for sample in samples]))

    def generate(self, inputs: dict[str, Any], tokens: int, temperature: float = 0.0) -> tuple[Tensor, Tensor]:
        """(B, T) response tokens, and (B, T) long: 1 for those of the response, its first end included."""
        config = generation_config(self.model, max_new_tokens=tokens, temperature=temperature)
        with torch.no_grad():
            ids = self.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
        mask = torch.zeros_like(ids)
        for row, own in enumerate(ids.tolist()):
            mask[row, : self.reader.decoder.length(own)] = 1
        return ids, mask

    def read(
        self,
        attention: AttentionReader,
        inputs: dict[str, Any],
        ids: Tensor,
        mask: Tensor,
        samples: Sequence[Sample],
        *,
        sentences: Tensor | None = None,
        settle: bool = True,
        logits: int = 1,
    ) -> tuple[CapturedPass, Tensor]:
        """One more pass, over prompts and responses: what attention shows, and the last `logits` rows of logits.

        Args:
            inputs: of `prompts`.
            ids, mask, sentences: (B, T).
            settle: see `AttentionReader.reading`.
        """
        prompts, token = inputs["input_ids"], self.model.config.image_token_id
        cells, counts = image_cells(inputs["image_grid_thw"], self._merge), [len(sample.images) for sample in samples]
        valid = torch.cat([inputs["attention_mask"], mask], 1)
        whole = {**inputs, "input_ids": torch.cat([prompts, ids], 1), "attention_mask": valid}
        if "mm_token_type_ids" in inputs:
            whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], 1)
        batch = ResponseBatch.of(
            whole["input_ids"],
            valid,
            mask,
            attention.image_token,
            coverage=batch_coverage(prompts, token, cells, counts, samples),
            sentences=sentences,
        )
        with torch.no_grad(), attention.reading(batch, settle=settle) as captured:
            output = self.model(**whole, logits_to_keep=logits)
        return captured, output.logits

    def target_scores(
        self, attention: AttentionReader, inputs: dict[str, Any], samples: Sequence[Sample], tokens: int
    ) -> list[dict[str, float]]:
        """How well the attention of greedy answers meets the targets: `attention.maps.target_scores` of each sample.

        Args:
            inputs: of `prompts`, for samples of one image each.
            tokens: at most so many of an answer.
        """
        captured, _ = self.read(attention, inputs, *self.generate(inputs, tokens), samples)
        image = captured.batch.image
        found = []
        for own, *of_cells in zip(image.present, captured.map(), image.coverage, strict=True):
            values, cover = (cells[own].double().cpu().numpy() for cells in of_cells)
            found.append(target_scores(values, cover))
        return found
