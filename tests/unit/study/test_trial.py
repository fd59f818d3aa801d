"""One trial: whose answers its own pairs are made of, how a benchmark opens the start, and which code decides it."""

import json
from pathlib import Path
from types import SimpleNamespace

import grimp
import pytest
import yaml

from mmdpo.study import trial as trials
from mmdpo.study.own_pairs import OwnPairs
from mmdpo.study.planning import plan_trials
from mmdpo.study.study_file import read_study
from mmdpo.study.trial import run_trial

OWN = {"prompts": 2, "samples": 4}
STUDY = {
    "name": "own",
    "recipe": "world",
    "seeds": [0],
    "evaluation": {"scenes": 4},
    "options": {"own_pairs": OWN},
    "variants": [
        {"name": "same", "own_pairs": {"rule": "best_worst"}},
        {"name": "more_answers", "own_pairs": {"samples": 8}},
        {"name": "more_prompts", "own_pairs": {"prompts": 3}},
    ],
}


ARRANGING = {
    *("checkpoints.card", "files", "folders", "keys", "line_file", "options", "progress", "registry"),
    *("report.comparison", "report.evaluated", "report.evaluation", "report.layout", "report.pair_files"),
    *("report.pair_tables", "report.pairs", "study.study_file", "tables", "terminal"),
}
"""What the code that decides a trial uses, and what arranges, writes or prints: it changes no number."""


class Begun(Exception):
    """The pairs of a round are about to be made."""


@pytest.mark.parametrize(("name", "asks_itself"), [("same", False), ("more_answers", True), ("more_prompts", True)])
def test_a_variant_takes_the_starts_answers_where_they_are_as_many_as_it_wants(
    tmp_path, monkeypatch, name, asks_itself
):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    planned = plan_trials(read_study(str(tmp_path / "study.yaml")), tmp_path)
    own = planned[0].folder / "own"
    own.mkdir(parents=True)
    (own / "sampler.json").write_text(json.dumps({"settings": {"num_samples": OWN["samples"]}}))
    rows = ({"id": f"p{number}", "digest": "d", "images": []} for number in range(OWN["prompts"]))
    (own / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def begin(*given):
        raise Begun

    monkeypatch.setattr(trials, "answer_prompts", lambda model, wanted, *rest: asked.append(wanted))
    monkeypatch.setattr(trials, "make_pairs_of_round", begin)
    (trial,) = [trial for trial in planned if trial.variant.name == name]
    recipe = trial.variant.recipe(tmp_path / "trial", 0)
    assert isinstance(trial.variant.own_pairs, OwnPairs)
    with pytest.raises(Begun):
        trials._train_rounds(trial, recipe, trial.variant.own_pairs, lambda *said: None)
    assert asked == ([trial.variant.own_pairs] if asks_itself else [])


def test_a_benchmark_opens_the_start_as_training_does(tmp_path, monkeypatch):
    """With the adapter that variants train further, at its revision, and with its chat template."""
    options = {
        **{"model_name_or_path": "some/model", "dataset_name": "pairs.jsonl", "use_cpu": True, "report_to": "none"},
        **{"adapter_name_or_path": "runs/sft", "model_revision": "abc", "chat_template_kwargs": {"tone": "dry"}},
    }
    study = {**STUDY, "recipe": "base.yaml", "options": {}, "variants": [{"name": "a"}]}
    study["evaluation"] = {"benchmarks": [{"name": "pope", "limit": 4}]}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(options))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    start = plan_trials(read_study(str(tmp_path / "study.yaml")), tmp_path)[0]
    nothing = SimpleNamespace(scenes=(), ask=lambda model: ([], None))
    asked = []
    monkeypatch.setattr(trials, "_load_start", lambda recipe: (SimpleNamespace(config=None), None, {}, {}))
    monkeypatch.setattr(trials, "_gather_held_out", lambda *given: nothing)
    monkeypatch.setattr(trials, "measure_benchmark", lambda given, model, out: asked.append((model, dict(given))) or {})
    start.folder.mkdir(parents=True)
    run_trial(start, start.folder, lambda *said: None)
    ((model, given),) = asked
    assert model == "some/model"
    given = {name: value for name, value in given.items() if value}
    kwargs = given.pop("chat_template_kwargs")
    assert (json.loads(kwargs) if isinstance(kwargs, str) else kwargs) == {"tone": "dry"}
    assert given == {"name": "pope", "limit": 4, "adapter": "runs/sft", "revision": "abc"}


def test_all_code_that_a_trials_numbers_come_from_is_in_its_digest():
    root = Path(trials.__file__).parents[1]
    files = [path.relative_to(root) for part in trials.DECIDING for path in root.glob(part) if path.suffix == ".py"]
    deciding = {".".join(("mmdpo", *path.with_suffix("").parts)).removesuffix(".__init__") for path in files}
    graph = grimp.build_graph("mmdpo", cache_dir=None)
    used = set().union(*(graph.find_modules_directly_imported_by(name) for name in deciding))
    assert {name.removeprefix("mmdpo.") for name in used - deciding} == ARRANGING
