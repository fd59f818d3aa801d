"""Values that are found on seeds of their own, and trials that another study has finished already."""

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mmdpo.commands.study import StudyOptions, run
from mmdpo.study import study_run
from mmdpo.study.planning import adopt_finished, choose_values, describe_tuned, plan_trials, plan_tries, take_values
from mmdpo.study.study_file import StudyError, read_study

TUNE = {"key": "learning_rate", "values": [1e-4, 3e-4, 9e-4], "seeds": [300, 301], "by": "world/f1"}
STUDY = {
    "name": "tuned",
    "recipe": "world",
    "seeds": [0, 1],
    "evaluation": {"scenes": 4},
    "tune": TUNE,
    "variants": [
        {"name": "dpo", "objective": "dpo"},
        {"name": "mdpo", "objective": "mdpo"},
        {"name": "fixed", "objective": "mdpo", "learning_rate": 5e-5},
    ],
}
F1 = {
    ("dpo", "0.0001"): (80, 82), ("dpo", "0.0003"): (70, 72), ("dpo", "0.0009"): (90, 20),
    ("mdpo", "0.0001"): (80, 80), ("mdpo", "0.0003"): (91, 91), ("mdpo", "0.0009"): (91, 91),
}  # fmt: skip


def read(tmp_path, **changes):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | changes))
    return read_study(str(tmp_path / "study.yaml"))


def finish(trial, value=0.0, better="higher"):
    trial.folder.mkdir(parents=True)
    measured = {"metrics": {"world/f1": value}, "measures": {"world/f1": {"better": better}}}
    (trial.folder / "trial.json").write_text(json.dumps({"digest": trial.digest, "variant": "x", **measured}))


def finish_tries(study, folder, better="higher", leave_out=()):
    tries = plan_tries(study, folder)
    for trial in tries:
        of = F1.get(trial.folder.parts[-3:-1])
        if of and (*trial.folder.parts[-3:-1], trial.seed) not in leave_out:
            finish(trial, of[study.tuning.seeds.index(trial.seed)], better)
    return tries


def rates(study):
    return {variant.name: variant.options["learning_rate"] for variant in study.variants[1:]}


def test_every_value_is_tried_with_every_tuning_seed_but_of_a_variant_that_sets_its_own(tmp_path):
    tries = plan_tries(read(tmp_path), tmp_path / "out")
    assert len(tries) == 2 * (1 + 2 * 3)
    assert {trial.seed for trial in tries} == {300, 301}
    assert len({trial.folder for trial in tries}) == len({trial.digest for trial in tries}) == len(tries)
    assert len({trial.label for trial in tries}) == len(tries), "each has its bar"
    assert not any(trial.variant.name.startswith("fixed") for trial in tries)


def test_the_best_mean_decides_and_of_several_the_least_value(tmp_path):
    study = read(tmp_path)
    chosen, tuned = choose_values(study, finish_tries(study, tmp_path / "out"))
    assert rates(chosen) == {"dpo": 1e-4, "mdpo": 3e-4, "fixed": 5e-5}
    assert tuned["tried"]["dpo"] == {"0.0001": 81, "0.0003": 71, "0.0009": 55}
    said = describe_tuned(tuned)
    assert said[0] == "learning_rate with the best world/f1 on the seeds 300, 301: 0.0001 dpo; 0.0003 mdpo"
    assert said[1].endswith("lie beyond: dpo")
    # What is measured then has the values that were found, and the study's own seeds.
    trials = plan_trials(chosen, tmp_path / "out")
    assert {trial.variant.options["learning_rate"] for trial in trials if trial.variant.name == "mdpo"} == {3e-4}
    assert {trial.seed for trial in trials} == {0, 1}


def test_where_less_is_better_the_least_mean_decides(tmp_path):
    study = read(tmp_path)
    assert rates(choose_values(study, finish_tries(study, tmp_path / "out", "lower"))[0])["dpo"] == 9e-4


def test_a_value_with_a_try_missing_is_not_chosen(tmp_path):
    study = read(tmp_path)
    # Of 9e-4 the seed 300 alone is there, and would win.
    tries = finish_tries(study, tmp_path / "out", leave_out=[("dpo", "0.0009", 301), ("dpo", "0.0001", 300)])
    chosen, tuned = choose_values(study, tries)
    assert rates(chosen)["dpo"] == 3e-4
    assert describe_tuned(tuned)[-1] == "dpo: without a result of every try at 0.0001, 0.0009"


def test_a_variant_that_no_value_could_be_tried_of_is_said_to_keep_its_own(tmp_path):
    study = read(tmp_path)
    tries = finish_tries(
        study, tmp_path / "out", leave_out=[("mdpo", value, 300) for value in ("0.0001", "0.0003", "0.0009")]
    )
    chosen, tuned = choose_values(study, tries)
    assert rates(chosen)["mdpo"] == 3e-4, "the world's own"
    assert describe_tuned(tuned)[-1].endswith("at 0.0001, 0.0003, 0.0009, so that it keeps its recipe's learning_rate")


def chosen_before(tmp_path, **changes):
    """The folder of a finished study that chose 1e-4 for dpo and 3e-4 for mdpo."""
    study = read(tmp_path)
    folder = tmp_path / "before"
    _, tuned = choose_values(study, finish_tries(study, folder))
    (folder / "results.json").write_text(json.dumps({"study": study.name, "tuned": tuned} | changes))
    return folder


def test_what_a_study_chose_is_taken_to_confirm_it_on_new_seeds(tmp_path):
    folder = chosen_before(tmp_path)
    study, tuned = take_values(read(tmp_path, seeds=[100, 101]), folder)
    assert rates(study) == {"dpo": 1e-4, "mdpo": 3e-4, "fixed": 5e-5}
    assert study.command.endswith(f" --tuned_in {folder}")
    found = f"learning_rate with the best world/f1 on the seeds 300, 301 in {folder}: 0.0001 dpo; 0.0003 mdpo"
    assert describe_tuned(tuned)[0] == found
    fewer, tuned = take_values(read(tmp_path, seeds=[100], variants=STUDY["variants"][:1]), folder)
    assert rates(fewer) == tuned["chosen"] == {"dpo": 1e-4}, "of the variants that are run"


def test_nothing_is_tried_where_values_are_taken(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(study_run, "prepare_server", lambda: None)
    monkeypatch.setattr(study_run, "write_study_files", lambda folder: ())  # nothing was measured that could be drawn
    monkeypatch.setattr(study_run, "_run_from_starts", lambda trials, *rest: ran.append((rest[-1], trials)))
    folder = chosen_before(tmp_path)
    results = study_run.run_study(read(tmp_path, seeds=[100]), tmp_path / "out", 1, Console(), tuned_in=folder)
    ((what, trials),) = ran
    assert what == "trials"
    assert [trial.variant.options["learning_rate"] for trial in trials[1:]] == [1e-4, 3e-4, 5e-5]
    assert results["tuned"]["in"] == str(folder)
    assert any(str(folder) in note for note in results["notes"])


NEW = {"name": "new", "objective": "mdpo"}


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({}, {"seeds": [7, 301], "tune": TUNE | {"seeds": [5]}}, r"by the seeds \[301\], which are run here"),
        ({"study": "other"}, {}, "chose learning_rate of the study 'other', not learning_rate of 'tuned'"),
        ({"tuned": {"key": "beta", "seeds": [5], "chosen": {}}}, {}, "chose beta of the study 'tuned', not learning"),
        ({"tuned": None}, {"tune": None}, "the study 'tuned' tunes nothing: leave it out"),
        ({}, {"variants": [*STUDY["variants"], NEW]}, "chose nothing for new: leave it out to try values here"),
        ({"tuned": None}, {}, "results.json does not say which values a study chose"),
    ],
)
def test_values_that_were_chosen_for_something_else_are_refused(tmp_path, there, here, said):
    folder = chosen_before(tmp_path, **there)
    with pytest.raises(StudyError, match=f"--tuned_in: .*{said}"):
        take_values(read(tmp_path, **here), folder)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"--tuned_in: .*results\.json cannot be read: No such file or directory"):
        take_values(read(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [1, 300]}, r"tune: seeds \[1\] are the study's own, which nothing may be chosen by"),
        ({"values": [3e-4, 1e-4]}, "tune: values lists two numbers or more, from the least to the greatest"),
        ({"values": [3e-4]}, "two numbers or more"),
        ({"key": "learning_rat"}, "learning_rate"),
        ({"metric": "world/f1"}, "tune: there is no option 'metric'"),
        ({"by": "world/F1"}, "tune: by: .* 'world/F1'; did you mean 'world/f1'"),
        ({"by": "pope/macro/f1"}, "tune: by: .* 'pope/macro/f1'"),
        ({"by": "time/train"}, "tune: by: .* 'time/train'"),
    ],
)
def test_a_tuning_that_cannot_be_done_is_refused_before_anything_is_run(tmp_path, change, said):
    with pytest.raises(StudyError, match=said):
        read(tmp_path, tune=TUNE | change)


def test_a_benchmark_that_is_measured_may_decide(tmp_path):
    evaluation = {"scenes": 4, "benchmarks": [{"name": "pope", "data_dir": "data"}]}
    assert read(tmp_path, evaluation=evaluation, tune=TUNE | {"by": "pope/macro/f1"}).tuning.by == "pope/macro/f1"


def test_an_option_that_is_a_whole_number_can_be_tuned(tmp_path):
    study = read(tmp_path, tune=TUNE | {"key": "gradient_accumulation_steps", "values": [1, 4]})
    steps = [t.variant.recipe(tmp_path, 0).training.gradient_accumulation_steps for t in plan_tries(study, tmp_path)]
    assert set(steps) == {1, 4}


def test_the_learning_rates_of_a_study_in_another_world_are_written_as_they_are_run(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    study = read_study(str(tmp_path / "study.yaml"), world="world_large")
    assert list(study.tuning.values) == study.content["tune"]["values"] == [0.5e-4, 1.5e-4, 4.5e-4]


def test_values_can_be_tried_on_other_seeds_than_the_studys(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    study = read_study(str(tmp_path / "study.yaml"), tuning_seeds=[301])
    assert {trial.seed for trial in plan_tries(study, tmp_path)} == {301}
    assert study.content["tune"]["seeds"] == [301]
    assert study.command.endswith("study.yaml --tuning_seeds 301")
    with pytest.raises(StudyError, match=r"tune: seeds \[1\] are the study's own"):
        read_study(str(tmp_path / "study.yaml"), tuning_seeds=[1, 301])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | {"tune": None}))
    with pytest.raises(StudyError, match="--tuning_seeds: the study tunes nothing: leave it out"):
        read_study(str(tmp_path / "study.yaml"), tuning_seeds=[301])


def test_values_are_either_taken_or_tried():
    with pytest.raises(ValueError, match="leave one out"):
        run(StudyOptions(name="beyond", tuning_seeds=(300,), tuned_in=Path("runs/beyond")))


@pytest.mark.parametrize("seeds", [[300], [300, 301]])
def test_more_tuning_seeds_try_only_what_is_new(tmp_path, seeds):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    before = finish_tries(read_study(str(tmp_path / "study.yaml"), tuning_seeds=[300]), tmp_path / "out")
    later = plan_tries(read_study(str(tmp_path / "study.yaml"), tuning_seeds=seeds), tmp_path / "out")
    assert {trial.digest for trial in before} == {trial.digest for trial in later if trial.seed == 300}


def test_a_missing_part_is_named(tmp_path):
    with pytest.raises(StudyError, match="tune: by is missing"):
        read(tmp_path, tune={key: value for key, value in TUNE.items() if key != "by"})


def test_the_same_trial_of_a_study_beside_is_taken_over_under_the_new_name(tmp_path):
    other = read(tmp_path, name="other", variants=[{"name": "plain", "objective": "dpo"}], tune=None)
    study = read(tmp_path)
    dpo = next(trial for trial in plan_trials(other, tmp_path / "runs" / "other") if trial.variant.name == "plain")
    finish(dpo, 80.0)
    trials = plan_trials(study, tmp_path / "runs" / "tuned")
    assert adopt_finished(trials, tmp_path / "runs" / "tuned") == 1
    (taken,) = [trial for trial in trials if trial.is_finished()]
    assert (taken.variant.name, taken.seed) == ("dpo", dpo.seed)
    assert taken.read("trial.json")["variant"] == "dpo"
    assert dpo.read("trial.json")["variant"] == "x", "the other study's is left as it was"
    assert adopt_finished(trials, tmp_path / "runs" / "tuned") == 0


def test_variants_that_change_names_keep_their_files(tmp_path):
    names = ("dpo", "mdpo")
    before, after = (
        plan_trials(
            read(tmp_path, tune=None, variants=[{"name": n, "objective": o} for n, o in zip(names, of, strict=True)]),
            tmp_path / "runs" / "mine",
        )
        for of in (names, names[::-1])
    )
    for place, trial in enumerate(before):
        finish(trial, float(place))
        (trial.folder / "pairs.jsonl").write_text(f"{place}")
    swapped = [trial for trial in after if trial.start is not None]
    assert adopt_finished(after, tmp_path / "runs" / "mine") == len(swapped) == 4
    for trial in swapped:
        place = int(trial.read("trial.json")["metrics"]["world/f1"])
        assert before[place].digest == trial.digest
        assert (trial.folder / "pairs.jsonl").read_text() == f"{place}"


def test_a_trial_whose_files_cannot_be_linked_is_copied(tmp_path, monkeypatch):
    """Those of another user, whose files Linux does not let others link, or on another disk."""

    def refuse(source, target):
        raise PermissionError("Operation not permitted")

    study = read(tmp_path, tune=None)
    monkeypatch.setattr("os.link", refuse)
    finish(plan_trials(study, tmp_path / "runs" / "theirs")[1], 80.0)
    trials = plan_trials(study, tmp_path / "runs" / "mine")
    assert adopt_finished(trials, tmp_path / "runs" / "mine") == 1
    assert trials[1].read("trial.json")["metrics"] == {"world/f1": 80.0}


def test_a_start_is_not_taken_for_the_variant_that_is_trained_with_its_options(tmp_path):
    """mDPO at the recipe's own rate has the options of the start, which is measured untrained."""
    variants = [{"name": "mdpo"}, {"name": "dpo", "objective": "dpo"}]
    study = read(tmp_path, name="other", variants=variants, tune=None)
    start, trained, _ = plan_trials(study, tmp_path / "runs" / "other")[:3]
    assert (start.start, trained.variant.name) == (None, "mdpo")
    assert start.variant.options == trained.variant.options
    finish(start, 80.0)
    trials = plan_trials(study, tmp_path / "runs" / "again")
    assert adopt_finished(trials, tmp_path / "runs" / "again") == 1
    assert [trial.variant.name for trial in trials if trial.is_finished()] == ["start"]
