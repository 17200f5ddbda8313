"""What all callers of the chat client share: limits, counting, several choices, replies on disk."""

import gzip
import json
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from grounding.errors import FoveaError, UsageError
from models.chat_client import Client, EndpointError, RepliesFile, RepliesFolder, Reply, RequestLimits, Spent
from tests.rewards.serving import serve

QUICK = RequestLimits(timeout=5.0, retries=1, backoff=0.01)


def answer(*texts, given=100, taken=20):
    return reply([{"content": text} for text in texts], {"prompt_tokens": given, "completion_tokens": taken})


def reply(messages, usage=None):
    return 200, {}, json.dumps({"choices": [{"message": message} for message in messages], "usage": usage}).encode()


def ask(server, **more):
    return Client(server.url, QUICK, **more).ask({"model": "m"})


@pytest.fixture(params=["folder", "file"])
def replies(request, tmp_path):
    return (
        RepliesFolder(tmp_path / "kept", "cache")
        if request.param == "folder"
        else RepliesFile(tmp_path / "kept.sqlite")
    )


def test_a_reply_is_asked_for_and_paid_for_once(replies):
    with serve(answer("yes"), answer("no", given=7, taken=1)) as server:
        client = Client(server.url, QUICK, replies=replies)
        assert [client.ask({"model": "m", "seed": seed}).texts for seed in (0, 0, 1)] == [("yes",), ("yes",), ("no",)]
        assert client.spent == Spent(asked=2, kept=1, input_tokens=107, output_tokens=21)
        assert client.spent.cost(1.0, 10.0) == pytest.approx((107 + 210) / 1e6)
        another = Client(server.url, QUICK, replies=replies)
        assert another.ask({"model": "m", "seed": 1}) == Reply(("no",), 7, 1)
        assert len(server.requests) == 2


def test_several_choices_come_together():
    with serve(answer("one", None, "three")) as server:
        client = Client(server.url, QUICK)
        assert client.ask({"n": 3}, usable=lambda text: True).texts == ("one", "", "three")
        with pytest.raises(EndpointError, match="has no text"):
            client.ask({"n": 3})
        assert len(server.requests) == 3  # no text is tried again, unless the caller takes it for an answer


def test_one_limit_holds_for_all_threads():
    now, most, lock = [0], [0], threading.Lock()

    def slowly(handler):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        status, _, content = answer("yes")
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with serve(slowly) as server, ThreadPoolExecutor(8) as pool:
        client = Client(server.url, RequestLimits(timeout=5.0, parallel=2))
        assert [reply.texts for reply in pool.map(lambda n: client.ask({"seed": n}), range(12))] == [("yes",)] * 12
    assert most[0] == 2 and client.spent.asked == 12


def test_what_is_no_cache_and_no_limit_is_said(tmp_path):
    (tmp_path / "kept.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(FoveaError, match=r"kept\.sqlite: file is not a database; move it away"):
        RepliesFile(tmp_path / "kept.sqlite")
    with pytest.raises(UsageError, match="retries is -1"):
        Client("http://127.0.0.1:9/v1", RequestLimits(retries=-1))


def test_totals_of_a_file_count_every_run(tmp_path):
    kept = RepliesFile(tmp_path / "kept.sqlite")
    kept.put("a", Reply(("x",), 3, 4))
    kept.put("a", Reply(("y",), 5, 6))  # the same request again replaces
    kept.put("b", Reply(("z",), 1, 1))
    kept.close()
    assert RepliesFile(tmp_path / "kept.sqlite").totals() == (2, 6, 7)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "A", "reasoning_content": "why"}, "<think>why</think>\nA"),  # transformers serve, SGLang
        ({"content": "A", "reasoning": "why"}, "<think>why</think>\nA"),  # vLLM
        ({"content": "A", "reasoning": "why", "reasoning_content": "why"}, "<think>why</think>\nA"),
        ({"content": "A", "reasoning_content": None, "reasoning": ""}, "A"),
        ({"content": "A", "reasoning": []}, "A"),
        ({"content": "<think>why</think> A", "reasoning_content": "why"}, "<think>why</think> A"),  # told twice
        ({"content": "why</think> A", "reasoning_content": "why"}, "why</think> A"),
        ({"content": None, "reasoning_content": "never came to"}, "<think>never came to"),
        ({"content": "", "reasoning": "never came to"}, "<think>never came to"),
        ({"reasoning": "never came to"}, "<think>never came to"),
    ],
)
def test_a_thought_that_the_server_took_out_stands_before_the_answer_again(message, text):
    with serve(reply([{"role": "assistant", **message}])) as server:
        assert ask(server).texts == (text,)


def test_a_thought_in_another_form_is_not_dropped_in_silence():
    other = reply([{"content": "A", "reasoning": {"text": "why"}}])
    with serve(other) as server, pytest.raises(EndpointError, match="not a chat completion"):
        ask(server)


def test_headers_and_bodies_that_drip_end_with_the_timeout():
    def headers(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100):
            handler.wfile.write(f"X-{number}: y\r\n".encode())
            handler.wfile.flush()
            time.sleep(0.03)

    def status(handler):
        for byte in b"HTTP/1.1 200 OK" + b" " * 100:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.03)

    for drip in (headers, status):
        with serve(drip) as server:
            started = time.monotonic()
            with pytest.raises(EndpointError, match=r"no complete reply within 0\.2 s"):
                Client(server.url, RequestLimits(timeout=0.2, retries=0)).ask({})
            assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_reply_is_read(packing):
    _, _, content = answer("yes")
    packed = gzip.compress(content) if packing == "gzip" else zlib.compress(content)
    with serve((200, {"Content-Encoding": packing, "Content-Length": str(len(packed))}, packed)) as server:
        assert ask(server).texts == ("yes",)


@pytest.mark.parametrize(
    ("packing", "content", "message"),
    [
        ("gzip", gzip.compress(b" " * (300 << 20), 1), "longer than"),
        ("gzip", b"not packed", "cannot be unpacked"),
        ("br", b"x", "packed with 'br', which was not asked for"),
        ("gzip, gzip", b"x", "packed with"),
    ],
)
def test_a_reply_that_unpacks_to_too_much_or_to_nothing_is_refused(packing, content, message):
    packed = 200, {"Content-Encoding": packing, "Content-Length": str(len(content))}, content
    with serve(packed) as server, pytest.raises(EndpointError, match=message):
        Client(server.url, RequestLimits(retries=0)).ask({})


@pytest.mark.parametrize("usage", ["1e400", "-1", "NaN", '"many"', "null", "1" + "0" * 40, "[]", "{}", "true"])
def test_a_usage_that_cannot_be_is_no_reason_to_lose_the_answer(usage, tmp_path):
    content = b'{"choices": [{"message": {"content": "A"}}], "usage": {"completion_tokens": %s}}' % usage.encode()
    with serve((200, {}, content)) as server:
        found = ask(server, replies=RepliesFile(tmp_path / "kept.sqlite"))
        assert found.texts == ("A",) and found.output_tokens in (0, 1)
    with serve((200, {}, b'{"choices": [{"message": {"content": "A"}}], "usage": [3]}')) as server:
        assert ask(server) == Reply(("A",), 0, 0)


def test_text_that_is_no_unicode_can_be_kept(replies):
    with serve((200, {}, b'{"choices": [{"message": {"content": "a\\ud800b \\ud83d\\ude00"}}]}')) as server:
        assert ask(server, replies=replies).texts == ask(server, replies=replies).texts == ("a\ufffdb \U0001f600",)
        assert len(server.requests) == 1


def test_a_password_in_the_address_is_sent_but_not_shown():
    with serve((403, {}, b"no entry for http://ann:pa55@here")) as server:
        url = server.url.replace("//", "//ann:pa55@")
        with pytest.raises(EndpointError, match=r"^http://\*\*\*@127.*HTTP 403 no entry") as caught:
            Client(url, QUICK).ask({})
        assert "pa55" not in str(caught.value)
        assert server.requests[0]["headers"]["Authorization"] == "Basic YW5uOnBhNTU="
    with pytest.raises(EndpointError, match=r"http://\*\*\*@127.*ConnectionError") as caught:
        Client(url, RequestLimits(retries=0)).ask({})
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host:99999/v1", "http://[::1/v1", "http://a..b/v1", "http:///v1", "ftp://x"])
def test_what_is_no_address_is_said(url):
    with pytest.raises(EndpointError, match="is not an address; give http") as caught:
        Client(url, QUICK).ask({})
    assert caught.value.permanent
