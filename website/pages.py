"""Lays the repository's pages out as the site shows them, with links that lead to the same things there."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "docs/studies/README.md": "studies/all.md",
}
"""Where pages stand on the site whose place is not the one that they have in docs/. studies/ is that of studies.md."""

START = ("tutorials", "reproduce.md")
GUIDES = (
    "data.md", "pairs.md", "training.md", "objectives.md", "distributed.md", "checkpoints.md", "evaluation.md",
    "report.md", "app.md", "python.md",
)  # fmt: skip
STUDIES = ("studies.md", "studies", "world.md")
REFERENCE = ("reference/recipe-keys.md", "reference/commands", "reference/python", "reference/adding")
PROJECT = (
    "performance.md", "compatibility.md", "decisions.md", "architecture.md", "contributing.md", "security.md",
    "changelog.md",
)  # fmt: skip
"""Pages and folders of the navigation's sections; a page of docs/ that no section names stands at the guides' end."""

_CODE = re.compile(r"(^|\n)(`{3,}|~{3,})[^\n]*\n.*?\n\2[^\n]*|`[^`\n]+`", re.DOTALL)
_LINK = re.compile(r"""(\]\(\s*|\]:\s+|\b(?:href|src|srcset)=")([^)\s"#]+)""")
_ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)
_FLAG = re.compile(r"(?<!`)`-[^`\n]{1,30}`(?![`{])")
"""Code that stays on one line: a browser would break it after its first hyphen."""
_LONGEST = 100_000
"""So many characters of a file are shown."""


@dataclass
class Layout:
    """Where things of the repository stand on the site; `place` adds those that a page links to."""

    root: Path
    target: Path
    """Folder of the site's Markdown."""
    placed: dict[Path, Path] = field(default_factory=dict)
    """Place of each file and folder by its path, both relative."""

    def __post_init__(self) -> None:
        for name, there in PLACES.items():
            self.placed[Path(name)] = Path(there)
        for page in sorted((self.root / "docs").rglob("*.md")):
            inside = page.relative_to(self.root / "docs")
            # The first page of a navigation's section would be hidden where it is called README.
            is_study = inside.match("studies/*/README.md")
            self.placed.setdefault(Path("docs") / inside, inside.parent.with_suffix(".md") if is_study else inside)
        addresses: dict[Path, Path] = {}
        for path, place in self.placed.items():
            address = place.parent if place.stem in ("index", "README") else place.with_suffix("")
            if (other := addresses.setdefault(address, path)) != path:
                raise ValueError(f"{other} and {path} would be one page of the site: place one in website/pages.py")

    @property
    def pages(self) -> list[Path]:
        """The pages that people have written, relative to the repository."""
        return [
            page for page in self.placed if page.suffix == ".md" and not str(self.placed[page]).startswith("source")
        ]

    def place(self, path: Path) -> Path:
        """Returns where a file or folder stands on the site, and puts it there if it is no page.

        Pictures are copied; text and folders outside docs/ get pages that show them.
        """
        if path in self.placed:
            return self.placed[path]
        found = self.root / path
        is_shown = found.is_dir() or found.suffix not in (".png", ".svg", ".jpg", ".gif", ".webp", ".pdf", ".ipynb")
        inside = path.relative_to("docs") if path.is_relative_to("docs") else Path("source") / path
        self.placed[path] = inside.with_name(f"{inside.name}.md") if is_shown else inside
        place = self.target / self.placed[path]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not is_shown:
            shutil.copyfile(found, place)
        elif found.is_dir():
            names = sorted(each.name + "/" * each.is_dir() for each in found.iterdir() if each.name[0] not in "._")
            place.write_text(f"# `{path}`\n\n" + "".join(f"- `{name}`\n" for name in names), encoding="utf-8")
        else:
            text = found.read_text(encoding="utf-8")
            if (more := len(text) - _LONGEST) > 0:
                text = f"{text[:_LONGEST]}\n… and {more:,} more characters"
            kind = {".py": "python", ".yaml": "yaml", ".cff": "yaml", ".json": "json", ".sh": "bash", ".toml": "toml"}
            place.write_text(f"# `{path}`\n\n````{kind.get(found.suffix, 'text')}\n{text}\n````\n", encoding="utf-8")
        return self.placed[path]


def lay_out(layout: Layout) -> list[str]:
    """Writes every page to its place; returns what is wrong with links, each with its file and line."""
    problems = []
    for page in layout.pages:
        text, wrong = _move_links(layout, page, (layout.root / page).read_text(encoding="utf-8"))
        problems += wrong
        place = layout.target / layout.placed[page]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_mark_flags(text), encoding="utf-8")
    return problems


def _move_links(layout: Layout, page: Path, text: str) -> tuple[str, list[str]]:
    """Returns the text of a page with its links as they lead from its place, and what is wrong with them."""
    problems: list[str] = []
    here = layout.placed[page].parent

    def move(link: re.Match[str]) -> str:
        opening, target = link.groups()
        if any(start <= link.start() < end for start, end in code) or _ELSEWHERE.match(target):
            return link[0]
        path = Path(os.path.normpath(page.parent / target))
        if path.is_absolute() or ".." in path.parts or not (layout.root / path).exists():
            line = text.count("\n", 0, link.start()) + 1
            problems.append(f"{page}, line {line}: the link to {target} leads nowhere")
            return link[0]
        return opening + Path(os.path.relpath(layout.place(path), here)).as_posix()

    code = [found.span() for found in _CODE.finditer(text)]
    return _LINK.sub(move, text), problems


def _mark_flags(text: str) -> str:
    """Returns a page whose flags have the class `flag`."""
    blocks = [found.span() for found in _CODE.finditer(text) if "\n" in found[0].strip("\n")]
    return _FLAG.sub(
        lambda flag: flag[0] + "{ .flag }" * all(not start <= flag.start() < end for start, end in blocks), text
    )


def write_config(layout: Layout, path: Path, *, address: str = "", repository: str = "") -> None:
    """Writes Zensical's configuration: that of this folder, with the navigation and the addresses of site and code."""
    text = (Path(__file__).parent / "zensical.toml").read_text(encoding="utf-8")
    shutil.copytree(Path(__file__).parent / "assets", layout.target / "assets", dirs_exist_ok=True)
    lines = [
        *([f"site_url = {json.dumps(address)}"] if address else []),
        f"nav = {_as_toml(list(_navigation(layout)))}",
    ]
    text = text.replace("[project]\n", "\n".join(["[project]", *lines, ""]), 1)
    if repository:
        # Not as `repo_url`: the theme would ask the host for the number of stars, from each reader's browser.
        text += (
            f'\n[[project.extra.social]]\nicon = "lucide/code"\nlink = {json.dumps(repository)}\nname = "The code"\n'
        )
    path.write_text(text, encoding="utf-8")


def _navigation(layout: Layout) -> Iterator[object]:
    """Yields what the navigation holds: pages, and sections by their titles."""
    sections = {
        "Get started": START, "Guides": GUIDES, "Reference": REFERENCE, "Studies": STUDIES, "Project": PROJECT,
    }  # fmt: skip
    named = {name for names in sections.values() for name in names}
    sections["Guides"] += tuple(
        str(page.relative_to("docs"))
        for page in layout.pages
        if page.parts[:-1] == ("docs",) and page.name not in named
    )
    yield {"Home": "index.md"}
    for title, names in sections.items():
        if pages := [entry for name in names for entry in _entries(layout, name)]:
            yield {title: pages}


def _entries(layout: Layout, name: str) -> Iterator[object]:
    """Yields the page, or the folder with its pages, where they are there: in the order of the folder's first page."""
    found = layout.target / name
    if found.is_dir():
        first = found / ("log.md" if name == "studies" else "README.md")
        told = first.read_text(encoding="utf-8") if first.is_file() else ""
        written = [page for page in found.glob("*.md") if page.suffixes == [".md"]]  # no page that shows a file
        pages = sorted(written, key=lambda page: (page != first, told.rfind(f"({page.name})"), page))
        yield {found.name.capitalize(): [str(page.relative_to(layout.target)) for page in pages]}
    elif found.is_file():
        yield name


def _as_toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_as_toml(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value)
