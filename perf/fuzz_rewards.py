"""Feed the rewards a million broken, hostile and odd completions.

    python perf/fuzz_rewards.py --n 1000000

Checked for every completion and every reward that needs no network: no exception, a finite value inside the declared
range, and for hacks (unreadable answers, the whole image, swarms of boxes, an answer in the thought only) no more
than an honest wrong answer earns. Then hostile texts at 10 and at 100 KB: time per byte must not grow. Prints one
table (on Ctrl-C, of what was done so far) and exits 1 when anything fails.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from grounding.answer import Answer, ImageSize, Status
from grounding.completion import GRAMMARS
from grounding.dialects import DIALECTS, Dialect, get_dialect
from grounding.errors import UsageError
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Boxes, Point, Points, Polygon, Span, Target, TextBox
from rewards import REWARDS, Reward

SIZES = (ImageSize(1280, 720, 1288, 728),)
TRUE, FAR = Box(0.2, 0.3, 0.4, 0.5), Box(0.86, 0.86, 0.95, 0.95)


def wrong(**regions: Any) -> Answer:
    """An honest wrong answer: readable, in the format, somewhere else."""
    return Answer(Status.OK, strict=True, **regions)


TARGETS: dict[str, tuple[Target, Answer]] = {
    "box": (TRUE, wrong(boxes=(FAR,))),
    "polygon": (Polygon(((0.2, 0.3), (0.4, 0.3), (0.3, 0.5))), wrong(boxes=(FAR,))),
    "point": (Point(0.3, 0.4), wrong(points=(Point(0.9, 0.9),))),
    "boxes": (Boxes((TRUE, Box(0.6, 0.1, 0.7, 0.2))), wrong(boxes=(FAR, Box(0.02, 0.85, 0.1, 0.95)))),
    "points": (Points((Point(0.3, 0.4), Point(0.65, 0.15))), wrong(points=(Point(0.9, 0.9), Point(0.05, 0.9)))),
    "span": (Span(3.0, 7.5), wrong(spans=(Span(20.0, 29.0),))),
    "text_box": (TextBox("42", (TRUE,)), wrong(boxes=(FAR,), text="17")),
    "choice": (TextBox("B", (TRUE,)), wrong(boxes=(FAR,), text="C")),
    "absent": (Absent(), wrong(boxes=(FAR,))),
}
NUMBERS = (
    "0", "1", "-1", "999", "1000", "1001", "500.5", "1e3", "1e308", "1e999", "-1e308", "NaN", "Infinity",
    "-Infinity", "٤٢", "４２０", "੧੦੦", "0x1F", "1_000", "--5", "+7", ".", "1.2.3", "9" * 400, "null", "true",
    '"5"', "½", "²",
)  # fmt: skip
PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "```json", "```", '{"bbox_2d": ', '"point_2d"', "[", "]",
    "{", "}", "(", ")", ",", ":", "<box>", "</box>", "<point>", "</point>", "<loc0123>", "<loc_500>",
    "<|box_start|>", "<|box_end|>", "<points x1=", '<point x="50" y="50">', "click(start_box='(",
    "pyautogui.click(x=", "<tool_call>", "</tool_call>", '{"name": "zoom", "arguments": ', "\x00", "\ud800",
    "\u202e", "\u2028", "🙂", "𝟙𝟚", "\\u0031", "\\", "'", '"', "-", "%", "e", "the blue button", "not found",
    "A", "B.", " ", "\n", "\t",
)  # fmt: skip


@dataclass
class FuzzTally:
    """What a run saw."""

    seen: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    values: int = 0
    characters: int = 0

    def fail(self, reward: str, text: str, reason: str) -> None:
        if len(self.failures) < 20:
            self.failures.append(f"{reward}: {reason}: {text[:120]!r}")


def valid(rng: random.Random, dialect: Dialect, target: Target) -> str:
    """A completion as the model family would give it, or a plain JSON one where it has no words for the target."""
    try:
        answer = dialect.render(target, SIZES)
    except UsageError:
        corners = target.xyxy if isinstance(target, Box) else FAR.xyxy
        answer = f'{{"bbox_2d": {[round(1000 * c) for c in corners]}}}'
    thought = rng.choice(
        ("", "It is at [200, 300].", "The blue button is right of the red one. " * rng.randint(1, 4))
    )
    return f"<think>{thought}</think>\n" + rng.choice((answer, f"<answer>{answer}</answer>"))


def odd_numbers(rng: random.Random) -> str:
    numbers = ", ".join(rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 2, 3, 4, 4, 4, 5, 8))))
    frame = rng.choice(
        ('{"bbox_2d": [%s]}', "[%s]", "(%s)", "<box>(%s)</box>", '{"point_2d": [%s]}', "<think>a</think>[%s]")
    )
    return frame % numbers


def soup(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES if rng.random() < 0.7 else NUMBERS) for _ in range(rng.randint(0, 40)))


def noise(rng: random.Random) -> str:
    return "".join(chr(rng.randrange(0x3000 if rng.random() < 0.9 else 0x110000)) for _ in range(rng.randint(0, 60)))


def truncated(rng: random.Random, text: str) -> str:
    return text[: rng.randint(0, len(text))]


def damaged(rng: random.Random, text: str) -> str:
    letters = list(text)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(letters) + 1)
        letters[at : at + rng.randint(0, 3)] = [rng.choice((*PIECES, *NUMBERS))]
    return "".join(letters)


def nested(rng: random.Random, most: int = 300) -> str:
    opening = rng.choice(
        ("[", "{", "(", '{"a":', "[[1,", "<think>", "<answer>", '{"bbox_2d": [', "<tool_call>", "[1, 2, 3, ", "9")
    )
    return (
        rng.choice(("", "<think>x</think>")) + opening * rng.randint(1, most) + rng.choice(("", "]", "}" * 50, "1]"))
    )


def swapped(rng: random.Random) -> str:
    x1, y1, x2, y2 = (rng.randint(-200, 1400) for _ in range(4))
    return f'<think>a</think>{{"bbox_2d": [{max(x1, x2)}, {max(y1, y2)}, {min(x1, x2)}, {min(y1, y2)}]}}'


# Hacks: what a policy might try; none may earn more than an honest wrong answer.


def whole_image(rng: random.Random, dialect: Dialect) -> str:
    return valid(rng, dialect, Box(0.0, 0.0, 1.0, 1.0))


def swarm(rng: random.Random, dialect: Dialect) -> str:
    """Boxes all over the screen, one of them right perhaps."""
    step = rng.choice((0.1, 0.2))
    n = round(1 / step)
    cells = [
        Box(i * step, j * step, min(1.0, (i + 1) * step), min(1.0, (j + 1) * step))
        for i in range(n)
        for j in range(n)
    ]
    rng.shuffle(cells)
    texts = [valid(rng, dialect, cell).partition("</think>")[2].strip() for cell in cells]
    return "<think>somewhere</think>" + rng.choice(("\n", ", ", "")).join(texts)


def in_the_thought(rng: random.Random, dialect: Dialect) -> str:
    """The right answer, but thought and not said."""
    answer = valid(rng, dialect, TRUE).partition("</think>")[2].strip()
    return rng.choice((f"<think>{answer}</think>", f"<think>{answer}</think> Done.", f"<think>{answer}"))


def copied_prompt(rng: random.Random, dialect: Dialect) -> str:
    return rng.choice(("", "<think></think>")) + dialect.prompt(
        "Click the blue button.", "point" if "box" not in dialect.kinds else "box", "bare"
    )


HACKS: dict[str, Callable[[random.Random, Dialect], str]] = {
    "whole image": whole_image,
    "swarm of boxes": swarm,
    "in the thought": in_the_thought,
    "copied prompt": copied_prompt,
}


def completion(rng: random.Random, dialect: Dialect, target: Target) -> tuple[str, str]:
    """A completion and the name of its sort."""
    roll = rng.random()
    if roll < 0.06:
        name = rng.choice(tuple(HACKS))
        if name == "swarm of boxes" and rng.random() < 0.8:
            name = "whole image"  # swarms are long; fewer do
        return name, HACKS[name](rng, dialect)
    for share, name, make in (
        (0.16, "valid", lambda: valid(rng, dialect, target)),
        (0.34, "truncated", lambda: truncated(rng, valid(rng, dialect, target))),
        (0.54, "damaged", lambda: damaged(rng, valid(rng, dialect, target))),
        (0.72, "odd numbers", lambda: odd_numbers(rng)),
        (0.84, "soup of tokens", lambda: soup(rng)),
        (0.90, "random unicode", lambda: noise(rng)),
        (0.95, "swapped corners", lambda: swapped(rng)),
        (0.9995, "nested", lambda: nested(rng, 100)),
    ):
        if roll < share:
            return name, make()
    return "long (100 KB)", nested(rng, 1) + rng.choice(
        ("[", "{", "9", '{"bbox_2d": [', "<think>", "٤", "(1,")
    ) * 50_000


def usable(kind: str) -> list[Reward]:
    """The rewards that score a kind of target and need neither a network nor attention maps."""
    entries = [REWARDS.get(name) for name in REWARDS]
    of_kind = "text_box" if kind == "choice" else kind
    local = [entry for entry in entries if not entry.remote and "attention" not in entry.needs]
    return [e for e in local if (not e.kinds or of_kind in e.kinds) and (e.name != "text_choice" or kind == "choice")]


def value_of(entry: Reward, answer: Answer, sample: Sample, text: str, dialect: Dialect) -> float:
    """One reward of one answer; a group reward sees two of them."""
    extras: dict[str, object] = {}
    for need in entry.needs:
        if need == "text":
            extras[need] = text
        elif need == "tokens":
            extras[need] = range(len(text))
        elif need == "places":
            extras[need] = dialect.read_thought(answer.thought or "", SIZES)
        elif need in ("executed_calls?", "turns?"):
            extras[need.removesuffix("?")] = None
    params = {"enough": 3} if "enough" in entry.params else {}
    return float(entry([answer] * 2, sample)[0] if entry.group else entry(answer, sample, **extras, **params))


ACCURACY = ("box", "point", "detection", "span", "text")  # families; and `abstention`
SWARM = 0.1  # a swarm of N boxes may earn the share of it that is right where several were asked for


def sample_of(kind: str) -> Sample:
    meta = {"duration": 30.0} if kind == "span" else {}
    image = ImageRef("fuzz.png", 1280, 720)
    return Sample("fuzz", (image,), "the blue button", TARGETS[kind][0], "made", "CC0-1.0", meta=meta)


def check(rng: random.Random, kind: str, n: int, tally: FuzzTally) -> None:
    """Score `n` completions for one kind of target, one dialect and grammar."""
    dialect, grammar = get_dialect(rng.choice(list(DIALECTS))), rng.choice(GRAMMARS)
    sample = sample_of(kind)
    asked = {"polygon": "box", "absent": "box", "choice": "text_box"}.get(kind, kind)
    expect = rng.choice((asked, asked, None))
    rewards = usable(kind)
    accurate = [e for e in rewards if e.family in ACCURACY or e.name == "abstention"]
    honest = {e.name: value_of(e, TARGETS[kind][1], sample, "", dialect) for e in accurate}
    for _ in range(n):
        name, text = completion(rng, dialect, sample.target)
        if name == "in the thought" and grammar == "bare" and "</think>" not in text:
            name = "valid"  # where no thought was asked for, a lonely tag opens none
        tally.seen[name] += 1
        tally.characters += len(text)
        try:
            answer = dialect.parse(text, SIZES, grammar=grammar, answer_kind=expect)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what this script looks for
            tally.fail(f"parse {dialect.name}", text, repr(error))
            continue
        for entry in rewards:
            try:
                value = value_of(entry, answer, sample, text, dialect)
            except Exception as error:  # noqa: BLE001
                tally.fail(entry.name, text, repr(error))
                continue
            tally.values += 1
            low, high = entry.range
            if not (math.isfinite(value) and low <= value <= high):
                tally.fail(entry.name, text, f"{value} is outside [{low}, {high}]")
            if entry.name in honest and (not answer.ok or name in HACKS):
                most = honest[entry.name] + (
                    SWARM if name == "swarm of boxes" and entry.family == "detection" else 1e-9
                )
                if value > most and not (kind == "absent" and answer.absent):
                    tally.fail(entry.name, text, f"{name} earns {value:.3g}, an honest wrong answer {most:.3g}")


LONG = (
    "[", "{", "(", "9", "٤", " ", "<think>", "</think>", "<answer>", "[1, 2, 3, 4]", '{"bbox_2d": [',
    "<loc0001>", "-", ".", "(1,", "<box>", "a. ", '"', "\\", "<tool_call>", "0.", "1e", "[1,2],", "<point>",
    "<points x1=", "click(", "not ", "is ",
)  # fmt: skip


def slowdown(kilobytes: int, dialects: Sequence[str], pieces: Sequence[str] = LONG) -> tuple[float, str]:
    """The worst ratio of time per byte between texts of 10 times `kilobytes` and of `kilobytes`, and where.

    Times are of the processor, and the best of five where one looks bad: other work on the machine is no slowdown.
    """
    worst, where = 0.0, "nowhere"
    sample = sample_of("boxes")
    rewards = [e for e in usable("boxes") if not e.group]
    for name in dialects:
        dialect = get_dialect(name)
        for piece in pieces:
            short, long = (f"<think>a</think>{piece * (n * 1000 // len(piece))}" for n in (kilobytes, 10 * kilobytes))
            for repeat in (1, 5):
                before, after = (
                    min(_seconds(text, dialect, sample, rewards) for _ in range(repeat)) for text in (short, long)
                )
                ratio = after / (10 * max(before, 5e-4))  # below that the clock is what is measured
                if ratio <= 2:
                    break
            if ratio > worst:
                worst, where = ratio, f"{name}, {piece!r} repeated: {after * 1000:.0f} ms"
    return worst, where


def _seconds(text: str, dialect: Dialect, sample: Sample, rewards: Sequence[Reward]) -> float:
    gc.collect()
    gc.disable()  # a collection looks at everything this process holds, and a long text causes more of them
    try:
        start = time.process_time()
        answer = dialect.parse(text, SIZES, grammar="think", answer_kind="boxes")
        for entry in rewards:
            value_of(entry, answer, sample, text, dialect)
        return time.process_time() - start
    finally:
        gc.enable()


def main() -> int:
    """Run, print the table, say whether everything held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="completions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--chunk", type=int, default=500, help="completions per choice of target, dialect and grammar"
    )
    arguments = parser.parse_args()
    rng, tally, start = random.Random(arguments.seed), FuzzTally(), time.perf_counter()
    kinds, done = list(TARGETS), 0
    try:
        while done < arguments.n:
            chunk = min(arguments.chunk, arguments.n - done)
            check(rng, kinds[(done // arguments.chunk) % len(kinds)], chunk, tally)
            done += chunk
    except KeyboardInterrupt:
        print(f"interrupted: the table is of the first {done:,} of {arguments.n:,}")
    seconds = time.perf_counter() - start
    ratio, where = slowdown(10, list(DIALECTS))
    print(f"{'completions':28} {done:>12,}")
    for name, count in tally.seen.most_common():
        print(f"  {name:26} {count:>12,}")
    print(f"{'characters':28} {tally.characters:>12,}")
    print(f"{'reward values checked':28} {tally.values:>12,}")
    print(f"{'seconds':28} {seconds:>12,.0f}")
    print(f"{'failures':28} {len(tally.failures):>12,}")
    print(f"{'time per byte, 100 KB : 10 KB':28} {ratio:>11.2f}x  (at most 3; {where})")
    for failure in tally.failures:
        print(f"FAILED {failure}")
    return int(bool(tally.failures) or ratio > 3)


if __name__ == "__main__":
    sys.exit(main())
