"""Reading a pickle of plain data without running anything in it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from grounding.errors import UsageError

_PLAIN = {
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("builtins", "frozenset"),
    ("__builtin__", "frozenset"),
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows lists, dicts, numbers, strings and sets; asks for anything else are refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, plain data does not")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it refers to something outside ({pid!r})")


def load_plain(path: Path) -> Any:
    """The content of a pickle (of Python 2 or 3) that consists of plain data.

    The whole content is in memory: the 50,000 references of RefCOCO take about 150 MB.

    Raises:
        UsageError: the file is damaged, or asks for anything but plain data (nothing of it has run then).
    """
    try:
        with path.open("rb") as stream:
            return _PlainUnpickler(stream, encoding="utf-8", errors="surrogateescape").load()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except Exception as error:
        raise UsageError(f"{path} is not a pickle of plain data: {error}") from error
