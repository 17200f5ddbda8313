"""`python -m data_prep cot`: a thought for every row of a data set."""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep import Item, Reject, Split
from data_prep.cot.forms import FORMS
from data_prep.cot.teacher import Settings, Teacher, data_url, in_order
from data_prep.cot.verify import Copies, answers, verify
from data_prep.pipeline.conversations import canonical
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.dataset import carry, dataset_source, read_dataset
from data_prep.pipeline.images import inside
from data_prep.pipeline.readers import read_jsonl
from data_prep.pipeline.writer import write_json
from grounding.completion import split_completion
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.folders import check_new
from grounding.sample import Sample, regions_of
from grounding.targets import Absent, Box, Point, Span, TextBox
from grounding.wording import arrange, quoted, split_head, write_place
from models.chat_client import RequestLimits

_ASK = (
    "You write the reasoning of somebody who looks at the image for the first time and finds what is asked for."
    " The request is {request}. {answer} Never mention that the answer was given to you. {form}"
    " Use the words of the request. Reply with the reasoning only, no tags, no JSON, at most 150 words."
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--form", choices=sorted(FORMS), default="free")
    parser.add_argument("--tries", type=int, default=2, help="thoughts asked for a row until one is good (2)")
    parser.add_argument("--teacher", help="address of an OpenAI-compatible endpoint, up to and including /v1")
    parser.add_argument("--model", help="name of the teacher's model")
    parser.add_argument("--key-variable", default="", help="environment variable with the endpoint's key")
    parser.add_argument("--parallel", type=int, default=8, help="requests under way at once (8)")
    parser.add_argument("--per-minute", type=int, default=0, help="requests a minute at most (no limit)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one attempt (120)")
    parser.add_argument("--retries", type=int, default=4, help="attempts after the first (4)")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--no-image", action="store_true", help="do not show the teacher the images")
    parser.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"),
                        help="money for a million tokens read and written")  # fmt: skip
    parser.add_argument("--cache", type=Path, help="file that keeps replies (OUT with the suffix .replies.sqlite)")
    parser.add_argument(
        "--completions",
        type=Path,
        help="rollouts of the policy itself: {id, completion}, or results.jsonl of eval.py",
    )
    parser.add_argument("--dialect", default="qwen3_vl", help="the words of --completions (qwen3_vl)")


@dataset_source(
    "cot",
    reads="any data set; writes a verified thought into every row",
    add_arguments=add_arguments,
    more_inputs=lambda args: [args.completions],
    max_rejects=1.0,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    if args.teacher and args.completions:
        raise UsageError("give --teacher or --completions, not both")
    if args.teacher and not args.model:
        raise UsageError("--teacher needs --model")
    if args.completions:
        proposals = _from_completions(args)
    elif args.teacher:
        proposals = _from_teacher(args)
    else:
        proposals = _from_template(args)
    form, copies = FORMS[args.form], Copies()
    for split, sample, thoughts in proposals:
        if isinstance(sample, Reject):
            yield sample
            continue
        if sample.turns:
            yield Reject(
                sample.id, "has turns", "its thoughts belong to its calls, and one of the whole image to none"
            )
            continue
        failure = Rejected("no thought", "none was written")
        for thought in thoughts:
            try:
                if isinstance(thought, Rejected):
                    raise thought
                verify(thought, sample, form)
                copies.check(thought)
            except Rejected as error:
                failure = error
                continue
            made = replace(sample, thought=thought, meta={**sample.meta, "thought": args.form})
            yield carry(made, args.root, split)
            break
        else:
            yield Reject(sample.id, failure.reason, failure.detail)


Proposal = tuple[Split, Sample | Reject, list[str | Rejected]]


def _from_template(args: Namespace) -> Iterator[Proposal]:
    form = FORMS[args.form]
    for split, sample in read_dataset(args):
        if isinstance(sample, Reject):
            yield split, sample, []
        else:
            yield split, sample, [form.template(sample, random.Random(f"{args.seed}:{sample.id}"))]


def _from_teacher(args: Namespace) -> Iterator[Proposal]:
    settings = Settings(
        url=args.teacher,
        model=args.model,
        key_variable=args.key_variable,
        limits=RequestLimits(args.timeout, args.retries, parallel=args.parallel, per_minute=args.per_minute),
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        prices=tuple(args.prices),
    )
    cache = args.cache or args.out.with_name(args.out.name + ".replies.sqlite")
    cost = cache.with_suffix(".cost.json")
    check_new(cost, b'"output_tokens": ', option="--cache")
    teacher = Teacher(settings, cache)
    form = FORMS[args.form]

    def work(row: tuple[Split, Sample | Reject]) -> list[str | Rejected]:
        _, sample = row
        if isinstance(sample, Reject):
            return []
        thoughts: list[str | Rejected] = []
        for number in range(args.tries):
            try:
                thought = teacher.ask(messages(sample, args), number).strip()
                thoughts.append(thought)
                verify(thought, sample, form)
                break
            except Rejected as error:
                if not thoughts or error.reason == "teacher failed":
                    thoughts.append(error)
        return thoughts

    try:
        for (split, sample), thoughts in in_order(work, read_dataset(args), args.parallel):
            yield split, sample, thoughts
    finally:
        write_json(cost, teacher.cost())
        teacher.close()


def messages(sample: Sample, args: Namespace) -> list[dict[str, Any]]:
    """The request for one thought: the images, the instruction, the answer, the form."""
    regions = [region for region in regions_of(sample.target) if isinstance(region, (Box, Point))]
    answer = _told(sample, " and ".join(write_place(region) for region in regions))
    text = _ASK.format(request=quoted(sample.words), answer=answer, form=FORMS[args.form].request)
    if args.no_image:
        return [{"role": "user", "content": [{"type": "text", "text": text}]}]
    pictures: list[dict[str, Any]] = []
    for image in sample.images:
        path = inside(args.root, image.path)
        if path.exists() and not path.is_file():  # a pipe or a device would block
            raise Rejected("bad image", f"{image.path}: no regular file")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Rejected("missing image", f"{image.path}: {error.strerror}") from None
        pictures.append({"type": "image_url", "image_url": {"url": data_url(data, path.suffix)}})
    head, _ = split_head(sample.question)
    shown = iter(pictures)
    parts = arrange(head + text, len(pictures))
    return [
        {"role": "user", "content": [{"type": "text", "text": p} if p is not None else next(shown) for p in parts]}
    ]


def _told(sample: Sample, places: str) -> str:
    """The right answer in words."""
    target = sample.target
    if isinstance(target, Absent):
        return "It is not there."
    if isinstance(target, Span):
        return f"It lasts from {target.start:.1f} s to {target.end:.1f} s."
    said = f"The answer is {quoted(target.text)}." if isinstance(target, TextBox) else ""
    return f"{said} {f'It is at {places}.' if places else ''}".strip()


def _from_completions(args: Namespace) -> Iterator[Proposal]:
    """Thoughts out of rollouts, numbers turned back into the canonical convention; wrong answers are not tried."""
    dialect = get_dialect(args.dialect)
    said_of: dict[str, list[str]] = {}
    for where, row in read_jsonl(args.completions):
        said = None if isinstance(row, Rejected) else row.get("completion", row.get("output"))
        if not isinstance(said, str) or "id" not in row:
            raise UsageError(
                f"{args.completions}: {where} has no id and completion (or output, as eval.py writes it)"
            )
        said_of.setdefault(row["id"], []).append(said)
    for split, sample in read_dataset(args):
        if isinstance(sample, Reject):
            yield split, sample, []
            continue
        thoughts: list[str | Rejected] = []
        for completion in said_of.get(sample.id, ()):
            thought, _, _, closed = split_completion(completion)
            answer = dialect.parse(completion, sample.sizes)
            if not closed or not thought:
                thoughts.append(Rejected("no thought", completion[:200]))
            elif not answers(answer, sample):
                thoughts.append(Rejected("wrong answer", completion[:200]))
            else:
                thoughts.append(canonical(thought.strip(), dialect, sample.sizes))
        yield split, sample, thoughts
