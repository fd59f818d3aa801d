"""Judges that grade, compare and rewrite answers: what they ask, what replies are read as, verdicts by hand."""

import re

import pytest

from mmdpo.pairs.asking import Asker
from mmdpo.pairs.judges import Claim, Context, Reply, Verdict, correct, pairwise, reference
from mmdpo.pairs.judges.correct import compare
from mmdpo.pairs.judges.pairwise import draw_matches, read_letter
from mmdpo.pairs.judging import judge_lot
from mmdpo.pairs.samples import Sample
from tests.pairs_help import Scripted, make_prompt


def judge(module, texts, script, tmp_path, prompt=None, **options):
    """Returns the verdicts of answers to one prompt, and the model that was asked."""
    model = Scripted(script)
    asker = Asker(model, tmp_path / "replies.jsonl")
    samples = [Sample("a", k, text) for k, text in enumerate(texts, start=1)]
    (found,) = judge_lot(module, [(prompt or make_prompt(), samples)], Context(**options), asker)
    asker.close()
    return found, model


# -- reference ---------------------------------------------------------------------------------------------------------


def test_reference_grades_each_distinct_answer_once_and_sees_no_picture(tmp_path):
    replies = {
        "A dog.": "Score: 3\nWrong: a dog; It is alone.\nMissing: the cup",
        "A cup.": "**Score:** 10\nWrong: none\nMissing: none",
    }

    def grade(words):
        return replies[re.search(r"answer to grade:\n(.*)\n", words)[1]]

    prompt = make_prompt(reference="A cup on a {table}.")
    found, model = judge(reference, ["A dog.", "A cup.", "A dog."], grade, tmp_path, prompt)
    assert found == [
        Verdict(3.0, (Claim("a dog", False), Claim("It is alone", False))),
        Verdict(10.0),
        Verdict(3.0, (Claim("a dog", False), Claim("It is alone", False))),
    ]
    assert len(model.asked) == 2
    assert all(not images and "A cup on a {table}." in words for words, images, _ in model.asked)


@pytest.mark.parametrize(
    ("reply", "score", "wrong"),
    [
        ("Score: 7", 7, []),
        ("score - 8/10\nWrong: None.", 8, []),
        ("Score: 7.5\nWrong: N/A", 7, []),
        ("I compare.\nScore: 0\nwrong : all of it ;; \n", 0, ["all of it"]),
        ("**Score:** 9\n**Wrong:** none\n**Missing:** a cup", 9, []),
        ("Score: 6\nWrong:\nMissing: a cup", 6, []),
        ("Score: 2\nWrong:\n- a dog\n2. It is 3.5 cm tall.\nMissing: none", 2, ["a dog", "It is 3.5 cm tall"]),
        ("- Score: 8\n- Wrong: none (all of it is there)\n- Missing: none", 8, []),
        ("Score: 4\nWrong: nothing stands on the table\nMissing: none", 4, ["nothing stands on the table"]),
        ("Score: 5\nWrong：狗；猫\nMissing：none", 5, ["狗", "猫"]),
        ("Score: 8\nWrong：无", 8, []),
        ("1. Score: 3\n2. Wrong: the dog\n3. Missing: none", 3, ["the dog"]),
        ("Score (0-10): 7\nWrong: none", 7, []),
        ("Score (7)\nWrong: none", 7, []),
    ],
)
def test_a_grade_is_read_in_the_forms_that_models_give_it(reply, score, wrong):
    verdict = reference._read(Reply(reply))
    assert (verdict.score, [claim.text for claim in verdict.claims]) == (score, wrong)


@pytest.mark.parametrize("reply", ["", "It is good.", "Score: 15", "Score: 100", "Score: ten"])
def test_what_is_no_grade_from_0_to_10_cannot_be_read(reply):
    assert reference._read(Reply(reply)) is None


# -- pairwise ----------------------------------------------------------------------------------------------------------

BEST = {"A cup.": 3, "A dog.": 2, "A cat.": 1}


def shown(words):
    """The two answers of a comparison, in order."""
    return re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n", words).groups()


def prefer_best(words):
    first, second = shown(words)
    return "A" if BEST[first] > BEST[second] else "B"


def test_each_pair_is_shown_both_ways_and_scores_are_the_share_of_comparisons_that_were_won(tmp_path):
    found, model = judge(pairwise, [*BEST, "A dog."], prefer_best, tmp_path)
    assert sorted(map(shown, model.texts())) == sorted((a, b) for a in BEST for b in BEST if a != b)
    assert all(len(images) == 1 for _, images, _ in model.asked)
    assert [(verdict.score, verdict.comparisons, verdict.inconsistent) for verdict in found] == [
        (10.0, 2, 0),
        (5.0, 2, 0),
        (0.0, 2, 0),
        (5.0, 2, 0),
    ]


def test_a_verdict_that_turns_with_the_order_is_a_tie_and_counts_as_inconsistent(tmp_path):
    found, _ = judge(pairwise, ["A cup.", "A dog."], lambda words: "A", tmp_path)
    assert [(verdict.score, verdict.comparisons, verdict.inconsistent) for verdict in found] == [(5, 1, 1), (5, 1, 1)]
    found, _ = judge(pairwise, ["A cat.", "A bus."], lambda words: "T", tmp_path)
    assert [(verdict.score, verdict.inconsistent) for verdict in found] == [(5, 0), (5, 0)]
    half, _ = judge(pairwise, ["A bee.", "A car."], lambda words: "A" if shown(words)[0] == "A bee." else "T", tmp_path)
    assert [(verdict.score, verdict.inconsistent) for verdict in half] == [(5, 1), (5, 1)]


def test_a_comparison_that_cannot_be_read_is_none(tmp_path):
    def say(words):
        return "Both have their merits." if "A cat." in shown(words) else prefer_best(words)

    found, _ = judge(pairwise, list(BEST), say, tmp_path)
    assert [(verdict.score, verdict.comparisons) for verdict in found[:2]] == [(10, 1), (0, 1)]
    assert found[2] is None


def test_one_distinct_answer_is_compared_with_nothing(tmp_path):
    found, model = judge(pairwise, ["A cup.", "A cup."], prefer_best, tmp_path)
    assert found == [None, None]
    assert model.asked == []


@pytest.mark.parametrize("opponents", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_every_answer_is_compared_with_enough_others_and_no_two_twice(count, opponents):
    texts = [f"answer {n}" for n in range(count)]
    matches = draw_matches(texts, opponents, 3, "a")
    pairs = [frozenset(match) for match in matches]
    assert len(set(pairs)) == len(pairs)
    assert all(len(pair) == 2 for pair in pairs)
    assert all(sum(text in pair for pair in pairs) >= min(opponents, count - 1) for text in texts)
    assert draw_matches(texts, opponents, 3, "a") == matches


def test_who_is_compared_is_drawn_by_the_seed():
    texts = [f"answer {n}" for n in range(8)]
    drawn = {frozenset(map(frozenset, draw_matches(texts, 2, seed, "a"))) for seed in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ("A", 1),
        (" b", None),
        ("B.", 0),
        ("**B**", 0),
        ("T", 0.5),
        ("tie", 0.5),
        ("A tie.", 0.5),
        ("It is a tie", 0.5),
        ("Answer: A", 1),
        ("The better answer is B", 0),
        ("A\n\nthe dog is there.", 1),
        ("A is better than B", 1),
        ("B fits better, A does not", 0),
        ("B is wrong, A is right", None),
        ("A is not right", None),
        ("A fits less well", None),
        ("B is right", 0),
        ("A picture of a dog shows that B is right", None),
        ("Both", None),
        ("", None),
    ],
)
def test_a_letter_is_read_where_a_reply_begins_with_one(reply, share):
    assert read_letter(Reply(reply)) == share


# -- correct -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rewrite", "gone"),
    [
        ("A cup.", "A cup.", []),
        ("A cup.", "a Cup", []),
        ("A cup, a dog.", "A cup.", [("a dog.", 0)]),
        ("A red cup. A dog sits.", "A blue cup. A cat sits.", [("red", 0), ("dog", 1)]),
        ("A cup. A dog sits there.", "A cup.", [("A dog sits there.", 1)]),
        ("A cup.", "A cup and a spoon.", []),  # completed: nothing of it was wrong
        ("A dog. It barks.", "", [("A dog. It barks.", 0)]),
    ],
)
def test_every_stretch_of_words_that_a_rewrite_takes_out_is_a_wrong_claim(text, rewrite, gone):
    verdict = compare(text, rewrite)
    assert [(claim.text, claim.sentence) for claim in verdict.claims] == gone
    assert not any(claim.is_true for claim in verdict.claims)
    assert (verdict.score, verdict.struck, verdict.rewrite) == (-len(gone), len(gone), rewrite)


@pytest.mark.parametrize(
    "reply", ["I'm sorry, but I can't see it.", "A cup. A cup. A cup.", "<think>A cup, or a dog?</think>", '" "']
)
def test_a_rewrite_that_could_be_no_answer_is_none(tmp_path, reply):
    found, model = judge(correct, ["A dog."], lambda words: reply, tmp_path)
    assert found == [None]
    assert len(model.asked) == 3


def test_a_rewrite_has_nothing_of_what_the_model_thought(tmp_path):
    found, _ = judge(correct, ["A dog."], lambda words: "<think>Is it a dog? No.</think>\n\nA cat.", tmp_path)
    assert found[0].rewrite == "A cat."


def test_correct_asks_once_for_each_distinct_answer_and_shows_the_picture(tmp_path):
    rewrites = {"A dog.": '"A cat."', 'It says "STOP"': 'It says "STOP"', "A cup.": "  "}

    def rewrite(words):
        return next(rewrites[text] for text in rewrites if f"Text: {text}\n" in words)

    found, model = judge(correct, [*rewrites, "A dog."], rewrite, tmp_path)
    assert [None if verdict is None else (verdict.rewrite, verdict.struck) for verdict in found] == [
        ("A cat.", 1),
        ('It says "STOP"', 0),
        None,  # no text in three tries
        ("A cat.", 1),
    ]
    assert len(model.asked) == 3 + 2
    assert all(len(images) == 1 for _, images, _ in model.asked)
