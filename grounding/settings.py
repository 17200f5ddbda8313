"""Sections of a configuration as frozen pydantic models, whose errors are one line that names the key and the fix.

    class DataSpec(Section):
        path: tuple[str, ...] = Field(description="files or folders")
        limit: Whole | None = Field(None, ge=1, description="at most so many samples")

    DataSpec.from_mapping({"pth": "x"}, "data")     # UsageError: data: unknown key 'pth'; did you mean 'path'?

A key's default, range and meaning are given in its `Field` alone; `key_table` writes the documentation from there.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from grounding.errors import FoveaError, UsageError
from grounding.registry import nearest


def refuse(value: object, needed: str) -> PydanticCustomError:
    """For a validator to raise: ``KEY is VALUE, must be NEEDED``."""
    return PydanticCustomError("refused", "is {value}, must be {needed}", {"value": repr(value), "needed": needed})


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, got {value!r}")
    return value


def _two(value: Any) -> Any:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"two numbers are needed, got {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Two = Annotated[tuple[Number, Number], BeforeValidator(_two)]


class Section(BaseModel):
    """Base of the sections. A key that is null takes its default, unless null is a value of its own for it.

    Attributes:
        renamed: former names of keys, for the message: old -> new.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, ser_json_inf_nan="constants")
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        known = cls.model_fields
        for key, value in content.items():
            if key in cls.renamed and value not in (None, []):  # it said nothing
                raise ValueError(f"key {key!r} is now called {cls.renamed[key]!r}")
            if key not in known and key not in cls.renamed:
                raise ValueError(unknown_key(key, known))
        return {k: v for k, v in content.items() if k in known and (v is not None or _takes_null(known[k]))}

    @classmethod
    def from_mapping(cls, content: Any, where: str) -> Self:
        """Read a section.

        Args:
            content: plain mappings and lists, as YAML gives them.
            where: the section's dotted path, to begin an error with; with ":" at its end, a file's name.

        Raises:
            UsageError: an unknown, renamed or missing key, or a value of the wrong type or out of range.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UsageError(one_line(error, where)) from error


def unknown_key(key: object, known: Iterable[str]) -> str:
    """What to say of it, with the nearest key that is known."""
    return f"unknown key {key!r}{nearest(str(key), list(known))}"


def check_keys(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise `UsageError` at the first key that is not known: of mappings that belong to other libraries."""
    for key in content:
        if key not in known:
            raise UsageError(f"{where}: {unknown_key(key, known)}")


def named_key(error: FoveaError) -> ValueError:
    """An error of ours as one that a validator may raise, so that it gets the path of its key."""
    return ValueError(str(error))


def one_line(error: ValidationError, where: str) -> str:
    """The first thing that is wrong, as ``path.to.key: what is needed``."""
    first = error.errors(include_url=False)[0]
    # Pydantic adds the names of types to the path where there are several to choose from
    parts = [str(part) for part in first["loc"] if isinstance(part, int) or re.fullmatch(r"[\w-]+", part)]
    inside = ".".join(parts)
    between = "" if not (where and inside) else " " if where.endswith(":") else "."
    path = f"{where}{between}{inside}"
    text = " ".join(_message(first["type"], first["input"], first.get("ctx", {}), first["msg"]).split())
    joined = text.startswith("is ") or path.endswith(":")
    return f"{path} {text}" if joined else f"{path}: {text}"


# What a value has to be, by pydantic's name of the error
_NEEDED = {
    "int": "a whole number", "float": "a finite number", "finite": "a finite number", "bool": "true or false",
    "string": "a text", "dict": "a mapping", "mapping": "a mapping", "model": "a mapping", "tuple": "a list",
    "list": "a list",
}  # fmt: skip
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _message(kind: str, value: Any, context: Mapping[str, Any], text: str) -> str:
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        return f"is {value!r}{nearest(str(value), known)}"
    if kind == "too_short":
        return "a list of at least one entry is needed"
    for limit, words in _LIMITS.items():
        if limit in context:
            return f"is {value!r}, must be {words} {context[limit]:g}"
    needed = _NEEDED.get(kind.partition("_")[0])
    if needed is None:
        return text
    got = type(value).__name__ if needed in ("a mapping", "a list") and not isinstance(value, str) else repr(value)
    return f"{needed} is needed, got {got}"


def _takes_null(field: FieldInfo) -> bool:
    return field.annotation in (Any, type(None)) or type(None) in typing.get_args(field.annotation)


def key_table(section: type[Section]) -> str:
    """The keys of a section as a Markdown table: default, values allowed, meaning."""
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for name, field in section.model_fields.items():
        if field.exclude and not field.description:
            continue
        cells = (f"`{name}`", _default(field), _values(field), (field.description or "").replace("|", r"\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return "see below"
    plain = list(value) if isinstance(value, tuple) else value
    words = {None: "null", True: "true", False: "false", "": '""'}
    return f"`{words[plain] if isinstance(plain, (str, bool, type(None))) and plain in words else plain}`"


def _values(field: FieldInfo) -> str:
    limits = [
        f"{words} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, words in _LIMITS.items()
        if isinstance(getattr(limit, name, None), (int, float))
    ]
    return ", ".join([*_choices(field.annotation), *limits])


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [f"`{value}`" for value in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for part in typing.get_args(annotation) for choice in _choices(part)]
    return []
