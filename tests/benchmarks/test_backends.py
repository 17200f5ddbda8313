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

from benchmarks.harness.backends.generate import Decoding, Request
from benchmarks.harness.backends.served_model import EndpointBackend
from grounding.answer import ImageSize
from grounding.errors import FoveaError, UsageError
from models.chat_client import RequestLimits
from tests.rewards.serving import serve


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
    backend = EndpointBackend(server.url, "some-model", key="secret")
    outputs = backend.generate(requests(), Decoding(samples=2, temperature=0.5), seed=4)
    assert [o.text for o in outputs[1]] == ["q1 (11, 20) 0", "q1 (11, 20) 1"]
    assert sum(o.cost["tokens"] for o in outputs[1]) == 7
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"], body["seed"], body["n"]) == ("some-model", 0.5, 4, 2)


def test_greedy_is_temperature_zero_and_text_may_come_first(server):
    EndpointBackend(server.url, "m", image_first=False).generate(requests(1), Decoding(temperature=0.9), seed=0)
    body = server.asked[0][2]
    assert (body["temperature"], body["n"]) == (0.0, 1)
    assert [c["type"] for c in body["messages"][0]["content"]] == ["text", "image_url"]


def test_failures_are_one_line_that_says_what_to_do(server):
    server.status = 503
    quick = RequestLimits(retries=1, backoff=0.01)
    with pytest.raises(FoveaError, match="503 model is loading"):
        EndpointBackend(server.url, "m", limits=quick).generate(requests(1), Decoding(), seed=0)
    with pytest.raises(FoveaError, match="run the same command again"):
        EndpointBackend("http://127.0.0.1:9/v1", "m", limits=quick).generate(requests(1), Decoding(), seed=0)
    with pytest.raises(UsageError, match="http"):
        EndpointBackend("localhost:8000", "m")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing_vllm_is_named(random_model):
    from benchmarks.harness.backends.vllm_model import VllmModel

    with pytest.raises(UsageError, match=r"pip install -e '.\[vllm\]'"):
        VllmModel(str(random_model))


class Plays:
    """Replies of a server that knows the plain protocol only: one choice whatever is asked for, nothing unknown."""

    def __init__(self, known):
        self.known = known

    def __call__(self, handler):
        body = self.server.requests[-1]["body"]
        strange = set(body) - self.known
        content = json.dumps({"choices": [{"message": {"content": f"seed {body['seed']}"}}]}).encode()
        status, content = (422, f"Unexpected fields: {sorted(strange)}".encode()) if strange else (200, content)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


PLAIN = {"model", "messages", "max_tokens", "temperature", "top_p", "frequency_penalty", "seed", "n"}
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


def play(known, decoding):
    plays = Plays(known)
    with serve(plays) as server:
        plays.server = server
        outputs = EndpointBackend(server.url, "m", limits=RequestLimits(parallel=1)).generate(
            requests(2), decoding, seed=4
        )
        return [[o.text for o in own] for own in outputs], [r["body"] for r in server.requests]


def test_what_a_servers_model_recommends_does_not_shape_the_answers(caplog):
    _, asked = play({*PLAIN, *NEUTRAL}, Decoding())
    assert all(NEUTRAL.items() <= body.items() and body["frequency_penalty"] == 0 for body in asked)
    assert not caplog.text


def test_a_server_that_refuses_neutral_values_is_asked_without_and_named_once(caplog):
    outputs, asked = play(PLAIN, Decoding())
    assert outputs == [["seed 4"], ["seed 4"]]
    assert [set(body) - PLAIN for body in asked] == [set(NEUTRAL), set(), set()]
    assert caplog.text.count("its own defaults for them hold") == 1


def test_a_server_that_gives_one_choice_is_asked_for_each_rollout_with_another_seed():
    outputs, asked = play({*PLAIN, *NEUTRAL}, Decoding(samples=3))
    assert len(asked) == 6
    assert all(len(set(own)) == 3 for own in outputs)


def test_images_are_sent_at_a_size_that_the_server_keeps(server):
    backend = EndpointBackend(server.url, "m", pixels=(56 * 56, 28 * 28 * 4))
    question = Request("q", (Image.new("RGB", (300, 100)),))
    ((output,),) = backend.generate([question], Decoding(), seed=0)
    assert output.seen == ((84, 28),)  # 300 x 100 into 4 tokens: 3 x 1 of 28 pixels
    assert output.text == "q (84, 28) 0"
    assert backend.seen([question.images[0]]) == (ImageSize(300, 100, 84, 28),)
    with pytest.raises(FoveaError, match=r"image of 900x4 cannot be sent: .*aspect ratio must be smaller than 200"):
        backend.generate([Request("q", (Image.new("RGB", (900, 4)),))], Decoding(), seed=0)
