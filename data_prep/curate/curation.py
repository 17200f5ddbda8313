"""`python -m data_prep curate`: two passes over a data set, one to measure, one to keep."""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep import Item, Reject, Split
from data_prep.curate.hashes import ImageHashes, groups
from data_prep.curate.leakage import HeldOut, read_held_out
from data_prep.curate.rules import (
    CurationLimits,
    attends,
    cell,
    check_geometry,
    check_instruction,
    is_telling,
    normalized,
    spoken,
)
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.dataset import carry, dataset_source, read_dataset, samples_of
from data_prep.pipeline.readers import read_jsonl
from grounding.errors import UsageError
from grounding.journal import is_journal, read_journal
from grounding.sample import Sample, to_row


def add_arguments(parser: ArgumentParser) -> None:
    limits = CurationLimits()
    parser.add_argument("--min-side", type=float, default=limits.min_side, help="pixels of a box's shorter side (3)")
    parser.add_argument("--max-area", type=float, default=limits.max_area, help="share of the image (0.98)")
    parser.add_argument("--min-words", type=int, default=limits.min_words)
    parser.add_argument("--max-words", type=int, default=limits.max_words)
    parser.add_argument("--no-images", action="store_true", help="do not decode images: nothing is compared")
    parser.add_argument("--distance", type=int, default=8, help="bits of 256 within which two images are one (8)")
    parser.add_argument("--one-image", action="store_true", help="keep one image of each group of near-duplicates")
    parser.add_argument("--parallel", type=int, default=4, help="images decoded at once (4)")
    parser.add_argument("--benchmark", action="several", default=[], metavar="NAME=DIR",
                        help="drop what this benchmark shows or asks (repeatable)")  # fmt: skip
    parser.add_argument("--against", action="several", default=[], type=Path, metavar="DIR",
                        help="drop what this data set shows or asks (repeatable)")  # fmt: skip
    parser.add_argument("--words-only", action="store_true", help="go on where held-out pictures are missing")
    parser.add_argument("--results", type=Path, help="JSON lines {id, correct} of k rollouts: keep rows in between")
    parser.add_argument("--min-pass", type=float, default=0.0, help="pass rate must be above (0)")
    parser.add_argument("--max-pass", type=float, default=1.0, help="pass rate must be below (1)")
    parser.add_argument("--attention", type=Path, help="JSON lines {id, peak, inside, overall} or {id, score}")
    parser.add_argument("--min-peak", type=float, default=0.2, help="of the attention map inside the target (0.2)")
    parser.add_argument("--min-attention", type=float, default=0.5, help="lowest score, for files with a score (0.5)")
    parser.add_argument("--balance", type=float, default=0.0, metavar="F",
                        help="no cell of size and position has more than F times the median cell's rows")  # fmt: skip


@dataclass
class Measured:
    """What the first pass found out."""

    hashes: np.ndarray
    index: dict[str, int]
    errors: dict[str, str]
    group: np.ndarray
    held: HeldOut
    passes: dict[str, float] | None
    attention: dict[str, dict[str, float]] | None
    share: dict[str, float]


@dataclass
class KeptSoFar:
    """What the second pass has kept so far."""

    rows: set[int] = field(default_factory=set)
    image_of_group: dict[int, str] = field(default_factory=dict)
    split_of_group: dict[int, Split] = field(default_factory=dict)


@dataset_source(
    "curate",
    reads="any data set; keeps the rows worth training on",
    add_arguments=add_arguments,
    more_inputs=lambda args: [args.results, args.attention],
    max_rejects=1.0,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    limits = CurationLimits(args.min_side, args.max_area, min_words=args.min_words, max_words=args.max_words)
    measured = _measure(args, limits)
    seen = KeptSoFar()
    for split, sample in read_dataset(args):
        if isinstance(sample, Reject):
            yield sample
            continue
        try:
            check_geometry(sample, limits)
            check_instruction(spoken(sample), limits)
            _check_leakage(sample, measured, args)
            _check_copies(sample, split, measured, seen, args)
            made = _check_measured(sample, measured, args)
        except Rejected as error:
            yield Reject(sample.id, error.reason, error.detail)
            continue
        yield carry(made, args.root, split)


def _measure(args: Namespace, limits: CurationLimits) -> Measured:
    passes = _pass_rates(args.results) if args.results else None
    attention = _by_id(args.attention) if args.attention else None
    held = read_held_out(args)
    images = ImageHashes(args.root, args.out.with_name(args.out.name + ".hashes.jsonl"), args.parallel)
    hashes = np.empty((0, 32), np.uint8)
    if not args.no_images:
        hashes = images.read(image for sample in samples_of(args) for image in sample.images)
    share: dict[str, float] = {}
    if args.balance:
        counts = Counter(found for sample in samples_of(args) if (found := cell(sample)))
        limit = args.balance * float(np.median(list(counts.values()))) if counts else 0.0
        share = {name: min(1.0, limit / count) for name, count in counts.items()}
    return Measured(
        hashes, images.index, images.errors, groups(hashes, args.distance), held, passes, attention, share
    )


def _pass_rates(path: Path) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for where, row in read_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get("correct"), bool) or "id" not in row:
            raise UsageError(f"{path}: {where} has no id and correct (true or false), as eval.py writes them")
        right.setdefault(row["id"], []).append(row["correct"])
    return {name: sum(marks) / len(marks) for name, marks in right.items()}


def _by_id(path: Path) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    rows = ((str(path), row) for row in read_journal(path)) if is_journal(path) else read_jsonl(path)
    for where, row in rows:
        if (
            not isinstance(row, dict)
            or "id" not in row
            or not ("score" in row or {"peak", "inside", "overall"} <= set(row))
        ):
            raise UsageError(f"{path}: {where} needs id and score, or id, peak, inside and overall")
        scores[row.pop("id")] = row
    return scores


def _check_leakage(sample: Sample, measured: Measured, args: Namespace) -> None:
    for image in sample.images:
        if image.path in measured.errors:
            raise Rejected("bad image", f"{image.path}: {measured.errors[image.path]}")
        if image.path in measured.index:
            name = measured.held.known.name_of(measured.hashes[measured.index[image.path]], args.distance)
            if name:
                raise Rejected("benchmark image", f"{image.path} is {name}")
    if is_telling(sample.instruction):
        name = measured.held.instructions.get(normalized(sample.instruction))
        if name:
            raise Rejected("benchmark instruction", f"{name}: {sample.instruction[:120]}")


def _check_copies(sample: Sample, split: Split, measured: Measured, seen: KeptSoFar, args: Namespace) -> None:
    """Same picture, same words, same target; a picture in two splits; more than one picture of a group."""
    keys = []
    for image in sample.images:
        position = measured.index.get(image.path)
        if position is None:
            keys.append(image.path)
            continue
        group = int(measured.group[position])
        keys.append(str(group))
        first = seen.split_of_group.setdefault(group, split)
        if first != split:
            raise Rejected("image in two splits", f"{image.path}: also in {first}")
        kept = seen.image_of_group.setdefault(group, image.path)
        if args.one_image and kept != image.path:
            raise Rejected("near-duplicate image", f"{image.path} is like {kept}")
    target = to_row(sample)["target"]
    for region in target["regions"]:
        region["coords"] = [round(value, 2) for value in region["coords"]]
    text = f"{keys}|{normalized(sample.instruction)}|{target}|{sample.thought or ''}"
    digest = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
    if digest in seen.rows:
        raise Rejected("duplicate row", sample.instruction[:120])
    seen.rows.add(digest)


def _check_measured(sample: Sample, measured: Measured, args: Namespace) -> Sample:
    """Difficulty, attention and balance; the sample with its pass rate."""
    if measured.passes is not None:
        rate = measured.passes.get(sample.id)
        if rate is None:
            raise Rejected("no rollouts", "")
        if rate <= args.min_pass:
            raise Rejected("too hard", f"pass rate {rate:g}")
        if rate >= args.max_pass:
            raise Rejected("too easy", f"pass rate {rate:g}")
        sample = replace(sample, meta={**sample.meta, "pass_rate": rate})
    if measured.attention is not None:
        scores = measured.attention.get(sample.id)
        if scores is None:
            raise Rejected("no attention score", "")
        if not _attends(scores, args):
            raise Rejected("attention elsewhere", str(scores))
    found = cell(sample)
    if measured.share and found is not None:
        drawn = hashlib.blake2b(f"{args.seed}:{sample.id}".encode(), digest_size=8).digest()
        if int.from_bytes(drawn) >= measured.share[found] * 2**64:
            raise Rejected("size and position over-represented", found)
    return sample


def _attends(scores: dict[str, float], args: Namespace) -> bool:
    if "score" in scores:
        return scores["score"] >= args.min_attention
    return attends(scores, args.min_peak)
