"""`kind: select`: the current model answers each question k times; what it gets right neither always nor never stays.

As the prompts of multi-image grounding RL are chosen (0 < pass rate < 1), or SE-GUI's seed (8 of 8 right dropped). It
trains nothing: the samples it keeps are a data set in `data/`, which a later stage reads with `data: {kept: true}`.
All rollouts with their scores stand in `rollouts-RANK.jsonl`; with `tools` each is an episode, the list of its turns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean

from grounding.errors import UsageError
from grounding.geometry import at_least
from grounding.journal import read_journals
from recipes.dry_run import check_prompts, describe_drawing, rewards_line
from recipes.loops.drawing import ROLLOUTS, DrawingConfig, DrawingStage, roll_out, show_drawn
from recipes.loops.kept import write_kept
from recipes.runner import on_main
from recipes.stage import STAGES


@dataclass
class SelectConfig(DrawingConfig):
    """Which questions stay.

    Attributes:
        measure: `pass_rate`, the share of answers whose weighted sum of rewards reaches `pass_at`, or `mean_reward`.
        pass_at: from this weighted sum of rewards on an answer is right.
        above, below: a question stays where the measure lies between, the ends excluded; null is no end.
    """

    measure: str = field(default="pass_rate")
    pass_at: float = field(default=1.0)
    above: float | None = field(default=0.0)
    below: float | None = field(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in ("pass_rate", "mean_reward"):
            raise ValueError(f"measure is {self.measure!r}, it has to be pass_rate or mean_reward")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"above is {self.above} and below {self.below}: nothing lies between")

    def of(self, scores: list[float]) -> float:
        """The measure of a question's scores."""
        if self.measure == "mean_reward":
            return fmean(scores)
        return fmean(at_least(score, self.pass_at) for score in scores)


@STAGES.register("select")
class SelectStage(DrawingStage):
    """Keeps questions by what the current model makes of them; `args` are the keys of `SelectConfig`."""

    args_type = SelectConfig
    sections = frozenset({"data", "rewards", "tools"})
    trains = False
    keeps = True
    rejudged = frozenset({"measure", "pass_at", "above", "below"})

    def arguments(self) -> SelectConfig:
        try:
            return SelectConfig(**self.job.spec.args)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{self.job.where}.args: {error}") from error

    def check(self) -> None:
        self.arguments()
        self.rewards()
        check_prompts(self.job)

    def describe(self) -> list[tuple[str, str]]:
        args = self.arguments()
        lines = describe_drawing(self.job, args, self.rewards())
        bounds = {"above": args.above, "below": args.below}
        ends = [f"{name} {value:g}" for name, value in bounds.items() if value is not None]
        return [
            *lines,
            rewards_line(self.job.spec.rewards),
            ("keeps", f"questions with a {args.measure} {' and '.join(ends) or 'of any size'}"),
        ]

    def run(self) -> None:
        show_drawn(self.job, roll_out(self.job, self.arguments(), self.rewards()))
        on_main(self.keep)

    def keep(self) -> None:
        """Choose among the rollouts that are there. Raises `FoveaError` where nothing stays."""
        args = self.arguments()
        kept, dropped = {}, Counter({"too low": 0, "too high": 0, "without a score": 0})
        for row in read_journals(self.job.folder, ROLLOUTS):
            scores = [score for score in row["scores"] if score is not None]
            if not scores:
                dropped["without a score"] += 1
                continue
            found = args.of(scores)
            if args.above is not None and found <= args.above:
                dropped["too low"] += 1
            elif args.below is not None and found >= args.below:
                dropped["too high"] += 1
            else:
                kept[row["id"]] = {args.measure: found}
        hint = "set args.above, below or pass_at otherwise: the same command then chooses again, without new rollouts"
        write_kept(self.job, kept, dropped, hint)
