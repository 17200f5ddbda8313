"""Targets, answers, sizes and registries refuse what means nothing."""

from __future__ import annotations

import importlib
import math
import pickle
from pathlib import Path

import pytest

from grounding.answer import Answer, ImageSize, Status
from grounding.errors import BrokenRow, FoveaError, UsageError
from grounding.registry import Registry
from grounding.targets import Box, Boxes, Point, Points, Polygon, Span, kind_of


@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan, math.inf])
def test_coordinates_are_in_the_unit_square(value: float) -> None:
    with pytest.raises(ValueError, match="not a number in"):
        Point(0.5, value)
    with pytest.raises(ValueError, match="not a number in"):
        Box(0, 0, value, 1)
    with pytest.raises(ValueError, match="not a number in"):
        Polygon(((0, 0), (1, 1), (0, value)))


def test_regions_are_regions() -> None:
    with pytest.raises(ValueError, match="swapped corners"):
        Box(0.5, 0, 0.4, 1)
    with pytest.raises(ValueError, match="needs 3"):
        Polygon(((0, 0), (1, 1)))
    with pytest.raises(ValueError, match="start <= end"):
        Span(2, 1)
    for plural in (Boxes, Points):
        with pytest.raises(ValueError, match="use Absent"):
            plural(())
    with pytest.raises(TypeError, match="not a target"):
        kind_of("box")  # type: ignore[arg-type]


def test_centers_areas_and_bounds() -> None:
    box = Box(0.2, 0.4, 0.6, 0.8, image=1, label="cup")
    assert box.center == Point(0.4, (0.4 + 0.8) / 2, 1, "cup")
    assert box.area == pytest.approx(0.16)
    assert Polygon(((0.1, 0.9), (0.5, 0.2), (0.3, 0.3))).bounds == Box(0.1, 0.2, 0.5, 0.9)


def test_an_answer_clicks_its_first_point_else_its_first_boxs_center() -> None:
    box, point = Box(0, 0, 1, 1), Point(0.1, 0.2)
    assert Answer(Status.OK, (box,), (point,)).click == point
    assert Answer(Status.OK, (box,)).click == Point(0.5, 0.5)
    assert Answer(Status.NO_ANSWER).click is None


def test_seen_sizes_default_to_the_original() -> None:
    assert ImageSize(4, 3) == ImageSize(4, 3, 4, 3)
    with pytest.raises(ValueError, match="not positive"):
        ImageSize(0, 3)


def test_errors_survive_another_process_and_know_their_exit_code() -> None:
    error = pickle.loads(pickle.dumps(BrokenRow("train.jsonl:3", "no images")))
    assert (str(error), error.where, error.exit_code) == ("train.jsonl:3: no images", "train.jsonl:3", 1)
    assert (FoveaError.exit_code, UsageError.exit_code) == (1, 2)


def test_a_registry_finds_suggests_and_imports() -> None:
    things: Registry[object] = Registry("thing", "grounding.dialects")
    things.register("first")(1)
    assert things.get("first") == 1
    assert "first" in things
    assert list(things) == ["first"]
    assert things.get("numpy.pi") == math.pi
    assert things.get("numpy:pi") == math.pi
    with pytest.raises(UsageError, match="unknown thing 'frist'; did you mean 'first'"):
        things.get("frist")
    with pytest.raises(UsageError, match="known: first"):
        things.get("zzzz")
    with pytest.raises(UsageError, match=r"'numpy\.nothing' cannot be imported"):
        things.get("numpy.nothing")
    with pytest.raises(ValueError, match="registered twice"):
        things.register("first")(2)


def test_a_registry_walks_subpackages_except_those_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, entry in {
        "a.py": "a",
        "sub/b.py": "b",
        "sub/_private.py": "c",
        "left/d.py": "d",
        "sub/e.py": "e",
    }.items():
        path = tmp_path / "walked" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in {path.parent, tmp_path / "walked"}:
            (folder / "__init__.py").touch()
        path.write_text(f"from walked_things import THINGS\nTHINGS.register({entry!r})(1)\n")
    (tmp_path / "walked_things.py").write_text(
        "from grounding.registry import Registry\nTHINGS = Registry('thing', 'walked', skip=('left', 'sub.e'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("walked_things").THINGS.names() == ["a", "b"]


@pytest.mark.parametrize("path", ["subprocess.check_output", "os:system", "builtins.exec", "grounding.io.Path"])
def test_a_registry_does_not_lead_into_the_standard_library(path: str) -> None:
    with pytest.raises(UsageError, match="a part of Python's standard library"):
        Registry("thing", package="grounding").get(path)
