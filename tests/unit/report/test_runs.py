import json

import pytest

from mmdpo.report.layout import MarkedAnswer
from mmdpo.report.quickstart import read_quickstart
from mmdpo.report.shape import ReportError


def test_run_folder_is_read_whole(run_dir):
    run = read_quickstart(run_dir)
    assert list(run.results["variants"]) == ["start", "dpo", "mdpo", "sft_chosen"]
    assert len(run.scenes) == 6
    assert run.scenes[0].truth == ("cup", "plate", "kettle")
    assert run.scenes[0].corrupted_image == run_dir / "scenes/0_corrupted.png"
    assert list(run.histories) == ["dpo", "mdpo", "sft_chosen"], "the start was not trained and has no log"


def test_marks_stand_on_whole_words_and_lose_no_text():
    answer = MarkedAnswer("A cup, a Cup, a teacup and a cupboard. Traffic light", ("cup", "traffic light", "fork"))
    spans = answer.spans()
    assert "".join(span.text for span in spans) == answer.text
    assert [span.text for span in spans if span.hallucinated] == ["cup", "Cup", "Traffic light"]


def test_answer_without_hallucination_has_no_mark():
    assert [span.hallucinated for span in MarkedAnswer("cup , plate .").spans()] == [False]


@pytest.mark.parametrize(
    ("file", "edit", "says"),
    [
        ("results.json", lambda text: None, "results.json: no such file"),
        ("results.json", lambda text: text[:40], "results.json: not JSON"),
        ("results.json", lambda text: json.dumps({"variants": {}, "seed": 0}), "results.json: the key 'scenes'"),
        ("examples.json", lambda text: text.replace('"truth"', '"thruth"', 1), "example 0: the key 'truth'"),
        ("examples.json", lambda text: text.replace("scenes/2.png", "scenes/x.png"), "example 2: there is no picture"),
        ("dpo/trainer_state.json", lambda text: "{}", "dpo/trainer_state.json: the key 'log_history'"),
    ],
)
def test_broken_folder_is_named_with_file_and_key(run_dir, file, edit, says):
    path = run_dir / file
    edited = edit(path.read_text())
    path.unlink()
    if edited is not None:
        path.write_text(edited)
    with pytest.raises(ReportError, match=says):
        read_quickstart(run_dir)
