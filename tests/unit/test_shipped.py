"""Files that come with the package are found by name, and a path that a clone once had says which name to give."""

from pathlib import Path

import pytest
import yaml

from mmdpo.cli import main
from mmdpo.shipped import RECIPES, STUDIES


def test_every_recipe_is_listed_with_what_it_is(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[: lines.index("")]}
    assert tuple(listed) == RECIPES.all_names()
    assert {"vlm-mdpo-lora", "accelerate/fsdp2", "slurm/train"} <= set(listed)
    assert listed["gemma3-4b-mdpo"] == "mDPO with LoRA on Gemma 3 4B"


def test_a_recipe_is_printed_whole_or_by_its_path(capsys):
    assert main(["recipes", "vlm-mdpo-lora", "--print"]) == 0
    assert capsys.readouterr().out == RECIPES.find("vlm-mdpo-lora").read_text()
    assert main(["recipes", "accelerate/fsdp2", "--path"]) == 0
    (path,) = capsys.readouterr().out.splitlines()
    assert yaml.safe_load(Path(path).read_text())["distributed_type"] == "FSDP"


def test_an_own_file_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world-mdpo").write_text("beta: 0.2\n")
    assert RECIPES.find("world-mdpo").read_text() == "beta: 0.2\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recipes/world-mdpo.yaml", "no file recipes/world-mdpo.yaml; 'world-mdpo' comes with mmdpo: give its name"),
        ("mine.yaml", "there is no file mine.yaml$"),
        ("vlm-mdpo-lroa", "there is no recipe 'vlm-mdpo-lroa'; did you mean 'vlm-mdpo-lora'?"),
    ],
)
def test_what_is_not_there_says_what_to_give(name, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        RECIPES.find(name)


def test_studies_and_recipes_are_apart():
    assert not set(RECIPES.all_names()) & set(STUDIES.all_names())
