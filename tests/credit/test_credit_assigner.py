"""The assigner on its own: configuration, bad input, what is logged and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attention.heads import FILE_NAME
from credit.assigner import WEIGHTS, CreditAssigner
from credit.schema import CreditConfig
from credit.strategies import STRATEGIES, Signals, select, strategy
from grounding.errors import UsageError

EVERYTHING = {"waad", "fai", "image_mass", "target_mass", "image_entropy", "text_mass", "sentence"}


class Processor:
    """As much of a processor as credit looks at."""

    eos_token_id = pad_token_id = bos_token_id = None

    class image_processor:
        merge_size = 2


def run(model: Any, scene: Any) -> None:
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        model(**{**scene.forward, "pixel_values": scene.forward["pixel_values"].to(dtype)})


def assign(model: Any, scene: Any, mapping: dict[str, Any], dialect: Any = None) -> tuple[Any, torch.Tensor]:
    credit = CreditAssigner(mapping, model, Processor(), dialect)
    inputs = dict(scene.inputs)
    inputs.update(credit.annotate([{}, {}], inputs) if dialect is None else {})
    with credit.capturing(inputs):
        run(model, scene)
    weights = credit.weights(inputs, entropies=torch.rand(inputs["completion_ids"].shape))
    assert inputs[WEIGHTS] is weights
    return credit, weights


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"strategy": "entropie"}, "unknown credit strategy 'entropie'; did you mean 'entropy'"),
        ({"stratgy": "entropy"}, "credit: unknown key 'stratgy'; did you mean 'strategy'"),
        ({"strategy": "entropy", "params": {"qq": 1}}, "strategy 'entropy' has no parameter 'qq'"),
        ({"strategy": "uniform", "params": {"q": 1}}, "it takes none"),
        ({"heads": {"shares": 1}}, "credit.heads: unknown key 'shares'; did you mean 'share'"),
        ({"heads": {"share": 0.6}}, "credit.heads.share is 0.6"),
        ({"heads": {"image_share": 0}}, "image_share is 0"),
        ({"heads": {"keys": "prompt"}}, "keys is 'prompt'"),
        ({"heads": {"refresh": -1}}, "refresh is -1"),
        ({"horizon": [10, 5]}, "credit.horizon"),
        ({"horizon": [10]}, "two numbers"),
        ({"window": 0}, "credit.window"),
        ({"layers": "top"}, "credit.layers is 'top'"),
        ({"normalize": "mean"}, "credit.normalize is 'mean'"),
        ({"sign": "plus"}, "credit.sign is 'plus'"),
        ({"tail": "drop"}, "credit.tail is 'drop'"),
        ({"sink_ratio": 1}, "sink_ratio"),
    ],
)
def test_a_recipe_s_mistakes_are_named(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        CreditConfig.from_mapping(mapping)


def test_a_recipe_s_mapping_is_read() -> None:
    found = CreditConfig.from_mapping(
        {"strategy": "global_anchor", "params": {"q": 0.2}, "horizon": [1, None], "layers": [2, 3], "heads": None}
    )
    assert found.horizon == (1, None) and found.layers == (2, 3) and found.heads.share == 0.3


def test_layers_outside_the_model_are_refused(build: Any) -> None:
    with pytest.raises(UsageError, match="9 is outside the model"):
        CreditAssigner({"strategy": "global_anchor", "layers": [9]}, build(), Processor())
    CreditAssigner({"strategy": "random", "layers": [9]}, build(), Processor())  # nothing is captured there


def test_strategies_that_read_the_text_want_the_dialect(build: Any) -> None:
    with pytest.raises(UsageError, match="'coordinate' reads the text and needs the dialect"):
        CreditAssigner({"strategy": "coordinate"}, build(), Processor())


def test_signals_of_a_batch_equal_those_of_full_maps(
    build: Any, scene: Any, alone_scenes: Any, eager_maps: Any
) -> None:
    """All the way through: left padding, grouped heads, two images; float64 maps of each response alone."""
    seen: dict[str, Any] = {}

    def keep(signals: Signals, mask: torch.Tensor) -> torch.Tensor:
        seen["signals"] = signals
        return torch.ones(mask.shape)

    keep.needs = frozenset({"waad", "fai", "image_mass"})
    STRATEGIES._entries["keep"] = keep
    try:
        credit, _ = assign(build(), scene, {"strategy": "keep", "horizon": [2, 5], "window": 4, "sink_ratio": 1e9})
    finally:
        del STRATEGIES._entries["keep"]
    for index, single in enumerate(alone_scenes):
        maps = eager_maps(build(), single)
        first, length = single.prompt, single.inputs["completion_ids"].shape[1]

        def mean(role: str, maps: Any = maps) -> torch.Tensor:
            heads = credit.heads.roles[role]
            return torch.stack([maps[layer][0, head] for layer, head in heads]).mean(0)

        at = torch.arange(first + length)
        gap = (at[:, None] - at).clamp(min=0)
        signals = seen["signals"]
        expected = (mean("local") * gap.clamp(max=4)).sum(-1)[first:].float()
        torch.testing.assert_close(signals.waad[index, :length], expected, rtol=1e-5, atol=1e-6)
        for s in range(length):
            later = range(s + 2, min(s + 5, length - 1) + 1)
            if later:
                value = torch.stack([mean("global")[first + t, first + s] for t in later]).mean().float()
                torch.testing.assert_close(signals.fai[index, s], value, rtol=1e-5, atol=1e-8)
            else:
                assert signals.fai[index, s].isnan()
        image = (single.forward["input_ids"][0] == 60).double()
        looking = (mean("image") @ image)[first - 1 : -1].float()
        torch.testing.assert_close(signals.image_mass[index, :length], looking, rtol=1e-5, atol=1e-6)


def test_a_response_with_nan_is_uniform_and_counted(build: Any, scene: Any) -> None:
    model = build(dtype=torch.float32)
    mapping = {"strategy": "global_anchor", "params": {"min_length": 1}, "horizon": [1, 5]}
    credit, healthy = assign(model, scene, mapping)
    assert credit.metrics()["credit/fallback"] == 0
    assert (healthy[1] != 1).any()
    token = scene.inputs["completion_ids"][1, 2]
    assert token not in scene.forward["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    credit, weights = assign(model, scene, mapping)
    assert (weights[1] == 1).all()
    assert weights.isfinite().all()
    assert credit.metrics()["credit/fallback"] == 1


def test_an_all_padding_response_is_uniform(build: Any, scene: Any) -> None:
    scene.inputs["completion_mask"][1] = 0
    scene.forward["attention_mask"][1, scene.prompt :] = 0
    mapping = {"strategy": "coupled_rhythm", "params": {"min_length": 1}, "horizon": [1, 5]}
    credit, weights = assign(build(dtype=torch.float32), scene, mapping)
    assert (weights[1] == 1).all() and weights.isfinite().all()
    assert credit.metrics()["credit/fallback"] == 0


@pytest.mark.parametrize("tail", ["neutral", "amplify", "zero"])
def test_the_rule_for_the_last_tokens(build: Any, scene: Any, tail: str) -> None:
    """No token has a future of 12 tokens but the first two of the first response."""
    mapping = {"strategy": "global_anchor", "params": {"q": 0.2, "min_length": 1}, "horizon": [12, 13], "tail": tail}
    _, weights = assign(build(), scene, {**mapping, "normalize": "none"})
    raised = (weights > 1).nonzero().tolist()
    if tail == "neutral":
        assert raised == [[0, 0], [0, 1]]  # 0.2 of 14 tokens is 3, two have a score
    elif tail == "amplify":
        assert raised == [[0, 2], [0, 3], [0, 4], [1, 0], [1, 1]]
    else:
        assert raised == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]  # zeros tie to the left


def test_random_is_the_same_for_the_same_seed(build: Any, scene: Any) -> None:
    mapping = {"strategy": "random", "params": {"min_length": 1}}
    _, first = assign(build(), scene, mapping)
    _, second = assign(build(), scene, mapping)
    _, third = assign(build(), scene, {**mapping, "seed": 1})
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_noise_has_its_own_seed_for_every_run_setting_process_and_step(build: Any, scene: Any) -> None:
    def noise(step: int = 0, seed: int = 0, rank: int = 0, own: int = 0) -> torch.Tensor:
        credit = CreditAssigner({"strategy": "random", "seed": own}, build(), Processor(), seed=seed, rank=rank)
        return credit.annotate([], scene.inputs, step)["credit_noise"]

    assert torch.equal(noise(), noise())  # whatever was drawn before: a resumed run draws the same
    for other in ({"step": 1}, {"seed": 1}, {"rank": 1}, {"own": 1}):
        assert not torch.equal(noise(), noise(**other))


def test_heads_are_kept_and_read_again(build: Any, scene: Any, tmp_path: Path) -> None:
    mapping = {"strategy": "coupled_rhythm", "horizon": [1, 5], "heads": {"file": str(tmp_path / "own.json")}}
    credit, _ = assign(build(), scene, mapping)
    assert json.loads((tmp_path / "own.json").read_text())["roles"]
    credit.save(tmp_path)
    assert (tmp_path / FILE_NAME).exists()
    again = CreditAssigner({**mapping, "heads": {}}, build(), Processor())
    again.restore(json.loads(json.dumps(credit.state())))  # as a checkpoint keeps it
    assert again.heads.roles == credit.heads.roles
    assert again.state() == credit.state()
    assert CreditAssigner(mapping, build(), Processor()).heads.roles == credit.heads.roles


def test_heads_are_measured_again_on_request(build: Any, scene: Any) -> None:
    credit, _ = assign(build(), scene, {"strategy": "global_anchor", "horizon": [1, 5], "heads": {"refresh": 2}})
    first = credit.heads
    for expected in (True, False):
        inputs = dict(scene.inputs)
        with credit.capturing(inputs):
            run_model = credit._attention._model
            run(run_model, scene)
        credit.weights(inputs)
        assert (credit.heads is first) == expected


def test_weights_without_a_captured_pass_are_an_error(build: Any, scene: Any) -> None:
    credit = CreditAssigner({"strategy": "global_anchor"}, build(), Processor())
    with pytest.raises(RuntimeError, match="without capturing"):
        credit.weights(dict(scene.inputs))


def test_metrics(build: Any, scene: Any) -> None:
    mapping = {"strategy": "entropy", "params": {"q": 0.5, "min_length": 10}, "normalize": "none"}
    credit, _ = assign(build(), scene, mapping)
    found = credit.metrics()
    assert found["credit/amplified"] == pytest.approx(7 / 23)  # half of 14; the other response is too short
    assert found["credit/flat"] == 0.5
    assert found["credit/mean"] == pytest.approx(1 + 0.5 * 7 / 23)
    assert "credit/overlap_entropy" not in found  # with itself
    assert 0 < found["credit/time_share"] < 1
    assert credit.metrics() == {}


def test_overlap_with_other_strategies_comes_from_signals_that_are_there(build: Any, scene: Any) -> None:
    mapping = {"strategy": "coupled_rhythm", "params": {"min_length": 1}, "horizon": [1, 5], "normalize": "none"}
    credit = CreditAssigner(mapping, build(), Processor())
    shape = scene.inputs["completion_ids"].shape
    mask, entropies = scene.inputs["completion_mask"].bool(), torch.rand(shape)
    coordinate = (torch.arange(shape[1]) > 5).float().expand(shape)
    inputs = {**scene.inputs, "credit_coordinate": coordinate}
    with credit.capturing(inputs):
        run(credit._attention._model, scene)
    raised = (credit.weights(inputs, entropies=entropies) > 1) & mask
    found = credit.metrics()
    unsure = select(entropies, mask, 0.4, "top", 8)
    assert found["credit/overlap_entropy"] == pytest.approx(float((raised & unsure).sum() / raised.sum()))
    numbers = (coordinate > 0) & mask
    assert found["credit/overlap_coordinate"] == pytest.approx(float((raised & numbers).sum() / raised.sum()))
    assert found["credit/overlap_global_anchor"] > 0.5  # its anchors, less those that are dominated
    assert {name for name in found if "overlap" in name} == {
        f"credit/overlap_{name}" for name in ("entropy", "coordinate", "global_anchor", "local_chunk")
    }


def test_apply_multiplies_by_sign(build: Any) -> None:
    credit = CreditAssigner({"strategy": "uniform", "sign": "positive"}, build(), Processor())
    weights = torch.tensor([[1.5, 0.5], [1.5, 0.5]])
    assert credit.apply(weights, torch.tensor([2.0, -2.0])).tolist() == [[3.0, 1.0], [-2.0, -2.0]]


def test_a_strategy_of_one_s_own_needs_one_function(build: Any, scene: Any) -> None:
    @strategy("near_sighted", needs={"waad"})
    def near_sighted(signals: Signals, mask: torch.Tensor, *, limit: float = 3.0) -> torch.Tensor:
        return 1.0 + (signals.waad < limit).float()

    try:
        _, weights = assign(build(), scene, {"strategy": "near_sighted", "params": {"limit": 100.0}})
    finally:
        del STRATEGIES._entries["near_sighted"]
    assert (weights == 1).all()  # all raised alike, so that the mean is 1
