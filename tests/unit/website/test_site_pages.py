"""Pages are laid out for the site, their links lead to the same things there, and each stands in the navigation."""

import tomllib

import pytest

from website.pages import Layout, lay_out, write_config

README = """# House

[guide](docs/data.md#rows), [code](src/run.py), [folder](src), ![picture](docs/app/a.png), [web](https://example.org/docs)
<img src="docs/app/a.png"> [changes](CHANGELOG.md) [here](#house)

`[no](link.md)` `--out` `a -b`

```text
`--in`
[no](link.md)
```

[![shown](docs/app/a.png)](docs/data.md)
"""


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "house"
    for name, text in {
        "README.md": README,
        "CHANGELOG.md": "# Changes\n\n[data](docs/data.md)\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "SECURITY.md": "# Security\n",
        "docs/data.md": "# Data\n\n## Rows\n\n[study](studies/README.md) [home](../README.md) [top](../src/run.py)\n",
        "docs/later.md": "# Later\n",
        "docs/studies/README.md": "# Studies\n\n[table](one/table.md) [data](../data.md)\n",
        "docs/studies/log.md": "# Found\n\n| study |\n|---|\n| [two](two/README.md) |\n| [one](one/README.md) |\n",
        "docs/studies/one/table.md": "# One\n",
        "docs/studies/one/README.md": "# What one found\n\n[table](table.md)\n",
        "docs/studies/two/README.md": "# What two found\n",
        "docs/tutorials/README.md": "# Tutorials\n\n[first](zoo.md) [second](ants.md)\n",
        "docs/tutorials/zoo.md": "# Zoo\n",
        "docs/tutorials/ants.md": "# Ants\n",
        "src/run.py": "print('```')\n",
        "docs/app/a.png": "pixels",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Layout(root, tmp_path / "site" / "docs")


def read(layout, name):
    return (layout.target / name).read_text()


def test_links_lead_to_the_same_things_on_the_site(layout):
    assert lay_out(layout) == []
    home = read(layout, "index.md")
    for link in (
        "[guide](data.md#rows)", "[code](source/src/run.py.md)", "[folder](source/src.md)", "![picture](app/a.png)",
        "[web](https://example.org/docs)", '<img src="app/a.png">', "[changes](changelog.md)", "[here](#house)",
        "[![shown](app/a.png)](data.md)",
    ):  # fmt: skip
        assert link in home
    assert home.count("[no](link.md)") == 2, "what stands in code is no link"
    assert "`--out`{ .flag } `a -b`" in home, "a flag stays on one line"
    assert "`--in`\n" in home
    assert "[study](studies/all.md) [home](index.md) [top](source/src/run.py.md)" in read(layout, "data.md")
    assert "[table](one/table.md) [data](../data.md)" in read(layout, "studies/all.md")
    assert "[data](data.md)" in read(layout, "changelog.md")
    assert read(layout, "app/a.png") == "pixels"
    assert read(layout, "source/src.md") == "# `src`\n\n- `run.py`\n"
    assert read(layout, "source/src/run.py.md") == "# `src/run.py`\n\n````python\nprint('```')\n\n````\n"


@pytest.mark.parametrize("target", ["docs/none.md", "../outside.md", "/etc/hostname"])
def test_a_link_that_leads_nowhere_is_named_with_its_line(layout, target):
    (layout.root / "README.md").write_text(f"# House\n\n[gone]({target})\n")
    assert lay_out(layout) == [f"README.md, line 3: the link to {target} leads nowhere"]


def test_every_page_stands_in_the_navigation_whoever_wrote_it(layout):
    (layout.target / "reference" / "commands").mkdir(parents=True)
    (layout.target / "reference" / "commands" / "run.md").write_text("# run\n")
    lay_out(layout)
    config = layout.target.parent / "zensical.toml"
    write_config(layout, config, address="https://docs.example/", repository="https://code.example/house")
    project = tomllib.loads(config.read_text())["project"]
    assert project["nav"] == [
        {"Home": "index.md"},
        {"Get started": [{"Tutorials": ["tutorials/README.md", "tutorials/zoo.md", "tutorials/ants.md"]}]},
        {"Guides": ["data.md", "later.md"]},
        {"Reference": [{"Commands": ["reference/commands/run.md"]}]},
        {"Studies": [{"Studies": ["studies/log.md", "studies/all.md", "studies/two.md", "studies/one.md"]}]},
        {"Project": ["contributing.md", "security.md", "changelog.md"]},
    ]
    assert project["site_url"] == "https://docs.example/"
    assert project["extra"]["social"][0]["link"] == "https://code.example/house"
    assert "repo_url" not in project, "the theme would ask the host for stars"
    assert project["theme"]["font"] is False


def test_two_pages_with_one_address_are_an_error(layout):
    (layout.root / "docs" / "data").mkdir()
    (layout.root / "docs" / "data" / "README.md").write_text("# More data\n")
    with pytest.raises(ValueError, match=r"docs/data/README\.md and docs/data\.md would be one page"):
        Layout(layout.root, layout.target)
