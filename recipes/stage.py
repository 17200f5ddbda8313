"""What a stage is. A new kind of stage is one file in this folder that registers a `Stage`."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from grounding.errors import UsageError
from grounding.registry import Registry
from grounding.settings import check_keys
from recipes.config import Recipe, StageSpec, to_container
from recipes.keys import check_args

STAGES: Registry[type[Stage]] = Registry("stage", package="recipes")


@dataclass(frozen=True)
class Job:
    """A stage with everything it needs to run.

    Attributes:
        recipe: the whole recipe.
        spec: this stage of it.
        index: its position.
        folder: where it writes: `model/` at the end, `metrics.jsonl` and checkpoints on the way.
        model_path: the model it starts from.
    """

    recipe: Recipe
    spec: StageSpec
    index: int
    folder: Path
    model_path: str

    @property
    def where(self) -> str:
        """What to call the stage in a message."""
        return f"stages.{self.index} ({self.spec.kind})"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def settings(self) -> dict[str, Any]:
        """Everything that decides the stage's result; a changed recipe is told by it."""
        recipe = to_container(self.recipe)
        stages = recipe["stages"][: self.index + 1]
        return json.loads(json.dumps({"model": recipe["model"], "seed": recipe["seed"], "stages": stages}))


class Stage(ABC):
    """A kind of stage.

    Attributes:
        args_type: dataclass whose fields are the legal keys of `args`.
        sections: the optional sections of a stage it reads, among lora, data, eval, rewards, credit,
            attention and tools.
        needs: the sections it cannot do without.
    """

    args_type: ClassVar[type]
    sections: ClassVar[frozenset[str]] = frozenset({"data"})
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, job: Job):
        self.job = job
        self._check_keys()

    @abstractmethod
    def run(self) -> None:
        """Do the work and leave a model folder at `job.folder / "model"`. Called again after an interruption."""

    def check(self) -> None:  # noqa: B027 - a stage may have nothing more to check
        """Raise `UsageError` for what can be known to be wrong before any stage has started."""

    def describe(self) -> list[tuple[str, str]]:
        """(label, value) lines for `--dry-run`."""
        return []

    def _check_keys(self) -> None:
        spec = self.job.spec
        known = [f.name for f in dataclasses.fields(self.args_type) if f.init]
        check_args(spec.args, known, f"{self.job.where}.args")
        check_keys(spec.args, known, f"{self.job.where}.args")
        given = {
            "lora": bool(spec.lora),
            "rewards": bool(spec.rewards),
            "credit": spec.credit is not None,
            "attention": spec.attention is not None,
            "tools": spec.tools is not None,
            "data": spec.data is not None,
            "eval": spec.eval is not None,
        }
        for section in ("lora", "eval", "rewards", "credit", "attention", "tools"):
            if given[section] and section not in self.sections:
                raise UsageError(f"{self.job.where} has no {section}; remove it, or give it to another stage")
        for section in sorted(self.needs):
            if not given[section]:
                raise UsageError(f"{self.job.where} needs {section}")
