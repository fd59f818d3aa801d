"""The help of an evaluation shows what its benchmark uses, in sentences; every option works where it worked."""

import re
import shlex
from pathlib import Path

import pytest

from eval_verb import parse, run
from mmdpo.benchmarks.tasks import names
from mmdpo.commands.eval import VERB
from mmdpo.options import UsageError

JUDGE, WORDS, PAIRS, FILES = "--judge_model", "--nltk_data", "--similar_pairs", "--image_dir"
SHOWN = {
    "amber": {WORDS, PAIRS, FILES},
    "chair": {WORDS, FILES},
    "conflict": {FILES},
    "dash_b": {FILES},
    "hallusionbench": {JUDGE, FILES},
    "hallusionbench_yes_no": {FILES},
    "haloquest": {JUDGE, FILES},
    "mmhal": {JUDGE, FILES},
    "mmvp": {JUDGE, FILES},
    "naturalbench": {FILES},
    "object_halbench": {JUDGE, WORDS, FILES},
    "pope": {FILES},
    "repope": {FILES},
    "world": set(),
    "world_large": set(),
    "suite": {JUDGE, WORDS, PAIRS, FILES},
}


def help_of(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        run(verb, "--help")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", [*names(), "suite"])
def test_the_help_shows_what_is_used(verb, capsys):
    shown = help_of(verb, capsys)
    assert {option for option in (JUDGE, WORDS, PAIRS, FILES) if option in shown} == SHOWN[verb]
    assert {"--answers", "--model", "--out", "--strip_thoughts", "--base_url"} <= set(re.findall(r"--\w+", shown))
    assert ("judge: a language model" in shown) == (JUDGE in SHOWN[verb])


@pytest.mark.parametrize("verb", [*names(), "suite"])
def test_options_that_are_not_shown_are_taken_all_the_same(verb):
    given = ["--judge_model", "m", "--nltk_data", "n", "--similar_pairs", "p", "--image_dir", "i", "--data_dir", "d"]
    options = parse(verb, "--model", "m", "--out", "o", *given)
    words = options.words
    assert (options.judge.model, words.nltk_data, words.similar_pairs) == ("m", Path("n"), Path("p"))
    assert (options.asking.image_dir, options.data_dir, options.judge.tries) == (Path("i"), Path("d"), 7)


def test_an_error_is_one_line_that_says_what_is_missing_or_meant():
    with pytest.raises(UsageError, match=r"eval pope: .*required: --out"):
        parse("pope", "--answers", "a")
    with pytest.raises(UsageError, match="unknown flag --judge_modle; did you mean '--judge_model'"):
        parse("mmhal", "--answers", "a", "--judge_modle", "m")
    with pytest.raises(UsageError, match="there is no benchmark 'ambre'; did you mean 'amber'"):
        run("ambre")
    with pytest.raises(ValueError, match="--judge_tries is 0"):
        parse("mmhal", "--answers", "a", "--out", "o", "--judge_tries", "0")


@pytest.mark.parametrize("verb", [*names(), "suite", "compare", "download"])
def test_every_option_has_a_sentence(verb):
    def sentences(options):
        for field in options.__dataclass_fields__.values():
            if "group" in field.metadata:
                yield from sentences(field.metadata["group"])
            elif "text" in field.metadata:
                yield field.metadata["text"]

    for text in sentences(VERB.verbs[verb].options):
        assert re.fullmatch(r"\S.{10,}\.", text), text


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
        "mmdpo eval download",
        "400 MB of word vectors",
        "mmdpo eval amber",
    ]
    places = [page.index(word) for word in needed]
    assert places == sorted(places)
