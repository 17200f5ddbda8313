"""Batched generation against one question at a time, same model, same answers; the claim is at least 3x.

    python perf/eval_generation.py [MODEL_FOLDER DATA_FOLDER]

Without arguments: a random-weight model of the embedded model's shape on screens drawn here, decoding a fixed
number of tokens. With arguments: that model on that data set's test split. One thread, processor time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fovea_data import Screens
from benchmarks.harness.backends.generate import Decoding, Request
from benchmarks.harness.backends.local_model import LocalModel
from benchmarks.harness.run import read_items
from grounding.dialects import get_dialect
from grounding.io import open_image
from grounding.sample import ImageRef
from models import tiny
from models.loading import load_policy
from models.profile import read_profile

CLAIM = 3.0
N = 48
BATCH = 24
TOKENS = 16


def drawn() -> tuple[LocalModel, list[Request]]:
    torch.manual_seed(0)
    tokenizer = tiny.train_tokenizer(['Locate the red square {"bbox_2d": [1, 2, 3, 4]} <think></think>'] * 20)
    model, processor = tiny.build(tokenizer)
    requests = []
    for number in range(N):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).rectangle([number % 70, 20, number % 70 + 20, 40], fill="red")
        requests.append(Request("Locate the red square" + " please" * (number % 4), (image,)))
    return LocalModel(model, processor, image_first=False), requests


def given(model: str, data: Path) -> tuple[LocalModel, list[Request]]:
    profile = read_profile(model)
    dialect = get_dialect(profile.dialect)
    requests = [
        Request(
            dialect.prompt(item.instruction, item.answer_kind, profile.grammar),
            tuple(open_image(data, ImageRef(p.path, p.width, p.height)) for p in item.images),
        )
        for item in read_items(Screens(), data, "test", N)
    ]
    return LocalModel(*load_policy(model), image_first=profile.image_first), requests


def answer(backend: LocalModel, requests: list[Request], size: int) -> tuple[float, list[str]]:
    decoding = Decoding(max_new_tokens=TOKENS)
    started = time.process_time()
    texts = [
        outputs[0].text
        for start in range(0, len(requests), size)
        for outputs in backend.generate(requests[start : start + size], decoding, 0)
    ]
    return time.process_time() - started, texts


def main() -> int:
    torch.set_num_threads(1)
    backend, requests = given(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 2 else drawn()
    answer(backend, requests[:BATCH], BATCH)  # warm up
    alone, first = answer(backend, requests, 1)
    together, second = answer(backend, requests, BATCH)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    print(f"{'':<24}{'questions/s':>12}{'ratio':>8}{'needed':>8}")
    print(f"{'one at a time':<24}{len(requests) / alone:>12.1f}{1:>8.2f}")
    print(f"{f'batches of {BATCH}':<24}{len(requests) / together:>12.1f}{alone / together:>8.2f}{CLAIM:>8.1f}")
    print(f"identical greedy answers: {same} of {len(requests)} ({len(set(first))} different ones)")
    return int(alone / together < CLAIM or same < len(requests))


if __name__ == "__main__":
    sys.exit(main())
