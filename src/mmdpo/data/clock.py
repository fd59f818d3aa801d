"""The date that a chat template writes: one moment for a whole run, and the same when it is resumed."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ASKS = "strftime_now"
"""Function by which a chat template asks for the date; transformers gives it the system's clock."""


@dataclass
class Clock:
    """A clock that stands still, and can be set to the moment of the run that is resumed."""

    moment: datetime = field(default_factory=datetime.now)

    def fix(self, template: str) -> str:
        """Returns a chat template whose `strftime_now` is a macro that knows this moment alone.

        A macro, since what else a template may be given differs between processors and versions of transformers.
        """
        said = {f"%{flag}{letter}": None for flag in ("-", "") for letter in string.ascii_letters}
        texts = [(code, self.moment.strftime(code)) for code in said]
        # A doubled percent sign is none of these codes, whatever letter follows it.
        steps = [("%%", "\x00"), *((code, text) for code, text in texts if text != code), ("\x00", "%")]
        replaced = "".join(f" | replace({code!r}, {text!r})" for code, text in steps)
        # An empty expression keeps a line break at the template's start, which Jinja cuts after a block.
        return f"{{% macro {ASKS}(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}{{{{ '' }}}}{template}"


def asks_for_date(processor: Any) -> bool:
    """Says whether the chat template of a processor writes the date."""
    return ASKS in default_template(processor)


def default_template(processor: Any) -> str:
    """Returns the chat template that a processor uses unless told otherwise, empty where it has none."""
    template = getattr(processor, "chat_template", None) or ""
    return template.get("default", "") if isinstance(template, dict) else str(template)
