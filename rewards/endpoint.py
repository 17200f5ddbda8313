"""The judge's endpoint as a recipe describes it: one short verdict at temperature 0, kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from grounding.errors import UsageError
from models.chat_client import Client, EndpointError, RepliesFolder, RequestLimits

__all__ = ["EndpointError", "JudgeEndpoint", "Messages"]

Messages: TypeAlias = Sequence[dict[str, str]]


@dataclass(frozen=True)
class JudgeEndpoint:
    """Where and how to ask.

    Attributes:
        url: up to and including the version, for instance ``http://localhost:8000/v1``.
        model: name of the model there.
        api_key_env: name of the environment variable that holds the key; empty for an endpoint without one.
        timeout: seconds for one attempt from first to last byte.
        retries: attempts after the first.
        backoff: seconds before the first retry, doubled each time, with up to as much again at random.
        cache: folder that keeps answers; empty for none.
        max_tokens: longest reply.
        concurrency: requests under way at once.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout: float = 30.0
    retries: int = 3
    backoff: float = 1.0
    cache: str = ""
    max_tokens: int = 16
    concurrency: int = 8

    def ask(self, messages: Messages) -> str:
        """The reply to a conversation, at temperature 0; from the cache when it was asked before.

        Raises:
            UsageError: no address or model is set, or the key's variable is not.
            EndpointError: every attempt failed.
        """
        if not self.url or not self.model:
            raise UsageError("a judged reward needs params `url` and `model`")
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.max_tokens}
        return client_of(self).ask(body).texts[0]


@lru_cache(maxsize=64)
def client_of(endpoint: JudgeEndpoint) -> Client:
    """The client all calls with the same settings share: its limits hold for them together, as does what it spent."""
    limits = RequestLimits(endpoint.timeout, endpoint.retries, endpoint.backoff, endpoint.concurrency)
    replies = RepliesFolder(Path(endpoint.cache), "cache of judged rewards") if endpoint.cache else None
    return Client(endpoint.url, limits, key_variable=endpoint.api_key_env, replies=replies)
