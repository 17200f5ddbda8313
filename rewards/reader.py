"""From what TRL hands a reward function to parsed answers with their samples, groups, columns and step.

A completion is parsed once, however many rewards look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from grounding.answer import Answer, ImageSize
from grounding.completion import Grammar, check_grammar
from grounding.dialects import Dialect, get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.sample import Sample
from rewards import Reward

Message: TypeAlias = Mapping[str, Any]
Completion: TypeAlias = str | Sequence[Message]

CACHE = 16_384  # answers; several times the completions of one step, a few tens of MB


class Rollout(NamedTuple):
    """One completion, read; a tuple, because every reward makes one of every completion.

    Attributes:
        answer: what the completion's last assistant turn says.
        sample: what was asked.
        text: that last turn.
        sizes: of the sample's images, as the model saw them.
        completion: the completion as TRL gave it: text, or the list of messages with tool calls and results.
    """

    answer: Answer
    sample: Sample
    text: str
    sizes: tuple[ImageSize, ...]
    completion: Completion


class Reader:
    """Parses completions, and remembers their answers.

    Args:
        dialect: the coordinate dialect the policy answers in, or its name.
        grammar: the completion format, see `grounding.completion`.
        answer_kind: what the prompt asked for (``"box"``, ``"point"``, ...) where the rows have no such column.
    """

    def __init__(self, dialect: str | Dialect, grammar: Grammar = "think", answer_kind: str | None = None):
        self._given = dialect
        self.dialect = get_dialect(dialect) if isinstance(dialect, str) else dialect
        self.grammar = check_grammar(grammar)
        self.answer_kind = answer_kind
        self._answers: dict[tuple[str, int], Answer] = {}
        self._ways: list[tuple[tuple[ImageSize, ...], str | None]] = []  # sizes and kinds of answer there were
        self._numbers: dict[tuple[tuple[ImageSize, ...], str | None], int] = {}

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        """As it was made, without what it remembers: reward functions travel to worker processes."""
        return Reader, (self._given, self.grammar, self.answer_kind)

    def read(self, completions: Sequence[Completion], columns: Mapping[str, Any]) -> list[Rollout]:
        """Read a batch.

        Args:
            completions: N texts or message lists.
            columns: TRL's keyword columns, N values each: `sample` (`Sample`), `sizes` (tuple of `ImageSize`, one per
                image), `answer_kind` where they differ; `answers` where whoever ran the episodes has read them
                already (`tools.episode`).

        Raises:
            UsageError: a column is missing.
            BrokenRow: a row's sample or sizes are not what they should be.
        """
        samples, sizes = required_column(columns, "sample"), required_column(columns, "sizes")
        kinds = columns.get("answer_kind") or [None] * len(completions)
        answers = columns.get("answers") or [None] * len(completions)
        rollouts: list[Rollout] = []
        sample = shown = kind = asked = None
        for completion, answer, *row in zip(completions, answers, samples, sizes, kinds, strict=True):
            if asked is None or row[0] is not sample or row[1] is not shown or row[2] is not kind:
                asked = self._asked(*row)  # once for the rollouts of a prompt, which share their row
                sample, shown, kind = row
            text = completion if isinstance(completion, str) else last_turn(completion)
            found = self._answer(text, asked) if answer is None else answer
            rollouts.append(Rollout(found, sample, text, shown, completion))
        return rollouts

    def _asked(self, sample: Sample, sizes: tuple[ImageSize, ...], answer_kind: str | None) -> int:
        """A number for what an answer is read with beside its text, which is quick to look up."""
        if not isinstance(sample, Sample):
            raise BrokenRow("column 'sample'", f"a grounding.sample.Sample is needed, got {sample!r:.80}")
        where = f"sample {sample.id!r}"
        if type(sizes) is not tuple or not all(isinstance(size, ImageSize) for size in sizes):
            raise BrokenRow(where, f"column 'sizes' is no tuple of grounding.answer.ImageSize: {sizes!r:.80}")
        if len(sizes) != len(sample.images):
            raise BrokenRow(where, f"{len(sizes)} entries in column 'sizes', {len(sample.images)} images")
        found = (sizes, answer_kind or self.answer_kind)
        number = self._numbers.setdefault(found, len(self._ways))
        if number == len(self._ways):
            self._ways.append(found)
        return number

    def _answer(self, text: str, asked: int) -> Answer:
        answer = self._answers.get((text, asked))
        if answer is None:
            sizes, answer_kind = self._ways[asked]
            answer = self.dialect.parse(text, sizes, grammar=self.grammar, answer_kind=answer_kind)
            if len(self._answers) >= CACHE:  # a step's completions come together and never return later
                self._answers.clear()
            self._answers[text, asked] = answer
        return answer


def required_column(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    """A column of the batch; raises UsageError naming what is there when it is missing."""
    if name not in columns:
        raise UsageError(f"rewards need a column {name!r}; the data has: {', '.join(sorted(columns)) or 'none'}")
    column: Sequence[Any] = columns[name]
    return column


def last_turn(messages: Sequence[Message]) -> str:
    """Text of the last assistant message, empty when there is none."""
    for message in reversed(messages):
        if message.get("role") == "assistant":
            return content_text(message.get("content"))
    return ""


def content_text(content: Any) -> str:
    """A message's content as text; of a list of blocks, the text blocks joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, Mapping))
    return ""


DERIVED: dict[str, Callable[[Rollout, Reader], Any]] = {
    "text": lambda rollout, reader: rollout.text,
    "sizes": lambda rollout, reader: rollout.sizes,
    "messages": lambda rollout, reader: rollout.completion,
    "places": lambda rollout, reader: reader.dialect.read_thought(rollout.answer.thought or "", rollout.sizes),
}
COLUMN = {"tokens": "completion_ids", "prompt": "prompts"}  # what a reward calls it: what TRL calls it


class RewardBatch:
    """N completions of a step: what one call of TRL brings to a reward.

    Attributes:
        prompts, completions: as TRL gives them.
        columns: everything else TRL passes, by name, `completion_ids` and `prompts` among it.
        step: the trainer's global step, 0 outside a trainer.
    """

    def __init__(
        self,
        reader: Reader,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Any],
    ):
        self.prompts = prompts
        self.completions = completions
        self.columns = {**columns, "prompts": prompts}
        self.step = int(getattr(columns.get("trainer_state"), "global_step", 0))
        self._reader = reader
        self._rollouts: list[Rollout] | None = None

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions read, on first need: TRL's own reward functions need no samples."""
        if self._rollouts is None:
            self._rollouts = self._reader.read(self.completions, self.columns)
        return self._rollouts

    @property
    def groups(self) -> list[list[int]]:
        """Positions of the answers to each prompt: neighbors with the same sample, `num_generations` at a time.

        That column comes with the batch (the trainer knows whether it trains or evaluates); without it, outside a
        trainer, all neighbors with the same sample are one group.

        Raises:
            UsageError: a trainer does not say how large its groups are, or the border of the batch cuts one.
        """
        rows = required_column(self.columns, "sample")
        runs = [list(run) for _, run in groupby(range(len(self)), key=lambda i: rows[i])]
        if "num_generations" not in self.columns:
            if "trainer_state" in self.columns:
                raise UsageError(
                    "a reward compares the answers to a prompt, but no column num_generations of the batch says how "
                    "many there are; train with recipes.grpo.FoveaGRPOTrainer, or add the column to the data"
                )
            return runs
        groups = []
        for run in runs:
            size = int(self.columns["num_generations"][run[0]])
            if len(run) % size:
                raise UsageError(
                    f"a reward compares the {size} answers to a prompt, but the batch of {len(self)} cuts a group in "
                    "two; make per_device_train_batch_size * steps_per_generation (in evaluation, "
                    "per_device_eval_batch_size) a multiple of num_generations"
                )
            groups += [run[start : start + size] for start in range(0, len(run), size)]
        return groups

    def extras(self, reward: Reward, i: int) -> dict[str, Any]:
        """The keyword arguments `reward.needs` names, for completion `i`."""
        values = {}
        for wanted in reward.needs:
            need, optional = wanted.removesuffix("?"), wanted.endswith("?")
            if need in DERIVED:
                values[need] = DERIVED[need](self.rollouts[i], self._reader)
                continue
            name = COLUMN.get(need, need)
            if name in self.columns:
                values[need] = self.columns[name][i]
            elif optional:
                values[need] = None
            else:
                known = ", ".join(sorted(self.columns))
                raise UsageError(f"reward {reward.name!r} needs a column {name!r}; the batch has: {known}")
        return values
