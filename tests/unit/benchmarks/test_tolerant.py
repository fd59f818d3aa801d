"""Thoughts and other words around yes and no: the official numbers stay, and the tolerant ones read what is meant."""

import json

import pytest

from benchmark_data import HAND_MADE, plain_tools
from eval_verb import run
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.tasks import load
from mmdpo.benchmarks.tolerant import read_yes_no, take_off_thoughts


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("NO!", "no"),
        (" yes.\n", "yes"),
        ("**Yes**", "yes"),
        ("*No*, there is none.", "no"),
        ("Answer: _no_", "no"),
        ("The answer is **yes**.", "yes"),
        ("Yes, there is no doubt.", "yes"),
        ("There is no dog.", "no"),
        ("<think>\nThere is no hurry.\n</think>\n\nYes", "yes"),
        ("yes, I think so</think>No", "no"),
        ("<think>yes, or was it no", None),
        ("", None),
        ("Nobody knows.", None),
        ("The eyes are closed.", None),
        ("It is yes to some and no to others.", None),
        ("Maybe.", None),
    ],
)
def test_the_tolerant_reading(answer, read):
    assert read_yes_no(answer) == read


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("A plain  answer. ", "A plain  answer. "),
        ("<think>hm</think> A dog.", "A dog."),
        ("<THINKING>hm</THINKING>\nA dog.", "A dog."),
        ("◁think▷hm◁/think▷A dog.", "A dog."),
        ("hm</think>\n\nA dog.", "A dog."),
        ("hm <think> hm </think>A dog.", "hm A dog."),
        ("<think>should I <think> more?</think>A dog.", "A dog."),
        ("<think>hm</think>A dog<think>hm</think> runs.", "A dog runs."),
        ("<think>hm", ""),
        ("<think>" * 100_000, ""),
        ("</think>" * 100_000, ""),
    ],
)
def test_thoughts_are_taken_off(answer, left):
    assert take_off_thoughts(answer) == left


FORMS = {
    "plain": lambda label: label.capitalize(),
    "bold": lambda label: f"**{label.capitalize()}**",
    "thought": lambda label: f"<think>\nThere is no hurry, let me look.\n</think>\n\n{label.capitalize()}",
    "thought twice": lambda label: f"<think>\nLet me look. I see it all.\n</think>\n\n{label.capitalize()}",
}
YES_NO = {"pope": ["pope/random/accuracy", "pope/macro/f1"], "amber": ["amber/overall/accuracy", "amber/relation/f1"]}


def right_answers(name, form, path):
    """The right answer to every yes/no question of a benchmark, in some form."""
    items = load(name).read_items(HAND_MADE / name, plain_tools())
    asked = {item.id: item.truth.get("label", item.truth.get("truth")) for item in items}
    rows = [{"id": item_id, "answer": FORMS[form](label)} for item_id, label in asked.items() if label in ("yes", "no")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, len(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", YES_NO)
def test_right_answers_are_right_beside_the_official_number(name, form, tmp_path):
    answers, count = right_answers(name, form, tmp_path / "answers.jsonl")
    evaluate = lambda **options: evaluate_answers(name, answers, HAND_MADE, plain_tools(), resamples=100, **options)  # noqa: E731
    found, stripped = evaluate(), evaluate(strip_thoughts=True)
    best = {metric: found.metrics[metric.replace("/", "/tolerant/", 1)].value for metric in YES_NO[name]}
    assert all(value in (1.0, 100.0) or (name == "amber" and value > 99.8) for value in best.values())
    official = {metric: found.metrics[metric].value for metric in YES_NO[name]}
    assert (official == best) == (form == "plain")
    if "thought" in form:
        assert found.notes["thoughts"].count == count
        assert "--strip_thoughts" in found.notes["thoughts"].meaning
        assert {metric: stripped.metrics[metric].value for metric in YES_NO[name]} == best
        assert stripped.notes["thoughts_taken_off"].count == count
        assert "thoughts" in stripped.made_by
    else:
        assert {metric: value.value for metric, value in stripped.metrics.items()} == {
            metric: value.value for metric, value in found.metrics.items()
        }


def test_the_option_stands_on_the_command_line_and_the_answers_stay_whole(tmp_path, capsys):
    answers, _ = right_answers("pope", "thought", tmp_path / "answers.jsonl")
    options = ["pope", "--answers", answers, "--data_dir", HAND_MADE, "--out", tmp_path / "run", "--resamples", "100"]
    run(*options, "--strip_thoughts")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["pope/macro/accuracy"]["value"] == 1.0
    assert "<think>" in (tmp_path / "run" / "answers.jsonl").read_text()
    assert "taken off" in capsys.readouterr().out


def test_a_judge_is_shown_no_thoughts_that_are_taken_off(tmp_path):
    shown = []

    class Judge:
        name = "judge"

        def reply(self, item, answer):
            shown.append(answer)
            return "Rating: 4"

    rows = json.loads((HAND_MADE / "mmhal" / "answers.json").read_text())
    for row in rows:
        row["model_answer"] = "<think>hm</think>A dog."
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    for strip, seen in ((True, "A dog."), (False, "<think>hm</think>A dog.")):
        shown.clear()
        evaluate_answers(
            "mmhal", tmp_path / "answers.json", HAND_MADE, plain_tools(Judge()), resamples=100, strip_thoughts=strip
        )
        assert set(shown) == {seen}
