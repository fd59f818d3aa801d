"""Fetching one file over HTTP: goes on where it broke off, tries again where that may help, and checks what came."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Fetched:
    """A file that came, and from where."""

    sha256: str
    address: str


class FetchError(EvaluationError):
    """A place that does not give a file, or gives another than the expected one."""


def fetch(
    addresses: Sequence[str],
    target: Path,
    *,
    sha256: str | None,
    whence: str = "",
    check: Callable[[Path], None] | None = None,
    show: bool = False,
) -> Fetched:
    """Fetches a file from the first place that has it. Nobody finds half of it at `target`.

    `sha256` is what it must have, None for any; `whence` says where that is written down; `check` raises
    EvaluationError for a file that cannot be what it should.

    Raises:
        FetchError: no place gave the file. One with a wrong checksum lies beside the target, ending in `.wrong`.
        EvaluationError: the disk takes no more.
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
                _validator_file(part).unlink(missing_ok=True)
                raise FetchError(
                    f"wrong checksum: expected SHA-256 {sha256}{whence}, got {got}; what came lies in {wrong}"
                )
            if check is not None:
                _check(check, part)
        except FetchError as error:
            problems.append(f"{address}: {error}")
            continue
        part.replace(target)
        _validator_file(part).unlink(missing_ok=True)
        return Fetched(got, address)
    raise FetchError(f"{target} cannot be fetched. " + "; ".join(problems))


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(check: Callable[[Path], None], part: Path) -> None:
    try:
        check(part)
    except FetchError:
        raise
    except EvaluationError as error:
        part.unlink()
        raise FetchError(str(error)) from error


def _resolve(address: str) -> str:
    """Returns the address over HTTP; `hub:owner/name@revision/file` is a file of a dataset of the hub."""
    if not address.startswith("hub:"):
        return address
    from huggingface_hub import hf_hub_url

    owner, name, file = address.removeprefix("hub:").split("/", 2)
    name, _, revision = name.partition("@")
    return str(hf_hub_url(f"{owner}/{name}", file, repo_type="dataset", revision=revision or None))


def _download(address: str, part: Path, show: bool) -> None:
    """Completes `part`; raises FetchError when the place refuses, or after TRIES without progress."""
    failed = 0
    while True:
        before = _size(part)
        try:
            _go_on(address, part, show)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing lies behind what is here: it is not the file's beginning
                part.unlink(missing_ok=True)
            elif error.code not in _PASSING:
                raise FetchError(f"state {error.code} ({error.reason})") from error
            problem = f"state {error.code} ({error.reason})"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        except OSError as error:
            raise EvaluationError(f"{part}: cannot be written ({error.strerror}); what came before is kept") from error
        failed = 1 if _size(part) > before else failed + 1
        if failed >= TRIES:
            raise FetchError(f"{problem}; gave up after {TRIES} tries in a row. What came is kept: run it again later")
        time.sleep(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))


def _go_on(address: str, part: Path, show: bool) -> None:
    """Makes one request for what `part` lacks; raises ConnectionError if the answer breaks off."""
    request = urllib.request.Request(address, headers={"User-Agent": "mmdpo"})
    have, validator = _size(part), _read_validator(part)
    if have and validator:  # without it the rest might be another version's
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        resumed = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else have + int(length)
        _write_validator(part, answer.headers)
        with part.open("ab" if resumed else "wb") as file, _bar(show, part, have, whole) as bar:
            while block := answer.read(_BLOCK):
                have += len(block)
                if have > LARGEST:
                    part.unlink()
                    raise FetchError(f"more came than {LARGEST:,} bytes, which is no file of a benchmark")
                file.write(block)
                bar.update(len(block))
    if whole is not None and _size(part) < whole:
        raise ConnectionError(f"broke off after {_size(part):,} of {whole:,} bytes")


def _bar(show: bool, part: Path, have: int, whole: int | None) -> Any:
    name = part.name.removesuffix(".part")
    return tqdm(
        total=whole, initial=have, desc=name, unit="B", unit_scale=True, leave=False, disable=None if show else True
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _read_validator(part: Path) -> str:
    file = _validator_file(part)
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _write_validator(part: Path, headers: Any) -> None:
    """Notes which version of the file this is, if the place says so."""
    tag = headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    file = _validator_file(part)
    if version:
        file.write_text(version, encoding="utf-8")
    else:
        file.unlink(missing_ok=True)
