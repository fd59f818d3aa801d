import io
import json
import os
import tarfile

import datasets
import pytest
from PIL import Image

from mmdpo.data.read import has_splits, only_split, read_dataset, read_stream
from mmdpo.records import RowError


def pair(**columns):
    return {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "image": "a.jpg"} | columns


ROWS = [pair(), pair(chosen="A mug.", extra=[1, "x"]), {"prompt": 7, "chosen": "A pot."}]
"""Arrow refuses these: columns are missing, and hold values of several types."""


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    return buffer.getvalue()


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


class TestOneSplit:
    """A split or a configuration that a dataset cannot have is refused, not passed over."""

    @pytest.fixture(params=["pairs.jsonl", "pairs.parquet", "pairs-*.parquet", "saved"])
    def source(self, request, tmp_path):
        rows = datasets.Dataset.from_list([pair()])
        rows.to_json(tmp_path / "pairs.jsonl")
        rows.to_parquet(tmp_path / "pairs.parquet")
        rows.to_parquet(tmp_path / "pairs-0.parquet")
        rows.save_to_disk(tmp_path / "saved")
        return tmp_path / request.param

    def test_another_split_is_refused(self, source):
        assert len(read_dataset(source, split="train")) == 1
        assert not has_splits(source)
        with pytest.raises(ValueError, match=r"split is 'nope', and .* has the split train alone: leave split out"):
            read_dataset(source, split="nope")

    def test_to_evaluate_on_it_is_to_evaluate_on_all_of_it(self, source):
        assert [only_split(source, split) for split in ("test", "train", "nope")] == ["train", "train", "nope"]
        assert only_split("somebody/pairs", "test") == "test"

    def test_a_configuration_is_refused(self, source):
        with pytest.raises(ValueError, match=r"dataset_config is 'small', and only"):
            read_dataset(source, config="small")

    def test_a_stream_refuses_alike(self, source):
        if source.suffix == ".parquet":
            assert read_stream(source).num_shards == 1
            with pytest.raises(ValueError, match="has the split train alone"):
                read_stream(source, split="nope")
            with pytest.raises(ValueError, match="dataset_config is 'small', and only"):
                read_stream(source, config="small")


def test_a_folder_of_splits_has_no_configurations(tmp_path):
    write(tmp_path / "test.jsonl", json.dumps(pair()))
    datasets.DatasetDict({"test": datasets.Dataset.from_list([pair()])}).save_to_disk(tmp_path / "saved")
    for folder in (tmp_path, tmp_path / "saved"):
        assert has_splits(folder)
        assert len(read_dataset(folder, split="test")) == 1
        with pytest.raises(ValueError, match="dataset_config is 'small', and only"):
            read_dataset(folder, split="test", config="small")


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


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("deep.json", f'[{{"prompt": {DEEP}}}]', "deep.json: this JSON is nested too deep"),
        (
            "deep.jsonl",
            json.dumps(pair()) + f'\n{{"prompt": {DEEP}}}',
            "deep.jsonl, line 2: this JSON is nested too deep",
        ),
        ("long.jsonl", f'{{"a": {"9" * 5000}}}', "long.jsonl, line 1: this JSON is not read .*4300 digits"),
    ],
)
def test_json_beyond_the_reader_is_named_in_one_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_dataset(write(tmp_path / name, text))
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_loading_script_is_refused_in_one_line(tmp_path):
    (tmp_path / "pairs").mkdir()
    write(tmp_path / "pairs" / "pairs.py", "raise SystemExit")
    with pytest.raises(ValueError, match=r"pairs: cannot be read as a dataset \(RuntimeError.*script") as caught:
        read_dataset(tmp_path / "pairs")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_dataset, read_stream])
@pytest.mark.parametrize("kind", ["named pipe", "device"])
@pytest.mark.parametrize("name", ["pairs.parquet", "pairs-*.tar", "folder"])
def test_what_never_ends_is_refused_unopened(tmp_path, read, kind, name):
    path = tmp_path / {"pairs-*.tar": "pairs-1.tar", "folder": "folder/a.parquet"}.get(name, name)
    path.parent.mkdir(exist_ok=True)
    if kind == "named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"this is a {kind}, which is not read"):
        read(tmp_path / name)


def test_shards_of_webdataset_are_rows_one_file_or_several(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"pairs-{shard}.tar", "w") as tar:
            content = {"prompt": "<image>What?", "chosen": f"A cup {shard}.", "rejected": "A car."}
            for ending, data in (("json", json.dumps(content).encode()), ("png", png())):
                member = tarfile.TarInfo(f"0001.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (one,) = read_dataset(tmp_path / "pairs-1.tar")
    assert (one.images, one.responses["chosen"]) == ((png(),), "A cup 1.")
    assert [pair.responses["chosen"] for pair in read_dataset(tmp_path / "pairs-*.tar")] == ["A cup 0.", "A cup 1."]
    write(tmp_path / "pairs-2.tar", "junk")
    with pytest.raises(ValueError, match="cannot be read as a dataset"):
        read_dataset(tmp_path / "pairs-2.tar")
