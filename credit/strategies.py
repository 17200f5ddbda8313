"""Strategies: pure functions that turn signals into one weight per response token.

A strategy is `f(signals: Signals, mask: (B, T) bool, **params) -> weights (B, T)`, registered with
`@strategy(name, needs={...})`, where `needs` names the fields of `Signals` it reads. Weights are at least 0;
1 leaves a token's advantage as it is. A strategy need not care about padding (the caller masks) nor about
normalization and signs (`finish` and `signed` do that). Where it only raises the tokens with the highest scores,
`@selecting(name, needs={...})` makes it of a function that gives the scores.

Rules shared by all that select tokens:

* `q` of the response's tokens are selected, at least one (`top` highest or `bottom` lowest scores; ties go to
  the earlier token), and multiplied by `amplification`.
* A token without a score (NaN) is no candidate: neither top nor bottom.
* A response of fewer than `min_length` tokens, or with no scored token, keeps weight 1 everywhere.

Paper: Li et al., "Attention Illuminates LLM Reasoning", arXiv 2510.13554, unless a docstring says otherwise.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grounding.errors import UsageError
from grounding.registry import Registry

Strategy = Callable[..., Tensor]

STRATEGIES: Registry[Strategy] = Registry("credit strategy", package="credit")


@dataclass(frozen=True)
class Signals:
    """What is known about each response token; every field is (B, T) or None when nobody asked for it.

    Attributes:
        noise: uniform random numbers in [0, 1), the same for the same seed and step.
        entropy: entropy of the distribution the token was drawn from, nats.
        logps, masked_logps: log-probability of the token with the image, and with part of it masked.
        waad: windowed average attention distance, mean over the local heads.
        fai: future attention influence, mean over the global heads; NaN where no row lies in the horizon.
        image_mass: attention on image tokens, mean over the image-reading heads, sinks excluded, in [0, 1].
        target_mass: the part of it inside the target's region.
        image_entropy: entropy of the attention within the image, nats.
        text_mass: attention on all that is not image, same heads; 1 - image_mass - sinks.
        coordinate: 1 for tokens the answer's coordinates are read from, else 0.
        claim: for tokens of a sentence in the thought that names a region, how right the region is, in [0, 1];
            NaN elsewhere.
        sentence: influence of the token's sentence on later ones; NaN where nothing follows late enough.
    """

    noise: Tensor | None = None
    entropy: Tensor | None = None
    logps: Tensor | None = None
    masked_logps: Tensor | None = None
    waad: Tensor | None = None
    fai: Tensor | None = None
    image_mass: Tensor | None = None
    target_mass: Tensor | None = None
    image_entropy: Tensor | None = None
    text_mass: Tensor | None = None
    coordinate: Tensor | None = None
    claim: Tensor | None = None
    sentence: Tensor | None = None


def strategy(name: str, needs: set[str] | None = None, *, over_batch: bool = False) -> Callable[[Strategy], Strategy]:
    """Decorator that registers a strategy and notes which fields of `Signals` it reads, and whether the weights of a
    response depend on the batch's other responses."""

    def add(function: Strategy) -> Strategy:
        function.needs = frozenset(needs or ())  # type: ignore[attr-defined]
        function.over_batch = over_batch  # type: ignore[attr-defined]
        return STRATEGIES.register(name)(function)

    return add


def selecting(name: str, needs: set[str], q: float = 0.4) -> Callable[[Strategy], Strategy]:
    """Decorator that makes a strategy of `f(signals, mask, **params) -> scores (B, T)`: it raises the tokens with the
    highest of them (`which: bottom`: the lowest), by `amplification` and the rules above. `q` is the default share;
    the strategy's parameters are q, amplification, which and min_length, and the function's own."""

    def add(scores: Strategy) -> Strategy:
        @functools.wraps(scores)
        def raise_selected(
            signals: Signals,
            mask: Tensor,
            *,
            q: float = q,
            amplification: float = 1.5,
            which: str = "top",
            min_length: int = 8,
            **own: object,
        ) -> Tensor:
            return amplify(select(scores(signals, mask, **own), mask, q, which, min_length), amplification)

        *common, _ = inspect.signature(raise_selected, follow_wrapped=False).parameters.values()
        own = list(inspect.signature(scores).parameters.values())[2:]
        raise_selected.__signature__ = inspect.Signature([*common, *own])  # type: ignore[attr-defined]
        return strategy(name, needs)(raise_selected)

    return add


def select(scores: Tensor, mask: Tensor, q: float, which: str = "top", min_length: int = 1) -> Tensor:
    """The `q` of each response's tokens with the highest (or lowest) scores.

    Args:
        scores: (B, T); NaN is no candidate.
        mask: (B, T) bool, the response's tokens. The number selected is round(q * their number), at least 1,
            at most the number of candidates.
        q: share in (0, 1].
        which: "top" or "bottom".
        min_length: nothing is selected in responses with fewer tokens.

    Returns:
        (B, T) bool.
    """
    if not 0 < q <= 1:
        raise UsageError(f"credit: q is {q}, must be in (0, 1]")
    if which not in ("top", "bottom"):
        raise UsageError(f"credit: which is {which!r}, must be 'top' or 'bottom'")
    candidates = mask & ~scores.isnan()
    length = mask.sum(-1)
    wanted = torch.minimum((q * length).round().long().clamp(min=1), candidates.sum(-1))
    wanted = torch.where(length < min_length, 0, wanted)
    keys = (-scores if which == "top" else scores).masked_fill(~candidates, torch.inf)
    order = keys.argsort(dim=-1, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(keys.shape[-1], device=keys.device).expand_as(order)
    )
    return (rank < wanted.unsqueeze(-1)) & candidates


def amplify(selected: Tensor, amplification: float) -> Tensor:
    """1 + (amplification - 1) * selected, as float."""
    if amplification < 0:
        raise UsageError(f"credit: amplification is {amplification}, must be at least 0")
    return 1.0 + (amplification - 1.0) * selected.float()


def finish(weights: Tensor, mask: Tensor, normalize: str) -> Tensor:
    """Mask, and scale to mean 1.

    Args:
        weights: (B, T), at least 0.
        mask: (B, T) bool.
        normalize: "response" (mean 1 over each response's tokens, so that a response's total is what uniform
            credit gives it), "batch" (mean 1 over all tokens), or "none".

    Returns:
        (B, T), 1 outside the mask. What cannot be scaled (nothing but zeros) becomes 1.
    """
    inside = mask.to(weights.dtype)
    if normalize == "response":
        total, count = (weights * inside).sum(-1, keepdim=True), inside.sum(-1, keepdim=True)
    elif normalize == "batch":
        total, count = (weights * inside).sum(), inside.sum()
    elif normalize == "none":
        return torch.where(mask, weights, 1.0)
    else:
        raise UsageError(f"credit: normalize is {normalize!r}, must be 'response', 'batch' or 'none'")
    scaled = torch.where(total > 0, weights * count / total.clamp(min=torch.finfo(weights.dtype).tiny), 1.0)
    return torch.where(mask, scaled, 1.0)


def signed(weights: Tensor, advantages: Tensor, sign: str) -> Tensor:
    """Weights where the advantage has the wanted sign, 1 elsewhere.

    Args:
        weights: (B, T).
        advantages: (B,) or (B, T).
        sign: "both", "positive" (advantage >= 0 only; the paper's first preprint) or "negative".
    """
    if sign == "both":
        return weights
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    if sign == "positive":
        return torch.where(advantages >= 0, weights, 1.0)
    if sign == "negative":
        return torch.where(advantages < 0, weights, 1.0)
    raise UsageError(f"credit: sign is {sign!r}, must be 'both', 'positive' or 'negative'")


@strategy("uniform")
def uniform(signals: Signals, mask: Tensor) -> Tensor:
    """Plain GRPO: every token counts the same."""
    return torch.ones(mask.shape, device=mask.device)


@selecting("random", needs={"noise"})
def random(signals: Signals, mask: Tensor) -> Tensor:
    """Control: tokens drawn at random."""
    return signals.noise


@selecting("entropy", needs={"entropy"})
def entropy(signals: Signals, mask: Tensor) -> Tensor:
    """Tokens the policy was unsure about (the paper's baseline; compare arXiv 2506.01939)."""
    return signals.entropy


@strategy("coordinate", needs={"coordinate"})
def coordinate(signals: Signals, mask: Tensor, *, amplification: float = 1.5, which: str = "top") -> Tensor:
    """The answer's coordinate tokens ("top"), or all the others ("bottom"): needs no attention at all, so it is
    what any attention signal has to beat in grounding."""
    chosen = (signals.coordinate > 0) & mask
    if which == "bottom":
        chosen = mask & ~chosen
    return amplify(chosen, amplification)


@selecting("local_chunk", needs={"waad"})
def local_chunk(signals: Signals, mask: Tensor) -> Tensor:
    """Preplan tokens, where WAAD jumps: the top q of Delta_t = |WAAD_t - WAAD_{t+1}|."""
    return waad_jumps(signals.waad, mask)


@selecting("global_anchor", needs={"fai"})
def global_anchor(signals: Signals, mask: Tensor) -> Tensor:
    """Anchor tokens, which later ones keep attending to: the top q of FAI."""
    return signals.fai


@selecting("uncertain_anchor", needs={"entropy", "fai"}, q=0.2)
def uncertain_anchor(signals: Signals, mask: Tensor, *, unsure: float = 0.4) -> Tensor:
    """Anchors among the tokens the policy was least sure of: q of the tokens by FAI, within `unsure` by entropy.

    Ours: a token the policy is sure of has next to no gradient, and raising it changes nothing.
    """
    return signals.fai.masked_fill(~select(signals.entropy, mask, unsure), torch.nan)


@strategy("coupled_rhythm", needs={"waad", "fai"})
def coupled_rhythm(
    signals: Signals,
    mask: Tensor,
    *,
    q: float = 0.4,
    amplification: float = 1.5,
    which: str = "top",
    min_length: int = 8,
    k: int = 3,
    alpha: float = 0.5,
    waad_quantile: float = 0.5,
    delta_quantile: float = 0.6,
) -> Tensor:
    """Anchors, sharing their credit with the preplan token that introduced them.

    An anchor t (top q of FAI) is locally dominated when WAAD_t <= tau_waad and the largest Delta_u of u in
    t-k .. t-1 is >= tau_delta; that u introduces it. Then the anchor gets the share 1 - alpha of the extra weight and
    u the share alpha. A token that is an anchor and introduces others, or introduces several, is credited once for
    each role, as the paper's indicator functions say.

    Args:
        k: how many tokens back the introducing token may be, 1 to 3 in the paper; fewer at the response's beginning.
        alpha: share for the introducing token. The paper gives no value.
        waad_quantile, delta_quantile: tau_waad and tau_delta, as quantiles over the response's own tokens; the paper
            gives no values. 0.5: below the median, the token looks near; 0.6: among the 40 % (q) largest jumps.
    """
    if k < 1:
        raise UsageError(f"credit.params.k is {k}, must be at least 1")
    if not 0 <= alpha <= 1:
        raise UsageError(f"credit.params.alpha is {alpha}, must be in [0, 1]")
    anchors = select(signals.fai, mask, q, which, min_length)
    jumps = waad_jumps(signals.waad, mask)
    known = signals.waad.masked_fill(~mask, torch.nan)
    low = known.nanquantile(waad_quantile, dim=-1, keepdim=True)
    high = jumps.nanquantile(delta_quantile, dim=-1, keepdim=True)
    # (B, T, k): jumps at t-k .. t-1, missing ones never the largest
    length = jumps.shape[1]
    padded = torch.nn.functional.pad(jumps.nan_to_num(nan=-torch.inf), (k, 0), value=-torch.inf)
    recent = padded.unfold(-1, k, 1)[:, :length]
    peak, offset = recent.max(-1)
    dominated = anchors & (known <= low) & (peak >= high) & peak.isfinite()
    origin = (torch.arange(length, device=mask.device) - k + offset).clamp(min=0)
    introduces = torch.zeros_like(signals.waad).scatter_reduce_(-1, origin, dominated.to(signals.waad.dtype), "amax")
    extra = (anchors & ~dominated) + (1 - alpha) * dominated + alpha * introduces
    return 1.0 + (amplification - 1.0) * extra.float()


@selecting("visual_anchor", needs={"image_mass", "target_mass"})
def visual_anchor(signals: Signals, mask: Tensor, *, share: bool = False) -> Tensor:
    """Tokens written while the image-reading heads looked at the target's region: the top q of the attention mass
    inside it or, with `share`, of the part of the image's mass inside it. No image, or no target: uniform."""
    scores = signals.target_mass
    if share:
        scores = scores / signals.image_mass.clamp(min=torch.finfo(scores.dtype).tiny)
    nothing = (scores.nan_to_num() * mask).sum(-1, keepdim=True) == 0
    return scores.masked_fill(nothing, torch.nan)


@strategy("visual_density", needs={"image_mass", "text_mass"})
def visual_density(signals: Signals, mask: Tensor, *, low: float = 0.2, high: float = 3.0) -> Tensor:
    """Attention on the image over attention on the text, scaled to mean 1 and clipped to [low, high]: no selection,
    every token has its own weight. From a fork of TRL for Qwen2.5-VL, where it needs eager attention."""
    density = signals.image_mass / signals.text_mass.clamp(min=1e-6)
    density = torch.where(mask & ~density.isnan(), density, torch.nan)
    return (density / density.nanmean(-1, keepdim=True)).nan_to_num(nan=1.0).clamp(low, high)


@strategy("grounded", needs={"fai", "claim"})
def grounded(
    signals: Signals,
    mask: Tensor,
    *,
    q: float = 0.4,
    amplification: float = 1.5,
    min_length: int = 8,
    unnamed: float = 0.5,
) -> Tensor:
    """Anchors of the thought count more when the region they name is right: an anchor (top q of FAI) whose sentence
    names a region gets the extra weight times how right the region is (IoU with the target, or inside it), another
    anchor the extra weight times `unnamed`."""
    anchors = select(signals.fai, mask, q, "top", min_length)
    right = torch.where(signals.claim.isnan(), unnamed, signals.claim)
    return 1.0 + (amplification - 1.0) * anchors.float() * right


@strategy("vppo", needs={"logps", "masked_logps"}, over_batch=True)
def vppo(
    signals: Signals,
    mask: Tensor,
    *,
    q: float = 0.4,
    min_length: int = 8,
    masked: float = 0.5,
    rest: float = 0.0,
    trajectory: bool = True,
    low: float = 0.5,
    high: float = 2.0,
) -> Tensor:
    """Visual dependence (VPPO, arXiv 2510.09285): only tokens whose probability hangs on the image learn.

    S_t = clamp(exp(d) - d - 1, 0, 10), d = clamp(log p(masked image) - log p(image), -20, 20) of the sampled token.
    The top q of S keep weight 1, the others get `rest`; with `trajectory` the whole response is scaled by its mean S
    over the batch's, within [low, high] (use `normalize: batch`: per response the scale would cancel).

    Args:
        masked: share of the image's patches blanked in the extra forward pass (read by the assigner).
    """
    change = (signals.masked_logps - signals.logps).clamp(-20, 20)
    dependence = (change.exp() - change - 1).clamp(0, 10)
    chosen = select(dependence, mask, q, "top", min_length)
    weights = torch.where(chosen, 1.0, rest)
    weights = torch.where(chosen.any(-1, keepdim=True), weights, 1.0)
    if trajectory:
        inside = torch.where(mask & ~dependence.isnan(), dependence, 0.0)
        mean = inside.sum(-1) / mask.sum(-1).clamp(min=1)
        overall = mean.mean().clamp(min=torch.finfo(mean.dtype).tiny)
        weights = weights * (mean / overall).clamp(low, high).unsqueeze(-1)
    return weights


@selecting("sentence", needs={"sentence"})
def sentence(signals: Signals, mask: Tensor) -> Tensor:
    """Tokens of the sentences that receive most attention from later ones, in the receiver heads (Thought Anchors,
    arXiv 2506.19143). Needs more than `sentence_skip` sentences; uniform otherwise."""
    return signals.sentence


def waad_jumps(waad: Tensor, mask: Tensor) -> Tensor:
    """Delta_t = |WAAD_t - WAAD_{t+1}|, (B, T); NaN for the last token and outside the response."""
    jumps = torch.full_like(waad, torch.nan)
    both = mask[:, :-1] & mask[:, 1:]
    jumps[:, :-1] = torch.where(both, (waad[:, :-1] - waad[:, 1:]).abs(), torch.nan)
    return jumps
