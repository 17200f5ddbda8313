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
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from attention.filter_scores import target_scores
from attention.gather import prompt_and_response
from attention.heads import FILE_NAME, HeadSelection
from attention.maps import AttentionMaps, MapConfig
from attention.response import TextReader, decoder_of
from attention.visual import image_cells, merge_size, region_coverage
from credit.config import CreditConfig
from credit.describe import Describer, table
from credit.show import examine, render, write
from grounding.dialects import get_dialect
from grounding.errors import FoveaError, UsageError
from grounding.fingerprint import model_fingerprint
from grounding.folders import PAGE, check_new
from grounding.io import open_image, read_samples
from grounding.journal import Journal
from grounding.sample import Sample, regions_of
from models.asking import encode, messages, prompt_text, question
from models.loading import SeenSizes, load_policy
from models.profile import read_profile
from models.sampling import generation_config

SUFFIXES = (".jsonl", ".parquet")


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
    config = _config(args)
    policy = _Policy(args)
    samples = _find(policy.file, args.sample, args.limit)
    pages = _pages(args.out, samples)
    for page in pages:
        check_new(page, PAGE)
    heads, text = None, policy.model.config.get_text_config()
    if args.heads is not None:
        layers = tuple(config.layers) if args.layers else range(text.num_hidden_layers)
        heads = HeadSelection.load(args.heads, layers, text.num_attention_heads)
    for sample, page in zip(samples, pages, strict=True):
        inputs = policy.prompts([sample])
        if args.response is None:
            response = policy.generate(inputs, args.max_new_tokens)[0].tolist()
        else:
            response = policy.processor.tokenizer(args.response, add_special_tokens=False)["input_ids"]
        shown = examine(
            policy.model,
            policy.processor,
            inputs,
            response,
            sample=sample,
            sizes=policy.sizes(sample),
            reader=policy.reader,
            config=config,
            heads=heads,
        )
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
    config = _config(args)
    policy = _Policy(args)
    describer = Describer(policy.model, policy.processor, policy.reader, config)
    samples = [sample for sample in islice(read_samples(policy.file), args.limit) if len(sample.images) == 1]
    if not samples:
        raise UsageError(f"{policy.file}: no samples with one image")
    torch.manual_seed(args.seed)
    for start in range(0, len(samples), args.batch_size):
        part = samples[start : start + args.batch_size]
        inputs = policy.prompts(part)
        ids = policy.generate(inputs, args.max_new_tokens, temperature=1.0)
        describer.add(inputs, ids, policy.own(ids), part, [policy.sizes(sample) for sample in part])
    print(table(describer.result()))
    return 0


def _attention(args: argparse.Namespace) -> int:
    policy = _Policy(args)
    layers = tuple(args.layers) if args.layers else "middle"
    config = MapConfig(rows="response", layers=layers, image_share=1.0)
    maps = AttentionMaps(config, policy.model, policy.processor)
    samples = islice(read_samples(policy.file), args.limit)
    header = {"kind": "attention scores", "model": model_fingerprint(args.model), "layers": layers}
    with Journal(args.out, header) as journal:
        done = len(journal.ids)
        todo = [s for s in samples if len(s.images) == 1 and regions_of(s.target) and s.id not in journal.ids]
        for start in tqdm(range(0, len(todo), args.batch_size), desc="batches", disable=None):
            part = todo[start : start + args.batch_size]
            inputs = policy.prompts(part)
            ids = policy.generate(inputs, args.max_new_tokens)
            for sample, scores in zip(part, _scores(policy, maps, part, inputs, ids), strict=True):
                journal.append({"id": sample.id, **scores})
    print(f"{args.out}: {len(todo)} samples, {done} were there already")
    return 0


def _scores(policy: _Policy, maps: AttentionMaps, part: Sequence[Sample], inputs: dict[str, Any], ids: Any) -> Any:
    """`target_scores` of each sample, from one more pass over its prompt and response."""
    mask = policy.own(ids)
    valid = torch.cat([inputs["attention_mask"], mask], 1)
    forward = prompt_and_response(inputs, ids, valid)
    weights = mask / mask.sum(-1, keepdim=True)
    with torch.no_grad(), maps.capturing(forward["input_ids"], valid, weights, mask.bool()) as look:
        policy.model(**forward, logits_to_keep=1)
    grids = image_cells(inputs["image_grid_thw"], merge_size(policy.processor))
    for row, (sample, grid) in enumerate(zip(part, grids, strict=True)):
        prompt = inputs["input_ids"][row]
        coverage = region_coverage(prompt, policy.image_token, [grid], sample)
        yield target_scores(look.values[row][look.image.present[row]], coverage[prompt == policy.image_token])


class _Policy:
    """The model a command looks at, how it is spoken to, and the file its samples come from."""

    def __init__(self, args: argparse.Namespace):
        self.file = _file(args.data)
        self._profile = read_profile(args.model, args.dialect, args.grammar, args.image_first, system=args.system)
        self._dialect, grammar = get_dialect(self._profile.dialect), self._profile.grammar
        self.model, self.processor = load_policy(args.model)
        self.model.eval()
        self.reader = TextReader(
            decoder_of(self.model, self.processor, grammar),
            partial(self._dialect.parse, grammar=grammar),
            partial(self._dialect.parse, grammar="bare"),
        )
        self._seen = SeenSizes(self.processor)

    def own(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) long: 1 for a response's tokens, its first end included, 0 for what follows."""
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(ids.tolist()):
            mask[row, : self.reader.decoder.length(tokens)] = 1
        return mask

    @property
    def image_token(self) -> int:
        return int(self.model.config.image_token_id)

    def images(self, sample: Sample) -> list[Any]:
        return [open_image(self.file.parent, image) for image in sample.images]

    def sizes(self, sample: Sample) -> Any:
        return self._seen.of(sample.images)

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The processor's output for the samples, left-padded."""
        texts, how = [], self._profile
        for sample in samples:
            asked = question(how, sample.question, sample.answer_kind, self.sizes(sample))
            chat = messages(asked, len(sample.images), image_first=how.image_first, system=how.system)
            texts.append(prompt_text(self.processor, chat))
        return dict(encode(self.processor, texts, [self.images(sample) for sample in samples]))

    def generate(self, inputs: dict[str, Any], tokens: int, temperature: float = 0.0) -> Any:
        """(B, T) response tokens."""
        config = generation_config(self.model, max_new_tokens=tokens, temperature=temperature)
        with torch.no_grad():
            output = self.model.generate(**inputs, generation_config=config)
        return output[:, inputs["input_ids"].shape[1] :]


def _config(args: argparse.Namespace) -> CreditConfig:
    layers = {"layers": args.layers} if args.layers else {}
    return CreditConfig.from_mapping({"horizon": list(args.horizon), **layers})


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    for suffix in SUFFIXES:
        if (path / f"test{suffix}").is_file():
            return path / f"test{suffix}"
    raise UsageError(f"--data {path}: no such file, or a folder without test.jsonl or test.parquet")


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
