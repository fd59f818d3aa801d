"""The quickstart at a fraction of its size: every file that it promises, and results that agree with them."""

import json

import pytest
from rich.console import Console
from transformers import AutoProcessor

from mmdpo.diagnosis.pair_scores import OTHER, make_pair_collator, score_pairs
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.records import ORIGINAL
from mmdpo.study.quickstart import RATES, QuickstartPlan, run_quickstart
from mmdpo.study.variants import make_world_pairs
from mmdpo.training.durable.resume import RunFolderError
from mmdpo.world.model import CHECKPOINT

SMALL = QuickstartPlan(seed=1, pairs=160, held_out_pairs=16, scenes=20, shown_scenes=2, epochs=1)
KEYS = {"chair_i", "chair_s", "cover", "cog", "delta_logp_chosen", "accuracy_real", "accuracy_other"}
KEYS |= {"margin_real", "margin_other"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    console = Console(record=True, width=100)
    results = run_quickstart(folder, SMALL, console)
    return folder, results, console.export_text()


def test_results_hold_every_variant_and_measure(run):
    folder, results, _ = run
    stored = json.loads((folder / "results.json").read_text())
    assert stored == results
    assert set(stored["variants"]) == {"start", "dpo", "mdpo", "sft_chosen"}
    for name, values in stored["variants"].items():
        assert set(values) >= KEYS, name
    assert stored["variants"]["start"]["delta_logp_chosen"] == 0
    assert stored["variants"]["start"]["accuracy_real"] is None
    assert stored["variants"]["dpo"]["delta_logp_chosen"] != 0
    assert stored["seconds"] > 0


def test_pictures_and_page_are_there(run):
    folder, _, _ = run
    for name in (
        "scenes.png",
        "scenes.svg",
        "preference.png",
        "preference.svg",
        "curves.png",
        "report.html",
        "mdpo/model.safetensors",
    ):
        assert (folder / name).stat().st_size > 1000, name
    page = (folder / "report.html").read_text()
    for word in ("CHAIR", "mDPO", "hallucinat", "planted"):
        assert word in page


def test_the_pair_on_the_picture_is_of_two_scenes_with_nothing_in_common(run):
    folder, _, _ = run
    pair = json.loads((folder / "pair.json").read_text())
    assert pair["chosen"] != pair["rejected"]
    pictures = [(folder / pair[name]).read_bytes() for name in ("image", "other_image")]
    assert pictures[0] != pictures[1]
    page = (folder / "report.html").read_text()
    assert "Share of its preference that a model keeps with another picture: DPO" in page
    assert page.count('width="40" height="40"') == 18, "every object of the world has a legend"


def test_margins_are_those_of_what_was_saved_under_either_picture(run):
    folder, results, _ = run
    start, policy = (load_model(resolve_start(name)) for name in ("world", str(folder / "dpo")))
    pairs = make_world_pairs(SMALL.held_out_pairs, SMALL.seed, "held-out")
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    collator = make_pair_collator(processor, start.config, (ORIGINAL, OTHER), seed=SMALL.seed)
    ratios = score_pairs(policy, collator, pairs).minus(score_pairs(start, collator, pairs))
    found = results["variants"]["dpo"]
    for name, image in (("margin_real", ORIGINAL), ("margin_other", OTHER)):
        assert found[name] == pytest.approx(float(ratios.margins(image).mean()), abs=1e-3), name
    assert abs(found["margin_real"] - found["margin_other"]) > 0.01, "two pictures, two margins"


def test_every_variant_has_the_rate_that_its_own_tries_found(run):
    folder, _, _ = run
    logged = {}
    for name in RATES:
        log = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
        logged[name] = max(record.get("learning_rate", 0.0) for record in log)
    # Few steps are logged, and the peak need not be among them; it is the same share of each.
    assert {name: rate / logged["dpo"] for name, rate in logged.items()} == pytest.approx(
        {name: rate / RATES["dpo"] for name, rate in RATES.items()}
    )


def test_the_terminal_says_what_the_world_plants(run):
    _, _, printed = run
    for word in ("DPO", "mDPO", "SFT on chosen", "planted", "nothing here is a claim about real models"):
        assert word in printed


def test_a_used_folder_is_refused(run):
    folder, _, _ = run
    with pytest.raises(RunFolderError, match="holds a run already"):
        run_quickstart(folder, SMALL, Console(quiet=True))
