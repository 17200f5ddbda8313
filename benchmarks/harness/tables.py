"""What eval.py prints: the score with its groups and other people's numbers, and the list of benchmarks."""

from __future__ import annotations

import textwrap
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark


def score(metrics: dict[str, Any]) -> str:
    """The table of one run, from what `metrics.json` holds."""
    by = metrics.get("model") or metrics.get("predictions")
    lines = [
        f"{metrics['title']}, {metrics['split']}: {by}",
        f"{metrics['n']} items" + (f", {metrics['rollouts']} rollouts each" if metrics["rollouts"] > 1 else ""),
        "",
        f"{'':<34}{'n':>7}{'right':>8}{'accuracy':>10}   95 % interval      strict",
    ]
    lines.append(_line("all", {**metrics, "n": metrics["answers"]}))
    for axis, groups in metrics["groups"].items():
        lines += [_line(f"  {axis}={name}", group) for name, group in groups.items()]
        if axis in metrics["macro"]:
            lines.append(_line(f"  mean over {axis}", metrics["macro"][axis]))
    head = metrics["headline"]
    low, high = head["interval"]
    lines += ["", f"headline: {head['name']} {head['value']:.2%} ({low:.2%} .. {high:.2%})"]
    lines.append(
        f"another run on as many items would have to differ by {head['detectable']:.2%} to be told apart "
        f"(power 80 %); intervals are over {metrics['clusters']} images or questions"
    )
    lines.append(
        "parsing: "
        + ", ".join(f"{name} {count}" for name, count in metrics["parse"].items() if count)
        + f"; unreadable {metrics['parse_failures']}, missing {metrics['missing']}, skipped {metrics['skipped']}"
    )
    if metrics["official"]:
        lines.append("also: " + ", ".join(f"{k} {_figure(v)}" for k, v in metrics["official"].items()))
    if metrics.get("file_says"):
        lines.append("the file itself says: {correct} of {n} right".format(**metrics["file_says"]))
    if metrics["cost"]:
        lines.append("cost: " + ", ".join(f"{k} {v}" for k, v in metrics["cost"].items()))
    if metrics["published"]:
        lines += ["", "published by others (their runs, not ours)"]
        for number in metrics["published"]:
            lines.append("  {model:<32}{metric:<22}{value:>8.2f}  {source}".format(**number))
    return "\n".join(lines)


def _line(label: str, group: dict[str, Any]) -> str:
    n = group.get("n", 0) - group.get("skipped", 0)
    low, high = group["interval"]
    value = group["accuracy"] if "accuracy" in group else group["value"]
    counts = f"{n:>7}{group['correct']:>8}" if n else " " * 15
    strict = f"{group['strict_correct'] / n:>10.2%}" if n else ""
    return f"{label[:33]:<34}{counts}{value:>10.2%}   {low:>6.2%} .. {high:>6.2%}{strict}"


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def catalog() -> str:
    """One line per benchmark."""
    lines = [f"{'name':<20}{'asks':<10}{'splits':<44}title"]
    for name in BENCHMARKS:
        cls = BENCHMARKS.get(name)
        if isinstance(cls, type) and issubclass(cls, Benchmark):
            splits = ", ".join(cls.splits)
            lines.append(f"{name:<20}{cls.answer_kind:<10}{splits[:42]:<44}{cls.card.title}")
    return "\n".join(lines)


def card(name: str, benchmark: type[Benchmark]) -> str:
    """Everything known about one benchmark."""
    about = benchmark.card
    rule = benchmark.rule
    lines = [f"{about.title} ({name})", ""]
    for label, text in (
        ("paper", about.paper),
        ("get", about.get),
        ("license", about.license),
        ("files", about.files),
        ("rule", about.rule),
        ("flags", ", ".join(f"{f}={getattr(rule, f)}" for f in rule.__slots__)),
        ("sizes", ", ".join(f"{k} {v}" for k, v in about.size.items())),
    ):
        lines += textwrap.wrap(f"{label:<9}{text}", 110, subsequent_indent=" " * 9)
    lines += [f"         {p.model}: {p.metric} {p.value} ({p.source})" for p in about.published]
    return "\n".join(lines)
