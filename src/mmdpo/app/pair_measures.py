"""What diagnoses have measured of pairs, found again by a row's id and its chosen answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from xxhash import xxh3_64_intdigest

from mmdpo.data.messages import plain_text
from mmdpo.files import clean_text
from mmdpo.records import CHOSEN, PreferenceExample
from mmdpo.report.reading import Place, read_lines

EXAMPLES = "examples.jsonl"
Measure = Callable[[PreferenceExample], float]


def read_measures(diagnoses: Iterable[Place]) -> dict[str, Measure]:
    """Returns measures by name; of several diagnoses with the folder's, such as `image reliance (mdpo)`.

    A measure gives NaN for a row that was not measured.
    """
    diagnoses = list(diagnoses)
    found: dict[str, Measure] = {}
    for place in diagnoses:
        values: dict[str, dict[int, float]] = {}
        for row in read_lines(place.path / EXAMPLES, []):
            for name, value in _read_row(row).items():
                values.setdefault(name, {})[_key(str(row.get("id")), str(row.get(CHOSEN)))] = value
        of = f" ({place.label})" if len(diagnoses) > 1 else ""
        found |= {f"{name}{of}": partial(_look_up, known) for name, known in values.items()}
    return found


def _read_row(row: Mapping[str, object]) -> dict[str, float]:
    margins = row.get("margins")
    margin = margins.get("real") if isinstance(margins, Mapping) else None
    values = {"image reliance": row.get("reliance"), "margin": margin, "told by the text alone": row.get("score")}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _look_up(known: Mapping[int, float], example: PreferenceExample) -> float:
    return known.get(_key(clean_text(example.id), clean_text(plain_text(example.responses.get(CHOSEN, "")))), math.nan)


def _key(name: str, chosen: str) -> int:
    return xxh3_64_intdigest(f"{name}\x1f{chosen}".encode("utf-8", "surrogatepass"))
