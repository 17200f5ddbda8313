"""A model is asked as it was trained: what its folder says, and what the command line says instead."""

from __future__ import annotations

import json

import pytest

from grounding.errors import UsageError
from models.profile import Profile, read_profile
from models.prompting import messages


def folder(tmp_path, **told):
    (tmp_path / "fovea.json").write_text(json.dumps({"dialect": "qwen3_vl", **told}))
    return str(tmp_path)


def test_the_folder_says_how_and_flags_say_otherwise(tmp_path):
    path = folder(tmp_path, grammar="think", image_first=False, system="You point at things.")
    assert read_profile(path) == Profile("qwen3_vl", "think", False, "You point at things.")
    assert read_profile(path, system="Be brief.").system == "Be brief."
    assert read_profile(folder(tmp_path)) == Profile("qwen3_vl", "bare", True, None)
    assert read_profile(folder(tmp_path, system=None)).system is None
    with pytest.raises(UsageError, match="--dialect"):
        read_profile(None)


@pytest.mark.parametrize("image_first", [True, False])
def test_the_system_message_comes_before_the_question(image_first):
    system, user = messages("the red square", 1, image_first=image_first, system="Be brief.")
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert [part["type"] for part in user["content"]] == (["image", "text"] if image_first else ["text", "image"])
    assert messages("the red square", 1, image_first=image_first, system=None) == [user]
