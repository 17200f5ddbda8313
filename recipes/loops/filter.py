"""`kind: filter`: samples stay that the rules, the current model's attention and a judge of labels let pass.

SE-GUI's self-evolution (arXiv 2505.12370) filters by attention between two rounds. It trains nothing: the samples it
keeps are a data set in `data/`, which a later stage reads with `data: {kept: true}`. What was measured of each stands
in `measured-RANK.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from attention.reading import MAP, AttentionReader, StepLog
from attention.specification import AttentionSpec, HeadConfig
from credit.policy import LookedAtPolicy
from data_prep.curate.rules import CurationLimits, attends, check_geometry, check_instruction, spoken
from data_prep.pipeline.conversion import Rejected
from grounding.errors import UsageError
from grounding.geometry import at_least
from grounding.journal import read_journals
from grounding.sample import regions_of
from models.loading import load_processor
from models.prompting import encode, prompt_text
from recipes.data import TAUGHT, build_dataset, stored
from recipes.dry_run import check_prompts, describe_drawing
from recipes.episodes import columns_of, messages_of
from recipes.loops.drawing import DrawingStage, at_least_one, score, unique_ids, visit
from recipes.loops.kept import write_kept
from recipes.runner import on_main, this_process
from recipes.stage import STAGES
from recipes.training import build_toolbox, load_for

MEASURED = "measured-*.jsonl"
LIMITS = CurationLimits()


@dataclass
class FilterConfig:
    """Which samples stay; what is left at its default off is not measured.

    Attributes:
        rules: whether `python -m data_prep curate`'s rules on boxes and instructions hold.
        min_side, max_area, min_words, max_words: of those rules, as its options.
        attention: whether the model that answers has to look at the target; of samples with one image and a place.
        min_peak: of the attention inside the target, with the highest of the image at 1; the mean inside also has to
            exceed the image's.
        min_reward: the weighted sum of the stage's `rewards` that the sample's own target has to reach as an answer,
            where there are any: a judge of labels, or a scorer of boxes. With `tools` that is an episode, of the
            sample's turns and its target.
        batch_size: samples measured at once.
        max_completion_length: tokens of the answer whose attention is read.
    """

    rules: bool = field(default=True)
    min_side: float = field(default=LIMITS.min_side)
    max_area: float = field(default=LIMITS.max_area)
    min_words: int = field(default=LIMITS.min_words)
    max_words: int = field(default=LIMITS.max_words)
    attention: bool = field(default=False)
    min_peak: float = field(default=0.2)
    min_reward: float = field(default=1.0)
    batch_size: int = field(default=8)
    max_completion_length: int = field(default=256)

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_completion_length"):
            at_least_one(name, getattr(self, name))

    num_generations = 1  # not keys: the answer whose attention is read

    @property
    def generation_batch_size(self) -> int:
        return self.batch_size

    @property
    def limits(self) -> CurationLimits:
        return CurationLimits(self.min_side, self.max_area, min_words=self.min_words, max_words=self.max_words)


@STAGES.register("filter")
class FilterStage(DrawingStage):
    """Keeps samples by rules, attention and rewards of their targets; `args` are the keys of `FilterConfig`."""

    args_type = FilterConfig
    sections = frozenset({"data", "rewards", "tools"})
    needs = frozenset({"data"})
    trains = False
    keeps = True
    rejudged = frozenset({"rules", "min_side", "max_area", "min_words", "max_words", "min_peak", "min_reward"})

    def arguments(self) -> FilterConfig:
        try:
            args = FilterConfig(**self.job.spec.args)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{self.job.where}.args: {error}") from error
        if not (args.rules or args.attention or self.job.spec.rewards):
            raise UsageError(
                f"{self.job.where}: nothing is filtered by; set args.rules or attention, or give rewards"
            )
        return args

    def rewards(self) -> list[Any]:
        return super().rewards() if self.job.spec.rewards else []

    def check(self) -> None:
        args = self.arguments()
        self.rewards()
        if args.attention and self.job.spec.tools is not None:
            where = f"{self.job.where}.args.attention"
            raise UsageError(f"{where}: is read of answers of one turn; remove it, or the tools")
        check_prompts(self.job, supervised=bool(self.job.spec.rewards))
        spec = self.job.recipe.model
        processor = load_processor(spec.path, trust_remote_code=spec.trust_remote_code)
        if args.attention and not hasattr(processor.image_processor, "merge_size"):
            raise UsageError(
                f"{self.job.where}.args.attention: is read of Qwen-VL's image tokens only; remove the key"
            )

    def describe(self) -> list[tuple[str, str]]:
        args = self.arguments()
        by = ["rules"] * args.rules + ["attention"] * args.attention
        by += [f"{spec.display} of the target" for spec in self.job.spec.rewards]
        return [*describe_drawing(self.job, args, self.rewards()), ("filters by", ", ".join(by))]

    def run(self) -> None:
        args = self.arguments()
        if args.attention or self.job.spec.rewards:
            self.measure(args)
        on_main(lambda: self.keep(args))

    def measure(self, args: FilterConfig) -> None:
        """Write what the model's attention and the rewards say of every sample of this process's share."""
        job, rewards = self.job, self.rewards()
        model, processor = load_for(job, path=job.draws_with, shares=False)
        toolbox = build_toolbox(job, processor)
        given = {"with_completion": bool(rewards), "toolbox": toolbox}
        dataset = build_dataset(job.spec.data, job.recipe.model, processor, **given)
        weights = [reward.spec.weight for reward in rewards]
        device = this_process().device
        if args.attention:
            policy = LookedAtPolicy(model.to(device).eval(), processor, job.recipe.model.profile)
            spec = AttentionSpec(layers="middle", heads=HeadConfig(image_share=1.0))
            reader = AttentionReader(policy.model, spec, MAP, StepLog("attention"))

        def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = [{} for _ in rows]
            for own, row in zip(found, rows, strict=True):
                if rewards and toolbox is not None:
                    episode = row[TAUGHT].episode
                    (own["score"],) = score(rewards, weights, row, [messages_of(episode)], [columns_of(episode)])
                elif rewards:
                    (own["score"],) = score(rewards, weights, row, [row["completion"][0]["content"]])
            seen = [at for at, row in enumerate(rows) if len(row["images"]) == 1 and regions_of(row["sample"].target)]
            if args.attention and seen:
                texts = [prompt_text(processor, rows[at]["prompt"]) for at in seen]
                inputs = dict(encode(processor, texts, [rows[at]["images"] for at in seen]).to(device))
                samples = [rows[at]["sample"] for at in seen]
                scores = policy.target_scores(reader, inputs, samples, args.max_completion_length)
                for at, own in zip(seen, scores, strict=True):
                    found[at] |= own
            return found

        visit(job, dataset, args.batch_size, measured, pattern=MEASURED, title="samples measured")

    def keep(self, args: FilterConfig) -> None:
        """Choose by what was measured. Raises `FoveaError` where nothing stays."""
        measured = {row["id"]: row for row in read_journals(self.job.folder, MEASURED)}
        samples = stored(self.job.spec.data)
        kept: dict[str, dict[str, Any]] = {}
        dropped: Counter[str] = Counter()
        for index, name in enumerate(unique_ids(samples)):
            row = measured.get(name, {})
            reason = self._reason(samples[index][0], row, args)
            if reason is not None:
                dropped[reason] += 1
            else:
                kept[name] = {key: row[key] for key in ("peak", "score") if key in row}
        write_kept(self.job, kept, dropped, "set its args otherwise: the same command then chooses again")

    def _reason(self, sample: Any, row: dict[str, Any], args: FilterConfig) -> str | None:
        """Why a sample goes; None where it stays."""
        if args.rules:
            try:
                check_geometry(sample, args.limits)
                check_instruction(spoken(sample), args.limits)
            except Rejected as error:
                return error.reason
        if args.attention:
            if "peak" not in row:
                return "no attention to read"
            if not attends(row, args.min_peak):
                return "attention elsewhere"
        if self.job.spec.rewards and row.get("score") is None:
            return "without a score"
        if self.job.spec.rewards and not at_least(row["score"], args.min_reward):
            return "target scored too low"
        return None
