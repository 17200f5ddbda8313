"""Every format of `data_prep import`: from a file to a training step, boxes exact, without YAML.

The tests of the formats write each file as its own tool does, and check that every box of what was imported is exact.
Here they do that in a folder each; then one training step reads a row of each data set, and another one the files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from grounding.io import read_samples
from recipes import data as recipe_data
from recipes.callbacks import read_metrics
from tests.data_prep import test_import as written
from tests.data_prep.helpers_data import write_picture
from tests.data_prep.test_import import folder  # noqa: F401
from tests.recipes.test_own_files import one_stage, place  # noqa: F401
from train import main as train

# format: the test that writes the file and imports it, what it needs, and the file's name
FORMATS = {
    "CSV": (written.test_csv_of_pandas, (",",), "labels.csv"),
    "TSV": (written.test_csv_of_pandas, ("\t",), "labels.csv"),
    "JSON lines": (written.test_json_lines_with_lists, (), "rows.jsonl"),
    "JSON": (written.test_the_space_of_a_table_is_found, (1000,), "rows.json"),
    "Parquet": (written.test_parquet_of_a_hub_data_set, (), "train.parquet"),
    "COCO": (written.test_coco_of_supervision, ("detections",), "coco.json"),
    "COCO with captions": (written.test_coco_with_captions_and_paths_of_another_machine, (), "coco.json"),
    "YOLO": (written.test_yolo_of_supervision, ("detections",), "yolo/data.yaml"),
    "Pascal VOC": (written.test_pascal_voc_of_supervision, ("detections",), "voc"),
    "LabelMe": (written.test_labelme, (), "labels"),
    "CVAT": (written.test_cvat_for_images, (), "annotations.xml"),
    "Label Studio": (written.test_label_studio, (), "project-1.json"),
    "CreateML": (written.test_createml, (), "_annotations.createml.json"),
    "ShareGPT": (written.test_sharegpt_with_json_answers, (None, "qwen2_5_vl"), "chat.json"),
    "LLaVA": (written.test_llava_with_fractions, (), "llava.json"),
    "ms-swift": (written.test_ms_swift_objects, (), "swift.jsonl"),
    "VLM-R1": (written.test_vlm_r1, (), "rec.jsonl"),
}
REJECTED = {"LabelMe", "Label Studio"}  # their files have rows that are rejected, more than a recipe takes


@pytest.fixture
def imports(place, monkeypatch):  # noqa: F811
    """{format: (its data set, its file)}, each in a folder of its own."""
    found = {}
    for format, (write, given, name) in FORMATS.items():
        own = place / format.replace(" ", "_")
        for number, size in enumerate(written.SIZES):
            write_picture(own / "shots" / f"{number}.jpg", *size)
        monkeypatch.chdir(own)
        if given == ("detections",):
            write(own, written.detections_of(own))
        else:
            write(own, *given)
        made = sorted((own / "data").iterdir(), key=lambda path: path.stat().st_ctime_ns)[0]
        found[format] = made, own / name
    monkeypatch.chdir(place)
    return found


@pytest.mark.slow
def test_every_format_reaches_a_training_step(imports, place, monkeypatch):  # noqa: F811
    read, row = [], recipe_data.RowBuilder.row

    def spy(self, sample, images, answer_kind):
        read.append(sample)
        return row(self, sample, images, answer_kind)

    def step(name, *data):
        read.clear()
        count = len(imports)
        args = [f"stages.0.args.{key}" for key in ("max_steps=1", f"per_device_train_batch_size={count}")]
        assert train([one_stage(place), f"name={name}", "data.limit=1", "tracker=none", *data, *args]) == 0
        assert [line["step"] for line in read_metrics(Path(f"runs/{name}/0-sft/metrics.jsonl"))] == [1, 1]
        trained = read[-count:]  # the step is the last that reads
        return {(sample.source, sample.id, sample.instruction, sample.target) for sample in trained}

    monkeypatch.setattr(recipe_data.RowBuilder, "row", spy)
    sets = {name: data for name, (data, _) in imports.items()}
    first = {name: next(iter(read_samples(data / "train.jsonl"))) for name, data in sets.items()}
    wanted = {(one.source, one.id, one.instruction, one.target) for one in first.values()}
    assert step("sets", f"data.path=[{','.join(map(str, sets.values()))}]") == wanted

    recipe_data.imported.cache_clear()
    files = {name: file for name, (_, file) in imports.items() if name not in REJECTED}
    imports = files  # what `step` counts
    pictures = f"data.images={place / 'CSV/shots'}"
    assert step("files", f"data.path=[{','.join(map(str, files.values()))}]", pictures) == {
        (one.source, one.id, one.instruction, one.target) for name, one in first.items() if name in files
    }
