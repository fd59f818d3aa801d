"""The check before training: what it takes as a dataset, and what it advises."""

import json

import datasets
import pytest
from PIL import Image

from mmdpo.data.examples import read_examples
from mmdpo.data.faults import Fault, describe_faults
from mmdpo.training.config import MDPOConfig
from mmdpo.training.recipe import RecipeError, parse_recipe
from mmdpo.training.rows import to_preferences
from mmdpo.training.run import read_data

ROW = {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "images": ["a.jpg"]}


@pytest.fixture
def args(tmp_path):
    return MDPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")


def test_leaving_rows_out_is_advised_only_where_rows_would_be_left():
    faults = [Fault(row, f"pairs, row {row}", "odd") for row in (1, 2)]
    assert "on_bad_row: skip" in describe_faults(faults, 3)
    assert "on_bad_row" not in describe_faults(faults, 2)


def test_a_dict_of_lists_is_a_dataset(args):
    assert len(to_preferences({name: [value] * 3 for name, value in ROW.items()}, "train", args)) == 3


@pytest.mark.parametrize("given", ["pairs.jsonl", {"train": 1}, iter([ROW])], ids=["name", "mapping", "iterator"])
def test_what_is_no_dataset_is_refused_with_what_to_give(args, given):
    with pytest.raises(TypeError, match=r"^train is a .*give (one|a) datasets\.Dataset.*list of rows"):
        to_preferences(given, "train", args)


def test_a_root_that_no_image_starts_from_is_told(tmp_path, caplog):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    row = {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car."}
    for name, image in (("there", str(tmp_path / "a.png")), ("relative", "a.png")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**row, "image": image}))
        read_examples(str(tmp_path / f"{name}.jsonl"), "train", image_root=str(tmp_path / "photos"))
    read_examples("world", "test", image_root="photos")
    unused = f"image_root {tmp_path / 'photos'} is not used, since no image of the first 1 rows is a relative path"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'there.jsonl'}: {unused}",
        "world: image_root photos is not used, since an embedded world draws its images",
    ]


def test_an_embedded_world_has_no_configurations():
    with pytest.raises(RecipeError, match="dataset_config is 'small', and an embedded world has none"):
        read_examples("world", "train", config="small")


def test_an_evaluation_file_takes_neither_the_default_split_nor_the_configuration_of_the_dataset(tmp_path, monkeypatch):
    published = datasets.Dataset.from_list([ROW])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: published if config == "small" else 1 / 0)
    row = {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "image": "a.png"}
    (tmp_path / "held_out.jsonl").write_text(json.dumps(row))

    def read(**keys):
        given = {"model_name_or_path": "world", "output_dir": tmp_path / "run", "eval_strategy": "epoch", **keys}
        return read_data(parse_recipe([word for key, value in given.items() for word in (f"--{key}", str(value))]))

    files = {"dataset_name": "me/pairs", "dataset_config": "small", "eval_dataset_name": tmp_path / "held_out.jsonl"}
    assert [len(part) for part in read(**files)] == [1, 1]
    with pytest.raises(ValueError, match=r"held_out.jsonl: dataset_test_split is 'nope'"):
        read(**files, dataset_test_split="nope")


def test_a_pattern_is_not_evaluated_on_what_it_is_trained_on(tmp_path):
    datasets.Dataset.from_list([ROW] * 2).to_parquet(tmp_path / "pairs-0.parquet")
    flags = ["--dataset_name", str(tmp_path / "pairs-*.parquet"), "--eval_strategy", "epoch"]
    with pytest.raises(RecipeError, match="has one split: set test_split_size"):
        read_data(parse_recipe(["--model_name_or_path", "world", "--output_dir", str(tmp_path / "run"), *flags]))
