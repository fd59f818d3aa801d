"""List the recipes that come with mmdpo, describe one, or print it as a start for your own."""

import re
from dataclasses import dataclass

from mmdpo.commands import Verb
from mmdpo.options import Options, option, print_names
from mmdpo.shipped import RECIPES


@dataclass(frozen=True, kw_only=True)
class RecipesOptions(Options):
    """Which recipe, and what of it is printed."""

    name: str | None = option(
        None,
        "A recipe; all are listed where none is named.",
        metavar="NAME",
        positional=True,
        known=RECIPES.all_names,
    )
    print: bool = option(False, "Print the whole file.")
    path: bool = option(False, "Print where the file lies, for `accelerate launch --config_file` and sbatch.")


def run(options: RecipesOptions) -> int:
    """Prints what was asked for."""
    if options.name is None:
        sentences = {name: re.split(r"(?<=[.:])\s", RECIPES.about(name))[0] for name in RECIPES.all_names()}
        print_names({name: " ".join(text.split()).rstrip(".:") for name, text in sentences.items()})
        print("\nmmdpo train --config NAME; `mmdpo recipes NAME --print > mine.yaml` makes one's own of it.")
    elif options.path:
        print(RECIPES.find(options.name))
    elif options.print:
        print(RECIPES.find(options.name).read_text(encoding="utf-8"), end="")
    else:
        print(RECIPES.about(options.name))
    return 0


VERB = Verb(
    __doc__,
    RecipesOptions,
    run,
    page="training",
    examples={
        "all of them": "mmdpo recipes",
        "what one is for": "mmdpo recipes bunny-v1.0-3b-mdpo",
        "one to change": "mmdpo recipes vlm-mdpo-lora --print > mine.yaml",
    },
)
