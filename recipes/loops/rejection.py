"""`kind: rejection`: the policy answers each prompt several times, and what is rewarded becomes its SFT data.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825); repeated, a self-evolution recipe. `args` are the keys of
`trl.SFTConfig` and those of `RejectionConfig`; `rewards` decide. What was kept stands in `kept-RANK.jsonl`; of an
episode (with `tools`) that is the list of its turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from trl import SFTConfig

from grounding.errors import FoveaError
from grounding.journal import read_journals
from recipes.data import TAUGHT, build_dataset, stored
from recipes.dry_run import check_training, describe_training
from recipes.episodes import question_of
from recipes.loops.drawing import DrawingConfig, DrawingStage, at_least_one, roll_out, unique_ids
from recipes.sft import SupervisedStage
from recipes.stage import STAGES
from recipes.training import build_toolbox
from tools.teaching import Taught, relate
from tools.toolbox import Toolbox

KEPT = "kept-*.jsonl"
ANSWERS = ("completion", "chosen", "rejected")


@dataclass
class RejectionConfig(DrawingConfig, SFTConfig):
    """SFT on the policy's own rewarded answers.

    Attributes:
        min_reward: an answer is kept from this weighted sum of rewards on.
        keep: at most so many different answers per prompt, the best first.
    """

    min_reward: float = field(default=1.0)
    keep: int = field(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("keep", self.keep)


@STAGES.register("rejection")
class RejectionStage(DrawingStage, SupervisedStage):
    """Rejection-sampling fine-tuning; `args` are the keys of `RejectionConfig`."""

    args_type = RejectionConfig
    sections = frozenset({"data", "lora", "train", "rewards", "tools"})

    def check(self) -> None:
        self.rewards()
        args = self.arguments()
        self.check_learned(args)
        check_training(self.job, args)

    def describe(self) -> list[tuple[str, str]]:
        return describe_training(self.job, self.arguments(), supervised=True, rewards=self.rewards())

    def run(self) -> None:
        args = self.arguments()

        def entry(texts: list[Any], scores: list[float | None]) -> dict[str, Any]:
            worth = {text: score for text, score in zip(texts, scores, strict=True) if score is not None}
            good = [text for text in worth if worth[text] >= args.min_reward]
            return {"kept": sorted(good, key=worth.__getitem__, reverse=True)[: args.keep]}

        self.drawn = roll_out(self.job, args, self.rewards(), KEPT, entry)
        super().run()

    def datasets(self, processor: Any) -> dict[str, Any]:
        return {"train_dataset": self.kept(processor)}

    def kept(self, processor: Any) -> Dataset:
        """The rewarded answers as supervised rows, in the order of the data.

        Raises:
            FoveaError: there is none.
        """
        toolbox = build_toolbox(self.job, processor)
        dataset = build_dataset(self.job.spec.data, self.job.recipe.model, processor, toolbox=toolbox)
        kept = {row["id"]: row["kept"] for row in read_journals(self.job.folder, KEPT)}
        rows = [
            {"index": index, "completion": text}
            for index, name in enumerate(unique_ids(stored(self.job.spec.data)))
            for text in kept.get(name, ())
        ]
        if not rows:
            raise FoveaError(f"{self.job.where}: no answer reached min_reward; lower it, or take a better model")
        answered = AnsweredRows(dataset) if toolbox is None else EpisodeRows(dataset, toolbox)
        return Dataset.from_list(rows).with_transform(answered)


@dataclass(frozen=True)
class AnsweredRows:
    """Prompts of a data set with answers of the model's own, columns of ANSWERS, as assistant messages."""

    dataset: Dataset

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [self.dataset[index] for index in batch["index"]]
        said = {
            name: [[{"role": "assistant", "content": text}] for text in texts] if name in ANSWERS else texts
            for name, texts in batch.items()
            if name != "index"
        }
        return {**{key: [row[key] for row in rows] for key in rows[0]}, **said}


@dataclass(frozen=True)
class EpisodeRows:
    """Prompts of a data set with episodes of the model's own, whose calls are carried out again.

    A `completion` is taught in the column TAUGHT, the two of a pair in `chosen_taught` and `rejected_taught`.
    """

    dataset: Dataset
    toolbox: Toolbox

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [self.dataset[index] for index in batch["index"]]
        found: dict[str, list[Any]] = {key: [row[key] for row in rows] for key in rows[0]}
        for name in batch.keys() & set(ANSWERS):
            taught = [self._related(row, said) for row, said in zip(rows, batch[name], strict=True)]
            found[TAUGHT if name == "completion" else f"{name}_{TAUGHT}"] = taught
            found[name] = [[{"role": "assistant", "content": own.text}] for own in taught]
        return found

    def _related(self, row: dict[str, Any], said: list[str]) -> Taught:
        words, kind = question_of(row["prompt"]), row["answer_kind"]
        return relate(self.toolbox, said, row["prompt"], row["images"], question=words, answer_kind=kind)
