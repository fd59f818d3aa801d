"""What is wrong with the links of a built site is found, each with the page that it stands on."""

import pytest

from website.links import find_problems

GOOD = '<h1 id="one">One</h1><a href="sub/b.html#two">b</a><img src="p.png"><a href="https://example.org/x#y">away</a>'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "sub" / "b.html").write_text(
        '<h2 id="two">Two</h2><a href="../index.html#one">a</a><a href="#two">here</a>'
    )
    return tmp_path


def test_a_good_site_has_no_problems(site):
    assert find_problems(site) == []


@pytest.mark.parametrize(
    ("element", "problem"),
    [
        ('<a href="c.html">c</a>', "the link to c.html leads nowhere"),
        ('<img src="sub/q.png">', "the link to sub/q.png leads nowhere"),
        ('<source srcset="p.png 1x, q.png 2x">', "the link to q.png leads nowhere"),
        ('<a href="sub/b.html#three">b</a>', "sub/b.html has no anchor #three"),
        ('<a href="#zwei">here</a>', "index.html has no anchor #zwei"),
        ('<a href="sub/">a folder without a first page</a>', "the link to sub/ leads nowhere"),
        ('<script src="https://c.example/x.js"></script>', "<script> fetches https://c.example/x.js from elsewhere"),
        ('<link rel="stylesheet" href="//f.example/f">', "<link> fetches //f.example/f from elsewhere"),
        ('<img src="http://b.example/b.svg">', "<img> fetches http://b.example/b.svg from elsewhere"),
    ],
)
def test_a_fault_is_named_with_its_page(site, element, problem):
    (site / "index.html").write_text(GOOD + element)
    assert find_problems(site) == [f"index.html: {problem}"]


def test_links_of_the_page_for_what_is_missing_begin_at_the_root(site):
    (site / "404.html").write_text('<a href="/sub/b.html">b</a><a href="/c.html">c</a>')
    assert find_problems(site) == ["404.html: the link to /c.html leads nowhere"]
