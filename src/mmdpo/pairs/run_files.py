"""The answers and verdicts of a run, read prompt by prompt: a million of them need not fit into memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmdpo.files import read_json
from mmdpo.pairs.judges import Verdict, load
from mmdpo.pairs.judging import JUDGE, join_rows
from mmdpo.pairs.plan import BuildError
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import SAMPLES, Sample, list_parts, read_prompt_digests, to_sample

try:  # takes half the time, and is there with the extra `app`
    from orjson import loads
except ImportError:
    from json import loads  # type: ignore[assignment]

_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


class Answers(NamedTuple):
    """The answers to a prompt, by number, and what the judges hold of them."""

    samples: list[Sample]
    verdicts: dict[str, dict[int, Verdict]]
    """By judge and number."""


class RunFiles:
    """What sampling and judging have left in a folder."""

    def __init__(
        self, folder: Path, labels: Sequence[str], is_planned: Callable[[Sample], bool] = lambda sample: True
    ) -> None:
        """Looks where the lines of each prompt stand. Raises BuildError where a file is missing.

        Answers that are not planned any more are none of the run's.
        """
        self.folder, self.labels, self._is_planned = folder, tuple(labels), is_planned
        self._asked = read_prompt_digests(folder)
        self._samples = Lines(list_parts(folder, SAMPLES))
        if not self._samples.names:
            raise BuildError(f"{folder} holds no answers: run `mmdpo pairs sample` first")
        self._verdicts = {}
        for label in labels:
            path = folder / f"verdicts-{label}.jsonl"
            if not path.is_file():
                raise BuildError(f"{folder} holds no verdicts of {label}: run `mmdpo pairs judge` first")
            self._verdicts[label] = Lines([path])
        judges = [read_json(folder / JUDGE.format(label))["judge"] for label in labels]
        self.versions = {label: f"{of['judge']}@{of['words']}" for label, of in zip(labels, judges, strict=True)}
        self.strikes = bool(judges) and bool(load(judges[0]["judge"]).STRIKES)
        self.judge = judges[0]["judge"] if judges else ""

    def has_answers(self, prompt: Prompt) -> bool:
        """Says whether the policy has answered a prompt at all."""
        return prompt.id in self._samples.names

    def read(self, prompt: str, numbers: Collection[int] | None = None) -> Answers:
        """Returns the answers to a prompt, those of some numbers where given, and their verdicts."""
        found: dict[int, Sample] = {}
        for row in self._samples.read(prompt, None if numbers is None else [b'"k": %d,' % k for k in numbers]):
            sample = to_sample(row)
            if (numbers is None or sample.k in numbers) and self._is_planned(sample):
                found[sample.k] = sample
        verdicts = {label: join_rows(lines.read(prompt), numbers) for label, lines in self._verdicts.items()}
        return Answers([found[k] for k in sorted(found)], verdicts)

    def images(self, prompt: Prompt) -> tuple[str, ...]:
        """Returns the digests of a prompt's pictures, of those that were asked about, without opening any."""
        asked = self._asked.get(prompt.id)
        return prompt.image_digests if asked is None else asked[1]

    def digest(self, prompt: Prompt) -> str:
        """Returns the digest of what was asked, pictures too, without opening any."""
        asked = self._asked.get(prompt.id)
        return prompt.digest if asked is None else asked[0]


class Lines:
    """Lines of JSON by the id that they begin with. Lines of one id mostly follow each other, and are read at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._runs: dict[str, list[tuple[int, int, int]]] = {}
        """By id: number of a file, and where lines that follow each other begin and end in it."""
        for number, file in enumerate(self._files):
            self._find_runs(number, file)

    @property
    def names(self) -> Collection[str]:
        """The ids."""
        return self._runs.keys()

    def _find_runs(self, number: int, file: Any) -> None:
        begin = end = 0
        head = b""
        for line in file:
            if not head or not line.startswith(head) or not line.endswith(b"\n"):
                if head:
                    self._runs.setdefault(json.loads(head[7:].decode()), []).append((number, begin, end))
                found = _ID.match(line) if line.endswith(b"\n") else None
                head, begin = (b"", end) if found is None else (found[0], end)
            end += len(line)
        if head:
            self._runs.setdefault(json.loads(head[7:].decode()), []).append((number, begin, end))

    def read(self, name: str, parts: Collection[bytes] | None = None) -> list[dict[str, Any]]:
        """Returns what the lines of an id hold; where parts are given, at least of those that have one of them."""
        found: list[dict[str, Any]] = []
        for number, begin, end in self._runs.get(name, ()):
            lines = os.pread(self._files[number].fileno(), end - begin - 1, begin)
            if parts is not None:
                apart = lines.split(b"\n")
                kept = [line for part in parts for line in apart if part in line]
                lines = b"\n".join(kept) if kept else lines  # else they were written in another form
            # Within a line a line break is escaped, so that lines with commas between them are an array.
            found += _parse(b"[%b]" % lines.replace(b"\n", b","))
        return found


def _parse(text: bytes) -> Any:
    try:
        return loads(text)
    except ValueError:  # half a surrogate pair, or a number that JSON has not, which orjson does not read
        return json.loads(text.decode())
