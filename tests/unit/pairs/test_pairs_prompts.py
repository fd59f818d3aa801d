"""Prompts of the data engine: what is read of rows, and which are left out."""

import hashlib

import datasets
import pytest

from mmdpo.pairs.prompts import PromptsError, find_held_out, read_held_out, read_prompts
from mmdpo.pairs.run import PairsRun
from tests.pairs_help import paint, parse, write_lines


def photograph(path, colour=(200, 30, 30)):
    path.parent.mkdir(exist_ok=True)
    paint(colour, size=32).save(path, "JPEG")
    return path


def test_pictures_inside_a_parquet_file_are_the_files_that_they_were(tmp_path):
    """A held-out photograph is found in it, and nothing is decoded to be kept in memory."""
    one, other = photograph(tmp_path / "held_out" / "a.jpg"), photograph(tmp_path / "b.jpg", (0, 0, 9))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in (one, other)]
    rows = {"prompt": ["What is it?"] * 2, "image": images}
    features = datasets.Features({"prompt": datasets.Value("string"), "image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "prompts.parquet")
    prompts = read_prompts(str(tmp_path / "prompts.parquet"))
    assert [prompt.images for prompt in prompts] == [(one.read_bytes(),), (other.read_bytes(),)]
    assert prompts[0].image_digests == (hashlib.sha256(one.read_bytes()).hexdigest(),)
    held_out = read_held_out([str(tmp_path / "held_out")])
    assert [(prompt.id, why) for prompt, why in find_held_out(prompts, held_out)] == [("1", "image held out")]


def test_a_benchmark_makes_no_prompts_and_may_be_held_out(tmp_path):
    """Its rows may share ids, as those of POPE's three parts do."""
    image = photograph(tmp_path / "a.jpg")
    rows = [
        {"question_id": 1, "question": f"Is there a {of}?", "image": "a.jpg", "label": "no"} for of in ("dog", "cup")
    ]
    write_lines(tmp_path / "coco_pope_random.jsonl", rows)
    name = str(tmp_path / "coco_pope_random.jsonl")
    with pytest.raises(PromptsError, match="looks like the benchmark pope"):
        read_prompts(name)
    assert read_held_out([name]) == {hashlib.sha256(image.read_bytes()).hexdigest()}


def test_a_system_prompt_is_part_of_what_is_asked_and_so_of_the_pairs(tmp_path):
    flags = ["--prompts", "world", "--model", "world", "--out", tmp_path / "run", "--judges", "objects", "--limit", 2]
    options = parse(*flags, "--system_prompt", "Be brief.")
    plain, asked = (PairsRun(of).prompts for of in (parse(*flags), options))
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert [prompt.turns for prompt in asked] == [(system, *prompt.turns) for prompt in plain]
    assert [prompt.question for prompt in asked] == [prompt.question for prompt in plain]
    assert options.settings().system_prompt is None  # it is there once
    assert asked[0].digest != plain[0].digest


def test_a_file_of_no_ids_is_named(tmp_path):
    (tmp_path / "ids.txt").write_text("\n")
    flags = ["--prompts", "world", "--model", "world", "--out", tmp_path / "run", "--judges", "objects"]
    with pytest.raises(PromptsError, match=r"ids\.txt names no prompts"):
        _ = PairsRun(parse(*flags, "--ids", tmp_path / "ids.txt")).prompts


@pytest.mark.parametrize(
    ("name", "said"), [("photos", "does not exist"), ("rows.jsonl", "is a file"), ("empty", "no im")]
)
def test_what_is_no_folder_of_images_is_named(tmp_path, name, said):
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptsError, match=f"{name}.* {said}"):
        read_prompts(str(tmp_path / name), ask_of_images=["What is there?"])


@pytest.mark.parametrize(
    ("name", "said"), [("world", "is an embedded world"), ("photographs", "is a folder of images")]
)
def test_a_folder_that_paths_start_from_is_for_rows_with_paths(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    with pytest.raises(PromptsError, match=f"image_root: {name} {said}"):
        read_prompts(name, ask_of_images=["What is there?"], image_root=tmp_path)


@pytest.mark.parametrize("flag", ["ids", "vocabulary"])
def test_a_file_that_is_not_there_is_named_with_its_flag(tmp_path, flag):
    flags = ["--prompts", "world", "--model", "world", "--out", tmp_path / "run", "--judges", "objects"]
    run = PairsRun(parse(*flags, f"--{flag}", tmp_path / "nothing"))
    with pytest.raises(PromptsError, match=rf"--{flag}: .*nothing cannot be read \(No such file or directory\)"):
        _ = run.prompts, run.vocabulary


def test_blanks_around_an_id_are_part_of_it(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [{"id": of, "prompt": "What?", "image": "a.png"} for of in ("a", " a", "b ")])
    paint().save(tmp_path / "a.png")
    (tmp_path / "ids.txt").write_text(" a\nb \n a \n\n")
    flags = ["--prompts", tmp_path / "rows.jsonl", "--model", "m", "--out", tmp_path / "run", "--judges", "objects"]
    found = PairsRun(parse(*flags, "--ids", tmp_path / "ids.txt")).prompts
    assert [prompt.id for prompt in found] == [" a", "b ", "a"]


def test_a_missing_picture_costs_its_prompt_alone_where_pictures_are_held_out(tmp_path):
    for n in range(2):
        paint((n, 0, 0)).save(tmp_path / f"{n}.png")
    write_lines(tmp_path / "rows.jsonl", [{"id": f"{n}", "prompt": "What?", "image": f"{n}.png"} for n in range(3)])
    flags = ["--prompts", tmp_path / "rows.jsonl", "--model", "m", "--out", tmp_path / "run", "--judges", "objects"]
    run = PairsRun(parse(*flags, "--held_out", tmp_path / "0.png"))
    assert [prompt.id for prompt in run.prompts] == ["1", "2"]
    assert [(prompt.id, why) for prompt, why in run.left_out] == [("0", "image held out")]
