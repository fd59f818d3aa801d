"""The examples in the docstrings of terms and losses: numbers that a reader can check by hand."""

import doctest
from importlib import import_module

import pytest

from mmdpo.objective import losses, term_names

MODULES = ("mmdpo.objective.losses", *(f"mmdpo.objective.terms.{name}" for name in term_names()))


@pytest.mark.parametrize("name", MODULES)
def test_they_give_the_numbers_that_they_show(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed


def test_every_loss_has_one():
    finder = doctest.DocTestFinder()
    for function in (*losses.PAIRWISE.values(), losses.plackett_luce, losses.best_of_set):
        assert any(test.examples for test in finder.find(function)), function.__name__
