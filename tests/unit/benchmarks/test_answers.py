"""Files of answers: any field order, any of the formats; what cannot be read is named by file and line."""

import json

import pytest

from benchmark_data import HAND_MADE, plain_tools
from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.reading import EvaluationError, read_answers
from mmdpo.benchmarks.result_folder import write_evaluation
from mmdpo.benchmarks.tasks import amber, pope

ITEMS = {
    str(number): BenchmarkItem(str(number), "generative", "Describe this image.", f"{number}.jpg")
    for number in range(1, 6)
}
ROWS = [{"id": number, "response": f"Größe {number}, “quoted”\nand [more]"} for number in range(1, 6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(path, content, items=ITEMS, find_id=amber.find_id, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_answers(path, "amber", BenchmarkItems.build(items.values()), find_id, **options)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.replace("\n", "\r\n\r\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=4, ensure_ascii=False),
        "\ufeff" + LINES,
        "\n".join(json.dumps(row, indent=2) for row in reversed(ROWS)),
        "".join(json.dumps({"answer": row["response"], "generation": {"a": 1}, "id": str(row["id"])}) for row in ROWS),
    ],
)
def test_every_format_gives_the_same_answers(tmp_path, content):
    found = read(tmp_path / "a.json", content)
    assert {item_id: answer.text for item_id, answer in found.by_id.items()} == {
        str(row["id"]): row["response"] for row in ROWS
    }


def test_rows_know_their_lines(tmp_path):
    found = read(tmp_path / "a.json", json.dumps(ROWS, indent=1))
    assert [found.by_id[str(number)].row.line for number in (1, 2, 5)] == [2, 6, 18]
    found = read(tmp_path / "b.jsonl", LINES)
    assert [found.by_id[str(number)].row.line for number in (1, 5)] == [1, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + '{"id": 1, "response": "again"}', r"a\.json, line 6: a second answer to item 1; .*line 1"),
        (LINES + '\n{"id": 7, "response": "x"}', r"a\.json, line 7: id '7' is none of the 5 items of amber \(1 … 5\)"),
        ("hello", r"line 1: no JSON"),
        ('{"id": 1}', r"line 1: no answer; it has id"),
        ('{"response": "x"}', r"line 1: no id"),
        ('{"id": 1, "response": null}', r"line 1: 'response' should be text, and is null"),
        ('{"id": 1, "response": ["a"]}', r"line 1: 'response' should be text"),
        ('[{"id": 1, "response": "x"}, 3]', r"line 1: should be an object"),
        ('{"id": 1, "response": "x"}\n{"id": 2 "response": "y"}\n{"id": 3, "response": "z"}', r"line 2: no JSON"),
        ('{"id": 1, "response": "x"}\n{"id": 2, "response": "y\n{"id": 3, "response": "z"}\n', r"line 2: no JSON"),
        (b'{"id": 1, "response": "x"}\n{"id": 2, "response": "\xff"}\n', r"line 2: not UTF-8"),
        (json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:]), r"line 2: more text after the end of the array"),
        (json.dumps(ROWS) + "\n\n" + LINES, r"line 3: more text after the end of the array"),
        ('{"id": 1, "response": "x"}\n]\n{"id": 2, "response": "y"}', r"line 2: no JSON"),
        ("", r"holds no answer at all"),
        ("[]", r"holds no answer at all"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    with pytest.raises(EvaluationError, match=message):
        read(tmp_path / "a.json", content, allow_cut=True)


@pytest.mark.parametrize("text", [LINES, json.dumps(ROWS), json.dumps(ROWS, indent=1, ensure_ascii=False)])
def test_a_file_cut_anywhere_is_refused_or_keeps_its_whole_rows(tmp_path, text):
    """At every byte: an error that names the line, or under `allow_cut` every row before the cut and no half of one."""
    content = text.rstrip().encode()
    for length in range(content.index(b"\n" if b"\n" in content else b"}") + 30, len(content)):
        cut = content[:length]
        is_whole_lines = text is LINES and cut.rstrip().endswith(b"}")
        if not is_whole_lines:
            with pytest.raises(EvaluationError, match=r"a\.json, line \d+: the file breaks off in the middle of a row"):
                read(tmp_path / "a.json", cut)
        found = read(tmp_path / "a.json", cut, allow_cut=True) if b"}" in cut else None
        if found is not None:
            assert bool(found.cut) != is_whole_lines
            assert all(answer.text == ROWS[int(item_id) - 1]["response"] for item_id, answer in found.by_id.items())


def test_rows_without_ids_are_joined_by_order_only_if_their_questions_fit(tmp_path):
    items = {
        f"random/{n}": BenchmarkItem(f"random/{n}", "random", f"Is there a {w}?", "")
        for n, w in enumerate(("dog", "cat"))
    }
    rows = [{"answer": "no", "question": f"Is there a {w}? Answer yes or no."} for w in ("dog", "cat")]
    path = tmp_path / "random.jsonl"
    found = read(path, "\n".join(map(json.dumps, rows)), items, pope.find_id)
    assert list(found.by_id) == ["random/0", "random/1"]
    with pytest.raises(
        EvaluationError, match=r"random\.jsonl, line 1: no id, and its question is not that of item random/0"
    ):
        read(path, "\n".join(map(json.dumps, reversed(rows))), items, pope.find_id)
    with pytest.raises(EvaluationError, match=r"which split is this"):
        read(tmp_path / "model.jsonl", json.dumps(rows[0]), items, pope.find_id)


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 10_000, '{"a":' * 100_000])
def test_json_that_no_reader_can_hold_is_an_error_with_file_and_line(tmp_path, value):
    with pytest.raises(EvaluationError, match=r"a\.json, line 2: JSON that cannot be read"):
        read(tmp_path / "a.json", json.dumps(ROWS[0]) + f'\n{{"id": 2, "response": "a", "more": {value}\n')


def test_half_a_surrogate_pair_in_an_answer_is_replaced_noted_and_never_ends_a_run(tmp_path):
    rows = [{"question_id": n, "split": "random", "answer": "Yes"} for n in range(1, 4)]
    rows[1]["answer"] = "Yes \ud83d"
    rows[2]["generation"] = {"system_prompt": "\udc80"}  # a name of a file that is not UTF-8, for instance
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = evaluate_answers(
        "pope", tmp_path / "answers.jsonl", HAND_MADE, plain_tools(), resamples=100, allow_partial=True
    )
    assert evaluation.notes["replaced_characters"].first == ("random/2",)
    result = json.loads(write_evaluation(evaluation, tmp_path / "run").read_text(encoding="utf-8"))
    assert result["answers"]["generation"] == [{"system_prompt": "\udc80"}]
    written = [
        json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["answer"] for row in written] == ["Yes", "Yes \N{REPLACEMENT CHARACTER}", "Yes"]
