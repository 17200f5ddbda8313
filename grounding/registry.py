"""Find a thing by its short name, by import path, or by the file it is in.

A package that offers things by name owns one `Registry`. Its modules add to it with a decorator. They are imported
the first time a name is looked up, those of subpackages too, so a new file is enough to add an entry:

    REWARDS = Registry("reward", package="rewards")

    @REWARDS.register("iou")
    def iou(answer, sample): ...

    REWARDS.get("iou")                  # ours
    REWARDS.get("my_pkg.my_reward")     # anybody's, imported
    REWARDS.get("my_pkg.sub:my_reward") # the same, with the module marked
    REWARDS.get("my/file.py:my_reward") # of a file, which needs no package
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from grounding.errors import UsageError

T = TypeVar("T")

_FEW = 60  # names that can still be read through


def nearest(name: str, known: list[str]) -> str:
    """`"; did you mean 'x'?"` for a known name that `name` is a typo of, else the list of what exists (if short)."""
    plain = re.sub(r"[.\s-]", "_", name.lower())
    for candidate in difflib.get_close_matches(plain, known, n=3, cutoff=0.6):
        changes = difflib.SequenceMatcher(None, plain, candidate).get_opcodes()
        edits = sum(max(b - a, d - c) for change, a, b, c, d in changes if change != "equal")
        if edits <= max(2, len(plain) // 4) or plain.startswith(candidate) or candidate.startswith(plain):
            return f"; did you mean {candidate!r}?"
    return f"; known: {', '.join(sorted(known))}" if len(known) <= _FEW else ""


class Registry(Generic[T]):
    """Entries of one kind by name.

    Args:
        kind: what an entry is called in messages, for instance ``"reward"``.
        package: dotted name of the package whose modules register entries; imported on first look-up.
        skip: dotted names, within `package`, of subpackages and modules that register nothing and are not imported.
            Names that begin with an underscore never are.
    """

    def __init__(self, kind: str, package: str, *, skip: Collection[str] = ()):
        self.kind = kind
        self._package = package
        self._skip = {f"{package}.{name}" for name in skip}
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry. Raises ValueError when the name is taken by something else."""

        def add(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """The entry called `name`; a dotted name that is not ours is imported, and so is a file.

        Raises:
            UsageError: no such entry (with the nearest name); the import path does not resolve, or leads into the
                standard library; the file is not there, cannot be run, or has no such name.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        file, _, attribute = name.rpartition(":")
        if file.endswith(".py"):
            return self._of_file(file, attribute)
        if "." in name or ":" in name:
            return self._import(name)
        raise UsageError(f"unknown {self.kind} {name!r}{nearest(name, list(self._entries))}")

    def user_file(self, name: str) -> Path | None:
        """The file that the user's own entry stands in; None for ours and for those of installed libraries."""
        self._load()
        if name in self._entries or not ("." in name or ":" in name):
            return None
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.get(name)))  # type: ignore[arg-type]
        except TypeError:  # an object that no file is known of
            return None
        path = None if file is None else Path(file)
        return None if path is None or "site-packages" in path.parts or not path.is_file() else path

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._load()
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # first: a module may look a name up while it is being imported
        self._import_modules(self._package)

    def _import_modules(self, package: str) -> None:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if module.name in self._skip or module.name.rpartition(".")[2].startswith("_"):
                continue
            if module.ispkg:
                self._import_modules(module.name)
            else:
                importlib.import_module(module.name)

    def _of_file(self, file: str, attribute: str) -> T:
        module = _run_file(Path(file), f"{self.kind} {file}:{attribute}")
        found: T | None = getattr(module, attribute, None)
        if found is None:
            names = [name for name in vars(module) if not name.startswith("_")]
            raise UsageError(f"{self.kind} {file}: has no {attribute!r}{nearest(attribute, names)}")
        return found

    def _import(self, path: str) -> T:
        module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
        refusal = f"{self.kind} {path!r} is a part of Python's standard library, which has no {self.kind}s"
        if _of_python(module_name):
            raise UsageError(refusal)
        try:
            found: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            hint = nearest(path, list(self._entries))
            if "did you mean" in hint:  # a slip of a name of ours, like qwen2.5
                raise UsageError(f"unknown {self.kind} {path!r}{hint}") from error
            raise UsageError(f"{self.kind} {path!r} cannot be imported: {error}") from error
        if (inspect.isroutine(found) or inspect.isclass(found)) and _of_python(found.__module__ or ""):
            raise UsageError(refusal)
        return found


def _run_file(file: Path, where: str) -> ModuleType:
    """The module that a file is; run once a process, also where several names of it are asked for."""
    if not file.is_file():
        raise UsageError(f"{where}: no such file")
    name = f"file_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{where}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class up by its module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(error, file)
        raise UsageError(f"{where}: line {line}: {type(error).__name__}: {error}") from error
    return module


def _line_in(error: Exception, file: Path) -> int | str:
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or "?" for frame in reversed(frames) if frame.filename == str(file)), "?")


def _of_python(module: str) -> bool:
    """Whether a module belongs to the interpreter: naming `subprocess.run` as a reward is refused."""
    return module.partition(".")[0] in sys.stdlib_module_names
