"""A model is asked and read in one way, whoever asks: the same prompt tokens, and the answer's own tokens kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from trl import GRPOTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from benchmarks.harness.backends.generate import Request
from benchmarks.harness.backends.local_model import LocalModel
from benchmarks.harness.io.data_sets import item_of
from grounding.answer import ImageSize
from grounding.decoding import Decoder
from grounding.dialects import get_dialect
from models.loading import load_policy, load_processor
from models.profile import Profile
from models.prompting import encode, messages, prompt_text, question
from models.sampling import forget_published, generation_config
from recipes.config import DataSpec, ModelSpec
from recipes.data import build_dataset
from recipes.grpo import FoveaGRPOTrainer
from recipes.loops.drawing import DrawingConfig, generate
from tests.recipes.tiny import make_data, make_model, tokenizer

# What each family's tokenizer holds as special tokens of its own.
MARKS = {
    "qwen3_vl": [],
    "fovea": [],
    "internvl": ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"],
    "qwen_vl": ["<ref>", "</ref>", "<box>", "</box>"],
    "qwen2_vl": ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"],
    "os_atlas": ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"],
    "florence2": [f"<loc_{number}>" for number in range(1000)],
    "paligemma": [f"<loc{number:04d}>" for number in range(1024)],
    "kosmos2": ["<phrase>", "</phrase>", "<object>", "</object>", *(f"<patch_index_{n:04d}>" for n in range(1024))],
}
OPENING = "<|im_start|>assistant\n"


def speaking(family: str, template: str | None = None) -> PreTrainedTokenizerFast:
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": MARKS[family]}, replace_extra_special_tokens=False)
    words.chat_template = template or words.chat_template
    return words


def opening_a_thought() -> str:
    return tokenizer().chat_template.replace(OPENING, f"{OPENING}<think>\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), count=2, size=(100, 70))


@pytest.mark.parametrize("family", MARKS)
@pytest.mark.parametrize("opened", [False, True])
def test_what_a_stage_teaches_is_what_every_reader_gets(family, opened, data, tmp_path):
    """SFT's labels, decoded as GRPO, rejection and evaluation decode, are the right answer, strictly in form."""
    processor = load_processor(make_model(tmp_path, "qwen3_vl"))
    processor.tokenizer = speaking(family)
    processor.chat_template = opening_a_thought() if opened else processor.tokenizer.chat_template
    dialect = get_dialect(family)
    model = ModelSpec(path=str(tmp_path), dialect=family, grammar="think" if dialect.thinks else "bare")
    if opened and not dialect.thinks:
        pytest.skip("the family has no thoughts")
    dataset = build_dataset(DataSpec(path=str(data)), model, processor, with_completion=True)
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)([dataset[0]])
    (labels,) = batch["labels"]
    decoder = Decoder.of(processor, processor.tokenizer.eos_token_id)
    text = decoder(labels[labels != -100].tolist())
    row = dataset[0]
    assert text == row["completion"][0]["content"]
    answer = dialect.parse(text, row["sizes"], grammar=model.grammar, answer_kind="box")
    assert answer.ok and answer.strict
    sample = row["sample"]
    assert answer.box.xyxy == pytest.approx(sample.target.xyxy, abs=0.04)
    assert (answer.thought or "").strip() == (sample.thought if dialect.thinks else "")
    # what GRPO asks with (TRL lets the processor tokenize), what the labels follow, what evaluation asks with
    asked = prompt_text(processor, row["prompt"])
    ours = encode(processor, [asked], [row["images"]])["input_ids"][0].tolist()
    (taught,) = batch["input_ids"]
    assert taught[: len(ours)].tolist() == ours
    assert (taught[labels == -100].tolist()) == ours
    filled = [{**m, "content": [_filled(part, row["images"][0]) for part in m["content"]]} for m in row["prompt"]]
    trls = processor.apply_chat_template(
        [filled],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={"add_special_tokens": False},
    )
    assert list(trls["input_ids"][0]) == ours


def _filled(part, image):
    return {**part, "image": image} if part["type"] == "image" else part


def test_training_selection_and_evaluation_ask_with_the_same_tokens(data, tmp_path):
    model, processor = load_policy(make_model(tmp_path, "qwen3_vl"))
    spec = ModelSpec(
        path=str(tmp_path), dialect="qwen3_vl", system="Point at things.", prompt='Click "{instruction}".'
    )
    row = build_dataset(DataSpec(path=str(data)), spec, processor)[0]
    sample = row["sample"]
    trained = encode(processor, [prompt_text(processor, row["prompt"])], [row["images"]])["input_ids"]
    local = LocalModel(model, processor, spec.image_first, system=spec.system)
    item = item_of(sample, "box", {})
    text = question(spec.profile, item.instruction, item.answer_kind, local.seen(item.images))
    assert text.startswith(f'Click "{sample.instruction}". First think')
    assert torch.equal(local.encode([Request(text, tuple(row["images"]))])["input_ids"], trained)
    drawn = generate(model, processor, [row], DrawingConfig(max_completion_length=4))
    assert len(drawn[0]) == 8


def test_grpo_pays_for_the_marks_an_answer_is_made_of(data, tmp_path):
    """TRL decodes without special tokens; rewards get what the dialect reads."""
    processor = load_processor(make_model(tmp_path / "model", "qwen3_vl"))
    processor.tokenizer = speaking("internvl")
    decoder = Decoder.of(processor)
    seen = []

    class Trainer(GRPOTrainer):
        tools = ()

        def __init__(self):
            pass

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
            seen.extend(completions)

    class Ours(FoveaGRPOTrainer, Trainer):
        def __init__(self):
            self.decoder, self.rollout_attention, self.num_generations = decoder, None, 1
            self.model, self._played, self._reader = SimpleNamespace(training=True), [], None

    text = "<think>x</think>\n<ref>cup</ref><box>[[1, 2, 3, 4]]</box>"
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = processor.tokenizer.eos_token_id
    Ours()._calculate_rewards([{}], [[]], [[{"role": "assistant", "content": "stripped"}]], [[*ids, end]])
    assert seen == [[{"role": "assistant", "content": text}]]
    assert get_dialect("internvl").parse(text, (ImageSize(9, 9),), answer_kind="box").strict


# The published examples, images as in their templates. Qwen2-VL and later: README, "Add ids for Multiple Image
# Inputs" (chat template with add_vision_id). Qwen-VL: tokenization_qwen.py, from_list_format. InternVL: model card,
# "multi-image multi-round conversation, separate images".
QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
PUBLISHED = {
    "qwen2_vl": f"Picture 1: {QWEN}Picture 2: {QWEN}",
    "qwen2_5_vl": f"Picture 1: {QWEN}Picture 2: {QWEN}",
    "qwen3_vl": f"Picture 1: {QWEN}Picture 2: {QWEN}",
    "qwen_vl": "Picture 1: <img></img>\nPicture 2: <img></img>\n",
    "internvl": "Image-1: <image>\nImage-2: <image>\n",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_several_images_are_numbered_as_the_family_numbers_them(name):
    shown = {"qwen_vl": "<img></img>", "internvl": "<image>"}.get(name, QWEN)
    sizes, alone = (ImageSize(8, 8),) * 2, question(Profile(name), "the dog", "box", (ImageSize(8, 8),))
    told = question(Profile(name), "the dog", "box", sizes)
    (user,) = messages(told, 2, image_first=True, system=None)
    text = "".join(shown if part["type"] == "image" else part["text"] for part in user["content"])
    assert text.startswith(PUBLISHED[name] + alone)
    placed = question(Profile(name), "Is <image> the dog of <image>?", "box", sizes)
    assert placed.count("<image>") == 2 and "Picture" not in placed and "Image-" not in placed
    behind = question(Profile(name, image_first=False), "the dog", "box", sizes)
    assert behind.startswith(alone) and behind.endswith("2: <image>")


def test_only_a_question_about_several_images_asks_which_one():
    dialect, two = get_dialect("qwen3_vl"), (ImageSize(8, 8),) * 2
    assert dialect.prompt("the dog", "box", "bare", two).endswith('add "image", its number.')
    assert '"image"' not in dialect.prompt("the dog", "span", "bare", two)
    assert '"image"' not in dialect.prompt("the dog", "box", "bare", two[:1])


def test_places_in_a_question_are_in_the_pixels_the_model_sees():
    sizes = (ImageSize(100, 100, 50, 50),)
    text = question(Profile("qwen2_5_vl"), "What is at [0.500, 0.500]?", "box", sizes)
    assert "[25, 25]" in text


def test_what_a_template_wrote_of_the_answer_is_read_with_it():
    words = tokenizer()
    assert Decoder.of(words).opened == ""
    words.chat_template = opening_a_thought()
    assert Decoder.of(words).opened == "<think>\n"
    words.chat_template = tokenizer().chat_template.replace(OPENING, f"{OPENING}<think>\n\n</think>\n\n")
    assert Decoder.of(words).opened == "<think>\n\n</think>\n\n"
    assert Decoder.of(words, grammar="bare").opened == ""


def test_a_decoder_drops_ends_and_padding_and_knows_where_tokens_stand():
    words = speaking("internvl")
    words.chat_template = opening_a_thought()
    decoder = Decoder.of(words)
    end, pad = words.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    ids = [*words("no<box>7</box>", add_special_tokens=False)["input_ids"], end, pad, pad]
    text, spans = decoder.spans(ids)
    assert text == decoder(ids) == "<think>\nno<box>7</box>"
    assert "".join(text[slice(*span)] for span in spans) == "no<box>7</box>"
    assert spans[-3:] == [(len(text), len(text))] * 3
    assert decoder.length(ids) == len(ids) - 2
    start, image = words.convert_tokens_to_ids(["<|im_start|>", "<|image_pad|>"])
    assert decoder([start, *ids[:-3], image]) == text
    assert decoder([]) == "<think>\n" and decoder([end]) == "<think>\n"


def test_nothing_a_folder_recommends_is_drawn_with_and_what_is_asked_for_holds(tmp_path):
    folder = make_model(tmp_path, "qwen3_vl")
    published = GenerationConfig.from_pretrained(folder)
    leaks = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "top_k": 5, "min_p": 0.2, "bad_words_ids": [[7]]}
    GenerationConfig(
        **leaks, do_sample=True, eos_token_id=published.eos_token_id, pad_token_id=published.pad_token_id
    ).save_pretrained(folder)
    model, processor = load_policy(folder)
    drawn, _ = model._prepare_generation_config(generation_config(model, max_new_tokens=4))
    assert {key: getattr(drawn, key) for key in leaks} == {
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "top_k": 0,
        "min_p": None,
        "bad_words_ids": None,
    }
    assert drawn.suppress_tokens == [model.config.image_token_id]
    asked = generation_config(model, max_new_tokens=4, top_k=3, repetition_penalty=1.1, more={"min_new_tokens": 2})
    drawn, _ = model._prepare_generation_config(asked)
    assert (drawn.top_k, drawn.repetition_penalty, drawn.min_new_tokens) == (3, 1.1, 2)
    greedy, _ = model._prepare_generation_config(generation_config(model, max_new_tokens=4, temperature=0.0))
    assert not greedy.do_sample
    ends = Decoder.of(processor, model.generation_config.eos_token_id).ends
    assert processor.tokenizer.convert_tokens_to_ids("<|im_end|>") in ends


def test_what_the_template_ends_an_answer_with_ends_generation(tmp_path):
    model, processor = load_policy(make_model(tmp_path, "qwen3_vl"))
    end, other = processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    processor.tokenizer.eos_token = "<|endoftext|>"
    model.generation_config = GenerationConfig(eos_token_id=other, pad_token_id=other)
    forget_published(model, processor)
    assert model.generation_config.eos_token_id == sorted([end, other])
