"""What the user is told when a run fails: one line and an exit code for the failures that are not our bugs.

Nothing heavy is imported here: a wrong key is told before torch would be there.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from pathlib import Path

from grounding.errors import FoveaError, UsageError
from models.find import find_model

WORKER = "Caught "  # how torch begins the message of an exception that crossed from a data worker
DISK_FULL = ("no space left on device", "disk quota exceeded")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def explain(error: BaseException) -> tuple[str | None, int]:
    """The line for stderr and the exit code; (None, 1) for a bug of ours, which deserves its traceback."""
    if isinstance(error, FoveaError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from the last checkpoint", FoveaError.exit_code
    text = str(error)
    if is_disk_full(error):
        name = getattr(error, "filename", None)
        where = f" ({name})" if name else ""
        return f"the disk is full{where}; free some space, then the same command goes on", FoveaError.exit_code
    if isinstance(error, RuntimeError) and text.startswith(WORKER):
        return _from_worker(text)
    if isinstance(error, (RuntimeError, MemoryError)) and any(phrase in text.lower() for phrase in OUT_OF_MEMORY):
        first = text.strip().split("\n", maxsplit=1)[0]
        return (
            f"out of memory ({first[:120]}); lower per_device_train_batch_size or model.max_pixels, "
            "or turn gradient_checkpointing on",
            FoveaError.exit_code,
        )
    return None, FoveaError.exit_code


def speaks_for_all(error: BaseException) -> bool:
    """Whether this process should print the error: of what every process finds wrong, one line is enough."""
    if not isinstance(error, (UsageError, KeyboardInterrupt)):
        return True
    if "accelerate" not in sys.modules:
        return is_first()
    from recipes.runner import this_process  # noqa: PLC0415

    return this_process().is_main_process


def is_first() -> bool:
    """Whether this is the first process that a launcher started, before torch is there to ask."""
    return os.environ.get("RANK", "0") == "0"


def check_model(path: str) -> None:
    """Look for a recipe's model before torch is imported, once for all processes.

    Raises:
        UsageError: there is no such folder, and no such model on the Hub or in its cache.
    """
    if is_first() and not Path(path).is_absolute() and not Path(path).is_dir():
        _find(path)


@functools.cache  # asked before torch is there, and by whoever runs a recipe; what is found is not asked for again
def _find(path: str) -> None:
    find_model(path, "model.path")  # at once, where the Hub's client tries for a minute


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk; libraries that write wrap it in their own types."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(phrase in str(seen).lower() for phrase in DISK_FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _from_worker(text: str) -> tuple[str | None, int]:
    """The last line of a data worker's traceback when it is one of our errors: ``module.BrokenRow: where: why``."""
    last = text.strip().splitlines()[-1]
    kind, _, message = last.partition(": ")
    if kind.endswith(("BrokenRow", "FoveaError")):
        return message, FoveaError.exit_code
    if kind.endswith("UsageError"):
        return message, UsageError.exit_code
    return None, FoveaError.exit_code
