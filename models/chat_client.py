"""Client for OpenAI-compatible chat endpoints: deadline, retries, rate limits, cache and token counts.

Judged rewards, the teacher of `data_prep cot` and `eval.py --endpoint` use it. The key goes into the request's header
only, never into the cache, an error or a log. The same holds for a user name and password in the address.

Why not a library: openai's client and httpx limit neither the time of a whole attempt nor the size of a reply, and
openai's pauses between retries cannot be set. Why not diskcache: it unpickles what it finds in its folder, and its
SQLite file cannot be shared by several machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import requests
import urllib3

from grounding.completion import END_THINK, THINK
from grounding.errors import FoveaError, UsageError
from grounding.io import replacing
from grounding.redact import redact

T = TypeVar("T")

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses worth another try
LARGEST = 4 << 20  # bytes of a reply, as sent and unpacked
_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationParseError,
    UnicodeError,
    OverflowError,  # of the port
)
LONGEST_PAUSE = 60.0  # seconds, also for a server that asks for more


class EndpointError(FoveaError):
    """The endpoint gave no usable answer.

    Attributes:
        permanent: asking again cannot help (wrong key, unknown model, no such address).
        pause: seconds that the server asked to wait (Retry-After).
        status: of HTTP; 0 when no response came or it was none.
    """

    def __init__(self, message: str, permanent: bool = False, pause: float = 0.0, status: int = 0):
        super().__init__(message)
        self.permanent = permanent
        self.pause = pause
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Timeout, retries and rate limits.

    Attributes:
        timeout: seconds for one attempt from first to last byte.
        retries: attempts after the first.
        backoff: seconds before the first retry, doubled each time, with up to as much again at random.
        parallel: requests under way at once, whatever the number of threads.
        per_minute: requests started in a minute at most; 0 for no limit.
    """

    timeout: float = 120.0
    retries: int = 4
    backoff: float = 1.0
    parallel: int = 16
    per_minute: int = 0


@dataclass(slots=True)
class Spent:
    """Requests and tokens of a client.

    Attributes:
        asked: replies that came from the server.
        kept: replies that were in the cache.
        input_tokens, output_tokens: what the server says it read and wrote.
    """

    asked: int = 0
    kept: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def cost(self, input_price: float, output_price: float) -> float:
        """Money, at prices for a million tokens."""
        return (self.input_tokens * input_price + self.output_tokens * output_price) / 1e6


def key_from(variable: str) -> str:
    """The key in an environment variable; "" when no variable is named.

    Raises:
        UsageError: the variable is not set, or holds what is no key.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "")
    if not key:
        raise UsageError(f"environment variable {variable}, named for the endpoint's key, is not set")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"environment variable {variable} holds something else than a key")
    return key


def _has_text(text: str | None) -> bool:
    return text is not None


class Client:
    """Asks one endpoint; may be shared between threads.

    Args:
        url: up to and including the version, for instance ``http://localhost:8000/v1``.
        limits: how patiently and how often.
        key_variable: environment variable with the key, read when it is needed; empty for none.
        key: the key itself, for a caller that has it.
        replies: cache of replies; the same request is then not sent twice.

    Attributes:
        spent: requests and tokens since this client was made.
    """

    def __init__(
        self,
        url: str,
        limits: RequestLimits,
        *,
        key_variable: str = "",
        key: str = "",
        replies: Replies | None = None,
    ):
        if limits.retries < 0:
            raise UsageError(f"retries is {limits.retries}, must not be negative")
        self.spent = Spent()
        self._where = f"{url.rstrip('/')}/chat/completions"
        self._shown = redact(self._where)
        self._limits = limits
        self._key_variable = key_variable
        self._key = key
        self._replies = replies
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(limits.parallel)
        self._started: deque[float] = deque()

    def ask(self, body: dict[str, Any], usable: Callable[[str | None], bool] = _has_text) -> Reply:
        """The reply to a chat completion, from the cache when it was given before.

        Args:
            body: the request, as the protocol has it. The cache goes by it alone, not by the address.
            usable: whether a text (None: the server sent null) is an answer, or a failure to be tried again.

        Raises:
            UsageError: the key's variable is not set.
            EndpointError: every attempt failed.
        """
        name = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        kept = self._replies.get(name) if self._replies else None
        if kept is not None:
            with self._lock:
                self.spent.kept += 1
            return kept
        reply = self._ask(body, usable)
        with self._lock:
            self.spent.asked += 1
            self.spent.input_tokens += reply.input_tokens
            self.spent.output_tokens += reply.output_tokens
        if self._replies:
            self._replies.put(name, reply)
        return reply

    def _ask(self, body: dict[str, Any], usable: Callable[[str | None], bool]) -> Reply:
        key = self._key or key_from(self._key_variable)
        pause, attempt = self._limits.backoff, 0
        while True:
            self.wait_for_slot()
            try:
                with self._room:
                    content = self._attempt(body, key)
                return _read(content, usable, self._shown)
            except EndpointError as error:
                if error.permanent or attempt == self._limits.retries:
                    raise
                time.sleep(min(LONGEST_PAUSE, max(error.pause, pause * (1 + random.random()))))
            pause, attempt = 2 * pause, attempt + 1

    def wait_for_slot(self) -> None:
        """Sleep until fewer than `per_minute` requests were started in the last minute, and start one."""
        limit = self._limits.per_minute
        while limit:
            with self._lock:
                now = time.monotonic()
                while self._started and now - self._started[0] >= 60:
                    self._started.popleft()
                if len(self._started) < limit:
                    self._started.append(now)
                    return
                pause = 60 - (now - self._started[0])
            time.sleep(max(0.01, pause))

    def _attempt(self, body: dict[str, Any], key: str) -> bytes:
        try:
            return within(self._limits.timeout, lambda: self._post(body, key))
        except TimeoutError:
            raise EndpointError(
                f"{self._shown}: no complete reply within {self._limits.timeout:g} s; allow more time"
            ) from None

    def _post(self, body: dict[str, Any], key: str) -> bytes:
        timeout = self._limits.timeout

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {key}"
            return request

        deadline = time.monotonic() + timeout
        try:
            with requests.post(
                self._where,
                json=body,
                headers={"Accept-Encoding": "gzip"},
                auth=sign if key else None,  # a header alone would give way to the address's user or to ~/.netrc
                timeout=timeout,
                stream=True,
                allow_redirects=False,
            ) as response:
                content = _receive(response, deadline, self._shown)
        except _NO_ADDRESS:
            message = f"{self._shown} is not an address; give http(s)://host:port/v1"
            raise EndpointError(message, permanent=True) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise EndpointError(f"{self._shown}: {type(error).__name__}") from None  # its text may hold the request
        if response.status_code != requests.codes.ok:
            text = content.decode("utf-8", "replace")
            excerpt = redact(" ".join((text.replace(key, "***") if key else text).split()))[:200]
            permanent = response.status_code not in PASSING
            pause = _seconds(response.headers.get("Retry-After", ""))
            message = f"{self._shown}: HTTP {response.status_code} {excerpt}"
            raise EndpointError(message, permanent, pause, response.status_code)
        return content


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, run in a thread that is abandoned after `seconds`.

    A socket timeout does not end a server that sends its headers byte by byte, or a slow name lookup.

    Raises:
        TimeoutError: it took longer.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again for the caller
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def _receive(response: requests.Response, deadline: float, where: str) -> bytes:
    """The body. Raises EndpointError if it is too large, compressed or not, or comes too late."""
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", "deflate", ""):
        raise EndpointError(f"{where}: the reply is packed with {packing[:20]!r}, which was not asked for")
    content = bytearray()
    while chunk := response.raw.read1(8192):  # what is there, without waiting for 8192 bytes
        content += chunk
        if time.monotonic() > deadline:
            raise EndpointError(f"{where}: no complete reply in time; allow more than the timeout")
        if len(content) > LARGEST:
            break
    if packing in ("gzip", "deflate"):
        try:
            # One byte more than may be there shows that there is more
            content = bytearray(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, LARGEST + 1))
        except zlib.error:
            raise EndpointError(f"{where}: the reply cannot be unpacked") from None
    if len(content) > LARGEST:
        raise EndpointError(f"{where}: the reply is longer than {LARGEST} bytes")
    return bytes(content)


def _read(content: bytes, usable: Callable[[str | None], bool], where: str) -> Reply:
    try:
        answer = json.loads(content)
        texts = [_said(choice["message"]) for choice in answer["choices"]]
        usage = answer.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise EndpointError(f"{where}: the reply is not a chat completion") from None
    if not texts or not all(usable(text) for text in texts):
        raise EndpointError(f"{where}: the reply has no text")
    given, taken = (_tokens(usage, f"{kind}_tokens") for kind in ("prompt", "completion"))
    return Reply(tuple(text or "" for text in texts), given, taken)


def _said(message: dict[str, Any]) -> str | None:
    """A message as the model wrote it: a thought that the server took out stands before the content again.

    Servers give it as `reasoning_content` (transformers serve, SGLang, older vLLM) or `reasoning` (vLLM). Without
    content the model never came to an answer, so the thought stays open.
    """
    content = message.get("content")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if not all(text is None or isinstance(text, str) for text in (content, thought or None)):
        raise TypeError("content and reasoning are texts")
    if thought and not (content and (THINK in content or END_THINK in content)):
        content = f"{THINK}{thought}{END_THINK}\n{content}" if content else f"{THINK}{thought}"
    # A lone surrogate could be kept in no file
    return None if content is None else content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _tokens(usage: Any, name: str) -> int:
    """A count the server states; 0 for none, or for what cannot be one."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return int(count) if isinstance(count, int | float) and 0 <= count < 2**53 else 0


def _seconds(header: str) -> float:
    """A Retry-After header in seconds; 0 for none or a date."""
    return float(header) if header.isascii() and header.isdigit() and len(header) < 7 else 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's answer.

    Attributes:
        texts: one for each choice; "" where the server sent none.
        input_tokens, output_tokens: what the server says it read and wrote; 0 when it does not say.
    """

    texts: tuple[str, ...]
    input_tokens: int = 0
    output_tokens: int = 0


class Replies(Protocol):
    """A cache of replies with one choice, by the hash of their request."""

    def get(self, name: str) -> Reply | None: ...

    def put(self, name: str, reply: Reply) -> None: ...


class RepliesFolder:
    """One small file for each reply, for several processes and shared disks. Corrupt entries are cache misses.

    Args:
        folder: made when the first reply comes.
        purpose: what an error calls it.
    """

    def __init__(self, folder: Path, purpose: str):
        self._folder = folder
        self._purpose = purpose

    def _file(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.json"

    def get(self, name: str) -> Reply | None:
        try:
            row = json.loads(self._file(name).read_text(encoding="utf-8"))
            text, given, taken = row["reply"], int(row.get("input", 0)), int(row.get("output", 0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Reply((text,), given, taken) if isinstance(text, str) else None

    def put(self, name: str, reply: Reply) -> None:
        (text,) = reply.texts
        row = {"reply": text, "input": reply.input_tokens, "output": reply.output_tokens}
        path = self._file(name)
        try:
            with replacing(path) as part:
                part.write_text(json.dumps(row), encoding="utf-8")
        except FoveaError as error:
            raise FoveaError(f"{self._purpose} {error}; free space or name another folder") from error


class RepliesFile:
    """One SQLite file, for very many replies and the threads of one process.

    Raises:
        FoveaError: the file is something else, or cannot be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store = sqlite3.connect(path, check_same_thread=False, timeout=60)
            tables = {name for (name,) in self._store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables <= {"replies"}:
                raise FoveaError(f"{path}: holds something else than replies; name another file")
            self._store.execute("PRAGMA journal_mode=WAL")
            self._store.execute(
                "CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT, input INT, output INT)"
            )
        except sqlite3.Error as error:
            raise FoveaError(f"{path}: {error}; move it away to start with an empty cache") from error

    def get(self, name: str) -> Reply | None:
        with self._lock:
            row = self._store.execute(
                "SELECT reply, input, output FROM replies WHERE request = ?", (name,)
            ).fetchone()
        return None if row is None else Reply((str(row[0]),), row[1], row[2])

    def put(self, name: str, reply: Reply) -> None:
        (text,) = reply.texts
        try:
            with self._lock, self._store:
                self._store.execute(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                    (name, text, reply.input_tokens, reply.output_tokens),
                )
        except sqlite3.Error as error:
            raise FoveaError(f"{self._path}: {error}; nothing is lost, run the same command again") from error

    def totals(self) -> tuple[int, int, int]:
        """How many replies there are, and their tokens read and written."""
        with self._lock:
            count, given, taken = self._store.execute(
                "SELECT COUNT(*), COALESCE(SUM(input), 0), COALESCE(SUM(output), 0) FROM replies"
            ).fetchone()
        return int(count), int(given), int(taken)

    def close(self) -> None:
        self._store.close()
