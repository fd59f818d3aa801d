"""Replies to a probe are on disk as they come, and are not asked for again."""

import json
from types import SimpleNamespace

import pytest

from mmdpo.diagnosis.conflict import SETTINGS
from mmdpo.diagnosis.replies import REPLIES, ReplyLog
from mmdpo.generation.questions import Question
from mmdpo.training.durable.resume import RunFolderError

QUESTIONS = [Question(f"q{n}", f"What is {n}?", None) for n in range(4)]


def open_log(folder, model="a", asked=QUESTIONS):
    answerer = SimpleNamespace(describe=lambda: {"model": model, "versions": {"torch": "2"}})
    return ReplyLog(folder, answerer, SETTINGS, asked, shown=False)


def test_a_probe_that_is_killed_goes_on_where_it_was(tmp_path):
    asked = []

    def reply(questions):
        for question in questions:
            asked.append(question.id)
            if question.id == "q2" and len(asked) == 3:
                raise KeyboardInterrupt
            yield question.id, [0.1, float(question.id[1])]

    with pytest.raises(KeyboardInterrupt):
        open_log(tmp_path).complete("options, image", QUESTIONS, reply)
    path = tmp_path / REPLIES
    path.write_bytes(path.read_bytes() + b'{"what": "options, ima')  # and the machine with it
    log = open_log(tmp_path)
    found = log.complete("options, image", QUESTIONS, reply)
    log.close()
    assert asked == ["q0", "q1", "q2", "q2", "q3"]
    assert found == {f"q{n}": [0.1, float(n)] for n in range(4)}
    # Another thing that is asked of the same questions is another reply.
    log = open_log(tmp_path)
    assert log.complete("answers, text", QUESTIONS[:1], lambda some: [(q.id, "yes") for q in some]) == {"q0": "yes"}
    log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("what") for row in rows] == [None, *["options, image"] * 4, "answers, text"]


def test_a_probe_that_was_killed_as_it_began_says_which_model_replied(tmp_path):
    (tmp_path / REPLIES).write_bytes(b'{"model": "a", "vers')
    for _ in range(2):
        log = open_log(tmp_path)
        log.complete("answers", QUESTIONS, lambda some: [(q.id, "yes") for q in some])
        log.close()
    with pytest.raises(RunFolderError, match="another model:"):
        open_log(tmp_path, model="b")


def test_what_a_model_said_is_the_same_after_a_kill_whatever_characters_it_has(tmp_path):
    said = {"q0": "A\r\n\x0b\ud83d"}
    for _ in range(2):
        log = open_log(tmp_path, model="odd\x7fname")
        assert log.complete("answers", QUESTIONS[:1], lambda some: said.items()) == said
        log.close()


def test_a_damaged_line_is_named(tmp_path):
    log = open_log(tmp_path)
    log.complete("answers", QUESTIONS, lambda some: [(q.id, "yes") for q in some])
    log.close()
    lines = (tmp_path / REPLIES).read_text().splitlines()
    (tmp_path / REPLIES).write_text("\n".join([*lines[:2], "?", *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"replies\.jsonl, line 3: no JSON"):
        open_log(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"), [({"model": "b"}, "another model:"), ({"asked": QUESTIONS[:3]}, "another asked:")]
)
def test_replies_of_another_model_or_to_others_are_not_mixed(tmp_path, change, named):
    log = open_log(tmp_path)
    log.complete("answers", QUESTIONS, lambda some: [(q.id, "yes") for q in some])
    log.close()
    with pytest.raises(RunFolderError, match=named):
        open_log(tmp_path, **change)
