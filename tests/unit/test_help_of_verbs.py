"""What `--help` says of every verb: a sentence for each flag, commands that are right, and where to read on."""

import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmdpo.benchmarks.tasks import names as benchmark_names
from mmdpo.cli import main
from mmdpo.commands import More, Verb, Verbs, all_verbs, find_page
from mmdpo.judges import JudgeOptions
from mmdpo.keys import check_flags, find_recipe, pop_config
from mmdpo.options import Options, fill_parser, option, parse_options
from mmdpo.options import VerbParser as Parser

ROOT = Path(__file__).parents[2]


def walk(verb, path=()):
    """Yields every verb with the words that call it, from `mmdpo` itself down."""
    yield path, verb
    for name, further in {**verb.verbs, **getattr(verb, "flags", {})}.items():
        yield from walk(further, (*path, name))


EVERY = dict(walk(all_verbs()))
NAMED = [pytest.param(path, verb, id=" ".join(path) or "mmdpo") for path, verb in EVERY.items()]


def help_of(path, capsys):
    with suppress(SystemExit):  # argparse ends the process
        assert main([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [30, 80, 160])
@pytest.mark.parametrize(("path", "verb"), NAMED)
def test_a_help_ends_with_examples_and_a_page_in_lines_that_fit(path, verb, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = help_of(path, capsys)
    page = re.search(r"\nmore: docs/(.*)\n$", shown)[1]
    assert (ROOT / "docs" / page.partition("#")[0]).exists()
    assert ("\nexamples:\n" in shown) == bool(verb.examples)
    if not path or not path[0].startswith("--"):
        assert verb.examples or path == ("pairs", "rules")
    if columns >= 80:
        assert [line for line in shown.splitlines()[1:] if len(line) > min(columns, 120)] == []


def of_words(words):
    """Reads the words of a command after `mmdpo` as the command line would, without running it."""
    verb, path = EVERY[()], []
    while isinstance(verb, Verbs) or (words and words[0] in verb.verbs):
        path.append(words.pop(0))
        verb = {**verb.verbs, **getattr(verb, "flags", {})}[path[-1]]
    if verb.options is not None:
        return parse_options(verb.options, words, " ".join(path))
    if config := pop_config(words):
        assert config == "mine.yaml" or find_recipe(config)
    return check_flags([word for word in words if word != "--dry_run"])


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What commands of examples read before they run."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.yaml").write_text("prompts: photos\nmodel: world\nout: runs/pairs\njudges: [exact]\n")


@pytest.mark.parametrize(("path", "verb"), NAMED)
@pytest.mark.usefixtures("files")
def test_every_example_is_a_command(path, verb):
    for command in verb.examples.values():
        for part in re.split(r" && ", command):
            words = shlex.split(part.partition(" > ")[0])
            start = words.index("-m") + 1 if words[0] == "accelerate" else 0
            assert words[start] in ("mmdpo", "mmdpo.train")
            of_words([*(["train"] if words[start] == "mmdpo.train" else []), *words[start + 1 :]])


@pytest.mark.parametrize(("path", "verb"), NAMED)
def test_every_flag_has_a_sentence(path, verb):
    if not isinstance(verb, Verb) or verb.options is None:
        return
    parser = Parser()
    fill_parser(parser, verb.options)
    for action in parser._actions[1:]:
        assert re.match(r"\S.{6,}[.:](.*| \[default: .+\])?$", action.help), (action.dest, action.help)


def test_a_command_is_broken_between_flags_and_never_between_a_flag_and_its_values():
    more = More(
        examples={"try it": "mmdpo eval pope --model a/long/name --out runs/pope --limit 10"}, page="evaluation"
    )
    assert more.describe(40).splitlines() == [
        "examples:",
        "  # try it",
        "  mmdpo eval pope \\",
        "      --model a/long/name \\",
        "      --out runs/pope --limit 10",
        "",
        "more: docs/evaluation.md",
    ]


def test_a_page_is_on_the_site_where_the_package_names_one(monkeypatch):
    class Metadata:
        def get_all(self, name):
            assert name == "Project-URL"
            return ["Source, https://example.org/code", "Documentation, https://example.org/mmdpo/"]

    monkeypatch.setattr("importlib.metadata.metadata", lambda _: Metadata())
    assert find_page("studies#diagnosis") == "https://example.org/mmdpo/studies/#diagnosis"
    assert find_page("") == "https://example.org/mmdpo/"


def test_a_default_in_words_stands_where_others_stand(capsys):
    @dataclass(frozen=True, kw_only=True)
    class Some(Options):
        split: str | None = option(None, "Split of the dataset.", unset="train")
        count: int = option(3, "How many.")

    with pytest.raises(SystemExit):
        parse_options(Some, ["--help"], "some")
    shown = capsys.readouterr().out
    assert "Split of the dataset. [default: train]" in shown
    assert "How many. [default: 3]" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evl"], "there is no verb 'evl'; did you mean 'eval'?"),
        (["eval", "pop"], "eval: there is no benchmark 'pop'; did you mean 'pope'?"),
        (["eval", "suite", "comapre", "runs"], "eval suite: there is no verb 'comapre'; did you mean 'compare'?"),
        (["pairs", "bild"], "pairs: there is no verb 'bild'; did you mean 'build'?"),
        (["--verison"], "there is no flag '--verison'; did you mean '--version'?"),
        (["recipes", "world-mpdo"], "there is no recipe 'world-mpdo'; did you mean 'world-mdpo'?"),
        (["train", "--config", "world-mpdo"], "--config: there is no recipe 'world-mpdo'; did you mean 'world-mdpo'?"),
        (["study", "ablatoin"], "there is no study 'ablatoin'; did you mean 'ablation'?"),
        (["eval", "pope", "--rule", "peer", "--out", "o"], "--rule: invalid choice: 'peer'; did you mean 'peers'?"),
        (["eval", "pope", "--answers", "a"], "the following arguments are required: --out"),
        (["train", "--config"], "--config needs a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_one_line_and_names_what_was_meant(words, said, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_the_title_of_a_judge_s_options_lists_no_benchmarks_of_an_earlier_day():
    assert [name for name in benchmark_names() if name in JudgeOptions.__doc__] == []


def test_a_key_of_trl_says_what_it_means_here(capsys):
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "resume_from_checkpoint true resumes from the last whole checkpoint in output_dir" in shown
    assert "dataset_name Preference pairs: a file," in shown
    for elsewhere in ("If `datasets` is provided", "Not directly used by Trainer"):
        assert elsewhere not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("diagnose --model m --dataset d --out o", "mmdpo: interrupted: the same command goes on from here\n"),
        ("pairs sample --prompts p --model m --out o", "mmdpo: interrupted: the same command goes on from here\n"),
        ("data check pairs.jsonl", "mmdpo: interrupted\n"),
    ],
)
def test_after_ctrl_c_a_verb_that_goes_on_says_so(words, said, capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    for verb in ("data", "diagnose", "pairs"):
        monkeypatch.setattr(f"mmdpo.commands.{verb}.quiet_libraries", interrupt)
    assert main(words.split()) == 130
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version(flag, capsys):
    from mmdpo import __version__

    assert main([flag]) == 0
    assert capsys.readouterr().out == f"mmdpo {__version__}\n"
