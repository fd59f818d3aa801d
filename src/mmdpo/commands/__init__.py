"""The verbs of `mmdpo`: one file each, whose name is the verb's. A file dropped in here is found.

Such a module has a docstring, whose first line says what the verb does, and `VERB`: a `Verb`, a `Verbs`, or another
function that takes the words after the verb and the verb's name, and returns the exit status. It imports what is heavy
when it runs. Files that start with an underscore are not verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mmdpo.options import Options, UsageError, parse_options
from mmdpo.registry import Registry, name_nearest

COMMANDS = Registry("commands", "verb")


@dataclass(frozen=True)
class Verb:
    """Something that the command line does."""

    about: str
    options: type[Options]
    run: Callable[[Any], int]
    """Takes the options, returns the exit status."""
    uses: Callable[[], Collection[str]] | None = None
    """What the verb uses, where its help shows only that."""

    def __call__(self, words: Sequence[str], command: str) -> int:
        """Reads the words after the verb's name and runs it; raises what `parse_options` and `run` raise."""
        is_help = self.uses is not None and bool({"-h", "--help"} & set(words))
        uses = self.uses() if self.uses is not None and is_help else None
        return self.run(parse_options(self.options, words, command, about=self.about, uses=uses))


@dataclass(frozen=True)
class Verbs:
    """A verb that has further verbs."""

    about: str
    verbs: Mapping[str, Verb]
    kind: str = "verb"

    def __call__(self, words: Sequence[str], command: str) -> int:
        """Runs the verb that the first word names. Raises UsageError where it names none."""
        name = words[0] if words else ""
        if name in ("-h", "--help"):
            print(list_verbs(command, self.about, {name: verb.about for name, verb in self.verbs.items()}, self.kind))
            return 0
        if name not in self.verbs:
            raise UsageError(explain_verb(command, name, self.verbs, self.kind))
        return self.verbs[name](words[1:], f"{command} {name}")


def list_verbs(command: str, about: str, verbs: Mapping[str, str], kind: str = "verb") -> str:
    """Returns the help of a command that has verbs: name → what it does."""
    width = max(map(len, verbs)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in verbs.items()]
    head = f"usage: mmdpo {command} {kind.upper()} …" if command else f"usage: mmdpo {kind.upper()} …"
    return "\n".join([head, "", about, "", f"{kind}s:", *lines])


def explain_verb(command: str, name: str, verbs: Collection[str], kind: str = "verb") -> str:
    """Returns the message about a word that names no verb, or about no word at all."""
    problem = f"there is no {kind} {name!r}{name_nearest(name, verbs)}" if name else f"name a {kind}."
    return " ".join([f"{command}:" if command else "", problem, f"There are {', '.join(verbs)}"]).strip()


def quiet_libraries() -> None:
    """Keeps transformers' progress bars and remarks off the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


def find_dtype(name: Dtype | None) -> Any:
    """Returns torch's dtype of that name; None for None."""
    import torch

    return None if name is None else getattr(torch, name)
