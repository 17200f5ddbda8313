"""Every signal against the same formula over full float64 maps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention.signals import (
    Rows,
    fai,
    kurtosis,
    mean_distance,
    row_logsumexp,
    sentence_influence,
    sentence_map,
    waad,
)
from attention.sinks import agreed, persistent
from attention.visual import ImageTokens, attention_over_image, image_attention


class Case:
    """Random q and k with left padding and a response of random length, and the full map they stand for."""

    def __init__(self, seed: int, prompt: int, length: int, groups: int = 2, batch: int = 2):
        generator = torch.Generator().manual_seed(seed)
        heads, size, total = 2 * groups, 4, prompt + length
        q = 2 * torch.randn(batch, heads, total, size, generator=generator, dtype=torch.float64)
        k = 2 * torch.randn(batch, 2, total, size, generator=generator, dtype=torch.float64)
        padding = torch.randint(0, prompt, (batch,), generator=generator)
        kept = torch.randint(1, length + 1, (batch,), generator=generator)
        at = torch.arange(total)
        self.valid = (at >= padding[:, None]) & (at < prompt + kept[:, None])
        self.mask = self.valid[:, prompt:]
        self.prompt, self.length = prompt, length
        scores = q @ k.repeat_interleave(groups, 1).transpose(-1, -2) * 0.5
        allowed = (at[:, None] >= at[None, :]) & self.valid[:, None, None, :]
        scores = scores.masked_fill(~allowed, -torch.inf)
        self.map = scores.softmax(-1).nan_to_num()
        lse = scores.logsumexp(-1)[:, :, prompt:]
        self.rows = Rows(q[:, :, prompt:], k, lse, 0.5, prompt)
        self.gap = (at[:, None] - at[None, :]).double()

    @property
    def own(self) -> Tensor:
        """The rows of the map that are response positions."""
        return self.map[:, :, self.prompt :]

    def close(self, found: Tensor, expected: Tensor) -> None:
        chosen = self.mask.unsqueeze(1).expand(found.shape)
        torch.testing.assert_close(found[chosen], expected[chosen], rtol=1e-5, atol=1e-9, equal_nan=True)


cases = st.builds(
    Case,
    seed=st.integers(0, 10_000),
    prompt=st.integers(1, 20),
    length=st.integers(1, 30),
    groups=st.integers(1, 3),
)
chunks = st.sampled_from([None, 1, 7, 64])


@settings(max_examples=25, deadline=None)
@given(cases, chunks)
def test_row_logsumexp_is_what_the_softmax_divides_by(case: Case, chunk: int | None) -> None:
    found = row_logsumexp(case.rows, case.valid, chunk)
    case.close(found, case.rows.lse)


@settings(max_examples=25, deadline=None)
@given(cases, chunks, st.integers(1, 60))
def test_waad_equals_the_full_map(case: Case, chunk: int | None, window: int) -> None:
    expected = (case.map * case.gap.clamp(max=window)).sum(-1)[:, :, case.prompt :]
    case.close(waad(case.rows, case.valid, window, chunk), expected)


@settings(max_examples=25, deadline=None)
@given(cases, chunks, st.integers(0, 12), st.one_of(st.none(), st.integers(0, 30)))
def test_fai_equals_the_full_map(case: Case, chunk: int | None, low: int, width: int | None) -> None:
    high = None if width is None else low + width
    expected = torch.full_like(case.rows.lse, math.nan)
    for b in range(len(case.mask)):
        for s in range(case.length):
            last = case.length - 1 if high is None else min(s + high, case.length - 1)
            later = [t for t in range(s + low, last + 1) if case.mask[b, t]]
            if later:
                expected[b, :, s] = case.own[b, :, later, case.prompt + s].mean(-1)
    case.close(fai(case.rows, case.mask, low, high, chunk), expected)


@settings(max_examples=25, deadline=None)
@given(cases, chunks)
def test_mean_distance_equals_the_full_map(case: Case, chunk: int | None) -> None:
    for keys in ("all", "response"):
        own, gap = case.own, case.gap[case.prompt :]
        if keys == "response":
            own, gap = own[..., case.prompt :], gap[:, case.prompt :]
            own = own / own.sum(-1, keepdim=True)
        per_row = (own * gap).sum(-1)
        chosen = case.mask.unsqueeze(1)
        expected = torch.where(chosen, per_row, 0.0).sum(-1) / chosen.sum(-1)
        found = mean_distance(case.rows, case.valid, case.mask, keys, chunk)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def tokens_of(case: Case, seed: int) -> ImageTokens:
    """Some prompt positions as image tokens, a different number in each response."""
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(case.valid.shape, generator=generator) < 0.6) & case.valid
    chosen[:, case.prompt :] = False
    width = int(chosen.sum(-1).max())
    columns = (~chosen).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    coverage = torch.rand(columns.shape, generator=generator, dtype=torch.float64)
    return ImageTokens(columns, chosen.gather(1, columns), coverage)


@settings(max_examples=25, deadline=None)
@given(cases, chunks, st.integers(0, 1000))
def test_image_attention_equals_the_full_map(case: Case, chunk: int | None, seed: int) -> None:
    image = tokens_of(case, seed)
    sinks = torch.rand(image.present.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    index = image.columns[:, None, None, :].expand(*case.own.shape[:3], -1)
    block = case.own.gather(-1, index) * image.present[:, None, None, :]
    found = image_attention(case.rows, image, sinks, chunk)
    case.close(found.everything, block.sum(-1))
    chosen = case.mask[:, None, :, None].expand(block.shape)
    torch.testing.assert_close(attention_over_image(case.rows, image)[chosen], block[chosen], rtol=1e-5, atol=1e-9)
    block = block * ~sinks[:, None, None, :]
    mass = block.sum(-1)
    case.close(found.mass, mass)
    case.close(found.target, (block * image.coverage[:, None, None, :]).sum(-1))
    share = block / mass.unsqueeze(-1)
    case.close(found.entropy, -torch.xlogy(share, share).sum(-1).nan_to_num())


@settings(max_examples=15, deadline=None)
@given(cases, chunks, st.integers(1, 6), st.integers(1, 3))
def test_sentence_map_and_influence_equal_the_full_map(case: Case, chunk: int | None, size: int, skip: int) -> None:
    sentences = torch.where(case.mask, torch.arange(case.length) // size, -1)
    number = int(sentences.max()) + 1
    found = sentence_map(case.rows, sentences, number, chunk)
    influence = sentence_influence(found, sentences, skip)
    for b in range(len(sentences)):
        existing = int(sentences[b].max()) + 1
        for j in range(existing):
            received = []
            for i in range(existing):
                block = case.own[b][:, sentences[b] == i][:, :, case.prompt :][:, :, sentences[b] == j]
                expected = block.mean((-1, -2))
                torch.testing.assert_close(found[b, :, i, j], expected, rtol=1e-5, atol=1e-9)
                if i >= j + skip:
                    received.append(expected)
            if received:
                torch.testing.assert_close(influence[b, :, j], torch.stack(received).mean(0), rtol=1e-5, atol=1e-9)
            else:
                assert influence[b, :, j].isnan().all()


def test_waad_by_hand() -> None:
    """Attention 0.5 on itself, 0.25 one back, 0.25 five back; W = 3."""
    rows = rows_of(torch.tensor([[0.0] * 6] * 5 + [[0.25, 0, 0, 0, 0.25, 0.5]]))
    assert waad(rows, torch.ones(1, 6, dtype=torch.bool), 3)[0, 0, 5].item() == pytest.approx(0.25 * 1 + 0.25 * 3)


def test_fai_by_hand() -> None:
    """Token 0 is attended 0.2 from 2 later and 0.4 from 3 later; two after token 2 there is only a masked row."""
    attention = torch.eye(5)
    attention[2, 0], attention[3, 0], attention[4, 0], attention[3, 1] = 0.2, 0.4, 0.9, 0.6
    mask = torch.tensor([[True, True, True, True, False]])
    found = fai(rows_of(attention), mask, low=2, high=3)[0, 0]
    assert found[0].item() == pytest.approx(0.3)
    assert found[1].item() == pytest.approx(0.6)
    assert found[2:].isnan().all()


def test_distance_by_hand() -> None:
    attention = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
    rows, all_three = rows_of(attention), torch.ones(1, 3, dtype=torch.bool)
    assert mean_distance(rows, all_three, all_three)[0, 0].item() == pytest.approx((0 + 0.5 + 1.0) / 3)
    assert mean_distance(rows, all_three, torch.zeros_like(all_three)).isnan().all()


def test_kurtosis_by_hand() -> None:
    """One outlier among five: m4 / m2^2 - 3 = 3.25 - 3."""
    scores = torch.tensor([[0.0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, math.nan, math.nan, math.nan]])
    found = kurtosis(scores.double())
    assert found[0].item() == pytest.approx(0.25)
    assert found[1:].isnan().all()


def test_a_persistent_image_token_is_a_sink_and_one_that_few_words_look_at_is_not() -> None:
    length, tokens = 30, 20
    attention = torch.zeros(tokens + length, tokens + length, dtype=torch.float64)
    attention[tokens:, :tokens] = 0.001
    attention[tokens:, 3] = 0.5  # whatever the text
    attention[tokens + 4 : tokens + 8, 7] = 0.4  # four words
    attention.diagonal()[:] = 0.1
    full = rows_of(attention)
    rows = full.part(tokens, tokens + length)
    image = ImageTokens(
        torch.arange(tokens)[None], torch.ones(1, tokens, dtype=torch.bool), torch.zeros(1, tokens).double()
    )
    sinks = agreed(persistent(rows, image, torch.ones(1, length, dtype=torch.bool)).float().mean(1))
    assert sinks.nonzero().tolist() == [[0, 3]]
    found = image_attention(rows, image, sinks)
    assert found.everything[0, 0, 0].item() - found.mass[0, 0, 0].item() == pytest.approx(0.5)


def test_chunks_keep_blocks_within_the_budget() -> None:
    rows = Rows(torch.empty(2, 8, 4096, 4), torch.empty(2, 8, 4096, 4), torch.empty(2, 8, 4096), 1.0, 0)
    size = rows.affordable(4096)
    assert size * 2 * 8 * 4096 <= 1 << 22
    assert [high - low for low, high in rows.chunks(1000)] == [1000, 1000, 1000, 1000, 96]


def rows_of(attention: Tensor) -> Rows:
    """Rows whose map is given: keys are unit vectors, queries the logarithms, log-sum-exp 0."""
    count = len(attention)
    q = attention.double().clamp(min=1e-300).log()[None, None]
    k = torch.eye(count, dtype=torch.float64)[None, None]
    return Rows(q, k, torch.zeros(1, 1, count, dtype=torch.float64), 1.0, 0)
