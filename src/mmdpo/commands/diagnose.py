"""Does a model's preference, or the data alone, need the image?"""

from mmdpo.commands import Verb, quiet_libraries
from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.files import printable


def run(options: DiagnosisOptions) -> int:
    """Diagnoses a model or data, and prints and writes what was found."""
    from rich.console import Console

    from mmdpo.diagnosis.diagnose import check_folder, diagnose, diagnose_data
    from mmdpo.diagnosis.probes import probe_conflict, probe_empty_image
    from mmdpo.report.diagnosis import print_diagnosis, write_diagnosis

    check_folder(options.out)
    quiet_libraries()
    console = Console()
    look = diagnose_data if options.data_only else diagnose
    if options.conflict is not None:
        look = probe_conflict
    elif options.empty_image is not None:
        look = probe_empty_image
    print_diagnosis(look(options, console), console)
    console.print(f"\nPage: {printable(str(write_diagnosis(options.out)))}", highlight=False, markup=False)
    return 0


VERB = Verb(__doc__, DiagnosisOptions, run)
