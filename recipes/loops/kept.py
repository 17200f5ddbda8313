"""The data set that a stage keeps for those after it: `data/` in its folder, rows and images, and `kept.json`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from grounding.errors import FoveaError
from grounding.folders import rebuilding
from grounding.io import replacing, write_samples
from grounding.sample import Sample
from recipes.data import stored
from recipes.loops.drawing import unique_ids
from recipes.stage import Job

FACTS = "kept.json"
KIND = "set of kept samples"


def write_kept(job: Job, kept: Mapping[str, Mapping[str, Any]], dropped: Mapping[str, int], hint: str) -> None:
    """Write the samples a stage keeps, in the order of its data, and how many it dropped and why.

    The folder is complete before anything of it takes its place, and holds on to files that are not ours. Images are
    hard links where the file system has them.

    Args:
        job: of the stage.
        kept: id, as of `unique_ids`, -> what joins the sample's meta.
        dropped: reason -> number of samples.
        hint: what to change when nothing is kept.

    Raises:
        FoveaError: nothing is kept, or the folder cannot be written.
        UsageError: a file of somebody else's is in the way.
    """
    samples = stored(job.spec.data)
    told = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
    if not kept:
        raise FoveaError(f"{job.where}: keeps none of {len(samples)} samples ({told}); {hint}")
    with rebuilding(job.folder / "data", KIND) as folder:
        count = write_samples(folder / "train.jsonl", _rows(job, kept, folder))
    with replacing(job.folder / FACTS) as file:
        facts = {"samples": len(samples), "kept": count, "dropped": dict(dropped)}
        file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _rows(job: Job, kept: Mapping[str, Mapping[str, Any]], folder: Path) -> Iterator[Sample]:
    """The kept samples; what their prompts ask for, and images of several data sets, stay told apart."""
    samples = stored(job.spec.data)
    roots: list[Path] = []
    for index, name in enumerate(unique_ids(samples)):
        if name not in kept:
            continue
        sample, answer_kind, root = samples[index]
        if root not in roots:
            roots.append(root)
        prefix = f"{roots.index(root)}/" if len(samples.files) > 1 else ""
        images = tuple(replace(image, path=prefix + image.path) for image in sample.images)
        for old, new in zip(sample.images, images, strict=True):
            _link(root / old.path, folder / new.path)
        yield replace(sample, id=name, images=images, meta={**sample.meta, "ask": answer_kind, **kept[name]})


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another file system, or one without hard links
        os.link(source.resolve(), target)
        return
    shutil.copyfile(source, target)
