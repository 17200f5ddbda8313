"""Ask a model every question of a benchmark: batched, bucketed by size, and resumable at the item.

Outputs are appended to journals, `generations.jsonl` and one more for each further process. Batches are planned from
all items and do not depend on what is already there, so a run that was killed continues with the same batches and
seeds, on any number of processes, and ends with the same outputs as a run that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from attention.maps import PromptAttention
from benchmarks.harness.items import BenchmarkItem
from grounding.errors import UsageError
from grounding.fingerprint import differences, digest
from grounding.io import open_image
from grounding.journal import Journal, is_journal, read_header, read_journal
from grounding.sample import ImageRef

_PATCH_AREA = 28 * 28  # pixels per image token of the Qwen family: only used to compare lengths


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode. `samples` 0 is greedy (one answer per item); n draws n rollouts."""

    max_new_tokens: int = 512
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def rollouts(self) -> int:
        return max(1, self.samples)


@dataclass(frozen=True, slots=True)
class Request:
    """One question, ready for a model: the user's text and the images, RGB."""

    text: str
    images: tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One answer.

    Attributes:
        text: as the model wrote it, special tokens kept, end of sequence removed.
        seen: (width, height) of each image after the processor's resizing; empty when not known.
        cost: {"tokens": generated, "passes": calls of the model this answer took}.
        episode: of an answer in several turns, `turns` (what was said, called and shown) and `frame` (what the
            numbers of `text` are of: a crop; None for the whole image).
    """

    text: str
    seen: tuple[tuple[int, int], ...] = ()
    cost: dict[str, int] = field(default_factory=dict)
    episode: dict[str, Any] | None = None


class Backend(Protocol):
    """Something that answers requests: a local model, vLLM, an endpoint, or an inference-time method around one."""

    name: str

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        """For each request its `decoding.rollouts` outputs."""


@runtime_checkable
class SupportsAttention(Backend, Protocol):
    """A backend whose attention can be read and changed: a model on this machine."""

    def prompt_attention(self, requests: Sequence[Request], opening: str) -> list[PromptAttention]:
        """For each request, the attention behind its prompt and `opening`, the first words of the answer."""

    def redistribution(self) -> AbstractContextManager[None]:
        """Within it, `generate` runs with attention redistributed from visual sinks."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An output with the item it belongs to: a row of a journal, whose id is ``"ITEM#ROLLOUT"``."""

    id: str
    rollout: int
    output: str
    seen: tuple[tuple[int, int], ...]
    cost: dict[str, int]
    episode: dict[str, Any] | None = None


def plan(items: Sequence[BenchmarkItem], batch_size: int, batch_tokens: int) -> list[list[BenchmarkItem]]:
    """Batches of items of similar length, at most `batch_size` items and about `batch_tokens` prompt tokens each."""
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: needs at least 1")

    def length(item: BenchmarkItem) -> int:
        return sum(p.width * p.height for p in item.images) // _PATCH_AREA + len(item.instruction) // 4

    batches: list[list[BenchmarkItem]] = []
    longest = 0
    for item in sorted(items, key=lambda i: (-length(i), i.id)):
        longest = max(longest, length(item))
        if not batches or len(batches[-1]) == batch_size or longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = length(item)
        batches[-1].append(item)
    return batches


def load_images(item: BenchmarkItem, root: Path) -> tuple[Image.Image, ...]:
    """The item's images, checked against the sizes the item states.

    Raises:
        BrokenRow: an image is missing, corrupt, or of another size.
    """
    return tuple(open_image(root, ImageRef(p.path, p.width, p.height)) for p in item.images)


def generate(
    backend: Backend,
    items: Sequence[BenchmarkItem],
    root: Path,
    text_of: Callable[[BenchmarkItem], str],
    *,
    decoding: Decoding,
    folder: Path,
    batch_size: int = 16,
    batch_tokens: int = 65536,
    settings: Mapping[str, Any] | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[Sequence[BenchmarkItem], Sequence[Generated]], None] = lambda items, generated: None,
) -> None:
    """Answer every item, appending to this process's journal; what the folder already holds is not asked again.

    Args:
        root: folder the image paths are relative to.
        text_of: the user's text for an item.
        folder: where the journals are.
        settings: whatever else decides the answers (weights, images, ...); resuming with others is refused.
        share: (index, of how many) processes; batches are dealt out in turn.
        progress: called after each batch (and for finished ones), with its items and outputs.

    Raises:
        UsageError: the folder holds answers made with other settings; they stay.
        FoveaError: the disk is full.
    """
    header = {
        **(settings or {}),
        "decoding": asdict(decoding),
        "questions": digest([(i.id, text_of(i), [p.path for p in i.images]) for i in items]),
    }
    if decoding.samples:  # the seed belongs to the batch
        header["batch"] = [batch_size, batch_tokens]
    _check(folder, header)
    done = read_generations(folder)
    with Journal(folder / _name(share[0]), header) as journal:
        for index, batch in enumerate(plan(items, batch_size, batch_tokens)):
            if index % share[1] != share[0]:
                continue
            held = [done.get((item.id, r)) for item in batch for r in range(decoding.rollouts)]
            lines = [line for line in held if line is not None]
            if len(lines) < len(held):
                requests = [Request(text_of(item), load_images(item, root)) for item in batch]
                answers = backend.generate(requests, decoding, decoding.seed + index)
                lines = [
                    Generated(item.id, rollout, output.text, output.seen, output.cost, output.episode)
                    for item, outputs in zip(batch, answers, strict=True)
                    for rollout, output in enumerate(outputs)
                ]
                for line in lines:
                    if (line.id, line.rollout) not in done:
                        journal.append(_row(line))
            progress(batch, lines)


def read_generations(folder: Path) -> dict[tuple[str, int], Generated]:
    """Everything that was generated into `folder`, whatever the number of processes, by (id, rollout)."""
    found = {}
    for row in (row for file in _files(folder) for row in read_journal(file)):
        item, _, rollout = row["id"].rpartition("#")
        seen = tuple((w, h) for w, h in row["seen"])
        found[item, int(rollout)] = Generated(
            item, int(rollout), row["output"], seen, row["cost"], row.get("episode")
        )
    return found


def forget_generations(folder: Path) -> None:
    """Remove every answer in `folder`."""
    for file in filter(is_journal, _files(folder)):
        file.unlink()


def _files(folder: Path) -> list[Path]:
    first = folder / _name(0)
    return [*([first] if first.is_file() else []), *sorted(folder.glob("generations-[0-9]*.jsonl"))]


def _name(process: int) -> str:
    return f"generations-{process}.jsonl" if process else "generations.jsonl"


def _row(line: Generated) -> dict[str, Any]:
    row = {"id": f"{line.id}#{line.rollout}", "output": line.output, "seen": line.seen, "cost": line.cost}
    return row if line.episode is None else {**row, "episode": line.episode}


def _check(folder: Path, header: Mapping[str, Any]) -> None:
    for file in _files(folder):
        found = read_header(file)
        changed = [] if found is None else differences(found, header)
        if changed:
            raise UsageError(
                f"{file}: holds answers made with another {', '.join(changed)}; "
                "use another --out, or --restart to ask everything again"
            )
