"""The learning curves of a stage, from the keys TRL logs under."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from reports.charts import COLORS, Series, line_chart
from reports.comparison import score
from reports.read_run import Evaluation, StageFolder
from rewards.monitor import HELD_OUT

# title, keys with the name of each in the legend, values are shares
LOSS = {"loss": "training", "eval_loss": "evaluation"}
PANELS: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("Token accuracy", {"mean_token_accuracy": "training", "eval_mean_token_accuracy": "evaluation"}, True),
    ("Completion length, tokens", {"completions/mean_length": "mean"}, False),
    ("Groups whose rewards are all equal", {"frac_reward_zero_std": "share"}, True),
    ("Spread of the reward in a group", {"reward_std": "standard deviation"}, False),
    ("Completions cut off", {"completions/clipped_ratio": "share"}, True),
    ("Readable answers", {"monitor/readable": "share"}, True),
    ("Scatter of the clicks, over that of the targets", {"monitor/place_spread": "ratio"}, False),
    ("Area of the boxes, over that of the targets", {"monitor/box_area": "ratio"}, False),
    ("Distance from the reference model (KL)", {"kl": "KL"}, False),
    ("Entropy", {"entropy": "entropy"}, False),
    ("Gradient norm", {"grad_norm": "norm"}, False),
)
_CONSTANT = ("completions/clipped_ratio", "kl")  # not worth a picture while they stay at 0


@dataclass(frozen=True, slots=True)
class Learning:
    """A stage with the evaluations of the model before and after it.

    Attributes:
        run: name of the run, for legends; empty when the page shows one run only.
        dashed: it belongs to the second run.
    """

    stage: StageFolder
    before: Evaluation | None
    after: Evaluation | None
    run: str = ""
    dashed: bool = False


def main_charts(learnings: Sequence[Learning]) -> list[Markup]:
    """What is optimized beside what is wanted: the reward (or the loss) and accuracy where it was evaluated."""
    reward = line_chart("Reward in training", _series(learnings, {"reward": "reward"}))
    accuracy = line_chart("Accuracy in evaluation", _accuracy(learnings), percent=True)
    loss = line_chart("Loss", _series(learnings, LOSS))
    return [chart for chart in (reward or loss, accuracy) if chart]


def other_charts(learnings: Sequence[Learning]) -> list[Markup]:
    """The rest of what TRL logs, as far as it says something."""
    rewarded = any("reward" in one.stage.logged() for one in learnings)
    # the held-out loss of a policy gradient says nothing: its advantages sum to zero
    drawn = [line_chart("Loss", _series(learnings, {"loss": "training"}))] if rewarded else []
    parts = dict.fromkeys(k for one in learnings for k in one.stage.logged() if _is_part(k))
    if len(parts) > 1:
        names = {key: key.removeprefix("rewards/").removesuffix("/mean") for key in parts}
        drawn.append(line_chart("Each reward by itself", _series(learnings, names)))
    for title, keys, percent in PANELS:
        drawn.append(
            line_chart(title, _series(learnings, keys), percent=percent, limits=(0.0, 1.0) if percent else None)
        )
    return [chart for chart in drawn if chart]


def _color(position: int, of: int) -> int:
    """A curve alone takes the second color; the first is a grey that stands for the base model elsewhere."""
    return position % COLORS if of > 1 else 1


def _is_noisy(key: str) -> bool:
    return not key.startswith("eval_")


def _is_part(key: str) -> bool:
    return key.startswith("rewards/") and key.endswith("/mean")


def _series(learnings: Sequence[Learning], names: dict[str, str]) -> list[Series]:
    found = []
    present = {key: name for key, name in names.items() if any(key in one.stage.logged() for one in learnings)}
    for one in learnings:
        for position, (key, name) in enumerate(present.items()):
            steps, values = one.stage.curve(key)
            finite = [value for value in values if math.isfinite(value)]
            if finite and not (key in _CONSTANT and not any(finite)):
                label = f"{one.run} · {name}" if one.run else name
                found.append(
                    Series(label, steps, values, _color(position, len(present)), one.dashed, smooth=_is_noisy(key))
                )
    return found


def _accuracy(learnings: Sequence[Learning]) -> list[Series]:
    """What the trainer logged on the way, else the evaluations at both ends, with their intervals."""
    found = []
    for one in learnings:
        names = {k: f"{name}, sampled" for k, name in HELD_OUT.items() if k in one.stage.logged()}
        found += [replace(series, smooth=False) for series in _series([one], names)]
        last = max((row["step"] for row in one.stage.rows), default=0)
        ends = [(step, score(e)) for step, e in ((0.0, one.before), (last, one.after)) if e is not None and e.rows]
        if ends and last > 0:
            label = "evaluated, 95 % interval"
            found.append(
                Series(
                    f"{one.run} · {label}" if one.run else label,
                    [step for step, _ in ends],
                    [s.value for _, s in ends],
                    color=2 if names else 1,
                    dashed=one.dashed,
                    lows=[s.low for _, s in ends],
                    highs=[s.high for _, s in ends],
                )
            )
    return found
