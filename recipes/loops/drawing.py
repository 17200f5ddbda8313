"""Rollouts outside a trainer: drawn by the current model, scored by the recipe's rewards, a journal per process.

Prompts are answered in batches that depend on the data alone, each with a seed of its own: neither the number of
processes nor an interruption changes an answer. With `tools` an answer is an episode (`tools.loop`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import GenerationConfig, set_seed
from transformers.integrations import unset_hf_deepspeed_config

from grounding.completion import Grammar, check_grammar
from grounding.decoding import Decoder
from grounding.dialects import get_dialect
from grounding.fingerprint import derived
from grounding.journal import Journal, read_journals
from models.prompting import encode, prompt_text
from models.sampling import generation_config
from recipes.data import Stored, build_dataset, stored
from recipes.episodes import chat_text, columns_of, messages_of, question_of
from recipes.records.tracking import DrawnRollouts, ShownRollout, tracked
from recipes.runner import this_process
from recipes.stage import Job, Stage
from recipes.training import build_toolbox, load_for
from rewards.compose import RewardFunction, build_rewards
from tools.loop import LocalTurns, Played, play
from tools.toolbox import Toolbox

ROLLOUTS = "rollouts-*.jsonl"
Entry = Callable[[list[Any], list[float | None]], dict[str, Any]]
Measure = Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]]


@dataclass
class DrawingConfig:
    """How rollouts are drawn.

    Attributes:
        num_generations: answers drawn per prompt.
        generation_batch_size: prompts answered at once.
        max_completion_length: tokens of an answer; of an episode with all its replies.
        temperature, top_p, top_k, min_p, repetition_penalty, generation_kwargs: of drawing, as in `trl.GRPOConfig`.
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

    def __post_init__(self) -> None:
        more = getattr(super(), "__post_init__", None)  # of TRL's configuration, where the stage trains
        if more is not None:
            more()
        for name in ("num_generations", "generation_batch_size", "max_completion_length"):
            at_least_one(name, getattr(self, name))
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}: several answers need one above 0")


class DrawingStage(Stage):
    """A stage that draws rollouts and scores them with the recipe's rewards."""

    sections = frozenset({"data", "rewards"})
    needs = frozenset({"data", "rewards"})

    def rewards(self) -> list[RewardFunction]:
        model = self.job.recipe.model
        return build_rewards(self.job.spec.rewards, model.dialect, model.grammar)


def show_drawn(job: Job, rollouts: Sequence[ShownRollout]) -> None:
    """Log what a stage that trains nothing has drawn, in a run of its own of the recipe's tracker."""
    if rollouts:
        with tracked(job, main_process=True) as tracker:
            if tracker is not None:
                tracker.show(0, rollouts)


def at_least_one(name: str, value: int) -> None:
    """Raise ValueError for a count below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}, it has to be at least 1")


def whole_entry(texts: list[str], scores: list[float | None]) -> dict[str, Any]:
    """All answers to a prompt with their scores."""
    return {"answers": texts, "scores": scores}


def roll_out(
    job: Job,
    args: Any,
    rewards: Sequence[RewardFunction],
    pattern: str = ROLLOUTS,
    entry: Entry = whole_entry,
) -> Sequence[ShownRollout]:
    """Draw and score the answers to every prompt of this process's share; prompts that are there already are skipped.

    Returns a few of the answers drawn now, on the first process; they are in the stage's `samples.html` too.

    Args:
        job: of the stage, whose `draws_with` answers.
        args: with the fields of `DrawingConfig`.
        rewards: of the stage, with their weights.
        pattern: names of the journals, one per process, for instance ``rollouts-*.jsonl``.
        entry: what a journal's row holds beside the id, of a prompt's answers (texts; of episodes tuples of their
            turns' texts) and their scores.
    """
    unset_hf_deepspeed_config()  # each process answers with a whole model, also where training will split it
    model, processor = load_for(job, path=job.draws_with)
    model = model.to(this_process().device).eval()
    toolbox = build_toolbox(job, processor)
    dataset = build_dataset(job.spec.data, job.recipe.model, processor, toolbox=toolbox)
    weights = [reward.spec.weight for reward in rewards]
    grammar = check_grammar(job.recipe.model.grammar)
    reader, shown = get_dialect(job.recipe.model.dialect), DrawnRollouts(job)

    def drawn(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if toolbox is not None:
            for row, played in zip(rows, generate_episodes(model, toolbox, rows, args), strict=True):
                episodes = [own.episode for own in played]
                said = [tuple(turn.text for turn in episode.turns) for episode in episodes]
                chats, columns = list(map(messages_of, episodes)), list(map(columns_of, episodes))
                scores = score(rewards, weights, row, chats, columns)
                if shows and not shown.full:
                    shown.add(row, list(map(chat_text, chats)), [own["answers"] for own in columns], scores)
                yield entry(said, scores)
            return
        for row, texts in zip(rows, generate(model, processor, rows, args, grammar), strict=True):
            scores = score(rewards, weights, row, texts)
            if shows and not shown.full:
                shown.add(row, texts, [reader.parse(text, row["sizes"], grammar=grammar) for text in texts], scores)
            yield entry(texts, scores)

    shows = this_process().is_main_process
    visit(job, dataset, args.generation_batch_size, drawn, pattern=pattern, title="rollouts")
    shown.write()  # where there were few prompts
    return shown.rollouts


def visit(job: Job, dataset: Dataset, size: int, measure: Measure, *, pattern: str, title: str) -> None:
    """Write what is measured of every row of this process's share into its journal; what is there is skipped.

    Args:
        job: of the stage.
        dataset: its rows.
        size: of a batch.
        measure: of a batch of rows, what a journal's row holds beside the id.
        pattern: names of the journals, one per process.
        title: of the progress bar.
    """
    process = this_process()
    ids = unique_ids(stored(job.spec.data))
    rank, processes = process.process_index, process.num_processes
    batches = [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)]
    seen = {row["id"] for row in read_journals(job.folder, pattern)}
    process.wait_for_everyone()  # before anybody adds to what is being read
    todo = [
        (number, batch)
        for number, batch in enumerate(batches)
        if number % processes == rank and not seen.issuperset(ids[index] for index in batch)
    ]
    header = {"kind": job.spec.kind, "seed": job.seed}
    with (
        Journal(job.folder / pattern.replace("*", str(rank)), header) as journal,
        tqdm(total=sum(len(batch) for _, batch in todo), desc=f"{job.index} {title}") as bar,
    ):
        for number, batch in todo:
            set_seed(derived(job.seed, "rollouts", number) % 2**32)
            rows = [dataset[index] for index in batch]
            for index, found in zip(batch, measure(rows), strict=True):
                if ids[index] not in seen:  # else of a batch that was interrupted between its rows
                    journal.append({"id": ids[index], **found})
            bar.update(len(batch))
    process.wait_for_everyone()


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
    model: Any, processor: Any, rows: list[dict[str, Any]], args: DrawingConfig, grammar: Grammar = "think"
) -> list[list[str]]:
    """`num_generations` drawn answers for each row."""
    texts = [prompt_text(processor, row["prompt"]) for row in rows]
    inputs = encode(processor, texts, [row["images"] for row in rows])
    config = _sampling(model, args, args.max_completion_length, answers=args.num_generations)
    with torch.inference_mode():
        tokens = model.generate(**inputs.to(model.device), generation_config=config)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id, grammar)
    answers = [decoder(ids) for ids in tokens[:, inputs["input_ids"].shape[1] :].tolist()]
    count = args.num_generations
    return [answers[start : start + count] for start in range(0, len(answers), count)]


def generate_episodes(
    model: Any, toolbox: Toolbox, rows: list[dict[str, Any]], args: DrawingConfig
) -> list[list[Played]]:
    """`num_generations` episodes for each row, to their end."""
    longest, processor, count = args.max_completion_length, toolbox.processor, args.num_generations
    decoder = Decoder.of(processor, model.generation_config.eos_token_id, toolbox.grammar)
    config = _sampling(model, args, min(toolbox.config.turn_tokens or longest, longest))
    played = []
    for row in rows:
        prompt = toolbox.prompt_ids(row["prompt"], row["images"])
        how = {"question": question_of(row["prompt"]), "answer_kind": row["answer_kind"]}
        played += [
            Played(toolbox.episode(row["images"], **how), list(prompt), list(row["images"])) for _ in range(count)
        ]
    play(toolbox, played, LocalTurns(model, processor, config, decoder, batch=len(played)), decoder, longest=longest)
    return [played[start : start + count] for start in range(0, len(played), count)]


def _sampling(model: Any, args: DrawingConfig, tokens: int, *, answers: int = 1) -> GenerationConfig:
    return generation_config(
        model,
        max_new_tokens=tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        answers=answers,
        more=args.generation_kwargs,
    )


def score(
    rewards: Sequence[RewardFunction],
    weights: Sequence[float],
    row: dict[str, Any],
    answers: Sequence[Any],
    episodes: Sequence[Mapping[str, Any]] = (),
) -> list[float | None]:
    """The weighted sum of rewards of each answer to one prompt.

    Args:
        answers: texts, or conversations (`recipes.episodes.messages_of`).
        episodes: of each answer what rewards read of an episode (`recipes.episodes.columns_of`).

    A reward that does not apply, or could not judge, counts nothing; where that is every reward the sum is None.
    """
    completions = [[{"role": "assistant", "content": own}] if isinstance(own, str) else own for own in answers]
    columns = {key: [row[key]] * len(answers) for key in ("sample", "sizes", "answer_kind")}
    columns |= {key: [own[key] for own in episodes] for key in (episodes[0] if episodes else ())}
    totals: list[float | None] = [None] * len(answers)
    for reward, weight in zip(rewards, weights, strict=True):
        values = reward([row["prompt"]] * len(answers), completions, **columns)
        totals = [
            total if value is None else (total or 0.0) + weight * value
            for total, value in zip(totals, values, strict=True)
        ]
    return totals
