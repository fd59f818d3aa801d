"""What a verb can be told: the fields of a dataclass are its flags.

    @dataclass(frozen=True, kw_only=True)
    class MergeOptions(Options):
        run: Path = option(REQUIRED, "A run folder.", metavar="RUN", positional=True)
        dtype: Literal["float32", "bfloat16"] | None = option(None, "Precision of the weights.")

A flag has the name of its field, and takes what the field's type says: text, a number, a path, a choice of a `Literal`,
several values for a tuple; a bool is a switch. A field made by `group` holds options of its own.
"""

import argparse
import json
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mmdpo.files import read_yaml
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
    MARK: ClassVar[str] = "--"
    """What stands before a name in messages; nothing where names are keys of a file."""
    HAS_FILE: ClassVar[bool] = False
    """Whether `--config FILE` names a YAML file that gives flags by their names; those typed go before."""

    given = frozenset[str]()
    """The flags that the command line named; the others have their defaults."""

    def __post_init__(self) -> None:
        hints = _hints_of(type(self))
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None or "text" not in each.metadata:
                continue  # unset, or a group, which has looked itself
            said = f"{self.MARK}{_flag_of(type(self), each)} is {value!r}"
            choices, least, within = (
                _choices_of(hints[each.name], each),
                each.metadata["least"],
                each.metadata["within"],
            )
            if choices is not None and not set(value if isinstance(value, tuple) else [value]) <= set(choices):
                raise ValueError(f"{said}; give {', '.join(map(str, choices))}")
            if least is not None and value < least:
                raise ValueError(f"{said}; give {least} or more")
            if within and not _is_within(value, within):
                raise ValueError(f"{said}; give a number in {within}")


def option(
    default: Any,
    text: str,
    *,
    metavar: str | None = None,
    positional: bool = False,
    choices: Sequence[Any] | None = None,
    known: Callable[[], Sequence[str]] | None = None,
    least: int | None = None,
    within: str = "",
    flag: str = "",
    use: str = "",
    unset: str = "",
) -> Any:
    """Declares a field that is a flag; `text` is a sentence for the help, which adds the default.

    `choices` are all that is taken, `known` returns names that are taken among others, which the shell completes.
    `least` is the smallest number that is taken, `within` the interval that numbers lie in, such as `[0, 1)`; `flag` is
    the flag's name where it is not the field's, and `use` what the flag is for: the help of a verb that does not use it
    leaves it out. `unset` says in words what holds where the flag is not given and its default is None or ().
    """
    metadata = dict(
        text=text, metavar=metavar, positional=positional, choices=choices, known=known, least=least, within=within,
        flag=flag, use=use, unset=unset,
    )  # fmt: skip
    return field(default=default, metadata=metadata)


def describe_default(each: Field[Any]) -> str:
    """Returns what a field's flag is where it is not given, as help and reference show it; empty for off or nothing."""
    if each.metadata["unset"]:
        return str(each.metadata["unset"])
    if any(each.default is nothing for nothing in (MISSING, None, False, ())) or each.default == "":
        return ""
    return " ".join(map(str, each.default)) if isinstance(each.default, tuple) else str(each.default)


def group(options: type[Options], *, use: str = "") -> Any:
    """Declares a field that holds options of its own; `use` as in `option`, for all of them."""
    return field(default_factory=options, metadata={"group": options, "use": use})


def parse_options(
    options: type[_Chosen],
    words: Sequence[str],
    command: str,
    *,
    about: str = "",
    more: Callable[[int], str] | None = None,
    uses: Collection[str] | None = None,
) -> _Chosen:
    """Returns the options that the words of a command line choose; `--help` prints the help and ends the process.

    `command` is the verb as it is typed after `mmdpo`; `more` returns what the help ends with at a width; `uses` names
    what the verb uses, None for everything.
    Raises UsageError for an unknown flag (naming the nearest), a value of another type or something missing, and
    ValueError for values that the options themselves refuse.
    """
    words = list(words)
    parser = VerbParser(prog=f"mmdpo {command}", description=about or None, formatter_class=_Formatter)
    names = fill_parser(parser, options, uses)
    if more is not None and {"-h", "--help"} & set(words):
        parser.epilog = more(help_width())
    if options.HAS_FILE:
        words = _put_file_first(options, words)
    for word in words[: words.index("--") if "--" in words else None]:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(known.startswith(name) for known in names):
            parser.error(f"unknown flag {name}{name_nearest(name, names).rstrip('.')}")
    return _build(options, vars(parser.parse_args(words)))


def fill_parser(
    parser: argparse.ArgumentParser, options: type[Options], uses: Collection[str] | None = None
) -> list[str]:
    """Adds the flags of options to a parser, and returns their names."""
    if options.HAS_FILE:
        told = "YAML file with these flags; what is typed goes before."
        parser.add_argument("--config", metavar="FILE", help=told)
    groups: dict[str, Any] = {"": parser}
    needed, names = [options.USAGE] if options.USAGE else [], ["--help", *(["--config"] if options.HAS_FILE else [])]
    for flag, hint, each, title, use in _list_flags(options):
        keywords, is_needed, is_positional = _describe(hint, each), each.default is MISSING, each.metadata["positional"]
        if use and uses is not None and use not in uses:
            keywords["help"] = argparse.SUPPRESS
        value = keywords.get("metavar") or flag.upper()
        if is_positional:
            shown = f"{value} …" if keywords.get("nargs") == "+" else value
            needed.append(shown if is_needed else f"[{shown}]")
        else:
            names.append(f"--{flag}")
            needed += [f"--{flag} {value}"] if is_needed else []
            keywords["required"] = is_needed
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        name = flag if is_positional else f"--{flag}"
        added = groups[title].add_argument(name, default=argparse.SUPPRESS, **keywords)
        if (offer := _offer_values(each.metadata["known"], keywords.get("type"))) is not None:
            added.completer = offer
    parser.usage = " ".join(["%(prog)s", *needed, "[options]"])  # all of them would hide an error
    return names


def _offer_values(known: Callable[[], Sequence[str]] | None, kind: Any) -> Callable[..., Sequence[str]] | None:
    """Returns what lists the values that a shell offers; None where it offers the choices, or files."""
    if known is not None:
        return lambda **_: known()
    return (lambda **_: ()) if kind in (int, float) else None


def help_width() -> int:
    """Returns how many columns a help may have: those of the terminal, as many as one reads with ease at most."""
    return min(shutil.get_terminal_size().columns, 120)


def make_options(options: type[_Chosen], values: Mapping[str, Any]) -> _Chosen:
    """Returns the options that Python values choose by the names of flags; None leaves a flag at its default.

    A path may be given as text, several values as any sequence. Raises TypeError for a name that is no flag (naming the
    nearest) and for a value of another type, ValueError for one that is no choice, or that the options refuse.
    """
    flags = {flag: (hint, each) for flag, hint, each, *_ in _list_flags(options)}
    chosen = {}
    for name, value in values.items():
        if name not in flags:
            raise TypeError(f"there is no option {name!r}{name_nearest(name, flags).rstrip('.')}")
        if value is not None:
            chosen[name] = _take(name, value, *flags[name])
    missing = [flag for flag, (_, each) in flags.items() if each.default is MISSING and flag not in chosen]
    if missing:
        raise TypeError(f"{missing[0]} is missing")
    return _build(options, chosen)


def read_entry(options: type[_Chosen], values: Any, where: str) -> _Chosen:
    """Returns the options that an entry of a file gives; raises ValueError, which says where, for what `make_options`
    does not take."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a mapping of options; got {values!r:.100}")
    try:
        return make_options(options, values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _take(name: str, value: Any, hint: Any, each: Field[Any]) -> Any:
    """Returns a value as a field of this type holds it."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is tuple:
        if isinstance(value, str | Path):
            raise TypeError(f"{name} takes several values, as a list; got {value!r}")
        return tuple(_take(name, one, get_args(hint)[0], each) for one in value)
    choices = _choices_of(hint, each)
    if choices is not None:
        if value not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(str, choices))}; got {value!r}")
        return value
    hint = get_origin(hint) or hint
    wanted = {float: (float, int), Path: (str, Path)}.get(hint, (hint,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        shown = repr(value)  # of a model it fills pages
        raise TypeError(
            f"{name} should be {hint.__name__}, is " + (shown if len(shown) <= 200 else f"a {type(value).__name__}")
        )
    return hint(value)


def read_flags(options: type[Options], path: str | Path, flag: str = "--config") -> list[str]:
    """Returns what a YAML file says as words of a command line, see `as_words`.

    Raises UsageError, which names the flag that gave the file, file and key, for a file that cannot be read or a key
    that is no flag.
    """
    known = {flag: each for flag, _, each, *_ in _list_flags(options)}
    try:
        content = read_yaml(Path(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{flag}: {path} cannot be read ({why})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{flag}: {path} holds {type(content).__name__}; write `flag: value`, one a line")
    for key in content:
        if key not in known:
            raise UsageError(f"{flag}: {path}: there is no {key!r}{name_nearest(key, known).rstrip('.')}")
    return as_words(content)


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Returns values by the names of their flags as words of a command line; those that are None or False are left out.

    A list gives several values, and a mapping becomes JSON.
    """
    words = list[str]()
    for flag, value in values.items():
        if isinstance(value, list):
            words += [f"--{flag}", *map(_as_word, value)] if value else []
        elif value is True:
            words.append(f"--{flag}")
        elif value is not None and value is not False:
            words.append(f"--{flag}={_as_word(value)}")
    return words


def _as_word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _put_file_first(options: type[Options], words: list[str]) -> list[str]:
    for place, word in enumerate(words):
        name, equals, path = word.partition("=")
        if name == "--config" and (equals or place + 1 < len(words)):
            rest = words[:place] + words[place + (1 if equals else 2) :]
            return read_flags(options, path if equals else words[place + 1]) + rest
    return words


def list_names(about: Mapping[str, str], width: int, *, indent: str = "", column: int = 0) -> list[str]:
    """Returns names and what they are as two columns; a text goes on below itself, in a width of 30 at least."""
    column = max(column, len(indent) + max(map(len, about), default=0) + 2)
    lines = []
    for name, text in about.items():
        head, rest = f"{indent}{name}".ljust(column), " " * column
        lines += textwrap.wrap(text, max(width, column + 30), initial_indent=head, subsequent_indent=rest) or [head]
    return lines


def print_names(about: Mapping[str, str]) -> None:
    """Prints names and what they are: in lines that fit the terminal, and a line each into a pipe or a file."""
    print("\n".join(list_names(about, help_width() if sys.stdout.isatty() else 10_000)))


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Wraps what argparse wraps, the description too, and leaves what follows the flags as it is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=help_width())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else "\n".join(textwrap.wrap(text, width))


class VerbParser(argparse.ArgumentParser):
    """The parser of a verb: what is wrong is raised as one line."""

    def error(self, message: str) -> Any:
        """Raises instead of leaving the process."""
        told = name_choice(message)
        raise UsageError(f"{self.prog.removeprefix('mmdpo ')}: {told} ({self.prog} --help tells more)")


def name_choice(message: str) -> str:
    """Returns a message of argparse, which names the nearest choice where it is about a value that is none."""
    found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
    if found is None:
        return message
    nearest = name_nearest(found[1], re.findall(r"[^,'\s]+", found[2])).rstrip(".")
    return f"{message[: found.start()]}invalid choice: {found[1]!r}{nearest} (choose from {found[2]})"


def _choices_of(hint: Any, each: Field[Any]) -> Sequence[Any] | None:
    """Returns all that a field takes, None where that is not listed."""
    kinds = [hint, *get_args(hint)]  # a choice, or none, or several
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), each.metadata["choices"])


def _is_within(value: float, interval: str) -> bool:
    """Says whether a number lies in an interval.

    >>> [_is_within(value, "[0, 1)") for value in (0, 0.5, 1)]
    [True, True, False]
    """
    low, high = map(float, interval[1:-1].split(","))
    return low <= value <= high and (value > low or interval[0] == "[") and (value < high or interval[-1] == "]")


def _list_flags(
    options: type[Options], title: str = "", use: str = ""
) -> Iterator[tuple[str, Any, Field[Any], str, str]]:
    """Yields the name of each flag, its type, its field, the title of its group, and what it is for."""
    hints = _hints_of(options)
    for each in fields(options):
        if inner := each.metadata.get("group"):
            yield from _list_flags(inner, (inner.__doc__ or "").partition("\n")[0], each.metadata["use"])
        elif "text" in each.metadata:
            yield _flag_of(options, each), hints[each.name], each, title, each.metadata["use"] or use


_hints_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _flag_of(options: type[Options], each: Field[Any]) -> str:
    return str(each.metadata["flag"] or options.PREFIX + each.name)


def _describe(hint: Any, each: Field[Any]) -> dict[str, Any]:
    """Returns what argparse is told of a flag."""
    text, default = each.metadata["text"], each.default
    if shown := describe_default(each):
        text = f"{text} [default: {shown}]"
    keywords: dict[str, Any] = {"help": text.replace("%", "%%")}
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if hint is bool:
        return keywords | {"action": "store_true"}
    if get_origin(hint) is tuple:
        keywords["nargs"], hint = "+", get_args(hint)[0]
    elif each.metadata["positional"] and default is not MISSING:
        keywords["nargs"] = "?"
    choices = _choices_of(hint, each)
    if choices is not None:
        return keywords | {"choices": choices}
    return keywords | {"type": hint, "metavar": each.metadata["metavar"] or _METAVARS.get(hint)}


def _build(options: type[_Chosen], chosen: Mapping[str, Any]) -> _Chosen:
    values: dict[str, Any] = {}
    given = set()
    for each in fields(options):
        if "group" in each.metadata:
            values[each.name] = _build(each.metadata["group"], chosen)
        elif "text" in each.metadata and (name := _flag_of(options, each)) in chosen:
            values[each.name] = tuple(chosen[name]) if isinstance(chosen[name], list) else chosen[name]
            given.add(name)
    made = options(**values)
    object.__setattr__(made, "given", frozenset(given))
    return made
