import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from mmdpo.report.quickstart import write_page

VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Collects what a browser would fetch, the text by element, and elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.unbalanced: list[str] = []
        self.stack: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "srcset", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.stack:
            self.text.setdefault(self.stack[-1], []).append(data)

    @property
    def all_text(self) -> str:
        return " ".join(" ".join(" ".join(parts) for parts in self.text.values()).split())


def read_page(run_dir) -> Page:
    return Page(write_page(run_dir).read_text(encoding="utf-8"))


def test_page_fetches_nothing(run_dir):
    html = write_page(run_dir).read_text(encoding="utf-8")
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    links = Page(html).links
    pictures = [link for link in links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == 12, "six scenes, each with its corrupted image"
    assert all(link.startswith("#") for link in links if link not in pictures)


def test_page_is_balanced_and_tells_everything(run_dir):
    page = read_page(run_dir)
    assert page.unbalanced == []
    assert page.stack == []
    caveats = (
        "prior is planted",
        "unconditional preference",
        "chosen answers does as well",
        "without Cover",
        "toy world",
    )
    assert all(any(caveat in title for title in page.text["h3"]) for caveat in caveats)
    assert "400 scenes and one seed (0)" in page.all_text
    for said in ("−2.06", "+1.04", "–", "768 preference pairs", "mmdpo quickstart", "versions: torch", "2.13.0"):
        assert said in page.all_text
    assert page.text["mark"][1:3] == ["stove", "bowl"], "the first mark explains the others"
    assert "missed: kettle" in page.all_text


def test_text_of_a_run_stays_text(run_dir):
    hostile = "<script>alert('$x & ${y}')</script>\""
    results_path, examples_path = run_dir / "results.json", run_dir / "examples.json"
    results, examples = json.loads(results_path.read_text()), json.loads(examples_path.read_text())
    results |= {"command": hostile, "seed": hostile, "scenes": hostile}
    results["variants"][hostile] = {}
    examples[0] |= {"setting": hostile, "truth": [hostile]}
    examples[0]["answers"] = {hostile: {"text": f"{hostile} fork", "hallucinated": [hostile], "missed": [hostile]}}
    results_path.write_text(json.dumps(results))
    examples_path.write_text(json.dumps(examples))
    html = write_page(run_dir).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in html
    assert page.unbalanced == []
    assert hostile in page.text["mark"]
    assert page.all_text.count(hostile) >= 8


def test_page_without_logs_corrupted_images_or_timings(run_dir):
    for path in run_dir.glob("*/trainer_state.json"):
        path.unlink()
    results, examples = (json.loads((run_dir / name).read_text()) for name in ("results.json", "examples.json"))
    for key in ("seconds", "pairs", "versions", "command"):
        del results[key]
    for example in examples:
        del example["corrupted_image"]
    (run_dir / "results.json").write_text(json.dumps(results))
    (run_dir / "examples.json").write_text(json.dumps(examples))
    page = read_page(run_dir)
    assert "No variant left a log" in page.all_text
    assert sum(link.startswith("data:") for link in page.links) == 6


@pytest.mark.parametrize("module", ["page", "quickstart"])
def test_report_needs_neither_torch_nor_transformers(module):
    code = f"import sys, mmdpo.report.{module}; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
