"""Two answers of the model's own as a pair to prefer one of: whole answers, one sentence of them, or episodes.

A pair of sentences has the beginning of two answers in common and differs in the sentence after it; only that
sentence is compared, as SENTINEL does against invention (arXiv 2507.12455).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from credit.tokens import sentence_ranges
from grounding.decoding import Decoder
from recipes.data import IGNORED, TAUGHT, collate_taught

SIDES = ("chosen", "rejected")


def judged_sentences(texts: Sequence[str], scores: Sequence[float | None]) -> dict[str, dict[str, float]]:
    """Sentences that follow one beginning in several answers to a prompt, with the mean score of those they lead to.

    Args:
        texts: the answers.
        scores: of each; an answer without one counts nowhere.

    Returns:
        beginning -> (sentence, without the space after it -> mean score), shortest beginnings first, where at least
        two sentences follow.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for text, score in zip(texts, scores, strict=True):
        for start, end in sentence_ranges(text) if score is not None else ():
            found[text[:start]][text[start:end].rstrip()].append(score)
    return {
        beginning: {sentence: fmean(own) for sentence, own in found[beginning].items()}
        for beginning in sorted(found, key=len)
        if len(found[beginning]) > 1
    }


@dataclass
class SentencePairs(DataCollatorForVisionPreference):
    """TRL's collator for rows that also say how many characters their two answers share (`shared`): these, and the
    end of a turn after a sentence that is not its answer's last (`chosen_ends`, `rejected_ends`), are not compared.

    Raises (when called):
        ValueError: no token of a sentence is left.
    """

    decoder: Decoder | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        told = [(row["shared"], row[f"{side}_ends"]) for side in SIDES for row in examples]
        batch: dict[str, Any] = super().torch_call(examples)
        for (shared, ends), ids, mask in zip(told, batch["input_ids"], batch["completion_mask"], strict=True):
            places = mask.nonzero().flatten()
            own = ids[places].tolist()
            text, spans = self.decoder.spans(own)
            last = self.decoder.length(own) if ends else 0
            kept = [shared < end and start < end for start, end in spans]
            mask[places] = torch.tensor([one or at == last - 1 for at, one in enumerate(kept)], dtype=mask.dtype)
            if not any(kept):
                raise ValueError(f"no token is left of {text[shared:]!r}")
        return batch


@dataclass(frozen=True)
class EpisodePairs:
    """The batch of rows with a chosen and a rejected episode (`chosen_taught`, `rejected_taught`).

    What the model said is compared, what tools said is not, and each episode has the pictures of its own.
    """

    processor: Any

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rows = [{TAUGHT: row[f"{side}_{TAUGHT}"], "images": row["images"]} for side in SIDES for row in examples]
        batch = collate_taught(self.processor, rows)
        batch["completion_mask"] = (batch.pop("labels") != IGNORED).long()
        return batch
