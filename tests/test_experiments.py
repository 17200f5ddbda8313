"""Runs of an experiment: each once, whatever stops it; and how long an arm takes to where plain GRPO ends."""

from __future__ import annotations

import fcntl
import json
import math
from types import SimpleNamespace

import pytest

from perf import recipes, runs


def test_what_is_finished_or_under_way_is_left_and_what_was_stopped_goes_on(tmp_path):
    done: list[tuple[str, int]] = []

    def run(arm, seed, folder):
        done.append((arm, seed))
        (folder / "part").write_text(str(len(list(folder.iterdir()))))
        if done == [("a", 0)]:
            raise KeyboardInterrupt
        return {"accuracy": 0.5, "went_on": (folder / "part").read_text() == "1"}

    wanted = [("a", 0), ("b", 0), ("c", 0)]
    with pytest.raises(KeyboardInterrupt):
        runs.do_missing(tmp_path, wanted, run, keep=False)
    assert runs.load(tmp_path) == {}
    with (tmp_path / "b--0.lock").open("w") as other:  # another process is at it
        fcntl.flock(other, fcntl.LOCK_EX)
        runs.do_missing(tmp_path, wanted, run, keep=False)
    assert done == [("a", 0), ("a", 0), ("c", 0)]
    expected = {"arm": "a", "seed": 0, "accuracy": 0.5, "went_on": True, "cpu_seconds": 0}
    assert runs.load(tmp_path)["a", 0] == expected
    runs.do_missing(tmp_path, wanted, run, keep=True)
    assert done[3:] == [("b", 0)]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["b--0"]  # `keep`

    runs.publish(runs.load(tmp_path), tmp_path / "published/runs.jsonl")
    lines = (tmp_path / "published/runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["a", "b", "c"]
    assert runs.load(tmp_path / "published/runs.jsonl") == runs.load(tmp_path)


NONE_PAYS = "no arm takes at most 0.7 of plain GRPO's steps with an interval below 1"


def line(end, *accuracies, seed=0, arm="x"):
    """A run whose accuracies were read at even distances."""
    step = end / (len(accuracies) - 1)
    curve = [[number * step, accuracy] for number, accuracy in enumerate(accuracies)]
    found = {"arm": arm, "seed": seed, "steps": 4, "items": 1, "rollouts": end, "curve": curve, "easy": 1.0}
    return {**found, "accuracy": accuracies[-1]}


def test_an_arm_is_timed_to_where_the_plain_one_ends_and_the_plain_one_alike():
    plain = line(400, 0.4, 0.5, 0.6, 0.7, 0.8)  # means of three: 0.5 at 100, 0.6 at 200, 0.7 at 300
    assert recipes.steps_to(plain, plain) == 1.0
    assert recipes.steps_to(line(400, 0.4, 0.6, 0.8, 1.0, 1.0), plain) == pytest.approx(0.5)  # 0.6 at 100, 0.8 at 200
    assert recipes.steps_to(line(400, 0.4, 0.4, 0.4, 0.4, 0.4), plain) == 1.0  # never: censored at all of it
    early = line(400, 0.4, 0.9, 0.9, 0.9, 0.3)  # a plain curve that is at its end already before
    assert recipes.steps_to(line(400, 0.4, 0.6, 0.8, 1.0, 1.0), early) > 1.0
    assert math.isnan(recipes.steps_to({"curve": []}, plain))
    late = line(400, 0.4, 0.6, 0.8, 1.0, 1.0)
    late["curve"] = [[drawn + 200, accuracy] for drawn, accuracy in late["curve"]]  # chose its questions first
    assert recipes.steps_to(late, plain) == 1.0  # at 350 of 300


def test_the_table_asks_for_five_seeds_of_every_arm_and_for_a_control_that_is_none():
    names = ("grpo", "again", "select")
    wobbles = (0.0, 0.01, -0.01, 0.02, -0.02)
    rising = (0.4, 0.5, 0.6, 0.7, 0.8)
    results = {}
    for seed, wobble in enumerate(wobbles):
        results["grpo", seed] = line(400, *rising, seed=seed, arm="grpo")
        results["again", seed] = line(400, 0.4, 0.5 + wobble, 0.6 + wobble, 0.7 + wobble, 0.8, seed=seed, arm="again")
        results["select", seed] = line(400, 0.4, 0.6 + wobble, 0.8, 1.0, 1.0, seed=seed, arm="select")
    lines, short = recipes.table(results, names)
    assert short == []
    assert lines[3].split()[:4] == ["select", "5", "400", "1.000"] and " 0.5" in lines[3]
    _, short = recipes.table({key: own for key, own in results.items() if key != ("select", 4)}, names)
    assert short == [
        "select: 4 of 5 paired seeds",
        NONE_PAYS,
    ]
    for seed in range(5):  # a second run of the plain arm that is faster by itself: chance would explain the rest
        results["again", seed] = line(400, 0.4, 0.6 + wobbles[seed], 0.8, 1.0, 1.0, seed=seed, arm="again")
    _, short = recipes.table(results, names)
    assert short == ["plain GRPO once more (`again`) is not shown to take as long as itself"]


def test_no_arm_may_draw_more_than_plain_grpo(tmp_path):
    args = SimpleNamespace(steps=64, easy=recipes.EASY, hard=recipes.HARD, asked=recipes.ASKED, out=tmp_path)
    pool, budget = args.easy + args.hard, args.steps * recipes.BATCH
    for arm, stages in recipes.arms(args, "teacher").items():
        drawn = 0
        for block in stages:
            for stage in block.get("stages", [block]):
                own, times = stage["args"], block.get("repeat", 1)
                if stage["kind"] in ("grpo", "distill"):
                    extra = stage.get("sampling", {}).get("extra", 0) * recipes.GROUP
                    drawn += times * own["max_steps"] * (own["per_device_train_batch_size"] + extra)
                else:
                    drawn += times * pool * own.get("num_generations", 1)
        assert 0.95 * budget <= drawn <= budget or arm == "vote", (arm, drawn)
