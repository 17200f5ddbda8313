"""A few rollouts one can look at, and the tracker that shows them: Weights & Biases, TensorBoard, Trackio, or none.

Whatever the tracker, `samples.html` beside `metrics.jsonl` has them: picture with target (green) and answer (red),
question, completion, rewards. `samples.jsonl` holds the same, one line a rollout.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import wandb
from PIL import Image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.folders import PAGE
from grounding.io import replacing
from grounding.region_drawing import ANSWER_COLOR, TARGET_COLOR, draw_regions, thumbnail
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon
from recipes.callbacks import keep_steps, read_metrics
from recipes.stage import Job

SHOWN = 4  # rollouts a table, of different prompts
TABLES = 20  # at most so many tables a stage
SIDE = 320  # pixels of the longer side of a picture in a table
BESIDE = 6  # pictures of a row, side by side: of videos a few frames
TABLE = "rollouts"
_CLASSES = {0: "target", 1: "answer"}
NEEDED = {"tensorboard": "tensorboard", "trackio": "trackio"}


@dataclass(frozen=True)
class ShownRollout:
    """One completion with what it was about and what it earned."""

    sample: Sample
    images: Sequence[Image.Image]
    completion: str
    answer: Answer
    rewards: Mapping[str, float | None]

    @property
    def regions(self) -> list[tuple[Any, int]]:
        """Canonical places with their class: 0 for the target's, 1 for the answer's."""
        answered = [(region, 1) for region in (*self.answer.boxes, *self.answer.points)]
        return [*((region, 0) for region in regions_of(self.sample.target)), *answered]

    @property
    def placed(self) -> list[tuple[Box | Point | Polygon, int]]:
        """The regions that lie in an image, in images of `shown`."""
        number = {image: at for at, image in enumerate(self.shown)}
        inside = ((region, own) for region, own in self.regions if isinstance(region, (Box, Point, Polygon)))
        return [
            (replace(region, image=number[region.image]), own) for region, own in inside if region.image in number
        ]

    @property
    def shown(self) -> list[int]:
        """Which images: those with a place, and of many others a few evenly spread."""
        count = len(self.images)
        if count <= BESIDE:
            return list(range(count))
        marked = list(dict.fromkeys(region.image for region, _ in self.regions if hasattr(region, "image")))[:BESIDE]
        step = -(-count // (BESIDE - len(marked))) if len(marked) < BESIDE else count
        others = [image for image in range(0, count, step) if image not in marked]
        return sorted([*marked, *others[: BESIDE - len(marked)]])

    def plain(self) -> Image.Image:
        """The images side by side, small."""
        return draw_regions([thumbnail(self.images[image], SIDE) for image in self.shown], [])

    def picture(self) -> Image.Image:
        """The images with the places drawn, small."""
        colors = (TARGET_COLOR, ANSWER_COLOR)
        small = [thumbnail(self.images[image], SIDE) for image in self.shown]
        return draw_regions(small, [(region, colors[number]) for region, number in self.placed])


class Tracker(Protocol):
    """Where tables of rollouts go besides the run folder."""

    def show(self, step: int, rollouts: Sequence[ShownRollout]) -> None:
        """Log a table."""


class WandbTracker:
    def __init__(self, run: Any):
        self._run = run

    def show(self, step: int, rollouts: Sequence[ShownRollout]) -> None:
        pictures = []
        for rollout in rollouts:
            found = {name: list(_boxes(rollout, number)) for number, name in _CLASSES.items()}
            boxes: dict[str, Any] = {
                name: {"class_labels": _CLASSES, "box_data": data} for name, data in found.items() if data
            }
            caption = f"{rollout.sample.id}: {rollout.sample.words}"
            pictures.append(wandb.Image(rollout.plain(), boxes=boxes, caption=caption))
        rows = [[step, picture, *_words(one)] for picture, one in zip(pictures, rollouts, strict=True)]
        # The pictures by themselves as well: in the table they can be seen only where its artifact was uploaded
        shown = {TABLE: wandb.Table(columns=COLUMNS, data=rows), f"{TABLE}_pictures": pictures}
        self._run.log({**shown, "train/global_step": step})


COLUMNS = ["step", "picture", "sample", "question", "completion", "rewards"]


def _words(rollout: ShownRollout) -> list[str]:
    paid = {name: None if value is None else round(value, 4) for name, value in rollout.rewards.items()}
    return [rollout.sample.id, rollout.sample.words, rollout.completion, json.dumps(paid)]


def _boxes(rollout: ShownRollout, number: int) -> Iterator[dict[str, Any]]:
    """The places of a class in the images side by side, as wandb's box overlays have them; a point is a small box."""
    sizes = [thumbnail(rollout.images[image], SIDE).size for image in rollout.shown]
    width, height = sum(size[0] for size in sizes), max(size[1] for size in sizes)
    for region, own in rollout.placed:
        if own != number:
            continue
        box = region.bounds if isinstance(region, Polygon) else region
        x1, y1, x2, y2 = (
            box.xyxy if isinstance(box, Box) else (box.x - 0.01, box.y - 0.01, box.x + 0.01, box.y + 0.01)
        )
        left, (across, down) = sum(size[0] for size in sizes[: box.image]), sizes[box.image]
        if len(sizes) > 1:
            x1, x2 = ((left + max(0.0, min(x, 1.0)) * across) / width for x in (x1, x2))
            y1, y2 = (y * down / height for y in (y1, y2))
        position = {"minX": max(x1, 0.0), "minY": max(y1, 0.0), "maxX": min(x2, 1.0), "maxY": min(y2, 1.0)}
        yield {"position": position, "class_id": number, "box_caption": _CLASSES[number]}


class TensorBoardTracker:
    def __init__(self, writer: Any):
        self.writer = writer

    def show(self, step: int, rollouts: Sequence[ShownRollout]) -> None:
        for number, rollout in enumerate(rollouts):
            self.writer.add_image(f"{TABLE}/{number}", np.asarray(rollout.picture()), step, dataformats="HWC")
            self.writer.add_text(f"{TABLE}/{number}", "\n\n".join(_words(rollout)), step)
        self.writer.flush()


class TrackioTracker:
    def __init__(self, trackio: Any):
        self._trackio = trackio

    def show(self, step: int, rollouts: Sequence[ShownRollout]) -> None:
        import pandas  # noqa: PLC0415  trackio brings it

        rows = [[step, self._trackio.Image(np.asarray(one.picture())), *_words(one)] for one in rollouts]
        self._trackio.log({TABLE: self._trackio.Table(dataframe=pandas.DataFrame(rows, columns=COLUMNS))}, step=step)


def check_tracker(name: str) -> None:
    """Raise `UsageError` where the tracker's package is missing."""
    package = NEEDED.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UsageError(f"tracker: {name} needs the package {package}: pip install {package}, or set tracker: none")


@contextmanager
def tracked(job: Job, *, main_process: bool, step: int = 0) -> Iterator[Tracker | None]:
    """The stage's run of its tracker, the same after an interruption; transformers' own callbacks log into it.

    Args:
        step: the one that the stage goes on from.
    """
    name = job.recipe.tracking
    if name == "none" or not main_process:
        yield None
    elif name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  not always installed

        with SummaryWriter(str(job.folder / "tensorboard"), purge_step=step + 1) as writer:
            yield TensorBoardTracker(writer)
    elif name == "trackio":
        import trackio  # noqa: PLC0415  not always installed

        yield TrackioTracker(trackio)
    else:
        run = _wandb_run(job)
        try:
            yield WandbTracker(run)
        finally:
            run.finish()


def _wandb_run(job: Job) -> Any:
    file = job.folder / "wandb.json"
    known = json.loads(file.read_bytes())["id"] if file.is_file() else None
    online = job.recipe.wandb == "auto" and wandb.login(prompt=False, verify=False)
    run = wandb.init(
        project=job.recipe.project,
        entity=job.recipe.entity,
        id=known,
        resume="allow",
        allow_val_change=True,  # of what may change in a stage that goes on
        group=job.recipe.name,
        name=f"{job.recipe.name}/{job.folder.name}",
        dir=job.folder,
        mode="online" if online else "offline",
        config=job.settings(),
        settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
    )
    with replacing(file) as temporary:
        temporary.write_text(json.dumps({"id": run.id}) + "\n", encoding="utf-8")
    return run


def tracker_callbacks(tracker: Tracker | None) -> list[TrainerCallback]:
    """What logs a stage's numbers where transformers' own callbacks would log outside the run folder."""
    return [TensorBoardCallback(tracker.writer)] if isinstance(tracker, TensorBoardTracker) else []


def samples_file(job: Job) -> Path:
    """Where the rollouts of a stage that are shown stand, one line each; the page is beside it."""
    return job.folder / "samples.jsonl"


def record(job: Job, step: int, rollouts: Sequence[ShownRollout]) -> None:
    """Add rollouts to the stage's `samples.jsonl`, and write `samples.html` anew."""
    file = samples_file(job)
    with file.open("a", encoding="utf-8") as stream:
        for rollout in rollouts:
            stream.write(json.dumps(_row(step, rollout)) + "\n")
    page = _page(f"{job.recipe.name}/{job.folder.name}", read_metrics(file))
    with replacing(file.with_suffix(".html")) as part:
        part.write_text(page, encoding="utf-8")


class DrawnRollouts:
    """The best and the worst answer to the first prompts for which a stage draws outside a trainer, at step 0.

    They are in `samples.html` while the stage still draws. A run that goes on after an interruption keeps the page;
    the tracker then lacks them.
    """

    def __init__(self, job: Job):
        self._job = job
        self._prompts = 0
        self.rollouts: list[ShownRollout] = []

    @property
    def full(self) -> bool:
        return self._prompts == SHOWN

    def add(
        self, row: Mapping[str, Any], texts: Sequence[str], answers: Sequence[Answer], scores: Sequence[float | None]
    ) -> None:
        """The answers to one prompt."""
        known = [at for at, score in enumerate(scores) if score is not None] or list(range(len(texts)))
        order = sorted(known, key=lambda at: -(scores[at] or 0.0))
        for at in dict.fromkeys((order[0], order[-1])):
            paid = {"weighted sum": scores[at]}
            self.rollouts.append(ShownRollout(row["sample"], row["images"], texts[at], answers[at], paid))
        self._prompts += 1
        if self.full:
            self.write()

    def write(self) -> None:
        """Into the stage's folder, once."""
        if self.rollouts and not samples_file(self._job).exists():
            record(self._job, 0, self.rollouts)


class RolloutPages(TrainerCallback):
    """Writes the newest rollouts of a trainer, if it keeps some in `shown_rollouts`, at most `TABLES` times a stage.

    Args:
        job: the stage.
        trainer: is asked.
        tracker: gets the tables too.
        drawn: rollouts from before the training, for the tracker.
    """

    def __init__(self, job: Job, trainer: Any, tracker: Tracker | None, drawn: Sequence[ShownRollout] = ()):
        self._job, self._trainer, self._tracker, self._drawn = job, trainer, tracker, drawn
        self._file = samples_file(job)
        self._next = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._tracker is not None and self._drawn:
            self._tracker.show(0, self._drawn)
        if state.is_world_process_zero and self._file.exists():
            kept = keep_steps(self._file, state.global_step)
            self._next = max((row["step"] for row in kept), default=0) + self._every(state)

    @staticmethod
    def _every(state: TrainerState) -> int:
        return max(1, math.ceil(state.max_steps / TABLES))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        rollouts = getattr(self._trainer, "shown_rollouts", ())
        if not state.is_world_process_zero or not rollouts or state.global_step < self._next or not logs:
            return
        if not {"reward", "loss"} & logs.keys():  # of an evaluation, or the closing line
            return
        self._next = state.global_step + self._every(state)
        record(self._job, state.global_step, rollouts)
        if self._tracker is not None:
            self._tracker.show(state.global_step, rollouts)


def _row(step: int, rollout: ShownRollout) -> dict[str, Any]:
    stream = io.BytesIO()
    rollout.picture().save(stream, "JPEG", quality=80)
    sample, question, completion, _ = _words(rollout)
    return {
        "step": step,
        "sample": sample,
        "question": question,
        "completion": completion,
        "rewards": dict(rollout.rewards),
        "target": [[*_coords(region)] for region, number in rollout.regions if number == 0],
        "answer": [[*_coords(region)] for region, number in rollout.regions if number == 1],
        "picture": base64.b64encode(stream.getvalue()).decode(),
    }


def _coords(region: Any) -> Sequence[float]:
    if isinstance(region, (Box, Polygon)):
        return (region.bounds if isinstance(region, Polygon) else region).xyxy
    return (region.x, region.y) if isinstance(region, Point) else (region.start, region.end)


_STYLE = (
    ":root{color-scheme:light dark;--bg:#fdfdfc;--ink:#1a1e23;--soft:#545d68;--line:#d9dee3;--truth:#007a4a;"
    "--said:#c8203c}@media(prefers-color-scheme:dark){:root{--bg:#101317;--ink:#e7eaee;--soft:#a0a9b4;--line:#2d343d;--truth:#3ddc91;"
    "--said:#ff8296}}"
    "body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;padding:0 1rem;background:var(--bg);"
    "color:var(--ink)}h1{font-size:1.4rem;overflow-wrap:anywhere}.soft{color:var(--soft)}.truth{color:var(--truth)}"
    ".said{color:var(--said)}article{display:grid;grid-template-columns:minmax(8rem,1fr) minmax(0,3fr) minmax(0,3fr);"
    "gap:.4rem 1.2rem;border-top:1px solid var(--line);padding:.8rem 0;overflow-wrap:anywhere}"
    "img{max-width:100%;height:auto;display:block}pre{white-space:pre-wrap;margin:.4rem 0 0;max-height:16rem;"
    "overflow:auto}h2{font-size:1rem;margin:0;display:-webkit-box;-webkit-line-clamp:4;-webkit-box-orient:vertical;"
    "overflow:hidden}dl{display:grid;grid-template-columns:auto auto;gap:0 .8rem;margin:.3rem 0;"
    "justify-content:start;font-variant-numeric:tabular-nums}dd{margin:0}@media(max-width:640px){article{grid-template-columns:1fr}}"
)


def _page(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as one HTML file, newest first, that needs nothing else and runs nothing."""
    shown = []
    for row in reversed(rows):
        paid = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{'-' if value is None else f'{value:.3g}'}</dd>"
            for name, value in row["rewards"].items()
        )
        question = html.escape(row["question"], quote=True)
        said = f'<h2 title="{question}">{question}</h2><pre tabindex="0">{html.escape(row["completion"])}</pre>'
        alt = html.escape(f"{row['sample']}, target green, answer red", quote=True)
        shown.append(
            f"<article><div><b>step {row['step']}</b><dl>{paid}</dl>"
            f'<small class="soft">{html.escape(row["sample"])}</small></div><div>{said}</div>'
            f'<div><img alt="{alt}" src="data:image/jpeg;base64,{row["picture"]}"></div></article>'
        )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{PAGE.decode()}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><title>Rollouts of {html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>Rollouts of {html.escape(title)}</h1>"
        '<p>Target <b class="truth">green</b>, answer <b class="said">red</b>; the newest first.</p>'
        f"{''.join(shown)}</html>\n"
    )
