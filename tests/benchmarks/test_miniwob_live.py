"""Live MiniWoB++: the page's reward decides, and the same episode comes back for the click."""

import json
from dataclasses import asdict

import pytest

from benchmarks import miniwob
from benchmarks.harness import run
from benchmarks.harness.benchmark import Scored
from benchmarks.harness.items import Prediction
from benchmarks.miniwob import live as miniwob_live
from benchmarks.miniwob.__main__ import main
from benchmarks.miniwob.live import Episode, collect, play, read_episodes, to_pixels
from data_prep.miniwob.task_page import Outcome
from grounding.answer import Answer, Status
from grounding.errors import UsageError
from grounding.journal import Journal
from grounding.targets import Box

TASKS = ["click-test-transfer", "click-color"]


def episode(number=0, task="click-color", elements=((0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.7, 0.9)), regions=()):
    name = f"{task}/{number:04d}"
    return Episode(name, task, f"test/0/{name}", f"images/{name}.png", "area", "Click.", elements, regions)


def test_clicks_become_window_pixels():
    assert to_pixels((0.0, 0.0), "area") == (0, 50)
    assert to_pixels((0.5, 0.25), "area") == (80, 90)
    assert to_pixels((1.0, 1.0), "area") == (159.5, 209.5)
    assert to_pixels((0.5, 0.5), "window") == (80, 105)


def test_baselines_depend_on_the_episode_and_the_seed_only():
    episodes = [episode(n) for n in range(40)]
    first = miniwob.baseline("random", 3)(episodes)
    assert first == miniwob.baseline("random", 3)(episodes)
    assert first[7:] == miniwob.baseline("random", 3)(episodes[7:])
    assert first != miniwob.baseline("random", 4)(episodes)
    middles = {(a.points[0].x, a.points[0].y) for a in miniwob.baseline("random_element")(episodes)}
    assert middles == {(0.2, 0.2), (0.6, 0.7)}


def test_a_baseline_without_anything_to_click_gives_no_answer():
    bare = episode(elements=())
    assert [a.status for a in miniwob.baseline("oracle")([bare])] == [Status.NO_ANSWER]
    assert [a.status for a in miniwob.baseline("random_element")([bare])] == [Status.NO_ANSWER]


def test_no_answer_is_no_click_and_outcomes_are_asked_once(monkeypatch):
    asked = []

    def fake(episodes, clicks):
        asked.extend(zip((e.id for e in episodes), clicks, strict=True))
        return [Outcome(True, 1.0 if x < 0.5 else -1.0) for x, _ in clicks]

    monkeypatch.setattr(miniwob, "play", fake)
    benchmark = miniwob.MiniWoB()
    items = [miniwob.item_of(episode(n)) for n in range(4)]
    predictions = [
        Prediction(Status.OK, boxes=((0.0, 0.0, 0.4, 0.4),)),
        Prediction(Status.OK, points=((0.9, 0.9),)),
        Prediction(Status.NO_ANSWER),
        Prediction(Status.AMBIGUOUS, boxes=((0.0, 0.0, 0.1, 0.1), (0.5, 0.5, 0.6, 0.6))),
    ]
    verdicts = benchmark.judge(items, predictions, benchmark.rule)
    assert [v.correct for v in verdicts] == [True, False, False, False]
    assert [v.value for v in verdicts] == [1.0, 0.0, 0.0, 0.0]
    assert benchmark.judge(items, predictions, benchmark.rule) == verdicts
    assert asked == [(items[0].id, (0.2, 0.2)), (items[1].id, (0.9, 0.9))]
    assert benchmark.summarize(Scored(items, predictions, verdicts, benchmark.rule))["episodes_ended"] == 2


def test_episodes_must_have_been_made(tmp_path):
    with pytest.raises(UsageError, match=r"python -m benchmarks\.miniwob"):
        read_episodes(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, chromium):
    folder = tmp_path_factory.mktemp("live") / "episodes"
    collect(folder, TASKS, 3, chromium=str(chromium))
    return folder


@pytest.mark.slow
def test_the_oracle_is_always_rewarded_and_its_opposite_never(folder):
    episodes = read_episodes(folder)
    assert miniwob.evaluate(miniwob.baseline("oracle"), episodes, None)["correct"] == len(episodes) == 6

    def another_element(shown):
        """The middle of an element that was not rewarded."""
        boxes = [next(e for e in x.elements if e not in x.regions) for x in shown]
        return [Answer(Status.OK, boxes=(Box(*box),)) for box in boxes]

    metrics = miniwob.evaluate(another_element, episodes, None)
    assert metrics["correct"] == 0
    assert metrics["official"]["episodes_ended"] == 6  # the pages said wrong; they did not just ignore the click


@pytest.mark.slow
def test_test_pages_are_drawn_in_the_pages_own_test_mode(folder):
    transfer = [e for e in read_episodes(folder) if e.task == "click-test-transfer"]
    assert {e.instruction for e in transfer} == {"Click button TWO."}


@pytest.mark.slow
def test_collecting_goes_on_where_it_stopped(folder, tmp_path, chromium):
    before = read_episodes(folder)
    path = tmp_path / "episodes.jsonl"
    lines = (folder / "episodes.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:50])  # killed while writing the fifth
    made = []
    after = collect(tmp_path, TASKS, 3, chromium=str(chromium), progress=made.append)
    assert after == before == read_episodes(tmp_path)
    assert made == [4, 1, 1]
    assert (tmp_path / after[5].image).read_bytes() == (folder / after[5].image).read_bytes()
    with pytest.raises(UsageError, match="another crop"):
        collect(tmp_path, TASKS, 3, crop="window")


@pytest.mark.slow
def test_the_command_writes_results_that_count_every_task(folder, tmp_path, capsys):
    argv = ["--policy", "random_element", "--data", str(folder), "--out", str(tmp_path), "--per-task", "3"]
    assert main([*argv, "--tasks", *TASKS]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: group["n"] for name, group in metrics["groups"]["task"].items()} == dict.fromkeys(TASKS, 3)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6
    assert "task=click-color" in capsys.readouterr().out


@pytest.mark.slow
def test_a_page_that_hangs_is_a_failure_with_its_reason(folder, monkeypatch):
    monkeypatch.setattr(miniwob_live, "SECONDS", 0.01)
    episodes = read_episodes(folder)[:1]
    (outcome,) = play(episodes, [(0.5, 0.5)])
    assert not outcome.success
    assert "no answer within" in outcome.reason


def test_items_are_read_like_those_of_any_benchmark(tmp_path):
    one = episode(regions=((0.1, 0.1, 0.3, 0.3),))
    with Journal(tmp_path / "episodes.jsonl", {"kind": "episodes"}) as journal:
        journal.append(asdict(one))
    (item,) = run.read_items(miniwob.MiniWoB(), tmp_path, None)
    assert item.groups == {"task": "click-color"}
    assert item.truth.boxes == ((0.1, 0.1, 0.3, 0.3),)
    assert (item.images[0].width, item.images[0].height) == (160, 160)
