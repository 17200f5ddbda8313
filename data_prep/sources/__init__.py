"""Sources that read public formats: one declaration each, most of them presets over `data_prep.pipeline.presets`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_CARDS = tomllib.loads(Path(__file__).with_name("cards.toml").read_text(encoding="utf-8"))
CARDS: dict[str, dict[str, Any]] = {name: {"name": name, **card} for name, card in _CARDS.items()}
"""What `cards.toml` says of each source, and its name: arguments of `data_prep.pipeline.presets.row_source`."""
