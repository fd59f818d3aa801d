"""What the judge `reward` takes the rewards of a run against: what that run was trained from."""

import shutil

import pytest
import yaml
from peft import LoraConfig

import small_trainer
from mmdpo.generation import CheckpointOptions
from mmdpo.pairs.judges import Context
from mmdpo.pairs.judging import JudgeChoice, judge_samples
from mmdpo.pairs.prompts import draw_prompts
from mmdpo.pairs.rewards import make_rewards
from mmdpo.pairs.samples import SamplesError
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Folders of a run that trained an adapter, and of one that went on from it and changed nothing."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("first", "second")]
    hows = (
        dict(peft_config=LoraConfig(r=2, lora_alpha=16), learning_rate=3e-2),
        dict(adapter_name_or_path=str(folders[0]), learning_rate=0.0),
    )
    for folder, how in zip(folders, hows, strict=True):
        trainer = small_trainer.build_trainer(folder.parent, make_pairs(8, seed=5), **how)
        trainer.train()
        trainer.save_model()
        recipe = {"model_name_or_path": "world", "adapter_name_or_path": how.get("adapter_name_or_path")}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folders


def rewards_of(run, **options):
    (prompt,) = draw_prompts(1, 0)
    judge = make_rewards(JudgeChoice(judge="reward", run=str(run)), CheckpointOptions(dtype="float32", **options))
    return judge(prompt, ["cup , plate .", "car ."])


def test_of_an_adapter_that_was_trained_further_it_is_where_that_began(adapters):
    first, second = (rewards_of(folder) for folder in adapters)
    assert max(map(abs, first)) > 0.1
    assert second == pytest.approx([0, 0], abs=1e-4)


def test_verdicts_of_a_run_that_was_trained_anew_in_its_folder_are_not_taken(adapters, tmp_path):
    run = shutil.copytree(adapters[0], tmp_path / "run")
    choice = JudgeChoice(judge="reward", run=str(run))

    def judge():
        context = Context(rewards=make_rewards(choice, CheckpointOptions(dtype="float32")))
        judge_samples(draw_prompts(1, 0), {}, choice, context, tmp_path)

    judge()
    judge()
    shutil.copytree(adapters[1], run, dirs_exist_ok=True)
    with pytest.raises(SamplesError, match="holds verdicts of reward of run_weights"):
        judge()


def test_an_adapter_of_the_policy_is_none_of_the_judges(adapters):
    assert rewards_of(adapters[0], adapter=str(adapters[1])) == rewards_of(adapters[0])
