"""Results in the forms of others: lm-eval's samples, Markdown, a model card's metadata."""

import json

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from benchmark_data import HAND_MADE, plain_tools
from eval_verb import run
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.evaluation.publishing import list_card_results, push_results

POPE = ["--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--resamples", "100"]


@pytest.fixture
def pope():
    return evaluate_answers("pope", HAND_MADE / "pope" / "answers.jsonl", HAND_MADE, plain_tools(), resamples=100)


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_samples_have_lm_evals_fields_and_can_be_scored_again(tmp_path):
    run("pope", *POPE, "--out", tmp_path / "run", "--log_samples")
    lines = (tmp_path / "run" / "samples_pope.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 12
    second = rows[1]
    assert second["doc_id"] == 1
    assert second["doc"]["question"] == "Is there a bus in the image?"
    assert (second["target"], second["resps"], second["filtered_resps"]) == (
        "no", [["No, there is none."]], ["No, there is none."]
    )  # fmt: skip
    assert second["arguments"]["gen_args_0"]["arg_0"] == "Is there a bus in the image?"
    assert second["filter"] == "none"
    assert set(second["metrics"]) <= set(second)
    assert second["random/true_no"] == 1
    # SHA-256 of the word "no", as lm-eval takes it of a target
    assert second["target_hash"] == "9390298f3fb0c5b160498935d79cb139aef28e1c47358b4bbba61862b9c26e59"
    samples = tmp_path / "run" / "samples_pope.jsonl"
    run("pope", *POPE[:2], "--answers", samples, "--resamples", "100", "--out", tmp_path / "again")
    assert result_of(tmp_path / "again")["metrics"] == result_of(tmp_path / "run")["metrics"]
    assert not (tmp_path / "again" / "samples_pope.jsonl").exists()


def test_the_settings_of_an_answer_stand_with_its_sample(tmp_path):
    rows = [json.loads(line) for line in (HAND_MADE / "pope" / "answers.jsonl").open()]
    rows = [row | {"prompt": "Is it? Be short.", "generation": {"prompt_suffix": " Be short."}} for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("pope", *POPE[:2], "--answers", tmp_path / "a.jsonl", "--out", tmp_path / "run", "--log_samples")
    samples = tmp_path / "run" / "samples_pope.jsonl"
    first = json.loads(samples.read_text().splitlines()[0])
    assert first["arguments"]["gen_args_0"] == {"arg_0": "Is it? Be short.", "arg_1": {"prompt_suffix": " Be short."}}
    run("pope", *POPE[:2], "--answers", samples, "--out", tmp_path / "again")
    assert result_of(tmp_path / "again")["made_by"]["prompt_suffix"] == "' Be short.'"


def test_markdown_for_a_model_card(tmp_path, capsys):
    run("pope", *POPE, "--out", tmp_path / "a", "--markdown")
    shown = capsys.readouterr().out
    assert "| metric | value | 95 % interval | n | unit |" in shown
    assert "\n| pope/popular/f1 ↑ | 0.800 | " in shown
    run("pope", *POPE, "--out", tmp_path / "b")
    capsys.readouterr()
    run("compare", tmp_path / "a", tmp_path / "b", "--markdown", "--resamples", "100")
    shown = capsys.readouterr().out
    assert (tmp_path / "compare" / "compare.md").read_text().splitlines()[0] in shown
    assert "| pope/popular/f1 ↑ | 0.800 | 0.800 | 0.000 |" in shown


def test_metrics_stand_in_a_cards_metadata(pope):
    results = list_card_results(pope)
    by_kind = {result.metric_type: result for result in results}
    assert by_kind["popular/f1"].metric_value == 0.8
    assert by_kind["popular/f1"].metric_name == "pope/popular/f1 (share)"
    assert "adversarial/precision" not in by_kind  # it divides by zero
    assert (by_kind["popular/f1"].dataset_name, by_kind["popular/f1"].task_type) == ("POPE", "image-text-to-text")
    card = ModelCard(f"---\n{ModelCardData(model_name='m', eval_results=results).to_yaml()}\n---\n# m\n")
    name, read = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "m"
    assert {of.metric_type: of.metric_value for of in read} == {of.metric_type: of.metric_value for of in results}


def test_what_made_the_numbers_tells_results_apart(pope, tmp_path):
    plain = list_card_results(pope)[0]
    pairs = HAND_MADE / "amber" / "similar_pairs.json"
    amber = evaluate_answers("amber", HAND_MADE / "amber" / "answers.json", HAND_MADE, plain_tools(), resamples=100)
    assert "similarity: pair table of by hand" in list_card_results(amber)[0].dataset_config
    assert pairs.exists()
    assert plain.dataset_config is None or "similarity" not in plain.dataset_config


def test_a_result_is_uploaded_where_that_is_asked_for(pope, tmp_path, monkeypatch, capsys):
    calls = []

    def update(repository, metadata, **options):
        calls.append((repository, metadata, options))
        return f"https://huggingface.co/{repository}/commit/1"

    monkeypatch.setattr(huggingface_hub, "metadata_update", update)
    run("pope", *POPE, "--out", tmp_path / "a")
    assert calls == []
    run("pope", *POPE, "--out", tmp_path / "b", "--push_to_hub", "me/model")
    (repository, metadata, options) = calls.pop()
    assert repository == "me/model"
    assert options["overwrite"] is True
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "model"
    assert len(results) == len(list_card_results(pope))
    assert "Card: https://huggingface.co/me/model/commit/1" in capsys.readouterr().out
    assert push_results(pope, "me/model").endswith("commit/1")


def test_a_partial_result_is_not_uploaded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "metadata_update", lambda *given, **options: pytest.fail("uploaded"))
    lines = (HAND_MADE / "pope" / "answers.jsonl").read_text().splitlines()[1:]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    options = ["--answers", tmp_path / "a.jsonl", "--out", tmp_path / "o", "--partial", "--push_to_hub", "me/model"]
    with pytest.raises(EvaluationError, match="a partial result belongs on no model card: 1 of the 4 items"):
        run("pope", *POPE[:2], *options)
    assert (tmp_path / "o" / "result.json").exists()  # the result is there all the same
