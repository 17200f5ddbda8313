"""The log-sum-exp of every attention implementation at hand: on the CPU, and on a CUDA device where there is one."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen3Config, Qwen3ForCausalLM

from attention.capture import AttentionCapture, LayerRows
from attention.signals import row_logsumexp

FIRST, LENGTH = 40, 150
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
packed = pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
KERNELS = [
    pytest.param("cpu", "sdpa", torch.float32, None, id="cpu-flash"),
    pytest.param("cpu", "flex_attention", torch.float32, None, id="cpu-flex", marks=pytest.mark.slow),
    pytest.param("cuda", "sdpa", torch.bfloat16, SDPBackend.FLASH_ATTENTION, id="cuda-flash", marks=cuda),
    pytest.param("cuda", "sdpa", torch.bfloat16, SDPBackend.EFFICIENT_ATTENTION, id="cuda-efficient", marks=cuda),
    pytest.param("cuda", "sdpa", torch.bfloat16, SDPBackend.CUDNN_ATTENTION, id="cuda-cudnn", marks=cuda),
    pytest.param("cuda", "flex_attention", torch.float32, None, id="cuda-flex", marks=cuda),
    pytest.param("cuda", "flex_attention", torch.bfloat16, None, id="cuda-flex-bfloat16", marks=cuda),
    pytest.param("cuda", "flash_attention_2", torch.bfloat16, None, id="cuda-flash-attn", marks=[cuda, packed]),
]
# what transformers rounds, or does not ask for on a CPU, is computed again
STREAMED = {("cpu", "flex_attention", torch.float32), ("cuda", "flex_attention", torch.bfloat16)}


def build(device: str, implementation: str, dtype: torch.dtype) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 64}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model = model.to(device, dtype).eval()
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("device", "implementation", "dtype", "backend"), KERNELS)
def test_the_log_sum_exp_is_that_of_the_captured_rows(
    device: str, implementation: str, dtype: torch.dtype, backend: Any, padded: bool
) -> None:
    if padded and backend is SDPBackend.FLASH_ATTENTION:
        pytest.skip("this kernel takes no mask")
    model = build(device, implementation, dtype)
    ids = torch.randint(1, 60, (2, LENGTH), device=device)
    valid = torch.ones_like(ids)
    if padded:
        valid[1, :20] = 0
    with torch.no_grad(), sdpa_kernel(backend) if backend else nullcontext():
        plain = model(ids, attention_mask=valid).logits
        shown: list[LayerRows] = []
        with AttentionCapture(model, (0, 1)).open(valid, FIRST, shown.append) as window:
            captured = model(ids, attention_mask=valid).logits
    torch.testing.assert_close(captured, plain, rtol=0, atol=0)
    assert window.streamed == (2 if (device, implementation, dtype) in STREAMED else 0)
    assert len(shown) == 2
    rows_of_text = valid[:, FIRST:].bool()
    for one in shown:
        assert one.rows.lse.dtype == torch.float32
        wide = row_logsumexp(_doubled(one.rows), valid.bool())
        found, expected = (values.transpose(1, 2)[rows_of_text] for values in (one.rows.lse.double(), wide))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 1e-2)


def _doubled(rows: Any) -> Any:
    """The same rows in float64."""
    return type(rows)(rows.q.double(), rows.k.double(), rows.lse.double(), rows.scale, rows.first)
