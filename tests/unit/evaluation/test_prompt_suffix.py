"""`--prompt_suffix`: what is asked, what is kept of it, and what it is checked against."""

import json
import shutil

import pytest
from PIL import Image

from benchmark_data import HAND_MADE, ROOT, plain_tools
from chat_server import Act, serve
from eval_verb import run
from mmdpo.benchmarks.evaluate import find_data
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.compare import compare_runs
from mmdpo.evaluation.options import choose_suffix

SHORT = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def endpoint():
    with serve(lambda request, number: Act("No")) as server:
        yield server


@pytest.fixture
def asked(endpoint, tmp_path):
    """Asks the endpoint the questions of a benchmark made by hand; gives the words that it was sent."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()

    def ask(name, out, *options):
        for item in load(name).read_items(find_data(name, HAND_MADE), plain_tools()):
            Image.new("RGB", (4, 4)).save(pictures / item.image)
        before = len(endpoint.requests)
        model = ["--model", "m", "--base_url", endpoint.url, "--image_dir", pictures, "--resamples", "100"]
        run(name, *model, "--data_dir", HAND_MADE, "--out", tmp_path / out, *options)
        return endpoint.texts()[before:]

    return ask


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_named_suffix_is_asked_and_written_into_answers_and_result(asked, tmp_path):
    texts = asked("pope", "run", "--prompt_suffix", "lmms_eval")
    assert "Is there a dog in the image?" + SHORT in texts
    assert all(text.endswith(SHORT) for text in texts)
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert {row["generation"]["prompt_suffix"] for row in rows} == {SHORT}
    assert all(row["prompt"].endswith(SHORT) for row in rows)
    result = result_of(tmp_path / "run")
    assert result["made_by"]["prompt_suffix"] == repr(SHORT)
    assert result["answers"]["generation"][0]["prompt_suffix"] == SHORT


def test_ambers_descriptions_are_asked_for_as_they_are(asked, tmp_path):
    tools = ["--linguistics", "table", "--similar_pairs", HAND_MADE / "amber" / "similar_pairs.json"]
    texts = asked("amber", "run", "--prompt_suffix", "vlmevalkit", *tools)
    said = [text.endswith("\nPlease answer yes or no.") for text in texts]
    assert (sum(said), len(said)) == (10, 14)
    assert all("Describe" in text for text, is_so in zip(texts, said, strict=True) if not is_so)


def test_answers_of_one_run_have_one_suffix(asked):
    asked("pope", "run", "--prompt_suffix", "lmms_eval", "--limit", "1")
    with pytest.raises(EvaluationError, match=r"prompt_suffix was .*single word or phrase.* and is null"):
        asked("pope", "run")
    assert len(asked("pope", "run", "--prompt_suffix", "lmms_eval")) == 9  # three were there
    asked("pope", "bare", "--limit", "1")
    with pytest.raises(EvaluationError, match=r"prompt_suffix was null and is .*single word"):
        asked("pope", "bare", "--prompt_suffix", "lmms_eval")


def test_a_scored_copy_and_a_comparison_know_the_suffix(asked, tmp_path):
    asked("pope", "short", "--prompt_suffix", "lmms_eval")
    asked("pope", "bare")
    run(
        "pope", "--answers", tmp_path / "short", "--data_dir", HAND_MADE, "--out", tmp_path / "again",
        "--resamples", "100",
    )  # fmt: skip
    assert result_of(tmp_path / "again")["made_by"] == result_of(tmp_path / "short")["made_by"]
    first = (tmp_path / "again" / "answers.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["prompt"].endswith(SHORT)
    notes = compare_runs([tmp_path / "bare", tmp_path / "short"], resamples=100).notes
    assert any("not the same prompt_suffix: none in bare" in note for note in notes)
    assert not any("suffix" in n for n in compare_runs([tmp_path / "short", tmp_path / "again"], resamples=100).notes)
    mixed = [*(tmp_path / "short" / "answers.jsonl").read_text().splitlines()[:4]]
    mixed += (tmp_path / "bare" / "answers.jsonl").read_text().splitlines()[4:]
    (tmp_path / "mixed.jsonl").write_text("\n".join(mixed) + "\n")
    run(
        "pope", "--answers", tmp_path / "mixed.jsonl", "--data_dir", HAND_MADE, "--out", tmp_path / "mixed",
        "--resamples", "100",
    )  # fmt: skip
    assert result_of(tmp_path / "mixed")["made_by"]["prompt_suffix"] == f"{SHORT!r} and nothing"


def test_a_text_of_ones_own_stands_after_a_space_and_a_word_that_names_none_is_refused():
    pope = load("pope")
    assert choose_suffix(pope, None) == ""
    assert choose_suffix(pope, "Yes or no?") == " Yes or no?"
    assert choose_suffix(pope, "\\nYes or no?") == "\nYes or no?"
    assert choose_suffix(pope, "vlmevalkit") == " Please answer yes or no."
    with pytest.raises(ValueError, match=r"'lmms-eval' is no suffix that pope knows \(lmms_eval \('Answer the"):
        choose_suffix(pope, "lmms-eval")
    with pytest.raises(ValueError, match=r"'lmms_eval' is no suffix that world knows \(none\)"):
        choose_suffix(load("world"), "lmms_eval")
    with pytest.raises(ValueError, match="'' is no suffix"):
        choose_suffix(pope, "")


def test_it_is_about_a_model_that_is_asked(tmp_path):
    with pytest.raises(ValueError, match="--prompt_suffix goes with --model"):
        run("pope", "--answers", "a.jsonl", "--out", tmp_path, "--prompt_suffix", "lmms_eval")


def test_a_suite_asks_with_the_suffix_those_that_know_it(endpoint, tmp_path):
    for name in ("pope", "world"):
        for item in load(name).read_items(find_data(name, HAND_MADE), plain_tools()):
            Image.new("RGB", (4, 4)).save(tmp_path / item.image)
    model = ["--model", "m", "--base_url", endpoint.url, "--image_dir", tmp_path, "--data_dir", HAND_MADE]
    model += ["--out", tmp_path / "all", "--benchmarks", "pope", "world", "--resamples", "100", "--limit", "2"]
    with pytest.raises(ValueError, match=r"a suite takes the name of a suffix \(lmms_eval, vlmevalkit\)"):
        run("suite", *model, "--prompt_suffix", "Yes or no?")
    assert run("suite", *model, "--prompt_suffix", "lmms_eval") == 0
    assert sum(text.endswith(SHORT) for text in endpoint.texts()) == 6
    suite = json.loads((tmp_path / "all" / "suite.json").read_text())
    assert any(note.startswith("pope was asked with") for note in suite["notes"])
    assert "prompt_suffix" not in result_of(tmp_path / "all" / "world")["made_by"]


def test_the_note_on_answers_that_amber_cannot_read_names_the_suffix(tmp_path, capsys):
    shutil.copytree(HAND_MADE / "amber" / "data", tmp_path / "data")
    rows = json.loads((HAND_MADE / "amber" / "answers.json").read_text())
    chatty = [{"id": row["id"], "answer": "Yes, it is."} for row in rows if row["id"] > 4]
    (tmp_path / "chatty.json").write_text(json.dumps(chatty))
    run("amber", "--answers", tmp_path / "chatty.json", "--data_dir", tmp_path, "--out", tmp_path / "o")
    assert "10 × answers that count as neither" in (shown := capsys.readouterr().out)
    assert "--prompt_suffix vlmevalkit" in shown


@pytest.mark.parametrize("name", [name for name in names() if load(name).suffixes])
def test_the_page_lists_every_suffix_with_who_uses_it(name):
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for suffix, about in load(name).suffixes.items():
        shown = about.text.replace("\n", "\\n")
        assert f"| `{name}` | `{suffix}` | `{shown}` |" in page
        assert " at " in about.source
