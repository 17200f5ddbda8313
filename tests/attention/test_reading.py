"""The one reader: what several layers decide together, which choice of heads is kept, and what is logged."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from attention.capture import LayerRows
from attention.heads import HeadSelection
from attention.reading import IMAGE_FIELDS, MAP, AttentionReader, CapturedPass, ResponseBatch, StepLog
from attention.signals import Rows
from attention.specification import AttentionSpec
from tests.attention.conftest import IMAGE

TOKENS, LENGTH = 20, 30  # of the image, of the response


def shown(layer: int, sinks: list[int | None]) -> LayerRows:
    """A layer whose heads give every image token 0.001, and half of their attention to one of them, or to none."""
    maps = torch.full((len(sinks), LENGTH + 1, TOKENS + LENGTH), 1e-9, dtype=torch.float64)
    maps[:, :, :TOKENS] = 0.001
    for head, sink in enumerate(sinks):
        if sink is not None:
            maps[head, :, sink] = 0.5
    q, k = maps.log()[None], torch.eye(TOKENS + LENGTH, dtype=torch.float64).expand(1, len(sinks), -1, -1)
    return LayerRows(layer, 0, Rows(q, k, torch.zeros(q.shape[:3], dtype=torch.float64), 1.0, TOKENS - 1))


def captured(needs: frozenset[str], *, known: bool) -> CapturedPass:
    """Layer 0 with one image-reading head, layer 1 with three: tokens 3 and 5 are sinks of 1 and of 3 heads."""
    heads = HeadSelection({"image": ((0, 0), (1, 0), (1, 1), (1, 2)), "local": (), "global": (), "receiver": ()})
    ids = torch.tensor([[IMAGE] * TOKENS + [1] * LENGTH])
    batch = ResponseBatch.of(ids, torch.ones_like(ids), torch.ones(1, LENGTH), IMAGE)
    found = CapturedPass(AttentionSpec(), needs, batch, heads if known else None, sinks=True)
    found.consume(shown(0, [3, None, None]))
    found.consume(shown(1, [5, 5, 5]))
    if not known:
        found.settle(heads)
    return found


@pytest.mark.parametrize("known", [True, False])
def test_the_image_reading_heads_of_all_layers_agree_on_the_sinks(known: bool) -> None:
    signals, maps = captured(IMAGE_FIELDS, known=known), captured(MAP, known=known)
    for found in (signals, maps):
        assert found.sinks().nonzero().tolist() == [[0, 5]]
    # each head has 0.001 on 18 tokens, on the sink of the others as well; layer 0 looks at token 3 besides
    assert signals.signals()["image_mass"][0, 0].item() == pytest.approx((0.018 + 0.5 + 3 * 0.019) / 4, abs=1e-6)
    everything = (19 * 0.001 + 0.5) * 4 / 4
    assert signals.signals()["text_mass"][0, 0].item() == pytest.approx(1 - everything, abs=1e-6)
    expected = torch.full((TOKENS,), 0.001, dtype=torch.float64)
    expected[3], expected[5] = (0.5 + 3 * 0.001) / 4, (0.001 + 3 * 0.5) / 4
    torch.testing.assert_close(maps.map()[0], expected)
    expected[5] = 0.0
    torch.testing.assert_close(signals.heat(0)[0].double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("needs", "kept"), [(MAP, False), (frozenset({"image_mass"}), False), (frozenset({"waad"}), True)]
)
def test_heads_of_the_image_are_chosen_again_where_no_image_was_there(build: Any, needs: Any, kept: bool) -> None:
    """The first batch of a mixed data set may hold no image; a choice made from nothing would stay for the run."""
    model = build()
    reader = AttentionReader(model, AttentionSpec(), needs, StepLog("attention"))
    ids = torch.arange(1, 13)[None]
    with (
        torch.no_grad(),
        reader.reading(ResponseBatch.of(ids, torch.ones_like(ids), torch.ones(1, 6), IMAGE)) as found,
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert (reader.heads is not None) == kept
    assert found.heads is not None  # it is used all the same
    if needs != MAP:
        assert found.signals()[next(iter(needs))].isnan().all() == (not kept)


def test_the_log_counts_nested_seconds_once_and_starts_anew() -> None:
    log = StepLog("credit")
    assert log.metrics() == {}
    started = time.perf_counter()
    with log.timed(), log.timed():
        time.sleep(0.02)
    elapsed = time.perf_counter() - started
    for value in (1.0, 3.0):
        log.add("mean", value)
        log.add("fallback", value)
    found = log.metrics(totals=("fallback",))
    assert found.keys() == {"credit/mean", "credit/fallback", "credit/seconds", "credit/time_share"}
    assert (found["credit/mean"], found["credit/fallback"]) == (2.0, 4.0)
    assert 0.02 <= found["credit/seconds"] <= elapsed and 0 < found["credit/time_share"] <= 1
    assert log.metrics() == {}
