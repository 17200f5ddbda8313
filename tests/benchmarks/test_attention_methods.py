"""Methods that read or change attention: pure geometry by hand and by property, then on real (tiny) models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from attention.maps import PromptAttention
from attention.prompt import redistribute, redistribution
from attention.sinks import TAU, massive
from benchmarks.harness.backends.generate import Decoding, Request
from benchmarks.harness.backends.local_model import LocalModel
from benchmarks.harness.test_time import attention_guided as attention
from benchmarks.harness.test_time.methods import wrap
from benchmarks.harness.test_time.sampler import Sampler, around, cropped, outward, snapped
from data_prep.screens import generated as screens
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.targets import Box, Point
from models import tiny as build_tiny
from models.loading import load_policy

ROOT = Path(__file__).parents[2]
PLACE = st.tuples(st.floats(0, 1), st.floats(0, 1))


def shown(heads, sinks=None, grid=(2, 2)):
    heads = np.array(heads, dtype=float)
    return PromptAttention(heads, np.zeros(heads.shape[1], bool) if sinks is None else np.array(sinks), (grid,))


class TestMaps:
    def test_heads_count_by_how_much_they_look_like_all(self):
        # Two heads agree on the first token, one is alone with the last.
        heat = attention.blend(shown([[0.8, 0, 0, 0.2], [0.8, 0, 0, 0.2], [0, 0, 0, 1.0]]))
        assert heat.argmax() == 0
        # g = (1.6, 0, 0, 1.4) / 3; KL(g || p_1) = 0.533 ln 0.667 + 0.467 ln 2.333 = 0.179, the third's is over 10
        assert heat[0] == pytest.approx(0.8, abs=1e-3)

    def test_sinks_are_left_out(self):
        assert attention.blend(shown([[0.1, 0.9, 0.2, 0]], [False, True, False, False])).tolist() == [
            0.1,
            0,
            0.2,
            0,
        ]

    def test_a_region_is_what_is_connected_with_the_peak(self):
        heat = np.array([[0.9, 0.5, 0.1], [0.0, 0.1, 0.0], [0.0, 0.0, 0.8]])
        cells = attention.region_of(heat)
        assert cells.tolist() == [[True, True, False], [False] * 3, [False] * 3]
        assert attention.bounds_of(cells) == Box(0, 0, 2 / 3, 1 / 3)
        center = attention.center_of(heat, cells)  # x: (0.9 / 6 + 0.5 / 2) / 1.4
        assert (center.x, center.y) == pytest.approx((0.4 / 1.4, 1 / 6))

    def test_the_window_that_stands_out_holds_the_peak(self):
        heat = np.full((20, 20), 0.01)
        heat[2:7, 11:16] = 1.0
        assert attention.sharpest_window(heat).xyxy == pytest.approx((11 / 20, 2 / 20, 16 / 20, 7 / 20))

    @given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
    def test_windows_and_regions_lie_inside_any_map(self, rows, columns, seed):
        heat = np.random.default_rng(seed).random((rows, columns))
        window, cells = attention.sharpest_window(heat), attention.region_of(heat)
        assert window.area > 0
        assert cells[np.unravel_index(heat.argmax(), heat.shape)]
        center, bounds = attention.center_of(heat, cells), attention.bounds_of(cells)
        assert bounds.x1 <= center.x <= bounds.x2
        assert bounds.y1 <= center.y <= bounds.y2

    def test_masking_keeps_the_chosen_cells_to_the_pixel(self):
        image = Image.new("RGB", (40, 20), (0, 0, 0))
        image.paste((200, 100, 50), (0, 0, 20, 20))
        out = np.asarray(attention.masked(image, np.array([[True, False], [False, False]])))
        assert (out[:10, :20] == (200, 100, 50)).all()
        assert (out[10:] == (100, 50, 25)).all()
        assert (out[:, 20:] == (100, 50, 25)).all()


class TestCrops:
    @given(PLACE, st.floats(0.05, 1.0), st.tuples(st.integers(1, 400), st.integers(1, 400)), PLACE)
    def test_a_place_in_a_crop_is_the_same_place_in_the_image(self, at, side, size, place):
        (x, y), (width, height), (u, v) = at, size, place
        request = Request("q", (Image.new("RGB", (width, height)),))
        window = snapped(around(Point(x, y), side), request)
        crop = cropped(request, window).images[0]
        corner = window.x1 * width, window.y1 * height
        assert corner == pytest.approx((round(corner[0]), round(corner[1])), abs=1e-6)  # whole pixels
        back = outward(Point(u, v), window)
        assert (back.x * width, back.y * height) == pytest.approx(
            (corner[0] + u * crop.width, corner[1] + v * crop.height), abs=1e-6
        )
        whole = outward(Box(0.0, 0.0, 1.0, 1.0), window)
        assert whole.xyxy == pytest.approx(window.xyxy)

    def test_a_marked_pixel_comes_back(self):
        image = Image.new("RGB", (101, 57), "white")
        image.putpixel((63, 20), (255, 0, 0))
        window = snapped(around(Point(0.7, 0.3), 0.3), Request("q", (image,)))
        crop = np.asarray(cropped(Request("q", (image,)), window).images[0])
        ((row,), (column,)) = np.nonzero((crop == (255, 0, 0)).all(-1))
        back = outward(Point((column + 0.5) / crop.shape[1], (row + 0.5) / crop.shape[0]), window)
        assert (int(back.x * 101), int(back.y * 57)) == (63, 20)


class TestRedistribution:
    def test_by_hand(self):
        # Tokens: text sink, image sink, image, image, text. Head 0 reads the image, a third of it at the sink.
        rows = [[0.3, 0.2, 0.3, 0.1, 0.1], [0.9, 0.05, 0.03, 0.02, 0.0], [0.1, 0.6, 0.2, 0.1, 0.0]]
        weights = torch.tensor(rows)[None, :, None]
        sinks = torch.tensor([[True, True, False, False, False]])
        image = torch.tensor([[False, True, True, True, False]])
        out = redistribute(weights, sinks, image, torch.tensor([[True]]))
        # Sinks keep 0.6 of 0.3 and 0.2; the 0.2 they lose go 3 : 1 to the other image tokens.
        assert out[0, 0, 0].tolist() == pytest.approx([0.18, 0.12, 0.45, 0.15, 0.1])
        assert out[0, 1:].equal(weights[0, 1:])  # one ignores the image, one looks at its sink most of the time
        assert redistribute(weights, sinks, image, torch.tensor([[False]])).equal(weights)
        assert redistribute(weights, sinks & ~image, image, torch.tensor([[True]])).equal(weights)

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=30)
    def test_rows_keep_their_sum(self, seed):
        draw = torch.Generator().manual_seed(seed)
        weights = torch.rand(2, 3, 4, 9, generator=draw).softmax(-1)
        sinks, image = torch.rand(2, 9, generator=draw) > 0.6, torch.rand(2, 9, generator=draw) > 0.4
        out = redistribute(weights, sinks, image, torch.ones(2, 4, dtype=torch.bool))
        assert torch.allclose(out.sum(-1), torch.ones(2, 3, 4))
        assert (out >= 0).all()

    def test_massive_activations(self):
        states = torch.ones(1, 2, 1000)
        states[0, 1, 7] = 40.0  # rms = sqrt((999 + 1600) / 1000) = 1.61: 24.8 times that
        assert massive(states).tolist() == [[False, True]]
        assert massive(states, tau=30.0).tolist() == [[False, False]]
        assert not massive(torch.randn(1, 50, 128) ** 9, TAU).any()  # sqrt(128) < 20: none is possible


@pytest.fixture(scope="module")
def random_local():
    """A model of five layers with random weights."""
    torch.manual_seed(1)
    tokenizer = build_tiny.train_tokenizer(['the red square here {"bbox_2d": [1, 2, 3, 4]}'] * 20)
    model, processor = build_tiny.build(tokenizer, hidden=64, layers=5, vision_hidden=64, vision_layers=2)
    return LocalModel(model, processor, image_first=False)


@pytest.fixture(scope="module")
def tiny():
    folder = ROOT / "assets" / "fovea-tiny"
    model, processor = load_policy(folder)
    return LocalModel(model, processor, json.loads((folder / "fovea.json").read_text())["image_first"])


def squares(n):
    """Requests whose texts differ in length, so that a batch is padded."""
    requests = []
    for k in range(n):
        image = Image.new("RGB", (96 + 32 * (k % 2), 96), "white")
        ImageDraw.Draw(image).rectangle([8 + 9 * k, 60 - 9 * k, 28 + 9 * k, 80 - 9 * k], fill="red")
        requests.append(Request("the red square" + " here" * k, (image,)))
    return requests


class TestModels:
    def test_a_batch_looks_where_single_requests_look(self, random_local):
        requests = squares(4)
        together = random_local.prompt_attention(requests, '{"bbox_2d": [')
        for request, one in zip(requests, together, strict=True):
            (alone,) = random_local.prompt_attention([request], '{"bbox_2d": [')
            assert alone.grids == one.grids
            np.testing.assert_allclose(alone.heads, one.heads, atol=1e-5)
            assert one.heads.shape[1] == one.grids[0][0] * one.grids[0][1]
            assert (one.heads.sum(-1) < 1.0).all()
            assert one.cost == {"tokens": 0, "passes": 1}
            assert one.seen == (request.images[0].size,)

    def test_reading_leaves_the_model_as_it_was(self, random_local):
        before = random_local.model.config.get_text_config()._attn_implementation
        first = random_local.generate(squares(2), Decoding(max_new_tokens=6), 0)
        random_local.prompt_attention(squares(2), "")
        with random_local.redistribution():
            pass
        assert random_local.model.config.get_text_config()._attn_implementation == before
        assert random_local.generate(squares(2), Decoding(max_new_tokens=6), 0) == first

    @pytest.mark.parametrize("method", [*attention.ATTENTIVE, "narrowing+attend"])
    def test_a_batch_answers_what_single_requests_answer_and_costs_are_counted(self, random_local, method):
        backend = wrap(random_local, method, "qwen3_vl", "bare", "box")
        requests = squares(3)
        together = backend.generate(requests, Decoding(max_new_tokens=8), 0)
        alone = [backend.generate([request], Decoding(max_new_tokens=8), 0)[0] for request in requests]
        assert [o[0].text for o in together] == [o[0].text for o in alone]
        passes = {"attend": {1}, "var": {1}, "narrowing+attend": {3}}.get(method, {3, 4})
        assert {o[0].cost["passes"] for o in together} <= passes
        if method == "attend":
            assert {o[0].cost["tokens"] for o in together} == {0}

    def test_redistribution_changes_nothing_without_sinks_and_something_with(self, random_local):
        model, inputs = random_local.model, random_local.encode(squares(2))
        with torch.no_grad():
            plain = model(**inputs).logits
            with redistribution(model):
                same = model(**inputs).logits
            # A share of the tokens of each layer passes this threshold: random states have a maximum near 2.5.
            with redistribution(model, tau=2.6):
                other = model(**inputs).logits
        valid = inputs["attention_mask"].bool()
        torch.testing.assert_close(plain[valid], same[valid], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(plain[valid], other[valid], atol=1e-4)

    def test_too_few_layers_and_backends_without_attention_are_refused(self, random_local, random_model):
        two_layers, _ = load_policy(random_model)
        with pytest.raises(UsageError, match="at least 4 are needed"), redistribution(two_layers):
            pass

        class Server:
            name = "endpoint"

            def generate(self, requests, decoding, seed):
                return []

        for method in attention.ATTENTIVE:
            with pytest.raises(UsageError, match=r"'endpoint' does not show"):
                wrap(Server(), f"voting+{method}", "qwen3_vl", "bare", "box")
        with pytest.raises(UsageError, match="can only stand last"):
            wrap(random_local, "attend+voting", "qwen3_vl", "bare", "box")

    @pytest.mark.parametrize(
        ("dialect", "answer_kind", "opening"),
        [("fovea", "box", '{"bbox_2d": ['), ("qwen3_vl", "point", '{"point_2d": ['), ("paligemma", "box", ""),
         ("florence2", "box", "")],
    )  # fmt: skip
    def test_the_opening_ends_before_the_first_coordinate(self, random_local, dialect, answer_kind, opening):
        assert Sampler(random_local, Decoding(), dialect, "bare", answer_kind)._opening() == opening

    def test_attend_finds_targets_far_above_chance_on_the_embedded_model(self, tiny):
        samples = [screens.example(n, seed=7, split="test", difficulty=3, size=96) for n in range(24)]
        requests = [Request(sample.instruction, (image,)) for sample, image in samples]
        outputs = wrap(tiny, "attend", "fovea", "think", "box").generate(requests, Decoding(), 0)
        size = [ImageSize(96, 96)]
        read = [get_dialect("fovea").parse(output.text, size, grammar="bare").click for (output,) in outputs]
        boxes = [sample.target for sample, _ in samples]
        hits = sum(b.x1 <= p.x <= b.x2 and b.y1 <= p.y <= b.y2 for p, b in zip(read, boxes, strict=True))
        assert sum(box.area for box in boxes) < 2  # what clicking anywhere would find, of 24
        assert hits >= 16
        assert {output.cost["tokens"] for (output,) in outputs} == {0}
