"""`mmdpo pairs check-judge`: what is planted in a judge is found in it, and what labels are read as."""

import hashlib
import json
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from mmdpo.cli import main
from mmdpo.pairs.asking import Asker, JudgeError
from mmdpo.pairs.check_judge import Gold, _wilson, check_judge, read_gold
from mmdpo.pairs.judges import Context, Verdict, claim_objects
from mmdpo.pairs.judging import JudgeChoice, judge_lot
from mmdpo.pairs.run import PairsRun
from mmdpo.pairs.samples import Sample
from mmdpo.records import RowError
from tests.pairs_help import Scripted, make_prompt, paint, parse, write_lines

OBJECTS = ("cup", "dog", "bus", "tree", "lamp", "bee", "cow", "book", "fork", "hat")
VOCABULARY = {name: name for name in OBJECTS}
ROWS, ANSWERS = 300, 8


def draw_share(*parts):
    """A number from 0 to 1 that depends on texts alone."""
    return int(hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:8], 16) / 2**32


@pytest.fixture(scope="module")
def golds():
    """Three hundred pictures, each with five of ten objects, and eight answers that name some of all ten."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(ROWS):
        there = set(generator.choice(OBJECTS, 5, replace=False).tolist())
        texts, scores = [], []
        for place in range(ANSWERS):
            named = generator.choice(OBJECTS, int(generator.integers(1, 7)), replace=False).tolist()
            padding = " ".join(["really"] * int(generator.integers(0, 12)))
            texts.append(" ".join(f"There is a {name}." for name in named) + f" I am {padding} sure {place}.")
            right = sum(name in there for name in named)
            scores.append(float(right - 2 * (len(named) - right)))
        prompt = make_prompt(str(number), image=paint((number % 250, number // 250, 7), 2), objects=sorted(there))
        models = tuple("ours" if place % 2 else "theirs" for place in range(ANSWERS))
        found.append(Gold(prompt, tuple(texts), tuple(scores), models))
    return found


# -- planted faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "rows"), [(0.0, 30), (0.1, ROWS), (0.3, ROWS)])
def test_the_noise_of_claims_is_found(noise, rows, golds, tmp_path):
    """One verdict a picture and object, so many of them wrong: the share is that of those that were turned."""
    golds = golds[:rows]
    truths = {gold.prompt.images[0].getpixel((0, 0)): gold.prompt.truth["objects"] for gold in golds}
    turned = {}

    def check(question):
        name = next((name for name in OBJECTS if f"a {name}." in question.prompt), None)
        if name is None:
            return "Yes"
        pixel = question.images[0].getpixel((0, 0))
        turned[pixel, name] = draw_share(pixel, name) < noise
        return "Yes" if (name in truths[pixel]) != turned[pixel, name] else "No"

    model = Scripted(None)
    model.answer = lambda questions, settings: (
        SimpleNamespace(id=question.id, text=check(question), details={}) for question in questions
    )
    asker = Asker(model, tmp_path / "replies.jsonl")
    choice = JudgeChoice("claims", splits="sentences")
    found = check_judge(golds, choice, Context(VOCABULARY, splits="sentences"), asker)
    asker.close()
    accuracy = found["claims"]["accuracy"]
    assert accuracy["n"] == len(turned) > 8 * rows
    assert accuracy["value"] == pytest.approx(100 - 100 * sum(turned.values()) / len(turned), abs=1e-9)
    assert accuracy["value"] == pytest.approx(100 - 100 * noise, abs=2)
    assert found["claims"]["wrongly_struck"]["value"] == pytest.approx(100 * noise, abs=3)
    assert found["claims"]["wrongly_believed"]["value"] == pytest.approx(100 * noise, abs=3)
    assert accuracy["low"] <= 100 - 100 * noise <= accuracy["high"] + 1e-9
    assert noise or found["pairs"]["accuracy"]["value"] == 100
    assert found["order"] is None
    assert found["author"] is None


class Biased:
    """Goes by the length of answers for a share of the prompts, else by the truth."""

    NEEDS, STRIKES, WORDS = "objects", False, {}

    def __init__(self, by_length, by_author=0.0):
        self.by_length, self.by_author = by_length, by_author
        self.scores = {}

    def judge(self, prompt, samples, context):
        share = int(prompt.id) % 10 / 10
        if share < self.by_length:
            return [Verdict(float(len(sample.text.split()))) for sample in samples]
        truths = self.scores[prompt.id]
        if share < self.by_length + self.by_author:
            return [Verdict(100.0 * (sample.k % 2 == 0) + truths[sample.text]) for sample in samples]  # ours are even
        return [Verdict(truths[sample.text]) for sample in samples]


LENGTH, AUTHOR = Biased(0.2), Biased(0.0, 0.3)


def check_biased(golds, judge, name):
    judge.scores = {gold.prompt.id: dict(zip(gold.texts, gold.scores, strict=True)) for gold in golds}
    return check_judge(golds, JudgeChoice(f"{__name__}:{name}"), Context(VOCABULARY), None, own="ours")


def test_a_bias_for_length_is_found(golds):
    """Where the better answer is longer the judge is always right; where it is shorter it is wrong so often."""
    found = check_biased(golds, LENGTH, "LENGTH")["length"]
    wrong = total = 0
    for gold in golds:
        for a, b in combinations(range(ANSWERS), 2):
            if gold.scores[a] == gold.scores[b]:
                continue
            better, worse = (a, b) if gold.scores[a] > gold.scores[b] else (b, a)
            words = len(gold.texts[better].split()), len(gold.texts[worse].split())
            if words[1] > 1.1 * words[0]:
                total += 1
                wrong += int(gold.prompt.id) % 10 < 2
    assert found["better_longer"]["value"] == 100
    assert found["better_shorter"]["n"] == total
    assert found["better_shorter"]["value"] == pytest.approx(100 - 100 * wrong / total, abs=1e-9)
    assert found["difference"] == pytest.approx(20, abs=2)


def test_a_bias_for_its_own_model_is_found(golds):
    found = check_biased(golds, AUTHOR, "AUTHOR")
    assert found["author"]["better_own"]["value"] == 100
    assert found["author"]["worse_own"]["value"] == pytest.approx(70, abs=3)
    assert found["author"]["difference"] == pytest.approx(30, abs=3)
    assert abs(found["length"]["difference"]) < 3
    assert found["claims"] is None  # it names none


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_bias_for_the_answer_that_stands_first_is_found(share, golds, tmp_path):
    scores = {text: score for gold in golds for text, score in zip(gold.texts, gold.scores, strict=True)}

    def compare(words):
        first, second = words.partition("Answer A:\n")[2].split("\n\n")[:2]
        second = second.removeprefix("Answer B:\n")
        if draw_share(*sorted((first, second))) < share:
            return "A"
        return "T" if scores[first] == scores[second] else "A" if scores[first] > scores[second] else "B"

    asker = Asker(Scripted(compare), tmp_path / "replies.jsonl")
    found = check_judge(golds, JudgeChoice("pairwise"), Context(), asker)
    asker.close()
    assert found["order"]["turned"]["value"] == pytest.approx(100 * share, abs=2)
    assert found["order"]["turned"]["n"] == ROWS * ANSWERS  # in a circle, each with two others
    assert found["claims"] is None


# -- numbers by hand ---------------------------------------------------------------------------------------------------


def test_shares_have_wilsons_interval():
    """Eight of ten: Newcombe (1998) gives .4902 to .9433; none of twenty, 0 to .1611."""
    eight = _wilson(0.8, 10)
    assert [eight[name] for name in ("value", "low", "high")] == pytest.approx([80, 49.02, 94.33], abs=0.005)
    none = _wilson(0.0, 20)
    assert [none["low"], none["high"]] == pytest.approx([0, 16.11], abs=0.005)
    assert _wilson(None, 0) == {"value": None, "low": None, "high": None, "n": 0}


class Fixed:
    """Scores answers by what stands in them."""

    NEEDS, STRIKES, WORDS = "", False, {}

    def judge(self, prompt, samples, context):
        return [None if "none" in each.text else Verdict(float(each.text.split()[-1])) for each in samples]


FIXED = Fixed()


def gold_of(name, texts, scores):
    return Gold(make_prompt(name), tuple(texts), tuple(scores), ("",) * len(texts))


def test_ties_count_as_half_and_pairs_of_equal_labels_not_at_all():
    """Right, wrong, a tie; one pair has equal labels, and one answer no verdict."""
    golds = [
        gold_of("a", ["says 3", "says 1", "says 2"], [3.0, 2.0, 2.0]),  # right twice
        gold_of("b", ["says 1", "says 5"], [1.0, 0.0]),  # wrong
        gold_of("c", ["says 1", "so says 1"], [1.0, 0.0]),  # a tie
        gold_of("d", ["none 1", "says 1"], [1.0, 0.0]),
    ]
    found = check_judge(golds, JudgeChoice(f"{__name__}:FIXED"), Context(), None)
    assert found["pairs"]["accuracy"]["value"] == 62.5
    assert (found["pairs"]["accuracy"]["n"], found["pairs"]["ties"]["value"], found["unjudged"]) == (4, 25, 1)
    assert found["golds"] == 4
    assert "note" not in found


def test_a_judge_that_always_gives_the_same_score_is_said_to_be_of_no_use():
    found = check_judge(
        [gold_of("a", ["says 1", "so says 1"], [1.0, 0.0])], JudgeChoice(f"{__name__}:FIXED"), Context(), None
    )
    assert found["note"] == "the judge gives every answer the score 1: nothing can be built by it"
    assert found["pairs"]["accuracy"]["value"] == 50


def test_answers_that_do_not_differ_in_their_label_tell_nothing():
    with pytest.raises(JudgeError, match="no two labelled answers differ"):
        check_judge([gold_of("a", ["says 1", "says 2"], [1, 1])], JudgeChoice(f"{__name__}:FIXED"), Context(), None)


# -- gold rows ---------------------------------------------------------------------------------------------------------


def read(tmp_path, *rows, vocabulary=None):
    paint().save(tmp_path / "a.png")
    write_lines(tmp_path / "gold.jsonl", [{"prompt": "What?", "image": "a.png"} | row for row in rows])
    return read_gold(tmp_path / "gold.jsonl", vocabulary or {})


def test_gold_rows_are_pairs_or_answers_with_scores(tmp_path):
    pair, scored = read(
        tmp_path,
        {"chosen": "A cup.", "rejected": "A dog.", "chosen_model": "ours"},
        {"answers": [{"text": "A cup.", "score": 3, "model": "theirs"}, {"text": "A dog.", "score": -1}]},
    )
    assert (pair.texts, pair.scores, pair.models) == (("A cup.", "A dog."), (1.0, 0.0), ("ours", ""))
    assert (scored.texts, scored.scores, scored.models) == (("A cup.", "A dog."), (3.0, -1.0), ("theirs", ""))
    assert pair.prompt.question == "What?"


def test_scores_follow_from_what_is_there(tmp_path):
    (gold,) = read(
        tmp_path,
        {"objects": ["cup", "bus"], "answers": ["A cup and a bus.", "A cup, a dog.", {"text": "A cow.", "score": 7}]},
        vocabulary=VOCABULARY,
    )
    assert gold.scores == (2.0, -1.0, -2.0)  # for all of them, or they could not be compared


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "give `chosen` and `rejected` as texts, or a list `answers`"),
        ({"chosen": "A cup."}, "give `chosen` and `rejected`"),
        ({"answers": [{"text": "A cup.", "score": 1}]}, "two answers, each with a `text`, are needed"),
        ({"answers": [{"text": "A cup.", "score": 1}, 5]}, "two answers, each with a `text`, are needed"),
        ({"answers": ["A cup.", "A dog."]}, "no `score`, and none follows from `objects`"),
        ({"answers": [{"text": "A", "score": "good"}, {"text": "B", "score": 1}]}, "`score` is 'good'; give a number"),
    ],
)
def test_a_row_without_labels_is_named(row, message, tmp_path):
    with pytest.raises(RowError, match=f"gold.jsonl, row 1: .*{message}"):
        read(tmp_path, row)


# -- the verb ----------------------------------------------------------------------------------------------------------


def make_run(folder, script, *more, prompts=(), judge="claims"):
    options = parse(
        *("--prompts", "x", "--model", "m", "--out", folder, "--judges", judge, "--judge_model", "judge", *more)
    )
    run = PairsRun(options, prompts)
    model = Scripted(script)
    run.open_judge = lambda choice: model
    return run, model


def test_what_was_found_is_kept_and_its_replies_apart_from_those_of_the_run(tmp_path):
    golds = [gold_of(str(n), ["A cup.", "A dog."], [1.0, 0.0]) for n in range(3)]
    judge = json.dumps({"judge": "claims", "splits": "sentences"})
    run, model = make_run(tmp_path, lambda words: "yes" if "cup" in words else "no", judge=judge)
    found = run.check_judges(golds)["claims"]
    assert found["pairs"]["accuracy"]["value"] == 100
    assert json.loads((tmp_path / "check-claims.json").read_text())["pairs"] == found["pairs"]
    assert len(model.asked) == 2  # the three rows show the same picture
    assert not (tmp_path / "replies-claims.jsonl").exists()
    steps = json.loads((tmp_path / "cost.json").read_text())["steps"]
    assert (steps["check claims"]["requests"], steps["check claims"]["read"]) == (2, 20)
    assert "judge claims" not in steps
    again, model = make_run(tmp_path, lambda words: pytest.fail("nothing is to be asked"), judge=judge)
    assert again.check_judges(golds)["claims"] == found
    with pytest.raises(JudgeError, match="--only: there is no judge 'claim' here; did you mean 'claims'"):
        again.check_judges(golds, ["claim"])


def test_image_gain_is_taken_only_after_a_check_of_the_same_judge_whose_interval_lies_above_chance(tmp_path):
    prompts = [make_prompt("a")]
    judge = json.dumps({"judge": "image_gain", "run": "world"})
    run, _ = make_run(tmp_path, None, prompts=prompts, judge=judge)
    run.open_judge = lambda choice: None
    context = replace(run.make_context(run.judges[0]), rewards=lambda prompt, texts: [float(len(t)) for t in texts])
    run.make_context = lambda choice: context
    with pytest.raises(JudgeError, match=r"there is no check of it here: mmdpo pairs check-judge --gold FILE"):
        run.judge()
    worse, better = ["A", "A cup here"], [0.0, 1.0]
    right = [gold_of(str(n), worse, better) for n in range(12)]
    few = right[:4] + [gold_of(f"x{n}", worse, better[::-1]) for n in range(4)]
    assert run.check_judges(few)["image_gain"]["pairs"]["accuracy"]["value"] == 50
    with pytest.raises(JudgeError, match=r"its accuracy may be 21\.5 %, as chance's is 50"):
        run.judge()
    run.check_judges(right)
    assert run.judge() == {"image_gain": (0, 0)}
    other, _ = make_run(tmp_path, None, prompts=prompts, judge=judge.replace('"world"', '"another"'))
    other.open_judge = lambda choice: None
    other.make_context = lambda choice: context
    with pytest.raises(JudgeError, match="that of it here was with other options"):
        other.judge()


def test_what_a_judge_needs_is_told_before_anything_is_asked(tmp_path, capsys):
    paint().save(tmp_path / "0.png")
    write_lines(tmp_path / "prompts.jsonl", [{"image": "0.png", "prompt": "How many?"}])
    words = ["--prompts", str(tmp_path / "prompts.jsonl"), "--model", "nobody/nothing", "--out", str(tmp_path / "run")]
    assert main(["pairs", "all", *words, "--judges", "exact"]) == 2
    assert "the judge exact reads the column `answer`, which is not there: write it beside" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([Verdict(1.0)], "the judge returned 1 verdicts of 2 answers: a judge returns a list with a Verdict for each"),
        ([1.0, 2.0], "the judge returned a float in its list"),
        ({0: Verdict(1.0)}, "the judge returned a dict"),
        (None, "the judge returned a NoneType"),
        ([Verdict(float("nan")), None], "a Verdict with the score nan: it has to be finite"),
    ],
)
def test_what_a_judge_of_ones_own_returns_is_looked_at(returned, said):
    judge = SimpleNamespace(judge=lambda prompt, samples, context: returned)
    samples = [Sample("a", k, f"{k} cups") for k in range(2)]
    with pytest.raises(JudgeError, match=said):
        judge_lot(judge, [(make_prompt(), samples)], Context(), None)


SCORES = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 1, "f": 0, "g": 0, "h": 5, "i": 2, "j": 9, "k": 3, "l": 3}


def give_scores(prompt, samples, context):
    return [Verdict(float(SCORES[sample.text])) for sample in samples]


def believe_cups(prompt, samples, context):
    """Is wrong about objects for three prompts in ten, or where several are asked about for none."""

    def hold(name):
        return (name == "cup") != (context.votes < 3 and int(prompt.id) % 10 < NOISE["of ten"]), None

    return [claim_objects(sample.text, context.vocabulary, hold) for sample in samples]


NOISE = {"of ten": 3}
SPREAD = SimpleNamespace(NEEDS="", STRIKES=False, WORDS={}, judge=give_scores)
HASTY = SimpleNamespace(NEEDS="", STRIKES=True, WORDS={}, OPTIONS=("votes",), judge=believe_cups)


def test_how_far_apart_a_judge_holds_two_answers_says_how_often_it_is_right():
    """Three pairs a point apart, one of them wrongly, two further apart, and a tie."""
    texts = list(SCORES)
    golds = [gold_of(str(n), texts[n : n + 2], [0.0, 1.0]) for n in range(0, len(texts), 2)]
    found = check_judge(golds, JudgeChoice(f"{__name__}:SPREAD"), Context(), None)["margin"]
    assert found["narrow"]["value"] == pytest.approx(200 / 3)
    assert (found["narrow"]["n"], found["wide"]["value"], found["wide"]["n"]) == (3, 100, 2)


@pytest.mark.parametrize(("votes", "noise", "is_said"), [(1, 3, True), (1, 0, False), (3, 3, False)])
def test_more_votes_are_advised_where_claims_are_often_judged_wrongly(votes, noise, is_said, monkeypatch):
    monkeypatch.setitem(NOISE, "of ten", noise)
    texts = ("There is a cup.", "There is a cup and a dog.")
    golds = [Gold(make_prompt(str(n), objects=["cup"]), texts, (1.0, 0.0), ("", "")) for n in range(20)]
    found = check_judge(golds, JudgeChoice(f"{__name__}:HASTY"), Context(VOCABULARY, votes=votes), None)
    said = "70 % of claims are judged rightly, fewer than 90 %: with votes: 3 each is asked about in three wordings"
    assert found.get("note", "").startswith(said) == is_said
    assert bool(found.get("note")) == is_said


def test_a_judge_of_one_s_own_is_a_file_and_its_function_names_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    names = 'NEEDS, STRIKES, WORDS = "", False, {}\n'
    body = "from mmdpo.pairs.judges import Verdict\n\n\ndef judge(prompt, samples, context):\n"
    body += "    return [Verdict(float(len(each.text.split()))) for each in samples]\n"
    (tmp_path / "own_judge.py").write_text(names + body)
    (tmp_path / "half_a_judge.py").write_text(body)
    choice = JudgeChoice("own_judge:judge")
    found = check_judge([gold_of("a", ["A cup.", "A red cup."], [0.0, 1.0])], choice, Context(), None)
    assert (choice.label, choice.asks_model, found["pairs"]["accuracy"]["value"]) == ("own_judge-judge", False, 100)
    with pytest.raises(
        JudgeError, match="the module of half_a_judge:judge is no judge: it has no NEEDS and no STRIKES"
    ):
        JudgeChoice("half_a_judge:judge")
