"""Data of the recipes whose rewards need other targets than boxes, made by their own sources."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_prep.__main__ import main

# recipe: the source of its data, with flags that make little of it
EVIDENCE = {
    name: (source, *(f"--{split}-{noun}={count * (split == 'train')}" for split in ("train", "val", "test")), *flags)
    for name, source, noun, count, flags in (
        ("chart_evidence", "charts", "charts", 4, ()),
        ("multi_image_rl", "screen_pairs", "screens", 32, ()),
        ("absence", "screens", "screens", 32, ("--difficulty", "5")),
    )
}


def make_evidence(folder: Path, name: str) -> Path:
    """A data set of a recipe of EVIDENCE, each split the same."""
    source, *flags = EVIDENCE[name]
    assert main([source, "--out", str(folder), *flags]) == 0
    for split in ("val", "test"):
        shutil.copy(folder / "train.jsonl", folder / f"{split}.jsonl")
    return folder
