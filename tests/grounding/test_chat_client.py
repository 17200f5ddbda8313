"""What all callers of the chat client share: limits, counting, several choices, replies on disk."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from grounding.endpoint import Client, EndpointError, Limits, Spent
from grounding.errors import FoveaError, UsageError
from grounding.replies import RepliesFile, RepliesFolder, Reply
from tests.rewards.serving import serve

QUICK = Limits(timeout=5.0, retries=1, backoff=0.01)


def answer(*texts, given=100, taken=20):
    choices = [{"message": {"content": text}} for text in texts]
    usage = {"prompt_tokens": given, "completion_tokens": taken}
    return 200, {}, json.dumps({"choices": choices, "usage": usage}).encode()


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
        client = Client(server.url, Limits(timeout=5.0, parallel=2))
        assert [reply.texts for reply in pool.map(lambda n: client.ask({"seed": n}), range(12))] == [("yes",)] * 12
    assert most[0] == 2 and client.spent.asked == 12


def test_what_is_no_cache_and_no_limit_is_said(tmp_path):
    (tmp_path / "kept.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(FoveaError, match=r"kept\.sqlite: file is not a database; move it away"):
        RepliesFile(tmp_path / "kept.sqlite")
    with pytest.raises(UsageError, match="retries is -1"):
        Client("http://127.0.0.1:9/v1", Limits(retries=-1))


def test_totals_of_a_file_count_every_run(tmp_path):
    kept = RepliesFile(tmp_path / "kept.sqlite")
    kept.put("a", Reply(("x",), 3, 4))
    kept.put("a", Reply(("y",), 5, 6))  # the same request again replaces
    kept.put("b", Reply(("z",), 1, 1))
    kept.close()
    assert RepliesFile(tmp_path / "kept.sqlite").totals() == (2, 6, 7)
