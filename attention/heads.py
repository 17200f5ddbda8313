"""Which heads to listen to: measured once on real responses, kept beside the checkpoint.

local      lowest mean backward distance (30 % of the captured heads in the paper): they chunk phrases
global     highest mean backward distance: they look far back, for anchors
image      most attention on image tokens, sinks and all
receiver   highest kurtosis of sentence influence: they single out a few sentences (Thought Anchors: 20 heads)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grounding.errors import UsageError
from grounding.io import replacing

SCHEMA_VERSION = 1
FILE_NAME = "credit_heads.json"
ROLES = ("local", "global", "image", "receiver")
MEASURES = ("distance", "response_distance", "image_mass", "kurtosis")
RECEIVER_HEADS = 20

Head = tuple[int, int]  # layer, head


@dataclass(frozen=True)
class HeadSelection:
    """The heads of each role.

    Attributes:
        roles: role -> (layer, head) pairs, sorted.
        stats: measure -> layer -> mean over the calibration responses for each head; what the choice was made from.
    """

    roles: Mapping[str, tuple[Head, ...]]
    stats: Mapping[str, Mapping[int, tuple[float, ...]]] = field(default_factory=dict)

    def of(self, role: str, layer: int) -> list[int]:
        """Heads of one role in one layer."""
        return [head for at, head in self.roles[role] if at == layer]

    @property
    def layers(self) -> list[int]:
        """The layers that hold any of them."""
        return sorted({at for heads in self.roles.values() for at, _ in heads})

    def count(self, role: str) -> int:
        return len(self.roles[role])

    def encode(self) -> dict[str, Any]:
        """In plain JSON types."""
        return {
            "schema": SCHEMA_VERSION,
            "roles": {role: [list(head) for head in heads] for role, heads in self.roles.items()},
            "stats": {
                name: {str(layer): [None if math.isnan(v) else v for v in row] for layer, row in rows.items()}
                for name, rows in self.stats.items()
            },
        }

    @classmethod
    def decode(cls, encoded: Any, where: str) -> HeadSelection:
        """Read what `encode` returned. Raises `UsageError` for anything else, naming `where` it stands."""
        try:
            if encoded["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {encoded['schema']}, this Fovea reads {SCHEMA_VERSION}")
            roles = {role: tuple((int(at), int(head)) for at, head in encoded["roles"][role]) for role in ROLES}
            stats = {
                name: {int(at): tuple(math.nan if v is None else float(v) for v in row) for at, row in rows.items()}
                for name, rows in encoded["stats"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{where}: no selection of heads ({error}); delete it to measure again") from error
        return cls(roles, stats)

    def check(self, layers: Sequence[int], heads: int, where: str) -> None:
        """Raise `UsageError` when it speaks of other layers or heads than the model at hand."""
        for at, head in {pair for pairs in self.roles.values() for pair in pairs}:
            if at not in layers or not 0 <= head < heads:
                raise UsageError(
                    f"{where}: head {head} of layer {at} is not among the captured layers {list(layers)} of {heads} "
                    "heads; delete the file to measure again"
                )

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        with replacing(path) as file:
            file.write_text(json.dumps(self.encode(), indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, layers: Sequence[int], heads: int) -> HeadSelection:
        """Read what `save` wrote.

        Raises:
            UsageError: not such a file, or it speaks of other layers or heads than the model at hand.
        """
        try:
            encoded = json.loads(path.read_bytes())
        except (ValueError, OSError) as error:
            raise UsageError(f"{path}: no selection of heads ({error}); delete it to measure again") from error
        found = cls.decode(encoded, str(path))
        found.check(layers, heads, str(path))
        return found


class HeadStats:
    """Running means of each measure per head, over responses and over processes.

    Args:
        layers: the captured layers.
        heads: per layer.
    """

    def __init__(self, layers: Sequence[int], heads: int):
        self.layers = tuple(layers)
        self._sum = torch.zeros(len(MEASURES), len(self.layers), heads, dtype=torch.float64)
        self._count = torch.zeros_like(self._sum)

    def add(self, measure: str, layer: int, values: Tensor) -> None:
        """Add (B, H) values of B responses; NaN counts as not measured."""
        values = values.detach().double().cpu()
        known = values.isfinite()
        at = MEASURES.index(measure), self.layers.index(layer)
        self._sum[at] += torch.where(known, values, 0.0).sum(0)
        self._count[at] += known.sum(0)

    def means(self, device: torch.device | None = None) -> dict[str, Tensor]:
        """measure -> (L, H), NaN where never measured; the mean over all processes of a distributed run, so that
        every process selects the same heads. A collective call there."""
        total, count = self._sum, self._count
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            both = torch.stack([total, count]).to(device or "cpu")
            torch.distributed.all_reduce(both)
            total, count = both.cpu()
        mean = total / torch.where(count > 0, count, math.nan)
        return dict(zip(MEASURES, mean, strict=True))


def select_heads(
    means: Mapping[str, Tensor],
    layers: Sequence[int],
    share: float = 0.3,
    image_share: float = 0.2,
    keys: str = "all",
) -> HeadSelection:
    """Choose the heads of each role from `HeadStats.means`.

    The share is taken over the captured heads of all captured layers together (the paper does not say whether it
    means those or the heads of the whole model), at least one head. Heads never measured come last. Ties go to the
    earlier layer and head.

    Args:
        means: measure -> (L, H).
        layers: the L layer indices.
        share: of local and of global heads.
        image_share: of image-reading heads.
        keys: "all" or "response", which distance decides.
    """
    distance = means["distance" if keys == "all" else "response_distance"]
    number = distance.numel()

    def pick(values: Tensor, count: int, descending: bool) -> tuple[Head, ...]:
        flat = values.flatten()
        order = (-flat if descending else flat).nan_to_num(nan=math.inf).argsort(stable=True)[: max(1, count)]
        return tuple(sorted((int(layers[i // values.shape[1]]), i % values.shape[1]) for i in order.tolist()))

    roles = {
        "local": pick(distance, round(share * number), descending=False),
        "global": pick(distance, round(share * number), descending=True),
        "image": pick(means["image_mass"], round(image_share * number), descending=True),
        "receiver": pick(means["kurtosis"], min(RECEIVER_HEADS, round(image_share * number)), descending=True),
    }
    stats = {
        name: {int(layer): tuple(row.tolist()) for layer, row in zip(layers, values, strict=True)}
        for name, values in means.items()
    }
    return HeadSelection(roles, stats)
