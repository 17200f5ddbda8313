"""The client of judged rewards against a local HTTP server that answers well, badly, slowly and not at all."""

import json
import os
import time

import pytest

from grounding.errors import FoveaError, UsageError
from rewards.judge import EndpointError, JudgeEndpoint
from tests.rewards.serving import chat, serve

KEY = "sk-very-secret-42"
MESSAGES = [{"role": "user", "content": "well?"}]


def hang(handler):
    time.sleep(1.5)


def hang_up(handler):
    handler.close_connection = True


def drip(handler):
    """Valid headers, then a byte now and then: no read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def cut_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def endless(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 30))
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b"x" * 8192)


def endpoint(server, **more):
    return JudgeEndpoint(server.url, "judge", **{"timeout": 0.5, "retries": 2, "backoff": 0.01, **more})


PASSING_FAILURES = {
    "too many requests": (429, {}, b"slow down"),
    "server error": (500, {}, b"oops"),
    "bad gateway": (502, {}, b"<html>nginx</html>"),
    "unavailable": (503, {"Retry-After": "0"}, b""),
    "a retry date": (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""),
    "not JSON": (200, {}, b"<html>please log in</html>"),
    "empty": (200, {}, b""),
    "no choices": (200, {}, b'{"choices": []}'),
    "null content": (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
    "a list": (200, {}, b"[1, 2]"),
    "deep JSON": (200, {}, b"[" * 100_000),
    "not UTF-8": (200, {}, b"\xff\xfe\x00"),
    "hanging": hang,
    "hung up": hang_up,
    "dripping": drip,
    "cut off": cut_off,
    "endless": endless,
}


@pytest.mark.parametrize("failure", PASSING_FAILURES)
def test_a_passing_failure_is_tried_again(failure):
    with serve(PASSING_FAILURES[failure], chat("yes")) as server:
        assert endpoint(server).ask(MESSAGES) == "yes"
        assert len(server.requests) == 2


@pytest.mark.parametrize("failure", ["server error", "not JSON", "hung up", "cut off", "null content"])
def test_a_lasting_failure_ends_with_one_line_that_says_where(failure):
    with serve(PASSING_FAILURES[failure]) as server:
        with pytest.raises(EndpointError, match=r"^http://127\.0\.0\.1:\d+/v1/chat/completions: ") as caught:
            endpoint(server).ask(MESSAGES)
        assert "\n" not in str(caught.value)
        assert len(server.requests) == 3


@pytest.mark.parametrize("failure", ["hanging", "dripping"])
def test_no_attempt_takes_much_longer_than_its_timeout(failure):
    with serve(PASSING_FAILURES[failure]) as server:
        start = time.monotonic()
        with pytest.raises(EndpointError):
            endpoint(server, timeout=0.3, retries=1).ask(MESSAGES)
        assert 0.6 <= time.monotonic() - start < 4.0


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_what_cannot_get_better_is_not_tried_again(status):
    with serve((status, {"Location": "http://127.0.0.1:1/"}, b"no")) as server:
        with pytest.raises(EndpointError, match=f"HTTP {status} ") as caught:
            endpoint(server).ask(MESSAGES)
        assert caught.value.permanent
        assert len(server.requests) == 1


def test_pauses_grow_and_obey_the_server(monkeypatch):
    pauses = []
    monkeypatch.setattr("models.chat_client.time.sleep", pauses.append)
    with serve(
        (503, {}, b""),
        (503, {}, b""),
        (429, {"Retry-After": "7"}, b""),
        (429, {"Retry-After": "9999"}, b""),
        chat("yes"),
    ) as s:
        assert endpoint(s, retries=4, backoff=1.0).ask(MESSAGES) == "yes"
    assert 1 <= pauses[0] <= 2 <= pauses[1] <= 4
    assert 7 <= pauses[2] <= 8
    assert pauses[3] == 60


def test_nobody_there_and_no_address():
    with serve(chat("yes")) as server:
        url = server.url
    with pytest.raises(EndpointError, match="ConnectionError"):
        JudgeEndpoint(url, "judge", retries=0).ask(MESSAGES)
    with pytest.raises(EndpointError, match="is not an address") as caught:
        JudgeEndpoint("nonsense", "judge").ask(MESSAGES)
    assert caught.value.permanent
    with pytest.raises(UsageError, match="needs params `url` and `model`"):
        JudgeEndpoint("", "").ask(MESSAGES)


def test_the_request_is_the_public_protocol():
    with serve(chat("yes")) as server:
        endpoint(server, max_tokens=5).ask(MESSAGES)
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["body"] == {"model": "judge", "messages": MESSAGES, "temperature": 0, "max_tokens": 5}
    assert "Authorization" not in request["headers"]


# The key


def test_the_key_comes_from_the_named_variable_and_goes_into_the_header_only(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serve(chat("yes")) as server:
        endpoint(server, api_key_env="JUDGE_KEY", cache=str(tmp_path)).ask(MESSAGES)
    (request,) = server.requests
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(request["body"])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(KEY not in path.read_text() + str(path) for path in files)
    assert KEY not in caplog.text


def test_an_error_that_echoes_the_key_does_not_show_it(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    echo = (401, {}, f"wrong key {KEY}".encode())
    with serve(echo) as server, pytest.raises(EndpointError, match=r"HTTP 401 wrong key \*\*\*") as caught:
        endpoint(server, api_key_env="JUDGE_KEY").ask(MESSAGES)
    assert KEY not in str(caught.value)


def test_a_key_that_would_be_cut_in_half_is_not_shown_either(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    echo = (401, {}, ("x" * 195 + KEY).encode())
    with serve(echo) as server, pytest.raises(EndpointError) as caught:
        endpoint(server, api_key_env="JUDGE_KEY").ask(MESSAGES)
    assert KEY[:4] not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-\n42", "schlüssel", "\u2028"])
def test_something_else_than_a_key_is_not_sent_or_shown(monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with serve(chat("yes")) as server, pytest.raises(UsageError, match="JUDGE_KEY holds something else") as caught:
        endpoint(server, api_key_env="JUDGE_KEY").ask(MESSAGES)
    assert key not in str(caught.value)
    assert server.requests == []


def test_a_missing_key_is_named_by_its_variable(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serve(chat("yes")) as server:
        with pytest.raises(UsageError, match="environment variable JUDGE_KEY"):
            endpoint(server, api_key_env="JUDGE_KEY").ask(MESSAGES)
        assert server.requests == []


# The cache


def test_answers_are_kept_on_disk(tmp_path):
    with serve(chat("yes"), chat("no")) as server:
        first = endpoint(server, cache=str(tmp_path))
        assert [first.ask(MESSAGES), endpoint(server, cache=str(tmp_path)).ask(MESSAGES)] == ["yes", "yes"]
        assert len(server.requests) == 1
        assert first.ask([{"role": "user", "content": "other"}]) == "no"


def test_failures_are_not_kept(tmp_path):
    with serve((500, {}, b""), chat("yes")) as server:
        with pytest.raises(EndpointError):
            endpoint(server, cache=str(tmp_path), retries=0).ask(MESSAGES)
        assert endpoint(server, cache=str(tmp_path)).ask(MESSAGES) == "yes"


@pytest.mark.parametrize("content", [b"", b"{", b'{"reply": 3}', b"[]", b"\xff\xff"])
def test_a_damaged_entry_is_asked_anew(tmp_path, content):
    with serve(chat("yes")) as server:
        kept = endpoint(server, cache=str(tmp_path))
        kept.ask(MESSAGES)
        (entry,) = tmp_path.rglob("*.json")
        entry.write_bytes(content)
        assert kept.ask(MESSAGES) == "yes"
        assert len(server.requests) == 2
        assert json.loads(entry.read_text())["reply"] == "yes"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        serve(chat("yes")) as server,
        pytest.raises(FoveaError, match=r"cache of judged rewards .*: Not a directory"),
    ):
        endpoint(server, cache=str(tmp_path / "file")).ask(MESSAGES)


def test_no_environment_variable_but_the_named_one_is_read_for_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(chat("yes")) as server:
        endpoint(server).ask(MESSAGES)
    assert KEY not in json.dumps(server.requests)
    assert os.environ["OPENAI_API_KEY"] == KEY
