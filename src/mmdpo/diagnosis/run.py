"""One diagnosis from its options to its files, for the verb and for Python."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from mmdpo.diagnosis.diagnose import EXAMPLES, check_folder, diagnose_data
from mmdpo.diagnosis.diagnose import diagnose as diagnose_model
from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.diagnosis.probes import probe_conflict, probe_empty_image
from mmdpo.files import read_rows
from mmdpo.folders import leaving_nothing
from mmdpo.options import make_options
from mmdpo.report.diagnosis import say, write_diagnosis


@dataclass(frozen=True)
class Measure:
    """One number of a diagnosis over `n` pairs, questions or prompts, with its 95 % bootstrap interval over images."""

    label: str
    value: float
    low: float | None
    """Ends of the interval; None where there are too few images."""
    high: float | None
    n: int
    unit: str


@dataclass(frozen=True)
class Diagnosis:
    """What diagnosis.json and examples.jsonl hold."""

    kind: str
    """`model`, `data`, `conflict` or `empty_image`."""
    pairs: int
    """Or questions, or prompts: what it stands on."""
    measures: Mapping[str, Measure]
    """By name; of `data` the accuracy of each rule on the text alone."""
    verdict: str
    depends: bool | None
    """Of a model: whether its preference depends on the image; None where that cannot be told, or was not asked."""
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    """The first rows that could not be used, with file, row and reason."""
    examples: tuple[Mapping[str, Any], ...]
    """A row for each pair, question or prompt, in the order of examples.jsonl."""
    content: Mapping[str, Any]
    """All of diagnosis.json, options and versions too."""

    def __repr__(self) -> str:
        """The numbers alone: examples would fill a notebook."""
        lines = [f"{of.label}: {of.value} [{of.low}, {of.high}] {of.unit}" for of in self.measures.values()]
        return "\n".join([f"{self.kind}, n {self.pairs:,}: {self.verdict}", *lines])


def diagnose(*, out: str | Path | None = None, **options: Any) -> Diagnosis:
    """Diagnoses a model or data as `mmdpo diagnose` does; prints nothing.

    `out` gets the verb's files and its page; without it none is left. `options` are the verb's, by the names of its
    flags: `model` and `dataset`, `data_only=True` and `dataset`, `conflict` or `empty_image`.

    Raises TypeError for an option that there is none of, or a value of another type; and what the verb ends with.
    """
    with nullcontext(out) if out is not None else TemporaryDirectory(prefix="mmdpo-") as folder:
        chosen = make_options(DiagnosisOptions, {"out": folder, **options})
        content = run_diagnosis(chosen, Console(quiet=True))
        write_diagnosis(chosen.out)
        file = chosen.out / EXAMPLES
        examples = tuple(read_rows(file)) if file.exists() else ()
    found = content.get("measures") or content.get("rules") or {}
    return Diagnosis(
        kind=content["kind"],
        pairs=content["pairs"],
        measures={
            name: Measure(
                of["label"], of.get("value", of.get("accuracy")), of["low"], of["high"], of["n"], of.get("unit", "%")
            )
            for name, of in found.items()
        },
        verdict=say(content),
        depends=content.get("verdict", {}).get("depends"),
        notes=tuple(content["notes"]),
        left_out=tuple(content["left_out"]),
        examples=examples,
        content=content,
    )


def run_diagnosis(options: DiagnosisOptions, console: Console) -> dict[str, Any]:
    """Runs what the options ask for and returns diagnosis.json's content; raises what that raises."""
    check_folder(options.out)
    look = diagnose_data if options.data_only else diagnose_model
    if options.conflict is not None:
        look = probe_conflict
    elif options.empty_image is not None:
        look = probe_empty_image
    with leaving_nothing(options.out):
        return look(options, console)
