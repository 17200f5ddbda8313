"""Queries, keys and row log-sum-exp of chosen layers, out of the policy's own forward pass.

transformers lets a model name the function that computes its attention (`AttentionInterface`). Attaching an
`AttentionCapture` registers, under the name `captured_<what the model used>`, a function that calls the very
implementation the model had; while the capture is open it also hands each chosen layer's queries and keys, and the
log-sum-exp that fused kernels compute anyway, to a consumer. Numerics, gradients and memory of the policy stay as
they are: the same kernels run with the same arguments.

The log-sum-exp comes, in this order, from
  * the fused kernel that `scaled_dot_product_attention` picked (CPU flash; CUDA flash, memory-efficient, cuDNN) or
    the flash-attn package's operator, seen by a `TorchDispatchMode`;
  * FlexAttention's own return value, when that is float32 (transformers rounds it to the values' type, and asks
    for none on a CPU);
  * otherwise a streaming recomputation over row chunks: exact, never N x N, but quadratic in time for the rows asked.

Refused, since attention probabilities are then no plain softmax of q k^T over all earlier keys: sliding windows,
soft-capped scores, attention sinks, position biases, packed sequences.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from attention.signals import Rows, row_logsumexp
from attention.text_attention import (
    attention_function,
    attention_modules,
    pretrained,
    set_text_attention,
    text_attention,
)
from grounding.errors import FoveaError, UsageError

log = logging.getLogger("fovea")

PREFIX = "captured_"
REFUSED = {
    "sliding_window": "a sliding window",
    "softcap": "soft-capped scores",
    "s_aux": "attention sinks",
    "position_bias": "a position bias",
    "cu_seq_lens_q": "packed sequences",
}


@dataclass(frozen=True)
class LayerRows:
    """What one layer showed for a group of responses, detached.

    Attributes:
        layer: index of the decoder layer.
        start: index of the group's first response within the batch.
        rows: the rows asked for, of all heads.
    """

    layer: int
    start: int
    rows: Rows


Consumer = Callable[[LayerRows], None]


@dataclass
class _Window:
    """An open capture: what to take and who gets it."""

    modules: frozenset[int]
    valid: Tensor
    first: int
    consume: Consumer
    where: str
    taken: dict[int, int] = field(default_factory=dict)
    streamed: int = 0


# Not a plain global: the backward pass of gradient checkpointing runs the forward again, on CUDA in another thread,
# and must find nothing open there.
_OPEN: ContextVar[_Window | None] = ContextVar("attention_capture", default=None)


class AttentionCapture:
    """Attach to a model's text layers; `open` to capture, `detach` to restore.

    Args:
        model: the policy; may be wrapped (PEFT, DDP, DeepSpeed).
        layers: indices of decoder layers.
        where: the recipe's section that asks for it, for messages.

    Raises:
        UsageError: a layer is outside the model or uses a sliding window, or the model does not take its attention
            from transformers' registry.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], where: str = "attention"):
        self._model = pretrained(model)
        self._where = where
        self._warned = False
        self.layers = tuple(sorted(set(layers)))
        self._modules = attention_modules(self._model)
        self._check_layers()
        self.implementation = text_attention(self._model).removeprefix(PREFIX)
        _register(self.implementation)
        set_text_attention(self._model, PREFIX + self.implementation)

    @contextmanager
    def open(self, valid: Tensor, first: int, consume: Consumer) -> Iterator[_Window]:
        """Within this context the chosen layers' rows go to `consume`, once per layer and group of responses.

        Args:
            valid: (B, N) attention mask of the batch the model will be run on, non-zero for tokens. The batch may
                be run in several groups, in order.
            first: position of the first row wanted.

        Raises:
            FoveaError: on leaving, when a layer showed fewer or more responses than `valid` has.
        """
        modules = frozenset(id(self._modules[layer]) for layer in self.layers)
        window = _Window(modules, valid.bool(), first, consume, self._where)
        token = _OPEN.set(window)
        try:
            yield window
        finally:
            _OPEN.reset(token)
        if window.streamed and not self._warned:
            self._warned = True
            log.warning(
                "%s: the log-sum-exp of attention rows is recomputed, in time quadratic in the length, since %s",
                self._where,
                _why_streamed(self.implementation),
            )
        for layer in self.layers:
            seen = window.taken.get(layer, 0)
            if seen != len(valid):
                raise FoveaError(
                    f"{self._where}: layer {layer} showed the attention of {seen} responses, expected {len(valid)}; "
                    f"{type(self._model).__name__} does not call its attention through transformers' registry once "
                    "per layer: use a strategy or rewards without attention"
                )

    def detach(self) -> None:
        """Give the model its own implementation back."""
        set_text_attention(self._model, self.implementation)

    def _check_layers(self) -> None:
        count = self._model.config.get_text_config().num_hidden_layers
        types = getattr(self._model.config.get_text_config(), "layer_types", None) or []
        where = f"{self._where}.layers"
        if not self.layers:
            raise UsageError(f"{where} is empty")
        for layer in self.layers:
            if not 0 <= layer < count:
                raise UsageError(f"{where}: {layer} is outside the model, which has layers 0 to {count - 1}")
            if layer not in self._modules:
                raise UsageError(f"{where}: layer {layer} of {type(self._model).__name__} has no attention")
            sliding = getattr(self._modules[layer], "sliding_window", None)
            if sliding is not None or (layer < len(types) and types[layer] != "full_attention"):
                full = [index for index, kind in enumerate(types) if kind == "full_attention"]
                raise UsageError(
                    f"{where}: layer {layer} uses a sliding window, its attention is no function of all "
                    f"earlier tokens; choose among {full or 'layers with full attention'}"
                )


def middle_layers(count: int, number: int = 5) -> tuple[int, ...]:
    """`number` layers evenly spaced over floor(count / 3) .. floor(2 count / 3), fewer in a small model.

    >>> middle_layers(36)
    (12, 15, 18, 21, 24)
    """
    low, high = count // 3, max(count // 3, min(2 * count // 3, count - 1))
    steps = max(1, min(number, high - low + 1) - 1)
    return tuple(sorted({low + round(i * (high - low) / steps) for i in range(steps + 1)}))


def _register(implementation: str) -> None:
    """Register `captured_<implementation>`, which calls `implementation`, with the same masks."""
    name = PREFIX + implementation

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        window, identity = _OPEN.get(), id(module)
        original = attention_function(implementation, module)
        if "flash" in implementation:  # reads its own name from the config
            module = _Named(module, implementation)
        if window is None or identity not in window.modules:
            return original(module, query, key, value, attention_mask, **kwargs)
        call = functools.partial(original, module, query, key, value, attention_mask, **kwargs)
        # Under a dispatch mode compiled FlexAttention would run uncompiled and N x N; it returns what is needed.
        kernel = None if implementation == "flex_attention" else _KernelLse()
        return _captured(window, call, module, (query, key), kwargs, kernel=kernel)

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])


def _captured(
    window: _Window,
    call: Callable[[], tuple[Tensor, Tensor | None]],
    module: Any,
    states: tuple[Tensor, Tensor],
    kwargs: Mapping[str, Any],
    *,
    kernel: _KernelLse | None,
) -> tuple[Tensor, Tensor | None]:
    """Run the model's own attention, watched by `kernel`, and hand the rows asked for to the consumer."""
    query, key = states
    layer = int(module.layer_idx)
    for option, meaning in REFUSED.items():
        if kwargs.get(option) is not None:
            raise UsageError(
                f"{window.where}.layers: layer {layer} uses {meaning}, for which no exact signal is known"
            )
    count, length = query.shape[0], key.shape[2]
    begin = length - query.shape[2]  # position of the first query: the queries are the last tokens of the keys
    if length <= window.first and not begin:
        return call()  # prompts that several responses share, without the rows wanted
    start = window.taken.get(layer, 0)
    valid = window.valid[start : start + count]
    if valid.shape != (count, length) or not 0 <= begin <= window.first:
        raise FoveaError(
            f"{window.where}: layer {layer} showed {count} responses of {query.shape[2]} queries and {length} keys, "
            f"after {start} of a batch {tuple(window.valid.shape)}: capture a full forward pass without cache"
        )
    with kernel or nullcontext():
        output, extra = call()
    window.taken[layer] = start + count
    with torch.no_grad():
        lse = kernel.rows(valid[:, begin:]) if kernel else None
        if lse is None and extra is not None and extra.dtype == torch.float32 and extra.shape == query.shape[:3]:
            lse = extra.detach()  # FlexAttention
        scale = float(kwargs.get("scaling") or query.shape[-1] ** -0.5)
        wanted = slice(window.first - begin, None)
        q = query.detach()[:, :, wanted]
        known = query.new_zeros(query.shape[:3]) if lse is None else lse
        rows = Rows(q, key.detach(), known[:, :, wanted], scale, window.first)
        if lse is None:
            window.streamed += 1
            rows = dataclasses.replace(rows, lse=row_logsumexp(rows, valid))
        window.consume(LayerRows(layer, start, rows))
    return output, extra


class _Named:
    """An object, most of all an attention module, whose config calls the implementation by its own name again."""

    def __init__(self, inner: Any, implementation: str):
        self._inner = inner
        self._attn_implementation = implementation

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return _Named(value, self._attn_implementation) if name == "config" else value


class _KernelLse(TorchDispatchMode):
    """Keeps the log-sum-exp that the fused attention kernel run inside returned, whichever it was.

    Sits below autograd: it sees the operator `scaled_dot_product_attention` chose and changes nothing, except that
    the CUDA kernels which compute the log-sum-exp only for training are asked to do so under `no_grad` too.
    """

    # operator, whose second output is the log-sum-exp -> position of the argument that asks for it
    OPERATORS: ClassVar[dict[Any, int | None]] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default: None,
        torch.ops.aten._scaled_dot_product_flash_attention.default: None,
        torch.ops.aten._scaled_dot_product_efficient_attention.default: 4,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default: 4,
    }
    # the flash-attn package registers these when it is imported; the second returns (H, tokens without padding)
    DENSE, PACKED = "flash_attn::_flash_attn_forward", "flash_attn::_flash_attn_varlen_forward"

    def __init__(self) -> None:
        super().__init__()
        self._lse: Tensor | None = None
        self._packed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition(".")[0]
        if func not in self.OPERATORS and name not in (self.DENSE, self.PACKED):
            return func(*args, **kwargs)
        position = self.OPERATORS.get(func)
        if position is not None:
            args = (*args[:position], True, *args[position + 1 :])
        result = func(*args, **kwargs)
        self._lse, self._packed = result[1].detach(), name == self.PACKED
        return result

    def rows(self, valid: Tensor) -> Tensor | None:
        """(B, H, queries) in float32 or float64, None when no fused kernel ran; padded rows hold anything.

        Args:
            valid: (B, queries) attention mask.
        """
        lse = self._lse
        if lse is None:
            return None
        if self._packed:
            full = lse.new_zeros(*valid.shape, lse.shape[0])
            full[valid] = lse.transpose(0, 1)
            return full.permute(0, 2, 1)
        if lse.dim() == 4:  # cuDNN keeps a trailing axis of one
            lse = lse.squeeze(-1)
        return lse if lse.dim() == 3 and len(lse) == len(valid) else None


def _why_streamed(implementation: str) -> str:
    """Why no kernel returned the log-sum-exp."""
    reasons = {
        "eager": "eager attention returns none (model.attn_implementation: sdpa does)",
        "sdpa": "sdpa took its plain kernel for these heads, numbers or masks",
        "flex_attention": "flex_attention returns it on GPUs only, rounded to the precision of the values",
    }
    return reasons.get(implementation, f"{implementation} returns none")
