"""Numbers on disk by the digest of what they were computed from: one folder per fingerprint, shards whole or not there.

    <root>/<digest of the fingerprint>/fingerprint.json      what the digest stands for, readable
                                       <checksum>.safetensors    keys [n, 16] bytes, values [n] in float32

A shard that does not match its checksum is as good as none: its values are computed anew.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from xxhash import xxh3_128

from mmdpo.files import UnusableFileError, write_whole
from mmdpo.scoring.digests import Fingerprint

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"
SHARD_VALUES = 4096
"""Values after which a shard is written."""
LONGEST_TOLD = 60
"""Letters of a component that a line of the log quotes."""
SHARD_SECONDS = 30.0
"""Time after which one is written however few there are: what a killed pass loses at most."""


class ValueCacheError(ValueError):
    """A cache folder that cannot be used: says which, why, and how to mend it."""


@dataclass(frozen=True)
class ValueCache:
    """The stored values of one fingerprint. Several processes and runs may read and write at once."""

    root: Path
    fingerprint: Fingerprint

    @property
    def folder(self) -> Path:
        """Where the values of this fingerprint lie."""
        return self.root / self.fingerprint.digest

    def open(self) -> None:
        """Makes the folder, or checks that it is this fingerprint's.

        Raises ValueCacheError for a folder that was copied or edited, and for one that cannot be made.
        """
        path = self.folder / FINGERPRINT
        if not path.exists():
            self._name_the_difference()
            self.make_writable()
        elif _read_components(path) != self.fingerprint.components:
            raise ValueCacheError(
                f"{path} does not say what its folder stands for: the folder was copied or edited, and its values may "
                "be another reference's. Remove the folder, or set another ref_cache_dir"
            )

    def make_writable(self) -> None:
        """Tries to write into the folder. Raises ValueCacheError where that fails."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            if not (self.folder / FINGERPRINT).exists():
                text = json.dumps(dict(self.fingerprint.components), indent=2, sort_keys=True)
                write_whole(self.folder / FINGERPRINT, text + "\n")
        except (OSError, UnusableFileError) as error:
            raise self._not_writable(error) from error

    def read(self) -> dict[bytes, float]:
        """Returns the stored values. Damaged shards are named in a warning and removed."""
        found: dict[bytes, float] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found |= self._read_shard(path)
            except FileNotFoundError:
                continue  # another process has found it damaged
            except (OSError, SafetensorError, ValueError) as error:
                logger.warning("%s is damaged (%s): its values are computed anew", path, error)
                with suppress(OSError):  # a folder that may only be read is an error once something is to be written
                    path.unlink()
        return found

    def write(self, values: Mapping[bytes, float]) -> None:
        """Writes one shard. Raises ValueCacheError where that fails, ValueError for a value that is not finite."""
        if not all(map(math.isfinite, values.values())):
            raise ValueError("a value that is not finite is never stored")
        keys = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), -1)
        numbers = np.array(list(values.values()), dtype=np.float32)
        checksum = self._checksum(keys, numbers)
        content = save({"keys": keys, "values": numbers}, metadata={"checksum": checksum})
        try:
            write_whole(self.folder / f"{checksum}.safetensors", content)
        except UnusableFileError as error:
            raise self._not_writable(error) from error

    def _read_shard(self, path: Path) -> dict[bytes, float]:
        with safe_open(path, framework="numpy") as shard:
            if set(shard.keys()) != {"keys", "values"}:
                raise ValueError("it holds other tensors than keys and values")
            keys, values = shard.get_tensor("keys"), shard.get_tensor("values")
            stated = (shard.metadata() or {}).get("checksum")
        if self._checksum(keys, values) != stated:
            raise ValueError("its checksum does not match")
        return dict(zip(map(bytes, keys), values.tolist(), strict=True))

    def _checksum(self, keys: NDArray[Any], values: NDArray[Any]) -> str:
        """Covers the fingerprint too, so that a shard moved here from another folder does not pass."""
        total = xxh3_128(self.fingerprint.digest.encode())
        total.update(f"{keys.dtype}{keys.shape}{values.dtype}{values.shape}".encode())
        total.update(keys.tobytes())
        total.update(values.tobytes())
        return total.hexdigest()

    def _not_writable(self, error: Exception) -> ValueCacheError:
        return ValueCacheError(
            f"the folder {self.folder}, which keeps what is computed before training, cannot be written "
            f"({getattr(error, 'strerror', None) or error}): set ref_cache_dir to a folder that can, or "
            "precompute_ref_log_probs: false"
        )

    def _name_the_difference(self) -> None:
        """Logs which component alone keeps the values of another run from being used, if there are such."""
        ours = self.fingerprint.components
        found: dict[str, str | None] = {}
        for path in sorted(self.root.glob(f"*/{FINGERPRINT}")):
            theirs = _read_components(path) or {}
            differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
            if len(differing) == 1:
                found[differing[0]] = theirs.get(differing[0])
        if found:
            name = min(found, key=lambda name: name == "weights")  # other weights are what one expects least to be told
            prefix = "" if name == "precision" else f"{name} "
            what, before, now = self.fingerprint.what, str(found[name]), str(ours.get(name))
            if max(len(before), len(now)) > LONGEST_TOLD:
                logger.info("cached %s are for other %s than this run's: computing anew", what, name)
            else:
                logger.info(
                    "cached %s are for %s%s, this run is %s%s: computing anew", what, prefix, before, prefix, now
                )


@dataclass
class ShardWriter:
    """Collects values and writes a shard every so many values or seconds, and what is left however the block ends."""

    cache: ValueCache | None
    """None where nothing is kept."""
    is_optional: bool = False
    """Whether a folder that cannot be written is a warning, said once, and no error."""
    _is_open: bool = False
    _pending: dict[bytes, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def open(self) -> None:
        """Makes sure, once, that the folder can be written. Raises ValueCacheError where it cannot."""
        if self.cache is not None and not self._is_open:
            self.cache.make_writable()
            self._is_open = True

    def add(self, values: Mapping[bytes, float]) -> None:
        """Takes values, each stored by the next shard."""
        self._pending.update(values)
        if len(self._pending) >= SHARD_VALUES or time.monotonic() - self._last >= SHARD_SECONDS:
            self._flush()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._pending and self.cache is not None:
            try:
                self.open()
                self.cache.write(self._pending)
            except ValueCacheError as error:
                if not self.is_optional:
                    raise
                logger.warning("%s", error)
                self.cache = None
        self._pending, self._last = {}, time.monotonic()


def _read_components(path: Path) -> dict[str, str] | None:
    try:
        components = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return components if isinstance(components, dict) else None
