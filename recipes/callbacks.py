"""What watches every training stage: metrics to a file, a progress bar, an orderly stop."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from grounding.errors import BrokenRow, FoveaError
from grounding.io import replacing
from rewards.monitor import RewardHackingMonitor

log = logging.getLogger("fovea")

# What the bar shows, in this order, where a stage logs it: its name there, its name here.
SHOWN = {
    "loss": "loss",
    "mean_token_accuracy": "accuracy",
    "reward": "reward",
    "completions/mean_length": "tokens",
    "step_time": "s/step",
}
SUMMARY = "train_runtime"  # marks the line that closes a stage


class MetricsFile(TrainerCallback):
    """Appends what the trainer logs to a JSONL file, one line per logged step, with the seconds since the start.

    After a resume, lines of steps that will be trained again are dropped, so that every step is there once.
    """

    def __init__(self, path: Path):
        self._path = path
        self._start = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._start = time.monotonic()
        if not state.is_world_process_zero:
            return
        keep_steps(self._path, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        line = {"step": state.global_step, "seconds": round(time.monotonic() - self._start, 3), **_finite(logs)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class PartRates(TrainerCallback):
    """Logs the learning rate of each part of the model, where parts have their own (`recipes.training.set_rates`)."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if logs and "learning_rate" in logs and optimizer is not None:
            groups = [group for group in optimizer.param_groups if "part" in group]
            rates = {group["part"]: group.get("initial_lr", group["lr"]) for group in groups}
            first = next(iter(rates.values()), None)  # the one that is logged, as the schedule has it at this step
            logs.update(
                {f"learning_rate/{part}": logs["learning_rate"] * rate / first for part, rate in rates.items()}
            )


def keep_steps(path: Path, last: int) -> list[dict[str, Any]]:
    """Drop the lines of steps after `last`, which will be trained again, and those that close a stage; the rest."""
    kept = [line for line in read_metrics(path) if line["step"] <= last and SUMMARY not in line]
    with replacing(path) as file:
        file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut off by a kill is left out.

    Raises:
        BrokenRow: another line is not one of `MetricsFile`.
    """
    lines = []
    if path.exists():
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise BrokenRow(f"{path}:{number}", f"not JSON: {error}; remove the line") from error
            if not isinstance(line, dict) or "step" not in line:
                raise BrokenRow(f"{path}:{number}", "no object with a 'step'; remove the line")
            lines.append(line)
    return lines


class Stateful(Protocol):
    """What has to be known again after a resume."""

    def state(self) -> dict[str, Any]:
        """It, in plain JSON types; the same on every process."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


class StageState(TrainerCallback, ExportableState):
    """Keeps, in each checkpoint's trainer_state.json, what a stage has to know again.

    Transformers reads that file on every process and under every engine, DeepSpeed included.

    Args:
        parts: name -> what has a state.
    """

    def __init__(self, parts: Mapping[str, Stateful] | None = None):
        self._parts = parts or {}
        self._processes = 1

    def state(self) -> dict[str, Any]:
        own = {name: part.state() for name, part in self._parts.items()}
        return {"args": {}, "attributes": {"processes": self._processes, **own}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._processes = args.world_size
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        for name, part in self._parts.items():
            if name in saved:
                part.restore(saved[name])


class StopOnDivergence(TrainerCallback):
    """Stops training with an error when loss, gradient or weights are not finite, before anything is saved.

    Args:
        where: what to call the stage.
        scaled: whether a gradient scaler (fp16) may meet gradients that are not finite, and skip the step.
    """

    def __init__(self, where: str, *, scaled: bool):
        self._where = where
        self._numbers = ("loss",) if scaled else ("loss", "grad_norm")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if agree(int(not all_finite(kwargs["model"])), args.device):
            self._stop("the weights are", state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in self._numbers:
            value = (logs or {}).get(name)
            if isinstance(value, float) and not math.isfinite(value):
                self._stop(f"{name} is", state)

    def _stop(self, what: str, state: TrainerState) -> None:
        raise FoveaError(
            f"{self._where}: training diverged at step {state.global_step}: {what} not finite; lower learning_rate "
            "or max_grad_norm under another name=... (the last checkpoint, of an earlier step, is still there)"
        )


def all_finite(model: nn.Module) -> bool:
    """Whether every trained weight is a finite number, as far as this process holds them."""
    found = []
    for weight in model.parameters():
        if weight.requires_grad:
            shard = getattr(weight, "ds_tensor", weight).detach()  # ZeRO-3 keeps its part there
            shard = shard.to_local() if hasattr(shard, "to_local") else shard  # and FSDP2 here
            found.append(shard.isfinite().all())
    return bool(torch.stack(found).all()) if found else True


class NoStubs(TrainerCallback):
    """Removes the cards that TRL and PEFT write beside checkpoints: forms to fill in, which nobody has."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            for place in (folder, folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"):
                (place / "README.md").unlink(missing_ok=True)


class ProgressBar(TrainerCallback):
    """One bar per stage with what matters: reward and its parts, accuracy, seconds per step."""

    def __init__(self, title: str):
        self._title = title
        self._bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self._title, unit="step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is not None and logs:
            self._bar.set_postfix_str(summary(logs), refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar's line as it is, so that what is said next begins a new one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Alarms(TrainerCallback):
    """Warns in the log when the answers look as if the policy games its reward, once per kind of alarm."""

    def __init__(self) -> None:
        self._monitor = RewardHackingMonitor()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for alarm in self._monitor.new_alarms(state.log_history) if state.is_world_process_zero else ():
            log.warning(alarm.message)


def summary(logs: dict[str, Any]) -> str:
    """What a line of logs says, in a few words: ``reward 0.412  click_in_box 0.55  s/step 1.9``."""
    parts = {name: logs[key] for key, name in SHOWN.items() if isinstance(logs.get(key), (int, float))}
    step = parts.pop("s/step", None)
    for key, value in logs.items():
        if key.startswith("rewards/") and key.endswith("/mean") and isinstance(value, (int, float)):
            parts[key.removeprefix("rewards/").removesuffix("/mean")] = value
    if step is not None:
        parts["s/step"] = step
    return "  ".join(f"{name} {value:.3g}" for name, value in parts.items())


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C: finish the step, save a checkpoint, stop. A second Ctrl-C interrupts at once.

    Attributes:
        signal: the signal's name once training was stopped by one.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._asked = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the two signals while the block runs."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        asked = agree(self._asked, args.device)
        if asked and state.global_step < state.max_steps:
            self.signal = signal.Signals(asked).name
            control.should_save = True
            control.should_training_stop = True


def agree(number: int, device: torch.device) -> int:
    """The largest number any process has: all must stop at the same step, whichever heard the signal."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return number
    value = torch.tensor(number, device=device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return int(value)


def _finite(logs: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in logs.items()
    }
