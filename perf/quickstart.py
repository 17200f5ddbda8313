"""Does the quickstart do what the README says? Runs `make quickstart` for five seeds and prints one table.

    python perf/quickstart.py             # under half an hour on two cores; finished seeds are not run again
    python perf/quickstart.py --repeat    # also runs the first seed a second time: its numbers must be the same

Exits 1 unless, on two free cores: every run takes at most 5 minutes and 4 GB; GRPO lifts greedy click accuracy on the
held-out screens over the SFT model by at least 10 points on average over the seeds, and the 95 % interval of the
difference (bootstrap over screens, of the mean over seeds) excludes 0.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

LABELS = ("base", "sft", "grpo")
MINUTES, GIGABYTES, POINTS, SCREENS = 5.0, 4.0, 10.0, 500


def run_seed(seed: int, name: str) -> dict[str, float]:
    """Minutes and peak gigabytes of one quickstart; runs it unless runs/NAME already has the figures."""
    figures = Path("runs", name, "cost.json")
    figures.parent.parent.mkdir(exist_ok=True)
    if not figures.exists():
        began = time.monotonic()
        with Path("runs", f"{name}.log").open("w", encoding="utf-8") as log:
            command = ["make", "-s", "quickstart", f"NAME={name}", f"SEED={seed}"]
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
        cost = {
            "minutes": (time.monotonic() - began) / 60,
            # The largest of all processes run so far: an upper bound for this one.
            "gigabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        }
        figures.write_text(json.dumps(cost), encoding="utf-8")
    return json.loads(figures.read_text(encoding="utf-8"))


def verdicts(name: str, label: str) -> dict[str, bool]:
    """Whether each held-out screen was clicked right, by id."""
    lines = (Path("runs") / name / "eval" / label / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["correct"] for row in map(json.loads, lines)}


def interval(gains: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, in points."""
    result = bootstrap((100 * gains,), np.mean, n_resamples=9999, rng=np.random.default_rng(0), method="percentile")
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--repeat", action="store_true", help="run the first seed twice and compare")
    options = parser.parse_args()

    gains, failures = [], []
    print(f"{'seed':>6} {'minutes':>8} {'GB':>5} {'screens':>8} {'base':>7} {'SFT':>7} {'GRPO':>7}   GRPO - SFT")
    for seed in options.seeds:
        name = f"quickstart-seed{seed}"
        cost = run_seed(seed, name)
        right = {label: verdicts(name, label) for label in LABELS}
        ids = sorted(right["sft"])
        gain = np.array([float(right["grpo"][i]) - float(right["sft"][i]) for i in ids])
        gains.append(gain)
        low, high = interval(gain)
        shares = " ".join(f"{100 * np.mean(list(right[label].values())):6.1f}%" for label in LABELS)
        difference = f"{100 * gain.mean():+.1f} ({low:+.1f} .. {high:+.1f})"
        print(f"{seed:>6} {cost['minutes']:>8.1f} {cost['gigabytes']:>5.2f} {len(ids):>8} {shares}   {difference}")
        if cost["minutes"] > MINUTES:
            failures.append(f"seed {seed} took {cost['minutes']:.1f} minutes, allowed are {MINUTES:g}")
        if cost["gigabytes"] > GIGABYTES:
            failures.append(f"seed {seed} took {cost['gigabytes']:.2f} GB, allowed are {GIGABYTES:g}")
        if len(ids) < SCREENS:
            failures.append(f"{len(ids)} held-out screens, needed are {SCREENS}")
    mean = np.mean(gains, axis=0)
    low, high = interval(mean)
    print(f"{'mean':>6} {'':>46} {100 * mean.mean():>+8.1f} ({low:+.1f} .. {high:+.1f})")
    if 100 * mean.mean() < POINTS or low <= 0:
        failures.append(f"GRPO gains {100 * mean.mean():.1f} points, needed are {POINTS:g} with an interval above 0")
    if options.repeat:
        first, again = f"quickstart-seed{options.seeds[0]}", f"quickstart-seed{options.seeds[0]}-again"
        run_seed(options.seeds[0], again)
        same = all(verdicts(first, label) == verdicts(again, label) for label in LABELS)
        print(
            f"seed {options.seeds[0]} again: {'the same verdict on every screen' if same else 'different verdicts'}"
        )
        if not same:
            failures.append("a second run with the same seed gives other numbers")
    for failure in failures:
        print(f"FALLS SHORT: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
