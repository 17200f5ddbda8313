"""What the heads of a model look like over many responses, and what the strategies make of it: no training.

Answers, before an experiment is paid for: do the heads differ at all, do some read the image, how long are the
thoughts beside the horizon, what would each strategy raise, and is that more than the coordinates?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention.capture import AttentionCapture, middle_layers, pretrained
from attention.gather import ATTENTION_FIELDS, Gatherer, ResponseBatch, prompt_and_response
from attention.heads import MEASURES, ROLES, HeadSelection, HeadStats, select_heads
from attention.response import TextReader, answer_and_thought
from attention.visual import image_cells, merge_size, region_coverage
from credit.config import CreditConfig
from credit.strategies import STRATEGIES, Signals
from credit.tokens import annotate_response
from grounding.answer import ImageSize
from grounding.sample import Sample


@dataclass(frozen=True)
class Raised:
    """What one strategy raises, at its own defaults.

    Attributes:
        share: of all response tokens.
        flat: share of the responses it leaves alone.
        coordinates: share of the raised tokens that are the answer's coordinates.
        covered: share of the coordinate tokens that are raised.
        thought: share of the raised tokens that stand before the answer.
        gradient: share of the policy gradient they carry, expected over what is sampled: at the logits of a token its
            squared length is 1 - sum_a p(a)^2, which is nothing where the policy is sure. Raising tokens without a
            gradient changes nothing; raising their usual share of it is what a random choice does.
    """

    share: float
    flat: float
    coordinates: float
    covered: float
    thought: float
    gradient: float


@dataclass(frozen=True)
class Description:
    """The whole of it.

    Attributes:
        responses: how many.
        length, thought, sentences: mean number of tokens of a response, of them before the answer, and of sentences.
        coordinates: share of the tokens that are the answer's coordinates.
        scored: share of the tokens with a future within the horizon.
        looking: part of the response -> mean attention of its tokens on the image, in the image-reading heads with
            sinks left out, and the share of it inside the target.
        heads: the choice made from all responses, with the measures of every captured head.
        raised: strategy -> what it raises.
    """

    responses: int
    length: float
    thought: float
    sentences: float
    coordinates: float
    scored: float
    looking: dict[str, tuple[float, float]]
    heads: HeadSelection
    raised: dict[str, Raised]


class Describer:
    """Collects responses; `result` looks at all of them.

    Args:
        model, processor: the policy.
        reader: how it writes answers.
        config: layers, horizon, windows and shares of heads; its strategy does not matter.
    """

    def __init__(self, model: Any, processor: Any, reader: TextReader, config: CreditConfig):
        self._model, self._reader, self._config = model, reader, config
        base = pretrained(model).config
        text = base.get_text_config()
        self._layers = middle_layers(text.num_hidden_layers) if config.layers == "middle" else config.layers
        self._heads, self._image_token = text.num_attention_heads, base.image_token_id
        self._merge = merge_size(processor)
        self._batches: list[tuple[Gatherer, dict[str, Tensor], Tensor]] = []

    @torch.no_grad()
    def add(
        self,
        inputs: dict[str, Any],
        ids: Tensor,
        mask: Tensor,
        samples: Sequence[Sample],
        sizes: Sequence[Sequence[ImageSize]],
    ) -> None:
        """Run the model over prompts and their responses.

        Args:
            inputs: the processor's output for B prompts, left-padded, one image each.
            ids, mask: (B, T) responses.
        """
        given = self._text(ids, mask, samples, sizes)
        grids = image_cells(inputs["image_grid_thw"], self._merge)
        coverage = [
            region_coverage(prompt, self._image_token, [grid], sample)
            for prompt, grid, sample in zip(inputs["input_ids"], grids, samples, strict=True)
        ]
        scored = {
            "prompt_ids": inputs["input_ids"],
            "prompt_mask": inputs["attention_mask"],
            "completion_ids": ids,
            "completion_mask": mask,
            "credit_sentence": given["sentence"],
            "credit_coverage": torch.stack(coverage),
        }
        batch = ResponseBatch.from_inputs(scored, self._image_token)
        gatherer = Gatherer(self._config, ATTENTION_FIELDS, batch, None)
        forward = prompt_and_response(inputs, ids, batch.valid)
        capture = AttentionCapture(self._model, self._layers)
        with capture.open(batch.valid, batch.prompt - 1, gatherer.consume):
            logits = self._model(**forward).logits[:, batch.prompt - 1 : -1].float()
        capture.detach()
        logps = logits.log_softmax(-1)
        given["entropy"] = -(logps.exp() * logps).sum(-1)
        given["gradient"] = 1 - (2 * logps).exp().sum(-1)
        given["noise"] = torch.rand(ids.shape, generator=torch.Generator().manual_seed(len(self._batches)))
        self._batches.append((gatherer, given, batch.mask))

    def result(self) -> Description:
        """Choose the heads from all that was added, and apply every strategy that needs no further pass."""
        stats = HeadStats(self._layers, self._heads)
        for gatherer, _, _ in self._batches:
            gatherer.measure(stats)
        own = self._config.heads
        heads = select_heads(stats.means(), self._layers, own.share, own.image_share, own.keys)
        signals = []
        for gatherer, given, mask in self._batches:
            gatherer.settle(heads)
            known = {name: value for name, value in given.items() if name not in ("thought", "gradient")}
            signals.append((Signals(**{**known, **gatherer.result()}), given, mask))
        raised = {}
        for name in sorted(STRATEGIES.names()):
            strategy = STRATEGIES.get(name)
            if not strategy.needs & {"logps", "masked_logps"} and name != "uniform":
                raised[name] = _raised([(strategy(s, mask) > 1, given, mask) for s, given, mask in signals])
        tokens = sum(int(mask.sum()) for *_, mask in signals)
        responses = sum(len(mask) for *_, mask in signals)
        return Description(
            responses=responses,
            length=tokens / responses,
            thought=sum(float(given["thought"].sum()) for _, given, _ in signals) / responses,
            sentences=sum(float((given["sentence"].amax(-1) + 1).sum()) for _, given, _ in signals) / responses,
            coordinates=sum(float(given["coordinate"].sum()) for _, given, _ in signals) / tokens,
            scored=sum(int((~s.fai.isnan() & mask).sum()) for s, _, mask in signals) / tokens,
            looking={part: _looking(signals, part) for part in ("thought", "coordinate")},
            heads=heads,
            raised=raised,
        )

    def _text(
        self, ids: Tensor, mask: Tensor, samples: Sequence[Sample], sizes: Sequence[Sequence[ImageSize]]
    ) -> dict[str, Tensor]:
        """What the text says: coordinate, claim, sentence and thought, (B, T) each."""
        fields = {
            "coordinate": torch.zeros(ids.shape),
            "claim": torch.full(ids.shape, torch.nan),
            "sentence": torch.full(ids.shape, -1),
            "thought": torch.zeros(ids.shape),
        }
        for index, sample in enumerate(samples):
            own = mask[index].bool()
            tokens = ids[index][own].tolist()
            notes = annotate_response(self._reader, tokens, sizes[index], sample)
            _, thought = answer_and_thought(self._reader, tokens, sizes[index])
            for name, values in zip(fields, (*notes, thought), strict=True):
                fields[name][index, own] = torch.tensor(values, dtype=fields[name].dtype)
        return fields


def _looking(batches: Sequence[tuple[Signals, dict[str, Tensor], Tensor]], part: str) -> tuple[float, float]:
    """Mean attention on the image over the tokens of a part, and the share of it inside the target."""
    count = sum(float(given[part].sum()) for _, given, _ in batches)
    mass = sum(float((signals.image_mass * given[part]).sum()) for signals, given, _ in batches)
    inside = sum(float((signals.target_mass * given[part]).sum()) for signals, given, _ in batches)
    return mass / max(count, 1.0), inside / mass if mass else 0.0


def _raised(batches: Sequence[tuple[Tensor, dict[str, Tensor], Tensor]]) -> Raised:
    tokens = chosen = responses = flat = coordinate = both = thought = gradient = carried = 0.0
    for selected, given, mask in batches:
        raised = selected & mask
        tokens, chosen = tokens + float(mask.sum()), chosen + float(raised.sum())
        responses, flat = responses + len(mask), flat + float((~raised.any(-1)).sum())
        coordinate += float(given["coordinate"].sum())
        both += float((raised * given["coordinate"]).sum())
        thought += float((raised * given["thought"]).sum())
        gradient += float((mask * given["gradient"]).sum())
        carried += float((raised * given["gradient"]).sum())
    some = max(chosen, 1.0)
    return Raised(
        share=chosen / tokens,
        flat=flat / responses,
        coordinates=both / some,
        covered=both / max(coordinate, 1.0),
        thought=thought / some,
        gradient=carried / gradient if gradient else 0.0,
    )


def table(description: Description) -> str:
    """For a terminal, and for Markdown."""
    d = description
    lines = [
        f"{d.responses} responses of {d.length:.1f} tokens, {d.thought:.1f} before the answer, in {d.sentences:.1f} "
        f"sentences; {d.coordinates:.0%} of the tokens are coordinates; {d.scored:.0%} have a future in the horizon",
        "attention on the image, and inside the target of that: "
        + "; ".join(f"{part} tokens {mass:.2f}, {inside:.0%}" for part, (mass, inside) in d.looking.items()),
        "",
        "| head | " + " | ".join(name.replace("_", " ") for name in MEASURES) + " | roles |",
        "|---" * (len(MEASURES) + 2) + "|",
    ]
    for layer in next(iter(d.heads.stats.values())):
        for head in range(len(d.heads.stats[MEASURES[0]][layer])):
            numbers = " | ".join(f"{d.heads.stats[name][layer][head]:.2f}" for name in MEASURES)
            roles = ", ".join(role for role in ROLES if (layer, head) in d.heads.roles[role])
            lines.append(f"| {layer}.{head} | {numbers} | {roles} |")
    lines += [
        "",
        "| strategy | raises | leaves flat | raised: coordinates | raised: thought | coordinates raised "
        "| gradient raised |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in d.raised.items():
        shares = (r.share, r.flat, r.coordinates, r.thought, r.covered, r.gradient)
        lines.append(f"| `{name}` | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    return "\n".join(lines)
