"""The verbs of `mmdpo`: one file each, whose name is the verb's. A file dropped in here is found.

Such a module has a docstring, whose first line says what the verb does, and `VERB`: a `Verb`, or `Verbs`, with examples
and the page of docs/ to read on. It imports what is heavy when it runs. Files that start with an underscore are no
verbs.
"""

import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_type_hints

from mmdpo.options import Options, UsageError, help_width, list_names, parse_options
from mmdpo.registry import Registry, name_nearest

STOPPED = 75
"""What a verb ends with when SIGTERM has stopped it and it can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""
SPELT = {"-h": "--help", "-V": "--version"}
"""Short flags of `mmdpo` itself and of verbs that have further verbs."""


@dataclass(frozen=True, kw_only=True)
class More:
    """What a help ends with: examples, and where to read on."""

    examples: Mapping[str, str] = field(default_factory=dict)
    """Commands, by what they do."""
    page: str = ""
    """A page of `docs/` without its suffix, or `page#section`."""

    def describe(self, width: int) -> str:
        """Returns examples and page, in lines of at most `width` where a command can be broken so."""
        lines = ["examples:"] if self.examples else []
        for does, command in self.examples.items():
            lines += textwrap.wrap(f"# {does}", width, initial_indent="  ", subsequent_indent="  # ")
            lines.append("  " + " \\\n      ".join(_break_command(command, width - 8)))
        return "\n".join([*lines, *([""] if lines else []), f"more: {find_page(self.page)}"])


def _break_command(command: str, width: int) -> list[str]:
    """Returns a command in pieces that a terminal of that width holds; a flag and its values stay together."""
    pieces = [piece.replace(" ", "\0") for piece in re.split(r" (?=--|&& )", command)]
    lines = textwrap.wrap(" ".join(pieces), width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def find_page(page: str) -> str:
    """Returns where a page of the documentation is: on the site that the package's metadata names, else its file."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        entries = metadata("mmdpo").get_all("Project-URL") or ()
    except PackageNotFoundError:  # run from a folder
        entries = ()
    name, mark, section = page.partition("#")
    for label, _, address in (entry.partition(", ") for entry in entries):
        if label.lower() == "documentation":
            return f"{address.rstrip('/')}/{name}{'/' if name else ''}{mark}{section}"
    return f"docs/{name}{'.md' if name else ''}{mark}{section}"


@dataclass(frozen=True)
class Verb(More):
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
    goes_on: bool = False
    """Whether the same command goes on where an interrupted one was."""

    def __call__(self, words: Sequence[str], command: str) -> int:
        """Reads the words after the verb's name and runs it; raises what `parse_options` and `run` raise.

        KeyboardInterrupt says how to go on, where that is known.
        """
        if words and words[0] in self.verbs:
            return self.verbs[words[0]](words[1:], f"{command} {words[0]}")
        if self.verbs and words and not words[0].startswith("-"):
            nearest = name_nearest(words[0], self.verbs)
            raise UsageError(f"{command}: there is no verb {words[0]!r}{nearest} There is {', '.join(self.verbs)}")
        if self.options is None:
            return self.run(words)
        uses = None if self.uses is None else self.uses()
        further = (f"`mmdpo {command} {name}`: {verb.about}" for name, verb in self.verbs.items())
        about = " ".join((self.about, *further))
        options = parse_options(self.options, words, command, about=about, more=self.describe, uses=uses)
        try:
            return self.run(options)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(*(["the same command goes on from here"] if self.goes_on else stop.args)) from stop


def verb(
    page: str,
    examples: Mapping[str, str] | None = None,
    *,
    uses: Callable[[], Collection[str]] | None = None,
    verbs: Mapping[str, Verb] | None = None,
    goes_on: bool = False,
) -> Callable[[Callable[[Any], int]], Verb]:
    """Makes a verb of a function: the docstring's first line says what it does, the parameter's type its options."""

    def make(run: Callable[[Any], int]) -> Verb:
        hints, about = get_type_hints(run), (run.__doc__ or "").partition("\n")[0]
        options = next(hint for name, hint in hints.items() if name != "return")
        further = verbs or {}
        return Verb(about, options, run, uses=uses, verbs=further, goes_on=goes_on, page=page, examples=examples or {})

    return make


@dataclass(frozen=True, kw_only=True)
class NoOptions(Options):
    """Nothing."""


@dataclass(frozen=True)
class Verbs(More):
    """A verb that has further verbs, or all of them."""

    about: str
    verbs: Mapping[str, "Verb | Verbs"]
    kind: str = "verb"
    flags: Mapping[str, Verb] = field(default_factory=dict)
    """What stands in the place of a verb and begins with dashes."""

    def __call__(self, words: Sequence[str], command: str) -> int:
        """Runs the verb that the first word names. Raises UsageError where it names none."""
        name = SPELT.get(words[0], words[0]) if words else ""
        if name == "--help":
            print(self._help(command))
            return 0
        known = {**self.verbs, **self.flags}
        if name not in known:
            kind = "flag" if name.startswith("-") else self.kind
            nearest = name_nearest(name, ["--help", *self.flags] if kind == "flag" else self.verbs)
            problem = f"there is no {kind} {name!r}{nearest}" if name else f"name a {kind}."
            raise UsageError(f"{command}: {problem} There are {', '.join(self.verbs)}".removeprefix(": "))
        return known[name](words[1:], f"{command} {name}".lstrip())

    def _help(self, command: str) -> str:
        width = help_width()
        usage = " ".join(filter(None, ("usage: mmdpo", command, f"{self.kind.upper()} …")))
        lines = [usage, "", *textwrap.wrap(self.about, width)]
        short = {name: f"{letter}, {name}" for letter, name in SPELT.items()}
        flags = {short.get(name, name): found.about for name, found in self.flags.items()}
        lists = {f"{self.kind}s": {name: found.about for name, found in self.verbs.items()}, "options": flags}
        column = max(len(name) for listed in lists.values() for name in listed) + 4
        for title, listed in lists.items():
            lines += ["", f"{title}:", *list_names(listed, width, indent="  ", column=column)] if listed else []
        asked = f"mmdpo {command} {self.kind.upper()} --help".replace("  ", " ")
        return "\n".join([*lines, "", f"{asked} tells more.", "", self.describe(width)])


def all_verbs() -> Verbs:
    """Returns the verbs of this folder."""
    from mmdpo.commands._shell import FLAGS

    found = Registry("commands", "verb")
    examples = {
        "train and compare DPO and mDPO on the embedded world, on a CPU": "mmdpo quickstart",
        "look for mistakes in pairs of your own, then train on them": (
            "mmdpo data check pairs.jsonl && mmdpo train --config vlm-mdpo-lora --dataset_name pairs.jsonl"
        ),
        "does the trained model look?": (
            "mmdpo diagnose --model runs/mine --dataset held_out.jsonl --pairs 200 --out runs/mine/looks"
        ),
        "score it on POPE": "mmdpo eval pope --model runs/mine --out runs/mine/pope",
    }
    return Verbs(
        "Preference optimisation that makes vision-language models look at the image.",
        {name: found.load(name).VERB for name in found.names()},
        flags=FLAGS,
        examples=examples,
    )


Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]
