"""The heads of the repository's recipes, the commands that show them, and the page made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from grounding.errors import UsageError
from recipes.__main__ import main
from recipes.catalog import FOLDER, STATUS, heads, read_head, with_systems

PAGE = Path("docs/systems.md")
HEAD = """# What it is,
# in two lines.
#   python train.py x.yaml
# system: a system
# status: runs, dry
#   and more of it: really
name: x
stages: [{kind: sft}, {repeat: 2, stages: [{kind: select}, {kind: grpo}]}]
"""


def test_every_recipe_says_which_system_it_stands_for_and_what_was_seen_of_it():
    found = {head.name: head for head in heads()}
    assert found.keys() == {file.stem for file in FOLDER.rglob("*.yaml")}
    assert all(head.title and head.facts["status"].startswith(STATUS) for head in found.values())
    assert found["se_gui_qwen2_5_vl_7b"].stages == "2 x (filter, grpo)"


def test_the_page_of_systems_is_what_the_heads_say():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_systems(page), "run `python -m recipes systems docs/systems.md`"
    assert all(f"(../configs/recipes/{head.file.relative_to(FOLDER).as_posix()})" in page for head in heads())


def test_a_head_is_read_fact_by_fact(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(HEAD)
    head = read_head(file)
    assert (head.name, head.title) == ("x", "What it is, in two lines.")
    assert head.facts == {"system": "a system", "status": "runs, dry and more of it: really"}
    assert head.stages == "sft, 2 x (select, grpo)"
    for old, new, said in (
        ("# system: a system\n", "", "no `# system: ...`"),
        ("# status: runs", "# status: fine", "has to begin with measured, runs, smoke-tested"),
        ("# status: runs", "# stattus: runs", "unknown fact 'stattus'; did you mean 'status'"),
        ("# status: runs", "# paper: x\n# status: runs", "no `# reproduces: ...`"),
    ):
        file.write_text(HEAD.replace(old, new))
        with pytest.raises(UsageError, match=said) as caught:
            read_head(file)
        assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_the_commands_list_and_show(capsys, tmp_path):
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(heads())
    assert main(["show", "visrl_qwen2_5_vl_7b"]) == 0
    told = capsys.readouterr().out
    assert "arXiv 2503.07523" in told and "sft, 2 x (dpo)" in told and "rejected_at_most: 0.2" in told
    assert main(["show", "visrl_qwen2_5_vl_8b"]) == 2
    assert "did you mean 'visrl_qwen2_5_vl_7b'" in capsys.readouterr().err
    assert main(["show", "qwen3_vl_8b"]) == 2
    assert "it is now refcoco with model=qwen3_vl_8b" in capsys.readouterr().err
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- recipes -->\nold\n<!-- end -->\nb\n")
    assert main(["systems", str(page)]) == 0
    assert page.read_text() == with_systems(page.read_text()) and "\nold\n" not in page.read_text()
