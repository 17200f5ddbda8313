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
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from attention.heads import FILE_NAME, HeadSelection
from attention.reading import MAP, AttentionReader, StepLog
from attention.specification import AttentionSpec, HeadConfig
from credit.describe import Describer, table
from credit.policy import LookedAtPolicy
from credit.schema import CreditConfig
from credit.show import examine, render, write
from grounding.errors import FoveaError, UsageError
from grounding.fingerprint import model_fingerprint
from grounding.folders import PAGE, check_new
from grounding.io import read_samples
from grounding.journal import Journal
from grounding.sample import Sample, regions_of


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m credit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="write an HTML page about one response")
    describe = commands.add_parser("describe", help="print what heads and strategies do over many responses")
    attention = commands.add_parser("attention", help="write how well attention meets the target, sample by sample")
    for command in (show, describe, attention):
        command.add_argument("--model", required=True, help="model folder or Hub name")
        command.add_argument(
            "--data", required=True, type=Path, help="data set folder (its test split), or a file of one"
        )
        command.add_argument("--dialect", help="how coordinates are worded; what the model folder says, by default")
        command.add_argument("--grammar", help="what stands around an answer; likewise")
        command.add_argument("--system", help="system message; likewise")
        command.add_argument(
            "--image-first", action=argparse.BooleanOptionalAction, help="images before the text; likewise"
        )
        command.add_argument("--layers", type=int, nargs="+", help="five in the middle third by default")
        command.add_argument("--max-new-tokens", type=int, default=512)
    for command in (show, describe):
        command.add_argument("--horizon", type=int, nargs=2, default=(10, 100), metavar=("LOW", "HIGH"))
    describe.add_argument("--limit", type=int, default=128, help="samples, one response drawn at temperature 1 each")
    attention.add_argument("--out", type=Path, required=True, help="JSON lines, one per sample; appended to")
    attention.add_argument("--limit", type=int, help="samples")
    for command in (describe, attention):
        command.add_argument("--batch-size", type=int, default=32)
    describe.add_argument("--seed", type=int, default=0)
    show.add_argument("--sample", nargs="+", metavar="ID", help="samples to show, the first ones by default")
    show.add_argument("--limit", type=int, default=1, help="how many, without --sample (1)")
    show.add_argument("--response", help="a response to look at; the model's own greedy one by default")
    show.add_argument("--heads", type=Path, help=f"a {FILE_NAME}; by default chosen from this response")
    show.add_argument("--out", type=Path, default=Path("credit.html"), help="a file, or a folder for ID.html of each")
    args = parser.parse_args(arguments)
    try:
        return {"show": _show, "describe": _describe, "attention": _attention}[args.command](args)
    except FoveaError as error:
        print(f"credit: {error}", file=sys.stderr)
        return error.exit_code


def _show(args: argparse.Namespace) -> int:
    policy = LookedAtPolicy.of(args)
    samples = _find(policy.file, args.sample, args.limit)
    pages = _pages(args.out, samples)
    for page in pages:
        check_new(page, PAGE)
    heads, layers = None, args.layers
    if args.heads is not None:
        text = policy.model.config.get_text_config()
        known = layers or range(text.num_hidden_layers)
        heads = HeadSelection.load(args.heads, known, text.num_attention_heads)
        layers = layers or heads.layers
    config = _config(args, layers)
    for sample, page in zip(samples, pages, strict=True):
        if args.response is None:
            ids, _ = policy.generate(policy.prompts([sample]), args.max_new_tokens)
            response = ids[0].tolist()
        else:
            response = policy.processor.tokenizer(args.response, add_special_tokens=False)["input_ids"]
        shown = examine(policy, sample, response, config, heads)
        write(page, render(shown, sample, policy.images(sample), args.model))
        print(f"{page}: {len(shown.tokens)} tokens of {sample.id}")
    return 0


def _pages(out: Path, samples: Sequence[Sample]) -> list[Path]:
    """Where each sample's page goes.

    Raises:
        UsageError: several samples and one file, or an id that is no file name.
    """
    if out.suffix == ".html":
        if len(samples) > 1:
            raise UsageError(f"--out {out}: {len(samples)} samples need a folder")
        return [out]
    for sample in samples:
        if Path(sample.id).name != sample.id:
            raise UsageError(f"sample {sample.id!r} is no file name: show it alone, with --out FILE.html")
    return [out / f"{sample.id}.html" for sample in samples]


def _describe(args: argparse.Namespace) -> int:
    config, policy = _config(args, args.layers), LookedAtPolicy.of(args)
    describer = Describer(policy, config)
    samples = [sample for sample in islice(read_samples(policy.file), args.limit) if len(sample.images) == 1]
    if not samples:
        raise UsageError(f"{policy.file}: no samples with one image")
    torch.manual_seed(args.seed)
    for part in batches_of(samples, args.batch_size):
        inputs = policy.prompts(part)
        describer.add(inputs, *policy.generate(inputs, args.max_new_tokens, temperature=1.0), part)
    print(table(describer.result()))
    return 0


def _attention(args: argparse.Namespace) -> int:
    policy = LookedAtPolicy.of(args)
    layers = tuple(args.layers) if args.layers else "middle"
    spec = AttentionSpec(layers=layers, heads=HeadConfig(image_share=1.0))
    attention = AttentionReader(policy.model, spec, MAP, StepLog("attention"))
    samples = islice(read_samples(policy.file), args.limit)
    header = {"kind": "attention scores", "model": model_fingerprint(args.model), "layers": layers}
    with Journal(args.out, header) as journal:
        done = len(journal.ids)
        todo = [s for s in samples if len(s.images) == 1 and regions_of(s.target) and s.id not in journal.ids]
        for part in tqdm(batches_of(todo, args.batch_size), desc="batches", disable=None):
            scores = policy.target_scores(attention, policy.prompts(part), part, args.max_new_tokens)
            for sample, own in zip(part, scores, strict=True):
                journal.append({"id": sample.id, **own})
    print(f"{args.out}: {len(todo)} samples, {done} were there already")
    return 0


def batches_of(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _config(args: argparse.Namespace, layers: Sequence[int] | None) -> CreditConfig:
    chosen = {"layers": list(layers)} if layers else {}
    return CreditConfig.from_mapping({"horizon": list(args.horizon), **chosen})


def _find(file: Path, names: Sequence[str] | None, limit: int) -> list[Sample]:
    """The samples of these names in their order, else the first `limit`."""
    if names is None:
        first = list(islice(read_samples(file), limit))
        if not first:
            raise UsageError(f"{file}: no samples")
        return first
    wanted = (sample for sample in read_samples(file) if sample.id in names)
    found = {sample.id: sample for sample in islice(wanted, len(set(names)))}
    for name in names:
        if name not in found:
            raise UsageError(f"{file}: no sample {name!r}")
    return [found[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
