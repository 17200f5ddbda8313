"""What all commands have in common: errors of one line, help that tells every default, lists in one form."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from grounding.errors import FoveaError, UsageError

PREFIX = "error: "


class SeveralValues(argparse.Action):
    """`action="several"`: values in a row, and the flag may be given again; the first one replaces the default."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any):
        super().__init__(option_strings, dest, **{"nargs": "+", **more})

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


class CommandParser(argparse.ArgumentParser):
    """Wrong usage is a `UsageError`; every option's help ends with its default in brackets."""

    def __init__(self, **how: Any):
        if "\n" in (how.get("description") or ""):
            how.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**how)
        self.register("action", "several", SeveralValues)

    def error(self, message: str) -> Any:
        raise UsageError(message)

    def format_help(self) -> str:
        for action in self._actions:
            told = _default(action)
            if told and not (action.help or "").rstrip().endswith(")"):
                action.help = f"{action.help or ''} ({told.replace('%', '%%')})".strip()
        return super().format_help()


def _default(action: argparse.Action) -> str:
    value = action.default
    if value is None or isinstance(value, bool) or value in ("", [], (), {}, argparse.SUPPRESS):
        return ""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def run_command(command: Callable[[], int | None], *, resumes: bool = False) -> int:
    """Run what a command line asks for; returns the exit code.

    Args:
        resumes: the same command goes on where it was interrupted.
    """
    try:
        return command() or 0
    except FoveaError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted" + ("; run the same command again to go on" if resumes else ""))
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FoveaError.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        return fail(f"{error.filename}: {error.strerror or error}")


def fail(message: str, code: int = FoveaError.exit_code) -> int:
    """Print the line that every failing command ends with, and return the exit code."""
    sys.stderr.write(f"{PREFIX}{message}\n")
    return code
