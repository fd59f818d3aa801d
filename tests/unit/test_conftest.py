"""What the tests rely on: none sees references that another has scored, and the longest start first."""

import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest


@pytest.fixture(scope="module")
def shared_home():
    return os.environ["HF_HOME"], huggingface_hub.constants.HF_HOME


@pytest.fixture(scope="module")
def other_home():
    return os.environ["HF_HOME"], huggingface_hub.constants.HF_HOME


def test_each_has_a_cache_of_its_own(shared_home, other_home):
    own = os.environ["HF_HOME"], huggingface_hub.constants.HF_HOME
    homes = own, shared_home, other_home
    assert all(of_processes == of_this for of_processes, of_this in homes)
    assert len(set(homes)) == 3


def test_the_longest_tests_start_first_and_a_module_stays_in_one_piece(pytestconfig):
    tests = Path(__file__).parents[1]
    conftest = pytestconfig.pluginmanager.get_plugin(str(tests / "conftest.py"))
    assert all((tests / name).exists() for name in conftest.LONG)
    places = ["unit/a.py", "unit/a.py", "unit/perf/b.py", "unit/perf/b.py", "unit/c.py", conftest.LONG[0]]
    items = [SimpleNamespace(path=tests / place, number=number) for number, place in enumerate(places)]
    assert [item.number for item in conftest.deal(items, 1)] == [5, 2, 3, 0, 1, 4]
    assert [item.number for item in conftest.deal(items, 2)] == [5, 0, 1, 2, 3, 4]
    assert [item.number for item in conftest.deal(items, 9)] == [5, 2, 3, 0, 1, 4]
    assert conftest.deal([], 3) == []
