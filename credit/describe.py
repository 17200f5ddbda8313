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

from attention.heads import MEASURES, ROLES, HeadSelection
from attention.reading import ATTENTION_FIELDS, AttentionReader, CapturedPass, StepLog
from attention.response import answer_and_thought
from credit.policy import LookedAtPolicy
from credit.schema import CreditConfig
from credit.strategies import STRATEGIES, Signals
from credit.tokens import own_tokens, spread, text_fields
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
        image_attention: part of the response -> mean attention of its tokens on the image, in the image-reading heads
            with sinks left out, and the share of it inside the target.
        heads: the choice made from all responses, with the measures of every captured head.
        raised: strategy -> what it raises.
    """

    responses: int
    length: float
    thought: float
    sentences: float
    coordinates: float
    scored: float
    image_attention: dict[str, tuple[float, float]]
    heads: HeadSelection
    raised: dict[str, Raised]


class Describer:
    """Collects responses; `result` looks at all of them.

    Args:
        policy: the model.
        config: layers, horizon, windows and shares of heads; its strategy does not matter.
    """

    def __init__(self, policy: LookedAtPolicy, config: CreditConfig):
        self._policy = policy
        self._attention = AttentionReader(policy.model, config, ATTENTION_FIELDS, StepLog("credit"))
        self._batches: list[tuple[CapturedPass, dict[str, Tensor], Tensor]] = []

    def add(self, inputs: dict[str, Any], ids: Tensor, mask: Tensor, samples: Sequence[Sample]) -> None:
        """Run the model over prompts and their responses.

        Args:
            inputs: of `LookedAtPolicy.prompts`, for B samples of one image each.
            ids, mask: (B, T) responses.
        """
        reader, sizes = self._policy.reader, [self._policy.sizes(sample) for sample in samples]
        given = text_fields(reader, ids, mask, sizes, samples)
        tokens = zip(own_tokens(ids, mask), sizes, strict=True)
        given["thought"] = spread([answer_and_thought(reader, *own)[1] for own in tokens], mask, 0.0)
        how = {"sentences": given["sentence"], "settle": False, "logits": ids.shape[1] + 1}
        captured, logits = self._policy.read(self._attention, inputs, ids, mask, samples, **how)
        logps = logits[:, :-1].float().log_softmax(-1)
        given["entropy"] = -(logps.exp() * logps).sum(-1)
        given["gradient"] = 1 - (2 * logps).exp().sum(-1)
        given["noise"] = torch.rand(ids.shape, generator=torch.Generator().manual_seed(len(self._batches)))
        self._batches.append((captured, given, mask.bool()))

    def result(self) -> Description:
        """Choose the heads from all that was added, and apply every strategy that needs no further pass."""
        self._attention.settle([captured for captured, _, _ in self._batches])
        signals = []
        for captured, given, mask in self._batches:
            known = {name: value for name, value in given.items() if name not in ("thought", "gradient")}
            signals.append((Signals(**{**known, **captured.signals()}), given, mask))
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
            image_attention={part: _image_attention(signals, part) for part in ("thought", "coordinate")},
            heads=self._batches[0][0].heads,
            raised=raised,
        )


def _image_attention(batches: Sequence[tuple[Signals, dict[str, Tensor], Tensor]], part: str) -> tuple[float, float]:
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
        + "; ".join(f"{part} tokens {mass:.2f}, {inside:.0%}" for part, (mass, inside) in d.image_attention.items()),
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
