"""Page of preference pairs: rows of a dataset, one of them in full."""

from __future__ import annotations

import gradio as gr

from mmdpo.app.sources import Sources

TITLE = "Pairs"


def is_wanted(sources: Sources) -> bool:
    """Returns whether there is something to show."""
    return bool(sources.datasets)


def build(sources: Sources) -> None:
    """Fills the tab."""
    gr.HTML("")
