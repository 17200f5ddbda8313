"""Data of the recipes whose rewards need other targets than boxes, made by their own sources."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_prep.__main__ import main

# recipe: the source of its data, with flags that make little of it
EVIDENCE = {"chart_evidence": ("charts", "--train-charts", "4", "--val-charts", "0", "--test-charts", "0")}


def make_evidence(folder: Path, name: str) -> Path:
    """A data set of a recipe of EVIDENCE, each split the same."""
    source, *flags = EVIDENCE[name]
    assert main([source, "--out", str(folder), *flags]) == 0
    for split in ("val", "test"):
        shutil.copy(folder / "train.jsonl", folder / f"{split}.jsonl")
    return folder
