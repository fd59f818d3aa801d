"""What a release says about itself that a checkout cannot know: where the repository is.

The release workflow sets REPOSITORY_URL and SITE_URL. Then the package names them, and the links of README.md, which
are relative for those who read it in the repository, lead there from the package's page. Else nothing is changed.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r'(\]\(|\b(?:src|href|srcset)=")(?![a-z][a-z+.-]*:|#)([^)\s"]+)')
_PICTURES = (".png", ".svg", ".jpg", ".gif", ".webp")


class Addresses(MetadataHookInterface):
    """Adds the addresses and the text of README.md."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fills in what pyproject.toml calls dynamic."""
        code, site = (os.environ.get(name, "").rstrip("/") for name in ("REPOSITORY_URL", "SITE_URL"))
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if code:
            text = point_to(text, code, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = name_addresses(code, site)


def point_to(text: str, code: str, tag: str) -> str:
    """Returns Markdown whose relative links lead to the repository at a tag."""

    def lead(link: re.Match[str]) -> str:
        kind = "raw" if link[2].lower().endswith(_PICTURES) else "blob"
        return f"{link[1]}{code}/{kind}/{tag}/{link[2]}"

    return _LINK.sub(lead, text)


def name_addresses(code: str, site: str) -> dict[str, str]:
    """Returns what the package's page links to, by the names that PyPI knows."""
    found = {"Documentation": site}
    if code:
        changes = f"{code}/blob/main/CHANGELOG.md"
        found = {"Repository": code, "Documentation": site, "Changelog": changes, "Issues": f"{code}/issues"}
    return {name: address for name, address in found.items() if address}
