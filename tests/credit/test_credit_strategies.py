"""Strategies on cases small enough to work out by hand, and the rules they share."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from credit.strategies import STRATEGIES, Signals, finish, select, signed, waad_jumps
from grounding.errors import UsageError

NAN = math.nan
SHIPPED = {
    "uniform",
    "random",
    "entropy",
    "local_chunk",
    "global_anchor",
    "uncertain_anchor",
    "coupled_rhythm",
    "visual_anchor",
    "visual_density",
    "coordinate",
    "grounded",
    "vppo",
    "sentence",
}


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def full(count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def weights(name: str, signals: Signals, mask: Tensor, **params: object) -> list[float]:
    return [round(value, 6) for value in STRATEGIES.get(name)(signals, mask, **params)[0].tolist()]


def test_every_strategy_of_the_documentation_exists() -> None:
    assert set(STRATEGIES.names()) >= SHIPPED
    with pytest.raises(UsageError, match="unknown credit strategy 'global_anker'; did you mean 'global_anchor'"):
        STRATEGIES.get("global_anker")


def test_select_takes_the_highest_or_lowest_and_breaks_ties_to_the_left() -> None:
    scores = row(0.1, 0.9, 0.5, 0.9, 0.2)
    assert select(scores, full(5), 0.4).tolist() == [[False, True, False, True, False]]
    assert select(scores, full(5), 0.2).tolist() == [[False, True, False, False, False]]
    assert select(scores, full(5), 0.4, "bottom").tolist() == [[True, False, False, False, True]]
    assert select(scores, full(5), 1.0).all()


def test_select_leaves_out_what_has_no_score_and_what_is_padding() -> None:
    scores = row(NAN, 3, 1, 2, 9)
    mask = torch.tensor([[True, True, True, True, False]])
    assert select(scores, mask, 0.5).tolist() == [[False, True, False, True, False]]
    assert select(scores, mask, 0.5, "bottom").tolist() == [[False, False, True, True, False]]
    assert not select(row(NAN, NAN), full(2), 1.0).any()


def test_short_and_empty_responses_select_nothing() -> None:
    assert not select(row(1, 2, 3), full(3), 0.4, min_length=4).any()
    assert select(row(1, 2, 3), full(3), 0.4, min_length=3).sum() == 1
    assert not select(row(1, 2), ~full(2), 0.4).any()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_select_counts(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    scores = torch.tensor(
        [data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=count, max_size=count))]
    )
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=count, max_size=count))])
    q = data.draw(st.floats(0.01, 1))
    length, known = int(mask.sum()), int((mask & ~scores.isnan()).sum())
    for which in ("top", "bottom"):
        chosen = select(scores, mask, q, which)
        assert int(chosen.sum()) == min(known, max(1, round(q * length)))
        rest = mask & ~scores.isnan() & ~chosen
        if chosen.any() and rest.any():
            inside, outside = scores[chosen], scores[rest]
            assert inside.min() >= outside.max() if which == "top" else inside.max() <= outside.min()


@pytest.mark.parametrize(("q", "which"), [(0.0, "top"), (1.1, "top"), (0.4, "middle")])
def test_select_refuses_nonsense(q: float, which: str) -> None:
    with pytest.raises(UsageError, match="credit"):
        select(row(1, 2), full(2), q, which)


def test_finish_scales_to_mean_one() -> None:
    raw = torch.tensor([[1.5, 1.0, 0.5, 9.0], [3.0, 3.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    assert finish(raw, mask, "response").tolist() == [[1.5, 1.0, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0]]
    batch = finish(raw, mask, "batch")  # 9 / 5 on average
    torch.testing.assert_close(batch[mask], torch.tensor([1.5, 1.0, 0.5, 3.0, 3.0]) * 5 / 9)
    assert finish(raw, mask, "none").tolist() == [[1.5, 1.0, 0.5, 1.0], [3.0, 3.0, 1.0, 1.0]]
    assert finish(torch.zeros(1, 3), full(3), "response").tolist() == [[1.0, 1.0, 1.0]]
    assert finish(torch.zeros(1, 3), ~full(3), "response").tolist() == [[1.0, 1.0, 1.0]]


def test_signs() -> None:
    own, advantages = torch.full((2, 2), 1.5), torch.tensor([1.0, -1.0])
    assert signed(own, advantages, "both").tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert signed(own, advantages, "positive").tolist() == [[1.5, 1.5], [1.0, 1.0]]
    assert signed(own, advantages, "negative").tolist() == [[1.0, 1.0], [1.5, 1.5]]


def test_uniform_random_and_entropy() -> None:
    assert weights("uniform", Signals(), full(3)) == [1, 1, 1]
    assert weights("random", Signals(noise=row(0.1, 0.9, 0.3, 0.2, 0.4)), full(5), min_length=1) == [
        1,
        1.5,
        1,
        1,
        1.5,
    ]
    signals = Signals(entropy=row(0.1, 2.0, 0.3, 0.2, 0.4))
    assert weights("entropy", signals, full(5), q=0.2, min_length=1) == [1, 1.5, 1, 1, 1]
    assert weights("entropy", signals, full(5), q=0.2, which="bottom", min_length=1) == [1.5, 1, 1, 1, 1]
    assert weights("entropy", signals, full(5)) == [1, 1, 1, 1, 1]  # shorter than 8


def test_local_chunk_takes_the_largest_jumps() -> None:
    """Jumps 0, 4, 3, 1 and none for the last token."""
    waad = row(1, 1, 5, 2, 3)
    assert waad_jumps(waad, full(5))[0, :4].tolist() == [0, 4, 3, 1]
    assert waad_jumps(waad, full(5))[0, 4].isnan()
    assert weights("local_chunk", Signals(waad=waad), full(5), min_length=1) == [1, 1.5, 1.5, 1, 1]
    assert weights("local_chunk", Signals(waad=waad), full(5), which="bottom", min_length=1) == [1.5, 1, 1, 1.5, 1]


def test_an_uncertain_anchor_is_both() -> None:
    fai = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, torch.nan]])
    entropy = torch.tensor([[0.0, 0.5, 0.0, 0.6, 0.0, 0.7, 0.0, 0.0, 0.1, 0.9]])
    signals = Signals(fai=fai, entropy=entropy)
    # unsure: the tokens 1, 3, 5 and 9; the last has no future, so two of the other three are the anchors
    assert weights("uncertain_anchor", signals, full(10)) == [1, 1.5, 1, 1.5, 1, 1, 1, 1, 1, 1]
    assert weights("uncertain_anchor", signals, full(10), which="bottom", q=0.1) == [1] * 5 + [1.5] + [1] * 4
    # everything may be unsure: then it is global_anchor
    assert weights("uncertain_anchor", signals, full(10), unsure=1.0, q=0.4) == weights(
        "global_anchor", signals, full(10), q=0.4
    )


def test_global_anchor_ignores_the_tail() -> None:
    signals = Signals(fai=row(0.3, 0.1, 0.4, NAN, NAN))
    assert weights("global_anchor", signals, full(5), min_length=1) == [1.5, 1, 1.5, 1, 1]
    assert weights("global_anchor", signals, full(5), which="bottom", q=0.2, min_length=1) == [1, 1.5, 1, 1, 1]


def test_coupled_rhythm_by_hand() -> None:
    """Anchors are 1 and 4. WAAD 6 1 1 8 2 7, jumps 5 0 7 6 5 -.

    Median of WAAD: 4; the 0.6-quantile of the jumps (0 5 5 6 7): 5.4. Token 1 is near (1 <= 4), but the jump before
    it, 5, is no peak. Token 4 is near (2), the largest jump of tokens 1 to 3 is 7 at token 2: it is dominated, and
    token 2 introduces it.
    """
    signals = Signals(waad=row(6, 1, 1, 8, 2, 7), fai=row(0.1, 0.9, 0.1, 0.2, 0.8, NAN))
    found = weights("coupled_rhythm", signals, full(6), q=0.34, amplification=2.0, alpha=0.25, min_length=1)
    assert found == [1, 2, 1.25, 1, 1.75, 1]
    # alpha 0 leaves the anchors all their credit: global_anchor
    plain = weights("coupled_rhythm", signals, full(6), q=0.34, alpha=0.0, min_length=1)
    assert plain == weights("global_anchor", signals, full(6), q=0.34, min_length=1)
    # with k = 1 only token 3 is looked at, whose jump of 6 is a peak too
    found = weights("coupled_rhythm", signals, full(6), q=0.34, amplification=2.0, alpha=0.25, min_length=1, k=1)
    assert found == [1, 2, 1, 1.25, 1.75, 1]


def test_coupled_rhythm_at_the_beginning_and_with_short_responses() -> None:
    signals = Signals(waad=row(0, 9), fai=row(1.0, 0.5))
    assert weights("coupled_rhythm", signals, full(2), q=0.5, k=3, min_length=1) == [1.5, 1]  # nothing before token 0
    assert weights("coupled_rhythm", signals, full(2), q=0.5, k=3) == [1, 1]
    with pytest.raises(UsageError, match="k is 0"):
        weights("coupled_rhythm", signals, full(2), k=0)
    with pytest.raises(UsageError, match="alpha is 2"):
        weights("coupled_rhythm", signals, full(2), alpha=2)


def test_coordinate_tokens_and_their_complement() -> None:
    signals = Signals(coordinate=row(0, 1, 1, 0))
    assert weights("coordinate", signals, full(4)) == [1, 1.5, 1.5, 1]
    assert weights("coordinate", signals, full(4), which="bottom") == [1.5, 1, 1, 1.5]
    assert weights("coordinate", signals, full(4), which="bottom", amplification=0.0) == [0, 1, 1, 0]  # RUIG


def test_visual_anchor() -> None:
    signals = Signals(image_mass=row(0.9, 0.2, 0.5, 0.5), target_mass=row(0.3, 0.19, 0.1, 0.0))
    assert weights("visual_anchor", signals, full(4), q=0.25, min_length=1) == [1.5, 1, 1, 1]
    assert weights("visual_anchor", signals, full(4), q=0.25, min_length=1, share=True) == [1, 1.5, 1, 1]
    nothing = Signals(image_mass=row(0.9, 0.2), target_mass=row(0.0, 0.0))
    assert weights("visual_anchor", nothing, full(2), min_length=1) == [1, 1]


def test_visual_density() -> None:
    """Ratios 1, 3, 0.01: mean 4.01 / 3."""
    signals = Signals(image_mass=row(0.5, 0.6, 0.005), text_mass=row(0.5, 0.2, 0.5))
    found = weights("visual_density", signals, full(3))
    assert found == pytest.approx([3 / 4.01, 9 / 4.01, 0.2], abs=1e-5)
    assert weights("visual_density", Signals(image_mass=row(NAN), text_mass=row(NAN)), full(1)) == [1]


def test_grounded_weighs_anchors_by_how_right_their_region_is() -> None:
    signals = Signals(fai=row(0.9, 0.8, 0.7, 0.1), claim=row(1.0, 0.25, NAN, 1.0))
    found = weights("grounded", signals, full(4), q=0.75, amplification=2.0, min_length=1, unnamed=0.5)
    assert found == [2.0, 1.25, 1.5, 1.0]


def test_vppo() -> None:
    """Dependence of a change d: e^d - d - 1; -2 gives 1.135, 0 nothing, 1 gives 0.718."""
    signals = Signals(logps=row(-1, -1, -1, -1), masked_logps=row(-3, -1, 0, -1))
    assert weights("vppo", signals, full(4), q=0.5, min_length=1, trajectory=False) == [1, 0, 1, 0]
    assert weights("vppo", signals, full(4), q=0.25, min_length=1, trajectory=False, rest=0.5) == [1, 0.5, 0.5, 0.5]
    two = Signals(logps=torch.zeros(2, 2), masked_logps=torch.tensor([[-2.0, -2.0], [0.0, 0.0]]))
    found = STRATEGIES.get("vppo")(two, torch.ones(2, 2, dtype=torch.bool), q=1.0, min_length=1)
    assert found.tolist() == [[2.0, 2.0], [0.5, 0.5]]


def test_sentence_takes_whole_sentences() -> None:
    signals = Signals(sentence=row(0.2, 0.2, 0.7, 0.7, NAN))
    assert weights("sentence", signals, full(5), min_length=1) == [1, 1, 1.5, 1.5, 1]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_no_strategy_invents_numbers_where_there_are_none(name: str) -> None:
    """All-padding responses and signals without any score give finite weights, and uniform ones where it matters."""
    nothing = torch.full((2, 12), NAN)
    signals = Signals(**dict.fromkeys(Signals.__dataclass_fields__, nothing))
    if name == "coordinate":
        signals = Signals(coordinate=torch.zeros(2, 12))
    mask = torch.tensor([[True] * 12, [False] * 12])
    found = finish(STRATEGIES.get(name)(signals, mask), mask, "response")
    assert found.shape == mask.shape
    assert found.tolist() == torch.ones(2, 12).tolist()
