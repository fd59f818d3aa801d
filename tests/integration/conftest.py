"""Whole commands, with the curves of model cards cut short."""

import pytest

from mmdpo.checkpoints import card


@pytest.fixture(scope="module", autouse=True)
def one_panel_on_a_card():
    """Draws one panel of the curves beside a model card: drawing all takes longer than a training of few steps."""
    draw = card.draw_panels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "draw_panels", lambda panels, path: draw(panels[:1], path))
        yield
