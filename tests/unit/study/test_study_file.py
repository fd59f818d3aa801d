"""Study files: those that ship can be run, and what is wrong with one is said with file and key."""

import shlex

import pytest
import yaml

from mmdpo.shipped import STUDIES
from mmdpo.study.planning import plan_trials
from mmdpo.study.study_file import START, StudyError, read_study
from mmdpo.world import LARGE

GOOD = {
    "name": "mine",
    "recipe": "world",
    "options": {"beta": 0.2, "pairs": 32},
    "seeds": [0, 1],
    "evaluation": {"scenes": 4},
    "variants": [{"name": "dpo", "objective": "dpo"}, {"name": "mdpo", "objective": "mdpo", "beta": 0.3}],
}


def write(tmp_path, **changes):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


def test_variants_are_laid_over_shared_options_and_those_over_the_recipe(tmp_path):
    study = read_study(write(tmp_path))
    start, dpo, mdpo = study.variants
    assert start.name == START
    assert [variant.options["beta"] for variant in (start, dpo, mdpo)] == [0.2, 0.2, 0.3]
    assert dpo.pairs == 32
    recipe = mdpo.recipe(tmp_path / "trial", seed=7)
    assert (recipe.training.seed, recipe.training.beta, recipe.training.objective) == (7, 0.3, "mdpo")
    assert recipe.training.learning_rate == 3e-4, "the world's own"


@pytest.mark.parametrize("name", STUDIES.names())
def test_shipped_studies_have_five_seeds_controls_and_recipes_that_parse(name):
    study = read_study(name)
    assert len(study.seeds) >= 5
    assert study.name == name
    assert any(variant.options["objective"] == "sft_chosen" for variant in study.variants[1:])
    assert {"comparative", "ablation", "corruption", "anchors", "scale", "learning_rate"} <= set(STUDIES.names())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": [{"name": "a", "objektive": "dpo"}]}, "variant 'a': unknown key 'objektive'; did you mean 'obje"),
        ({"variants": [{"name": "a", "objective": "mpdo"}]}, "variant 'a': .*did you mean 'mdpo'"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "no. 2: the name 'a' is given twice"),
        ({"variants": [{"name": "start"}]}, "'start' stands for"),
        ({"variants": [{"name": "a/b"}]}, "letters, digits"),
        ({"variants": []}, "at least one variant"),
        ({"variants": [{"name": "a", "model_name_or_path": "other"}]}, "all begin at one start"),
        ({"variants": [{"name": "a", "fraction": 2}]}, r"fraction is 2\.0; give a number in \(0, 1\]"),
        ({"options": {"seed": 3}}, "seed is set by the study: list `seeds:`"),
        (
            {"options": {"decided_by": "chance"}},
            r"decided_by is one of style, prior, .*; got 'chance'",
        ),
        ({"seeds": []}, "at least one whole number"),
        ({"seeds": [1, 1]}, "given twice"),
        ({"seeds": [True]}, "whole numbers"),
        ({"evaluation": {}}, "what models are measured on"),
        ({"evaluation": {"scene": 4}}, "evaluation: there is no option 'scene'; did you mean 'scenes'"),
        ({"evaluation": {"benchmarks": [{"name": "popo"}]}}, "no 'popo'; did you mean 'pope'"),
        ({"evaluation": {"scenes": 4, "benchmarks": [{"name": "world"}]}}, "measure the same"),
        ({"evaluation": {"benchmarks": [{"name": "pope", "limt": 4}]}}, "evaluation: eval pope: unknown flag --limt"),
        (
            {"evaluation": {"scenes": 4, "world": ["world"]}},
            r"world is one of world, world_large; got \['world'\]",
        ),
        ({"evaluation": {"scenes": 4, "world": "world_large"}}, "world is world_large, and the study trains on world"),
        ({"evaluation": {"dataset_name": "world_large"}}, "dataset_name is world_large, and the study trains on world"),
        ({"recipe": "nowhere.yaml"}, "there is no file"),
        ({"varients": []}, "unknown key 'varients'; did you mean 'variants'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named_with_file_and_key(tmp_path, changes, said):
    path = write(tmp_path, **changes)
    with pytest.raises(StudyError, match=said) as caught:
        read_study(path)
    assert path in str(caught.value)


def test_a_study_of_one_world_is_laid_in_another():
    study = read_study("beyond_prior", world="world_large", variants=["adaptive", "sft_chosen"], seeds=[7])
    assert study.name == "beyond_prior-world_large"
    assert [variant.name for variant in study.variants] == [START, "mdpo", "adaptive", "sft_chosen"]
    for variant in study.variants:
        assert variant.options["model_name_or_path"] == variant.options["dataset_name"] == "world_large"
        assert not variant.options["use_cpu"], "a GPU is used where there is one"
        assert variant.decided_by == "prior"
        assert variant.options["learning_rate"] == 1.5e-4, "half of the small world's, for twice the width"
    assert (study.evaluation.world, study.evaluation.dataset_name) == ("world_large", "world_large")
    assert study.command == (
        "mmdpo study beyond_prior --world world_large --variants mdpo adaptive sft_chosen --seeds 7"
    )
    assert study.content["recipe"] == "world_large", "what is written is what was run"
    assert read_study("beyond", world="world").name == "beyond"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"world": "wolrd"}, "--world is world or world_large; got 'wolrd'"),
        ({"variants": ["sft_chosn"]}, "no variant 'sft_chosn'; did you mean 'sft_chosen'"),
    ],
    ids=["world", "variant"],
)
def test_what_a_study_does_not_have_cannot_be_chosen(options, said):
    with pytest.raises(StudyError, match=said):
        read_study("beyond", **options)


def test_what_is_left_empty_is_as_if_it_were_not_there(tmp_path):
    study = read_study(write(tmp_path, about=None, variants=[{"name": "a", "about": None, "tuned_as": None}]))
    assert (study.about, study.variants[1].about, study.variants[1].tuned_as) == ("", "", "")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "study.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(StudyError, match=r"study\.yaml: 'utf-8' codec"):
        read_study(str(tmp_path / "study.yaml"))


def test_the_command_of_a_study_can_be_typed_again(tmp_path):
    (tmp_path / "my study.yaml").write_text(yaml.safe_dump(GOOD))
    study = read_study(str(tmp_path / "my study.yaml"))
    assert shlex.split(study.command) == ["mmdpo", "study", str(tmp_path / "my study.yaml")]


def test_a_study_without_a_name_is_refused_in_another_world_too(tmp_path):
    with pytest.raises(StudyError, match="name must be letters"):
        read_study(write(tmp_path, name=None), world="world_large")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({key: value for key, value in GOOD.items() if key != "name"}))
    with pytest.raises(StudyError, match="name must be letters"):
        read_study(str(tmp_path / "study.yaml"), world="world_large")


def test_a_tuning_without_values_is_refused_in_another_world_too(tmp_path):
    tune = {"key": "learning_rate", "seeds": [9], "by": "world/f1"}
    with pytest.raises(StudyError, match="tune: values is missing"):
        read_study(write(tmp_path, tune=tune), world="world_large")


def test_only_studies_of_a_world_move_to_another(tmp_path):
    (tmp_path / "base.yaml").write_text("model_name_or_path: some/model\ndataset_name: pairs.jsonl\n")
    path = write(tmp_path, recipe="base.yaml", options={}, evaluation={"dataset_name": "held_out.jsonl"})
    with pytest.raises(StudyError, match="--world is for studies of an embedded world"):
        read_study(path, world="world_large")


def test_a_model_of_one_world_on_data_of_another_is_refused(tmp_path):
    with pytest.raises(StudyError, match="knows no pictures and words of world: set dataset_name to world_large"):
        read_study(write(tmp_path, options={"model_name_or_path": "world_large"}))


def test_a_world_that_was_not_built_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"make it once, by `python -m mmdpo.world.build --world world_large`"):
        plan_trials(read_study("beyond", world="world_large"), tmp_path)


def test_a_world_that_was_built_before_it_was_redrawn_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    folder = tmp_path / "mmdpo" / "world_large"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"vision_config": {"image_size": 96}}')
    with pytest.raises(FileNotFoundError, match="is that of an earlier world_large, whose pictures had another size"):
        plan_trials(read_study("beyond", world="world_large"), tmp_path)
    (folder / "config.json").write_text('{"vision_config": {"image_size": 144}}')
    assert LARGE.checkpoint == folder


def test_a_key_that_is_written_twice_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(GOOD) + "seeds: [5]\n")
    with pytest.raises(StudyError, match="'seeds' is given twice"):
        read_study(str(path))


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(StudyError, match="did you mean 'ablation'"):
        read_study("ablations")


def test_a_recipe_file_is_the_base_and_its_own_seed_and_folder_are_left_out(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "model_name_or_path: some/model\ndataset_name: pairs.jsonl\nseed: 4\noutput_dir: runs/x\nbeta: 0.5\n"
    )
    path = write(tmp_path, recipe="base.yaml", options={}, evaluation={"dataset_name": "held_out.jsonl", "pairs": 10})
    study = read_study(path)
    assert study.variants[1].options["beta"] == 0.5
    assert study.variants[1].options["save_strategy"] == "no"
    assert study.evaluation.dataset_name == "held_out.jsonl"
