"""`mmdpo pairs show`: what was asked, every answer with its wrong claims struck through, and which pair was taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from mmdpo.files import printable
from mmdpo.line_file import read_lines
from mmdpo.pairs.build import DROPPED
from mmdpo.pairs.dataset import DATASET
from mmdpo.pairs.judges import Verdict
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.texts import find_claims


def read_taken(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Returns of each prompt the numbers of the chosen and rejected answers of its pairs, as far as pairs are built."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    found: dict[str, list[tuple[int, int]]] = {}
    for path in sorted((folder / DATASET).glob("*.parquet")):
        table = parquet.read_table(path, columns=["prompt_id", "k_chosen", "k_rejected"]).to_pylist()
        for row in table:
            found.setdefault(row["prompt_id"], []).append((row["k_chosen"], row["k_rejected"]))
    return found


def read_dropped(folder: Path) -> dict[tuple[str, int | None], str]:
    """Returns why prompts (number None) and answers are in no pair."""
    path = folder / DROPPED
    rows = read_lines(path) if path.is_file() else ()
    return {(row["id"], row.get("k")): str(row["reason"]) for row in rows}


def show_prompt(
    prompt: Prompt,
    samples: Sequence[Sample],
    verdicts: Mapping[str, Mapping[int, Verdict]],
    taken: Sequence[tuple[int, int]],
    dropped: Mapping[tuple[str, int | None], str],
    *,
    has_styles: bool = True,
) -> Iterator[Text]:
    """Yields the lines that a terminal shows of one prompt; without styles wrong claims stand between tildes."""
    yield Text(printable(f"{prompt.id}  {prompt.question}"), style="bold")
    images = [str(image) if isinstance(image, str | Path) else "an image in the data" for image in prompt.images]
    yield Text(printable(f"  {', '.join(images)}"), style="dim")
    for sample in samples:
        roles = [role for pair in taken for role, k in zip(("chosen", "rejected"), pair, strict=True) if k == sample.k]
        label = next(iter(verdicts), "")
        verdict = verdicts.get(label, {}).get(sample.k)
        why = dropped.get((prompt.id, sample.k))
        name = f"{sample.k} {sample.kind}" + (f", {' and '.join(roles)}" if roles else "")
        scores = [f"{label} {of[sample.k].score:g}" for label, of in verdicts.items() if sample.k in of]
        line = Text(f"  {name:<18} ", style="green" if "chosen" in roles else "red" if "rejected" in roles else "")
        place = 0
        claims = () if verdict is None else verdict.claims
        wrong_claims = [(claim.text, claim.sentence) for claim in claims if not claim.is_true]
        for start, end in find_claims(sample.text, wrong_claims):
            line.append(printable(sample.text[place:start]))
            wrong = printable(sample.text[start:end])
            line.append(wrong if has_styles else f"~~{wrong}~~", style="strike red")
            place = end
        line.append(printable(sample.text[place:]))
        line.append(f"  [{'; '.join([*scores, *([why] if why else [])])}]", style="dim")
        yield line
    if reason := dropped.get((prompt.id, None)):
        yield Text(f"  no pair: {reason}", style="yellow")
    yield Text("")
