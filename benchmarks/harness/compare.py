"""Two result folders of one benchmark, item by item."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks.harness.io.results import read_results
from benchmarks.harness.scoring.intervals import paired, row_cluster
from grounding.errors import UsageError


def compare(first: Path, second: Path, show: int = 20) -> str:
    """Paired difference with interval and McNemar's test, per group too, and the items whose verdict changed.

    With several rollouts an item counts as right when most of them are.

    Raises:
        UsageError: the two do not answer the same items.
    """
    a, b = _by_item(first), _by_item(second)
    if set(a) != set(b):
        only = sorted(set(a) ^ set(b))
        raise UsageError(f"{first} and {second} answer different items: {len(only)} are in one only, as {only[0]!r}")
    clusters = {i: row_cluster(row) for i, (_, row) in a.items()}
    whole = paired([a[i][0] for i in a], [b[i][0] for i in a], list(clusters.values()))
    low, high = whole["interval"]
    lines = [
        f"A  {first}",
        f"B  {second}",
        "",
        f"items {whole['n']}   A right {sum(v for v, _ in a.values())}   B right {sum(v for v, _ in b.values())}",
        f"B - A  {whole['difference']:+.2%}   95 % interval {low:+.2%} .. {high:+.2%}, by image",
        f"these items would show a difference of {whole['detectable']:.2%} (power 80 %, two-sided test at 5 %)",
        f"only B right {whole['won']}   only A right {whole['lost']}   McNemar p = {whole['p_mcnemar']:.3g}",
    ]
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for identity, (_, row) in a.items():
        for axis, name in row["groups"].items():
            members[axis, name].append(identity)
    if members:
        lines += ["", f"{'group':<40}{'n':>6}{'B - A':>10}{'only B':>8}{'only A':>8}{'p':>9}"]
    for (axis, name), ids in sorted(members.items()):
        part = paired([a[i][0] for i in ids], [b[i][0] for i in ids], [clusters[i] for i in ids])
        label = f"{axis}={name}"[:39]
        lines.append(
            f"{label:<40}{part['n']:>6}{part['difference']:>+10.2%}{part['won']:>8}{part['lost']:>8}"
            f"{part['p_mcnemar']:>9.2g}"
        )
    changed = [i for i in a if a[i][0] != b[i][0]]
    if changed and show:
        lines += ["", f"changed items ({min(show, len(changed))} of {len(changed)})"]
        for identity in changed[:show]:
            sign = "+" if b[identity][0] else "-"
            lines.append(f"  {sign} {identity}: {a[identity][1]['instruction']}")
    return "\n".join(lines)


def _by_item(path: Path) -> dict[str, tuple[bool, dict]]:
    right: dict[str, list[bool]] = defaultdict(list)
    rows = {}
    for row in read_results(path):
        right[row["id"]].append(row["correct"])
        rows[row["id"]] = row
    return {identity: (sum(v) * 2 > len(v), rows[identity]) for identity, v in right.items()}
