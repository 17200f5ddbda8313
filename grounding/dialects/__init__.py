"""How each model family writes coordinates: one `Dialect` per family, found by name.

    dialect = get_dialect("qwen3_vl")
    text = dialect.render(sample.target, sizes)                # the family's own words for the answer
    answer = dialect.parse(completion, sizes, answer_kind="box")    # back to canonical coordinates, never raises

A family's file registers its dialects; a new file in this package is enough to add one, and a dialect of your own is
found by import path ("my_package.my_module:MyDialect").
"""

from __future__ import annotations

from grounding.dialects.base import Dialect
from grounding.errors import UsageError
from grounding.registry import Registry

DIALECTS: Registry[Dialect] = Registry("dialect", "grounding.dialects")


def get_dialect(name: str) -> Dialect:
    """The dialect called `name`, or found at that import path (an instance, or a class without arguments).

    Raises:
        UsageError: there is none, or what is found is not a dialect.
    """
    entry: object = DIALECTS.get(name)
    if isinstance(entry, type) and issubclass(entry, Dialect):
        entry = entry()  # its name is then that of the class
    if not isinstance(entry, Dialect):
        raise UsageError(f"dialect {name!r} is a {type(entry).__name__}, not a grounding.dialects.base.Dialect")
    return entry


__all__ = ["DIALECTS", "Dialect", "get_dialect"]
