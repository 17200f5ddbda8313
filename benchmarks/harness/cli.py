"""The command line of eval.py."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from benchmarks import BENCHMARKS
from benchmarks.harness import run, tables
from benchmarks.harness.backends.generate import Decoding, forget_generations
from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.compare import compare
from benchmarks.harness.io import external_formats as formats
from benchmarks.harness.io.predictions import SPACES, PredictionFormat, Predictions, SpaceCheck
from benchmarks.harness.io.results import ItemReply
from benchmarks.harness.io.row_files import Place, Row, located_rows
from benchmarks.harness.items import RULE_CHOICES, BenchmarkItem, Rule
from grounding.command_line import CommandParser
from grounding.completion import GRAMMARS
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.folders import owning
from models.find import find_model
from models.profile import Profile, read_profile

log = logging.getLogger("fovea.eval")

Replies: TypeAlias = Iterable[tuple[BenchmarkItem, ItemReply]]


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code. Raises FoveaError for anything the user must know."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    if argv[:1] == ["compare"]:
        parser = CommandParser(prog="eval.py compare", description="Compare two evaluations of the same questions.")
        parser.add_argument("first", type=Path)
        parser.add_argument("second", type=Path)
        parser.add_argument("--show", type=int, default=20, help="changed items to list")
        args = parser.parse_args(argv[1:])
        _say(compare(args.first, args.second, args.show))
        return 0
    if argv[:1] == ["list"]:
        _say(tables.card(argv[1], BENCHMARKS.get(argv[1])) if len(argv) > 1 else tables.catalog())
        return 0
    if argv[:1] == ["items"]:
        return _items(_run_parser("eval.py items").parse_args(argv[1:]))
    return _run(_run_parser("eval.py").parse_args(argv))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def model_arguments(model: argparse._ArgumentGroup) -> None:
    """Add the flags that say which model is asked, and how it is loaded."""
    model.add_argument("--model", help="model folder or Hub name; with --endpoint, the name it serves")
    model.add_argument("--endpoint", help="base URL of an OpenAI-compatible server, for instance http://host:8000/v1")
    model.add_argument("--key-variable", help="environment variable with the endpoint's key")
    model.add_argument("--image-first", action=argparse.BooleanOptionalAction, help="images before the text")
    model.add_argument("--system", help="system message (the one the model was trained with)")
    model.add_argument("--min-pixels", type=int, help="area an image has at least, as the model sees it")
    model.add_argument(
        "--max-pixels", type=int, help="area it has at most; with --endpoint images are sent that small"
    )
    model.add_argument("--device", help="cpu, cuda:0, ... (the first GPU, where there is one)")
    model.add_argument("--dtype", default="auto", help="of the weights, as transformers calls it")
    model.add_argument("--attn", help="attention implementation, as transformers calls it")
    model.add_argument("--allow-pickle", action="store_true", help="read pickled weights, which can run code")
    model.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")


def _run_parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=prog, description="Evaluate a model, or score a predictions file, on a benchmark.")
    what = parser.add_argument_group("what is asked")
    what.add_argument("--benchmark", default="screens", help="name (see `eval.py list`) or import path")
    what.add_argument("--data", type=Path, help="the benchmark's folder (or file), as its authors publish it")
    what.add_argument("--images", type=Path, help="folder of the images, where it is not inside --data")
    what.add_argument("--split", help="split (the benchmark's first one)")
    what.add_argument("--limit", type=int, help="only the first N items")
    what.add_argument("--out", type=Path, help="folder for results.jsonl and metrics.json")

    model = parser.add_argument_group("who answers: a model")
    model_arguments(model)
    model.add_argument("--backend", choices=("transformers", "vllm"), default="transformers", help="what runs it")
    model.add_argument("--batch-size", type=int, default=16, help="items asked at once")
    model.add_argument("--batch-tokens", type=int, default=65536, help="prompt tokens a batch may have, roughly")
    model.add_argument("--max-new-tokens", type=int, default=512, help="of an answer, at most")
    model.add_argument("--samples", type=int, default=0, help="rollouts per item; 0 is one greedy answer")
    model.add_argument("--temperature", type=float, default=1.0, help="of sampling, with --samples")
    model.add_argument("--top-p", type=float, default=1.0, help="of sampling, with --samples")
    model.add_argument("--seed", type=int, default=0, help="of sampling")
    model.add_argument("--method", help="inference-time method, or several: outer+inner (see docs/evaluation.md)")
    model.add_argument(
        "--tools", help="what it may call before it answers: zoom, or several, or a recipe's file (see docs/tools.md)"
    )
    model.add_argument("--restart", action="store_true", help="forget answers already in --out")

    file = parser.add_argument_group("who answers: a predictions file")
    file.add_argument("--predictions", type=Path, help="JSONL: id, and output | point | box | boxes | span ...")
    file.add_argument("--space", choices=SPACES, help="unit of the file's coordinates; declared, never guessed")

    file.add_argument("--format", choices=formats.FORMATS, help="whose file it is (what its keys say)")

    words = parser.add_argument_group("how answers are worded")
    words.add_argument("--dialect", help="how coordinates are worded (what the model folder says)")
    words.add_argument("--grammar", choices=GRAMMARS, help="completion format (what the model folder says)")

    rule = parser.add_argument_group("the rule, where it shall not be the official one")
    for name, choices in RULE_CHOICES.items():
        rule.add_argument(f"--{name.replace('_', '-')}", choices=choices)
    rule.add_argument("--main", type=float, help="IoU threshold that decides")
    return parser


def _benchmark(args: argparse.Namespace) -> Benchmark:
    found = BENCHMARKS.get(args.benchmark)
    return found()


def _rule(benchmark: Benchmark, args: argparse.Namespace) -> Rule:
    changes = {f.name: getattr(args, f.name) for f in fields(Rule) if getattr(args, f.name, None) is not None}
    rule = replace(benchmark.rule, **changes)
    return rule if rule.main in rule.thresholds else replace(rule, thresholds=(*rule.thresholds, rule.main))


def _items(args: argparse.Namespace) -> int:
    if args.data is None:
        raise UsageError("--data DIR is needed: the benchmark's folder")
    for item in run.stream_items(_benchmark(args), args.data, args.split, args.limit):
        images = [{"path": p.path, "width": p.width or None, "height": p.height or None} for p in item.images]
        line = {"id": item.id, "images": images, "instruction": item.instruction, "asks": item.answer_kind}
        _say(json.dumps(line, ensure_ascii=False))
    return 0


def _run(args: argparse.Namespace) -> int:
    if (args.model is None) == (args.predictions is None):
        raise UsageError("say who answers: --model NAME or --predictions FILE (one of them)")
    benchmark = _benchmark(args)
    if args.data is None and args.predictions is None:
        raise UsageError(f"--data DIR is needed: get it from {benchmark.card.get}")
    metrics: dict[str, Any] | None
    if args.predictions:
        with owning(args.out, "evaluation") if args.out else nullcontext():
            metrics = _score_file(benchmark, args)
    else:
        metrics = _score_model(benchmark, args)
    if metrics is not None:
        _say(tables.score(metrics))
    return 0


def _facts(benchmark: Benchmark, args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    return {
        "benchmark": args.benchmark,
        "title": benchmark.title(args.data),
        "split": args.split or benchmark.splits[0],
        "data": None if args.data is None else str(args.data),
        "image_root": None if args.data is None else str(args.images or benchmark.image_root(args.data)),
        **more,
    }


def _score_file(benchmark: Benchmark, args: argparse.Namespace) -> dict[str, Any]:
    name = args.format or formats.format_of(args.predictions)
    items = None if args.data is None else _items_to_score(benchmark, args)
    reading = PredictionFormat(args.space, args.dialect, args.grammar or "bare")
    facts = _facts(
        benchmark,
        args,
        predictions=str(args.predictions),
        format=name or "fovea",
        space=args.space,
        dialect=args.dialect,
        grammar=reading.grammar,
        warning=None,
        file_says=None,
    )
    if name in formats.LOGS:
        replies = _log_replies(benchmark, args, name, items, reading, facts=facts)
    elif items is None:
        raise UsageError(f"--data DIR is needed: {args.predictions} holds no annotations")
    else:
        replies = _replies(args, name, items, reading, facts=facts)
    metrics = run.score(benchmark, replies, _rule(benchmark, args), facts, args.out)
    if metrics["warning"]:
        log.warning("warning: %s", metrics["warning"])
    if metrics["missing"]:
        log.warning(
            "warning: %d of %d predictions are missing; they count as wrong", metrics["missing"], metrics["answers"]
        )
    claim = metrics["file_says"]
    if claim and claim["correct"] != metrics["correct"]:
        log.warning(
            "warning: %d are right by this rule, %d of %d by the file itself",
            metrics["correct"], claim["correct"], claim["n"],
        )  # fmt: skip
    return metrics


def _log_replies(
    benchmark: Benchmark,
    args: argparse.Namespace,
    name: str,
    items: Iterable[BenchmarkItem] | None,
    reading: PredictionFormat,
    *,
    facts: dict[str, Any],
) -> Replies:
    """The replies of a log; adds to `facts` what the log says of itself, and a warning."""
    entries = formats.read_log(args.predictions, name, benchmark.answer_kind, args.space)
    entries = entries[: args.limit if items is None else None]
    facts["file_says"] = formats.claimed(entries)
    if args.dialect is None:
        facts["warning"] = formats.log_warning(entries)
    return formats.score_log(entries, reading) if items is None else formats.match_log(entries, list(items), reading)


def _replies(
    args: argparse.Namespace,
    name: str | None,
    items: Iterable[BenchmarkItem],
    reading: PredictionFormat,
    *,
    facts: dict[str, Any],
) -> Replies:
    """The replies of a predictions file; adds a warning to `facts` when the last one was read."""
    if name is None:
        rows: Iterable[tuple[Row, Place | None]] = located_rows(args.predictions)
    else:
        items = list(items)
        rows = ((row, None) for row in formats.prediction_rows(args.predictions, name, items))
    check = SpaceCheck(args.space) if args.space else None
    yield from Predictions(rows, args.predictions).replies(items, reading, check)
    facts["warning"] = check.warning() if check else None


def _items_to_score(benchmark: Benchmark, args: argparse.Namespace) -> Iterator[BenchmarkItem]:
    items = run.stream_items(benchmark, args.data, args.split, args.limit)
    return run.sized(items, args.images or benchmark.image_root(args.data))


def _score_model(benchmark: Benchmark, args: argparse.Namespace) -> dict[str, Any] | None:
    if args.out is None:
        raise UsageError("--out DIR is needed: answers are kept there, so that a killed run can continue")
    source, folder = (None, None) if args.endpoint else find_model(args.model)
    profile = read_profile(
        args.model if folder is None else str(folder),
        args.dialect,
        args.grammar,
        args.image_first,
        system=args.system,
    )
    check_backend(args, profile)
    if args.tools and args.method:
        raise UsageError("--method asks for single answers: leave it out with --tools")
    # SciPy: a second that the wrong name of a model should not cost
    from benchmarks.harness.test_time import methods  # noqa: PLC0415

    image_root = args.images or benchmark.image_root(args.data)
    items = run.read_items(benchmark, args.data, args.split, args.limit)
    run.check_pictures(items, image_root, args.benchmark)
    items = run.with_sizes(items, image_root)
    if args.method:
        methods.check(args.method, items)
    rule = _rule(benchmark, args)
    decoding = Decoding(args.max_new_tokens, args.samples, args.temperature, args.top_p, args.seed)
    # torch and transformers: seconds that scoring a file should not cost
    from benchmarks.harness.backends import opening  # noqa: PLC0415

    share, wait = opening.processes()
    with owning(args.out, "evaluation") if share[0] == 0 else nullcontext():
        backend = opening.open_backend(args, profile, source)
        seen = backend.seen
        settings = opening.fingerprint(args, backend, profile, items, image_root)
        if args.method:
            asked = (profile.dialect, profile.grammar, items[0].answer_kind)
            backend = methods.wrap(backend, args.method, *asked, image_first=profile.image_first)
        if args.restart and share[0] == 0:
            forget_generations(args.out)
        wait()
        run.answer_items(
            backend,
            benchmark,
            items,
            image_root,
            profile=profile,
            rule=rule,
            decoding=decoding,
            out=args.out,
            seen=seen,
            share=share,
            batch_size=args.batch_size,
            batch_tokens=args.batch_tokens,
            settings=settings,
        )
        wait()
        if share[0] != 0:
            return None
        replies = run.replies_of(args.out, items, profile, decoding.rollouts)
        facts = _facts(
            benchmark,
            args,
            model=args.model,
            backend=backend.name,
            dialect=profile.dialect,
            grammar=profile.grammar,
            decoding={
                "samples": args.samples,
                "temperature": args.temperature,
                "top_p": args.top_p,
                "seed": args.seed,
            }
            if args.samples
            else {"greedy": True},
            fingerprint=settings,
        )
        return run.score(benchmark, replies, rule, facts, args.out)


_NOT_FOR: dict[str, tuple[str, ...]] = {  # flags that a backend does not know; ignoring one would be a wrong result
    "--endpoint": ("tools", "device", "dtype", "attn", "allow_pickle", "trust_remote_code", "backend"),
    "--backend vllm": ("tools", "device", "attn", "allow_pickle"),
}


def check_backend(args: argparse.Namespace, profile: Profile) -> None:
    """Raise `UsageError` for flags the backend cannot honour, and answers that could not be read."""
    parser = _run_parser("eval.py")
    which = "--endpoint" if args.endpoint else f"--backend {args.backend}"
    for name in _NOT_FOR.get(which, ()):
        if getattr(args, name) != parser.get_default(name):
            raise UsageError(f"--{name.replace('_', '-')} has no effect with {which}: leave it out")
    if not args.endpoint:
        if args.key_variable:
            raise UsageError("--key-variable is for --endpoint: leave it out")
        return
    if args.max_pixels is None:
        if args.min_pixels is not None:
            raise UsageError(
                "--min-pixels needs --max-pixels with --endpoint: images are then resized before sending"
            )
        if get_dialect(profile.dialect).space.scale is None:
            raise UsageError(
                f"--endpoint: dialect {profile.dialect!r} answers in pixels of the image as the server resizes it, "
                "which it does not tell; give the server's --max-pixels (and --min-pixels): images are then sent at "
                "a size that it keeps"
            )
