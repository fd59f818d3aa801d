"""The pages name everything that can be chosen, and link to what exists."""

import dataclasses
import re
from pathlib import Path

import pytest
from transformers import TrainingArguments

from mmdpo import MDPOConfig, corruption
from mmdpo.data import formats
from mmdpo.objective import preset_names, term_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("objectives.md", preset_names() + term_names()),
        ("data.md", corruption.names() + formats.names()),
        (
            "training.md",
            tuple(
                field.name
                for field in dataclasses.fields(MDPOConfig)
                if field.name not in {inherited.name for inherited in dataclasses.fields(TrainingArguments)}
                and field.name != "model_init_kwargs"
            ),
        ),
    ],
)
def test_a_page_names_everything_that_can_be_chosen(page, names):
    text = (ROOT / "docs" / page).read_text()
    assert names
    assert [name for name in names if f"`{name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert "_TABLE" not in page.read_text()


def test_the_first_commands_of_the_readme_are_those_of_the_makefile():
    commands = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in commands.splitlines()] == ["make quickstart", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\nquickstart: setup" in makefile
    assert "\ntest: setup" in makefile
