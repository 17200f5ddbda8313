"""Files in COCO's format: captions are asked for, doubled keys are named, nothing is left out in silence."""

from __future__ import annotations

import pytest

from grounding.targets import Box, Boxes
from tests.data_prep.helpers_data import convert, reasons, write_json, write_picture

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
IMAGES = [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 100}]


def box(bbox=(10, 20, 30, 40), category=1, **other):
    return {"image_id": 7, "category_id": category, "bbox": list(bbox), **other}


def coco(root, *annotations, images=IMAGES, categories=CATEGORIES, flags=()):
    write_picture(root / "train2017/a.jpg", 100, 100)
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_json(root / "annotations/instances_train2017.json", content)
    items, rejects = convert("coco", root, *flags)
    return [item.sample for item in items], rejects


def test_captions_are_what_is_asked_for(tmp_path):
    annotations = (
        box(id=1, caption="the black cat"),
        box((50, 50, 20, 20), id=2, caption="two kittens"),
        box((70, 50, 20, 20), id=3, caption="two kittens"),
    )
    samples, rejects = coco(tmp_path, *annotations)
    assert not rejects
    assert [sample.instruction for sample in samples] == ["the black cat", "two kittens"]
    assert samples[0].target == Box(0.1, 0.2, 0.4, 0.6, label="the black cat")
    assert isinstance(samples[1].target, Boxes) and len(samples[1].target.items) == 2
    assert samples[0].meta["category"] == "cat"
    samples, _ = coco(tmp_path, *annotations, flags=("--instruction", "category"))
    assert [sample.instruction for sample in samples] == ["every cat"]


def test_any_field_may_hold_the_instruction(tmp_path):
    samples, rejects = coco(tmp_path, box(say="the cat"), box((1, 2, 3, 4)), flags=("--instruction", "say"))
    assert [sample.instruction for sample in samples] == ["the cat"]
    assert reasons(rejects) == ["wrong format"]
    (one, two), _ = coco(tmp_path, {"image_id": 7, "bbox": [10, 20, 30, 40], "captions": ["a", "b"]})
    assert (one.instruction, two.instruction) == ("a", "b") and one.target.xyxy == two.target.xyxy


def test_an_annotation_without_a_caption_among_captions_is_named(tmp_path):
    samples, rejects = coco(tmp_path, box(id=1, caption="the cat"), box((1, 2, 30, 40), id=2))
    assert [sample.instruction for sample in samples] == ["the cat"]
    assert [(reject.reason, "annotation 2" in reject.where) for reject in rejects] == [("no caption", True)]


def test_the_license_is_never_invented(tmp_path):
    assert coco(tmp_path, box())[0][0].license == "unknown"
    told = coco(tmp_path, box(), flags=("--license", "CC-BY-4.0", "--source", "shop"))[0][0]
    assert (told.license, told.source) == ("CC-BY-4.0", "shop")


@pytest.mark.parametrize(
    ("changed", "where", "word"),
    [
        ({"categories": [*CATEGORIES, {"id": 1, "name": "bird"}]}, "categories:3", "category 1"),
        ({"images": [*IMAGES, {**IMAGES[0], "file_name": "b.jpg"}]}, "images:2", "image 7"),
    ],
)
def test_what_two_rows_claim_is_nobodys(tmp_path, changed, where, word):
    samples, rejects = coco(tmp_path, box(), **changed)
    assert not samples and reasons(rejects) == ["duplicate id", "duplicate id"]
    assert where in rejects[0].where and all(word in reject.detail for reject in rejects)


def test_what_is_there_twice_with_the_same_content_counts_once(tmp_path):
    samples, rejects = coco(
        tmp_path, box(id=1), box(id=1), categories=[*CATEGORIES, CATEGORIES[0]], images=[*IMAGES, *IMAGES]
    )
    assert samples[0].target == Box(0.1, 0.2, 0.4, 0.6, label="cat")
    assert reasons(rejects) == ["duplicate id"] * 3


def test_two_names_alike_are_named(tmp_path):
    samples, rejects = coco(tmp_path, box(category=1), categories=[*CATEGORIES, {"id": 3, "name": "cat"}])
    assert len(samples) == 1 and "categories 1 and 3: 'cat'" in rejects[0].detail


def test_the_same_box_twice_is_one_target(tmp_path):
    samples, rejects = coco(tmp_path, box(id=1), box(id=2), box((50, 50, 20, 20), id=3))
    assert len(samples[0].target.items) == 2
    assert [(reject.reason, "annotation 2" in reject.where) for reject in rejects] == [("duplicate annotation", True)]


def test_one_id_with_two_contents_is_no_annotation(tmp_path):
    samples, rejects = coco(
        tmp_path, box(id=1), box((5, 5, 9, 9), id=1), box((50, 50, 20, 20), id=2), box(category=2)
    )
    assert [sample.instruction for sample in samples] == ["dog"]  # "cat" would lack one that nobody knows
    assert reasons(rejects) == ["duplicate id", "duplicate id", "incomplete"]


def test_every_means_every(tmp_path):
    samples, rejects = coco(tmp_path, box(), box((1, 2, "x", 4)), box(category=2))
    assert [sample.instruction for sample in samples] == ["dog"]
    assert reasons(rejects) == ["wrong format", "incomplete"]


def test_fractions_are_no_pixels(tmp_path):
    samples, rejects = coco(tmp_path, box((0.1, 0.2, 0.3, 0.4)))
    assert not samples and reasons(rejects) == ["fractions for pixels"]
