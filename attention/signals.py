"""What attention says about each response token, computed from q, k and the row log-sum-exp.

A(t, s) = exp(scale * q_t . k_s - lse_t) is one entry of the attention map. Every function here streams over chunks
of rows and looks only at the columns it needs, so no N x N map ever exists: WAAD and FAI cost O(T) for fixed windows,
the image signals O(T V), and distances and sentence maps, which need every entry, O(T N) time but O(N) memory.

Shared arguments:
    rows: `Rows`, R rows of H heads.
    valid: (B, N) bool, False for padding; padded keys have no attention.
    mask: (B, R) bool, rows that are response tokens.
    chunk: rows at a time; None picks a number for the device.
Results are (B, H, R) in float32 (float64 for float64 input); where a row is padding they may hold anything.

Paper: Li et al., "Attention Illuminates LLM Reasoning", arXiv 2510.13554.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

LOG2_E = math.log2(math.e)
WAAD_ROWS_CPU, FAI_ROWS_CPU, ROWS_GPU = 32, 48, 512  # rows at a time: blocks that fit the cache, or fill the device


@dataclass(frozen=True)
class Rows:
    """Some rows of an attention map, in the form from which any entry can be computed.

    Attributes:
        q: (B, H, R, d) queries of the rows, after rotary embedding.
        k: (B, Hkv, N, d) keys of all positions; H is a multiple of Hkv (grouped-query attention).
        lse: (B, H, R) log-sum-exp of each row's scaled scores, float32 or float64.
        scale: what q . k is multiplied with.
        first: position of row 0; the rows are first .. first + R - 1.
    """

    q: Tensor
    k: Tensor
    lse: Tensor
    scale: float
    first: int

    def __len__(self) -> int:
        """R."""
        return self.q.shape[2]

    def part(self, low: int, high: int) -> Rows:
        """Rows low .. high - 1."""
        return Rows(self.q[:, :, low:high], self.k, self.lse[:, :, low:high], self.scale, self.first + low)

    def picked(self, rows: Tensor) -> Rows:
        """Some rows, by a tensor of their indices; `first` stays, since they no longer follow each other."""
        return Rows(self.q[:, :, rows], self.k, self.lse[:, :, rows], self.scale, self.first)

    def of(self, heads: Sequence[int]) -> Rows:
        """Some heads, each with the keys of its group."""
        groups = self.q.shape[1] // self.k.shape[1]
        keys = self.k[:, [head // groups for head in heads]]
        return Rows(self.q[:, list(heads)], keys, self.lse[:, list(heads)], self.scale, self.first)

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        return ((low, min(low + size, len(self))) for low in range(0, len(self), size))

    def affordable(self, columns: int) -> int:
        """Rows at a time so that a block stays within 4 million entries (64 million on a GPU)."""
        entries = (1 << 22) if self.q.device.type == "cpu" else (1 << 26)
        return max(1, entries // max(1, self.q.shape[0] * self.q.shape[1] * columns))


class Map:
    """Blocks of the attention map of some rows, one at a time.

    For speed on a CPU: one matrix product scales and subtracts the log-sum-exp; adding -inf before the exponential is
    ten times faster than filling in zeros after it; `exp2`, unlike `exp`, is as fast for -inf as for other numbers.

    Args:
        rows: of H heads.
        keys: (B, Hkv, c, d) columns to look at, `rows.k` by default.
    """

    def __init__(self, rows: Rows, keys: Tensor | None = None):
        keys = rows.k if keys is None else keys
        kind = torch.float64 if rows.q.dtype == torch.float64 else torch.float32
        self.dtype = kind
        self._heads = rows.q.shape[:2]
        groups = rows.q.shape[1] // keys.shape[1]
        keys = keys.to(kind) if groups == 1 else keys.to(kind).repeat_interleave(groups, dim=1)
        self._left = rows.q.to(kind).flatten(0, 1)
        self._right = keys.flatten(0, 1).transpose(1, 2)
        self._shift = rows.lse.to(kind).flatten(0, 1).unsqueeze(-1)
        self._scale = rows.scale * LOG2_E

    def block(self, low: int, high: int, begin: int, end: int, excluded: Tensor) -> Tensor:
        """A(t, s) for rows [low, high) and columns [begin, end): (B, H, high - low, end - begin), a new tensor.

        `excluded`, an `exclusion`, is broadcast over it; without it, columns after a row hold anything.
        """
        return self.scores(low, high, begin, end).add_(excluded).exp2_()

    def scores(self, low: int, high: int, begin: int, end: int) -> Tensor:
        """The binary logarithm of `block`, without exclusion."""
        left, right = self._left[:, low:high], self._right[:, :, begin:end]
        scores = torch.baddbmm(self._shift[:, low:high], left, right, beta=-LOG2_E, alpha=self._scale)
        return scores.view(*self._heads, high - low, end - begin)


def exclusion(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `counts`, else -inf: to be added to scores."""
    return torch.zeros_like(counts, dtype=dtype).masked_fill_(~counts, -torch.inf)


def row_logsumexp(rows: Rows, valid: Tensor, chunk: int | None = None) -> Tensor:
    """lse_t = log sum_{s <= t} exp(scale * q_t . k_s), for attention functions that keep it to themselves.

    Exact, quadratic in time for the rows asked, O(chunk * N) in memory. `rows.lse` is not read. Rows without any key
    get 0.
    """
    parts, attention = [], Map(replace(rows, lse=torch.zeros_like(rows.lse)))
    for low, high in rows.chunks(chunk or rows.affordable(rows.k.shape[2])):
        top, end = rows.first + low, rows.first + high
        scores = attention.scores(low, high, 0, end) / LOG2_E
        scores.add_(exclusion(_causal(top, end, 0, valid), scores.dtype))
        parts.append(torch.logsumexp(scores, dim=-1).nan_to_num_(nan=torch.nan, neginf=0.0))
    return torch.cat(parts, dim=-1)


def waad(rows: Rows, valid: Tensor, window: int = 10, chunk: int | None = None) -> Tensor:
    """Windowed average attention distance: WAAD_t = sum_s A(t, s) min(t - s, W), in tokens, in [0, W].

    Only the band t - s < W is looked at, since everything else counts W:
    WAAD_t = W - sum_{0 <= t-s < W} A(t, s) (W - (t - s)). Paper, section on local preplanning; W = 10.
    """
    parts, attention, bands = [], Map(rows), _Bands(0, window - 1, rows.lse)
    for low, high in rows.chunks(chunk or (WAAD_ROWS_CPU if rows.q.device.type == "cpu" else ROWS_GPU)):
        top, end = rows.first + low, rows.first + high
        begin = max(0, top - window + 1)
        closeness, excluded = bands(top, end, begin, end)
        if begin < rows.first:  # padding within the response comes after all its tokens
            excluded = excluded + exclusion(valid[:, None, None, begin:end], excluded.dtype)
        near = attention.block(low, high, begin, end, excluded)
        parts.append(near.mul_(closeness).sum(-1))
    return window - torch.cat(parts, dim=-1)


def fai(rows: Rows, mask: Tensor, low: int = 10, high: int | None = 100, chunk: int | None = None) -> Tensor:
    """Future attention influence: FAI_s = mean over t in T(s) of A(t, s), T(s) = rows in [s + low, s + high].

    NaN where T(s) is empty (the last `low` tokens). `high=None` reaches to the end of the response, which makes the
    cost quadratic in T. Paper, section on anchors; low = 10, high = 100.
    """
    count = len(rows)
    reach = count - 1 if high is None else min(high, count - 1)
    total = torch.zeros_like(rows.lse)
    only = rows.lse.masked_fill(~mask.unsqueeze(1), torch.inf)  # other rows pay no attention
    attention = Map(replace(rows, lse=only), rows.k[:, :, rows.first :])
    bands = _Bands(low, reach, rows.lse)
    size = chunk or (FAI_ROWS_CPU if rows.q.device.type == "cpu" else ROWS_GPU)
    for begin, end in rows.chunks(size if high is not None else rows.affordable(count)):
        left, right = max(0, begin - reach), end - low
        if right > left:
            _, excluded = bands(begin, end, left, right)
            total[:, :, left:right] += attention.block(begin, end, left, right, excluded).sum(-2)
    ahead = _rows_ahead(mask, low, reach).to(total.dtype)
    return total / torch.where(ahead > 0, ahead, torch.nan).unsqueeze(1)


def _rows_ahead(mask: Tensor, low: int, high: int) -> Tensor:
    """(B, R) number of rows in [s + low, s + high] for each s."""
    count = mask.shape[1]
    before = functional.pad(mask.long().cumsum(-1), (1, 0))
    at = torch.arange(count, device=mask.device)
    return before[:, (at + high + 1).clamp(max=count)] - before[:, (at + low).clamp(max=count)]


def mean_distance(rows: Rows, valid: Tensor, mask: Tensor, keys: str = "all", chunk: int | None = None) -> Tensor:
    """Mean backward distance of each head: d = mean over response rows t of sum_s A(t, s) (t - s), in tokens.

    With keys="response" only attention on response keys counts, renormalized over them: in a vision-language model
    the distance over all keys may only say that a head reads the image. Returns (B, H); NaN for a response without
    rows. Needs every entry of the rows: O(R N) time, O(chunk * N) memory.
    """
    begin = 0 if keys == "all" else rows.first
    total, attention = torch.zeros_like(rows.lse[..., 0]), Map(rows)
    for low, high in rows.chunks(chunk or rows.affordable(rows.k.shape[2])):
        top, end = rows.first + low, rows.first + high
        counts = _causal(top, end, begin, valid) & mask[:, None, low:high, None]
        block = attention.block(low, high, begin, end, exclusion(counts, total.dtype))
        distance = (block * _gap(top, end, begin, end, block.device)).sum(-1)
        if keys != "all":
            distance = distance / block.sum(-1).clamp(min=torch.finfo(block.dtype).tiny)
        total += distance.sum(-1)
    count = mask.sum(-1).to(total.dtype)
    return total / torch.where(count > 0, count, torch.nan).unsqueeze(1)


def sentence_map(rows: Rows, sentences: Tensor, number: int, chunk: int | None = None) -> Tensor:
    """Mean attention from each sentence to each earlier one (Thought Anchors, arXiv 2506.19143).

    Args:
        sentences: (B, R) long, index of each row's sentence in 0 .. number - 1, -1 for none.
        number: S.

    Returns:
        (B, H, S, S): entry (i, j) is the mean of A(t, s) over tokens t of sentence i and s of sentence j (0 where
        s > t), 0 where a sentence is empty. O(R^2) time, O(chunk * R) memory.
    """
    member = functional.one_hot(sentences + 1, number + 1)[..., 1:].to(rows.lse.dtype)  # (B, R, S)
    attention = Map(rows, rows.k[:, :, rows.first :])
    total = torch.zeros(*rows.lse.shape[:2], number, number, dtype=member.dtype, device=member.device)
    for low, high in rows.chunks(chunk or rows.affordable(len(rows))):
        counts = (_gap(low, high, 0, high, total.device) >= 0) & (sentences[:, None, low:high, None] >= 0)
        block = attention.block(low, high, 0, high, exclusion(counts, total.dtype))
        received = block @ member[:, None, :high]
        total += member[:, None, low:high].transpose(-1, -2) @ received
    size = member.sum(1)
    pairs = (size.unsqueeze(2) * size.unsqueeze(1)).unsqueeze(1)
    return torch.where(pairs > 0, total / pairs.clamp(min=1), 0.0)


def sentence_influence(maps: Tensor, sentences: Tensor, skip: int = 4) -> Tensor:
    """Mean attention a sentence receives from sentences at least `skip` later; NaN where there is none.

    Args:
        maps: (B, ..., S, S) of `sentence_map`.
        sentences: (B, R) as there, which tells how many sentences each response has.

    Returns:
        (B, ..., S).
    """
    number = maps.shape[-1]
    at = torch.arange(number, device=maps.device)
    existing = sentences.amax(-1) if sentences.shape[1] else sentences.new_full((len(sentences),), -1)
    later = (at[:, None] >= at[None, :] + skip) & (at[:, None] <= existing[:, None, None])  # (B, S, S)
    later = later.reshape(len(maps), *[1] * (maps.dim() - 3), number, number)
    count = later.sum(-2)
    mean = torch.where(later, maps, 0.0).sum(-2) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.nan)


def kurtosis(scores: Tensor) -> Tensor:
    """Excess kurtosis over the last axis, NaN entries left out; high for receiver heads, which single out a few
    sentences. NaN where fewer than 3 entries or no spread. (..., S) -> (...)."""
    known = ~scores.isnan()
    count = known.sum(-1)
    centered = torch.where(known, scores - scores.nanmean(-1, keepdim=True), 0.0)
    variance = centered.square().sum(-1) / count.clamp(min=1)
    fourth = centered.pow(4).sum(-1) / count.clamp(min=1)
    enough = (count >= 3) & (variance > 0)
    return torch.where(enough, fourth / variance.clamp(min=torch.finfo(scores.dtype).tiny).square() - 3.0, torch.nan)


def _gap(top: int, bottom: int, left: int, right: int, device: torch.device) -> Tensor:
    """(rows, columns) of t - s for positions t in [top, bottom), s in [left, right)."""
    return torch.arange(top, bottom, device=device)[:, None] - torch.arange(left, right, device=device)


class _Bands:
    """Blocks of a band low <= t - s <= high, remembering the last: inside it, chunk after chunk has the same."""

    def __init__(self, low: int, high: int, like: Tensor):
        self._low, self._high, self._like = low, high, like
        self._shape: tuple[int, int, int] | None = None
        self._block = (torch.empty(0), torch.empty(0))

    def __call__(self, top: int, bottom: int, left: int, right: int) -> tuple[Tensor, Tensor]:
        """high + 1 - (t - s), and the `exclusion` of what lies outside the band, both (rows, columns)."""
        shape = (bottom - top, right - left, top - left)
        if shape != self._shape:
            gap = _gap(top, bottom, left, right, self._like.device)
            inside = (gap >= self._low) & (gap <= self._high)
            kind = self._like.dtype  # floats throughout: multiplying by integers is several times slower
            self._shape, self._block = shape, ((self._high + 1 - gap).to(kind), exclusion(inside, kind))
        return self._block


def _causal(top: int, end: int, begin: int, valid: Tensor) -> Tensor:
    """(B, 1, rows, columns) bool for rows [top, end) and columns [begin, end): s <= t and s no padding."""
    return (_gap(top, end, begin, end, valid.device) >= 0) & valid[:, None, None, begin:end]
