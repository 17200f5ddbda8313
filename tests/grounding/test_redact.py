"""Secrets are hidden wherever text is kept or shown, and nothing else is."""

from __future__ import annotations

import json
import time

import pytest

from grounding.redact import redact

SECRET = "Zx81-secret"


@pytest.mark.parametrize(
    "text",
    [
        "api_key: {}",
        "  - hf_token: {}",
        "token: {}",
        "token: two words {}",
        "Authorization: Bearer {}",
        "headers: {{Authorization: Bearer {}, Accept: x}}",
        'headers: {{"X-Api-Key": "{}"}}',
        "cookie: a={}",
        "client_secret = '{}'",
        "stages.1.args.hub_token={}",
        "OPENAI_API_KEY={} python train.py",
        "train.py --token {} --seed 1",
        "--api-key={}",
        '["--password", "x", "password={}"]',
        "http://user:{}@host:8000/v1",
        "https://{}@host/v1: ConnectionError",
        "http://user:a/b{}@host:8000/v1",
        "postgres://user:{}@host/db",
        "http://host/v1?api_key={}&version=2",
        "wrong key Bearer abc1{}",
        "url: http://h/v1, token: {}",
        "rewards: [{{name: judge, params: {{api_key: '{}'}}}}]",
    ],
)
def test_secrets_are_hidden(text):
    shown = redact(text.format(SECRET))
    assert SECRET not in shown
    assert redact(shown) == shown


@pytest.mark.parametrize("key", ["sk-proj-0123456789abcdef", "hf_" + "a1" * 17, "ghp_" + "x" * 36])
def test_well_known_keys_are_hidden_under_any_name(key):
    assert key not in redact(f"[train.py, key={key}, {key}]")


@pytest.mark.parametrize(
    "text",
    [
        "api_key_env: JUDGE_KEY",
        "key_variable: TEACHER",
        "eos_token: <|im_end|>\npad_token: <pad>\nimage_token: <image>",
        "max_tokens: 512\nmax_new_tokens=16",
        "tokenizer: x",
        "anchor_tokens: [a, b]",
        "http://host:8000/v1 and http://host/@user/x and git@github.com:a/b",
        "http://host:8000/a@b",
        "secretary: Ann",
        "The token budget is 5",
        "basic authentication failed",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_json_stays_json():
    row = {"api_key": 'a"b', "url": "http://u:p@h/v1", "n": 1, "list": ["token=abc"]}
    assert json.loads(redact(json.dumps(row))) == {
        "api_key": "(not shown)", "url": "http://***@h/v1", "n": 1, "list": ["token=(not shown)"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "a.-_" * 50_000, "a." * 99_000, "http://" * 30_000, "token" * 40_000, "x:" * 90_000]
)
def test_long_text_takes_little_time(text):
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 3
