"""The verbs of `mmdpo`: one file each, whose name is the verb's. A file dropped in here is found.

Such a module has a docstring, whose first line says what the verb does, and `VERB`: a `Verb`, or `Verbs`. It imports
what is heavy when it runs. Files that start with an underscore are not verbs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mmdpo.options import Options, UsageError, parse_options
from mmdpo.registry import Registry, name_nearest


@dataclass(frozen=True)
class Verb:
    """Something that the command line does."""

    about: str
    options: type[Options] | None
    """What the words after the verb are read as; None for a verb that reads them itself."""
    run: Callable[[Any], int]
    """Takes the options, or the words, and returns the exit status."""
    uses: Callable[[], Collection[str]] | None = None
    """What the verb uses, where its help shows only that."""
    verbs: Mapping[str, "Verb"] = field(default_factory=dict)
    """Further verbs, where the first word names one; the verb itself takes flags alone then."""

    def __call__(self, words: Sequence[str], command: str) -> int:
        """Reads the words after the verb's name and runs it; raises what `parse_options` and `run` raise."""
        if words and words[0] in self.verbs:
            return self.verbs[words[0]](words[1:], f"{command} {words[0]}")
        if self.options is None:
            return self.run(words)
        uses = None if self.uses is None else self.uses()
        further = (f"`mmdpo {command} {name}`: {verb.about}" for name, verb in self.verbs.items())
        about = " ".join((self.about, *further))
        return self.run(parse_options(self.options, words, command, about=about, uses=uses))


@dataclass(frozen=True)
class Verbs:
    """A verb that has further verbs, or all of them."""

    about: str
    verbs: Mapping[str, "Verb | Verbs"]
    kind: str = "verb"

    def __call__(self, words: Sequence[str], command: str) -> int:
        """Runs the verb that the first word names. Raises UsageError where it names none."""
        name = words[0] if words else ""
        if name in ("-h", "--help"):
            width = max(map(len, self.verbs)) + 2
            lines = [f"  {verb:<{width}}{found.about}" for verb, found in self.verbs.items()]
            head = " ".join(filter(None, ("usage: mmdpo", command, f"{self.kind.upper()} …")))
            print("\n".join([head, "", self.about, "", f"{self.kind}s:", *lines]))
            return 0
        if name not in self.verbs:
            nearest = name_nearest(name, self.verbs)
            problem = f"there is no {self.kind} {name!r}{nearest}" if name else f"name a {self.kind}."
            raise UsageError(f"{command}: {problem} There are {', '.join(self.verbs)}".removeprefix(": "))
        return self.verbs[name](words[1:], f"{command} {name}".lstrip())


def all_verbs() -> Verbs:
    """Returns the verbs of this folder."""
    found = Registry("commands", "verb")
    about = "Preference optimisation that makes vision-language models look at the image."
    return Verbs(about, {name: found.load(name).VERB for name in found.names()})


def quiet_libraries() -> None:
    """Keeps transformers' progress bars and remarks off the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]
