"""One file over HTTP: resumed where it broke off, tried again where that may help, and checked before it counts."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from mmdpo.benchmarks.reading import EvaluationError

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between tries, twice as long each time."""
TRIES = 6
"""In a row without a single byte more."""
TIMEOUT = 60.0
LARGEST = 4 << 30
"""Bytes: many times what any file here has."""
_BLOCK = 1 << 20
_PASSING = (408, 416, 425, 429, 500, 502, 503, 504)
"""States that another try may mend; 416 says that what is here is not the file's beginning."""

Check = Callable[[Path], None]


class FetchError(EvaluationError):
    """A place that does not give a file, or gives another than the expected one."""


def fetch(
    addresses: Sequence[str],
    target: Path,
    *,
    sha256: str | None,
    whence: str = "",
    check: Check | None = None,
    show: bool = False,
) -> tuple[str, str]:
    """Fetches a file from the first place that has it; returns its SHA-256 and that place.

    `sha256` is what it must have, None for any; `whence` says where that is written down; `check` raises
    EvaluationError for a file that cannot be what it should. Nobody finds half of a file at `target`.

    Raises FetchError where no place gave the file; one with a wrong checksum lies beside the target, ending in
    `.wrong`. OSError where the disk takes no more.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    problems = []
    for address in addresses:
        try:
            _download(_resolve(address), part, show)
            got = hash_file(part)
            if sha256 is not None and got != sha256:
                wrong = part.replace(target.with_name(f"{target.name}.wrong"))
                raise EvaluationError(
                    f"wrong checksum: expected SHA-256 {sha256}{whence}, got {got}; what came lies in {wrong}"
                )
            if check is not None:
                check(part)
        except _UnreachableError as error:  # what came is kept, and the next run resumes it
            problems.append(f"{address}: {error}")
        except EvaluationError as error:
            _discard(part)
            problems.append(f"{address}: {error}")
        else:
            part.replace(target)
            _discard(part)
            return got, address
    raise FetchError(f"{target} cannot be fetched. " + "; ".join(problems))


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _UnreachableError(EvaluationError):
    """A place that refuses, or gives nothing more."""


def _resolve(address: str) -> str:
    """Returns the address over HTTP; `hub:owner/name@revision/file` is a file of a dataset of the hub."""
    if not address.startswith("hub:"):
        return address
    from huggingface_hub import hf_hub_url

    owner, name, file = address.removeprefix("hub:").split("/", 2)
    name, _, revision = name.partition("@")
    return str(hf_hub_url(f"{owner}/{name}", file, repo_type="dataset", revision=revision or None))


def _download(address: str, part: Path, show: bool) -> None:
    """Completes `part`; raises _UnreachableError when the place refuses, or after TRIES without progress."""
    failed = 0
    while True:
        before = _size(part)
        try:
            _request_rest(address, part, show)
            return
        except urllib.error.HTTPError as error:
            problem = f"state {error.code} ({error.reason})"
            if error.code not in _PASSING:
                raise _UnreachableError(problem) from error
            if error.code == 416:
                _discard(part)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 1 if _size(part) > before else failed + 1
        if failed >= TRIES:
            raise _UnreachableError(
                f"{problem}; gave up after {TRIES} tries in a row. What came is kept: run it again later"
            )
        time.sleep(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))


def _request_rest(address: str, part: Path, show: bool) -> None:
    """Makes one request for what `part` lacks; raises ConnectionError if the answer breaks off."""
    version = _version_file(part)
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    have = _size(part) if known else 0  # where no version is known the rest might be another one's
    headers = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    request = urllib.request.Request(address, headers={"User-Agent": "mmdpo", **headers})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        resumed = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else have + int(length)
        tag = answer.headers.get("ETag", "")
        version.write_text(tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", ""))
        look = dict(desc=part.stem, unit="B", unit_scale=True, leave=False, disable=None if show else True)
        with part.open("ab" if resumed else "wb") as file, tqdm(total=whole, initial=have, **look) as bar:
            while block := answer.read(_BLOCK):
                have += len(block)
                if have > LARGEST:
                    raise EvaluationError(f"more came than {LARGEST:,} bytes, which no file here has")
                file.write(block)
                bar.update(len(block))
    if whole is not None and _size(part) < whole:
        raise ConnectionError(f"broke off after {_size(part):,} of {whole:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version_file(part: Path) -> Path:
    """Returns where it is noted which version of a file `part` is the beginning of, as the place calls it."""
    return part.with_name(f"{part.name}.version")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)
