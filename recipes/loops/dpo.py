"""`kind: dpo`: the policy answers each prompt several times, and prefers its best answer to its worst.

TRL's DPOTrainer on pairs of the model's own rollouts, as VisRL makes them (arXiv 2503.07523); several times over with
`repeat`. `args` are the keys of `trl.DPOConfig` and those of `PreferenceConfig`; `rewards` decide. All answers with
their scores stand in `rollouts-RANK.jsonl`. With `tools` an answer is an episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from grounding.completion import check_grammar
from grounding.decoding import Decoder
from grounding.errors import FoveaError, UsageError
from grounding.geometry import TIE
from grounding.journal import read_journals
from recipes.data import build_dataset, stored
from recipes.dry_run import check_training, describe_training, rewards_line
from recipes.loops.drawing import ROLLOUTS, DrawingConfig, DrawingStage, roll_out, unique_ids
from recipes.loops.preferences import SIDES, EpisodePairs, SentencePairs, judged_sentences
from recipes.loops.rejection import AnsweredRows, EpisodeRows
from recipes.stage import STAGES
from recipes.training import build_args, build_lora, build_toolbox, load_for, run_training


@dataclass
class PreferenceConfig(DrawingConfig, DPOConfig):
    """Which two answers to a prompt make a pair: the first of the best, and the first of the worst.

    Attributes:
        compare: `answer`, or `sentence`: two sentences after a common beginning, of which the answers they lead to
            differ most in their mean score.
        margin: by how much the weighted sum of rewards of the best exceeds that of the worst, at least.
        chosen_at_least: what the best has to reach; null is no bound. VisRL takes 0.8 of 1.
        rejected_at_most: what the worst may reach; null is no bound. VisRL takes 0.2 of 1.
    """

    compare: str = field(default="answer")
    margin: float = field(default=0.1)
    chosen_at_least: float | None = field(default=None)
    rejected_at_most: float | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin <= 0:
            raise ValueError(f"margin is {self.margin}, it has to be above 0: equal answers make no pair")
        if self.compare not in ("answer", "sentence"):
            raise ValueError(f"compare is {self.compare!r}, it has to be answer or sentence")

    def pair(self, texts: list[Any], scores: list[float | None]) -> dict[str, Any]:
        """The `chosen` and `rejected` of these answers (texts, or lists of an episode's turns); empty where they make
        no pair. Of sentences also `shared`, how many characters of both are the beginning, and `chosen_ends` and
        `rejected_ends`, whether an answer ends with the sentence."""
        if self.compare == "answer":
            known = [(score, text) for score, text in zip(scores, texts, strict=True) if score is not None]
            chosen, rejected = self._apart(known) or ("", "")
            return {} if chosen == rejected else {"chosen": chosen, "rejected": rejected}
        found: dict[str, Any] = {}
        widest = 0.0
        for beginning, sentences in judged_sentences(texts, scores).items():
            known = [(score, sentence) for sentence, score in sentences.items()]
            apart, gap = self._apart(known), max(sentences.values()) - min(sentences.values())
            if apart is not None and gap > widest + TIE:
                chosen, rejected = (beginning + sentence for sentence in apart)
                widest, found = gap, {"chosen": chosen, "rejected": rejected, "shared": len(beginning)}
        if not found:
            return {}
        return {**found, **{f"{side}_ends": found[side] in texts for side in SIDES}}

    def _apart(self, known: list[tuple[float, Any]]) -> tuple[Any, Any] | None:
        """The best and the worst of (score, what has it), where they are far enough apart."""
        if not known:
            return None
        (best, chosen), (worst, rejected) = max(known, key=_score), min(known, key=_score)
        too_low = self.chosen_at_least is not None and best < self.chosen_at_least - TIE
        too_high = self.rejected_at_most is not None and worst > self.rejected_at_most + TIE
        return None if best - worst < self.margin - TIE or too_low or too_high else (chosen, rejected)


def _score(answer: tuple[float, Any]) -> float:
    return answer[0]


@STAGES.register("dpo")
class PreferenceStage(DrawingStage):
    """Direct preference optimization on the policy's own rollouts; `args` are the keys of `PreferenceConfig`."""

    args_type = PreferenceConfig
    sections = frozenset({"data", "lora", "rewards", "tools"})
    rejudged = frozenset({"compare", "margin", "chosen_at_least", "rejected_at_most"})

    def arguments(self) -> PreferenceConfig:
        args = build_args(self.job, PreferenceConfig, max_length=None)
        if args.precompute_ref_log_probs:
            key = f"{self.job.where}.args.precompute_ref_log_probs"
            raise UsageError(f"{key}: TRL cannot for rows with images; remove the key")
        if args.compare == "sentence" and self.job.spec.tools is not None:
            raise UsageError(f"{self.job.where}.args.compare: episodes are compared as a whole; remove the key")
        return args

    def check(self) -> None:
        self.rewards()
        check_training(self.job, self.arguments())

    def describe(self) -> list[tuple[str, str]]:
        lines = describe_training(self.job, self.arguments(), supervised=False, rewards=self.rewards())
        return [*lines, rewards_line(self.job.spec.rewards)]

    def run(self) -> None:
        args = self.arguments()  # before the model: DeepSpeed's stage 3 decides how it is loaded
        drawn = roll_out(self.job, args, self.rewards())
        args = self.arguments()  # drawing has let DeepSpeed's configuration go
        model, processor = load_for(self.job, args)
        trainer = DPOTrainer(
            model=model,
            ref_model=None if self.job.spec.lora is not None else load_for(self.job, args)[0],
            args=args,
            data_collator=self.collator(model, processor, args),
            train_dataset=self.pairs(processor, args),
            processing_class=processor,
            peft_config=build_lora(self.job),
        )
        run_training(self.job, trainer, drawn)

    def collator(self, model: Any, processor: Any, args: PreferenceConfig) -> Any:
        """What makes batches of `pairs`; None is TRL's own."""
        if self.job.spec.tools is not None:
            return EpisodePairs(processor)
        if args.compare == "answer":
            return None
        grammar = check_grammar(self.job.recipe.model.grammar)
        decoder = Decoder.of(processor, model.generation_config.eos_token_id, grammar)
        return SentencePairs(processor, args.max_length, decoder=decoder)

    def pairs(self, processor: Any, args: PreferenceConfig) -> Dataset:
        """Prompts with a chosen and a rejected answer, in the order of the data.

        Raises:
            FoveaError: there is none.
        """
        toolbox = build_toolbox(self.job, processor)
        dataset = build_dataset(self.job.spec.data, self.job.recipe.model, processor, toolbox=toolbox)
        journals = read_journals(self.job.folder, ROLLOUTS)
        found = {row["id"]: args.pair(row["answers"], row["scores"]) for row in journals}
        names = enumerate(unique_ids(stored(self.job.spec.data)))
        rows = [{"index": index, **pair} for index, name in names if (pair := found.get(name))]
        if not rows:
            raise FoveaError(
                f"{self.job.where}: none of {len(found)} prompts has two answers that far apart; set args.margin, "
                "chosen_at_least or rejected_at_most otherwise: the same command then pairs the same rollouts again"
            )
        paired = AnsweredRows(dataset) if toolbox is None else EpisodeRows(dataset, toolbox)
        return Dataset.from_list(rows).with_transform(paired)
