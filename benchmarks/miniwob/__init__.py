"""MiniWoB++, live: the model points at a screenshot, a real mouse clicks there, the page itself says right or wrong.

    python -m benchmarks.miniwob --policy oracle --data data/miniwob_live --per-task 50 --out runs/oracle
    python -m benchmarks.miniwob --policy random --data data/miniwob_live --out runs/random
    python -m benchmarks.miniwob --policy runs/x/final --data data/miniwob_live --out runs/x/miniwob

The first command makes the episodes (screenshots and instructions of page seeds that training never sees) in --data.
Then `python eval.py --benchmark miniwob --data data/miniwob_live --model ...` works like any other benchmark.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness import run
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.results import ItemReply
from benchmarks.harness.items import BenchmarkItem, Card, ItemImage, Prediction, Rule, Truth, Verdict
from benchmarks.miniwob.live import Episode, play, read_episodes
from data_prep.miniwob.task_page import Outcome
from grounding.answer import Answer, Status
from grounding.targets import Point


@BENCHMARKS.register("miniwob")
class MiniWoB(Benchmark):
    """Success is a positive raw reward of the page after one real click; time does not count."""

    answer_kind = "box"
    rule = Rule(pick="only")
    splits = ("test",)
    card = Card(
        title="MiniWoB++, tasks of one click",
        paper="https://arxiv.org/abs/1802.08802",
        get="python -m benchmarks.miniwob --policy oracle --data DIR (the pages come with the PyPI package miniwob)",
        license="MIT",
        files="episodes.jsonl, images/",
        rule="the middle of the only answered box (or the only point) is clicked in the live page; right when the "
        "page's raw reward is positive. No answer is no click.",
    )

    def __init__(self) -> None:
        self._known: dict[tuple[str, float, float], Outcome] = {}

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        return [item_of(episode) for episode in read_episodes(root)]

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        clicks = [prediction.click(rule.pick) for prediction in predictions]
        asked = [(item, click) for item, click in zip(items, clicks, strict=True) if click is not None]
        new = [(item, click) for item, click in asked if (item.id, *click) not in self._known]
        if new:
            outcomes = play([item.meta["episode"] for item, _ in new], [click for _, click in new])
            for (item, click), outcome in zip(new, outcomes, strict=True):
                self._known[item.id, *click] = outcome
        verdicts = []
        for item, click in zip(items, clicks, strict=True):
            outcome = Outcome(False, 0.0) if click is None else self._known[item.id, *click]
            verdicts.append(Verdict(outcome.success, max(0.0, outcome.raw)))
        return verdicts

    def summarize(self, scored: Scored) -> dict[str, Any]:
        """How many episodes ended without a verdict of the page, and why a page could not be used."""
        ended = [
            click is not None and self._known[item.id, *click].done
            for item, prediction in scored.pairs
            for click in [prediction.click(scored.rule.pick)]
        ]
        return {
            "episodes_ended": sum(ended),
            "clicks_on_nothing": len(scored.items) - sum(ended),
            "pages_not_shown": sum(item.meta["episode"].problem is not None for item in scored.items),
        }


def item_of(episode: Episode) -> BenchmarkItem:
    """An episode as an item, in the canonical frame; `groups` has the task."""
    return BenchmarkItem(
        id=episode.id,
        images=(ItemImage(episode.image, *episode.size),),
        instruction=episode.instruction,
        truth=Truth(boxes=episode.regions),  # type: ignore[arg-type]
        answer_kind=MiniWoB.answer_kind,
        groups={"task": episode.task},
        frame="unit",
        meta={"episode": episode},
    )


def _random(episode: Episode, rng: random.Random) -> tuple[float, float] | None:
    """Anywhere on the screenshot."""
    return rng.random(), rng.random()


def _random_element(episode: Episode, rng: random.Random) -> tuple[float, float] | None:
    """The middle of any element that can be seen and hit."""
    return _middle(rng.choice(episode.elements)) if episode.elements else None


def _oracle(episode: Episode, rng: random.Random) -> tuple[float, float] | None:
    """The middle of the box that the search found: 100 % unless the harvest or this evaluation is wrong."""
    return _middle(episode.regions[0]) if episode.regions else None


def _middle(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


BASELINES: dict[str, Callable[[Episode, random.Random], tuple[float, float] | None]] = {
    "random": _random,
    "random_element": _random_element,
    "oracle": _oracle,
}
Policy = Callable[[Sequence[Episode]], Sequence[Answer]]


def baseline(name: str, seed: int = 0) -> Policy:
    """The policy of a baseline: what it clicks depends on the episode and `seed` only."""

    def answer(episodes: Sequence[Episode]) -> list[Answer]:
        clicks = [BASELINES[name](e, random.Random(f"{seed}/{e.seed}")) for e in episodes]
        return [Answer(Status.NO_ANSWER) if c is None else Answer(Status.OK, points=(Point(*c),)) for c in clicks]

    return answer


def evaluate(policy: Policy, episodes: Sequence[Episode], out: Path | None, **facts: Any) -> dict[str, Any]:
    """Ask a policy about every episode, click, and score.

    Args:
        policy: gets all episodes at once (their `image` is relative to the folder they were collected in) and
            returns an answer each, in the canonical frame of the screenshot.
        out: where results.jsonl and metrics.json go; None writes nothing.
        facts: put at the top of the metrics.

    Returns:
        The metrics.
    """
    benchmark = MiniWoB()
    items = [item_of(episode) for episode in episodes]
    replies = [
        (
            item,
            ItemReply(
                Prediction(a.status, a.strict, tuple(b.xyxy for b in a.boxes), tuple((p.x, p.y) for p in a.points))
            ),
        )
        for item, a in zip(items, policy(episodes), strict=True)
    ]
    facts = {"benchmark": "miniwob", "title": benchmark.card.title, "split": "test", **facts}
    return run.score(benchmark, replies, benchmark.rule, facts, out)
