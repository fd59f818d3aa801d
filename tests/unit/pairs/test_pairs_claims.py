"""Claims: each asked once for a picture, what its replies are read as, and what is kept of them."""

import math
from dataclasses import replace

import pytest

from mmdpo.pairs.asking import LEAST_ASKED, REMINDER, Asker, JudgeError
from mmdpo.pairs.judges import Ask, Claim, Context, Verdict, claims
from mmdpo.pairs.judging import judge_lot
from mmdpo.pairs.samples import Sample
from tests.pairs_help import REFUSED, Scripted, make_prompt, paint, read_lines

SPLITS = {
    "A cup. A dog.": "1: There is a cup.\n2: There is a dog.",
    "A dog and a cup.": "1: There is the cup\n1: There is a dog.",
    "A cup, red.": "1: There is a cup.\n- [1]. The cup is red",
    "I like it!": "NONE",
}
SHARES = {"cup": 0.9, "dog": 0.2, "red": 0.5}


def about(words):
    """What a check is about: the last of the known words in its statement."""
    return max(SHARES, key=lambda word: words.rfind(word))


def is_split(words):
    return words.startswith(claims.WORDS["split"].partition("\n")[0])


def say(words):
    """Splits by the table above; says yes to cups, no to dogs, as likely as red things are."""
    if is_split(words):
        text = words.partition("\n\n")[2]
        return next(reply for answer, reply in SPLITS.items() if text.startswith("1. ") and _joined(text) == answer)
    share = SHARES[about(words)]
    likeliest = {"Yes": math.log(share * 0.8), "No": math.log((1 - share) * 0.8), "Maybe": math.log(0.1)}
    return ("Yes" if share >= 0.5 else "No"), likeliest


def _joined(numbered):
    return " ".join(line.partition(". ")[2] for line in numbered.replace(REMINDER, "").splitlines())


def judge(texts, model, path, prompts=None, **options):
    """Judges answers to one prompt, or to several the same ones."""
    prompts = prompts or [make_prompt()]
    asker = Asker(model, path)
    lot = [(prompt, [Sample(prompt.id, k, text) for k, text in enumerate(texts, start=1)]) for prompt in prompts]
    try:
        found = judge_lot(claims, lot, Context(**options), asker)
    finally:
        asker.close()
    return found[0] if len(prompts) == 1 else found


def test_every_claim_is_asked_about_once_though_several_answers_make_it(tmp_path):
    model = Scripted(say)
    texts = ["A cup. A dog.", "A dog and a cup.", "A cup, red.", "A cup. A dog.", "I like it!"]
    found = judge(texts, model, tmp_path / "replies.jsonl")
    assert sum(map(is_split, model.texts())) == 4  # distinct answers
    assert len(model.asked) == 4 + 3  # and distinct statements: cup, dog, red
    assert [verdict.score for verdict in found] == [-1, -1, 2, -1, 0]
    cup, dog = found[0].claims
    assert cup == Claim("There is a cup.", True, pytest.approx(0.9), 0)
    assert dog == Claim("There is a dog.", False, pytest.approx(0.2), 1)
    assert [(claim.sentence, claim.probability) for claim in found[1].claims] == [
        (0, cup.probability),
        (0, dog.probability),
    ]
    assert found[4] == Verdict(0.0)  # it says nothing of the picture


def test_a_claim_is_asked_about_every_picture_and_splits_are_not(tmp_path):
    """An answer is split without the picture, so that equal answers to several prompts are split once."""
    model = Scripted(say)
    prompts = [make_prompt("a"), make_prompt("b", image=paint((0, 0, 255))), make_prompt("c")]
    found = judge(["A cup. A dog."], model, tmp_path / "replies.jsonl", prompts)
    assert [verdicts[0].score for verdicts in found] == [-1, -1, -1]
    assert sum(map(is_split, model.texts())) == 1
    assert len(model.asked) == 1 + 2 * 2  # two statements about two pictures: a and c show the same
    for words, images, settings in model.asked:
        assert len(images) == (0 if is_split(words) else 1)
        assert (settings.max_new_tokens, settings.top_logprobs) == ((1024, 0) if is_split(words) else (1, 20))


@pytest.mark.parametrize("votes", [2, 3])
def test_votes_ask_in_other_words_and_the_mean_counts(votes, tmp_path):
    shares = {"check": 0.9, "check 2": 0.1, "check 3": 0.8}

    def say_by_wording(words):
        if is_split(words):
            return say(words)
        wording = next(
            name
            for name in shares
            for claim in ("There is a cup.", "There is a dog.")
            if claims.WORDS[name].format(claim=claim) == words
        )
        return "?", {"yes": math.log(shares[wording]), "no": math.log(1 - shares[wording])}

    model = Scripted(say_by_wording)
    (verdict,) = judge(["A cup. A dog."], model, tmp_path / "replies.jsonl", votes=votes)
    mean = {2: 0.5, 3: 0.6}[votes]
    assert len(model.asked) == 1 + 2 * votes
    assert [claim.probability for claim in verdict.claims] == pytest.approx([mean, mean])
    assert verdict.right == 2


def test_sentences_are_claims_of_themselves_where_no_model_splits(tmp_path):
    model = Scripted(say)
    first, second = judge(["A cup. A dog.", "A dog."], model, tmp_path / "replies.jsonl", splits="sentences")
    assert not any(map(is_split, model.texts()))
    assert len(model.asked) == 2
    assert [(claim.text, claim.is_true, claim.sentence) for claim in first.claims] == [
        ("A cup.", True, 0),
        ("A dog.", False, 1),
    ]
    assert [(claim.text, claim.is_true) for claim in second.claims] == [("A dog.", False)]


def test_without_probabilities_the_first_word_counts(tmp_path):
    said = {"cup": "Yes, there is one.", "dog": "no", "red": "**Yes**"}
    model = Scripted(lambda words: say(words) if is_split(words) else said[about(words)])
    (verdict,) = judge(["A cup, red."], model, tmp_path / "replies.jsonl")
    assert [(claim.is_true, claim.probability) for claim in verdict.claims] == [(True, 1.0), (True, 1.0)]
    (verdict,) = judge(["A cup. A dog."], model, tmp_path / "replies.jsonl")
    assert [(claim.is_true, claim.probability) for claim in verdict.claims] == [(True, 1.0), (False, 0.0)]


def test_a_threshold_decides_from_which_probability_a_claim_is_true(tmp_path):
    (verdict,) = judge(["A cup, red."], Scripted(say), tmp_path / "replies.jsonl", threshold=0.6)
    assert [claim.is_true for claim in verdict.claims] == [True, False]


def test_sentences_that_an_answer_does_not_have_are_no_place_of_a_claim(tmp_path):
    model = Scripted(lambda words: "0: A cup.\n1: A dog.\n7: A red thing." if is_split(words) else say(words))
    (verdict,) = judge(["A cup. A dog."], model, tmp_path / "replies.jsonl")
    assert [claim.sentence for claim in verdict.claims] == [None, 0, None]


def test_a_sentence_that_says_nothing_of_the_picture_has_no_claim(tmp_path):
    split = "1: There is a cup.\n2: NONE\n3: None.\n4： NONE (a wish)\n5: None of the dogs is red."
    model = Scripted(lambda words: split if is_split(words) else say(words))
    (verdict,) = judge(["A cup. Hi! Oh! Bye! No dog."], model, tmp_path / "replies.jsonl")
    assert [(claim.text, claim.sentence) for claim in verdict.claims] == [
        ("There is a cup.", 0),
        ("None of the dogs is red.", 4),
    ]


class Brief(Scripted):
    """Ends each reply at the limit of tokens, as one that replies in one token does as well."""

    def answer(self, questions, settings):
        for each in super().answer(questions, settings):
            yield replace(each, details={**each.details, "finish_reason": "length"})


def test_a_reply_that_was_cut_off_is_not_read_as_if_it_were_all(tmp_path):
    path = tmp_path / "replies.jsonl"
    model = Brief(say)
    assert judge(["A cup. A dog."], model, path) == [None]
    assert list(map(is_split, model.texts())) == [True] * 3
    assert judge(["A cup. A dog."], Brief(lambda words: pytest.fail("nothing is to be asked")), path) == [None]
    (verdict,) = judge(["A cup. A dog."], Brief(say), tmp_path / "others.jsonl", splits="sentences")
    assert verdict.score == -1
    asker = Asker(Brief(lambda words: "1: A cup"), tmp_path / "many.jsonl")
    with pytest.raises(JudgeError, match=r"cannot be read.*Some were cut off at 1,024 tokens"):
        asker.ask([Ask(f"Split {n}", lambda reply: reply.text) for n in range(LEAST_ASKED)])
    asker.close()


def test_what_a_judge_thinks_before_it_splits_is_no_claim(tmp_path):
    thoughts = "<think>\n1: There is a dog?\n</think>\n"
    model = Scripted(lambda words: thoughts + say(words) if is_split(words) else say(words))
    (verdict,) = judge(["A cup, red."], model, tmp_path / "replies.jsonl")
    assert [claim.text for claim in verdict.claims] == ["There is a cup.", "The cup is red"]


def test_an_unreadable_reply_is_asked_for_again_with_the_reminder_and_otherwise(tmp_path):
    seen = {}

    def stammer(words):
        seen[words] = seen.get(words, 0) + 1
        return "Hm." if REMINDER not in words else say(words.replace(REMINDER, ""))

    model = Scripted(stammer)
    (verdict,) = judge(["A cup. A dog."], model, tmp_path / "replies.jsonl")
    assert verdict.score == -1
    assert len(model.asked) == 6
    temperatures = [(REMINDER in words, settings.temperature) for words, _, settings in model.asked]
    assert set(temperatures) == {(False, 0.0), (True, 0.7)}
    again = Scripted(stammer)
    assert judge(["A cup. A dog."], again, tmp_path / "replies.jsonl") == [verdict]
    assert again.asked == []


def test_what_cannot_be_read_however_often_it_is_asked_has_no_verdict_and_is_not_asked_again(tmp_path):
    model = Scripted(lambda words: say(words) if is_split(words) or "dog" not in words else "Perhaps.")
    found = judge(["A cup. A dog.", "A cup, red."], model, tmp_path / "replies.jsonl")
    assert found[0] is None  # part of it was not judged
    assert found[1].score == 2
    assert sum("dog" in words and not is_split(words) for words in model.texts()) == 3
    again = Scripted(lambda words: pytest.fail("nothing is to be asked"))
    assert judge(["A cup. A dog.", "A cup, red."], again, tmp_path / "replies.jsonl") == found


def test_one_vote_that_cannot_be_read_leaves_it_to_the_others(tmp_path):
    odd = claims.WORDS["check 2"].partition("\n")[2]
    model = Scripted(lambda words: "Perhaps." if odd in words else say(words))
    (verdict,) = judge(["A cup, red."], model, tmp_path / "replies.jsonl", votes=2)
    assert [claim.probability for claim in verdict.claims] == pytest.approx([0.9, 0.5])


def test_refused_requests_are_counted_lose_nothing_else_and_are_asked_again(tmp_path, caplog):
    model = Scripted(lambda words: REFUSED if not is_split(words) and about(words) == "dog" else say(words))
    path = tmp_path / "replies.jsonl"
    asker = Asker(model, path)
    prompt = make_prompt()
    lot = [(prompt, [Sample("a", 1, "A cup. A dog."), Sample("a", 2, "A cup, red.")])]
    ((first, second),) = judge_lot(claims, lot, Context(), asker)
    asker.close()
    assert (first, second.score) == (None, 2)
    assert (asker.refused, asker.unreadable, asker.asked) == (1, 0, 5)
    assert "1 questions got no answer" in caplog.text  # what was said of it, which may be mended
    assert len(read_lines(path)) == 4
    willing = Scripted(say)
    assert [verdict.score for verdict in judge(["A cup. A dog.", "A cup, red."], willing, path)] == [-1, 2]
    assert [about(words) for words in willing.texts()] == ["dog"]


def test_a_refused_second_try_counts_as_unreadable(tmp_path):
    model = Scripted(lambda words: REFUSED if REMINDER in words else "Hm.")
    asker = Asker(model, tmp_path / "replies.jsonl")
    assert asker.ask([Ask("Is it?", claims.read_yes, is_yes_no=True)]) == [None]
    assert (asker.refused, asker.unreadable) == (0, 1)
    asker.close()


def test_more_than_one_unreadable_reply_in_twenty_ends_the_run_with_everything_kept(tmp_path):
    asks = [Ask(f"Is number {n} right?", claims.read_yes, is_yes_no=True) for n in range(60)]
    path = tmp_path / "replies.jsonl"

    def make_asker(unreadable):
        return Asker(Scripted(lambda words: "Hm!" if int(words.split()[2]) in unreadable else "yes"), path)

    asker = make_asker({3, 20, 40})
    assert asker.ask(asks).count(None) == 3  # 5 % of 60 are not too many
    asker.close()
    path.unlink()
    asker = make_asker({3, 20, 40, 41})
    with pytest.raises(JudgeError, match=r"4 of 60 replies .* cannot be read, more than 5%.*'Hm!'.*replies\.jsonl"):
        asker.ask(asks)
    asker.close()
    assert len(read_lines(path)) == 60 + 4 + 4
    again = Scripted(lambda words: pytest.fail("nothing is to be asked"))
    with pytest.raises(JudgeError, match="4 of 60"):
        Asker(again, path).ask(asks)


def test_few_replies_are_not_enough_to_give_a_judge_up(tmp_path):
    asker = Asker(Scripted(lambda words: "Hm."), tmp_path / "replies.jsonl")
    asks = [Ask(f"Is number {n} right?", claims.read_yes, is_yes_no=True) for n in range(LEAST_ASKED)]
    assert asker.ask(asks[:-1]) == [None] * (LEAST_ASKED - 1)
    with pytest.raises(JudgeError, match=f"{LEAST_ASKED} of {LEAST_ASKED}"):
        asker.ask(asks[-1:])
    asker.close()


def test_replies_of_another_model_are_not_taken(tmp_path):
    path = tmp_path / "replies.jsonl"
    judge(["A cup, red."], Scripted(say), path)
    other = Scripted(lambda words: say(words) if is_split(words) else "no", name="other")
    (verdict,) = judge(["A cup, red."], other, path)
    assert (verdict.struck, len(other.asked)) == (2, 3)
    assert judge(["A cup, red."], Scripted(say), path)[0].struck == 0


def test_a_reply_is_on_disk_before_the_next_one_is_waited_for(tmp_path):
    path = tmp_path / "replies.jsonl"
    counts = []

    def count(words):
        counts.append(len(read_lines(path)) if path.exists() else 0)
        return say(words)

    judge(["A cup. A dog.", "A dog and a cup.", "A cup, red."], Scripted(count), path)
    assert counts == list(range(6))


def test_half_a_reply_at_the_end_of_the_file_is_asked_for_again(tmp_path):
    path = tmp_path / "replies.jsonl"
    expected = judge(["A cup. A dog."], Scripted(say), path)
    path.write_bytes(path.read_bytes()[:-5])
    again = Scripted(say)
    assert judge(["A cup. A dog."], again, path) == expected
    assert len(again.asked) == 1


def test_what_a_request_costs_is_heard_of_once(tmp_path):
    heard = []
    asker = Asker(Scripted(say), tmp_path / "replies.jsonl", on_reply=lambda *tokens: heard.append(tokens))
    lot = [(make_prompt(), [Sample("a", 1, "A cup. A dog.")])]
    for _ in range(2):
        judge_lot(claims, lot, Context(), asker)
    asker.close()
    assert heard == [(10, 10), (10, 1), (10, 1)]  # the split has ten words
