"""Train and compare on the embedded world, in minutes, on a CPU."""

from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Verb
from mmdpo.options import Options, option
from mmdpo.terminal import quiet_libraries


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions(Options):
    """Where the quickstart writes, and its seed."""

    output_dir: Path = option(Path("runs/quickstart"), "Write models, results and the page into this folder.")
    seed: int = option(0, "Seed of the pairs and of training.")


def run(options: QuickstartOptions) -> int:
    """Trains and compares."""
    import torch
    from rich.console import Console

    from mmdpo.study.quickstart import QuickstartPlan, run_quickstart

    quiet_libraries()
    # Tensors this small gain nothing from a second thread, and waiting for one on a busy core costs several times over.
    torch.set_num_threads(1)
    run_quickstart(options.output_dir, QuickstartPlan(seed=options.seed), Console())
    return 0


VERB = Verb(
    __doc__,
    QuickstartOptions,
    run,
    page="world",
    examples={
        "into runs/quickstart": "mmdpo quickstart",
        "another seed": "mmdpo quickstart --seed 1 --output_dir runs/q1",
    },
)
