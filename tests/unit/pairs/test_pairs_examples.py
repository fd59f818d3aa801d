"""The examples in the docstrings of the data engine: what a reader is shown is what happens."""

import doctest
import pkgutil
from importlib import import_module

import pytest

from mmdpo import pairs

MODULES = [module.name for module in pkgutil.walk_packages(pairs.__path__, "mmdpo.pairs.")]
EXAMPLES = {name: doctest.DocTestFinder().find(import_module(name)) for name in MODULES}
WITH_EXAMPLES = [name for name, found in EXAMPLES.items() if any(test.examples for test in found)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_they_give_what_they_show(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed


def test_judges_filters_rules_and_samples_have_some():
    assert {f"mmdpo.pairs.{name}" for name in ("filters", "rules", "samples", "asking")} <= set(WITH_EXAMPLES)
    assert {f"mmdpo.pairs.judges.{name}" for name in ("exact", "claims")} <= set(WITH_EXAMPLES)
