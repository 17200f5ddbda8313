"""Read a run folder. What is missing or broken is left out and listed in `Run.notes`, because a report is needed most
for a run that failed.

    runs/NAME/
      resolved.yaml  environment.json
      0-sft/metrics.jsonl  1-grpo/metrics.jsonl      rows as TRL logs them: {"step": 5, "loss": 0.3, ...}
      eval/LABEL/metrics.json  eval/LABEL/results.jsonl      as eval.py writes them; LABEL is base, sft, grpo, ...
      attention/ID.html                              a page about the attention behind the answer to question ID
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grounding.errors import UsageError

BASE, OTHER = -1, -2  # `Evaluation.stage` of the model that went in, and of anybody else
MAX_PAGES = 8
MAX_PAGE_CHARACTERS = 1_500_000
_STAGE = re.compile(r"(\d+)-(\w[\w-]*)")
_NAMES = {"base": "Base", "sft": "SFT", "grpo": "GRPO", "rl": "RL", "rft": "RFT", "dpo": "DPO"}


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One stage of the recipe.

    Attributes:
        index: position in the recipe, from 0.
        kind: "sft", "grpo", ...
        rows: what was logged, in order, each with a finite ``"step"``.
        done: the stage ran to its end.
        round: of a `repeat`, from 1; None outside one.
        kept: kept.json of a stage that keeps samples: ``samples`` and ``kept``, how many; else empty.
    """

    index: int
    kind: str
    rows: tuple[Mapping[str, Any], ...]
    done: bool
    round: int | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.index}-{self.kind}"

    @property
    def title(self) -> str:
        name = _NAMES.get(self.kind, self.kind.replace("_", " "))
        return name if self.round is None else f"{name}, round {self.round}"

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one logged key; a value that is no number is NaN."""
        rows = [(row["step"], number_or_nan(row[key])) for row in self.rows if key in row]
        return [step for step, _ in rows], [value for _, value in rows]

    def logged(self) -> list[str]:
        """Every key logged with at least one finite number, in order of first appearance."""
        found = dict.fromkeys(key for row in self.rows for key in row)
        return [key for key in found if any(math.isfinite(v) for v in self.curve(key)[1])]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of the run.

    Attributes:
        label: its folder below eval/, for instance "grpo".
        metrics: metrics.json.
        rows: results.jsonl, one mapping per answer.
        image_root: folder the rows' image paths are relative to; None when not recorded.
        stage: index of the stage whose model it is: `BASE` for the one that went in, `OTHER` for anybody else's
            answers (a baseline), the number of stages for "final".
    """

    label: str
    metrics: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    image_root: Path | None = None
    stage: int = OTHER

    def first_answers(self) -> dict[str, Mapping[str, Any]]:
        """The first rollout of every question, by id, in the order of the file."""
        found: dict[str, Mapping[str, Any]] = {}
        for row in self.rows:
            found.setdefault(row["id"], row)
        return found

    @property
    def title(self) -> str:
        parts = re.sub(r"^\d+-", "", self.label).split("/")
        return " · ".join(_NAMES.get(part, part.replace("_", " ")) for part in parts)

    @property
    def benchmark(self) -> str:
        """What the questions are: evaluations of the same are compared, others are not."""
        return f"{self.metrics.get('benchmark') or ''} {self.benchmark_title}"

    @property
    def benchmark_title(self) -> str:
        """The benchmark's or data set's own name, and the split."""
        title = self.metrics.get("title") or self.metrics.get("benchmark") or "unnamed data"
        split = self.metrics.get("split")
        return f"{title}, {split}" if split else str(title)


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as far as it could be read.

    Attributes:
        attention: HTML pages about the attention behind an answer, by question id.
        notes: what was missing or left out.
    """

    folder: Path
    config: str
    environment: Mapping[str, Any]
    stages: tuple[StageFolder, ...]
    evaluations: tuple[Evaluation, ...]
    attention: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def number_or_nan(value: object) -> float:
    """`value` as a float; NaN for None, text and whatever else is no number."""
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer of more than 308 digits
        return math.nan


def read_run(folder: Path) -> Run:
    """Read what is there: a run folder, or the folder of one evaluation.

    Raises:
        UsageError: there is no such folder, or it holds nothing of a run.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder; train.py writes one under runs/")
    notes: list[str] = []
    places = [*folder.iterdir(), *folder.glob("round-*/*")]
    stages = [_stage(path, match, notes) for path in places if (match := _STAGE.fullmatch(path.name))]
    stages.sort(key=lambda stage: stage.index)
    config = _text(folder / "resolved.yaml", notes)
    environment = _mapping(folder / "environment.json", notes)
    alone = (folder / "results.jsonl").is_file()
    if alone:
        notes.clear()  # an evaluation by itself: nothing else is missing
    base = folder.parent if alone else folder / "eval"
    results = [folder / "results.jsonl"] if alone else sorted(base.rglob("results.jsonl")) if base.is_dir() else []
    evaluations = [
        _evaluation(path, folder, path.parent.relative_to(base).as_posix(), stages, notes) for path in results
    ]
    evaluations.sort(key=lambda one: (one.stage, one.label))
    if not stages and not evaluations and not config:
        raise UsageError(
            f"{folder}: neither stages (0-sft, ...) nor eval/ nor resolved.yaml nor results.jsonl; not a run folder, "
            "and not what eval.py wrote"
        )
    if not evaluations:
        notes.append("eval/: no evaluation yet, so there is no accuracy to show")
    attention = _pages(folder / "attention", notes)
    return Run(folder, config, environment, tuple(stages), tuple(evaluations), attention, tuple(notes))


def _stage(path: Path, match: re.Match[str], notes: list[str]) -> StageFolder:
    rows, last = [], 0.0
    for row in _rows(path / "metrics.jsonl", notes):
        step = number_or_nan(row.get("step", last))
        if math.isfinite(step):
            rows.append({**row, "step": step})
            last = step
    done = (path / "DONE").exists()
    if not done:
        notes.append(f"{path.name}: not finished")
    turn = re.fullmatch(r"round-(\d+)", path.parent.name)
    facts = path / "kept.json"
    kept = _mapping(facts, notes) if facts.exists() else {}
    return StageFolder(int(match[1]), match[2], tuple(rows), done, int(turn[1]) if turn else None, kept)


def _evaluation(path: Path, folder: Path, label: str, stages: Sequence[StageFolder], notes: list[str]) -> Evaluation:
    metrics = _mapping(path.with_name("metrics.json"), notes)
    every = _rows(path, notes)
    rows = [row for row in every if _is_result(row)]
    if len(rows) < len(every):
        notes.append(f"{_short(path)}: {len(every) - len(rows)} rows are not as eval.py writes them; left out")
    return Evaluation(label, metrics, tuple(rows), _image_root(metrics, folder), _made_by(label, stages))


def _image_root(metrics: Mapping[str, Any], folder: Path) -> Path | None:
    """The folder eval.py read images from, seen from here or from where runs/ lies; None when it is not there."""
    named = metrics.get("image_root") or metrics.get("data")
    if not isinstance(named, str):
        return None
    for root in (Path(named), *(parent / named for parent in folder.resolve().parents[:5])):
        if os.path.exists(root):  # noqa: PTH110  Path.exists raises for a name too long
            return root if root.is_dir() else root.parent
    return None


def _pages(folder: Path, notes: list[str]) -> dict[str, str]:
    pages: dict[str, str] = {}
    files = sorted(folder.glob("*.html")) if folder.is_dir() else []
    for path in files:
        text = _text(path, notes)
        if len(pages) == MAX_PAGES or sum(map(len, pages.values())) + len(text) > MAX_PAGE_CHARACTERS:
            notes.append(
                f"attention/: {len(files) - len(pages)} of {len(files)} pages are left out, to keep this one small"
            )
            break
        pages[path.stem] = text
    return pages


def _is_result(row: Mapping[str, Any]) -> bool:
    """Has what the report reads of a row, in the types eval.py writes."""
    truth, said = row.get("truth"), row.get("prediction")
    if not (isinstance(truth, dict) and isinstance(said, dict) and isinstance(row.get("correct"), bool)):
        return False
    columns = (("id", str), ("instruction", str), ("images", list), ("groups", dict))
    if not all(isinstance(row.get(name), kind) for name, kind in columns):
        return False
    regions = [(truth.get("boxes"), 4), (said.get("boxes"), 4), (said.get("points"), 2)]
    return all(_are_regions(places, n) for places, n in regions) and all(isinstance(i, dict) for i in row["images"])


def _are_regions(places: object, numbers: int) -> bool:
    return isinstance(places, list) and all(
        isinstance(place, list) and len(place) == numbers and all(math.isfinite(number_or_nan(c)) for c in place)
        for place in places
    )


def _made_by(label: str, stages: Sequence[StageFolder]) -> int:
    """`Evaluation.stage` from any part of a label: "base", "grpo", "1-grpo", "final", "miniwob/sft"."""
    parts = label.split("/")
    if "base" in parts:
        return BASE
    if "final" in parts:
        return len(stages)
    return max((stage.index for stage in stages if stage.name in parts or stage.kind in parts), default=OTHER)


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, read line by line: a results file may be larger than memory is spare."""
    rows, broken = [], []
    try:
        with _regular(path).open("rb") as file:
            for line_number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8", "replace"))
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    rows.append(row)
                else:
                    broken.append(line_number)
    except OSError as error:
        notes.append(f"{_short(path)}: {_reason(error)}")
    if broken:
        notes.append(f"{_short(path)}:{broken[0]}: not a JSON object; {len(broken)} such lines are left out")
    return rows


def _mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _text(path, notes)
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        notes.append(f"{_short(path)}: not JSON ({error}); left out")
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path, notes: list[str]) -> str:
    try:
        return _regular(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{_short(path)}: {_reason(error)}")
    return ""


def _regular(path: Path) -> Path:
    """`path`, unless it is a pipe or a device, which would block."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no regular file")
    return path


def _reason(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
