"""Model folders of the published families, without weights: configuration, processor, tokenizer rules.

Sizes are facts of the published models; the tokenizer is a small one, which changes no size.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.recipes.tiny import internvl_tokenizer, tokenizer

# name: text width, feed-forward, layers, heads, key-value heads, vocabulary, tied; vision depth, width, feed-forward
QWEN2_5_VL = {
    "qwen2_5_vl_3b": (2048, 11008, 36, 16, 2, 151936, True, 3_754_622_976),
    "qwen2_5_vl_7b": (3584, 18944, 28, 28, 4, 152064, False, 8_292_166_656),
}
QWEN3_VL = {
    "qwen3_vl_2b": (2048, 6144, 28, 16, 8, True, (24, 1024, 4096, [5, 11, 17]), 2_127_532_032),
    "qwen3_vl_4b": (2560, 9728, 36, 32, 8, True, (24, 1024, 4096, [5, 11, 17]), 4_437_815_808),
    "qwen3_vl_8b": (4096, 12288, 36, 32, 8, False, (27, 1152, 4304, [8, 16, 24]), 8_767_123_696),
}
PARAMETERS = {name: facts[-1] for name, facts in {**QWEN2_5_VL, **QWEN3_VL}.items()}

TOKEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
# The published template without tools and video: a default system message, images before or after the words.
QWEN2_5_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != "system" -%}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content -%}
{%- if part.type == "image" -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def make_family(folder: Path, name: str) -> Path:
    """The folder of a published model without its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "internvl3_5_4b":
        config, processor, words = *_internvl3_5(), internvl_tokenizer()
    else:
        config, processor = _qwen2_5(name) if name in QWEN2_5_VL else _qwen3(name)
        words = tokenizer()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if name in QWEN2_5_VL:
        words.chat_template = QWEN2_5_TEMPLATE
    words.save_pretrained(folder)
    return folder


def _qwen2_5(name: str) -> tuple[dict, dict]:
    width, forward, layers, heads, kv_heads, vocabulary, tied, _ = QWEN2_5_VL[name]
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_size": width,
        "intermediate_size": forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 128000,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rms_norm_eps": 1e-06,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        **TOKEN_IDS,
    }
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    return config, processor


def _qwen3(name: str) -> tuple[dict, dict]:
    width, forward, layers, heads, kv_heads, tied, vision, _ = QWEN3_VL[name]
    depth, vision_width, vision_forward, deepstack = vision
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": width,
            "intermediate_size": forward,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": tied,
            "max_position_embeddings": 262144,
            "rope_theta": 5000000,
            "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
            "rms_norm_eps": 1e-06,
            "dtype": "bfloat16",
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": depth,
            "hidden_size": vision_width,
            "intermediate_size": vision_forward,
            "num_heads": 16,
            "out_hidden_size": width,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": deepstack,
        },
        **TOKEN_IDS,
    }
    processor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return config, processor


def _internvl3_5() -> tuple[dict, dict]:
    """InternVL3.5-4B in transformers' format: Qwen3-4B behind the 300M vision tower."""
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_token_id": 151671,
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
        "dtype": "bfloat16",
        "text_config": {
            "model_type": "qwen3",
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "rope_theta": 1000000,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "attention_bias": True,
        },
    }
    processor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
        "size": {"height": 448, "width": 448},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    return config, processor
