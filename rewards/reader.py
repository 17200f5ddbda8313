"""From what TRL hands a reward function to parsed answers: once per completion, however many rewards look at it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from grounding.answer import Answer, ImageSize
from grounding.completion import Grammar, check_grammar
from grounding.dialects import Dialect, get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.sample import Sample, from_row

Message: TypeAlias = Mapping[str, Any]
Completion: TypeAlias = str | Sequence[Message]

CACHE = 16_384  # entries; several times the completions of one step, a few tens of MB


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
    """Parses completions and sample rows, and remembers both by their content.

    Args:
        dialect: the coordinate dialect the policy answers in, or its name.
        grammar: what stands around the answer, see `grounding.completion`.
        expect: what the prompt asked for (``"box"``, ``"point"``, ...) where the rows have no column `expect`.
    """

    def __init__(self, dialect: str | Dialect, grammar: Grammar = "think", expect: str | None = None):
        self._given = dialect
        self.dialect = get_dialect(dialect) if isinstance(dialect, str) else dialect
        self.grammar = check_grammar(grammar)
        self.expect = expect
        self._answers: dict[tuple[str, str, str | None], Answer] = {}
        self._samples: dict[str, Sample] = {}
        self._sizes: dict[str, tuple[ImageSize, ...]] = {}

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        """As it was made, without what it remembers: reward functions travel to worker processes."""
        return Reader, (self._given, self.grammar, self.expect)

    def read(self, completions: Sequence[Completion], columns: Mapping[str, Any]) -> list[Rollout]:
        """Read a batch.

        Args:
            completions: N texts or message lists.
            columns: TRL's keyword columns, N values each: `sample` (JSON of `grounding.sample.to_row`), `sizes`
                (JSON, ``[[width, height, input_width, input_height], ...]`` per image), `expect` where they differ;
                `answers` where whoever ran the episodes has read them already (`tools.episode`).

        Raises:
            UsageError: a column is missing.
            BrokenRow: a row's sample or sizes cannot be read.
        """
        rows = required_column(columns, "sample")
        sizes = required_column(columns, "sizes")
        expects = columns.get("expect") or [None] * len(completions)
        answers = columns.get("answers") or [None] * len(completions)
        return [
            self._rollout(completion, row, size, expect, answer)
            for completion, row, size, expect, answer in zip(completions, rows, sizes, expects, answers, strict=True)
        ]

    def _rollout(
        self, completion: Completion, row: str, size: str, expect: str | None, answer: Answer | None
    ) -> Rollout:
        sample = self._samples.get(row) or self._read_sample(row)
        sizes = self._sizes.get(size) or self._read_sizes(size, sample)
        if len(sizes) != len(sample.images):
            raise BrokenRow(
                f"sample {sample.id!r}", f"{len(sizes)} entries in column 'sizes', {len(sample.images)} images"
            )
        expect = expect or self.expect
        text = completion if isinstance(completion, str) else last_turn(completion)
        if answer is not None:
            return Rollout(answer, sample, text, sizes, completion)
        key = (text, size, expect)
        answer = self._answers.get(key)
        if answer is None:
            answer = self.dialect.parse(text, sizes, grammar=self.grammar, answer_kind=expect)
            remember(self._answers, key, answer)
        return Rollout(answer, sample, text, sizes, completion)

    def _read_sample(self, row: str) -> Sample:
        try:
            fields = json.loads(row)
        except (TypeError, ValueError, RecursionError) as error:
            raise BrokenRow(
                "column 'sample'", f"not the JSON text of a sample ({error}): {str(row)[:80]!r}"
            ) from error
        if not isinstance(fields, dict):
            raise BrokenRow("column 'sample'", f"a JSON object is needed, got {str(row)[:80]!r}")
        sample = from_row(fields, where=f"sample {fields.get('id')!r}")
        remember(self._samples, row, sample)
        return sample

    def _read_sizes(self, size: str, sample: Sample) -> tuple[ImageSize, ...]:
        try:
            sizes = tuple(ImageSize(*item) for item in json.loads(size))
        except (TypeError, ValueError, RecursionError) as error:
            raise BrokenRow(
                f"sample {sample.id!r}", f"column 'sizes' is not [[w, h, seen_w, seen_h], ...]: {error}"
            ) from error
        remember(self._sizes, size, sizes)
        return sizes


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


def remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Add to a cache that is emptied when full: a step's completions come together and never return later."""
    if len(cache) >= CACHE:
        cache.clear()
    cache[key] = value
