"""HallusionBench from a model to its numbers: questions without a picture, a judge, and its second question."""

import json

from PIL import Image

from benchmark_data import HAND_MADE, plain_tools
from chat_server import Act, serve
from eval_verb import run
from mmdpo.benchmarks.tasks import hallusionbench
from mmdpo.generation.questions import write_data_url

REPLIES = {row["id"]: row["reply"] for row in map(json.loads, (HAND_MADE / "hallusionbench" / "replies.jsonl").open())}
ANSWERS = {
    "_".join(row[key] for key in ("category", "subcategory", "set_id", "figure_id", "question_id")): row
    for row in json.loads((HAND_MADE / "hallusionbench" / "answers.json").read_text())
}


def test_questions_without_a_picture_are_asked_and_only_what_decides_is_compared(tmp_path, monkeypatch):
    """The answers made by hand come from a server, and so do the verdicts; the numbers are those of the files."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    items = hallusionbench.read_items(HAND_MADE / "hallusionbench", plain_tools())
    for item in items:
        if item.image:
            (tmp_path / "pictures" / item.image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (int(item.truth["figure_id"]) * 9, len(item.group), 1)).save(
                tmp_path / "pictures" / item.image
            )
    verdicts = {
        hallusionbench.judge_prompt(item, ANSWERS[item.id]["model_prediction"]): REPLIES[item.id] for item in items
    }
    without_picture, compared = [], []

    def behave(request, _):
        content = request["messages"][0]["content"]
        if request["model"] == "judge":
            if "Two answers" in content:
                compared.append(content)
                return Act("Same.")
            # One verdict is none of the three words: it is asked for again, with a reminder, and stays so.
            return Act(next(verdict for prompt, verdict in verdicts.items() if content.startswith(prompt)))
        texts = [part["text"] for part in content if part["type"] == "text"] if isinstance(content, list) else [content]
        if isinstance(content, str) or len(content) == 1:
            without_picture.append(texts[0])
        return Act(next(answers[texts[0], picture_of(content)]))

    def picture_of(content):
        return content[0]["image_url"]["url"] if isinstance(content, list) and len(content) > 1 else ""

    answers = {}
    for item in items:
        url = write_data_url(tmp_path / "pictures" / item.image) if item.image else ""
        answers[item.prompt, url] = iter([ANSWERS[item.id]["model_prediction"]])
    with serve(behave) as server:
        options = ["--data_dir", HAND_MADE, "--image_dir", tmp_path / "pictures", "--resamples", "100"]
        options += ["--model", "m", "--base_url", server.url, "--judge_model", "judge", "--judge_url", server.url]
        assert run("hallusionbench", *options, "--out", tmp_path / "run") == 0
    assert without_picture == ["Did sales rise?"]
    (prompt,) = compared  # the one mistake whose cause depends on the answer about the original figure
    assert "First answer: Yes, they are equal.\nSecond answer: Yes, they are." in prompt
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    expected = json.loads((HAND_MADE / "hallusionbench" / "expected.json").read_text())["metrics"]
    assert {name: found["metrics"][name]["value"] for name in expected} == expected
    rows = [json.loads(line) for line in (tmp_path / "run" / "judge_replies.jsonl").open()]
    assert "VD_illusion_0_1_0/same" in {row["id"] for row in rows}
    again = ["--data_dir", HAND_MADE, "--answers", tmp_path / "run", "--resamples", "100"]
    replayed = [*again, "--judge_replies", tmp_path / "run" / "judge_replies.jsonl", "--out", tmp_path / "again"]
    assert run("hallusionbench", *replayed) == 0
    same = json.loads((tmp_path / "again" / "result.json").read_text())
    assert same["metrics"] == found["metrics"]
    assert run("hallusionbench_yes_no", *again, "--out", tmp_path / "yes_no") == 0
    other = json.loads((tmp_path / "yes_no" / "result.json").read_text())
    assert other["metrics"]["hallusionbench_yes_no/aacc"]["n"] == 6
    assert other["made_by"]["answers"] == "1 answers to other questions of hallusionbench are left out"
