import io
import json

import datasets
import pytest
from PIL import Image

from mmdpo.data.read import read_dataset
from mmdpo.examples import RowError


def pair(**columns):
    return {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "image": "a.jpg"} | columns


ROWS = [pair(), pair(chosen="A mug.", extra=[1, "x"]), {"prompt": 7, "chosen": "A pot."}]
"""Arrow refuses these: columns are missing, and hold values of several types."""


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", json.dumps(ROWS)),
        ("rows.json", json.dumps({"version": 1, "data": ROWS})),
        ("lines.json", "\n".join(map(json.dumps, ROWS))),
        ("rows.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, ROWS)) + "\n"),
    ],
)
def test_json_with_uneven_rows(tmp_path, name, text):
    dataset = read_dataset(write(tmp_path / name, text))
    assert (len(dataset), dataset[1].responses["chosen"]) == (3, "A mug.")
    assert dataset[0].images == (tmp_path / "a.jpg",)
    assert dataset[1].source == f"{tmp_path / name}, row 2"
    with pytest.raises(RowError, match="row 3: `prompt` is a value of type int"):
        dataset[2]


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path):
    row = json.dumps(pair(chosen="A\u2028cup."), ensure_ascii=False)
    assert read_dataset(write(tmp_path / "a.jsonl", row))[0].responses["chosen"] == "A\u2028cup."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.jsonl", json.dumps(pair()) + '\n\n{"prompt": "x", }\n'),
        ("bad.json", json.dumps(pair()) + '\n\n{"prompt": "x", }\n'),
        ("bad.json", '[\n{"prompt": "x"},\n{"prompt": }]'),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, text):
    with pytest.raises(RowError, match=rf"{name}, line 3: this is not JSON \(.* at column \d+\): mend or remove"):
        read_dataset(write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("one.json", b'{"prompt": "x"}', r'one.json: this is dict: write an array of rows, or \{"data"'),
        ("latin.jsonl", '{"prompt": "caf\xe9"}'.encode("latin-1"), "latin.jsonl: this is not UTF-8 at byte 15"),
        ("rows.csv", b"prompt,chosen\n", "rows.csv: files of this kind are not read: convert it to one of .jsonl"),
        ("rows.parquet", b"PAR1 and no more", "rows.parquet: cannot be read as a dataset"),
        ("empty.jsonl", b"", "empty.jsonl: there are no rows"),
    ],
)
def test_files_that_are_no_datasets(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_dataset(tmp_path / name)


def test_parquet_keeps_embedded_images_encoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "JPEG")
    rows = datasets.Dataset.from_list([pair(image={"bytes": buffer.getvalue(), "path": None})])
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "rows.parquet")
    assert read_dataset(tmp_path / "rows.parquet")[0].images == (buffer.getvalue(),)


def test_a_saved_folder_and_its_splits(tmp_path):
    rows = datasets.Dataset.from_list([pair()])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.map(lambda row: {"chosen": "A pot."})}).save_to_disk(
        tmp_path / "two"
    )
    assert read_dataset(tmp_path / "one", image_root="elsewhere")[0].images[0].parts == ("elsewhere", "a.jpg")
    assert read_dataset(tmp_path / "two", split="test")[0].responses["chosen"] == "A pot."
    assert read_dataset(tmp_path / "two")[0].source == f"{tmp_path / 'two'}[train], row 1"
    with pytest.raises(ValueError, match="there is no split 'val', only train, test"):
        read_dataset(tmp_path / "two", split="val")


def test_a_folder_of_images_with_metadata(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    rows = [{"file_name": name, **pair()} for name in ("a.png", "b.png")]
    for row in rows:
        del row["image"]
    write(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    dataset = read_dataset(tmp_path)
    assert [example.images for example in dataset] == [(tmp_path / "a.png",), (tmp_path / "b.png",)]


def test_a_folder_with_a_file_for_the_split(tmp_path):
    write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, ROWS)))
    dataset = read_dataset(tmp_path, split="test")
    assert (len(dataset), dataset[0].images) == (3, (tmp_path / "a.jpg",))


def test_what_is_not_there(tmp_path, monkeypatch):
    for name in (tmp_path / "gone", "gone/rows.jsonl", "./gone"):
        with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
            read_dataset(name)

    def refuse(name, config, split):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        ValueError, match=r"somebody/pairs: cannot be read as a dataset .*doesn't exist.* Give a \.json"
    ):
        read_dataset("somebody/pairs")


def test_a_hub_name_goes_to_datasets_with_its_config_and_split(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([pair()])

    monkeypatch.setattr(datasets, "load_dataset", load)
    example = read_dataset("somebody/pairs", config="small", split="test")[0]
    assert asked == [("somebody/pairs", "small", "test")]
    assert example.source == "somebody/pairs[test], row 1"
