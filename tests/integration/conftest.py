"""Whole commands, with the curves of model cards cut short."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_cards(one_panel_on_a_card):
    """Nothing here looks at the curves."""
