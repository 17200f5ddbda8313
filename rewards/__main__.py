"""Look at rewards, and score any file of completions with them.

    python -m rewards list
    python -m rewards show gaussian_point --plot gaussian_point.png
    python -m rewards try my_rewards.py:inside --data data/mine --sample labels.csv:7
    python -m rewards score --data data/screens/val.jsonl --completions answers.jsonl --dialect qwen3_vl \\
        --rewards iou,format --out scores.jsonl

A completions file has one JSON object a line: ``{"id": ..., "completion": "..."}`` or ``"completions": [...]`` for a
group, with ``"sizes": [[width, height, input_width, input_height]]`` where the processor resized the image (needed by
dialects that answer in its pixels; ``[[width, height]]`` says that it was not resized). `--rewards`
takes names, or a YAML file that is a recipe's `rewards:` list. Nothing is trained or generated here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from grounding.answer import ImageSize
from grounding.command_line import CommandParser, run_command
from grounding.completion import GRAMMARS
from grounding.dialects import get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.folders import check_new
from grounding.io import read_samples, replacing
from grounding.registry import nearest
from grounding.sample import Sample
from rewards import REWARDS, Reward
from rewards.compose import build_rewards, read_specs, weights
from rewards.heat_map import draw_heat_map, has_heat_map
from rewards.spec import RewardSpec
from rewards.trial import try_rewards


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    return run_command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = CommandParser(prog="python -m rewards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every reward with its range and what it scores")
    show = commands.add_parser("show", help="formula, range, parameters and source of one reward")
    show.add_argument("name")
    show.add_argument("--plot", type=Path, help="write a PNG: what an answer at every place of a screen would earn")
    trying = commands.add_parser("try", help="call one reward on a sample: a right, a wrong and an unreadable answer")
    trying.add_argument("name", help="a name, an import path, or path/to/file.py:function")
    trying.add_argument("--data", type=Path, required=True, help="data set folder, .jsonl or .parquet of samples")
    trying.add_argument("--sample", help="id of the sample (the first one)")
    trying.add_argument("--params", type=yaml.safe_load, default={}, help="the reward's parameters: '{margin: 0.2}'")
    trying.add_argument("--completion", help="also score this text")
    trying.add_argument("--dialect", default="qwen3_vl")
    trying.add_argument("--grammar", choices=GRAMMARS, default="think")
    score = commands.add_parser("score", help="score a file of completions")
    score.add_argument("--data", type=Path, required=True, help=".jsonl or .parquet of samples")
    score.add_argument("--completions", type=Path, required=True, help=".jsonl of completions by sample id")
    score.add_argument("--rewards", action="several", required=True, help="names, or a YAML file with a list")
    score.add_argument("--dialect", default="qwen3_vl")
    score.add_argument("--grammar", choices=GRAMMARS, default="think")
    score.add_argument("--expect", help="what the prompts asked for: box, point, boxes, ...")
    score.add_argument("--out", type=Path, help="write every completion's values as JSON lines")
    arguments = parser.parse_args(argv)
    run = {"list": list_rewards, "show": show_reward, "try": try_reward, "score": score_completions}
    run[arguments.command](arguments)


def list_rewards(arguments: argparse.Namespace) -> None:
    """Two lines a reward, by family."""
    entries = sorted((REWARDS.get(name) for name in REWARDS), key=lambda entry: (entry.family, entry.name))
    for entry in entries:
        low, high = entry.range
        scope = "group, " if entry.group else "judge, " if entry.remote else ""
        first = entry.doc.split("\n", maxsplit=1)[0]
        print(
            f"{entry.family:11} {entry.name:24} [{low:g}, {high:g}]  {scope}{', '.join(entry.kinds) or 'any target'}"
        )
        print(f"{'':12}{first}")


def show_reward(arguments: argparse.Namespace) -> None:
    """All that is known of one reward, and its heat map."""
    entry = REWARDS.get(arguments.name)
    if not isinstance(entry, Reward):
        raise UsageError(f"{arguments.name!r} is not a described reward: `show` knows functions under @reward")
    print(f"{entry.name}  (rewards/{entry.family}.py)\n\n{entry.doc}\n")
    print(f"range    [{entry.range[0]:g}, {entry.range[1]:g}]")
    print(f"targets  {', '.join(entry.kinds) or 'any'}")
    print(f"sees     {'all answers to a prompt' if entry.group else 'one answer'}{_needs(entry)}")
    print(f"params   {', '.join(f'{key}={value!r}' for key, value in entry.params.items()) or 'none'}")
    print(f"source   {entry.source}")
    if arguments.plot:
        check_new(arguments.plot, option="--plot")
        with replacing(arguments.plot) as part:
            draw_heat_map(entry).save(part, "PNG")
        print(f"plot     {arguments.plot}")
    elif has_heat_map(entry):
        print(f"plot     add `--plot {entry.name}.png`")


def _needs(entry: Reward) -> str:
    return f", with {', '.join(entry.needs)}" if entry.needs else ""


def try_reward(arguments: argparse.Namespace) -> None:
    """Print what one reward pays for answers to one sample."""
    spec = RewardSpec.from_mapping({"name": arguments.name, "params": arguments.params}, "rewards")
    (function,) = build_rewards([spec], arguments.dialect, arguments.grammar)
    sample = _sample(arguments.data, arguments.sample)
    row = {"sample": sample, "sizes": sample.sizes, "answer_kind": sample.answer_kind, "prompt": sample.instruction}
    (trial,) = try_rewards([function], arguments.dialect, arguments.grammar, [row])
    print(f"{trial.reward} on {trial.kind} {trial.sample}: {sample.words}")
    for name, text, value in zip(
        ("right", "wrong", "unreadable"), trial.texts, (trial.right, trial.wrong, trial.unreadable), strict=True
    ):
        print(f"  {name:<11} {_value(value)}  {' '.join(text.split())}")
    if arguments.completion is not None:
        columns: dict[str, Any] = {key: [value] for key, value in row.items() if key != "prompt"}
        (value,) = function(prompts=[sample.instruction], completions=[arguments.completion], **columns)
        print(f"  {'yours':<11} {_value(value)}  {' '.join(arguments.completion.split())}")


def _value(value: float | None) -> str:
    return "does not apply" if value is None else f"{value:8.4f}"


def _sample(data: Path, wanted: str | None) -> Sample:
    """The sample of an id, or the first one, of a file or of the splits in a folder. Raises UsageError."""
    files = [data]
    if data.is_dir():
        files = [file for split in ("train", "val", "test") for file in sorted(data.glob(f"{split}.*"))]
        if not files:
            raise UsageError(f"--data {data}: no train, val or test file; `python -m data_prep import` makes some")
    if not files[0].exists():
        raise UsageError(f"--data {data}: no such file or folder")
    known: list[str] = []
    for file in files:
        for sample in read_samples(file):
            if wanted is None or sample.id == wanted:
                return sample
            known.append(sample.id)
    raise UsageError(f"--sample {wanted}: {data} has none of this id{nearest(str(wanted), known)}")


def score_completions(arguments: argparse.Namespace) -> None:
    """Print a table of means and, with --out, write every value."""
    if arguments.out:
        check_new(arguments.out)
    specs = read_specs(_reward_list(arguments.rewards))
    samples = {sample.id: sample for sample in read_samples(arguments.data)}
    rows = list(_completions(arguments.completions, samples, arguments.dialect))
    if not rows:
        raise UsageError(f"{arguments.completions}: no completions")
    functions = build_rewards(specs, arguments.dialect, arguments.grammar, answer_kind=arguments.expect)
    columns = {key: [row[key] for row in rows] for key in ("prompts", "completions", "sample", "sizes")}
    scores = {f.__name__: f(**columns) for f in functions}
    totals = [
        sum(weight * (values[i] or 0.0) for weight, values in zip(weights(specs), scores.values(), strict=True))
        for i in range(len(rows))
    ]
    print(f"{'reward':28} {'mean':>8} {'min':>8} {'max':>8} {'scored':>8}")
    table: dict[str, Sequence[float | None]] = {**scores, "weighted sum": totals}
    for name, values in table.items():
        known = [value for value in values if value is not None]
        figures = (fmean(known), min(known), max(known)) if known else (float("nan"),) * 3
        print(f"{name:28} {figures[0]:8.4f} {figures[1]:8.4f} {figures[2]:8.4f} {len(known):8d}")
    if arguments.out:
        with replacing(arguments.out) as part, part.open("w", encoding="utf-8") as file:
            for i, row in enumerate(rows):
                record = {"id": row["id"], **{name: values[i] for name, values in scores.items()}, "total": totals[i]}
                file.write(json.dumps(record) + "\n")


def _reward_list(given: Sequence[str]) -> Any:
    if len(given) > 1 or not given[0].endswith((".yaml", ".yml")):
        return [name.strip() for part in given for name in part.split(",") if name.strip()]
    path = Path(given[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return content["rewards"] if isinstance(content, Mapping) and "rewards" in content else content


def _completions(path: Path, samples: Mapping[str, Sample], dialect: str) -> Iterator[dict[str, Any]]:
    """One row a completion, in the shape of TRL's columns."""
    in_pixels = get_dialect(dialect).space.scale is None
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
                texts = record["completions"] if "completions" in record else [record["completion"]]
                name = record["id"]
            except (ValueError, TypeError, RecursionError) as error:
                raise BrokenRow(where, f"not a JSON object with id and completion: {error}") from error
            except KeyError as error:
                raise BrokenRow(where, f"key {error} is missing") from error
            if name not in samples:
                raise BrokenRow(where, f"the data has no sample {name!r}")
            sample = samples[name]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise BrokenRow(where, "`completion` is a text, `completions` a list of texts")
            sizes = record.get("sizes")
            if in_pixels and not sizes:
                raise BrokenRow(
                    where,
                    f"dialect {dialect!r} answers in pixels of the image as the model was shown it: give 'sizes': "
                    "[[width, height, input_width, input_height]], or [[width, height]] where it was not resized",
                )
            try:
                shown = tuple(ImageSize(*size) for size in sizes) if sizes else sample.sizes
            except (TypeError, ValueError) as error:
                raise BrokenRow(where, f"'sizes' is not [[width, height], ...]: {error}") from error
            for text in texts:
                yield {
                    "id": sample.id,
                    "prompts": sample.instruction,
                    "completions": text,
                    "sample": sample,
                    "sizes": shown,
                }


if __name__ == "__main__":
    sys.exit(main())
