"""The large world from its build to a study's page, at a fraction of its size."""

import json

import pytest
import yaml

import forked

BUILD = """
from functools import partial

from mmdpo.world import LARGE, build
from mmdpo.world.scenes import draw_test_scenes

build.draw_test_scenes = lambda count, seed, world: draw_test_scenes(16, seed, world)
build.probe_tower = partial(build.probe_tower, count=16)
stage = build.Schedule(2, 1e-3, batch_size=8)
build.PLANS = {LARGE.name: build.BuildPlan(16, 16, vision=stage, captions=stage)}
if __name__ == "__main__":
    build.main([])
"""
STUDY = {
    "name": "tiny",
    "recipe": "world_large",
    "options": {"pairs": 8, "num_train_epochs": 1, "per_device_train_batch_size": 4, "decided_by": "correction"},
    "seeds": [0],
    "evaluation": {"scenes": 4, "pairs": 4},
    "variants": [{"name": "mdpo", "objective": "mdpo", "corruption": "random_image"}],
}


pytestmark = pytest.mark.rest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose part `hf`, as HF_HOME, has a large world that saw sixteen scenes."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "build.py").write_text(BUILD)
    run(folder, folder / "build.py")
    return folder


def run(folder, *words):
    """Runs a verb or a script in the folder, with the large world."""
    status, printed, errors = forked.run(*words, cwd=folder, HF_HOME=str(folder / "hf"))
    assert status == 0, printed + errors


def test_a_study_of_the_large_world_ends_in_a_page_with_its_scenes(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    run(folder, "study", "--config", "study.yaml", "--out", "out")
    results = json.loads((folder / "out" / "results.json").read_text())
    assert not results["missing"]
    assert set(results["values"]["mdpo"]) >= {"world/chair_i", "pairs/image_gain"}
    answers = (folder / "out" / "trials" / "mdpo" / "seed-0" / "world_large" / "answers.jsonl").read_text()
    assert len(answers.splitlines()) == 4
    run(folder, "report", "out", "--out", "page/study.html")
    assert "data:image" in (folder / "page" / "study.html").read_text()


def test_the_large_world_is_a_benchmark_of_its_own(folder):
    run(folder, "eval", "world_large", "--model", "world_large", "--limit", "20", "--out", "eval")
    assert "world_large/chair_i" in (folder / "eval" / "result.json").read_text()


def test_an_endless_caption_has_room_for_every_object(folder):
    config = json.loads((folder / "hf" / "mmdpo" / "world_large" / "generation_config.json").read_text())
    assert config["max_new_tokens"] == 84
