"""What is said when a stage or a run has ended: where the model is, what changed, what comes next; and its card."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from omegaconf import OmegaConf

from grounding.io import replacing
from recipes.callbacks import read_metrics
from recipes.config import DataSpec, Recipe
from recipes.data import data_files, stored
from recipes.records.tracking import samples_file
from recipes.stage import Job

WATCHED = ("reward", "loss")  # the first that a stage logs is what it is said to have changed
SHARE = 0.1  # of the logged steps, at either end


def stage_lines(job: Job) -> list[str]:
    """Where the model of a finished stage is (or the samples it has kept), what changed, and how to look at it."""
    model, kept = job.folder / "model", job.folder / "data"
    made = model if model.is_dir() else job.folder
    told = changes(job)
    if samples_file(job).exists():
        told.append(f"rollouts: {samples_file(job).with_suffix('.html')}")
    if model.is_dir():
        told.append(f"ask it: {shlex.join(['python', 'predict.py', '--model', str(model), '--serve'])}")
    elif kept.is_dir():
        told.append(f"see them: {shlex.join(['python', '-m', 'data_prep', 'view', '--root', str(kept)])}")
    return [f"{job.where} is finished: {made}", *(f"  {line}" for line in told)]


def changes(job: Job) -> list[str]:
    """The watched number at both ends of the training with 95 % intervals, and the evaluations of the stage."""
    rows = read_metrics(job.metrics)
    told = []
    for key in WATCHED:
        values = [float(row[key]) for row in rows if _is_number(row.get(key))]
        if len(values) > 1:
            count = max(1, round(len(values) * SHARE))
            ends = " -> ".join(_mean(part) for part in (values[:count], values[-count:]))
            told.append(f"{key} {ends} (mean of the first and last {count} of {len(values)} logs)")
            break
    for key in WATCHED:
        evaluated = [float(row[f"eval_{key}"]) for row in rows if _is_number(row.get(f"eval_{key}"))]
        if evaluated:
            told.append(f"eval {key} {evaluated[0]:.3g} -> {evaluated[-1]:.3g} ({len(evaluated)} evaluations)")
            break
    return told


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3g}"
    return f"{fmean(values):.3g} ± {1.96 * stdev(values) / math.sqrt(len(values)):.2g}"


def run_lines(recipe: Recipe, last: Job) -> list[str]:
    """Where the run's model is, and the commands that come next."""
    final = recipe.folder / "final"
    if not final.exists():  # no stage has trained
        return [f"kept:  {last.folder}"]
    lines = [f"model: {final}"]
    spec = last.spec.eval or last.spec.data
    if spec is not None:
        data = data_files(spec)[0]
        if last.spec.eval is None:  # held-out samples, where the data set has some
            others = (data.with_name(f"{split}{data.suffix}") for split in ("val", "test"))
            data = next((path for path in others if path.exists()), data)
        command = ["python", "eval.py", "--model", str(final), "--data", str(data.parent), "--split", data.stem]
        lines.append(f"next:  {shlex.join([*command, '--out', str(recipe.folder / 'eval' / 'final')])}")
    return [*lines, f"then:  {shlex.join(['python', '-m', 'reports', str(recipe.folder)])}"]


def write_card(job: Job) -> None:
    """The model card of a finished stage, in place of what the libraries leave."""
    model = job.folder / "model"
    if model.is_dir():
        with replacing(model / "README.md") as file:
            file.write_text(card(job), encoding="utf-8")


def card(job: Job) -> str:
    """A card in the Hub's form: what the model is, how it is asked, what it was trained on, and what changed."""
    recipe, spec = job.recipe, job.recipe.model
    title = f"{recipe.name}/{job.folder.name}"
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if not Path(spec.path).is_dir():
        head["base_model"] = spec.path
    head["tags"] = ["fovea", "grounding", job.spec.kind]
    order = "before" if spec.image_first else "after"
    asked = f"dialect `{spec.dialect}`, grammar `{spec.grammar}`, images {order} the text"
    folder = job.folder / "model"
    parts = [
        f"---\n{OmegaConf.to_yaml(OmegaConf.create(head))}---\n\n# {title}",
        f"Stage {job.index} (`{job.spec.kind}`) of the run `{recipe.name}`, trained with Fovea from "
        f"`{job.model_path}`. It answers where something is in an image: {asked} (`fovea.json`).",
        f'```\npython predict.py --model {shlex.quote(str(folder))} --image shot.png "Click Save"\n```',
    ]
    if job.spec.data is not None:
        parts.append(f"## Data\n\n{_data(job.spec.data)}")
    shown = {
        "quantize": spec.quantize,
        "args": job.spec.args,
        "train": None if job.spec.train is None else job.spec.train.model_dump(exclude_defaults=True),
        "lora": job.spec.lora if job.spec.adapts else None,
        "rewards": [one.display for one in job.spec.rewards] or None,
    }
    settings = {key: value for key, value in shown.items() if value is not None}
    parts.append(
        f"## Training\n\n```yaml\n{OmegaConf.to_yaml(OmegaConf.create({**settings, 'seed': recipe.seed}))}```"
    )
    changed = changes(job)
    if changed:
        parts.append("\n".join(f"- {line}" for line in changed))
    parts.append(
        "## Evaluation\n\nThe numbers above are of the training. Nothing was evaluated when this card was written: "
        f"`python eval.py --model {shlex.quote(str(folder))} --data DATA` does it, with intervals."
    )
    return "\n\n".join(parts) + "\n"


def _data(spec: DataSpec) -> str:
    found = stored(spec)
    lines = [f"{len(found)} samples of {', '.join(f'`{path}`' for path in spec.path)} ({spec.split}):", ""]
    for (source, kind), index in found.kinds.items():
        lines.append(f"- {source}, targets of kind {kind}; license of the rows: {found[index][0].license}")
    return "\n".join(lines)
