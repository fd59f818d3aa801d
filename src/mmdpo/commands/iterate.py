"""Train in rounds on pairs of the model's own answers; a round that makes it worse is not kept."""

import sys

from mmdpo.commands import STOPPED, Verb
from mmdpo.files import printable
from mmdpo.pairs.options import IterateOptions
from mmdpo.terminal import quiet_libraries


def run(options: IterateOptions) -> int:
    """Runs the rounds; returns 1 where not one of them is kept, 75 where SIGTERM has stopped them, else 0."""
    from rich.console import Console

    from mmdpo.pairs.iterate import Rounds, make_table
    from mmdpo.pairs.steps import RoundsStopped

    quiet_libraries()
    try:
        state = Rounds(options).run()
    except RoundsStopped as stopped:
        print(f"mmdpo: {stopped}", file=sys.stderr)
        return STOPPED
    Console().print(make_table(state).terminal(wrap=7, padding=(0, 0, 0, 1)))
    if state["ended"]:
        print(printable(f"ended: {state['ended']}"))
    kept = [row for row in state["rounds"] if row["kept"]]
    refused = next((row["round"] for row in state["rounds"] if "model" in row and not row["kept"]), None)
    if refused is not None:
        again = options.out / f"round-{refused}"
        print("next: by another gate or other guards the same command decides again; by another rule or recipe")
        print(printable(f"      it makes the round again once you have removed {again}"))
    print(printable(f"best model: {options.out / 'best' if kept else state['base']}"))
    return 0 if kept else 1


VERB = Verb(
    __doc__,
    IterateOptions,
    run,
    goes_on=True,
    page="pairs",
    examples={
        "three rounds on the prompts, policy and judges of pairs.yaml": (
            "mmdpo iterate --pairs pairs.yaml --out runs/rounds --rounds 3"
        ),
        "training by accelerate, each model on POPE too": (
            'mmdpo iterate --pairs pairs.yaml --out runs/rounds --launch "accelerate launch -m mmdpo" --evaluate pope'
        ),
    },
)
