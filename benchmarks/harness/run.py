"""Evaluate: questions in, replies judged, `results.jsonl` and `metrics.json` out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from benchmarks.harness.backends.generate import (
    Backend,
    Decoding,
    Generated,
    generate,
    read_generations,
)
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.data_sets import read_split
from benchmarks.harness.io.predictions import PredictionFormat, read_output
from benchmarks.harness.io.results import ItemReply, result_row, write_results
from benchmarks.harness.items import BenchmarkItem, ItemImage, Prediction, Rule, Verdict
from benchmarks.harness.official_frame import sizes_of
from benchmarks.harness.scoring.intervals import Scoreboard
from grounding.answer import ImageSize
from grounding.errors import BrokenRow, UsageError
from grounding.wording import read_places
from models.profile import Profile
from models.prompting import question

_BATCH = 1024  # answers judged at a time
_OF_VIDEOS = ("span", "text_span")  # kinds of answers that videos are asked for
_SOURCES = {"tvgbench": "time_r1"}  # what converts a benchmark's videos, where it has another name


def read_items(benchmark: Benchmark, root: Path, split: str | None, limit: int | None = None) -> list[BenchmarkItem]:
    """`stream_items` in memory, for those who need all."""
    return list(stream_items(benchmark, root, split, limit))


def stream_items(
    benchmark: Benchmark, root: Path, split: str | None, limit: int | None = None
) -> Iterator[BenchmarkItem]:
    """The first `limit` items of a split, ids checked to be unique.

    Raises:
        UsageError: an unknown split, or nothing in it.
        BrokenRow: an id that appears twice.
    """
    split = split or benchmark.splits[0]
    if not root.exists():
        raise UsageError(f"--data {root}: no such folder or file; get it from {benchmark.card.get}")
    # Videos are converted to frames once, by data_prep; the benchmark's own rule judges those too
    converted = benchmark.answer_kind in _OF_VIDEOS and (root / "manifest.json").is_file()
    items = read_split(root, split, benchmark.answer_kind) if converted else benchmark.read(root, split)
    ids: set[str] = set()
    for item in islice(items, limit):
        if item.id in ids:
            raise BrokenRow(str(root), f"item id {item.id!r} appears twice")
        ids.add(item.id)
        yield item
    if not ids:
        raise UsageError(f"{root}: split {split!r} has no items")


def check_pictures(items: Sequence[BenchmarkItem], image_root: Path, name: str) -> None:
    """Raise `UsageError` for videos: a model is shown their frames."""
    for item in items:
        if item.answer_kind in _OF_VIDEOS and not all((image_root / p.path).is_file() for p in item.images):
            raise UsageError(
                f"{image_root}: item {item.id!r} is a video, a model needs its frames; make them with "
                f"`python -m data_prep {_SOURCES.get(name, name)} --root {image_root} --videos FOLDER --out DIR` and "
                "give --data DIR"
            )


def with_sizes(items: Sequence[BenchmarkItem], image_root: Path) -> list[BenchmarkItem]:
    """The items with the sizes of all their images, read from the image files' headers where need be.

    Raises:
        UsageError: image files are missing: how many, and the first.
    """
    paths = {p.path for item in items for p in item.images}
    missing = sorted(path for path in paths if not (image_root / path).is_file())
    if missing:
        raise UsageError(f"{image_root}: {len(missing)} of {len(paths)} images are missing, such as {missing[0]}")
    return list(sized(items, image_root))


def sized(items: Iterable[BenchmarkItem], image_root: Path) -> Iterator[BenchmarkItem]:
    """The items with the sizes of their images, where these are there. Raises BrokenRow: one cannot be read."""
    sizes: dict[str, tuple[int, int]] = {}

    def of(picture: ItemImage) -> ItemImage:
        if picture.known or not (image_root / picture.path).is_file():
            return picture
        if picture.path not in sizes:
            try:
                with Image.open(image_root / picture.path) as image:
                    sizes[picture.path] = image.size
            except OSError as error:
                raise BrokenRow(picture.path, f"not a readable image: {error}") from error
        return ItemImage(picture.path, *sizes[picture.path])

    return (
        item if all(p.known for p in item.images) else replace(item, images=tuple(map(of, item.images)))
        for item in items
    )


def answer_items(
    backend: Backend,
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    image_root: Path,
    *,
    profile: Profile,
    rule: Rule,
    decoding: Decoding,
    out: Path,
    seen: Callable[[Sequence[ItemImage]], tuple[ImageSize, ...]] | None = None,
    share: tuple[int, int] = (0, 1),
    quiet: bool = False,
    **options: Any,
) -> None:
    """Generate what `out` does not hold yet, with a progress bar that shows the running score.

    Args:
        seen: the sizes at which the model sees images, for places that a question names; None where that is not
            known.
    """
    reading = PredictionFormat(dialect=profile.dialect, grammar=profile.grammar)
    right = answered = 0
    mine = len(items) if share[1] == 1 else None

    def text_of(item: BenchmarkItem) -> str:
        words = benchmark.prompt(item)
        sizes = seen(item.images) if seen is not None and read_places(words) else sizes_of(item)
        return question(profile, words, item.answer_kind, sizes)

    with tqdm(total=mine, desc=backend.name, unit="item", disable=quiet or share[0] != 0) as bar:

        def progress(batch: Sequence[BenchmarkItem], lines: Sequence[Generated]) -> None:
            nonlocal right, answered
            by_id = {item.id: item for item in batch}
            pairs = [
                (by_id[g.id], read_output(g.output, by_id[g.id], reading, g.seen, episode=g.episode).prediction)
                for g in lines
            ]
            verdicts = benchmark.judge([item for item, _ in pairs], [p for _, p in pairs], rule)
            right += sum(v.correct for v in verdicts)
            answered += sum(not v.skipped for v in verdicts)
            bar.update(len(batch))
            bar.set_postfix_str(f"{right}/{answered} right, {right / max(1, answered):.1%}")

        generate(
            backend,
            items,
            image_root,
            text_of,
            decoding=decoding,
            folder=out,
            share=share,
            progress=progress,
            **options,
        )


def replies_of(
    out: Path, items: Sequence[BenchmarkItem], profile: Profile, rollouts: int
) -> list[tuple[BenchmarkItem, ItemReply]]:
    """Everything generated into `out`, parsed, in the benchmark's order.

    Raises:
        UsageError: an item has no answer yet.
    """
    generated = read_generations(out)
    reading = PredictionFormat(dialect=profile.dialect, grammar=profile.grammar)
    replies = []
    for item in items:
        for rollout in range(rollouts):
            line = generated.get((item.id, rollout))
            if line is None:
                raise UsageError(f"{out}: item {item.id!r} has no answer yet; run the same command again")
            told = {"rollout": rollout, "cost": line.cost, "episode": line.episode}
            replies.append((item, read_output(line.output, item, reading, line.seen, **told)))
    return replies


def score(
    benchmark: Benchmark,
    replies: Iterable[tuple[BenchmarkItem, ItemReply]],
    rule: Rule,
    facts: dict[str, Any],
    out: Path | None,
) -> dict[str, Any]:
    """Judge all replies; write the result files into `out` when given; return what `metrics.json` says.

    Args:
        replies: those to one item (its rollouts) follow one another. They are not kept, unless the benchmark has
            figures that need them.
        facts: what produced the replies; stands at the top of the metrics.
    """
    started = time.perf_counter()
    board, cost = Scoreboard(), Counter[str]()
    items: list[BenchmarkItem] = []
    answers: list[Prediction] = []
    verdicts: list[Verdict] = []
    kept = type(benchmark).summarize is not Benchmark.summarize and not benchmark.verdicts_only

    def judged() -> Iterator[dict[str, Any]]:
        remaining = iter(replies)
        while batch := list(islice(remaining, _BATCH)):
            found = benchmark.judge([item for item, _ in batch], [reply.prediction for _, reply in batch], rule)
            verdicts.extend(found)
            for (item, reply), verdict in zip(batch, found, strict=True):
                board.add(item, reply.prediction, verdict, reply.missing)
                cost.update(reply.cost)
                yield result_row(item, reply, verdict) if out else {}
            if kept:
                items.extend(item for item, _ in batch)
                answers.extend(reply.prediction for _, reply in batch)

    def metrics() -> dict[str, Any]:
        return {
            **facts,
            "rule": asdict(rule),
            **board.metrics(rule),
            "official": benchmark.summarize(Scored(items, answers, verdicts, rule)),
            "cost": dict(cost),
            "published": [asdict(number) for number in benchmark.card.published],
            "seconds_scoring": round(time.perf_counter() - started, 3),
        }

    return write_results(out, judged(), metrics)
