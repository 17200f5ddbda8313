"""The two ways a Fovea command fails, and the exit code of each.

Both carry one line for the user that names the file, row or key, and says the fix.
Entry points catch `FoveaError`, print that line to stderr and exit with `exit_code`.
"""

from __future__ import annotations


class FoveaError(Exception):
    """Something failed while running (a full disk, a corrupt image, a dead endpoint): exit code 1."""

    exit_code = 1


class UsageError(FoveaError):
    """A usage error (an unknown key, a missing file): exit code 2."""

    exit_code = 2


class BrokenRow(FoveaError):
    """A row of a data set is unusable. It must never count as a wrong answer.

    Attributes:
        where: what locates the row, for instance ``"train.jsonl:17"`` or a sample id.
        reason: what is wrong with it.
    """

    def __init__(self, where: str, reason: str):
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason

    # Exceptions of two arguments do not survive a worker process otherwise
    def __reduce__(self) -> tuple[type[BrokenRow], tuple[str, str]]:
        return type(self), (self.where, self.reason)
