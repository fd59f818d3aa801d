"""HTML of the pages: templates that escape every text put into them."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, PackageLoader
from markupsafe import Markup

from mmdpo.report.layout import TEMPLATES

# Macros of reports serve here, too.
_TEMPLATES = TEMPLATES.overlay(loader=ChoiceLoader([PackageLoader("mmdpo.app"), PackageLoader("mmdpo.report")]))


def render(template: str, **values: Any) -> Markup:
    """Returns a file of `templates/` with the values, escaped, in their places."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def paragraph(text: str, kind: str = "", *, role: str = "") -> Markup:
    """Returns a text, escaped, as a paragraph of a class; `role` tells a screen reader what it is."""
    return Markup('<p class="{}"{}>{}</p>').format(kind, Markup(' role="{}"').format(role) if role else "", text)
