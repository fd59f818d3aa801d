"""Does a model's preference, or the data alone, need the image?"""

from mmdpo.commands import Verb
from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.files import printable
from mmdpo.progress import loading
from mmdpo.terminal import quiet_libraries


def run(options: DiagnosisOptions) -> int:
    """Diagnoses a model or data, and prints and writes what was found."""
    with loading():
        from rich.console import Console

        from mmdpo.diagnosis.run import run_diagnosis
        from mmdpo.report.diagnosis import print_diagnosis, write_diagnosis

        quiet_libraries()
    console = Console()
    print_diagnosis(run_diagnosis(options, console), console)
    console.print(f"\nPage: {printable(str(write_diagnosis(options.out)))}", highlight=False, markup=False)
    return 0


VERB = Verb(
    __doc__,
    DiagnosisOptions,
    run,
    goes_on=True,
    page="studies#diagnosis",
    examples={
        "a trained model, on 200 pairs": (
            "mmdpo diagnose --model runs/mine --dataset held_out.jsonl --pairs 200 --out runs/mine/looks"
        ),
        "the data alone, before anything is trained": "mmdpo diagnose --data_only --dataset pairs.jsonl --out looks",
        "the embedded world, in seconds": "mmdpo diagnose --model world --dataset world --out runs/looks",
    },
)
