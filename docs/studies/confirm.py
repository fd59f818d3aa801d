"""Asks new seeds whether the claims of `claims.yaml` hold: `python docs/studies/confirm.py docs/studies [OUT.md]`.

Reads NAME-confirmed/results.json in that folder for every study NAME of the file, and prints a row for each claim: the
paired difference with its 95 % interval, and whether the claim holds by it. `holm` is the p-value of the claim where
the number of all claims in the table is allowed for. With `--before` it reads NAME/results.json instead.
"""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmdpo.files import read_json
from mmdpo.study.results import allow_for_number, describe, p_value

MEASURES = {"f1": "world", "chair_i": "world", "cover": "world"}  # all others are of pairs
CLAIM = re.compile(r"(?P<one>\S+) (?P<sign>[>=]) (?P<other>\S+?)(?: (?:\+|within) (?P<by>[\d.]+))?")


class Claim(NamedTuple):
    """One variant less another one, and what is said of the difference."""

    study: str
    measure: str
    text: str
    difference: dict[str, Any]
    holds: bool
    p: float
    """Of the t-test against the bound that is nearest."""


def judge(study: str, measure: str, text: str, values: dict[str, Any]) -> Claim:
    """Looks a claim up in the values of a study's results."""
    found = CLAIM.fullmatch(text)
    assert found is not None, f"{study}: {text!r} is no claim"
    key = f"{MEASURES.get(measure, 'pairs')}/{measure}"
    one, other = (values[found[side]][key]["by_seed"] for side in ("one", "other"))
    difference = describe({seed: value - other[seed] for seed, value in one.items() if seed in other})
    by = float(found["by"] or 0)
    if found["sign"] == "=":
        holds = -by < difference["low"] and difference["high"] < by
        nearest = by if difference["mean"] > 0 else -by
    else:
        holds, nearest = difference["low"] > by, by
    return Claim(study, measure, text, difference, holds, p_value({**difference, "mean": difference["mean"] - nearest}))


def main() -> None:
    """Prints the table, or writes it."""
    arguments = [each for each in sys.argv[1:] if each != "--before"]
    ending = "" if "--before" in sys.argv else "-confirmed"
    folder, claims = Path(arguments[0]), []
    for study, of in yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8")).items():
        path = folder / f"{study}{ending}" / "results.json"
        if not path.exists():
            print(f"{study}: there is no {path} yet", file=sys.stderr)
            continue
        values = read_json(path)["values"]
        claims += [judge(study, *next(iter(each.items())), values) for each in of]
    holm = {n: min(1.0, p) for n, p in allow_for_number({n: claim.p for n, claim in enumerate(claims)}).items()}
    lines = ["| study | measure | claim | difference | holds | holm |", "|---|---|---|---|---|---|"]
    for number, claim in enumerate(claims):
        said = "{mean:+.2f} ({low:.2f} … {high:.2f})".format(**claim.difference).replace("-", "−")
        held = ("yes" if holm[number] <= 0.05 else "plain") if claim.holds else "**no**"
        lines.append(f"| {claim.study} | {claim.measure} | {claim.text} | {said} | {held} | {holm[number]:.3f} |")
    held = sum(claim.holds for claim in claims)
    both = sum(claim.holds and holm[number] <= 0.05 for number, claim in enumerate(claims))
    lines.append(
        f"\n{held} of {len(claims)} claims hold by their own interval, {both} where their number is allowed for."
    )
    text = "\n".join(lines) + "\n"
    if arguments[1:]:
        Path(arguments[1]).write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
