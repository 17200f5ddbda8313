"""Ask a model every question of a benchmark: batched, bucketed by size, and resumable at the item.

Outputs are appended to `generations.jsonl` batch by batch. Batches are planned from all items and do not depend
on what is already there, so a run that was killed continues with the same batches and seeds and ends with the
same file as a run that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from benchmarks.harness.items import Item
from grounding.errors import FoveaError, UsageError
from grounding.io import open_image
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
    """

    text: str
    seen: tuple[tuple[int, int], ...] = ()
    cost: dict[str, int] = field(default_factory=dict)


class Backend(Protocol):
    """Something that answers requests: a local model, vLLM, an endpoint, or an inference-time method around one."""

    name: str

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[Output]]:
        """For each request its `decoding.rollouts` outputs."""


@dataclass(frozen=True, slots=True)
class Gaze:
    """Attention of the last token of a prompt on the request's images.

    Attributes:
        heads: (K, V) attention of K heads on V image tokens, image by image in reading order, float64.
        sinks: (V,) bool, tokens that draw attention whatever is asked.
        grids: (rows, columns) of image tokens per image; their products add up to V.
        seen, cost: as in `Output`.
    """

    heads: np.ndarray
    sinks: np.ndarray
    grids: tuple[tuple[int, int], ...]
    seen: tuple[tuple[int, int], ...]
    cost: dict[str, int]


@runtime_checkable
class Sighted(Backend, Protocol):
    """A backend whose attention can be read and changed: a model on this machine."""

    def gaze(self, requests: Sequence[Request], opening: str) -> list[Gaze]:
        """For each request, where the model looks after its prompt and `opening`, the first words of the answer."""

    def redistribution(self) -> AbstractContextManager[None]:
        """Within it, `generate` runs with attention redistributed from visual sinks."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An output with the item it belongs to; a line of `generations.jsonl`."""

    id: str
    rollout: int
    output: str
    seen: tuple[tuple[int, int], ...]
    cost: dict[str, int]


def plan(items: Sequence[Item], batch_size: int, batch_tokens: int) -> list[list[Item]]:
    """Batches of items of similar length, at most `batch_size` items and about `batch_tokens` prompt tokens each."""
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: needs at least 1")

    def length(item: Item) -> int:
        return sum(p.width * p.height for p in item.images) // _PATCH_AREA + len(item.instruction) // 4

    batches: list[list[Item]] = []
    longest = 0
    for item in sorted(items, key=lambda i: (-length(i), i.id)):
        longest = max(longest, length(item))
        if not batches or len(batches[-1]) == batch_size or longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = length(item)
        batches[-1].append(item)
    return batches


def load_images(item: Item, root: Path) -> tuple[Image.Image, ...]:
    """The item's images, checked against the sizes the item states.

    Raises:
        BrokenRow: an image is missing, corrupt, or of another size.
    """
    return tuple(open_image(root, ImageRef(p.path, p.width, p.height)) for p in item.images)


def generate(
    backend: Backend,
    items: Sequence[Item],
    root: Path,
    text_of: Callable[[Item], str],
    *,
    decoding: Decoding,
    file: Path,
    batch_size: int = 16,
    batch_tokens: int = 65536,
    settings: dict[str, Any] | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[Sequence[Item], Sequence[Generated]], None] = lambda items, generated: None,
) -> None:
    """Answer every item, appending to `file`; what the file already holds is not asked again.

    Args:
        root: folder the image paths are relative to.
        text_of: the user's text for an item.
        settings: whatever decides the answers (model, prompts, ...); resuming with others is refused.
        share: (index, of how many) processes; batches are dealt out in turn.
        progress: called after each batch (and for finished ones), with its items and outputs.

    Raises:
        UsageError: `file` was written with other settings.
        FoveaError: the disk is full.
    """
    batches = plan(items, batch_size, batch_tokens)
    header = {
        "decoding": asdict(decoding),
        "batch": [batch_size, batch_tokens, share[1]],
        "questions": _digest([(i.id, text_of(i), [p.path for p in i.images]) for i in items]),
        **(settings or {}),
    }
    done = _resume(file, header)
    for index, batch in enumerate(batches):
        if index % share[1] != share[0]:
            continue
        held = [done.get((item.id, r)) for item in batch for r in range(decoding.rollouts)]
        lines = [line for line in held if line is not None]
        if len(lines) < len(held):
            requests = [Request(text_of(item), load_images(item, root)) for item in batch]
            answers = backend.generate(requests, decoding, decoding.seed + index)
            lines = [
                Generated(item.id, rollout, output.text, output.seen, output.cost)
                for item, outputs in zip(batch, answers, strict=True)
                for rollout, output in enumerate(outputs)
            ]
            _append(file, [line for line in lines if (line.id, line.rollout) not in done])
        progress(batch, lines)


def read_generations(folder: Path, processes: int = 1) -> dict[tuple[str, int], Generated]:
    """Everything that `processes` processes generated into `folder`, by (id, rollout)."""
    return {
        (line.id, line.rollout): line
        for file in (generations_file(folder, (index, processes)) for index in range(processes))
        if file.is_file()
        for line in _lines(file)[1].values()
    }


def generations_file(folder: Path, share: tuple[int, int] = (0, 1)) -> Path:
    """Where a process keeps its outputs."""
    return folder / ("generations.jsonl" if share[1] == 1 else f"generations-{share[0]}-of-{share[1]}.jsonl")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def _lines(file: Path) -> tuple[dict[str, Any] | None, dict[tuple[str, int], Generated], int]:
    """Header, outputs, and the number of bytes that are whole lines (a killed writer may leave a part of one)."""
    whole = 0
    header: dict[str, Any] | None = None
    lines: dict[tuple[str, int], Generated] = {}
    with file.open("rb") as stream:
        for raw in stream:
            if not raw.endswith(b"\n"):
                break
            try:
                row = json.loads(raw)
            except ValueError:
                break
            whole += len(raw)
            if header is None:
                header = row
                continue
            seen = tuple((w, h) for w, h in row["seen"])
            lines[row["id"], row["rollout"]] = Generated(row["id"], row["rollout"], row["output"], seen, row["cost"])
    return header, lines, whole


def _resume(file: Path, header: dict[str, Any]) -> dict[tuple[str, int], Generated]:
    file.parent.mkdir(parents=True, exist_ok=True)
    header = json.loads(json.dumps(header))
    if file.is_file():
        found, lines, whole = _lines(file)
        if found is not None:
            changed = [key for key in sorted({*found, *header}) if found.get(key) != header.get(key)]
            if changed:
                raise UsageError(
                    f"{file}: was generated with another {', '.join(changed)}; use another --out or say --restart"
                )
            if whole < file.stat().st_size:
                with file.open("r+b") as stream:
                    stream.truncate(whole)
            return lines
    file.write_text(json.dumps(header, ensure_ascii=False) + "\n", encoding="utf-8")
    return {}


def _append(file: Path, lines: Sequence[Generated]) -> None:
    text = "".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines)
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise FoveaError(f"{file}: cannot write: {error.strerror or error}; free some space and run again") from error
