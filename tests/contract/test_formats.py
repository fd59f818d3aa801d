"""What every dataset format promises, whoever wrote it: a file dropped into `mmdpo/data/formats` is tested here."""

import pickle
import re
from importlib import import_module

import datasets
import pytest

from mmdpo.data import formats
from mmdpo.data.check import ExampleFacts, find_faults
from mmdpo.data.columns import ID_COLUMNS
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.messages import plain_text
from mmdpo.data.validate import validate_example
from mmdpo.records import CHOSEN, REJECTED

EXAMPLES = [(name, number) for name in formats.names() for number in range(len(formats.load(name).examples))]
every_example = pytest.mark.parametrize(("name", "number"), EXAMPLES)


def inspect_text(example):
    validate_example(example)
    return ExampleFacts(0, 0, 0, ())


def row_of(name, number):
    return dict(formats.load(name).examples[number])


@pytest.mark.parametrize("name", formats.names())
def test_it_documents_itself(name):
    format = formats.load(name)
    module = import_module(f"mmdpo.data.formats.{name}")
    assert format.name == name
    assert len(format.summary) > 20
    assert format.examples
    assert "Source:" in module.__doc__
    assert module.matches.__doc__
    assert "RowError" in module.parse.__doc__


@every_example
def test_its_rows_are_its_own_and_no_other_formats(name, number):
    assert [other for other in formats.names() if formats.load(other).matches(row_of(name, number))] == [name]


@every_example
def test_its_rows_are_valid_examples(name, number):
    dataset = PreferenceDataset.from_rows([row_of(name, number)], name="pairs.json")
    example = dataset[0]
    validate_example(example)
    own = next((str(row_of(name, number)[column]) for column in ID_COLUMNS if column in row_of(name, number)), "1")
    assert (dataset.format.name, example.id, example.source) == (name, own, "pairs.json, row 1")
    assert example.images
    assert plain_text(example.responses[CHOSEN]) != plain_text(example.responses[REJECTED])


@every_example
def test_a_row_may_bring_its_corrupted_images(name, number):
    row = row_of(name, number)
    count = len(PreferenceDataset.from_rows([row])[0].images)
    given = PreferenceDataset.from_rows([row | {"rejected_images": ["other.jpg"] * count}], format=name)[0]
    assert len(given.rejected_images) == count


@every_example
def test_arrow_and_workers_see_the_same_example(name, number):
    """Two rows, one with columns that the other lacks: Arrow pads every struct with None."""
    fuller = row_of(name, number) | {"note": "padding", "clarity": 0.5}
    rows = [fuller, row_of(name, number)]  # `from_list` takes its columns from the first
    plain = PreferenceDataset.from_rows(rows)
    arrow = PreferenceDataset.from_rows(datasets.Dataset.from_list(rows))
    travelled = pickle.loads(pickle.dumps(arrow))
    assert list(travelled) == list(arrow) == list(plain)
    assert arrow[0].weights == {"clarity": 0.5}
    assert plain_text(arrow[0].responses["note"]).strip() == "padding"


@every_example
@pytest.mark.parametrize("value", [None, 7, [], {}, [7], {"a": 1}, "", [{"role": "pope", "content": "x"}]], ids=repr)
def test_odd_values_are_row_errors_or_left_to_validation(name, number, value):
    """Whatever stands in one column, the row is an example, or an error of that row; never a TypeError."""
    for column in row_of(name, number):
        row = row_of(name, number) | {column: value}
        dataset = PreferenceDataset.from_rows([row], format=name, name="odd.json")
        for fault in find_faults(dataset, inspect_text, num_workers=1, progress=False).faults:
            assert not re.match(r"\w+(Error|Exception|Iteration): ", fault.problem), (column, fault.problem)
