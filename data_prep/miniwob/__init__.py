"""MiniWoB++: live pages, searched for the element that they reward.

`tasks.yaml` has every page and what it takes to solve it; the survey checks it by clicking.

SINGLE_CLICK  tasks of which every problem is solved by one click on something that can be seen
SOMETIMES     tasks of which some problems are, and when
OTHERS        tasks that no single click solves, and why
"""

from __future__ import annotations

from pathlib import Path

import yaml

_TABLE = yaml.safe_load(Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8"))
SINGLE_CLICK: tuple[str, ...] = tuple(_TABLE["single_click"])
SOMETIMES: dict[str, str] = _TABLE["sometimes"]
OTHERS: dict[str, str] = _TABLE["others"]
