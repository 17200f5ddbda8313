"""Tiny random-weight models of the real classes, and a few samples, for tests that train for a step or two."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from grounding.io import write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Box
from models.loading import save_policy
from models.processors import InternVLImageOnlyProcessor, Qwen25VLImageOnlyProcessor
from models.tiny import SPECIAL_TOKENS, build, train_tokenizer

TEXTS = (
    'click the red square and the blue square <think>The red square is there.</think>{"bbox_2d": [0, 1, 2, 3]}',
    "Report the bounding box in JSON, locate the point, think first: 4 5 6 7 8 9.",
)
DIALECTS = {"qwen3_vl": "qwen3_vl", "qwen2_5_vl": "qwen2_5_vl", "internvl": "internvl"}


def placeholder(processor) -> str:
    """What stands for a picture in the text a processor reads."""
    if processor.image_token == "<IMG_CONTEXT>":
        return processor.image_token
    return "<|vision_start|><|image_pad|><|vision_end|>"


def tokenizer():
    return train_tokenizer(TEXTS * 20, vocab_size=400)


def make_model(folder: Path, family: str) -> Path:
    """A model folder of one of the families in `DIALECTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    if family == "qwen3_vl":
        model, processor = build(tokenizer(), hidden=64, layers=2, vision_hidden=64, vision_layers=2)
    elif family == "qwen2_5_vl":
        model, processor = _qwen2_5_vl()
    else:
        model, processor = _internvl()
    save_policy(folder, model, processor)
    return folder


def _qwen2_5_vl():
    words = tokenizer()
    ids = {token: words.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "bos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    return model, Qwen25VLImageOnlyProcessor(image_processor, words, chat_template=words.chat_template)


def internvl_tokenizer():
    plain = tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        chat_template=plain.chat_template.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>"),
    )


def _internvl():
    words = internvl_tokenizer()
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "pad_token_id": words.pad_token_id,
            "eos_token_id": words.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": (56, 56),
            "patch_size": (14, 14),
        },
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    image_processor = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, max_patches=4)
    return model, InternVLImageOnlyProcessor(
        image_processor, words, image_seq_length=4, chat_template=words.chat_template
    )


def make_data(folder: Path, count: int = 16, size: tuple[int, int] = (96, 96), suffix: str = "jsonl") -> Path:
    """A data set folder with a square per image."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = []
    width, height = size
    for index in range(count):
        draw = random.Random(index)
        color = draw.choice(["red", "blue"])
        x, y = draw.randrange(width - 24), draw.randrange(height - 24)
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).rectangle([x, y, x + 24, y + 24], fill=color)
        image.save(folder / f"images/{index}.png")
        samples.append(
            Sample(
                id=f"square-{index}",
                images=(ImageRef(f"images/{index}.png", width, height),),
                instruction=f"click the {color} square",
                target=Box(x / width, y / height, (x + 24) / width, (y + 24) / height),
                source="squares",
                license="CC0-1.0",
                thought=f"The {color} square is there.",
            )
        )
    write_samples(folder / f"train.{suffix}", samples)
    return folder
