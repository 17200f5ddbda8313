"""The backends that are not a local model: an endpoint (a real HTTP server here), and vLLM when it is missing."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from benchmarks.harness.endpoint import Endpoint
from benchmarks.harness.generate import Decoding, Request
from grounding.endpoint import Limits
from grounding.errors import FoveaError, UsageError


class Server(ThreadingHTTPServer):
    """Answers every chat with the request's text and image size; keeps what it was asked; may fail."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.status = 200
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        content = body["messages"][0]["content"]
        picture = next(c for c in content if c["type"] == "image_url")["image_url"]["url"]
        size = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size
        words = next(c for c in content if c["type"] == "text")["text"]
        choices = [{"message": {"content": f"{words} {size} {k}"}} for k in range(body["n"])]
        reply = json.dumps({"choices": choices, "usage": {"completion_tokens": 7}}).encode()
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(reply if self.server.status == 200 else b"model is loading")

    def log_message(self, *_args):
        """Quiet."""


@pytest.fixture
def server():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


def requests(n=3):
    return [Request(f"q{k}", (Image.new("RGB", (10 + k, 20)),)) for k in range(n)]


def test_answers_come_back_in_order_with_their_cost(server):
    backend = Endpoint(server.url, "some-model", key="secret")
    outputs = backend.generate(requests(), Decoding(samples=2, temperature=0.5), seed=4)
    assert [o.text for o in outputs[1]] == ["q1 (11, 20) 0", "q1 (11, 20) 1"]
    assert sum(o.cost["tokens"] for o in outputs[1]) == 7
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"], body["seed"], body["n"]) == ("some-model", 0.5, 4, 2)


def test_greedy_is_temperature_zero_and_text_may_come_first(server):
    Endpoint(server.url, "m", image_first=False).generate(requests(1), Decoding(temperature=0.9), seed=0)
    body = server.asked[0][2]
    assert (body["temperature"], body["n"]) == (0.0, 1)
    assert [c["type"] for c in body["messages"][0]["content"]] == ["text", "image_url"]


def test_failures_are_one_line_that_says_what_to_do(server):
    server.status = 503
    quick = Limits(retries=1, backoff=0.01)
    with pytest.raises(FoveaError, match="503 model is loading"):
        Endpoint(server.url, "m", limits=quick).generate(requests(1), Decoding(), seed=0)
    with pytest.raises(FoveaError, match="run the same command again"):
        Endpoint("http://127.0.0.1:9/v1", "m", limits=quick).generate(requests(1), Decoding(), seed=0)
    with pytest.raises(UsageError, match="http"):
        Endpoint("localhost:8000", "m")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing_vllm_is_named(random_model):
    from benchmarks.harness.vllm_backend import VllmModel

    with pytest.raises(UsageError, match=r"pip install -e '.\[vllm\]'"):
        VllmModel(str(random_model))
