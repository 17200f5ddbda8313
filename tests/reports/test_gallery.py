import base64
import io
import math

import pytest
from PIL import Image

from reports import gallery as gallery_module
from reports import places
from reports.gallery import MAX_SIDE, choose, clip, embed, gallery
from reports.read_run import read_run


def row(truth=(0.2, 0.2, 0.4, 0.4), boxes=(), points=(), correct=False, **changes):
    return {
        "id": "q",
        "instruction": "x",
        "images": [{"path": "a.png", "width": 300, "height": 400}],
        "groups": {},
        "frame": "unit",
        "truth": {"boxes": [list(truth)] if truth else [], "box_images": [0] if truth else []},
        "prediction": {"boxes": [list(b) for b in boxes], "points": [list(p) for p in points], "images": []},
        "status": "ok",
        "correct": correct,
        "value": 0.0,
    } | changes


def test_distance_is_in_diagonals_of_the_image():
    # the diagonal of 300 x 400 is 500; a click at x = 0.9 is 0.5 * 300 = 150 pixels right of the box
    assert places.distance(row(points=[(0.9, 0.3)])) == pytest.approx(0.3)
    # a 3-4-5 triangle from the corner: 90 right, 120 down
    assert places.distance(row(points=[(0.7, 0.7)])) == pytest.approx(0.3)


def test_distance_inside_without_answer_and_without_place():
    assert places.distance(row(boxes=[(0.2, 0.2, 0.3, 0.3)])) == 0.0
    assert places.distance(row()) == places.NOWHERE
    assert math.isnan(places.distance(row(truth=None, points=[(0.5, 0.5)])))


def test_distance_to_the_nearest_of_boxes_and_outlines():
    truth = {"boxes": [[0, 0, 0.1, 0.1]], "box_images": [0], "polygons": [[[0.5, 0.5], [0.9, 0.5], [0.5, 0.9]]]}
    assert places.distance(row(points=[(0.6, 0.6)], truth=None) | {"truth": truth}) == 0.0


def test_pixel_frames_are_scaled():
    in_pixels = row(truth=(60, 80, 120, 160), points=[(270, 120)]) | {"frame": "pixel"}
    assert places.distance(in_pixels) == pytest.approx(0.3)


def test_marks_far_outside_are_drawn_at_the_margin_and_swapped_corners_sorted():
    (shape,) = places.said_places(row(boxes=[(0.5, 0.6, 1e12, 0.1)]))
    assert shape.coords == (0.5, 0.1, 1.25, 0.6)


def test_only_the_image_with_the_target_is_drawn():
    two = row(boxes=[(0, 0, 0.1, 0.1), (0.5, 0.5, 0.6, 0.6)])
    two["images"] = [{"path": "a", "width": 10, "height": 10}, {"path": "b", "width": 20, "height": 20}]
    two["truth"]["box_images"] = [1]
    two["prediction"]["images"] = [0, 1]
    assert places.image_of_interest(two) == 1
    assert [s.coords for s in places.said_places(two, 1)] == [(0.5, 0.5, 0.6, 0.6)]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"correct": True}, "right"),
        ({}, "wrong"),
        ({"status": "malformed"}, "unreadable"),
        ({"skipped": True}, "skipped"),
    ],
)
def test_verdicts(changes, word):
    assert places.verdict(row(**changes)) == word


def test_failures_come_first_and_the_furthest_of_them():
    near, far, nowhere = row(points=[(0.5, 0.3)]), row(points=[(0.9, 0.3)]), row()
    right = row(correct=True)
    assert choose([right, near, nowhere, far]) == [nowhere, far, near, right]


@pytest.mark.parametrize(
    ("wrong", "right", "shown"), [(500, 500, (100, 50)), (20, 500, (20, 130)), (500, 3, (147, 3))]
)
def test_a_large_evaluation_is_cut_but_keeps_both_sides(wrong, right, shown):
    chosen = choose([row(correct=False)] * wrong + [row(correct=True)] * right, most=150)
    assert (sum(not r["correct"] for r in chosen), sum(r["correct"] for r in chosen)) == shown


def test_texts_are_cut():
    assert clip("a" * 2000).endswith("… (500 more characters)")
    assert clip(None) == ""


def test_pictures_are_scaled_down_and_never_up(tmp_path):
    Image.effect_noise((2000, 500), 90).save(tmp_path / "big.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "small.png")
    big, small = embed(tmp_path, "big.png", 2000, 500), embed(tmp_path, "small.png", 40, 30)
    assert (big.width, big.height) == (MAX_SIDE, MAX_SIDE // 4)
    assert (small.width, small.height) == (40, 30)
    for picture in (big, small):
        pixels = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))
        assert pixels.size == (picture.width, picture.height)


@pytest.mark.parametrize("path", ["missing.png", "../secret.png", "broken.png"])
def test_a_picture_that_cannot_be_read_keeps_its_shape(tmp_path, path):
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.png").write_bytes(b"no image")
    picture = embed(tmp_path / "data", path, 40, 30)
    assert (picture.uri, picture.width, picture.height) == ("", 40, 30)


def test_the_page_stops_embedding_when_it_is_full(workshop, monkeypatch):
    monkeypatch.setattr(gallery_module, "MAX_PICTURE_CHARACTERS", 2000)
    made = gallery(read_run(workshop.run()).evaluations, 2)
    embedded = [card for card in made.cards if card.picture.uri]
    assert 0 < len(embedded) < len(made.cards)
    assert any("to keep the page small" in note for note in made.notes)


def test_cards_hold_everybodys_answers(workshop):
    run = read_run(workshop.run())
    made = gallery(run.evaluations, 2)
    card = next(card for card in made.cards if card.id == "q20")
    assert [said.verdict for said in card.answers] == ["wrong", "right", "right"]
    assert made.cards[0].answers[2].verdict == "wrong"
    distances = [card.answers[2].distance for card in made.cards if card.answers[2].verdict == "wrong"]
    assert distances == sorted(distances, reverse=True)
