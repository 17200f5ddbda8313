"""Every page of MiniWoB++ and what it takes to solve it: `tasks.yaml`, which the survey checks by clicking.

SINGLE_CLICK  tasks of which every problem is solved by one click on something that can be seen
SOMETIMES     tasks of which some problems are, and when
OTHERS        tasks that no single click solves, and why
"""

from __future__ import annotations

from pathlib import Path

import yaml

_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
SINGLE_CLICK: tuple[str, ...] = tuple(_TABLE["single_click"])
SOMETIMES: dict[str, str] = _TABLE["sometimes"]
OTHERS: dict[str, str] = _TABLE["others"]
