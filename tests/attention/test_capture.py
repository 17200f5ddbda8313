"""Capture on transformers' real classes: what is seen, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from attention.capture import AttentionCapture, LayerRows, middle_layers
from attention.signals import Map, Rows, exclusion
from grounding.errors import FoveaError, UsageError

Build = Callable[..., Any]


def run(model: Any, scene: Any, **more: Any) -> Any:
    dtype = next(model.parameters()).dtype
    return model(**{**scene.forward, "pixel_values": scene.forward["pixel_values"].to(dtype)}, **more)


def collect(model: Any, scene: Any, layers: tuple[int, ...], first: int | None = None) -> dict[int, LayerRows]:
    """One captured forward pass without gradient, on whatever implementation the model uses."""
    capture = AttentionCapture(model, layers)
    shown: list[LayerRows] = []
    first = scene.prompt - 1 if first is None else first
    with torch.no_grad(), capture.open(scene.forward["attention_mask"], first, shown.append):
        run(model, scene)
    capture.detach()
    return {one.layer: one for one in shown}


def rebuilt(rows: Rows, valid: Tensor) -> Tensor:
    """The map that captured rows stand for."""
    at = torch.arange(rows.k.shape[2])
    allowed = (at[rows.first :, None] >= at) & valid[:, None, :]
    excluded = exclusion(allowed.unsqueeze(1), rows.lse.dtype)
    return Map(rows).block(0, len(rows), 0, len(at), excluded)


def test_captured_rows_are_the_eager_map(build: Build, scene: Any, alone_scenes: Any, eager_maps: Any) -> None:
    valid = scene.forward["attention_mask"].bool()
    shown = collect(build(), scene, (0, 2, 3))
    assert sorted(shown) == [0, 2, 3]
    for layer, one in shown.items():
        assert one.rows.lse.dtype == torch.float64
        assert one.rows.k.shape[1] == 2 and one.rows.q.shape[1] == 4  # keys are not repeated
        found = rebuilt(one.rows, valid)
        for index, single in enumerate(alone_scenes):
            expected = eager_maps(build(), single)[layer][0, :, single.prompt - 1 :]
            keys = valid[index]
            rows = keys[scene.prompt - 1 :]
            torch.testing.assert_close(found[index][:, rows][:, :, keys], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("implementation", "warnings"), [("eager", 1), ("sdpa", 0)])
def test_a_recomputed_log_sum_exp_is_warned_of_once(
    build: Build, scene: Any, caplog: pytest.LogCaptureFixture, implementation: str, warnings: int
) -> None:
    model = build()
    model.set_attn_implementation(implementation)
    capture = AttentionCapture(model, (1,))
    for _ in range(2):
        with torch.no_grad(), capture.open(scene.forward["attention_mask"], scene.prompt - 1, lambda shown: None):
            run(model, scene)
    said = [record.getMessage() for record in caplog.records if "quadratic" in record.getMessage()]
    assert len(said) == warnings
    assert all("since eager attention returns none" in line for line in said)


def test_eager_attention_is_captured_too(build: Build, alone_scenes: Any, eager_maps: Any) -> None:
    for single in alone_scenes:
        model = build()
        model.set_attn_implementation("eager")
        one = collect(model, single, (1,))[1]
        expected = eager_maps(build(), single)[1][:, :, single.prompt - 1 :]
        found = rebuilt(one.rows, single.forward["attention_mask"].bool())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_the_kernel_hands_out_its_log_sum_exp(build: Build, scene: Any) -> None:
    model = build()
    capture = AttentionCapture(model, (1,))
    with torch.no_grad(), capture.open(scene.forward["attention_mask"], 3, lambda _: None) as window:
        run(model, scene)
    assert window.streamed == 0
    model.set_attn_implementation("eager")
    capture = AttentionCapture(model, (1,))
    with torch.no_grad(), capture.open(scene.forward["attention_mask"], 3, lambda _: None) as window:
        run(model, scene)
    assert window.streamed == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "checkpoint", "reentrant"])
def test_loss_and_gradients_do_not_change(
    build: Build, scene: Any, checkpointing: bool | None, dtype: torch.dtype
) -> None:
    losses, gradients = [], []
    for captured in (False, True):
        model = build(dtype=dtype)
        model.train()
        if checkpointing is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
            model.enable_input_require_grads()
        seen: list[LayerRows] = []
        if captured:
            capture = AttentionCapture(model, (1, 2))
            with capture.open(scene.forward["attention_mask"], scene.prompt - 1, seen.append):
                loss = run(model, scene, labels=scene.forward["input_ids"]).loss
        else:
            loss = run(model, scene, labels=scene.forward["input_ids"]).loss
        loss.backward()
        assert len(seen) == 2 * captured  # the second forward of checkpointing is not captured
        assert not any(one.rows.q.requires_grad or one.rows.lse.requires_grad for one in seen)
        losses.append(loss.detach())
        gradients.append({name: weights.grad for name, weights in model.named_parameters()})
    assert torch.equal(*losses)
    for name, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][name] is None)
        assert gradient is None or torch.equal(gradient, gradients[1][name]), name


def test_nothing_is_captured_outside(build: Build, scene: Any) -> None:
    model = build(dtype=torch.float32)
    plain = build(dtype=torch.float32)
    seen: list[LayerRows] = []
    capture = AttentionCapture(model, (1,))
    run(model, scene)
    prompt = {
        name: scene.inputs[key] for name, key in (("input_ids", "prompt_ids"), ("attention_mask", "prompt_mask"))
    }
    prompt |= {name: scene.forward[name] for name in ("pixel_values", "image_grid_thw")}
    prompt["mm_token_type_ids"] = scene.forward["mm_token_type_ids"][:, : scene.prompt]
    texts = [m.generate(**prompt, max_new_tokens=5, do_sample=False) for m in (model, plain)]
    assert torch.equal(*texts)
    other = build(dtype=torch.float32)
    AttentionCapture(other, (1,))
    with capture.open(scene.forward["attention_mask"], 3, seen.append):
        run(model, scene)
        run(other, scene)  # another model with its own capture: closed
    assert len(seen) == 1


def test_the_vision_tower_is_left_alone_and_detach_restores(build: Build) -> None:
    model = build()
    capture = AttentionCapture(model, (1,))
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert model.config.get_text_config()._attn_implementation == "captured_sdpa"
    again = AttentionCapture(model, (2,))  # a second one does not wrap the first
    assert again.implementation == "sdpa"
    capture.detach()
    assert model.config.get_text_config()._attn_implementation == "sdpa"


def test_the_saved_model_does_not_know(build: Build, tmp_path: Any) -> None:
    model = build(dtype=torch.float32)
    AttentionCapture(model, (1,))
    model.save_pretrained(tmp_path)
    assert "captured_" not in (tmp_path / "config.json").read_text()
    assert type(model).from_pretrained(tmp_path).config.get_text_config()._attn_implementation == "sdpa"


def test_lora_and_groups_of_responses_show_the_same_rows(build: Build, scene: Any, alone_scenes: Any) -> None:
    expected = collect(build(), scene, (1, 2))
    model = get_peft_model(build(), LoraConfig(target_modules=["q_proj", "v_proj"], r=2))  # B starts at 0
    capture = AttentionCapture(model, (1, 2))
    shown: list[LayerRows] = []
    with torch.no_grad(), capture.open(scene.forward["attention_mask"], scene.prompt - 1, shown.append):
        for single in alone_scenes:  # as TRL does when it splits a batch to save memory, but for the padding
            index = len(shown) // 2
            part = {k: v[index : index + 1] for k, v in scene.forward.items() if len(v) == 2}
            pixels = single.forward["pixel_values"].double()
            model(**part, pixel_values=pixels, image_grid_thw=single.forward["image_grid_thw"])
    for layer in (1, 2):
        parts = [one for one in shown if one.layer == layer]
        assert [one.start for one in parts] == [0, 1]
        valid = scene.forward["attention_mask"].bool()
        used = valid[:, None, scene.prompt - 1 :].expand(-1, 4, -1)
        found = torch.cat([one.rows.lse for one in parts])
        torch.testing.assert_close(found[used], expected[layer].rows.lse[used], rtol=1e-9, atol=1e-9)


def test_left_padding_does_not_change_rows(build: Build, scene: Any, alone_scenes: Any) -> None:
    padded = collect(build(), scene, (1,))[1].rows
    found = collect(build(), alone_scenes[1], (1,))[1].rows
    count = found.lse.shape[2]
    torch.testing.assert_close(found.lse[0], padded.lse[1, :, :count], rtol=1e-9, atol=1e-9)


def test_refusals(build: Build, scene: Any) -> None:
    model = build()
    with pytest.raises(UsageError, match=r"7 is outside the model, which has layers 0 to 3"):
        AttentionCapture(model, (1, 7))
    with pytest.raises(UsageError, match="empty"):
        AttentionCapture(model, ())
    capture = AttentionCapture(model, (1,))
    with (
        pytest.raises(FoveaError, match="2 responses of 34 queries and 34 keys"),
        capture.open(torch.ones(2, 40), 3, lambda _: None),
    ):
        run(model, scene)
    with (
        pytest.raises(FoveaError, match="showed the attention of 0 responses, expected 2"),
        capture.open(torch.ones(2, 34), 3, lambda _: None),
    ):
        pass


def test_sliding_windows_are_refused() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    model = Qwen2ForCausalLM(config)
    with pytest.raises(UsageError, match=r"layer 2 uses a sliding window.*\[0, 1\]"):
        AttentionCapture(model, (1, 2))
    AttentionCapture(model, (0, 1))  # a text model without sub-configurations is fine


def test_a_module_that_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(UsageError, match="Linear holds no transformers model"):
        AttentionCapture(torch.nn.Linear(2, 2), (0,))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(36, (12, 15, 18, 21, 24)), (28, (9, 11, 13, 16, 18)), (4, (1, 2)), (3, (1, 2)), (2, (0, 1)), (1, (0,))],
)
def test_middle_layers(count: int, expected: tuple[int, ...]) -> None:
    assert middle_layers(count) == expected
