"""One lenient, linear-time reader of the structures models write: numbers in brackets, under keys, in anything.

`scan` takes any string: prose, code fences, several or nested or truncated JSON values, Python literals. It keeps a
stack instead of recursing, looks at each character a bounded number of times (quantifiers are possessive, a string
that is never closed is consumed to the end of its line), and never raises. A string may go on over several lines if
what follows its closing quote is what follows a value in JSON. It says what stands where, not what it means: dialects
decide.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

MAX_PLACES = 1000  # more come only from a model in a loop, and would be slow to read
NUMBER = r"[-+]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?+[0-9]++)?+"
_SPECIAL = r"[-+]?+(?:[nN]a[nN]|inf(?:inity)?|Infinity)\b"
_NUMBERS = rf"{NUMBER}(?:\s*+,\s*+{NUMBER})*+"
_LEAF = rf"\[\s*+{_NUMBERS}\s*+\]|\(\s*+{NUMBER}(?:\s*+,\s*+{NUMBER})++\s*+\)"
_DOUBLE = r'"(?:[^"\\\n]|\\.)*+'
_SINGLE = r"'(?:[^'\\\n]|\\.)*+"
_CURLY = "“[^”\n]*+"
_STOP = r"(?=\n)|\\?+\Z"  # where a string that is never closed ends

_OUTSIDE = re.compile(rf"""(?P<leaf>{_LEAF})|(?P<key>["'][A-Za-z_]\w*+["']\s*+:)|(?P<open>[\[{{])""")
_INSIDE = re.compile(
    rf"""(?P<leaf>{_LEAF})
    |(?P<key>(?:{_DOUBLE}"|{_SINGLE}'|{_CURLY}”|[A-Za-z_]\w*+)\s*+[:=])
    |(?P<string>{_DOUBLE}(?:"|{_STOP})|{_SINGLE}(?:'|{_STOP})|{_CURLY}(?:”|{_STOP}))
    |(?P<number>{NUMBER}|{_SPECIAL})
    |(?P<open>[\[{{])
    |(?P<close>[\]}}])
    |(?P<comma>,)
    |(?P<word>[^\W\d][\w']*+)
    |(?P<blank>\s++)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER_TOKEN = re.compile(rf"{NUMBER}|{_SPECIAL}")
_AFTER_STRING = re.compile(r"\s*+(?:[,:}\]]|\Z)")
_CLOSES = {'"': re.compile(r'(?:[^"\\]|\\.)*+"', re.DOTALL), "'": re.compile(r"(?:[^'\\]|\\.)*+'", re.DOTALL)}
_CLOSES["“"] = re.compile(r"[^”]*+”")
_ARGUMENT = r"'(?:[^'\\]|\\.|'(?!\s*+[,)]))*+'|\"(?:[^\"\\]|\\.|\"(?!\s*+[,)]))*+\""
_TYPED = re.compile(
    r"\b(?:type|type_text|typewrite|input|input_text|write|press|press_key|hotkey|key|keydown|keyup|finished|answer"
    r"|open_app|response)\(\s*+(?:\w++\s*+=\s*+)?+"
    rf"(?:{_ARGUMENT}|['\"][^\n]*+)|\b(?:TYPE|OPEN_APP|SCROLL)\s*+\[[^\]\n]*+\]?+"
    rf"|\b(?:content|text|message|keys?)\s*+=\s*+(?:{_ARGUMENT})",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED_NUMBERS = re.compile(rf"\s*+[\[(]?+\s*+(?:{_NUMBERS}|{_SPECIAL})\s*+[\])]?+\s*+")


@dataclass(frozen=True, slots=True)
class Group:
    """Numbers that stand together in one pair of brackets.

    Attributes:
        numbers: in order; may hold NaN and infinities.
        start, end: the range of the bracket in the text.
        whole: closed, and nothing but numbers and commas inside.
        key: the key it (or a list around it) stands under, lower case; None without one.
        owner: the object it belongs to, an index into `Scan.objects`; -1 without one.
        parent: the list it stands in; -1 without one. Groups of one list share it.
        quoted: it stands in a string, so it may be words.
    """

    numbers: tuple[float, ...]
    start: int
    end: int
    whole: bool
    key: str | None
    owner: int
    parent: int
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object stands: its key, the object and the list around it, as in `Group`."""

    key: str | None
    owner: int
    parent: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value of an object that is not a list: its source text, unquoted, and where it stands (without quotes).

    A string of several numbers ("numbers") is a group as well.
    """

    kind: Literal["string", "numbers", "number", "word"]
    text: str
    start: int
    end: int


@dataclass(slots=True)
class Scan:
    """What `scan` found.

    Attributes:
        groups: in the order of the text.
        objects: scalar values by object and lower-case key, for objects that have any; the first of a key counts.
        places: where every object stands.
        cut: there are more than `MAX_PLACES` groups, and reading stopped there.
    """

    groups: list[Group] = field(default_factory=list)
    objects: dict[int, dict[str, Scalar]] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    cut: bool = False


@dataclass(slots=True)
class _Frame:
    """An open bracket."""

    brace: bool
    start: int
    index: int
    key: str | None
    owner: int
    pending: str | None = None  # the key a value is awaited for
    numbers: list[float] = field(default_factory=list)
    clean: bool = True
    last: str = "open"
    last_end: int = -1
    children: bool = False


class _ToAscii(dict[int, str]):
    """A table for str.translate that fills itself: decimal digits of any script and typographic signs to ASCII."""

    def __missing__(self, code: int) -> str:
        digit = unicodedata.decimal(chr(code), None)
        self[code] = chr(code) if digit is None else str(digit)
        return self[code]


_TO_ASCII = _ToAscii({0xFF01 + k: chr(0x21 + k) for k in range(94) if chr(0x21 + k) in "()+,-./:;<=>[]{}"})
_TO_ASCII |= {0x2212: "-", 0x3001: ",", 0x3000: " ", 0x3010: "[", 0x3011: "]"}


def normalize(text: str) -> str:
    """`text` with digits of any script and full-width punctuation in ASCII; every character stays in its place."""
    return text if text.isascii() else text.translate(_TO_ASCII)


def without_typed(text: str) -> str:
    """`text` with what an action types, presses or reports blanked out; every other character in its place.

    ``type(content='(555, 123)')`` names no place.
    """
    return _TYPED.sub(lambda match: " " * len(match.group()), text) if "(" in text else text


def numbers_in(text: str) -> tuple[float, ...]:
    """Every number in `text`, in order."""
    return tuple(float(number) for number in _NUMBER_TOKEN.findall(text))


def unquote(source: str) -> str:
    """The string a JSON literal without its quotes stands for; `source` itself where it is not proper JSON."""
    if "\\" not in source:
        return source
    try:
        value = json.loads(f'"{source}"', strict=False)  # models write line ends and tabs as they are
    except ValueError:
        return source
    return value if isinstance(value, str) else source


def scan(text: str) -> Scan:
    """Read `text`, which `normalize` has been through."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str):
        self.text = text
        self.result = Scan()
        self.stack: list[_Frame] = []
        self.open_count = {True: 0, False: 0}  # by _Frame.brace: is there anything a closing bracket could close?
        self.frames = 0
        self.loose_key: tuple[str, int] | None = None  # a key outside of any bracket, and where it ends
        self.closing: dict[str, tuple[int, int | None]] = {}  # see `_string_end`

    def run(self) -> Scan:
        text, position, size = self.text, 0, len(self.text)
        while position < size:
            if len(self.result.groups) > MAX_PLACES:
                self.result.cut = True
                break
            match = _INSIDE.match(text, position) if self.stack else _OUTSIDE.search(text, position)
            if match is None:
                break
            kind, end = match.lastgroup, match.end()
            if kind == "string":
                end = self._string_end(match)
            if kind == "leaf":
                self._leaf(match)
            elif kind == "open":
                self._open(match)
            elif kind == "close":
                self._close(match)
            elif kind == "key":
                self._key(match)
            elif kind != "blank":
                self._inside(kind, text[match.start() : end], match.start(), end)
            position = end
        while self.stack:
            self._pop(size, whole=False)
        self.result.groups.sort(key=lambda group: group.start)
        return self.result

    def _string_end(self, match: re.Match[str]) -> int:
        """Where a string ends: at its closing quote, even lines away, if a value could end there; else with its line.

        `closing` keeps by quote how far the last search went, and the end it found. Before that end lie only escaped
        quotes, so that it holds for every string that starts there, and each character is looked at once.
        """
        text, begin, end = self.text, match.start() + 1, match.end()
        quote = text[match.start()]
        if _is_closed(match.group()):
            return end
        if quote not in self.closing or self.closing[quote][0] <= begin:
            closes = _CLOSES[quote].match(text, begin)
            found = closes.end() if closes and _AFTER_STRING.match(text, closes.end()) else None
            self.closing[quote] = (closes.end() if closes else len(text) + 1, found)
        return self.closing[quote][1] or end

    def _context(self, start: int) -> tuple[str | None, int, int]:
        """Key, owner and parent of a value that begins here; it takes the awaited key."""
        if self.stack:
            top = self.stack[-1]
            top.children = True
            top.last = "value"
            if top.brace:
                key, top.pending = top.pending, None
                return key or top.key, top.owner, -1
            return top.key, top.owner, top.index
        loose, self.loose_key = self.loose_key, None
        if loose and not self.text[loose[1] : start].strip():
            return loose[0], -1, -1
        return None, -1, -1

    def _leaf(self, match: re.Match[str]) -> None:
        key, owner, parent = self._context(match.start())
        numbers = tuple(float(part) for part in match.group()[1:-1].split(","))
        self.result.groups.append(Group(numbers, match.start(), match.end(), True, key, owner, parent))

    def _open(self, match: re.Match[str]) -> None:
        brace = match.group() == "{"
        key, owner, parent = self._context(match.start())
        index = self.frames
        self.frames += 1
        self.open_count[brace] += 1
        if brace:
            self.result.places[index] = Place(key, owner, parent)
        self.stack.append(_Frame(brace, match.start(), index, key, index if brace else owner))

    def _close(self, match: re.Match[str]) -> None:
        brace = match.group() == "}"
        if not self.open_count[brace]:
            return
        while self.stack[-1].brace is not brace:
            self._pop(match.start(), whole=False)
        self._pop(match.end(), whole=True)

    def _pop(self, end: int, *, whole: bool) -> None:
        frame = self.stack.pop()
        self.open_count[frame.brace] -= 1
        if frame.brace or (frame.children and not frame.numbers):
            return
        parent = self.stack[-1].index if self.stack and not self.stack[-1].brace else -1
        whole = whole and frame.clean and not frame.children
        self.result.groups.append(
            Group(tuple(frame.numbers), frame.start, end, whole, frame.key, frame.owner, parent)
        )

    def _key(self, match: re.Match[str]) -> None:
        name = match.group().rstrip(":= \t\r\n").strip("\"'“”").lower().replace("-", "_").replace(" ", "_")
        if not self.stack:
            self.loose_key = (name, match.end())
        elif self.stack[-1].brace:
            self.stack[-1].pending = name
        else:
            self.stack[-1].clean = False

    def _inside(self, kind: str | None, source: str, start: int, end: int) -> None:
        top = self.stack[-1]
        if kind == "comma":
            if top.last in ("comma", "open"):
                top.clean = False
            top.last = "comma"
            if top.brace:
                top.pending = None
        elif top.brace:
            if top.pending is not None and kind in ("string", "number", "word"):
                self._field(kind, source, start, end)
        elif kind == "number":
            top.clean = top.clean and not (top.last == "number" and top.last_end == start)
            top.numbers.append(float(source))
            top.last, top.last_end = "number", end
        elif kind == "string" and _QUOTED_NUMBERS.fullmatch(source.strip("\"'“”")):
            numbers = numbers_in(source)
            if len(numbers) > 1:  # several numbers are a list of their own, one is an element of the list it is in
                self._quoted(numbers, start, end)
            else:
                top.numbers.append(numbers[0])
                top.last, top.last_end = "number", end
        else:
            top.clean = False

    def _quoted(self, numbers: tuple[float, ...], start: int, end: int) -> None:
        key, owner, parent = self._context(start)
        self.result.groups.append(Group(numbers, start, end, True, key, owner, parent, quoted=True))

    def _field(self, kind: str, source: str, start: int, end: int) -> None:
        top = self.stack[-1]
        key = top.pending or ""
        if kind == "string":
            inner = source[1:-1] if _is_closed(source) else source[1:]
            numbers = "," in inner and _QUOTED_NUMBERS.fullmatch(inner)
            scalar = Scalar("numbers" if numbers else "string", inner, start + 1, start + 1 + len(inner))
            if numbers:
                self._quoted(numbers_in(inner), start, end)
        else:
            scalar = Scalar("number" if kind == "number" else "word", source, start, end)
        top.pending, top.last = None, "value"
        self.result.objects.setdefault(top.owner, {}).setdefault(key, scalar)


def _is_closed(string: str) -> bool:
    """Whether the source of a string ends in its closing quote."""
    if len(string) < 2 or string[-1] != ("”" if string[0] == "“" else string[0]):
        return False
    escapes = len(string) - 1 - len(string[:-1].rstrip("\\"))
    return string[0] == "“" or escapes % 2 == 0
