"""What the heads of configs/recipes say: which system a recipe stands for, and what was seen of it. No torch.

A head is the comment a file begins with: what it is and the commands, then facts, a line or more each:

    # Qwen2.5-VL-3B chooses its questions, then learns from them.
    #   python train.py configs/recipes/x.yaml
    # system: multi-image grounding RL
    # paper: arXiv 2507.00748
    # status: smoke-tested
    #   a further line of it

docs/systems.md is made of them: `python -m recipes systems docs/systems.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from grounding.errors import UsageError
from grounding.registry import nearest

FOLDER = Path(__file__).parents[1] / "configs" / "recipes"
FACTS = ("system", "paper", "reproduces", "differs", "data", "settings", "cost", "status")
STATUS = ("measured", "runs", "smoke-tested")  # each but the first two says for itself how little it says
BEGIN, END = "<!-- recipes -->\n", "<!-- end -->"


@dataclass(frozen=True)
class RecipeHead:
    """A recipe file's head.

    Attributes:
        file: the recipe.
        title: what it is, without commands.
        facts: of `FACTS`, those it has.
        stages: kinds in order; ``2 x (select, grpo)`` for rounds.
    """

    file: Path
    title: str
    facts: Mapping[str, str]
    stages: str

    @property
    def name(self) -> str:
        return self.file.stem


def read_head(file: Path) -> RecipeHead:
    """The head of a recipe.

    Raises:
        UsageError: no system or status, a status of another kind, an unknown fact, or a paper without what is
            reproduced, what differs and what it costs.
    """
    title, facts, last = [], {}, ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#")
        found = re.match(r" ([a-z]+): +(.+)", text)
        if found and (found[1] in FACTS or last):
            last = found[1]
            if last not in FACTS:
                raise UsageError(f"{file}: unknown fact {last!r}{nearest(last, list(FACTS))}")
            facts[last] = found[2].strip()
        elif last:
            facts[last] += f" {text.strip()}"
        elif not text.startswith("  "):
            title.append(text.strip())
    needed = ["system", "status", *(["reproduces", "differs", "cost"] if "paper" in facts else [])]
    missing = [name for name in needed if name not in facts]
    if missing:
        raise UsageError(f"{file}: its head has no `# {missing[0]}: ...`")
    if not facts["status"].startswith(STATUS):
        raise UsageError(f"{file}: status is {facts['status']!r}, it has to begin with {', '.join(STATUS)}")
    return RecipeHead(
        file, " ".join(title), facts, _stages(yaml.safe_load(file.read_text(encoding="utf-8"))["stages"])
    )


def _stages(stages: list[Mapping]) -> str:
    kinds = []
    for stage in stages:
        own = stage["kind"] if "kind" in stage else f"{stage['repeat']} x ({_stages(stage['stages'])})"
        kinds.append(own)
    return ", ".join(kinds)


def heads() -> list[RecipeHead]:
    """Of every recipe, by name."""
    return [read_head(file) for file in sorted(FOLDER.rglob("*.yaml"), key=lambda file: file.stem)]


def head_of(name: str) -> RecipeHead:
    """Of the recipe called `name`. Raises `UsageError` where there is none."""
    files = {path.stem: path for path in FOLDER.rglob("*.yaml")}
    stem = name.removesuffix(".yaml")
    if stem not in files:
        for file in files.values():
            if stem in (yaml.safe_load(file.read_text(encoding="utf-8")).get("models") or {}):
                raise UsageError(f"no recipe {name!r}: it is now {file.stem} with model={stem}")
        raise UsageError(f"no recipe {name!r} in configs/recipes{nearest(name, list(files))}")
    return read_head(files[stem])


def systems_table() -> str:
    """The recipes as a Markdown table."""
    lines = ["| system | recipe | stages | reproduces | differs | seen |", "| --- | --- | --- | --- | --- | --- |"]
    for head in sorted(heads(), key=lambda head: (head.facts["system"].lower(), head.name)):
        facts = head.facts
        system = facts["system"] + (f" ({facts['paper']})" if "paper" in facts else "")
        link = f"[{head.name}](../configs/recipes/{head.file.relative_to(FOLDER).as_posix()})"
        cells = (system, link, head.stages, facts.get("reproduces", ""), facts.get("differs", ""), facts["status"])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def with_systems(page: str) -> str:
    """A page with the table between its marks as the heads have it now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{systems_table()}{rest[rest.index(END) :]}"
