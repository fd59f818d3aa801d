"""What the tests rely on: no test, and no fixture that several share, sees references that another has scored."""

import os

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
