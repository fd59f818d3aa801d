"""`mmdpo data convert` and `mmdpo data symdpo`, as they are typed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmdpo.cli import main
from mmdpo.data.messages import plain_text
from mmdpo.data.read import read_dataset
from mmdpo.world.pairs import make_pairs


@pytest.fixture
def vqa(tmp_path):
    rows = []
    for number, answer in enumerate(["red", "red", "blue", "blue", "green"]):
        Image.linear_gradient("L").resize((8 + number, 8)).save(tmp_path / f"{number}.png")
        rows.append({"picture": f"{number}.png", "question": "What colour?", "answer": answer})
    file = tmp_path / "vqa.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.slow
def test_the_world_becomes_one_file_that_trains_alike(tmp_path, capsys):
    out = tmp_path / "pairs.parquet"
    assert main(["data", "convert", "world", str(out), "--sample", "6", "--seed", "3"]) == 0
    assert capsys.readouterr().out.endswith(f"768 pairs; 6 pairs written: {out}\n")
    by_id = {row["id"]: row for row in make_pairs(768, 0)}
    for example in read_dataset(out):
        row = by_id[example.id]
        assert plain_text(example.responses["chosen"]) == row["chosen"][0]["content"][0]["text"]


def test_faulty_rows_are_listed(tmp_path, capsys):
    rows = [{"prompt": "<image>?", "chosen": "a", "rejected": "b", "images": [name]} for name in ("x.png", "y.png")]
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    out, faults = str(tmp_path / "out.parquet"), str(tmp_path / "faults.jsonl")
    command = ["data", "convert", str(tmp_path / "pairs.json"), out]
    assert main(command) != 0
    assert "pairs.json, row 2: image file" in capsys.readouterr().err
    assert main([*command, "--on_bad_row", "skip", "--faults", faults]) == 0
    assert "1 faulty rows left out; 1 pairs written" in capsys.readouterr().out
    assert [json.loads(line)["row"] for line in Path(faults).read_text().splitlines()] == [2]


def test_symdpo_rows_can_be_read_and_checked(vqa, tmp_path, capsys):
    out = tmp_path / "symdpo.parquet"
    words = ["data", "symdpo", str(vqa), str(out), "--rows", "9", "--demonstrations", "2", "--image_column", "picture"]
    assert main([*words, "--shares", '{"image_shown": 1}']) == 0
    assert "5 triplets read; 9 rows written" in capsys.readouterr().out
    dataset = read_dataset(out)
    assert len(dataset) == 9
    assert all(len(example.images) == 3 for example in dataset)
    assert {plain_text(example.responses["form"]) for example in dataset} == {"image_shown"}
    assert main(["data", "check", str(out)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "world", "pairs.json"], "what is written is a .parquet file"),
        (["convert", "PAIRS", "o.parquet", "--sample", "2"], "2 of 1 pairs cannot be drawn"),
        (["convert", "PAIRS", "o.parquet", "--normalise", "score"], "no numeric column 'score' to normalise"),
        (["symdpo", "VQA", "o.parquet"], "vqa.jsonl, row 1: `image` holds 0 images"),
        (["symdpo", "VQA", "o.parquet", "--image_column", "picture", "--shares", '{"x": 1}'], "no form 'x'"),
        (["symdpo", "VQA", "o.parquet", "--demonstrations", "1"], "--demonstrations is 1; give 2 or more"),
    ],
)
def test_what_cannot_be_done_says_why_and_leaves_no_file(vqa, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    pair = {"prompt": "<image>?", "chosen": "a", "rejected": "b", "images": ["0.png"]}
    Path("pairs.jsonl").write_text(json.dumps(pair))
    files = {"VQA": str(vqa), "PAIRS": "pairs.jsonl"}
    assert main(["data", *(files.get(word, word) for word in words)]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()
