"""The questions of a benchmark as a data set to learn from without its answers, by votes alone (GUI-RCPO).

    python -m data_prep benchmark screenspot_v2 --root DIR --out data/screenspot_v2_unlabeled

No target leaves the benchmark's own files: every sample's is `Unlabeled`. `eval.py` scores with those files.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_prep import Item, Reject, source
from data_prep.curate.leakage import PictureFinder
from data_prep.pipeline.conversion import Rejected, convert_rows, instruction
from data_prep.pipeline.images import ImageFolder
from grounding.errors import UsageError
from grounding.sample import Sample
from grounding.targets import Unlabeled


class UnlabeledQuestion(NamedTuple):
    """What a benchmark's item shows and asks.

    Attributes:
        id: of the item.
        folder: of the images.
        images: path of each, as the benchmark's adapter says it.
        instruction: the words.
        answer_kind: what is asked for.
        license: of the benchmark's data.
    """

    id: str
    folder: Path
    images: list[str]
    instruction: str
    answer_kind: str
    license: str


QuestionReader = Callable[[str, Path, str | None], Iterator[UnlabeledQuestion]]
"""(name of a benchmark, folder of its files, split or None for the first) -> its questions. Benchmarks build on this
package, so the command hands it in: `args.benchmark_questions`."""


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("benchmark_name", metavar="NAME", help="of the benchmark, see `python eval.py list`")
    parser.add_argument("--split", help="of the benchmark (its first)")
    parser.add_argument("--ask", choices=("box", "point"), help="what to ask for (what the benchmark does)")


@source(
    "benchmark",
    reads="the official files of a benchmark of `python eval.py list`, without the answers",
    license="the benchmark's own",
    add_arguments=_arguments,
)
def benchmark(args: Namespace) -> Iterator[Item | Sample | Reject]:
    """Raises UsageError for a benchmark without places to point at in pictures."""
    reader: QuestionReader = args.benchmark_questions
    questions = reader(args.benchmark_name, args.root, args.split)
    pictures: dict[Path, tuple[PictureFinder, ImageFolder]] = {}
    return convert_rows(((own.id, own) for own in questions), partial(_sample, args, pictures))


def _sample(
    args: Namespace, pictures: dict[Path, tuple[PictureFinder, ImageFolder]], where: str, row: UnlabeledQuestion
) -> Iterator[Item]:
    if row.answer_kind not in ("box", "point"):
        raise UsageError(f"{args.benchmark_name}: asks for a {row.answer_kind}; votes are for boxes and clicks")
    if row.folder not in pictures:
        pictures[row.folder] = PictureFinder(row.folder), ImageFolder.of(args, row.folder.absolute())
    find, folder = pictures[row.folder]
    found = []
    for path in row.images:
        files = find(path)
        if len(files) != 1:
            raise Rejected("ambiguous image", f"{path}: {len(files)} files of that name")
        found.append(folder(files[0]))
    images = tuple(image for image, _ in found)
    asked, meta = instruction(row.instruction), {"ask": args.ask or row.answer_kind}
    sample = Sample(where, images, asked, Unlabeled(), args.benchmark_name, row.license, meta=meta)
    yield Item(sample, {image.path: file for image, file in found})
