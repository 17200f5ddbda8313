"""One page from one run folder, or from two side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from grounding.folders import PAGE, check_new
from grounding.io import replacing
from grounding.redact import redact
from reports import charts, comparison
from reports.comparison import Difference, Score, ShownEvaluation
from reports.curves import Learning, main_charts, other_charts
from reports.gallery import Gallery, GalleryCard, Said, gallery
from reports.read_run import BASE, Evaluation, Run, StageFolder, number_or_nan, read_run
from reports.reward_hacking import HackingCheck, hacking_checks

MAX_GROUPS = 40
MAX_CHANGED = 6


@dataclass(frozen=True, slots=True)
class StageSection:
    """A stage of the recipe on the page: its curves, and for each run the reward hacking checks."""

    title: str
    main: Sequence[Markup]
    others: Sequence[Markup]
    checks: Sequence[tuple[str, Sequence[HackingCheck]]]


@dataclass(frozen=True, slots=True)
class Change:
    """First against last model: the difference, and a few (card, answer then, answer now) as examples."""

    total: Difference
    cards: Sequence[tuple[GalleryCard, Said, Said]]


def build(run_dir: Path | str, against: Path | str | None = None, out: Path | str | None = None) -> Path:
    """Write the report of a run; returns its path.

    Args:
        run_dir: what train.py made.
        against: another run to show beside it.
        out: where to write; ``report.html`` in `run_dir` by default.

    Raises:
        UsageError: a folder is missing or is no run folder; or `out` is a file of the user's.
        FoveaError: the page cannot be written.
    """
    first = read_run(Path(run_dir))
    second = read_run(Path(against)) if against is not None else None
    path = Path(out) if out is not None else first.folder / "report.html"
    check_new(path, PAGE)
    with replacing(path) as temporary:
        temporary.write_text(render(first, second), encoding="utf-8")
    return path


def render(first: Run, second: Run | None = None) -> str:
    """The page as one string that needs nothing else: style, script, charts and images are inside."""
    runs = [first] if second is None else [first, second]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    shown = [one for run, name in zip(runs, names, strict=True) for one in _shown(run, name, run is second, second)]
    benchmarks = list(dict.fromkeys(one.evaluation.benchmark for one in shown))
    main = max(benchmarks, key=lambda name: sum(one.evaluation.benchmark == name for one in shown), default="")
    of_main = [one for one in shown if one.evaluation.benchmark == main]
    last = [group[-1] for group in ([o for o in of_main if o.dashed is dashed] for dashed in (False, True)) if group]
    axes = comparison.axes_of(of_main, MAX_GROUPS)
    page = gallery([one.evaluation for one in of_main], of_main.index(last[0])) if last else None
    return charts.PAGES.get_template("report.html").render(
        names=names,
        runs=runs,
        overview=[(name, overview(run)) for name, run in zip(names, runs, strict=True)],
        tables=[_table([one for one in shown if one.evaluation.benchmark == name]) for name in benchmarks],
        headline=[(one, comparison.score(one.evaluation)) for one in last],
        differences=_differences(of_main),
        stages=_stages(runs, names),
        sizes=charts.line_chart(
            "By size of the target", comparison.by_size(of_main), "side of the target, share of the screen", True
        ),
        places=[(one.title, comparison.by_place(one.evaluation)) for one in last],
        grid=charts.heat_grid,
        groups=[(axis, charts.interval_chart("", bars)) for axis, bars in comparison.by_group(last, axes).items()],
        axes=axes,
        attention={id_: page for run in runs for id_, page in run.attention.items()},
        asked={row["id"]: row["instruction"] for one in last for row in one.evaluation.rows},
        shown=of_main,
        selected=of_main.index(last[0]) if last else 0,
        gallery=page,
        change=changed(page, of_main, last[0]) if page else None,
        configs=[(name, redact(run.config)) for name, run in zip(names, runs, strict=True) if run.config],
        environments=[(name, list(flat(run.environment))) for name, run in zip(names, runs, strict=True)],
        notes=[(name, note) for name, run in zip(names, runs, strict=True) for note in run.notes],
    )


def overview(run: Run) -> list[str]:
    """The run in a few words: code, machine, stages."""
    facts = []
    git = run.environment.get("git")
    if isinstance(git, Mapping) and git.get("revision"):
        facts.append(f"revision {str(git['revision'])[:10]}" + (" with local changes" if git.get("modified") else ""))
    if run.environment.get("device"):
        facts.append(str(run.environment["device"]))
    for stage in run.stages:
        steps = max((row["step"] for row in stage.rows), default=0)
        seconds = max((number_or_nan(row.get("seconds")) for row in stage.rows), default=math.nan)
        time = f" in {seconds / 60:.1f} min" if math.isfinite(seconds) else ""
        did = f"{steps:.0f} steps{time}"
        if stage.kept:
            did = f"{stage.kept.get('kept')} of {stage.kept.get('samples')} samples kept"
        facts.append(f"{stage.title}: {did}" + ("" if stage.done else ", not finished"))
    return facts


def _shown(run: Run, name: str, dashed: bool, second: Run | None) -> list[ShownEvaluation]:
    return [
        ShownEvaluation(
            one, f"{name} · {one.title}" if second is not None else one.title, color % charts.COLORS, dashed
        )
        for color, one in enumerate(e for e in run.evaluations if e.rows)
    ]


def changed(page: Gallery, shown: Sequence[ShownEvaluation], last: ShownEvaluation) -> Change | None:
    """Cards on which the run's last model differs from its first; None when there is no such card."""
    own = [index for index, one in enumerate(shown) if one.dashed is last.dashed and one.evaluation.stage >= BASE]
    first, final = own[0] if own else 0, shown.index(last)
    won: list[tuple[GalleryCard, Said, Said]] = []
    lost: list[tuple[GalleryCard, Said, Said]] = []
    for card in page.cards:
        then, now = card.answers[first], card.answers[final]
        if card.picture and then and now and (then.verdict == "right") != (now.verdict == "right"):
            (won if now.verdict == "right" else lost).append((card, then, now))
    total = comparison.difference(shown[first], shown[final])
    if total is None or not (won or lost):
        return None
    share = total.lost / max(1, total.won + total.lost)
    bad = lost[: max(round(MAX_CHANGED * share), int(bool(lost)))]
    return Change(total, won[: MAX_CHANGED - len(bad)] + bad)


def _table(shown: Sequence[ShownEvaluation]) -> tuple[str, Markup, list[tuple[ShownEvaluation, Score]]]:
    """A benchmark's title, its chart of intervals, and the scores behind it."""
    scores = [(one, comparison.score(one.evaluation)) for one in shown]
    bars = [
        charts.Bar(one.title, s.value, s.low, s.high, f"{s.correct} of {s.n}", one.color, one.dashed)
        for one, s in scores
    ]
    return shown[0].evaluation.benchmark_title, charts.interval_chart("", bars), scores


def _differences(shown: Sequence[ShownEvaluation]) -> list[Difference]:
    """Each model against the one before it, the last against the first, and the two runs' last against each other."""
    found = []
    for dashed in (False, True):
        of_run = [one for one in shown if one.dashed is dashed]
        found += [comparison.difference(a, b) for a, b in pairwise(of_run)]
        if len(of_run) > 2:
            found.append(comparison.difference(of_run[0], of_run[-1]))
    last = [group[-1] for group in ([o for o in shown if o.dashed is dashed] for dashed in (True, False)) if group]
    if len(last) == 2:
        found.append(comparison.difference(*last))
    return [one for one in found if one is not None]


def _stages(runs: Sequence[Run], names: Sequence[str]) -> list[StageSection]:
    """Stages in the order of the recipe; the two runs' stages of the same position and kind share a section."""
    order = sorted({(s.index, s.kind) for run in runs for s in run.stages if s.rows or not s.kept})
    sections = []
    for index, kind in order:
        learnings = []
        for run, name in zip(runs, names, strict=True):
            learnings += [
                Learning(stage, *around(run, stage), name if len(runs) > 1 else "", run is not runs[0])
                for stage in run.stages
                if (stage.index, stage.kind) == (index, kind)
            ]
        found = [
            (one.run, hacking_checks(one.stage, one.before, one.after))
            for one in learnings
            if "reward" in one.stage.logged()
        ]
        sections.append(
            StageSection(learnings[0].stage.title, main_charts(learnings), other_charts(learnings), found)
        )
    return sections


def around(run: Run, stage: StageFolder) -> tuple[Evaluation | None, Evaluation | None]:
    """The evaluations of the model that went into a stage and of the one that came out."""
    made = [e for e in run.evaluations if e.stage == stage.index]
    if not made and stage is run.stages[-1]:
        made = [e for e in run.evaluations if e.stage > stage.index]  # "final"
    if not made:
        return None, None
    earlier = [e for e in run.evaluations if e.benchmark == made[0].benchmark and BASE <= e.stage < stage.index]
    return (earlier[-1] if earlier else None), made[0]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as ("git revision", "...") pairs."""
    for key, value in values.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            yield from flat(value, name)
        elif isinstance(value, list):
            yield name, redact(" ".join(map(str, value)))
        else:
            yield name, redact(str(value))
