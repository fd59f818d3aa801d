"""Turn a checkpoint of another layout into one that transformers loads."""

from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Dtype, Verbs, verb
from mmdpo.options import REQUIRED, Options, option
from mmdpo.terminal import quiet_libraries


@dataclass(frozen=True, kw_only=True)
class BunnyOptions(Options):
    """Which checkpoint of Bunny is converted, and how."""

    source: str = option(REQUIRED, "A folder, or a hub name, as BAAI/Bunny-v1_0-3B.", metavar="SRC", positional=True)
    target: Path = option(REQUIRED, "A new folder.", metavar="DST", positional=True)
    reverse: bool = option(False, "Convert back to the original's names.")
    original: Path | None = option(None, "With --reverse: folder of the original's config and tokenizer.")
    revision: str | None = option(None, "Branch, tag or commit of a hub name.")
    dtype: Dtype | None = option(None, "Precision of the weights.", unset="the source's")
    allow_pickle: bool = option(False, "Open pickled weights where there are no others; they can run code.")


@verb(
    "checkpoints",
    {
        "the start of the paper's recipes on Bunny": (
            "mmdpo convert bunny BAAI/Bunny-v1_0-3B checkpoints/bunny-v1.0-3b"
        ),
        "and back": "mmdpo convert bunny runs/merged bunny-mdpo --reverse --original checkpoints/Bunny-v1_0-3B",
    },
)
def convert_bunny(options: BunnyOptions) -> int:
    """Bunny-v1.0-3B to and from LlavaForConditionalGeneration."""
    from mmdpo.checkpoints import bunny
    from mmdpo.models.start import find_folder

    quiet_libraries()
    if options.original is not None and not options.reverse:
        raise ValueError("--original goes with --reverse")
    source = find_folder(options.source, revision=options.revision, allow_pickle=options.allow_pickle)
    if options.reverse:
        bunny.revert_bunny(source, options.target, original=options.original, dtype=options.dtype)
    else:
        bunny.convert_bunny(source, options.target, dtype=options.dtype, allow_pickle=options.allow_pickle)
    print(f"Converted: {options.target}")
    return 0


VERB = Verbs(__doc__, {"bunny": convert_bunny}, kind="checkpoint", page="checkpoints", examples=convert_bunny.examples)
