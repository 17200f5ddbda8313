"""`kind: rejection`: the policy answers each prompt several times, and what is rewarded becomes its SFT data.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825); repeated, a self-evolution recipe. `args` are the keys of
`trl.SFTConfig` and those of `RejectionConfig`; `rewards` decide. What was kept stands in `kept-RANK.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import set_seed
from transformers.integrations import unset_hf_deepspeed_config
from trl import SFTConfig

from grounding.completion import Grammar, check_grammar
from grounding.decoding import Decoder
from grounding.errors import FoveaError
from grounding.fingerprint import derived
from grounding.journal import Journal, read_journals
from models.prompting import encode, prompt_text
from models.sampling import generation_config
from recipes.data import Stored, build_dataset, stored
from recipes.dry_run import check_training, describe_training
from recipes.runner import this_process
from recipes.sft import SupervisedStage
from recipes.stage import STAGES
from recipes.training import load_for
from rewards.compose import RewardFunction, build_rewards

KEPT = "kept-*.jsonl"


@dataclass
class RejectionConfig(SFTConfig):
    """SFT on the policy's own rewarded answers.

    Attributes:
        num_generations: answers drawn per prompt.
        generation_batch_size: prompts answered at once.
        max_completion_length: tokens of an answer.
        temperature, top_p, top_k, min_p, repetition_penalty, generation_kwargs: of drawing, as in `trl.GRPOConfig`.
        min_reward: an answer is kept from this weighted sum of rewards on.
        keep: at most so many different answers per prompt, the best first.
    """

    num_generations: int = field(default=8)
    generation_batch_size: int = field(default=8)
    max_completion_length: int = field(default=256)
    temperature: float = field(default=1.0)
    top_p: float = field(default=1.0)
    top_k: int = field(default=0)
    min_p: float | None = field(default=None)
    repetition_penalty: float = field(default=1.0)
    generation_kwargs: dict[str, Any] | None = field(default=None)
    min_reward: float = field(default=1.0)
    keep: int = field(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_generations", "generation_batch_size", "max_completion_length", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it has to be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}: several answers need one above 0")


@STAGES.register("rejection")
class RejectionStage(SupervisedStage):
    """Rejection-sampling fine-tuning; `args` are the keys of `RejectionConfig`."""

    args_type = RejectionConfig
    sections = frozenset({"data", "lora", "rewards"})
    needs = frozenset({"data", "rewards"})

    def rewards(self) -> list[RewardFunction]:
        model = self.job.recipe.model
        return build_rewards(self.job.spec.rewards, model.dialect, model.grammar)

    def check(self) -> None:
        self.rewards()
        check_training(self.job, self.arguments())

    def describe(self) -> list[tuple[str, str]]:
        return describe_training(self.job, self.arguments(), supervised=True, rewards=self.rewards())

    def run(self) -> None:
        self.roll_out()
        super().run()

    def datasets(self, processor: Any) -> dict[str, Any]:
        return {"train_dataset": self.kept(processor)}

    def roll_out(self) -> None:
        """Write what is kept of every prompt of this process's share; prompts that are there already are skipped.

        Prompts are answered in batches that depend on the data alone, each with a seed of its own: neither the
        number of processes nor an interruption changes an answer.
        """
        process = this_process()
        args, job = self.arguments(), self.job
        unset_hf_deepspeed_config()  # each process answers with a whole model, also where training will split it
        model, processor = load_for(job)
        dataset = build_dataset(job.spec.data, job.recipe.model, processor)
        ids = unique_ids(stored(job.spec.data))
        size, rank, processes = args.generation_batch_size, process.process_index, process.num_processes
        batches = [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)]
        seen = {row["id"] for row in read_journals(job.folder, KEPT)}
        process.wait_for_everyone()  # before anybody adds to what is being read
        todo = [
            (number, batch)
            for number, batch in enumerate(batches)
            if number % processes == rank and not seen.issuperset(ids[index] for index in batch)
        ]
        if todo:
            model = model.to(process.device).eval()
        rewards, specs = self.rewards(), job.spec.rewards
        header = {"kind": "rejection", "seed": job.recipe.seed}
        with (
            Journal(job.folder / KEPT.replace("*", str(rank)), header) as journal,
            tqdm(total=sum(len(batch) for _, batch in todo), desc=f"{job.index} rollouts") as bar,
        ):
            for number, batch in todo:
                set_seed(derived(job.recipe.seed, "rollouts", number) % 2**32)
                rows = [dataset[index] for index in batch]
                answers = generate(model, processor, rows, args, check_grammar(job.recipe.model.grammar))
                for index, row, texts in zip(batch, rows, answers, strict=True):
                    if ids[index] in seen:  # of a batch that was interrupted between its rows
                        continue
                    scores = score(rewards, [spec.weight for spec in specs], row, texts)
                    worth = dict(zip(texts, scores, strict=True))
                    good = [text for text in worth if worth[text] >= args.min_reward]
                    kept = sorted(good, key=worth.__getitem__, reverse=True)[: args.keep]
                    journal.append({"id": ids[index], "kept": kept})
                bar.update(len(batch))
        process.wait_for_everyone()

    def kept(self, processor: Any) -> Dataset:
        """The rewarded answers as supervised rows, in the order of the data.

        Raises:
            FoveaError: there is none.
        """
        dataset = build_dataset(self.job.spec.data, self.job.recipe.model, processor)
        kept = {row["id"]: row["kept"] for row in read_journals(self.job.folder, KEPT)}
        rows = [
            {"index": index, "text": text}
            for index, name in enumerate(unique_ids(stored(self.job.spec.data)))
            for text in kept.get(name, ())
        ]
        if not rows:
            raise FoveaError(f"{self.job.where}: no answer reached min_reward; lower it, or take a better model")
        return Dataset.from_list(rows).with_transform(KeptRows(dataset))


@dataclass(frozen=True)
class KeptRows:
    """Prompts of a data set with the answers that were kept for them."""

    dataset: Dataset

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [self.dataset[index] for index in batch["index"]]
        completions = [[{"role": "assistant", "content": text}] for text in batch["text"]]
        return {**{key: [row[key] for row in rows] for key in rows[0]}, "completion": completions}


def unique_ids(samples: Stored) -> list[str]:
    """The ids of samples in order, numbered where one occurs again, as in concatenated sets."""
    seen: Counter[str] = Counter()
    ids = []
    for index in range(len(samples)):
        name = samples[index][0].id
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return ids


def generate(
    model: Any, processor: Any, rows: list[dict[str, Any]], args: RejectionConfig, grammar: Grammar = "think"
) -> list[list[str]]:
    """`num_generations` drawn answers for each row."""
    texts = [prompt_text(processor, row["prompt"]) for row in rows]
    inputs = encode(processor, texts, [row["images"] for row in rows])
    config = generation_config(
        model,
        max_new_tokens=args.max_completion_length,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        answers=args.num_generations,
        more=args.generation_kwargs,
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs.to(model.device), generation_config=config)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id, grammar)
    answers = [decoder(ids) for ids in tokens[:, inputs["input_ids"].shape[1] :].tolist()]
    count = args.num_generations
    return [answers[start : start + count] for start in range(0, len(answers), count)]


def score(rewards: list[RewardFunction], weights: list[float], row: dict[str, Any], texts: list[str]) -> list[float]:
    """The weighted sum of rewards of each answer to one prompt; a reward that does not apply counts nothing."""
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {key: [row[key]] * len(texts) for key in ("sample", "sizes", "answer_kind")}
    totals = [0.0] * len(texts)
    for reward, weight in zip(rewards, weights, strict=True):
        values = reward([row["prompt"]] * len(texts), completions, **columns)
        totals = [total + weight * (value or 0.0) for total, value in zip(totals, values, strict=True)]
    return totals
