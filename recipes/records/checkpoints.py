"""Which checkpoint of a stage to go on from: the newest one that is whole."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

log = logging.getLogger("fovea")

STATE = "trainer_state.json"  # transformers writes it last, so a killed process leaves a folder without it
ZIPPED = (".pt", ".pth", ".bin")  # as torch.save writes them
PICKLED_BY_TRANSFORMERS = "training_args.bin"  # not read again


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    found = {
        int(match[1]): path
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name))
    }
    return [found[step] for step in sorted(found, reverse=True)]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; a newer one that is damaged is named in the log."""
    for path in checkpoints(folder):
        damage = next(damages(path), None)
        if damage is None:
            return path
        if (path / STATE).exists():
            log.warning("%s is damaged (%s); an older one is taken, if there is one", path, damage)
    return None


def damages(checkpoint: Path) -> Iterator[str]:
    """What is missing from a checkpoint, or cut off; nothing when it is whole."""
    state = state_of(checkpoint)
    if not state:
        yield f"{STATE} is missing or not whole"
        return
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        name = path.relative_to(checkpoint).as_posix()
        try:
            if path.suffix == ".safetensors":
                safe_open(path, framework="pt")
            elif path.suffix in ZIPPED and path.name != PICKLED_BY_TRANSFORMERS:
                zipfile.ZipFile(path).close()
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
        except (SafetensorError, zipfile.BadZipFile, ValueError, OSError) as error:
            yield f"{name} cannot be read ({' '.join(str(error).split())})"
    if any(checkpoint.glob("optimizer*")) or any(checkpoint.glob("global_step*")):
        processes = processes_of(state)
        expected = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
        yield from (f"{name} is missing" for name in expected if not (checkpoint / name).exists())


def processes_of(state: dict[str, Any]) -> int:
    """How many processes wrote a checkpoint, from its trainer's state; 1 where it does not say."""
    own = state.get("stateful_callbacks", {}).get("StageState", {})
    return own.get("attributes", {}).get("processes", 1) if isinstance(own, dict) else 1


def sweep(folder: Path, keep: Path | None) -> None:
    """Remove what a killed process left half-written, and put damaged checkpoints newer than `keep` aside."""
    for path in checkpoints(folder):
        if path == keep:
            return
        if state_of(path):
            aside = folder / f"damaged-{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        else:
            shutil.rmtree(path)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state in a checkpoint; empty when it is not whole."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and {"global_step", "max_steps"} <= state.keys() else {}
