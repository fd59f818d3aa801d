"""The page says what the results say, and nothing that they do not."""

import json
import re

import pytest

from perf import cpu, gpu, sides
from perf.record import RESULTS
from perf.render import PAGE, TEMPLATE, render


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A result in miniature, whose two shapes are one."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["cpu", "--tiny", "--repetitions", "1", "--output", str(folder)])
        measure, found = cpu.measure_shape, []
        patch.setattr(cpu, "measure_shape", lambda *args: (found or found.append(measure(*args)) or found)[0])
        cpu.main()
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def write(folder, *results):
    for place, result in enumerate(results):
        (folder / f"{place}.json").write_text(json.dumps(result))
    return folder


def test_the_page_is_what_the_results_make_of_it():
    assert PAGE.read_text() == render(RESULTS), "run `python -m perf.render`"


def test_no_figure_is_written_by_hand():
    prose = re.sub(r"\{\{.+?\}\}|bf16|float32|7B", "", TEMPLATE.read_text())
    assert re.findall(r"\d+", prose) == []


@pytest.mark.slow
def test_every_key_that_has_a_target_is_measured(measured, tmp_path):
    page = render(write(tmp_path, measured | {"miniature": False}))
    assert "{{" not in page
    assert page.count("| met |") + page.count("| **missed** |") == 8
    assert "None has been measured" in page


@pytest.mark.slow
def test_a_target_is_met_from_its_own_side(measured, tmp_path):
    changed = measured | {
        "miniature": False,
        "time_ratio.dpo_vs_trl": 2.99,
        "memory_ratio.mdpo_vs_original_body": 0.651,
    }
    page = render(write(tmp_path, changed))
    assert "| DPO against B, body, warm | at least 3.00 | 2.99 | **missed** |" in page
    assert "| memory of mDPO against A, body | at most 0.65 | 0.65 | **missed** |" in page
    page = render(write(tmp_path, changed | {"time_ratio.dpo_vs_trl": 3.0, "memory_ratio.mdpo_vs_original_body": 0.65}))
    assert "| at least 3.00 | 3.00 | met |" in page
    assert "| at most 0.65 | 0.65 | met |" in page


@pytest.mark.slow
def test_the_latest_counts_and_a_try_in_miniature_does_not(measured, tmp_path):
    older = measured | {"miniature": False, "date": "2025-01-01", "machine": "older"}
    newer = older | {"date": "2026-01-01", "machine": "newer"}
    page = render(write(tmp_path, newer, older, measured | {"date": "2027-01-01"}))
    assert "`newer`" in page
    assert "older" not in page
    with pytest.raises(ValueError, match="make perf"):
        render(write(tmp_path / "", *[measured] * 3))


@pytest.mark.slow
def test_the_measurement_of_a_gpu_runs_in_miniature_and_is_told(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SIDES", (sides.ORIGINAL, sides.MDPO, sides.MDPO_PASS))
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)  # as where TRL is not installed
    plan = gpu.Plan(["llava"], [1], repetitions=1, largest=False, tiny=True, kernels=("no_such_kernel",))
    result = json.loads(json.dumps(gpu.run(plan, tmp_path)))
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text()) == result
    path.unlink()

    times = [case["sides"].get(sides.MDPO, {}).get("time", {}).get("median") for case in result["cases"]]
    first = result["cases"][0]["sides"]
    ratio = first[sides.ORIGINAL]["time"]["median"] / times[0]
    assert result["time_ratio.mdpo_vs_original_llava_batch1_warm"] == pytest.approx(ratio)
    assert result["time_ratio.mdpo_without_checkpointing_vs_original_with_llava_batch1_warm"] > 0
    assert max(it["gradient_difference"] for it in result["cases"][0]["agreement"].values()) < 1e-4

    page = render(write(tmp_path, measured | {"miniature": False}, result | {"device": "cuda", "miniature": False}))
    (row,) = [line for line in page.splitlines() if line.startswith("| llava | 1 | sdpa |")]
    assert f"{times[0]:.3f} s" in row
    assert "| llava | 1 | no_such_kernel | ValueError |" in page, "what could not run is named in place of a time"
    assert "TRL was not installed" in page
