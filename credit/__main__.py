"""See what credit sees in one response.

python -m credit show --model runs/x/final --data data/screens --sample ID --out page.html
python -m credit show --model runs/x/final --data data/screens --response '<think>...</think> ...' --out page.html
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from credit.config import CreditConfig
from credit.heads import FILE_NAME, HeadSelection
from credit.show import examine, render, write
from credit.tokens import TextReader
from grounding.dialects import get_dialect
from grounding.errors import FoveaError, UsageError
from grounding.io import open_image, read_samples
from grounding.sample import Sample
from models.loading import SeenSizes, load_policy

SUFFIXES = (".jsonl", ".parquet")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m credit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="write an HTML page about one response")
    show.add_argument("--model", required=True, help="model folder or Hub name")
    show.add_argument("--data", required=True, type=Path, help="data set folder (its test split), or a file of one")
    show.add_argument("--sample", help="id of the sample, the first one by default")
    show.add_argument("--response", help="a response to look at; the model's own greedy one by default")
    show.add_argument("--dialect", help="how coordinates are worded; what the model folder says, by default")
    show.add_argument("--grammar", help="what stands around an answer; likewise")
    show.add_argument("--image-first", action=argparse.BooleanOptionalAction, help="images before the text; likewise")
    show.add_argument("--layers", type=int, nargs="+", help="five in the middle third by default")
    show.add_argument("--horizon", type=int, nargs=2, default=(10, 100), metavar=("LOW", "HIGH"))
    show.add_argument("--heads", type=Path, help=f"a {FILE_NAME}; by default chosen from this response")
    show.add_argument("--max-new-tokens", type=int, default=512)
    show.add_argument("--out", type=Path, default=Path("credit.html"))
    args = parser.parse_args(arguments)
    try:
        return _show(args)
    except FoveaError as error:
        print(f"credit: {error}", file=sys.stderr)
        return error.exit_code


def _show(args: argparse.Namespace) -> int:
    file = _file(args.data)
    sample = _find(file, args.sample)
    told = _told(args)
    dialect, grammar = get_dialect(told["dialect"]), told["grammar"]
    options: dict[str, Any] = {"horizon": list(args.horizon)}
    config = CreditConfig.from_mapping({**options, **({"layers": args.layers} if args.layers else {})})
    model, processor = load_policy(args.model)
    model.eval()
    images = [open_image(file.parent, image) for image in sample.images]
    sizes = SeenSizes(processor).of(sample.images)
    words = [{"type": "text", "text": dialect.prompt(sample.instruction, sample.kind, grammar, sizes)}]
    pictures = [{"type": "image"} for _ in images]
    content = pictures + words if told["image_first"] else words + pictures
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = dict(processor(images=images, text=[text], return_tensors="pt"))
    tokenizer = getattr(processor, "tokenizer", processor)
    if args.response is None:
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
        response = output[0, inputs["input_ids"].shape[1] :].tolist()
    else:
        response = tokenizer(args.response, add_special_tokens=False)["input_ids"]
    heads = None
    if args.heads is not None:
        layers = tuple(config.layers) if args.layers else range(model.config.get_text_config().num_hidden_layers)
        heads = HeadSelection.load(args.heads, layers, model.config.get_text_config().num_attention_heads)
    reader = TextReader(
        tokenizer,
        partial(dialect.parse, grammar=grammar),
        partial(dialect.parse, grammar="bare"),
    )
    shown = examine(
        model, processor, inputs, response, sample=sample, sizes=sizes, reader=reader, config=config, heads=heads
    )
    write(args.out, render(shown, sample, images, args.model))
    print(f"{args.out}: {len(shown.tokens)} tokens of {sample.id}")
    return 0


def _told(args: argparse.Namespace) -> dict[str, Any]:
    """How the model is spoken to: the options, else the fovea.json that training leaves in a model's folder."""
    told = {"grammar": "think", "image_first": True}
    profile = Path(args.model) / "fovea.json"
    if profile.is_file():
        told |= json.loads(profile.read_text(encoding="utf-8"))
    told |= {
        name: getattr(args, name) for name in ("dialect", "grammar", "image_first") if vars(args)[name] is not None
    }
    if "dialect" not in told:
        raise UsageError(f"--dialect is needed: {args.model} has no fovea.json that says how coordinates are worded")
    return told


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    for suffix in SUFFIXES:
        if (path / f"test{suffix}").is_file():
            return path / f"test{suffix}"
    raise UsageError(f"--data {path}: no such file, or a folder without test.jsonl or test.parquet")


def _find(file: Path, name: str | None) -> Sample:
    samples = read_samples(file)
    chosen = islice(samples, 1) if name is None else (sample for sample in samples if sample.id == name)
    for sample in chosen:
        return sample
    raise UsageError(f"{file}: no sample {name!r}" if name else f"{file}: no samples")


if __name__ == "__main__":
    sys.exit(main())
