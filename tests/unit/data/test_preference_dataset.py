import io
import pickle

import datasets
import pandas
import pytest
from PIL import Image

from mmdpo.data.check import find_faults
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.records import RowError


def pair(**columns):
    return {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "image": "a.jpg"} | columns


def ids(rows):
    return [example.id for example in PreferenceDataset.from_rows(rows)]


def test_ids_come_from_the_first_complete_column_without_repeats():
    assert ids([pair(id="b"), pair(id="a")]) == ["b", "a"]
    assert ids([pair(idx=7), pair(idx=5)]) == ["7", "5"]
    assert ids([pair(id="a", question_id="x"), pair(id="a", question_id="y")]) == ["x", "y"]
    assert ids([pair(id="a"), pair(id="a"), pair(id="b")]) == ["1", "2", "3"]
    assert ids([pair(id=1), pair(id="1")]) == ["1", "2"]
    assert ids([pair(id="a"), pair()]) == ["1", "2"]
    assert ids(datasets.Dataset.from_list([pair(question_id=4), pair(question_id=2)])) == ["4", "2"]


@pytest.mark.parametrize("place", [0, 1, 40])
def test_a_row_that_is_no_mapping_is_one_fault_and_the_others_are_what_they_are(place):
    rows = [pair(id=f"row {n}", prompt=f"<image>{n}") for n in range(50)]
    rows[place] = "no row"
    dataset = PreferenceDataset.from_rows(rows, name="pairs.jsonl")
    faults = find_faults(dataset, lambda example: None, progress=False).faults
    told = "the row is of type str: write it as a mapping from column to value"
    assert [(fault.source, fault.problem) for fault in faults] == [(f"pairs.jsonl, row {place + 1}", told)]
    assert [(dataset[n].id, dataset[n].prompt) for n in (2, 49)] == [("3", "<image>2"), ("50", "<image>49")]
    assert dataset.column("prompt")[49] == "<image>49"


def test_selected_examples_keep_their_ids_and_rows():
    rows = PreferenceDataset.from_rows([pair(prompt=f"<image>{n}") for n in range(5)], name="pairs.json")
    chosen = rows.select([4, 0]).select([0])
    assert (len(chosen), chosen[0].id, chosen[0].source) == (1, "5", "pairs.json, row 5")
    assert [example.id for example in rows[1:3]] == ["2", "3"]
    assert rows[-1] == rows[4]
    with pytest.raises(IndexError):
        rows[5]


def test_a_shuffled_dataset_keeps_its_own_order_and_ids():
    rows = datasets.Dataset.from_list([pair(id=str(n), prompt=f"<image>{n}") for n in range(9)]).shuffle(seed=1)
    examples = PreferenceDataset.from_rows(rows)
    assert [(example.id, example.prompt) for example in examples] == [(row["id"], row["prompt"]) for row in rows]


def test_a_broken_image_does_not_hinder_reading_and_travels_to_workers():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    broken = buffer.getvalue()[:40]
    rows = datasets.Dataset.from_list([pair(image={"bytes": broken, "path": None})])
    rows = rows.cast_column("image", datasets.Image()).with_format("torch")
    examples = pickle.loads(pickle.dumps(PreferenceDataset.from_rows(rows)))
    assert examples[0].images == (broken,)


def test_the_callers_transform_runs():
    rows = datasets.Dataset.from_dict({"word": ["cup", "pot"]})
    rows.set_transform(lambda batch: {key: [value] for key, value in pair(chosen=f"A {batch['word'][0]}.").items()})
    assert [example.responses["chosen"] for example in PreferenceDataset.from_rows(rows)] == ["A cup.", "A pot."]


def test_the_format_is_found_though_the_first_row_lacks_an_answer():
    examples = PreferenceDataset.from_rows([pair(chosen=None), {"prompt": "x"}, pair()])
    assert examples.format.name == "trl"
    assert "chosen" not in examples[0].responses


def test_unknown_columns_name_what_each_format_needs_nearest_first():
    rows = [{"image_path": "a.jpg", "prompt": "p", "choosen": "c", "rejected": "r"}]
    with pytest.raises(
        ValueError, match=r"pairs\.json: the columns \(image_path, prompt, choosen, rejected\)"
    ) as caught:
        PreferenceDataset.from_rows(rows, name="pairs.json")
    lines = str(caught.value).splitlines()
    assert {line.split(":")[0].strip() for line in lines[1:-1]} >= {"trl", "mdpo_json"}
    assert all(name in lines[-1] for name in ("llama_factory", "vlfeedback", "symmpo"))
    assert lines[1] == "  mdpo_json: img_path (text), prompt (text), chosen (text), rejected (text)"
    rows = [{"messages": [], "rejected_answer": "r", "images": []}]
    with pytest.raises(ValueError, match="nearest first") as caught:
        PreferenceDataset.from_rows(rows)
    assert str(caught.value).splitlines()[1].startswith("  ms_swift: messages (list of {role, content})")


def test_a_named_format_is_used_or_the_nearest_name_given():
    assert PreferenceDataset.from_rows([pair()], format="mmdpo.data.formats:trl")[0].prompt == "<image>What?"
    with pytest.raises(ValueError, match=r"unknown dataset format 'mdpo-json'; did you mean 'mdpo_json'\?"):
        PreferenceDataset.from_rows([pair()], format="mdpo-json")
    with pytest.raises(
        ValueError, match="json:loads is no dataset format: it has no EXAMPLES and no matches and no parse"
    ):
        PreferenceDataset.from_rows([pair()], format="json:loads")
    with pytest.raises(ValueError, match=r"cannot load the dataset format 'nowhere:x' .*: No module named 'nowhere'"):
        PreferenceDataset.from_rows([pair()], format="nowhere:x")


def test_what_a_format_of_ones_own_returns_is_named(tmp_path, monkeypatch):
    code = "EXAMPLES = ()\ndef matches(row): return True\ndef parse(row, **place): return dict(row)\n"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "forms_of_mine").mkdir()
    (tmp_path / "forms_of_mine" / "one.py").write_text(code)
    rows = PreferenceDataset.from_rows([pair()], format="forms_of_mine:one")
    with pytest.raises(RowError, match="row 1: the format forms_of_mine:one has made a dict of it, not a Preference"):
        rows[0]


def test_it_is_printed_by_its_name_length_and_format():
    shown = repr(PreferenceDataset.from_rows([pair()] * 2, name="pairs.json").select([0]))
    assert shown == "PreferenceDataset('pairs.json', 1 rows, format trl)"


def test_what_is_no_dataset():
    with pytest.raises(ValueError, match="val: there are no rows"):
        PreferenceDataset.from_rows([], name="val")
    with pytest.raises(ValueError, match="IterableDataset cannot be indexed: load the dataset without streaming"):
        PreferenceDataset.from_rows(datasets.Dataset.from_list([pair()]).to_iterable_dataset())
    with pytest.raises(RowError, match="train, row 1: the row is of type str: write it as a mapping"):
        PreferenceDataset.from_rows(["pair", "pair"])


ROW = {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "images": ["a.jpg"]}


def test_a_table_of_columns_is_a_list_of_rows():
    columns = {name: [value, value] for name, value in ROW.items()}
    frame = pandas.DataFrame([ROW, ROW | {"images": float("nan"), "prompt": "What?", "chosen": None}])
    for table in (columns, frame):
        dataset = PreferenceDataset.from_rows(table)
        assert (len(dataset), dataset[0]) == (2, PreferenceDataset.from_rows([ROW, ROW])[0])
    assert (dataset[1].images, dataset[1].responses) == ((), {"rejected": "A car."})
    with pytest.raises(ValueError, match=r"train: the columns have different lengths .*'chosen': 1"):
        PreferenceDataset.from_rows(columns | {"chosen": ["A cup."]})


def test_several_datasets_are_refused_with_what_to_give():
    rows = datasets.Dataset.from_list([ROW])
    for several in (datasets.DatasetDict(train=rows, test=rows), {"train": rows, "test": rows}):
        with pytest.raises(TypeError, match=r"train is a \w+ of train, test: give one .*train\['train'\]"):
            PreferenceDataset.from_rows(several)


def test_a_number_beyond_every_float_hides_no_row():
    example = PreferenceDataset.from_rows([ROW | {"huge": 10**400, "minus": -(10**400), "share": 0.5}])[0]
    assert example.weights == {"share": 0.5}
