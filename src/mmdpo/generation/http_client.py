"""The HTTP client of a chat endpoint: it trusts nothing that a server sends, and takes a prompt to no other server."""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from mmdpo.files import printable

LARGEST_REPLY = 16 << 20
"""Bytes, unpacked: far more than any answer, far less than the memory."""
KEYLESS = "none"
"""Stands where a local server asks for no key; the package insists on one."""
_REDIRECTS = (307, 308)
"""Those that send the same request again."""


class FailedTry(Exception):  # noqa: N818 - never leaves the endpoint
    """One try that another may mend."""

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


def show_address(url: str) -> str:
    """Returns an address without user name, password and query; raises ValueError, showing no more, for no address."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:  # it names a part of the address, which may be a part of the password
        pass
    scheme, mark, _ = url.partition("://")
    bare = (f"{scheme}{mark}" if mark else "") + url.removeprefix(f"{scheme}{mark}" if mark else "").rpartition("@")[2]
    raise ValueError(
        f"{re.split('[?#]', bare)[0]!r} is no address of an endpoint; give one such as http://localhost:8000/v1"
    )


def make_client(base_url: str, timeout: float) -> Any:
    """Returns openai's client, bounded; raises ImportError without it, ValueError for a key that no header holds."""
    try:
        import openai
    except ImportError as error:
        raise ImportError('an endpoint needs the openai package: pip install "mmdpo[openai]"') from error

    class BoundedClient(openai.DefaultAsyncHttpxClient):
        """Reads no more than LARGEST_REPLY, and takes a prompt to no other server."""

        async def send(self, request: Any, **options: Any) -> Any:
            options |= {"stream": True, "follow_redirects": False}
            response = await super().send(request, **options)
            on = response.next_request
            asked, told = request.url, request.url if on is None else on.url
            is_same = asked.netloc == told.netloc and told.scheme in (asked.scheme, "https")
            if on is not None and response.status_code in _REDIRECTS and is_same:
                await response.aclose()
                response = await super().send(on, **options)
            try:
                content = await _read_body(response)
            finally:
                await response.aclose()
            kept = {name: response.headers[name] for name in ("retry-after", "location") if name in response.headers}
            return type(response)(response.status_code, headers=kept, content=content, request=request)

    options: dict[str, Any] = dict(base_url=base_url, timeout=timeout, max_retries=0)
    options |= {"http_client": BoundedClient(), "default_headers": {"Accept-Encoding": "gzip"}}
    try:
        client = openai.AsyncOpenAI(**options)
    except openai.OpenAIError:  # no key in the environment
        client = openai.AsyncOpenAI(api_key=KEYLESS, **options)
    client.api_key = client.api_key.strip() or KEYLESS  # a file read into the variable ends in a line break
    if not re.fullmatch("[!-~]+", client.api_key):
        raise ValueError(
            "OPENAI_API_KEY holds a blank, a line break or another character that no key has; set it to the key alone"
        )
    return client


async def _read_body(response: Any) -> bytes:
    """Returns the unpacked body; raises FailedTry for one that is too large or packed in a way not asked for."""
    too_large = FailedTry(f"a reply of more than {LARGEST_REPLY >> 20} MiB")
    body = bytearray()
    async for block in response.aiter_raw():
        body += block
        if len(body) > LARGEST_REPLY:
            raise too_large
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return bytes(body)
    if encoding not in ("gzip", "x-gzip"):
        raise FailedTry(f"a reply packed as {printable(encoding)[:40]!r}, which was not asked for")
    try:
        content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, LARGEST_REPLY + 1)
    except zlib.error:
        raise FailedTry("a reply that is not packed as it says (gzip)") from None
    if len(content) > LARGEST_REPLY:
        raise too_large
    return content


def read_retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds that a server asks to wait, given as a number or a date; 0 where it says nothing readable."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, OSError):
            return 0.0
    return 0.0 if math.isnan(seconds) else max(0.0, seconds)
