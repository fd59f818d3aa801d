"""What the page of answers shows, and in which order."""

import json

import pytest

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")

from mmdpo.app.answers_page import (
    ALL,
    DIFFERENT,
    EVERY_WRONG,
    SOME_WRONG,
    choose_items,
    find_benchmarks,
    is_wanted,
    list_filters,
    read_board,
    show_item,
)
from mmdpo.app.sources import Sources
from mmdpo.report.reading import find_folders
from tests.voted_runs import write_run


def board_of(runs):
    places = find_benchmarks(find_folders(runs).evaluations)
    (benchmark,) = places
    return read_board(benchmark, places[benchmark])


def html_of(board, at=0, wanted=ALL, search=""):
    return str(show_item(board, choose_items(board, wanted, search), at))


def ids(board, *asked):
    return [board.items[place].id for place in choose_items(board, *asked)]


@pytest.fixture
def flagged(tmp_path):
    """Items: a, one word flagged in either; b, two in dpo alone; c, none; d, one in mdpo alone; e, answered by dpo."""
    dpo = {"a": "a cat", "b": "a cat and a dog", "c": "one cup", "d": "a red cup", "e": "a pen"}
    mdpo = {"a": "the cat", "b": "a cup", "c": "one cup", "d": "a red car"}
    of = {"a": ["cat"], "b": ["cat", "dog"]}, {"a": ["cat"], "d": ["car"]}
    return [
        write_run(
            tmp_path / name,
            answers,
            benchmark="world",
            reasons={item: {"flagged": found.get(item, [])} for item in answers},
        )
        for name, answers, found in (("dpo", dpo, of[0]), ("mdpo", mdpo, of[1]))
    ]


def test_items_where_the_runs_differ_most_come_first(flagged):
    board = board_of(flagged)
    # By words flagged: b 2, d 1; then by words that not both have: a 1 − 1/3, and c, e, where nothing differs.
    assert [item.id for item in board.items] == ["b", "d", "a", "c", "e"]
    assert [item.gap for item in board.items] == [2, 1, 0, 0, 0]
    assert board.items[2].unlike == pytest.approx(2 / 3)


def test_items_are_filtered_by_what_is_wrong_and_searched_by_all_words(flagged):
    board = board_of(flagged)
    assert list_filters(board) == [ALL, DIFFERENT, SOME_WRONG, EVERY_WRONG, "only dpo is wrong", "only mdpo is wrong"]
    assert ids(board, DIFFERENT, "") == ["b", "d"]
    assert ids(board, SOME_WRONG, "") == ["b", "d", "a"]
    assert ids(board, EVERY_WRONG, "") == ["a"]
    assert ids(board, "only dpo is wrong", "") == ["b"]
    assert ids(board, "only mdpo is wrong", "") == ["d"]
    assert ids(board, ALL, "CUP one") == ["c"]
    assert ids(board, ALL, "in b?") == ["b"]  # of the prompt
    assert "No item is like that" in html_of(board, search="nothing like this")


def test_flagged_words_are_marked_and_an_answer_that_is_missing_is_said(flagged):
    board = board_of(flagged)
    assert "a <mark>cat</mark> and a <mark>dog</mark>" in html_of(board)
    assert "hallucinated: cat, dog" in html_of(board)
    assert "nothing hallucinated" in html_of(board)
    assert "1 of 5" in html_of(board)
    last = html_of(board, 4)
    assert "5 of 5" in last
    assert "no answer" in last


def test_a_judge_s_ratings_and_replies_stand_beside_the_answers(tmp_path):
    def rated(name, **ratings):
        reasons = {
            item: {
                "official": rating,
                "tolerant": rating,
                "reply": f"Why: {item}. Rating: {rating}",
                "reference": "A dog.",
            }
            for item, rating in ratings.items()
        }
        return write_run(tmp_path / name, {item: f"{name} on {item}" for item in ratings}, reasons=reasons)

    board = board_of([rated("dpo", a=5, b=0, c=2), rated("mdpo", a=4, b=6, c=1)])
    assert [(item.id, item.gap) for item in board.items] == [("b", 6), ("a", 1), ("c", 1)]
    html = html_of(board)
    for text in ("rated 0 of 6 by the judge", "rated 6 of 6", "Why: b. Rating: 0", "Reference answer: A dog."):
        assert text in html
    assert ids(board, "only dpo is wrong", "") == ["b"]
    assert ids(board, EVERY_WRONG, "") == ["c"]


def test_an_answer_that_was_not_scored_is_no_faultless_one(tmp_path):
    """The judge gave no reply to a of mdpo: what dpo lacks there says nothing of the two."""
    rated = {item: {"official": rating, "tolerant": rating} for item, rating in (("a", 1), ("b", 5), ("c", 3))}
    runs = [
        write_run(tmp_path / name, {item: f"{name} on {item}" for item in "abc"}, reasons=reasons)
        for name, reasons in (("dpo", rated), ("mdpo", rated | {"a": {}, "b": rated["c"]}))
    ]
    board = board_of(runs)
    assert [(item.id, item.gap) for item in board.items] == [("b", 2), ("a", 0), ("c", 0)]
    assert ids(board, DIFFERENT, "") == ["b"]


def test_text_of_answers_is_text(tmp_path):
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    runs = [write_run(tmp_path / name, {bad: bad + name}, prompts={bad: bad}) for name in ("dpo", "mdpo")]
    html = html_of(board_of(runs))
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_a_run_without_scores_is_shown_and_what_is_damaged_is_said(flagged):
    (flagged[0] / "scores.jsonl").unlink()
    with (flagged[1] / "answers.jsonl").open("a") as file:
        file.write("{damaged\n")
    html = html_of(board_of(flagged))
    assert "not scored" in html
    assert "there is no scores.jsonl" in html
    assert "1 lines of answers.jsonl are damaged" in html


def test_the_page_is_for_two_runs_of_one_benchmark(flagged, tmp_path):
    other = write_run(tmp_path / "other", {"x": "y"})
    assert is_wanted(Sources(runs=tuple(flagged)))
    assert not is_wanted(Sources(runs=(flagged[0], other)))
    assert not is_wanted(Sources())


def test_an_answer_to_another_prompt_than_the_one_above_says_so(tmp_path):
    """As of a run with `--prompt_suffix` beside one without."""
    short = "Is it red? Answer yes or no."
    one = write_run(tmp_path / "one", {"a": "red"}, prompts={"a": "Is it red?"})
    other = write_run(tmp_path / "other", {"a": "Yes"}, prompts={"a": short})
    html = html_of(board_of([one, other]))
    assert html.count("asked: ") == 1
    assert html.index("other") < html.index(f"asked: {short}")


def test_two_results_of_one_run_are_told_apart_by_their_folders(flagged, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("{}")
    for folder in flagged:
        folder.rename(run / f"world-{folder.name}")
    assert board_of([run]).runs == ("run/world-dpo", "run/world-mdpo")


def test_many_items_are_read_whole(tmp_path):
    answers = {f"item-{number}": "a cup" for number in range(2500)}
    reasons = {item: {"flagged": []} for item in answers}
    runs = [write_run(tmp_path / name, answers, benchmark="world", reasons=reasons) for name in ("dpo", "mdpo")]
    last = runs[1] / "scores.jsonl"
    lines = last.read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {"reason": {"flagged": ["cup"]}})
    last.write_text("\n".join(lines) + "\n")
    board = board_of(runs)
    assert len(board.items) == 2500
    assert board.items[0].id == "item-2499"
