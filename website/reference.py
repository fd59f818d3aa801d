"""The reference, written from the code whenever the site is built: recipe keys, commands, Python, what can be added."""

import argparse
import ast
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import mmdpo
from mmdpo.commands import Verb, Verbs, all_verbs
from mmdpo.keys import ABSENT, DATASET, DECIDES, HIDDEN, INHERITED, MODEL, OURS, TRAINING, Key
from mmdpo.options import fill_parser
from mmdpo.registry import Registry
from mmdpo.shipped import RECIPES
from mmdpo.tables import Table

RESULTS = {
    "MDPOConfig": (),
    "MDPOTrainer": (),
    "evaluate": (
        "benchmarks.evaluate.Evaluation",
        "benchmarks.evaluate.MetricValue",
        "benchmarks.definitions.ItemScore",
    ),
    "diagnose": ("diagnosis.run.Diagnosis", "diagnosis.run.Measure"),
    "score_tokens": ("diagnosis.per_token.TokenScores",),
}
"""Public names of the package, and the classes that each returns, below `mmdpo`."""

METHODS = {"MDPOConfig": (), "MDPOTrainer": ("train", "evaluate", "save_model")}
"""Of classes that have many methods, those that are shown."""

ROOMS = {
    "objective.terms": ("Terms of an objective", "objectives.md", ("Term", "CellScore")),
    "corruption": ("Corruptions", "data.md", ("Corruption",)),
    "benchmarks.tasks": ("Benchmarks", "evaluation.md", ("Benchmark",)),
    "pairs.judges": ("Judges of pairs", "pairs.md", ("Claim", "Verdict", "Ask", "Context")),
    "judges": ("Judges of benchmarks", "evaluation.md", ("JudgeOptions", "Request", "Failure", "Source")),
    "data.formats": ("Dataset formats", "data.md", ("Format", "Parse")),
    "models.families": ("Model families", "training.md", ("Family", "Parts")),
}
"""Packages in which one file is one thing: title, guide, and the classes that such a file works with."""

ORIGINS = {
    OURS: "",
    MODEL: "From `ModelConfig` of TRL, in the version that this page was made with.",
    DATASET: "From `ScriptArguments` of TRL, in the version that this page was made with.",
    TRAINING: "From `TrainingArguments` of transformers, in the version that this page was made with; see there too.",
}

_PAGE = re.compile(r"(?<![\w/(])docs/([\w/-]+\.md)")


def write_reference(docs: Path) -> None:
    """Writes the pages below `docs`/reference. Raises ValueError for a public name that has no page."""
    if missing := set(mmdpo.__all__) - set(RESULTS) - {"__version__"}:
        raise ValueError(f"website/reference.py: name in RESULTS what {', '.join(sorted(missing))} returns")
    pages = {"recipe-keys": _recipe_keys()}
    pages |= {f"commands/{name}": _command(name, verb) for name, verb in all_verbs().verbs.items()}
    pages |= {f"python/{name}": _python(name) for name in RESULTS}
    pages |= {f"adding/{room.replace('.', '-')}": _room(room) for room in ROOMS}
    for name, parts in pages.items():
        path = docs / "reference" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (name.count("/") + 1)
        path.write_text(_PAGE.sub(rf"[docs/\1]({up}\1)", "\n\n".join(filter(None, parts))) + "\n", encoding="utf-8")


def _recipe_keys() -> Iterator[str]:
    """Yields the parts of the page about every key that a recipe may have."""
    yield "# Recipe keys"
    yield (
        "A recipe is flat YAML; `--KEY VALUE` on the command line wins over it. A misspelt key is an error that "
        "names the nearest one. [Training](../training.md) explains what matters; "
        "`mmdpo train --help_all` prints this list."
    )
    yield "What a key decides says when it may differ:"
    yield "\n".join(f"- **{kind}**: {meaning}." for kind, meaning in DECIDES.items())
    ours = {key.name for key in OURS.read()}
    kinds = {name: kind for kind, names in INHERITED.items() for name in names}
    for group, origin in ORIGINS.items():
        yield f"## {group.title[0].upper() + group.title[1:]}" if group is not OURS else "## mmdpo"
        yield origin
        for key in group.read():
            if key.name not in HIDDEN and (group is OURS or key.name not in ours):
                yield f"### {key.name} {{ #{key.name} }}"
                yield _text(key.help)
                yield _facts(key, key.decides or kinds.get(key.name, "running"))
    yield "## Keys of TRL that are not here"
    yield _table(("key", "instead"), ((_code(name), _text(remedy)) for name, remedy in ABSENT.items()))


def _facts(key: Key, decides: str) -> str:
    """Returns the line below what a key means. It has a heading of its own, so that a search finds it."""
    default = f"Default {_code(key.default)}" if key.default else "No default"
    choices = f" · one of {', '.join(map(_code, key.choices))}" if key.choices else ""
    return f"{default}{choices} · decides {decides}\n{{ .facts }}"


def _command(name: str, verb: Verb | Verbs) -> Iterator[str]:
    """Yields the parts of the page about a verb and its further verbs."""
    yield f"# mmdpo {name}"
    yield _text(verb.about)
    if isinstance(verb, Verbs):
        yield from _further(name, verb)
    elif verb.options is not None:
        yield from _flags(f"mmdpo {name}", {name: verb})
    else:  # train
        yield f"    mmdpo {name} --config NAME_OR_FILE [--dry_run] [--KEY VALUE …]"
        yield "Its flags are the [recipe keys](../recipe-keys.md). These recipes come with mmdpo (`mmdpo recipes`):"
        sentences = ((each, re.split(r"(?<=[.:])\s", RECIPES.about(each))[0]) for each in RECIPES.all_names())
        yield _table(("recipe", "what it is"), ((_code(each), _text(about)) for each, about in sentences))


def _further(name: str, verbs: Verbs) -> Iterator[str]:
    """Yields what there is about the verbs of a verb; those of one kind, such as benchmarks, share a section."""
    alike = {word: verb for word, verb in verbs.verbs.items() if isinstance(verb, Verb) and verb.uses is not None}
    for word, verb in verbs.verbs.items():
        if word not in alike and isinstance(verb, Verb):
            yield f"## mmdpo {name} {word}"
            yield _text(verb.about)
            yield from _flags(f"mmdpo {name} {word}", {word: verb})
    if alike:
        command = f"mmdpo {name} {verbs.kind.upper()}"
        yield f"## {command}"
        yield f"One of {', '.join(map(_code, alike))}."
        yield from _flags(command, alike)


def _flags(command: str, verbs: Mapping[str, Verb]) -> Iterator[str]:
    """Yields the usage and the tables of flags of verbs that share their options."""
    parsers = {}
    for name, verb in verbs.items():
        assert verb.options is not None
        parsers[name] = argparse.ArgumentParser(prog=command, add_help=False)
        fill_parser(parsers[name], verb.options, None if verb.uses is None else verb.uses())
    first = next(iter(parsers.values()))
    yield f"    {first.format_usage().removeprefix('usage: ').strip()}"
    groups: dict[str, list[argparse.Action]] = {}
    for place, group in enumerate(first._action_groups):
        # The first two are argparse's own: what has no flag, and what is in no group.
        groups.setdefault((group.title or "") if place > 1 else "", []).extend(group._group_actions)
    for title, actions in groups.items():
        yield f"**{_text(title[0].upper() + title[1:])}**" if title else ""
        rows = [(_code(_flag(action)), _takes(action), _help(action, parsers)) for action in actions]
        yield _table(("flag", "takes", "meaning"), rows) if rows else ""


def _flag(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0 or not action.option_strings:
        return ""
    takes = ", ".join(_code(str(choice)) for choice in action.choices or (action.metavar or "",))
    return f"{takes} …" if action.nargs == "+" else takes


def _help(action: argparse.Action, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """Returns what a flag means, and which of the verbs take it where not all do."""
    alike = {name: next(of for of in parser._actions if of.dest == action.dest) for name, parser in parsers.items()}
    shown = {name: str(of.help) for name, of in alike.items() if of.help and of.help != argparse.SUPPRESS}
    some = f" Only {', '.join(map(_code, shown))}." if len(shown) < len(parsers) else ""
    return _text(next(iter(shown.values()), "").replace("%%", "%")) + some


def _python(name: str) -> Iterator[str]:
    """Yields the parts of the page about a public name and what it returns."""
    yield f"# {name}"
    yield f"`from mmdpo import {name}`; [From Python](../../python.md) shows it at work."
    if name == "MDPOConfig":
        yield "Its fields are the [recipe keys](../recipe-keys.md)."
    methods = METHODS.get(name)
    options = {} if methods is None else {"members": list(methods), "inherited_members": True}
    yield _describe(name, options | ({} if methods != () else {"show_signature": False}))
    yield from map(_describe, RESULTS[name])


def _room(room: str) -> Iterator[str]:
    """Yields the parts of the page about a package in which one file is one thing: contract, what there is, classes."""
    title, guide, classes = ROOMS[room]
    yield f"# {title}"
    yield f"[The guide](../../{guide}) says what they are for. One file is one of them:"
    yield _describe(room, {"members": [], "show_root_heading": False})
    yield "## Those that come with mmdpo"
    names = Registry(room, "").names()
    yield _table(("name", "what it is"), ((_code(name), _text(_first_line(room, name))) for name in names))
    yield from (_describe(f"{room}.{name}") for name in classes)


def _describe(path: str, options: Mapping[str, object] | None = None) -> str:
    """Returns what tells mkdocstrings to describe a thing of mmdpo from its docstrings."""
    lines = [f"::: mmdpo.{path}", *(["    options:"] if options else [])]
    return "\n".join([*lines, *(f"      {key}: {value}" for key, value in (options or {}).items())])


def _first_line(room: str, name: str) -> str:
    """Returns the first line of a module's docstring; the module is not imported."""
    found = Path(mmdpo.__file__).parent.joinpath(*room.split("."), name)
    path = found / "__init__.py" if found.is_dir() else found.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return Table(headers, tuple(rows), holds_figures=False).markdown()


def _code(text: str | None) -> str:
    return f"<code>{html.escape(text)}</code>" if text else ""


def _text(text: str) -> str:
    """Returns a sentence of the code as Markdown: what stands between backticks is code, all else is itself."""
    parts = enumerate(" ".join(text.split()).split("`"))
    return "".join(_code(part) if odd % 2 else re.sub(r"([\\*_\[\]<>#])", r"\\\1", part) for odd, part in parts)
