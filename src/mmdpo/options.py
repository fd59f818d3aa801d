"""What a verb can be told: the fields of a dataclass are its flags.

    @dataclass(frozen=True, kw_only=True)
    class MergeOptions(Options):
        run: Path = option(REQUIRED, "A run folder.", metavar="RUN", positional=True)
        dtype: Literal["float32", "bfloat16"] | None = option(None, "Precision of the weights.")

A flag has the name of its field, and takes what the field's type says: text, a number, a path, one of the choices of a
`Literal`, several values for a tuple; a bool is a switch. A field made by `group` holds options of its own, which the
help shows together.
"""

import argparse
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from mmdpo.registry import name_nearest

REQUIRED: Any = MISSING

_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_Chosen = TypeVar("_Chosen", bound="Options")


class UsageError(ValueError):
    """Words of a command line that no verb or flag understands."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a verb, or a group of them; a group's title is the first line of its docstring."""

    PREFIX: ClassVar[str] = ""
    """What the flags begin with and the fields do not."""
    USAGE: ClassVar[str] = ""
    """Flags of which one is needed, as the usage shows them."""

    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """The flags that the command line named; the others have their defaults."""

    def __post_init__(self) -> None:
        for each in fields(self):
            least, value = each.metadata.get("least"), getattr(self, each.name)
            if least is not None and value is not None and value < least:
                raise ValueError(f"--{_flag_of(type(self), each)} is {value}; give {least} or more")


def option(
    default: Any,
    text: str,
    *,
    metavar: str | None = None,
    positional: bool = False,
    choices: Sequence[str] | None = None,
    least: int | None = None,
    flag: str = "",
    use: str = "",
) -> Any:
    """Declares a field that is a flag; `text` is a sentence for the help, which adds the default.

    `least` is the smallest number that is taken. `flag` is the flag's name where it is not the field's. `use` names
    what the flag is for: the help of a verb that does not use it leaves it out.
    """
    metadata = dict(text=text, metavar=metavar, positional=positional, choices=choices, least=least, flag=flag, use=use)
    return field(default=default, metadata=metadata)


def group(options: type[Options], *, use: str = "") -> Any:
    """Declares a field that holds options of its own; `use` as in `option`, for all of them."""
    return field(default_factory=options, metadata={"group": options, "use": use})


def parse_options(
    options: type[_Chosen], words: Sequence[str], command: str, *, about: str = "", uses: Collection[str] | None = None
) -> _Chosen:
    """Returns the options that the words of a command line choose; `--help` prints the help and ends the process.

    `command` is the verb as it is typed after `mmdpo`; `uses` names what it uses, None for everything.
    Raises UsageError for an unknown flag (naming the nearest), a value of another type or something missing, and
    ValueError for values that the options themselves refuse.
    """
    flags = list(_list_flags(options))
    parser = _make_parser(flags, command, about, options.USAGE, uses)
    names = [f"--{flag.name}" for flag in flags if not flag.metadata["positional"]] + ["--help"]
    for word in words[: words.index("--") if "--" in words else None]:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(known.startswith(name) for known in names):
            parser.error(f"unknown flag {name}{name_nearest(name, names).rstrip('.')}")
    return _build(options, vars(parser.parse_args(list(words))))


class _Flag(NamedTuple):
    name: str
    hint: Any
    metadata: Mapping[str, Any]
    default: Any
    title: str
    """The group's; empty for the verb's own."""
    use: str


class _VerbParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Raises instead of leaving the process."""
        raise UsageError(f"{self.prog.removeprefix('mmdpo ')}: {message} ({self.prog} --help tells more)")


def _list_flags(options: type[Options], title: str = "", use: str = "") -> Iterator[_Flag]:
    hints = get_type_hints(options)
    for each in fields(options):
        if inner := each.metadata.get("group"):
            yield from _list_flags(inner, (inner.__doc__ or "").partition("\n")[0], each.metadata["use"])
        elif "text" in each.metadata:
            name, of = _flag_of(options, each), each.metadata["use"] or use
            yield _Flag(name, hints[each.name], each.metadata, each.default, title, of)


def _flag_of(options: type[Options], each: Field[Any]) -> str:
    return str(each.metadata["flag"] or options.PREFIX + each.name)


def _make_parser(
    flags: Sequence[_Flag], command: str, about: str, usage: str, uses: Collection[str] | None
) -> argparse.ArgumentParser:
    parser = _VerbParser(prog=f"mmdpo {command}", description=about or None)
    groups: dict[str, Any] = {"": parser}
    needed = [usage] if usage else []
    for flag in flags:
        keywords, is_needed = _describe(flag), flag.default is MISSING
        if flag.use and uses is not None and flag.use not in uses:
            keywords["help"] = argparse.SUPPRESS
        if flag.title not in groups:
            groups[flag.title] = parser.add_argument_group(flag.title)
        name = keywords.get("metavar") or flag.name.upper()
        if flag.metadata["positional"]:
            shown = f"{name} …" if keywords.get("nargs") == "+" else name
            needed.append(shown if is_needed else f"[{shown}]")
        else:
            needed += [f"--{flag.name} {name}"] if is_needed else []
            keywords["required"] = is_needed
        dashes = "" if flag.metadata["positional"] else "--"
        groups[flag.title].add_argument(f"{dashes}{flag.name}", default=argparse.SUPPRESS, **keywords)
    parser.usage = " ".join(["%(prog)s", *needed, "[options]"])  # all of them would hide an error
    return parser


def _describe(flag: _Flag) -> dict[str, Any]:
    """Returns what argparse is told of a flag."""
    text = flag.metadata["text"]
    if not any(flag.default is unset for unset in (MISSING, None, False, ())):
        text = f"{text} [{flag.default}]"
    keywords: dict[str, Any] = {"help": text.replace("%", "%%")}
    hint = flag.hint
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if hint is bool:
        return keywords | {"action": "store_true"}
    if get_origin(hint) is tuple:
        keywords["nargs"], hint = "+", get_args(hint)[0]
    elif flag.metadata["positional"] and flag.default is not MISSING:
        keywords["nargs"] = "?"
    choices = get_args(hint) if get_origin(hint) is Literal else flag.metadata["choices"]
    if choices is not None:
        return keywords | {"choices": choices}
    return keywords | {"type": hint, "metavar": flag.metadata["metavar"] or _METAVARS.get(hint)}


def _build(options: type[_Chosen], chosen: Mapping[str, Any]) -> _Chosen:
    values: dict[str, Any] = {}
    given = set()
    for each in fields(options):
        if "group" in each.metadata:
            values[each.name] = _build(each.metadata["group"], chosen)
        elif "text" in each.metadata and (name := _flag_of(options, each)) in chosen:
            values[each.name] = tuple(chosen[name]) if isinstance(chosen[name], list) else chosen[name]
            given.add(name)
    return options(**values, given=frozenset(given))
