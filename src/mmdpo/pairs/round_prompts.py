"""Which prompts a round of `mmdpo iterate` sees: some are held out from all, by image, and no round sees another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmdpo.files import printable, write_whole
from mmdpo.pairs.dataset import group_images
from mmdpo.pairs.gate import IterateError
from mmdpo.pairs.prompts import Prompt
from mmdpo.records import RowError, derive_generator

HELD_OUT = "held_out.txt"


def split_prompts(prompts: Sequence[Prompt], held_out: int, seed: int, folder: Path) -> list[str]:
    """Writes which prompts are held out, at least so many, and returns the ids of the others in drawn order.

    Raises IterateError where nothing is left for the rounds, or `folder` holds out others.
    """
    readable = list(_find_readable(prompts))
    lead = group_images(prompt.image_digests for prompt in readable)
    by_image: dict[str, list[Prompt]] = {}
    for prompt in readable:
        by_image.setdefault(lead[prompt.image_digests[0]], []).append(prompt)
    groups = list(by_image.values())
    order = derive_generator(seed, "", "rounds").permutation(len(groups)).tolist()
    kept, rest = list[str](), list[str]()
    for place in order:
        (kept if len(kept) < held_out else rest).extend(each.id for each in groups[place])
    if not rest:
        raise IterateError(
            f"{len(readable):,} prompts about {len(groups):,} images, and --held_out {held_out} takes all: give more "
            "prompts, or hold out fewer"
        )
    path, text = folder / HELD_OUT, "".join(f"{name}\n" for name in kept)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise IterateError(
            f"{path} holds other prompts than these rounds would hold out, since prompts, seed or --held_out are "
            "others: put them back, or choose another --out"
        )
    write_whole(path, text)
    return rest


def _find_readable(prompts: Sequence[Prompt]) -> Iterator[Prompt]:
    """Yields the prompts whose pictures can be read, and warns of the others, which `mmdpo pairs` does not ask."""
    faults = list[RowError]()
    for prompt in prompts:
        if "\n" in prompt.id:
            raise IterateError(f"{prompt.source}: the id {prompt.id!r} has a line break, and ids are kept in lines")
        try:
            prompt.image_digests  # noqa: B018 - reads the pictures, and keeps the digests
        except RowError as error:
            faults.append(error)
        else:
            yield prompt
    if len(faults) == len(prompts):
        raise faults[0]
    if faults:
        told = f"{len(faults):,} of {len(prompts):,} prompts are left out, since their pictures cannot be read"
        print(printable(f"note: {told}; the first: {faults[0]}"), flush=True)


def prompts_of(number: int, folder: Path) -> Path:
    """Returns the file with the ids of a round's prompts."""
    return folder / f"round-{number}" / "prompts.txt"


def find_fresh(rest: Sequence[str], number: int, folder: Path) -> list[str]:
    """Returns the prompts that no round before this one has seen; raises IterateError where that is not known."""
    seen = set[str]()
    for path in (prompts_of(before, folder) for before in range(1, number)):
        if not path.is_file():
            raise IterateError(
                f"{path} is gone, which says what its round has seen: put it back, or choose another --out"
            )
        seen.update(path.read_text("utf-8").split("\n"))
    return [name for name in rest if name not in seen]
