"""See what credit sees: in one response, as a page, or in many, as a table of heads and of strategies, or as scores.

python -m credit show --model runs/x/final --data data/screens --limit 3 --out runs/x/attention
python -m credit show --model runs/x/final --data data/screens --sample ID --out page.html
python -m credit show --model runs/x/final --data data/screens --response '<think>...</think> ...' --out page.html
python -m credit describe --model runs/x/final --data data/screens --limit 128
python -m credit attention --model runs/x/final --data data/web/train.jsonl --out scores.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grounding.command_line import CommandParser, run_command
from grounding.completion import GRAMMARS
from grounding.errors import UsageError
from models.find import find_model

SUFFIXES = (".jsonl", ".parquet")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(lambda: _run(arguments), resumes=True)


def _run(arguments: list[str] | None) -> None:
    args = build_parser().parse_args(arguments)
    args.file = samples_file(args.data)
    args.source, args.folder = find_model(args.model)
    from credit import inspection  # noqa: PLC0415  torch: seconds that a misspelt name should not cost

    command = {"show": inspection.show, "describe": inspection.describe, "attention": inspection.attention}
    for line in command[args.command](args):
        print(line)


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="python -m credit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="write an HTML page about one response")
    describe = commands.add_parser("describe", help="print what heads and strategies do over many responses")
    attention = commands.add_parser("attention", help="write how well attention meets the target, sample by sample")
    for command in (show, describe, attention):
        command.add_argument("--model", required=True, help="model folder or Hub name")
        command.add_argument("--data", required=True, type=Path, help="a file, or a folder: its test split")
        command.add_argument("--dialect", help="how coordinates are worded (what the model folder says)")
        command.add_argument("--grammar", choices=GRAMMARS, help="completion format (what the model folder says)")
        command.add_argument("--system", help="system message (the one the model was trained with)")
        command.add_argument(
            "--image-first",
            action=argparse.BooleanOptionalAction,
            help="images before the text (what the model folder says)",
        )
        command.add_argument("--layers", type=int, action="several", help="to read (five in the middle third)")
        command.add_argument("--max-new-tokens", type=int, default=512, help="of an answer, at most")
    for command in (show, describe):
        command.add_argument(
            "--horizon",
            type=int,
            nargs=2,
            default=(10, 100),
            metavar=("LOW", "HIGH"),
            help="tokens ahead that count for future attention influence",
        )
    describe.add_argument("--limit", type=int, default=128, help="samples, one response drawn at temperature 1 each")
    attention.add_argument("--out", type=Path, required=True, help="JSON lines, one per sample; appended to")
    attention.add_argument("--limit", type=int, help="at most so many samples (all)")
    for command in (describe, attention):
        command.add_argument("--batch-size", type=int, default=32, help="samples at once")
    describe.add_argument("--seed", type=int, default=0, help="of drawing")
    show.add_argument("--sample", action="several", metavar="ID", help="samples to show (the first ones)")
    show.add_argument("--limit", type=int, default=1, help="how many, without --sample")
    show.add_argument("--response", help="a response to look at (the model's own greedy one)")
    show.add_argument("--heads", type=Path, help="a credit_heads.json (chosen from this response)")
    show.add_argument("--out", type=Path, default=Path("credit.html"), help="a file, or a folder for ID.html of each")
    return parser


def samples_file(path: Path) -> Path:
    """`--data` as a file of samples. Raises UsageError where there is none."""
    if path.is_file():
        return path
    for suffix in SUFFIXES:
        if (path / f"test{suffix}").is_file():
            return path / f"test{suffix}"
    raise UsageError(f"--data {path}: no such file, or a folder without test.jsonl or test.parquet")


if __name__ == "__main__":
    sys.exit(main())
