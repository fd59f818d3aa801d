"""From trials to a table: intervals, paired differences, and what is missing."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from scipy import stats

from mmdpo.report.study import _draw, study_csv, study_markdown, write_study_files
from mmdpo.study.results import adjust, collect_results, describe, p_value, t_quantile
from mmdpo.study.study_file import Study, StudyEvaluation, Variant
from mmdpo.study.trial import Trial, digest_trial
from mmdpo.study.variants import MEASURES


def test_quantiles_are_student_s():
    for freedom in (1, 2, 4, 17, 30, 31, 60, 1000):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_p_is_that_of_the_paired_t_test():
    for values in ([1.0, 2.0, 6.0], [-0.5, 0.2, 0.1, 0.4], [3.0, 3.1, 2.9, 3.2, 3.0], [0.1] * 4 + [0.2] * 8):
        by_seed = {str(seed): value for seed, value in enumerate(values)}
        assert p_value(describe(by_seed)) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-12)
    assert p_value(describe({"0": 0.0, "1": 0.0, "2": 0.0})) == 1
    assert p_value(describe({"0": 2.0, "1": 2.0, "2": 2.0})) == 0


def difference(*values):
    return describe({str(seed): value for seed, value in enumerate(values)})


def test_holm_allows_for_the_number_of_comparisons_by_hand():
    small, large, none = difference(-1.0, -2.0, -1.2), difference(-3.0, -3.1, -3.05), difference(0.1, -0.1, 0.2)
    of = {"world/chair_i": small, "world/cover": large, "pairs/image_gain": none}
    of |= {"world/cog": small, "time/train": large}
    claimed = ("world/chair_i", "world/cover", "pairs/image_gain")
    found = adjust({"start": of, "mdpo": of, "few": {"world/cover": difference(1.0, 2.0)}}, claimed)["mdpo"]
    p = [found[name]["p"] for name in claimed]
    assert p[1] < p[0] < 0.05 < p[2]
    # Three comparisons: the least p three times, the next twice, the last once.
    assert [found[name]["holm"] for name in claimed] == pytest.approx([2 * p[0], 3 * p[1], p[2]])
    assert found["world/chair_i"]["low"] == small["low"], "the plain interval stays as it is"
    # The wider ones are of the size at which each was tested: 1 - 0.05 / 3 for the least p.
    reach = stats.t.ppf(1 - 0.05 / 3 / 2, 2) * large["std"] / 3**0.5
    assert found["world/cover"]["wide_high"] - large["mean"] == pytest.approx(reach)
    for name in claimed:
        assert (found[name]["wide_low"] <= 0 <= found[name]["wide_high"]) == (found[name]["holm"] >= 0.05)


def test_p_after_holm_never_falls_and_is_at_most_one():
    values = {"a": (1.0, 2.0, 3.0), "b": (1.0, 2.0, 3.1), "c": (0.0, 1.0, -1.0)}
    found = adjust({name: {"world/f1": difference(*of)} for name, of in values.items()}, ["world/f1"])
    a, b, c = (found[name]["world/f1"] for name in "abc")
    assert a["p"] < b["p"]
    assert a["holm"] == pytest.approx(3 * a["p"])
    assert b["holm"] == pytest.approx(max(3 * a["p"], 2 * b["p"]))
    assert c["holm"] == c["p"] == 1


def test_an_interval_keeps_holms_size_where_its_p_is_cut_at_one():
    """Ten differences that may all be chance: the least p is tested at a tenth of 5 %, whatever ten times p is."""
    values = {f"v{number}": difference(1.0, 2.0 + 0.01 * number, -1.8) for number in range(10)}
    found = adjust({name: {"world/f1": of} for name, of in values.items()}, ["world/f1"])
    least = min((of["world/f1"] for of in found.values()), key=lambda of: of["p"])
    assert 10 * least["p"] > least["holm"] == 1
    reach = stats.t.ppf(1 - 0.05 / 10 / 2, 2) * least["std"] / 3**0.5
    assert least["wide_high"] - least["mean"] == pytest.approx(reach)


def test_what_no_claim_is_about_is_not_counted():
    of = {"world/chair_i": difference(-1.0, -2.0, -1.2), "world/cog": difference(-1.0, -2.0, -1.2)}
    found = adjust({"start": of, "mdpo": of, "few": {"world/chair_i": difference(1.0, 2.0)}}, ["world/chair_i"])
    assert found["mdpo"]["world/chair_i"]["holm"] == found["mdpo"]["world/chair_i"]["p"], "one comparison"
    for name, measure in (("start", "world/chair_i"), ("few", "world/chair_i"), ("mdpo", "world/cog")):
        assert (found[name][measure]["holm"], found[name][measure]["wide_low"]) == (None, None)
    assert found["mdpo"]["world/cog"]["p"] is not None


def test_an_interval_by_hand():
    found = describe({"0": 1.0, "1": 2.0, "2": 6.0})
    # mean 3, s = √7, 4.302653 · √(7/3)
    assert (found["mean"], found["std"]) == (3.0, pytest.approx(7**0.5))
    assert found["high"] - 3 == pytest.approx(4.302653 * (7 / 3) ** 0.5)
    assert describe({"0": 1.0, "1": 2.0})["low"] is None


@pytest.fixture
def results(tmp_path):
    """Two variants of three seeds; the second has failed with seed 2."""
    variants = tuple(Variant(name, f"about {name}", {}) for name in ("start", "a", "b"))
    study = Study("mmdpo study file.yaml", "mine", "what", variants, (0, 1, 2), StudyEvaluation(scenes=1))
    values = {("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 9.0, ("b", 0): 2.0, ("b", 1): 4.0}
    trials = []
    for variant in variants:
        for seed in study.seeds:
            folder = Path(tmp_path) / variant.name / str(seed)
            folder.mkdir(parents=True)
            trials.append(Trial(variant, seed, study.evaluation, folder, f"{variant.name}{seed}", None))
            value = values.get((variant.name, seed))
            measure = {"m": {"label": "M", "unit": "%", "better": "lower", "digits": 1}}
            content = dict(digest=f"{variant.name}{seed}", metrics={"m": value}, measures=measure, seconds={"t": 1})
            if (variant.name, seed) == ("b", 2):
                (folder / "failure.json").write_text(json.dumps(dict(digest="b2", error="ValueError: why")))
            else:
                (folder / "trial.json").write_text(json.dumps(content))
    return collect_results(study, trials)


def test_differences_are_paired_and_what_is_missing_is_named(results):
    assert results["values"]["a"]["m"]["mean"] == 4.0
    assert results["differences"]["b"]["m"]["by_seed"] == {"0": 1.0, "1": 2.0}, "seed 2 has no partner"
    assert results["differences"]["b"]["m"]["low"] is None, "two pairs are too few for an interval"
    assert results["missing"] == [{"variant": "b", "seed": 2, "error": "ValueError: why"}]
    assert "b: 2 of 3 seeds are finished" in results["notes"]
    assert "m" not in results["values"]["start"], "undefined there"
    # 4 ± 4.302653 · √19 / √3, and a percentage is not negative.
    assert results["values"]["a"]["m"]["low"] == 0.0
    assert results["values"]["a"]["m"]["high"] == pytest.approx(4 + 4.302653 * (19 / 3) ** 0.5)


def test_a_measure_that_may_be_below_zero_keeps_its_interval(tmp_path):
    """Chosen answers that are shorter than rejected ones: their mean stands between the ends."""
    variants = tuple(Variant(name, "", {}) for name in ("start", "a"))
    study = Study("mmdpo study x", "x", "", variants, (0, 1, 2), StudyEvaluation(scenes=1))
    trials, name = [], "own/words_difference"
    for seed, value in enumerate((-4.9, -5.1, -4.8)):
        trials.append(Trial(variants[1], seed, study.evaluation, tmp_path / str(seed), f"{seed}", None))
        trials[-1].folder.mkdir()
        content = dict(digest=f"{seed}", metrics={name: value}, measures={name: asdict(MEASURES[name])}, seconds={})
        (trials[-1].folder / "trial.json").write_text(json.dumps(content))
    found = collect_results(study, trials)["values"]["a"][name]
    assert found["low"] < found["mean"] < found["high"] < 0


def test_the_tables_show_what_is_missing_as_missing(results):
    page = study_markdown(results)
    assert "| a | 4.0 ± 4.4 |" in page
    assert "| start | – |" in page
    assert "| b | +1.5 |" in page
    assert "missing: b, seed 2: ValueError: why" in page
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(study_csv(results)))}
    assert rows["b"]["difference_mean"] == "1.5"
    assert rows["b"]["difference_low"] == ""


def test_the_picture_has_a_dot_for_every_seed_and_a_bar_where_there_is_an_interval(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results))
    *_, path = write_study_files(tmp_path)
    assert path.stat().st_size > 10_000
    svg = path.with_suffix(".svg").read_text()
    # Matplotlib draws a marker as <use>: five seeds, two means, and the ticks of both axes.
    without = {**results, "values": {**results["values"], "b": {}}}
    (tmp_path / "results.json").write_text(json.dumps(without))
    write_study_files(tmp_path)
    fewer = path.with_suffix(".svg").read_text()
    assert svg.count("<use ") - fewer.count("<use ") == 2 + 1


def test_of_a_study_that_measured_nothing_a_picture_is_drawn_without_a_warning(results, tmp_path, recwarn):
    (tmp_path / "results.json").write_text(json.dumps({**results, "measures": {}, "values": {}}))
    *_, path = write_study_files(tmp_path)
    assert path.is_file()
    assert not [str(said.message) for said in recwarn if "layout" in str(said.message)]


def test_a_long_title_is_over_its_panel_and_not_cut_at_the_edge(results):
    many = {f"measure/{n}": {"label": "wrong claims of the chosen answers", "better": "lower"} for n in range(4)}
    known = next(iter(results["measures"].values()))
    values = {"a": dict.fromkeys(many, results["values"]["a"]["m"])}
    figure = _draw(results | {"measures": {name: known | of for name, of in many.items()}, "values": values})
    figure.draw_without_rendering()
    ends = [axes._left_title.get_window_extent().x1 for axes in figure.axes]
    assert len(ends) == 4
    assert max(ends) <= figure.bbox.x1


def test_a_digest_changes_with_what_decides_and_with_nothing_else(tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("1")

    def digest(name="a", about="x", seed=0, scenes=1, fraction=1.0, is_start=False, **options):
        variant = Variant(name, about, {"dataset_name": str(data), **options}, fraction=fraction)
        return digest_trial(variant, seed, StudyEvaluation(scenes=scenes), keeps_model=False, is_start=is_start)

    first = digest()
    assert digest(name="b", about="y") == first
    others = [digest(seed=1), digest(scenes=2), digest(fraction=0.5), digest(beta=0.2), digest(is_start=True)]
    data.write_text("2")
    others.append(digest())
    assert len({first, *others}) == 7
