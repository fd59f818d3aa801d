"""The help of an evaluation shows what its benchmark uses, in sentences; every option works where it worked."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from eval_verb import parse
from mmdpo.benchmarks.tasks import names
from mmdpo.evaluation.command import add_eval_verb

JUDGE, WORDS, PAIRS, FILES = "--judge_model", "--nltk_data", "--similar_pairs", "--image_dir"
SHOWN = {
    "amber": {WORDS, PAIRS, FILES},
    "mmhal": {JUDGE, FILES},
    "object_halbench": {JUDGE, WORDS, FILES},
    "pope": {FILES},
    "world": set(),
    "world_large": set(),
    "suite": {JUDGE, WORDS, PAIRS, FILES},
}


def help_of(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(verb, "--help")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", [*names(), "suite"])
def test_the_help_shows_what_is_used(verb, capsys):
    shown = help_of(verb, capsys)
    assert {option for option in (JUDGE, WORDS, PAIRS, FILES) if option in shown} == SHOWN[verb]
    assert {"--answers", "--model", "--out", "--strip_thoughts", "--base_url"} <= set(re.findall(r"--\w+", shown))
    assert ("judge:" in shown) == (JUDGE in SHOWN[verb])


@pytest.mark.parametrize("verb", [*names(), "suite"])
def test_options_that_are_not_shown_are_taken_all_the_same(verb):
    given = ["--judge_model", "m", "--nltk_data", "n", "--similar_pairs", "p", "--image_dir", "i", "--data_dir", "d"]
    options = parse(verb, "--answers", "a", "--out", "o", *given)
    assert (options.judge_model, options.nltk_data, options.similar_pairs) == ("m", "n", "p")
    assert (options.image_dir, options.data_dir, options.judge_tries) == ("i", "d", 7)


@pytest.mark.parametrize("verb", names())
def test_an_error_is_told_in_two_lines(verb, capsys):
    with pytest.raises(SystemExit):
        parse(verb, "--answers", "a")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "required: --out" in lines[-1]


@pytest.mark.parametrize("verb", [*names(), "suite", "compare", "download"])
def test_every_option_has_a_sentence(verb):
    parser = argparse.ArgumentParser()
    add_eval_verb(parser.add_subparsers())
    found = parser
    for name in ("eval", verb):
        choices = next(action for action in found._actions if isinstance(action, argparse._SubParsersAction))
        found = choices.choices[name]
    for action in found._actions[1:]:
        assert re.fullmatch(r"\S.{10,}\.", action.help or ""), action.option_strings


def test_every_command_of_the_page_is_one():
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL))
    commands = [line for line in blocks.splitlines() if "mmdpo eval" in line]
    assert len(commands) >= 12
    for command in commands:
        words = shlex.split(re.sub(r"[\[\]]", "", command), comments=True)
        parse(*words[words.index("eval") + 1 :])


def test_the_page_installs_what_its_commands_need_before_they_stand_there():
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    needed = [
        "mmdpo[eval]",
        "averaged_perceptron_tagger_eng",
        "en_core_web_lg",
        "mmdpo eval download",
        "mmdpo eval amber",
    ]
    places = [page.index(word) for word in needed]
    assert places == sorted(places)
