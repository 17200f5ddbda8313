"""From YAML to what TRL calls: conditions, clips, schedules, sources, groups, TRL's own functions, broken rows."""

import pickle
from types import SimpleNamespace

import pytest

from grounding.answer import ImageSize
from grounding.dialects.base import Dialect
from grounding.errors import BrokenRow, FoveaError, UsageError
from grounding.targets import Absent, Box, Span
from rewards import REWARDS, Reward, reward
from rewards.compose import build_rewards
from rewards.reader import Reader
from tests.rewards.making import TARGET, a_sample, call, columns, write

RIGHT = write(TARGET)
NEAR = write(Box(0.2, 0.3, 0.6, 0.39))  # IoU 0.45
WRONG = write(Box(0.7, 0.7, 0.9, 0.9))
LOOSE = "The button is at " + RIGHT.partition("</think>")[2]  # readable, not in the format


def build(*specs, **more):
    return build_rewards(list(specs), "qwen3_vl", "think", **{"answer_kind": "box", **more})


def value(spec, completion, **more):
    (score,) = call(build(spec)[0], [completion], [a_sample()], **more)
    return score


def later(step):
    return {"trainer_state": SimpleNamespace(global_step=step)}


def halved(answer, sample, factor=0.5):
    """A reward of somebody else's, without the decorator."""
    return factor * bool(answer.boxes)


def ranked_in_group(answers, sample):
    return [float(i) for i, _ in enumerate(answers)]


def broken_reward(answer, sample):
    return float("nan")


def by_length(completions, completion_ids, **columns):
    return [None if not ids else float(len(ids)) for ids in completion_ids]


async def slow_reward(prompts, completions, completion_ids, **columns):
    return [len(text) / 1000 for text in completions]


def make_constant(constant=0.0):
    return lambda completions, **columns: [constant] * len(completions)


# The list


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("iuo", "unknown reward 'iuo'; did you mean 'iou'"),
        ({"name": "iou", "params": {"max_aera": 1}}, "unknown parameter 'max_aera'; did you mean 'max_area'"),
        ({"name": "iou", "params": {"max_area": "all"}}, "parameter 'max_area' needs a number"),
        ({"name": "format", "params": {"strict": 1}}, "parameter 'strict' needs true or false"),
        ({"name": "grounded_thought", "params": {"enough": 1.5}}, "parameter 'enough' needs a whole number"),
        ({"name": "iou", "schedule": {"alpha": [[0, 1]]}}, "unknown parameter 'alpha'"),
        ({"name": "iou", "when": {"reward": "iou", "at_least": 1}}, "refers to itself"),
        ({"name": "iou", "when": {"reward": "nope", "at_least": 1}}, "unknown reward 'nope'"),
        ("no_such_module.reward", "cannot be imported"),
        ("rewards.box", "is a module, not a function"),
        ({"name": "subprocess.check_output", "params": {"args": "touch X", "shell": True}}, "standard library"),
        ("os:system", "standard library"),
        ("builtins.exec", "standard library"),
        ("rewards.adapters.ThreadPoolExecutor", "standard library"),
        (
            {"name": "gaussian_point", "schedule": {"alpha": [[0, 1], [10, -1]]}},
            "at step 10 of its schedule: alpha -1",
        ),
        ({"name": "overlong", "schedule": {"limit": [[0, 256], [9, 32]]}}, "at step 9 of its schedule: buffer 64"),
        ({"name": "overlong", "params": {"buffer": 300}}, "'overlong': buffer 300"),
        ({"name": "format", "schedule": {"strict": [[0, 1], [10, 0]]}}, "'strict' needs true or false"),
        ({"name": "grounded_thought", "schedule": {"enough": [[0, 1], [9, 2.5]]}}, "'enough' needs a whole number"),
        ({"name": "region_consistency", "params": {"point_size": 0}}, "point_size 0 must lie above 0"),
        ({"name": "region_consistency", "schedule": {"point_size": [[0, 0.1], [9, 0]]}}, "point_size"),
        ({"name": "difficulty_weighted_iou", "params": {"form": "log"}}, "form 'log' must be power or exp"),
        ({"name": "trl.rewards.think_format_reward", "params": {"a": 1}}, "`params:` must be empty"),
        ({"name": "trl.rewards.get_soft_overlong_punishment", "params": {"a": 1}}, "unexpected keyword argument 'a'"),
        ({"name": f"{__name__}.by_length", "schedule": {"alpha": [[0, 1]]}}, "only `weight`"),
        (f"{__name__}:a_sample", "neither a reward function nor makes one"),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(spec, message):
    with pytest.raises(UsageError, match=message):
        build(spec)


# One answer at a time


def test_values_are_the_rewards_values():
    functions = build("iou", "format")
    scores = {f.__name__: call(f, [RIGHT, NEAR, WRONG, LOOSE], [a_sample()] * 4) for f in functions}
    assert scores["iou"] == pytest.approx([1.0, 0.45, 0.0, 1.0])
    assert scores["format"] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("when", "values"),
    [
        ({"format": "ok"}, [1.0, 0.45, 1.0, -1.0]),
        ({"format": "strict"}, [1.0, 0.45, -1.0, -1.0]),
        ({"reward": "click_in_box", "at_least": 1}, [1.0, 0.45, 1.0, -1.0]),
        ({"reward": "iou_above", "at_least": 1}, [1.0, -1.0, 1.0, -1.0]),
        ([{"format": "strict"}, {"reward": "gaussian_point", "at_least": 0.9}], [1.0, -1.0, -1.0, -1.0]),
    ],
)
def test_conditions(when, values):
    (function,) = build({"name": "iou", "when": when, "otherwise": -1})
    assert call(function, [RIGHT, NEAR, LOOSE, "no idea"], [a_sample()] * 4) == pytest.approx(values)


def test_a_condition_takes_the_parameters_of_the_entry_it_names():
    strict = {"name": "iou_above", "label": "tight", "params": {"threshold": 0.9}}
    (function, _) = build({"name": "format", "when": {"reward": "tight", "at_least": 1}}, strict)
    assert call(function, [RIGHT, NEAR], [a_sample()] * 2) == [1.0, 0.0]


def test_clip():
    (function,) = build({"name": "iou", "clip": [0.2, 0.8]})
    assert call(function, [RIGHT, NEAR, WRONG], [a_sample()] * 3) == pytest.approx([0.8, 0.45, 0.2])


def test_a_parameter_schedule_follows_the_trainers_step():
    spec = {"name": "iou_above", "params": {"threshold": 0.1}, "schedule": {"threshold": [[0, 0.3], [100, 0.6]]}}
    assert [value(spec, NEAR, **later(step)) for step in (0, 40, 100)] == [1.0, 1.0, 0.0]
    assert value(spec, NEAR) == 1.0


def test_sources_and_kinds_leave_rows_out():
    samples = [a_sample(source="web"), a_sample(source="coco"), a_sample(Span(1.0, 2.0), source="video")]
    (by_source, by_kind) = build(
        {"name": "iou", "sources": ["web"]}, {"name": "iou", "kinds": ["box"], "label": "iou_kind"}
    )
    assert call(by_source, [RIGHT] * 3, samples) == [1.0, None, None]
    assert call(by_kind, [RIGHT] * 3, samples) == [1.0, 1.0, None]


def test_absent_targets_are_left_to_abstention():
    functions = build("iou", "abstention")
    assert [call(f, [RIGHT], [a_sample(Absent())]) for f in functions] == [[None], [0.0]]


def test_a_kind_a_reward_cannot_score_is_an_error_with_the_fix():
    with pytest.raises(
        UsageError, match=r"'iou' scores targets of kind box, polygon; sample 'one' is of kind 'span'"
    ):
        call(build("iou")[0], [RIGHT], [a_sample(Span(1.0, 2.0))])


def test_message_lists_are_read_by_their_last_turn():
    turns = [{"role": "assistant", "content": WRONG}, {"role": "tool", "content": WRONG}]
    blocks = [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}]
    scores = call(build("iou")[0], [[*turns, {"role": "assistant", "content": RIGHT}], blocks, []], [a_sample()] * 3)
    assert scores == [1.0, 1.0, 0.0]


def test_the_prompt_says_what_is_expected_row_by_row():
    two = RIGHT + "\n" + WRONG.partition("</think>")[2]
    (function,) = build({"name": "format", "params": {"strict": False}}, answer_kind=None)
    assert call(function, [two, two], [a_sample()] * 2, answer_kind=["box", "boxes"]) == [0.0, 1.0]


def test_a_completion_is_parsed_once_for_all_rewards(monkeypatch):
    parsed = []
    original = Dialect.parse

    def counting(self, text, *args, **kwargs):
        parsed.append(text)
        return original(self, text, *args, **kwargs)

    monkeypatch.setattr(Dialect, "parse", counting)
    for function in build("iou", "format", {"name": "giou", "when": {"reward": "iou", "at_least": 0.4}}):
        call(function, [RIGHT, NEAR, RIGHT], [a_sample()] * 3)
    assert sorted(parsed) == sorted([RIGHT, NEAR])


def test_what_is_remembered_stays_bounded(monkeypatch):
    monkeypatch.setattr("rewards.reader.CACHE", 10)
    reader = Reader("qwen3_vl", "think", "box")
    for i in range(100):
        reader.read([f"{RIGHT}{i}"], columns([a_sample(id=str(i))]))
    assert len(reader._answers) <= 10


def test_sizes_are_those_the_model_saw():
    (function,) = build_rewards(["iou"], "qwen2_5_vl", "think", answer_kind="box")
    seen = {"sizes": [(ImageSize(200, 100, 392, 196),)]}
    answer = '<think>x</think>{"bbox_2d": [78.4, 58.8, 235.2, 98]}'
    assert call(function, [answer], [a_sample()], **seen) == pytest.approx([1.0], abs=0.02)
    assert call(function, [answer], [a_sample()])[0] < 0.6


def test_reward_functions_travel_to_worker_processes():
    functions = build("iou", {"name": "format", "when": {"format": "ok"}}, "diversity", f"{__name__}.halved")
    copies = pickle.loads(pickle.dumps(functions[:3]))
    assert [call(f, [RIGHT], [a_sample()]) for f in copies] == [call(f, [RIGHT], [a_sample()]) for f in functions[:3]]
    assert REWARDS.get("iou") is pickle.loads(pickle.dumps(REWARDS.get("iou")))


# Groups


def test_the_batch_says_how_large_its_groups_are():
    one, two = a_sample(id="one"), a_sample(id="two")
    far = write(Box(0.8, 0.8, 0.9, 0.9))
    batch = [RIGHT, far, RIGHT, RIGHT], [one, one, two, two]
    (function,) = build("diversity")
    assert call(function, *batch) == [1.0, 1.0, 0.0, 0.0]  # outside a trainer neighbors with one sample are a group
    assert call(function, *batch, num_generations=[2] * 4) == [1.0, 1.0, 0.0, 0.0]
    assert call(function, batch[0], [one] * 4, num_generations=[2] * 4) == [1.0, 1.0, 0.0, 0.0]
    assert call(function, *batch, num_generations=[1] * 4) == [0.0] * 4


def test_a_group_that_is_cut_is_an_error_with_the_fix():
    (diversity, iou) = build("diversity", "iou")
    twelve = [a_sample(id="one")] * 8 + [a_sample(id="two")] * 4  # 12 answers of groups of 8
    with pytest.raises(UsageError, match=r"compares the 8 answers .* batch of 12 .* multiple of num_generations"):
        call(diversity, [RIGHT] * 12, twelve, num_generations=[8] * 12)
    assert call(iou, [RIGHT] * 12, twelve, num_generations=[8] * 12) == [1.0] * 12


def test_a_trainer_that_does_not_say_how_large_its_groups_are_is_refused():
    with pytest.raises(UsageError, match="no column num_generations"):
        call(build("diversity")[0], [RIGHT] * 2, [a_sample()] * 2, **later(0))


def test_group_rewards_keep_to_their_sources():
    samples = [a_sample(id="one", source="web")] * 2 + [a_sample(id="two", source="coco")] * 2
    (function,) = build({"name": "region_consistency", "sources": ["coco"]})
    assert call(function, [RIGHT] * 4, samples) == [None, None, 1.0, 1.0]


# Functions from elsewhere


def test_plain_functions_by_import_path():
    functions = build(
        f"{__name__}.halved", {"name": f"{__name__}:halved", "params": {"factor": 0.1}, "label": "tenth"}
    )
    assert [call(f, [RIGHT, "no"], [a_sample()] * 2) for f in functions] == [[0.5, 0.0], [0.1, 0.0]]
    assert call(build(f"{__name__}.ranked_in_group")[0], [RIGHT] * 3, [a_sample()] * 3) == [0.0, 1.0, 2.0]


def test_trls_own_functions():
    (soft, think, repetition) = build(
        {
            "name": "trl.rewards.get_soft_overlong_punishment",
            "params": {"max_completion_len": 4, "soft_punish_cache": 2},
        },
        "trl.rewards.think_format_reward",
        {"name": "trl.rewards.get_repetition_penalty_reward", "clip": [-0.2, 0]},
    )
    ids = [[1, 2], [1, 2, 3], [7] * 9]
    assert call(soft, [RIGHT] * 3, [a_sample()] * 3, completion_ids=ids) == [0.0, -0.5, -1.0]
    assert call(repetition, [RIGHT] * 3, [a_sample()] * 3, completion_ids=ids) == [0.0, 0.0, -0.2]
    messages = [[{"role": "assistant", "content": RIGHT}], [{"role": "assistant", "content": "no"}]]
    assert call(think, messages, [a_sample()] * 2) == [1.0, 0.0]


def test_functions_with_trls_signature_can_be_conditional():
    (function,) = build({"name": f"{__name__}.by_length", "when": {"format": "strict"}, "sources": ["made"]})
    scores = call(function, [RIGHT, LOOSE, RIGHT], [a_sample()] * 3, completion_ids=[[1, 2], [1], []])
    assert scores == [2.0, 0.0, None]


def test_functions_with_trls_signature_need_no_sample_columns():
    (function,) = build(f"{__name__}.by_length")
    assert function(prompts=["?"], completions=["x"], completion_ids=[[1, 2, 3]]) == [3.0]


def test_async_functions_and_factories():
    assert call(build(f"{__name__}.slow_reward")[0], ["x" * 500], [a_sample()]) == [0.5]
    constant = build({"name": f"{__name__}.make_constant", "params": {"constant": 0.7}})[0]
    assert call(constant, ["x"], [a_sample()]) == [0.7]


def test_a_function_that_returns_the_wrong_number_of_values():
    with pytest.raises(FoveaError, match="returned 1 values for 2 completions"):
        call(build({"name": f"{__name__}.one_too_few"})[0], ["x", "y"], [a_sample()] * 2)


def one_too_few(completions, **columns):
    return [0.0] * (len(completions) - 1)


# What is broken is an error, what is wrong is a low reward


def test_nan_from_a_reward_is_an_error():
    with pytest.raises(FoveaError, match=r"broken_reward' returned nan for sample 'one'"):
        call(build(f"{__name__}.broken_reward")[0], [RIGHT], [a_sample()])


def judging(answer, sample):
    """Somebody's reward that gives whatever the sample's source says."""
    if sample.source == "raise":
        raise KeyError("score")
    return {"none": None, "text": "good", "one": True, "list": [1.0]}[sample.source]


def judging_group(answers, sample):
    if sample.source == "raise":
        raise ZeroDivisionError("by\nzero")
    return {"none": [None, 0.5], "text": "0.5", "short": [1.0], "number": 3.0}[sample.source]


def judging_batch(completions, sample, **columns):
    return {"nan": [float("nan"), 0.5], "inf": [float("inf"), 0.5], "text": ["1", "2"], "number": 3.0}[
        sample[0].source
    ]


@pytest.mark.parametrize(("source", "expected"), [("none", None), ("one", 1.0)])
def test_none_means_that_a_reward_does_not_apply(source, expected):
    assert call(build(f"{__name__}.judging")[0], [RIGHT], [a_sample(source=source)]) == [expected]
    spec = {"name": f"{__name__}.judging", "clip": [0.0, 0.5], "when": {"format": "ok"}}
    (value,) = call(build(spec)[0], [RIGHT], [a_sample(source=source)])
    assert value == (None if expected is None else 0.5)


def test_none_in_a_group_leaves_that_answer_out():
    assert call(build(f"{__name__}.judging_group")[0], [RIGHT] * 2, [a_sample(source="none")] * 2) == [None, 0.5]
    assert call(build(f"{__name__}.judging_batch")[0], [RIGHT] * 2, [a_sample(source="nan")] * 2) == [None, 0.5]


@pytest.mark.parametrize(
    ("function", "source", "message"),
    [
        ("judging", "text", "judging' returned 'good' for sample 'one'; a number or None is needed"),
        ("judging", "list", r"judging' returned '\[1.0\]' for sample 'one'"),
        ("judging", "raise", "judging' raised KeyError for sample 'one': 'score'"),
        ("judging_group", "text", "judging_group' returned '0.5'; a list of 2 numbers is needed"),
        ("judging_group", "short", "judging_group' returned 1 values for 2 completions"),
        ("judging_group", "number", "judging_group' returned '3.0'; a list"),
        ("judging_group", "raise", "judging_group' raised ZeroDivisionError for sample 'one': by zero"),
        ("judging_group", "missing", "judging_group' raised KeyError"),
        ("judging_batch", "inf", "judging_batch' returned inf"),
        ("judging_batch", "text", "judging_batch' returned '1'; a number"),
        ("judging_batch", "number", "judging_batch' returned '3.0'; a list"),
        ("judging_batch", "missing", "judging_batch' raised KeyError: 'missing'"),
    ],
)
def test_what_a_reward_must_not_do_is_one_line_that_names_it(function, source, message):
    with pytest.raises(FoveaError, match=message) as error:
        call(build(f"{__name__}.{function}")[0], [RIGHT] * 2, [a_sample(source=source)] * 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "seven"}', r"column 'sample': a grounding.sample.Sample is needed, got .*seven"),
        ("[" * 100_000, "column 'sample': a grounding.sample.Sample is needed"),
        (None, "column 'sample': a grounding.sample.Sample is needed, got None"),
    ],
)
def test_a_broken_sample_is_named(row, message):
    with pytest.raises(BrokenRow, match=message):
        call(build("iou")[0], [RIGHT], [a_sample()], sample=[row])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("[[9, 9]]", "sample 'one': column 'sizes' is no tuple of grounding.answer.ImageSize: '"),
        ([[9, 9]], "sample 'one': column 'sizes' is no tuple of"),
        (((9, 9),), r"sample 'one': column 'sizes' is no tuple of .*\(\(9, 9\),\)"),
        ((), "sample 'one': 0 entries in column 'sizes', 1 images"),
        ((ImageSize(9, 9),) * 2, "sample 'one': 2 entries in column 'sizes', 1 images"),
    ],
)
def test_broken_sizes_are_named(sizes, message):
    with pytest.raises(BrokenRow, match=message):
        call(build("iou")[0], [RIGHT], [a_sample()], sizes=[sizes])


@pytest.mark.parametrize("missing", ["sample", "sizes"])
def test_a_missing_column_is_named_with_what_is_there(missing):
    given = columns([a_sample()])
    del given[missing]
    with pytest.raises(
        UsageError, match=rf"rewards need a column '{missing}'; the data has: completion_ids, prompts, s"
    ):
        build("iou")[0](prompts=["?"], completions=[RIGHT], completion_ids=[[0]], **given)


def test_a_column_a_reward_needs_is_named_with_the_reward():
    with pytest.raises(UsageError, match="reward 'attention_in_target' needs a column 'attention'"):
        call(build("attention_in_target")[0], [RIGHT], [a_sample()])
    scores = call(build("attention_in_target")[0], [RIGHT], [a_sample()], attention=[[[1.0]]])
    assert scores == pytest.approx([0.08])


def test_the_first_function_logs_what_the_answers_look_like():
    logged = []
    functions = build("iou", "format")
    for function in functions:
        call(function, [RIGHT, "no"], [a_sample()] * 2, log_metric=lambda name, number: logged.append((name, number)))
    assert logged == [("monitor/readable", 0.5), ("monitor/box_area", pytest.approx(1.0))]


# The registry


def test_every_reward_is_described():
    for name in REWARDS:
        entry = REWARDS.get(name)
        assert isinstance(entry, Reward)
        assert entry.range[0] < entry.range[1]
        assert entry.source
        assert len(entry.doc.splitlines()[0]) > 10


def test_a_parameter_without_a_default_is_refused():
    with pytest.raises(TypeError, match="parameter 'scale' has no default"):

        @reward("bad", range=(0, 1), source="nowhere")
        def bad(answer, sample, *, scale):
            return 0.0
