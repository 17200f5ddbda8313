"""The processes of a run: one of them is the main process, which alone reads and writes what belongs to all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from grounding.errors import FoveaError, UsageError

T = TypeVar("T")


def this_process() -> PartialState:
    """This process among those that `accelerate launch` started, on GPUs or, where there are none, on CPUs."""
    return PartialState(cpu=not torch.cuda.is_available())


def on_main(action: Callable[[], T]) -> T:
    """What `action` returned on the main process, on every process. A collective call.

    Raises:
        FoveaError: what it raised there, on every process.
    """
    process = this_process()
    outcome: list = [None, None, 0]
    if process.is_main_process:
        try:
            outcome[0] = action()
        except FoveaError as error:
            outcome[1:] = str(error), error.exit_code
    if process.num_processes > 1:
        broadcast_object_list(outcome)
    value, message, code = outcome
    if message is not None:
        raise UsageError(message) if code == UsageError.exit_code else FoveaError(message)
    return value
