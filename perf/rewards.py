"""How fast answers are parsed and scored, beside the same work done the public way, in one run on one core.

    python perf/rewards.py

Ours: `build_rewards(["iou", "format"])` called as TRL calls it, 8 prompts x 8 answers at a time. The public way,
written here in the style of the field's training scripts: a regular expression for the answer, a second for the
format, and the screenshot opened again for every completion to undo the processor's resizing; with the picture
decoded (what a loader that hands on an array or an RGB copy does), and with only its header read (Pillow's lazy
`Image.open(path).size`, its best case, for which no figure is set). Both score the same 1920 x 1080 screenshots and
must agree. Seconds are of the processor, so that other work on the machine does not count. Prints one table; exits 1
when a figure falls short.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from grounding.answer import ImageSize
from grounding.sample import ImageRef, Sample
from grounding.targets import Box
from rewards.compose import build_rewards

PROMPTS, GENERATIONS, STEP = 400, 8, 64
WIDTH, HEIGHT, SEEN = 1920, 1080, (1932, 1092)  # what Qwen2.5-VL's processor makes of it: multiples of 28
LEAST_PER_SECOND, LEAST_RATIO = 30_000, 50
DECODED = 160  # completions the slow way is timed on


def screenshot(path: Path, rng: random.Random) -> None:
    """A busy window, as compressible as a real one."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (240, 242, 245))
    draw = ImageDraw.Draw(image)
    for _ in range(300):
        x, y = rng.randrange(WIDTH), rng.randrange(HEIGHT)
        color = tuple(rng.randrange(256) for _ in range(3))
        draw.rectangle((x, y, x + rng.randint(20, 300), y + rng.randint(10, 80)), fill=color)
        draw.text((x + 4, y + 4), f"item {rng.randrange(1000)}", fill="black", font_size=rng.randint(10, 22))
    image.save(path)


def work(folder: Path) -> tuple[list[str], list[Sample], list[Path]]:
    """Completions of a policy in training: mostly near, some wrong, some broken; samples and pictures beside them."""
    rng = random.Random(0)
    paths = [folder / f"{i}.png" for i in range(4)]
    for path in paths:
        screenshot(path, rng)
    completions, samples, pictures = [], [], []
    for i in range(PROMPTS):
        x, y, w, h = rng.uniform(0, 0.8), rng.uniform(0, 0.8), rng.uniform(0.02, 0.2), rng.uniform(0.02, 0.2)
        image = ImageRef(f"images/{i % 4}.png", WIDTH, HEIGHT)
        sample = Sample(
            str(i), (image,), "the blue save button at the end of the row", Box(x, y, x + w, y + h), "web", "MIT"
        )
        for _ in range(GENERATIONS):
            corners = [x, y, x + w, y + h]
            if rng.random() < 0.8:
                corners = [min(1.0, max(0.0, c + rng.gauss(0, 0.01))) for c in corners]
            x1, y1, x2, y2 = (round(c * SEEN[k % 2]) for k, c in enumerate(corners))
            text = (
                f"<think>I look for the blue button near the end of row {rng.randrange(99)}, left of the search field"
                f'.</think>\n{{"bbox_2d": [{x1}, {y1}, {max(x1, x2)}, {max(y1, y2)}]}}'
            )
            completions.append(text[: rng.randrange(len(text))] if rng.random() < 0.03 else text)
            samples.append(sample)
            pictures.append(paths[i % 4])
    return completions, samples, pictures


# The public way


def iou_reward(
    completions: Sequence[str], solution: Sequence[Sequence[float]], image_path: Sequence[Path], decode: bool
) -> list[float]:
    rewards = []
    for content, sol, path in zip(completions, solution, image_path, strict=True):
        reward = 0.0
        answer = content.split("</think>")[-1]
        match = re.search(r"\[\s*(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\s*\]", answer)
        if match:
            image = Image.open(path)
            if decode:
                image = image.convert("RGB")
            width, height = image.size
            sx, sy = width / SEEN[0], height / SEEN[1]
            box = [
                int(match.group(1)) * sx,
                int(match.group(2)) * sy,
                int(match.group(3)) * sx,
                int(match.group(4)) * sy,
            ]
            left, top, right, bottom = (
                max(box[0], sol[0]),
                max(box[1], sol[1]),
                min(box[2], sol[2]),
                min(box[3], sol[3]),
            )
            if left < right and top < bottom:
                inter = (right - left) * (bottom - top)
                union = (box[2] - box[0]) * (box[3] - box[1]) + (sol[2] - sol[0]) * (sol[3] - sol[1]) - inter
                reward = inter / union
        rewards.append(reward)
    return rewards


def format_reward(completions: Sequence[str]) -> list[float]:
    pattern = r"<think>.*?</think>\s*\{.*\"bbox_2d\".*\[\s*\d+,\s*\d+,\s*\d+,\s*\d+\s*\].*\}"
    return [1.0 if re.fullmatch(pattern, content, re.DOTALL) else 0.0 for content in completions]


def in_steps(
    n: int, score: Callable[[slice], tuple[list[float], list[float]]]
) -> tuple[float, list[tuple[float, float]]]:
    """Seconds for n completions, a step's batch at a time, and the pairs (IoU, format)."""
    pairs: list[tuple[float, float]] = []
    start = time.process_time()
    for begin in range(0, n, STEP):
        pairs.extend(zip(*score(slice(begin, min(begin + STEP, n))), strict=True))
    return time.process_time() - start, pairs


def main() -> int:
    """Measure, print the table, say whether the figures hold."""
    with tempfile.TemporaryDirectory() as name:
        completions, samples, pictures = work(Path(name))
        truth = [
            [c * (WIDTH, HEIGHT)[k % 2] for k, c in enumerate(s.target.xyxy)]
            for s in samples
            if isinstance(s.target, Box)
        ]
        # Rollouts of a prompt share their row, as data loaders give them
        sizes = [own for _ in range(PROMPTS) for own in [(ImageSize(WIDTH, HEIGHT, *SEEN),)] * GENERATIONS]
        n = len(completions)

        def ours() -> Callable[[slice], tuple[list[float], list[float]]]:
            functions = build_rewards(["iou", "format"], "qwen2_5_vl", "think", answer_kind="box")

            def score(part: slice) -> Any:
                given = {"prompts": completions[part], "completions": completions[part]}
                return tuple(f(**given, sample=samples[part], sizes=sizes[part]) for f in functions)

            return score

        def public(decode: bool) -> Callable[[slice], tuple[list[float], list[float]]]:
            return lambda part: (
                iou_reward(completions[part], truth[part], pictures[part], decode),
                format_reward(completions[part]),
            )

        # Interleaved, the best of each: what else the machine does hits all three alike
        rounds = [
            (in_steps(n, ours()), in_steps(n, public(False)), in_steps(DECODED, public(True))) for _ in range(5)
        ]
        fast, header, decoded = (min((r[k] for r in rounds), key=lambda timed: timed[0]) for k in range(3))
        apart = max(abs(a[0] - b[0]) for a, b in zip(fast[1], header[1], strict=True))
        unlike = sum(a[1] != b[1] for a, b in zip(fast[1], header[1], strict=True))
    rates = {"ours": n / fast[0], "header": n / header[0], "decoded": DECODED / decoded[0]}
    print("parse + IoU + format of 1920 x 1080 screens   completions/s    ours is")
    print(f"ours                                        {rates['ours']:>14,.0f}")
    for name, key in (("picture decoded", "decoded"), ("only its header read", "header")):
        print(f"public way, {name:31} {rates[key]:>14,.0f}  {rates['ours'] / rates[key]:>8.1f}x")
    print(f"largest difference of the IoU {apart:.1e}, formats judged differently {unlike} of {n}")
    failures = []
    if rates["ours"] < LEAST_PER_SECOND:
        failures.append(f"ours makes {rates['ours']:,.0f}/s, under {LEAST_PER_SECOND:,}")
    if rates["ours"] < LEAST_RATIO * rates["decoded"]:
        failures.append(f"ours is {rates['ours'] / rates['decoded']:.1f}x the public way, under {LEAST_RATIO}x")
    if apart > 1e-9:
        failures.append("the two ways disagree on the IoU")
    for failure in failures:
        print(f"FELL SHORT: {failure}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
