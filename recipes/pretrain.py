"""Pre-train `fovea-tiny` from nothing on generated screens. CPU only, resumable.

    python -m recipes.pretrain --out .scratch/fovea-tiny                # about 75 minutes on one core
    python -m recipes.pretrain --out .scratch/fovea-tiny --minutes 30   # anneals to the end at half an hour

What makes a two-million-parameter model bind words to places within minutes instead of days, in the order of
what it brought:

* The instruction stands before the image, so image tokens can compare themselves with it.
* Dense auxiliary losses, dropped afterwards: every patch names the kind and the color of the element it lies in
  (vision tower), every image token says whether it lies in the target (text model, second layer). An answer alone
  is a handful of digits to learn three things from.
* Up to three questions about each screen, as separate sequences that share its vision features: the same picture
  with another question has another answer.

It leaves out: every screen of the train, val and test splits (other seeds; `HELD_OUT` combinations never appear).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from data_prep.screens import generated as screens
from data_prep.screens import scenes
from grounding.answer import ImageSize
from grounding.command_line import CommandParser, run_command
from grounding.completion import render_completion
from grounding.dialects import get_dialect
from grounding.folders import owning
from models.loading import save_policy
from models.profile import Profile
from models.tiny import MERGE, PATCH, build, train_tokenizer

SPLIT = "pretrain"
SIZE = 96
SCREENS_PER_STEP = 32
QUESTIONS_PER_SCREEN = 3
# Share of screens of each difficulty; 4 and 5 are there for their words (relations, absence), not for skill.
MIX = {1: 0.08, 2: 0.57, 3: 0.27, 4: 0.04, 5: 0.04}
THOUGHT_SHARE = 0.65  # of the answers; the rest answers at once
LEARNING_RATE = 2e-3
WARM_UP = 150  # steps
ANNEALED_SHARE = 0.3  # of the time, at its end: the learning rate falls linearly to zero
TARGET_LAYER = 2  # the text layer whose image tokens say whether they are the target
KINDS = {name: index + 1 for index, name in enumerate((*scenes.SHAPES, *scenes.WIDGETS, "window"))}
COLORS = {name: index + 1 for index, name in enumerate(scenes.COLORS)}
INTERFACE_WORDS = (
    "click type select enter press choose open close button link text field box word letter number tab menu item "
    "icon image date slider option submit cancel ok yes no search delete email reply forward star trash from to the "
    "and a of in with on than then which into"
)


def corpus() -> Iterator[str]:
    """What the tokenizer is trained on: questions and thoughts about screens, and common interface words."""
    for index in range(4000):
        for difficulty in (2, 4, 5):
            rng = random.Random(f"tok/{index}/{difficulty}")
            scene, query = scenes.compose(rng, difficulty, SIZE, held_out_share=0.0)
            yield rng.choice(screens.ASKS).format(query.text)
            yield screens.think(scene, query)
    yield from INTERFACE_WORDS.split() * 50


@dataclass(frozen=True, slots=True)
class Question:
    """One sequence: token ids of prompt and answer, and which patches (raster order, bool) are the target."""

    prompt: list[int]
    answer: list[int]
    target: np.ndarray


@dataclass(frozen=True, slots=True)
class LabeledScreen:
    """One picture, the truth about its patches (rows of patches, class indices, 0 = ground), and its questions."""

    pixels: np.ndarray
    kinds: np.ndarray
    colors: np.ndarray
    questions: list[Question]


class ScreenStream:
    """Makes screens and their questions as token ids; screen i is a function of i alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.dialect = get_dialect("fovea")
        self.sizes = (ImageSize(SIZE, SIZE),)
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.eos = tokenizer.encode("<|im_end|>")

    def __call__(self, index: int) -> LabeledScreen:
        rng = random.Random(f"{SPLIT}/{index}")
        difficulty = rng.choices(tuple(MIX), tuple(MIX.values()))[0]
        scene, query = scenes.compose(rng, difficulty, SIZE, held_out_share=0.0)
        side = SIZE // PATCH
        kinds, colors, owner = (np.full((side, side), fill) for fill in (0, 0, -1))
        centers = (np.arange(side) + 0.5) * PATCH
        for number, element in enumerate(scene.elements):
            x1, y1, x2, y2 = element.box
            inside = ((centers >= y1 - 1) & (centers <= y2 + 1))[:, None] & (centers >= x1 - 1) & (centers <= x2 + 1)
            kinds[inside], colors[inside], owner[inside] = KINDS[element.kind], COLORS[element.color], number
        questions = []
        for asked in (query, *self._more(scene, query, rng)):
            number = next((i for i, element in enumerate(scene.elements) if element is asked.target), -2)
            questions.append(self._question(scene, asked, rng, owner == number))
        return LabeledScreen(np.asarray(scenes.draw(scene)), kinds, colors, questions)

    def _more(self, scene: scenes.Scene, query: scenes.Query, rng: random.Random) -> list[scenes.Query]:
        """Further questions with other answers about the same scene."""
        if query.target is None:
            return []
        names = [element.name for element in scene.elements]
        others = [e for e in scene.elements if e is not query.target and names.count(e.name) == 1]
        others = [e for e in others if e.kind != "window"]
        rng.shuffle(others)
        return [scenes.Query(f"the {e.name}", e) for e in others[: QUESTIONS_PER_SCREEN - 1]]

    def _question(self, scene: scenes.Scene, query: scenes.Query, rng: random.Random, target: np.ndarray) -> Question:
        sample = screens.describe(scene, query, rng, "pretraining", difficulty=0)
        thought = None
        if rng.random() < THOUGHT_SHARE:
            thought = self.dialect.render_thought(sample.thought or "", self.sizes)
        answer = self.dialect.render(sample.target, self.sizes)
        completion = render_completion(answer, thought=thought, grammar="think" if thought else "bare")
        return Question(self._prompt(sample.instruction), self.tokenizer.encode(completion) + self.eos, target)

    def _prompt(self, instruction: str) -> list[int]:
        content = [{"type": "text", "text": instruction}, {"type": "image"}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        tokens = (SIZE // PATCH // MERGE) ** 2
        return self.tokenizer.encode(text.replace("<|image_pad|>", "<|image_pad|>" * tokens))


@dataclass(frozen=True, slots=True)
class ScreenBatch:
    """B screens with N questions of at most T tokens; P patches to a screen, in the model's order."""

    pixel_values: torch.Tensor  # (B * P, C)
    grid: torch.Tensor  # (B, 3)
    kinds: torch.Tensor  # (B, P)
    colors: torch.Tensor  # (B, P)
    screen_of: torch.Tensor  # (N,) which screen a question is about
    input_ids: torch.Tensor  # (N, T)
    labels: torch.Tensor  # (N, T), -100 where there is no loss
    attention_mask: torch.Tensor  # (N, T)
    target: torch.Tensor  # (N, P / 4) share of an image token's patches that lie in the target


def collate(items: list[LabeledScreen], image_processor, pad: int) -> ScreenBatch:
    """Screens as one batch, right-padded."""
    questions = [(index, question) for index, screen in enumerate(items) for question in screen.questions]
    longest = max(len(q.prompt) + len(q.answer) for _, q in questions)
    input_ids = torch.full((len(questions), longest), pad)
    labels, mask = torch.full_like(input_ids, -100), torch.zeros_like(input_ids)
    for row, (_, q) in enumerate(questions):
        start, end = len(q.prompt), len(q.prompt) + len(q.answer)
        input_ids[row, :end] = torch.tensor(q.prompt + q.answer)
        labels[row, start:end] = torch.tensor(q.answer)
        mask[row, :end] = 1
    images = image_processor(images=[screen.pixels for screen in items], return_tensors="pt")
    target = in_model_order(np.stack([q.target for _, q in questions]))
    return ScreenBatch(
        pixel_values=images["pixel_values"],
        grid=images["image_grid_thw"],
        kinds=in_model_order(np.stack([screen.kinds for screen in items])),
        colors=in_model_order(np.stack([screen.colors for screen in items])),
        screen_of=torch.tensor([index for index, _ in questions]),
        input_ids=input_ids,
        labels=labels,
        attention_mask=mask,
        target=target.float().view(len(questions), -1, MERGE**2).mean(-1),
    )


def in_model_order(patches: np.ndarray) -> torch.Tensor:
    """(B, rows, columns) -> (B, P): Qwen's vision towers list patches block by merged block."""
    b, rows, columns = patches.shape
    blocks = patches.reshape(b, rows // MERGE, MERGE, columns // MERGE, MERGE).transpose(0, 1, 3, 2, 4)
    return torch.from_numpy(blocks.reshape(b, -1).copy())


class AuxiliaryHeads(nn.Module):
    """Linear probes that the dense losses go through; thrown away after pre-training."""

    def __init__(self, vision_width: int, text_width: int):
        super().__init__()
        self.kind = nn.Linear(vision_width, len(KINDS) + 1)
        self.color = nn.Linear(vision_width, len(COLORS) + 1)
        self.target = nn.Linear(text_width, 1)


def losses(
    model: Qwen3VLForConditionalGeneration, heads: AuxiliaryHeads, batch: ScreenBatch
) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted sum of the four losses, and what to log."""
    n = len(batch.screen_of)
    vision = model.model.visual(batch.pixel_values, grid_thw=batch.grid)
    screens_in_batch = len(batch.grid)

    def per_question(features: torch.Tensor) -> torch.Tensor:
        return features.view(screens_in_batch, -1, features.shape[-1])[batch.screen_of].flatten(0, 1)

    shared = BaseModelOutputWithDeepstackFeatures(
        pooler_output=[per_question(vision.pooler_output)],
        deepstack_features=[[per_question(features)] for features in vision.deepstack_features],
    )
    image_tokens = batch.input_ids == model.config.image_token_id
    position_ids, _ = model.model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=image_tokens.int(),
        image_grid_thw=batch.grid[batch.screen_of],
        attention_mask=batch.attention_mask,
    )
    output = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=position_ids,
        mm_encoder_outputs={"image": shared},
        use_cache=False,
        output_hidden_states=True,
    )
    labels = batch.labels[:, 1:]
    answer = labels != -100
    answer_loss = F.cross_entropy(model.lm_head(output.last_hidden_state[:, :-1][answer]), labels[answer])
    patches = vision.last_hidden_state
    kind_logits, color_logits = heads.kind(patches), heads.color(patches)
    kind_loss = F.cross_entropy(kind_logits, batch.kinds.flatten())
    color_loss = F.cross_entropy(color_logits, batch.colors.flatten())
    target_logits = heads.target(output.hidden_states[TARGET_LAYER][image_tokens]).view(n, -1)
    target_loss = F.binary_cross_entropy_with_logits(target_logits, batch.target, pos_weight=torch.tensor(3.0))
    with torch.no_grad():
        seen = batch.kinds.flatten() > 0
        asked = batch.target.amax(-1) > 0
        chosen = batch.target.gather(1, target_logits.argmax(-1, keepdim=True))[:, 0]
        log = {
            "answer_loss": answer_loss.item(),
            "kind_accuracy": (kind_logits.argmax(-1) == batch.kinds.flatten())[seen].float().mean().item(),
            "color_accuracy": (color_logits.argmax(-1) == batch.colors.flatten())[seen].float().mean().item(),
            "target_token_accuracy": (chosen > 0)[asked].float().mean().item(),
        }
    return answer_loss + kind_loss + 0.5 * color_loss + target_loss, log


def rate(elapsed: float, total: float, step: int) -> float:
    """The learning rate: warm-up by steps, then flat, then linear to zero over the last share of the time."""
    left = (total - elapsed) / (ANNEALED_SHARE * total)
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.0, left))


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = CommandParser(prog="python -m recipes.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, its log and its checkpoint")
    parser.add_argument("--minutes", type=float, default=75.0, help="training time, checkpoints included")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")

    def run() -> None:
        options = parser.parse_args(argv)
        with owning(options.out, "pre-training"):
            pretrain(options)

    return run_command(run, resumes=True)


def pretrain(options: argparse.Namespace) -> None:
    """Train, from the folder's checkpoint where there is one."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    tokenizer = train_tokenizer(corpus())
    model, processor = build(tokenizer)
    heads = AuxiliaryHeads(model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
    weights = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    checkpoint = options.out / "checkpoint.pt"
    step = questions = 0
    elapsed = 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        step, questions, elapsed = state["step"], state["questions"], state["elapsed"]

    def save_checkpoint() -> None:
        state = {"model": model.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict()}
        partial = checkpoint.with_suffix(".partial")
        torch.save({**state, "step": step, "questions": questions, "elapsed": elapsed}, partial)
        partial.replace(checkpoint)

    make = ScreenStream(tokenizer)
    total = options.minutes * 60
    began = time.monotonic() - elapsed
    logs: list[dict[str, float]] = []
    model.train()
    while (elapsed := time.monotonic() - began) < total:
        items = [make(step * SCREENS_PER_STEP + i) for i in range(SCREENS_PER_STEP)]
        batch = collate(items, processor.image_processor, tokenizer.pad_token_id)
        loss, log = losses(model, heads, batch)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        for group in optimizer.param_groups:
            group["lr"] = rate(elapsed, total, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step, questions, logs = step + 1, questions + len(batch.screen_of), [*logs, log]
        if step % 50 == 0:
            means = {key: round(float(np.mean([entry[key] for entry in logs])), 4) for key in log}
            line = {"step": step, "questions": questions, "minutes": round(elapsed / 60, 2), **means}
            with (options.out / "pretraining.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            logs = []
        if step % 200 == 0:
            save_checkpoint()
    save_checkpoint()
    save_policy(options.out, model.half(), processor)
    # Half the file; but "auto" must compute in single precision, which is what a CPU is good at.
    config = options.out / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"float16"', '"float32"'), encoding="utf-8")
    Profile("fovea", "think", image_first=False).write(options.out)


if __name__ == "__main__":
    sys.exit(main())
