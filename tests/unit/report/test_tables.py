import io

from rich.console import Console

from mmdpo.report.quickstart import CAVEATS, print_results, results_table

SCORES = {
    "start": {"chair_i": 21.24, "chair_s": 61, "cover": 97.1, "cog": 19.5, "delta_logp_chosen": -0.001},
    "mdpo": {
        "chair_i": 6.9,
        "chair_s": 100.0,
        "cover": 92.7,
        "cog": 3.2,
        "delta_logp_chosen": -12.345,
        "accuracy_real": 93.8,
        "accuracy_other": None,
    },
    "my|own": {"delta_logp_chosen": 0.1},
}


def test_markdown_rounds_signs_and_dashes():
    assert results_table(SCORES).markdown().splitlines()[2:] == [
        "| Start | 21.2 | 61.0 | 97.1 | 19.5 | 0.00 | – | – |",
        "| mDPO | 6.9 | 100.0 | 92.7 | 3.2 | −12.35 | 93.8 | – |",
        r"| my\|own | – | – | – | – | +0.10 | – | – |",
    ]


def test_csv_keeps_every_digit_and_leaves_missing_fields_empty():
    assert results_table(SCORES).csv().splitlines() == [
        "variant,chair_i,chair_s,cover,cog,delta_logp_chosen,accuracy_real,accuracy_other",
        "start,21.24,61,97.1,19.5,-0.001,,",
        "mdpo,6.9,100.0,92.7,3.2,-12.345,93.8,",
        "my|own,,,,,0.1,,",
    ]


def test_terminal_fits_80_columns_and_prints_the_caveats():
    console = Console(file=io.StringIO(), width=80)
    print_results({"variants": SCORES, "scenes": 123, "seed": 7}, console)
    printed = console.file.getvalue()
    assert "…" not in printed
    assert all(len(line.rstrip()) <= 80 for line in printed.splitlines())
    assert all(word in printed for word in ("CHAIR_i", "CHAIR_s", "p(chosen)", "image", "−12.35", "–"))
    flowing = " ".join(printed.split())
    assert "123 scenes, one seed (7)" in flowing
    assert all(caveat.split("{")[0] in flowing for caveat in CAVEATS)
