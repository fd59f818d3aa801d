"""The reference has every key, flag, name and file that there is."""

import re

import pytest

import mmdpo
from mmdpo.cli import main
from mmdpo.commands import Verb, all_verbs
from mmdpo.keys import known_keys
from mmdpo.registry import Registry
from website import reference


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    docs = tmp_path_factory.mktemp("docs")
    reference.write_reference(docs)
    return {str(path.relative_to(docs / "reference")): path.read_text() for path in docs.rglob("*.md")}


def list_commands(verbs=None, words=()):
    for name, verb in (verbs or all_verbs().verbs).items():
        yield from list_commands(verb.verbs, (*words, name)) if verb.verbs else ()
        if isinstance(verb, Verb) and verb.options is not None:
            yield (*words, name)


def test_every_recipe_key_has_a_heading_that_can_be_linked_to(pages):
    headings = re.findall(r"^### (\w+) \{ #(\w+) \}$", pages["recipe-keys.md"], re.MULTILINE)
    assert all(name == anchor for name, anchor in headings)
    names = [name for name, _ in headings]
    assert len(names) == len(set(names))
    assert set(names) == known_keys()


def test_a_key_says_its_default_its_choices_and_what_it_decides(pages):
    section = pages["recipe-keys.md"].partition("### attention {")[2].partition("###")[0]
    assert "Default <code>auto</code> · one of <code>auto</code>, <code>shared</code>, <code>separate</code>" in section
    assert "decides running" in section
    assert "[docs/objectives.md](../objectives.md)" in pages["recipe-keys.md"]


@pytest.mark.parametrize("words", list_commands(), ids=" ".join)
def test_every_flag_of_a_help_is_on_the_page_of_its_verb(words, pages, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    flags = set(re.findall(r"^ +(?:-h, )?(--\w+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    rows = re.findall(r"^\| <code>(.+?)</code> \|", pages[f"commands/{words[0]}.md"], re.MULTILINE)
    assert flags <= set(rows)


def test_a_verb_shows_its_examples_and_where_to_read_on(pages):
    verb = all_verbs().verbs["merge"]
    page = pages["commands/merge.md"]
    assert verb.examples
    assert all(f"# {does}\n{command}\n" in page for does, command in verb.examples.items())
    assert f"(../../{verb.page}.md)" in page
    assert "\n## mmdpo eval suite compare\n" in pages["commands/eval.md"], "verbs of verbs of verbs too"


def test_an_option_of_some_benchmarks_names_them(pages):
    (row,) = re.findall(
        r"^\| <code>--similarity</code> .*$", pages["commands/eval.md"].rpartition("\n## ")[2], re.MULTILINE
    )
    assert row.endswith(" Only <code>amber</code>. |")


def test_every_public_name_has_a_page(pages):
    assert {name for name in mmdpo.__all__ if f"python/{name}.md" in pages} == {*mmdpo.__all__} - {"__version__"}


def test_a_public_name_without_a_page_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(mmdpo, "__all__", [*mmdpo.__all__, "attend"])
    with pytest.raises(ValueError, match=r"reference\.py: name in RESULTS what attend returns"):
        reference.write_reference(tmp_path)


@pytest.mark.parametrize("room", reference.ROOMS)
def test_every_file_of_a_room_is_listed_with_what_it_is(room, pages):
    rows = re.findall(r"^\| <code>(\w+)</code> \| (.+) \|$", pages[f"adding/{room.replace('.', '-')}.md"], re.MULTILINE)
    assert tuple(name for name, _ in rows) == Registry(room, "").names()
    assert all(about.strip() for _, about in rows)


def test_what_the_code_says_is_shown_as_it_is():
    assert reference._text("a_b <c> `d|e` [f] *g*") == r"a\_b \<c\> <code>d|e</code> \[f\] \*g\*"


def test_doctests_stand_in_blocks_of_code():
    griffe = pytest.importorskip("griffe", reason="the site needs griffe: make setup")
    from website.doctests import Doctests

    text = '"""Adds.\n\n    >>> 1 + 1\n    2\n    >>> 2 + 2\n    4\n\n    Ends.\n    """'
    with griffe.temporary_visited_module(text, extensions=griffe.load_extensions(Doctests)) as module:
        griffe.Extensions(Doctests()).call("on_object", obj=module, loader=None)
        assert "```pycon\n>>> 1 + 1\n2\n>>> 2 + 2\n4\n```" in module.docstring.value
