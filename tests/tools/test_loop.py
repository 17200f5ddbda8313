"""Whole episodes on models of the real classes: tokens, pictures, protocols by family, determinism."""

from __future__ import annotations

import importlib.resources
import random

import pytest
import torch
from PIL import Image, ImageDraw

from grounding.decoding import Decoder
from grounding.errors import UsageError
from grounding.targets import Box
from models.loading import load_policy, load_processor
from models.profile import Profile, read_profile
from models.prompting import question
from models.sampling import generation_config
from tests.recipes.families import make_family
from tests.recipes.tiny import make_model
from tools.episode import ToolReply
from tools.loop import LocalTurns, Played, model_inputs, play
from tools.protocols import protocol_for
from tools.section import ToolsConfig
from tools.toolbox import Toolbox

ASSET = "assets/fovea-tiny"


def template(name: str) -> str:
    """A published chat template, from TRL's collection."""
    return importlib.resources.files("trl").joinpath(f"chat_templates/{name}.jinja").read_text()


@pytest.fixture(scope="module")
def policy():
    return load_policy(ASSET)


def picture(seed=0, size=192):
    rng = random.Random(seed)
    image = Image.new("RGB", (size, size), "white")
    for _ in range(6):
        x, y = rng.randrange(size - 30), rng.randrange(size - 30)
        ImageDraw.Draw(image).rectangle((x, y, x + 24, y + 24), fill=rng.choice(("red", "blue", "green")))
    return image


def rows_of(toolbox, count=3):
    rows = []
    for seed in range(count):
        image = picture(seed)
        text = toolbox.question(question(toolbox.profile, "Click the red square.", "box", ()))
        prompt = toolbox.prompt_ids(toolbox.chat(text, 1), [image])
        rows.append(Played(toolbox.episode([image], question=text, answer_kind="box"), prompt, [image]))
    return rows


class Scripted:
    """A sampler that says what a script says, in turn."""

    def __init__(self, processor, decoder, *turns):
        self.turns, self.at, self.asked = turns, 0, []
        self._tokenizer, self._decoder = processor.tokenizer, decoder

    def __call__(self, rows):
        self.asked.append([list(row.ids) for row in rows])
        said = self.turns[self.at]
        self.at += 1
        ends = self._tokenizer.eos_token_id
        return [[*self._tokenizer(said, add_special_tokens=False)["input_ids"], ends] for _ in rows], None


def box_for(policy, **settings):
    model, processor = policy
    given = {"use": ["zoom"], "reply": "{question}", "told": "", **settings}
    return Toolbox(ToolsConfig.from_given(given), processor, model.config.model_type, read_profile(ASSET))


ZOOM = '<think>There.</think>\nzoom({"bbox_2d": [500, 250, 750, 500]})'
ANSWER = '<think>Here.</think>\n{"bbox_2d": [0, 0, 500, 500]}'


def test_a_scripted_episode_token_by_token(policy):
    model, processor = policy
    toolbox = box_for(policy)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id)
    rows, sampler = rows_of(toolbox, 2), Scripted(processor, decoder, ZOOM, ANSWER)
    play(toolbox, rows, sampler, decoder)
    for row in rows:
        assert row.episode.answer.box == Box(0.5, 0.25, 0.625, 0.375)
        assert len(row.written) == len(row.completion)
        said = [token for token, own in zip(row.completion, row.written, strict=True) if own]
        assert processor.tokenizer.decode(said) == f"{ZOOM}<|im_end|>{ANSWER}<|im_end|>"
        whole = processor.tokenizer.decode(row.completion)
        told = whole.removeprefix(f"{ZOOM}<|im_end|>").removesuffix(f"{ANSWER}<|im_end|>")
        pads = "<|image_pad|>" * toolbox.viewer.tokens(*row.pictures[0].size)
        shown = f"<|vision_start|>{pads}<|vision_end|>"
        assert told == f"\n<|im_start|>user\nClick the red square.{shown}<|im_end|>\n<|im_start|>assistant\n"
    first, second = sampler.asked
    assert all(b[: len(a)] == a for a, b in zip(first, second, strict=True))  # every prompt is a prefix of the next
    inputs = model_inputs(processor, model.config, rows)
    assert len(inputs["image_grid_thw"]) == 4
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == inputs["image_grid_thw"].prod(-1).sum() // 4


def test_a_reply_that_leaves_no_room_ends_the_episode(policy):
    model, processor = policy
    toolbox = box_for(policy)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id)
    (row,) = rows = rows_of(toolbox, 1)
    play(toolbox, rows, Scripted(processor, decoder, ZOOM), decoder, longest=60)
    assert row.episode.done and not row.episode.answer.ok and not row.pictures
    assert len(row.completion) <= 60 and all(row.written)


def test_a_turn_longer_than_the_room_is_cut(policy):
    model, processor = policy
    toolbox = box_for(policy)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id)
    (row,) = rows = rows_of(toolbox, 1)
    play(toolbox, rows, Scripted(processor, decoder, ZOOM), decoder, longest=20)
    assert len(row.completion) == 20 and row.episode.done and not row.episode.calls


def test_the_same_seed_draws_the_same_episodes_in_any_batches(policy):
    model, processor = policy
    toolbox = box_for(policy, turns=3)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id)
    told = []
    for batch in (64, 1):
        rows = rows_of(toolbox)
        greedy = generation_config(model, max_new_tokens=60, temperature=0)
        play(toolbox, rows, LocalTurns(model, processor, greedy, decoder, batch), decoder)
        told.append([row.completion for row in rows])
    assert told[0] == told[1]
    assert all(row.episode.done for row in rows)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_random_models_of_the_families_run_an_episode(tmp_path, family):
    folder = make_model(tmp_path / family, family)
    model, processor = load_policy(folder)
    toolbox = Toolbox(ToolsConfig.from_given("zoom"), processor, family, Profile(family, "bare"))
    decoder = Decoder.of(processor, model.generation_config.eos_token_id, "bare")
    rows = rows_of(toolbox, 2)
    said = 'zoom({"bbox_2d": [5, 5, 40, 40]})'
    play(toolbox, rows, Scripted(processor, decoder, said, said, "no"), decoder)
    assert all(len(row.pictures) == 2 for row in rows)
    inputs = model_inputs(processor, model.config, rows)
    with torch.inference_mode():
        assert model(**inputs).logits.isfinite().all()


class TestProtocolOfAFamily:
    def test_qwen3_vl_has_tools_in_its_template(self, tmp_path):
        processor = load_processor(make_family(tmp_path / "m", "qwen3_vl_4b"))
        processor.chat_template = template("qwen3_vl")
        config, profile = ToolsConfig.from_given(["zoom", "mark"]), Profile("qwen3_vl", "bare")
        toolbox = Toolbox(config, processor, "qwen3_vl", profile)
        assert toolbox.protocol.name == "template" and toolbox.question("Where?") == "Where?"
        prompt = processor.tokenizer.decode(toolbox.prompt_ids(toolbox.chat("Where?", 1), [picture()]))
        assert '"name": "zoom"' in prompt and '"bbox_2d"' in prompt and "<tools>" in prompt
        call = toolbox.protocol.write(processor, "zoom", '{"bbox_2d": [1, 2, 3, 4]}')
        assert call == '<tool_call>\n{"name": "zoom", "arguments": {"bbox_2d": [1, 2, 3, 4]}}\n</tool_call>'
        told = processor.tokenizer.decode(toolbox.reply_ids(ToolReply("zoom", "Shown.", (picture(),)), None))
        assert told.startswith("<|im_end|>\n<|im_start|>user\n<tool_response>\n<|vision_start|><|image_pad|>")
        assert told.endswith("Shown.\n</tool_response><|im_end|>\n<|im_start|>assistant\n")

    def test_qwen2_5_vl_takes_the_protocol_of_ours(self, tmp_path):
        processor = load_processor(make_family(tmp_path / "m", "qwen2_5_vl_3b"))
        processor.chat_template = template("qwen2_5_vl")
        toolbox = Toolbox(ToolsConfig.from_given("zoom"), processor, "qwen2_5_vl", Profile("qwen2_5_vl", "think"))
        assert toolbox.protocol.name == "text"
        assert 'zoom({"bbox_2d": [100, 200, 300, 400]})' in toolbox.question("Where?")
        told = processor.tokenizer.decode(toolbox.reply_ids(ToolReply("zoom", "Shown.", (picture(),)), None))
        assert told.startswith("<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>")
        assert told.endswith("Shown.<|im_end|>\n<|im_start|>assistant\n")

    def test_the_embedded_model_takes_the_protocol_of_ours(self, policy):
        assert box_for(policy).protocol.name == "text"

    def test_templates_that_know_tools_may_still_use_ours(self, tmp_path):
        processor = load_processor(make_family(tmp_path / "m", "qwen3_vl_4b"))
        processor.chat_template = template("qwen3_vl")
        assert protocol_for(processor, "qwen3_vl", "text").name == "text"

    def test_other_families_are_refused(self, policy):
        with pytest.raises(UsageError, match="family 'internvl'"):
            protocol_for(policy[1], "internvl")

    def test_tools_of_a_template_that_has_none_are_refused(self, policy):
        with pytest.raises(UsageError, match="renders no tools"):
            protocol_for(policy[1], "qwen3_vl", "template")

    def test_a_template_that_forgets_what_was_said_is_refused(self, tmp_path):
        processor = load_processor(make_family(tmp_path / "m", "qwen2_5_vl_3b"))
        forgets = "{% if message.role == 'assistant' and not loop.last %}gone{% else %}{{ message.role }}{% endif %}"
        end = "<|im_end|>{% endfor %}"
        processor.chat_template = "{% for message in messages %}<|im_start|>" + forgets + end
        with pytest.raises(UsageError, match="only appends"):
            protocol_for(processor, "qwen2_5_vl", "text")
