"""Checks of the built site: every link and anchor inside it leads somewhere, and a page fetches nothing elsewhere."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FETCHED = {"img", "script", "link", "source", "iframe", "video", "audio", "object", "embed"}


class _Page(HTMLParser):
    """Reads what a page links to, and what may be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links = list[tuple[str, str]]()
        self.anchors = set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes one element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.links += [(tag, values[name]) for name in ("href", "src", "data") if values.get(name)]
        self.links += [(tag, part.split()[0]) for part in values.get("srcset", "").split(",") if part.strip()]


def find_problems(site: Path) -> list[str]:
    """Returns what is wrong with the links of the pages below a folder, one line each."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    return [problem for path in pages for problem in _check(path, site, pages)]


def _check(path: Path, site: Path, pages: dict[Path, _Page]) -> Iterator[str]:
    here = path.relative_to(site)
    for tag, link in dict.fromkeys(pages[path].links):
        address = urlsplit(link)
        if address.scheme or address.netloc:
            is_fetched = tag in _FETCHED and address.scheme != "data"
            if is_fetched:
                yield f"{here}: <{tag}> fetches {link} from elsewhere"
            continue
        name = unquote(address.path)
        if path.name == "404.html" and name.startswith("/"):
            name = name.lstrip("/")  # it is shown at any address, so its links begin at the site's root
        target = (path.parent / name).resolve() if name else path
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"{here}: the link to {link} leads nowhere"
        elif address.fragment and target in pages and unquote(address.fragment) not in pages[target].anchors:
            yield f"{here}: {target.relative_to(site)} has no anchor #{address.fragment}"
