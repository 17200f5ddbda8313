"""A teacher behind an OpenAI-compatible endpoint: in parallel, rate-limited, every reply kept, every token counted.

Replies are kept in an SQLite file, so that a run that is killed asks nothing twice, and a second run asks nothing.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_prep.pipeline.conversion import Rejected
from grounding.completion import END_THINK, split_completion
from grounding.errors import UsageError
from grounding.redact import redact
from models.chat_client import Client, EndpointError, RepliesFile, RequestLimits, key_from

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How to ask.

    Attributes:
        url: up to and including the version, for instance ``http://localhost:8000/v1``.
        model: its name there.
        limits: how patiently and how often.
        key_variable: environment variable with the key; empty for none.
        max_tokens, temperature: as the endpoint understands them.
        prices: money for a million tokens read, and written.
    """

    url: str
    model: str
    limits: RequestLimits
    key_variable: str = ""
    max_tokens: int = 512
    temperature: float = 0.7
    prices: tuple[float, float] = (0.0, 0.0)


class Teacher:
    """Asks for thoughts.

    Args:
        settings: how.
        cache: the SQLite file that keeps replies; made when missing.

    Raises:
        UsageError: no such address, or the key's variable is not set.
    """

    def __init__(self, settings: Settings, cache: Path):
        s = self.settings = settings
        if not s.url.startswith(("http://", "https://")):
            raise UsageError(f"--teacher {redact(s.url)} is not an address; give http(s)://host:port/v1")
        key_from(s.key_variable)
        self._replies = RepliesFile(cache)
        self.client = Client(s.url, s.limits, key_variable=s.key_variable, replies=self._replies)

    def close(self) -> None:
        self._replies.close()

    def ask(self, messages: list[dict[str, Any]], number: int = 0) -> str:
        """The reply to a conversation, without the teacher's own thought; from the cache if it was given before.

        Args:
            number: tells several replies to the same conversation apart; sent as the seed.

        Raises:
            Rejected: "teacher failed" when every attempt did, or the reply ended within the teacher's own thought.
            EndpointError: asking again cannot help (wrong key, unknown model).
        """
        s = self.settings
        body = {"model": s.model, "messages": messages, "max_tokens": s.max_tokens, "temperature": s.temperature,
                "seed": number}  # fmt: skip
        try:
            said = self.client.ask(body, usable=lambda text: bool(text and text.strip())).texts[0]
        except EndpointError as error:
            if error.permanent:
                raise
            raise Rejected("teacher failed", str(error)) from None
        if not split_completion(said)[3]:
            raise Rejected(
                "teacher failed", f"was still thinking after {s.max_tokens} tokens; give --max-tokens more"
            )
        return said.rpartition(END_THINK)[2]

    def cost(self) -> dict[str, float]:
        """Everything in the cache: replies, tokens in and out, money at the prices given."""
        count, given, taken = self._replies.totals()
        money = (given * self.settings.prices[0] + taken * self.settings.prices[1]) / 1e6
        return {"replies": count, "input_tokens": given, "output_tokens": taken, "cost": round(money, 6)}


def data_url(content: bytes, suffix: str) -> str:
    """An image as the endpoint takes it."""
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".gif": "gif"}.get(suffix.lower(), "png")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def in_order(work: Callable[[T], Any], items: Iterable[T], parallel: int) -> Iterator[tuple[T, Any]]:
    """(item, work(item)) in the order of the items, `parallel` at a time and no more than twice that ahead.

    What `work` raises is raised here, for the item it belongs to.
    """
    waiting: deque[tuple[T, Future[Any]]] = deque()
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= 2 * parallel:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
