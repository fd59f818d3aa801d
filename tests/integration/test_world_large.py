"""The large world from its build to a study's page, at a fraction of its size."""

import json
import os
import subprocess
import sys

import pytest
import yaml

BUILD = """
from mmdpo.world import build
from mmdpo.world import LARGE

stage = build.Schedule(2, 1e-3, batch_size=8)
build.PLANS = {LARGE.name: build.BuildPlan(16, 16, vision=stage, captions=stage)}
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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Python in a folder of its own, whose HF_HOME has a large world that saw sixteen scenes."""
    folder = tmp_path_factory.mktemp("large")

    def run(*arguments):
        environment = {**os.environ, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return folder, done.stdout

    run("-c", BUILD)
    return run


def test_a_study_of_the_large_world_ends_in_a_page_with_its_scenes(run):
    folder, _ = run("-c", "import mmdpo")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    run("-m", "mmdpo", "study", "--config", "study.yaml", "--out", "out")
    results = json.loads((folder / "out" / "results.json").read_text())
    assert not results["missing"]
    assert set(results["values"]["mdpo"]) >= {"world/chair_i", "pairs/image_gain"}
    answers = (folder / "out" / "trials" / "mdpo" / "seed-0" / "world_large" / "answers.jsonl").read_text()
    assert len(answers.splitlines()) == 4
    run("-m", "mmdpo", "report", "out", "--out", "page/study.html")
    assert "data:image" in (folder / "page" / "study.html").read_text()


def test_the_large_world_is_a_benchmark_of_its_own(run):
    folder, _ = run("-m", "mmdpo", "eval", "world_large", "--model", "world_large", "--limit", "20", "--out", "eval")
    assert "world_large/chair_i" in (folder / "eval" / "result.json").read_text()


def test_an_endless_caption_has_room_for_every_object(run):
    folder, _ = run("-c", "import mmdpo")
    config = json.loads((folder / "hf" / "mmdpo" / "world_large" / "generation_config.json").read_text())
    assert config["max_new_tokens"] == 84
