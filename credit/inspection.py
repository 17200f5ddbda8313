"""What `python -m credit` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from attention.heads import HeadSelection
from attention.reading import MAP, AttentionReader, StepLog
from attention.specification import AttentionSpec, HeadConfig
from credit.describe import Describer, table
from credit.policy import LookedAtPolicy
from credit.schema import CreditConfig
from credit.show import examine, render, write
from grounding.errors import UsageError
from grounding.fingerprint import model_fingerprint
from grounding.folders import PAGE, check_new
from grounding.io import read_samples
from grounding.journal import Journal
from grounding.sample import Sample, regions_of


def show(args: argparse.Namespace) -> Iterator[str]:
    """Write a page about each response; what was written, line by line."""
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
        yield f"{page}: {len(shown.tokens)} tokens of {sample.id}"


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


def describe(args: argparse.Namespace) -> Iterator[str]:
    """The table of heads and strategies."""
    config, policy = _config(args, args.layers), LookedAtPolicy.of(args)
    describer = Describer(policy, config)
    samples = [sample for sample in islice(read_samples(policy.file), args.limit) if len(sample.images) == 1]
    if not samples:
        raise UsageError(f"{policy.file}: no samples with one image")
    torch.manual_seed(args.seed)
    for part in batches_of(samples, args.batch_size):
        inputs = policy.prompts(part)
        describer.add(inputs, *policy.generate(inputs, args.max_new_tokens, temperature=1.0), part)
    yield table(describer.result())


def attention(args: argparse.Namespace) -> Iterator[str]:
    """Write the scores of every sample; what was written."""
    policy = LookedAtPolicy.of(args)
    layers = tuple(args.layers) if args.layers else "middle"
    spec = AttentionSpec(layers=layers, heads=HeadConfig(image_share=1.0))
    reader = AttentionReader(policy.model, spec, MAP, StepLog("attention"))
    samples = islice(read_samples(policy.file), args.limit)
    header = {"kind": "attention scores", "model": model_fingerprint(args.model), "layers": layers}
    with Journal(args.out, header) as journal:
        done = len(journal.ids)
        todo = [s for s in samples if len(s.images) == 1 and regions_of(s.target) and s.id not in journal.ids]
        for part in tqdm(batches_of(todo, args.batch_size), desc="batches", disable=None):
            scores = policy.target_scores(reader, policy.prompts(part), part, args.max_new_tokens)
            for sample, own in zip(part, scores, strict=True):
                journal.append({"id": sample.id, **own})
    yield f"{args.out}: {len(todo)} samples, {done} were there already"


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
