import html
import re
import time

from grounding.redact import redact
from reports.page import build
from reports.read_run import read_run
from reports.reward_hacking import broken_numbers, hacking_checks

HOSTILE = '</script><script>window.stolen = 1</script><img src=x onerror="window.stolen = 2">{{ 7 * 7 }}'


def test_the_page_says_what_was_run_and_how_it_went(workshop):
    page = build(workshop.run()).read_text()
    for fact in (
        "75.0 %",
        "20.0 %",
        "revision 0123456789 with local changes",
        "two cores",
        "SFT: 50 steps",
        "seed: 7",
    ):
        assert fact in page
    assert "+55.0" in page  # 12 -> 45 of 60
    assert "33 questions newly right, 0 newly wrong" in re.sub(r"\s+", " ", page)


def test_the_page_needs_nothing_else(workshop):
    page = build(workshop.run()).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_hostile_text_is_only_text(workshop):
    run = workshop.run()
    rows = [workshop.result(i, False, thought=HOSTILE, instruction=HOSTILE) for i in range(3)]
    rows[0]["groups"] = {HOSTILE: HOSTILE}
    rows[1]["groups"] = {HOSTILE: "other"}
    workshop.evaluation(run, "grpo", rows)
    (run / "resolved.yaml").write_text(HOSTILE)
    page = build(run).read_text()
    assert "<script>window" not in page
    assert "<img" not in page
    assert page.count("</script>") == 1
    assert "{{ 7 * 7 }}" in page


def test_secrets_stay_at_home(workshop):
    page = build(workshop.run()).read_text()
    assert "sk-1234" not in page
    assert redact("judge:\n  api_key: abc\n  api_key_env: NAME\n- hf_token: t\n") == (
        "judge:\n  api_key: (not shown)\n  api_key_env: NAME\n- hf_token: (not shown)\n"
    )


def test_thousands_of_answers_make_a_small_page_quickly(workshop):
    run = workshop.run()
    rows = [
        workshop.result(i % 60, i % 3 == 0, id=f"q{i}", output="x" * 20_000, thought="word " * 1000)
        for i in range(3000)
    ]
    workshop.evaluation(run, "grpo", rows)
    started = time.process_time()
    page = build(run)
    assert time.process_time() - started < 20
    assert page.stat().st_size < 5_000_000
    assert "150 of 3000 questions are shown" in page.read_text()


def test_attention_pages_are_embedded_and_linked_from_their_question(workshop):
    run = workshop.run()
    (run / "attention").mkdir()
    (run / "attention" / "q46.html").write_text("<script>its = 1</script>")
    page = build(run).read_text()
    assert 'href="#attention-q46"' in page
    assert 'sandbox="allow-scripts"' in page  # without allow-same-origin it cannot touch this page
    assert html.escape("<script>its = 1</script>") in page


def test_too_many_attention_pages_are_left_out_and_said(workshop):
    run = workshop.run()
    (run / "attention").mkdir()
    for index in range(12):
        (run / "attention" / f"q{index:02}.html").write_text("<p>looking</p>")
    assert "attention/: 4 of 12 pages are left out" in build(run).read_text()


def test_two_runs_share_one_page(workshop):
    first, second = workshop.run("a", right=45), workshop.run("b", right=50)
    page = re.sub(r"\s+", " ", build(first, second).read_text())
    assert "a against b" in page
    assert "a · GRPO" in page
    assert '<th scope="row">b · GRPO</th><td>a · GRPO</td> <td class="down"><b>-8.3</b></td>' in page


def test_two_runs_of_one_name_are_told_apart(workshop, tmp_path):
    first = workshop.run("a")
    (tmp_path / "old").mkdir()
    second = workshop.run("b").rename(tmp_path / "old" / "a")
    assert f"{second} · GRPO" in build(first, second).read_text()


def test_reward_that_rises_alone_is_a_warning(workshop):
    run = read_run(workshop.run(right=30))  # GRPO ends where SFT ended
    found = {s.title: s for s in hacking_checks(run.stages[1], *run.evaluations[1:])}
    assert found["Reward and accuracy in evaluation"].warning
    run = read_run(workshop.run())
    found = {s.title: s for s in hacking_checks(run.stages[1], *run.evaluations[1:])}
    assert not found["Reward and accuracy in evaluation"].warning


def test_clicking_one_place_and_huge_boxes_are_warnings(workshop):
    run = workshop.run()
    everything = {"boxes": [[0, 0, 1, 1]], "points": [], "spans": [], "images": [0], "absent": False, "thought": None}
    rows = [workshop.result(i, i < 45) | {"prediction": everything} for i in range(60)]
    workshop.evaluation(run, "grpo", rows)
    found = read_run(run)
    signs_ = {s.title: s for s in hacking_checks(found.stages[1], *found.evaluations[1:])}
    assert signs_["Answers in one place"].warning
    assert signs_["Box size"].warning


def test_losses_that_are_no_numbers_are_counted(workshop):
    sign = broken_numbers(read_run(workshop.run()).stages[1])
    assert sign.warning
    assert sign.text == "no number at 14 of 100 logged steps, first at step 7"


def test_alarms_of_the_training_log_are_shown(workshop):
    run = workshop.run()
    lines = [f'{{"step": {s}, "reward": 0.5, "frac_reward_zero_std": 0.95}}\n' for s in range(40)]
    (run / "1-grpo" / "metrics.jsonl").write_text("".join(lines))
    assert "most groups earn one and the same reward" in build(run).read_text()


def test_an_evaluation_of_moments_and_absences_has_no_pictures_but_words(workshop):
    run = workshop.run()
    moment = workshop.result(0, False)
    moment["truth"] = {"boxes": [], "box_images": [], "spans": [[1.0, 2.5]], "absent": False}
    moment["prediction"] = {"boxes": [], "points": [], "spans": [[3, 4]], "absent": False, "thought": None}
    moment["images"] = []
    absent = workshop.result(1, True)
    absent["truth"] = {"boxes": [], "box_images": [], "absent": True}
    workshop.evaluation(run, "grpo", [moment, absent])
    page = build(run).read_text()
    assert "1.0–2.5 s" in page
    assert "3.0–4.0 s" in page
    assert "nothing fits: absent" in page
