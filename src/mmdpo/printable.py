"""Text from data, made safe to print: what would steer a terminal, or cannot be encoded, is shown as an escape."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""C0 and C1 controls except tab and line break, and halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""Returns the text with each control character and lone surrogate written out: ESC becomes `\x1b`."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
