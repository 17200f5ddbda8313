"""Make data sets.

    python -m data_prep import FILE --images DIR               your own file, whatever it is (import --help)
    python -m data_prep list                                   every source, what it reads, where to get it
    python -m data_prep NAME --help                            the flags of one source
    python -m data_prep refcoco --root RAW --out data/refcoco  convert; my_module.convert is a source of your own
    python -m data_prep benchmark screenspot_v2 --root RAW --out data/ss2   a benchmark's questions, without answers
    python -m data_prep view --root data/refcoco               write data/refcoco/view/index.html to browse it

Exit code 0 when the data set is complete, 1 when the run failed (too many rejected rows, a full disk), 2 when what
was asked for cannot be done. An interrupted run continues when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep import SOURCES, Source, find_source
from data_prep.importing import command
from data_prep.pipeline.writer import State, run
from data_prep.sources.unlabeled import UnlabeledQuestion
from data_prep.view.pages import build as build_pages
from grounding.command_line import CommandParser, run_command
from grounding.errors import UsageError
from grounding.registry import nearest


def build_parser(spec: Source) -> argparse.ArgumentParser:
    """The command line of one source: the flags every source has, then its own."""
    parser = CommandParser(
        prog=f"python -m data_prep {spec.name}",
        description=f"Reads {spec.reads}. License: {spec.license}.",
        epilog=f"Get it from {spec.home}" if spec.home else None,
    )
    parser.add_argument("--root", type=Path, required=spec.needs_root, help="folder with the source's files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set to make")
    parser.add_argument("--limit", type=_positive, help="stop after so many samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", help="what the rows say they come from, for data of your own in this format")
    parser.add_argument("--license", help="the license that the rows state, for data of your own in this format")
    parser.add_argument("--val", type=_share, default=0.0, help="share of images whose rows go to val (0)")
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument(
        "--images",
        choices=("link", "copy", "none"),
        default="link",
        help="hard-link existing images into the data set (copying across file systems), always copy them,"
        " or leave them alone, unchecked",
    )
    parser.add_argument("--decode", action="store_true", help="decode every image to find damaged ones (slow)")
    parser.add_argument(
        "--max-rejects",
        type=_share,
        default=spec.max_rejects,
        help=f"stop when more than this share of the rows is rejected ({spec.max_rejects:g})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another data set in --out")
    parser.set_defaults(benchmark_reader=read_benchmark, benchmark_questions=read_questions)
    if spec.add_arguments:
        spec.add_arguments(parser.add_argument_group(f"{spec.name} only"))  # type: ignore[arg-type]
    return parser


def read_benchmark(name: str, root: Path) -> Iterator[tuple[Path, list[str], str]]:
    """Images and instruction of every item of a benchmark's official files; see `BenchmarkReader`."""
    from benchmarks import BENCHMARKS  # noqa: PLC0415  above this package; loaded only when one is named

    benchmark = BENCHMARKS.get(name)()
    for split in benchmark.splits:
        try:
            items = list(benchmark.read(root, split))
        except UsageError:
            if split == benchmark.splits[0]:
                raise
            continue  # only the first split has to be there
        for item in items:
            yield benchmark.image_root(root), [image.path for image in item.images], item.instruction


def read_questions(name: str, root: Path, split: str | None) -> Iterator[UnlabeledQuestion]:
    """What every item of a benchmark's split shows and asks; see `QuestionReader`."""
    from benchmarks import BENCHMARKS  # noqa: PLC0415  above this package; loaded only when one is named

    benchmark = BENCHMARKS.get(name)()
    if split is not None and split not in benchmark.splits:
        raise UsageError(
            f"--split {split}: {name} has {', '.join(benchmark.splits)}{nearest(split, benchmark.splits)}"
        )
    for item in benchmark.read(root, split or benchmark.splits[0]):
        paths, words = [image.path for image in item.images], benchmark.prompt(item)
        yield UnlabeledQuestion(
            item.id, benchmark.image_root(root), paths, words, item.answer_kind, benchmark.card.license
        )


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not in [0, 1]")
    return value


def list_sources() -> None:
    """Print every source with what it reads, its license and where to get it."""
    for name in SOURCES:
        spec = SOURCES.get(name)
        print(f"{name}\n    reads    {spec.reads}\n    license  {spec.license}")
        if spec.home:
            print(f"    from     {spec.home}")


def convert(spec: Source, argv: list[str]) -> None:
    """Run a source with a progress bar and print what came out."""
    args = build_parser(spec).parse_args(argv)
    if args.root is not None and not args.root.is_dir():
        raise UsageError(f"--root {args.root} is not a folder")
    with tqdm(desc=spec.name, unit=" rows", total=args.limit, disable=None) as bar:

        def progress(state: State) -> None:
            bar.update(state.kept + (0 if args.limit else state.rejected) - bar.n)

        manifest = run(spec, args, progress)
    rows = ", ".join(f"{count} {split}" for split, count in manifest["rows"].items())
    print(f"{args.out}: {rows}; {manifest['rejected']} rejected")
    for reason, count in sorted(manifest["rejects"].items(), key=lambda pair: -pair[1]):
        print(f"  {count:8d}  {reason}")


def view(argv: list[str]) -> None:
    """Write the pages of a data set."""
    parser = CommandParser(prog="python -m data_prep view", description="Pages to browse a data set.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="folder for the pages (ROOT/view)")
    args = parser.parse_args(argv)
    rows = build_pages(args.root, args.out)
    print(f"{(args.out or args.root / 'view') / 'index.html'}: {rows} rows")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return run_command(lambda: _run(argv), resumes=True)


def _run(argv: list[str]) -> None:
    if argv[0] == "import":
        args = command.build_parser().parse_args(argv[1:])
        print("\n".join(command.describe_import(args.file, command.import_file(args))))
    elif argv[0] == "list":
        list_sources()
    elif argv[0] == "view":
        view(argv[1:])
    else:
        convert(find_source(argv[0]), argv[1:])


if __name__ == "__main__":
    sys.exit(main())
