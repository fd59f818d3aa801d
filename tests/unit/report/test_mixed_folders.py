"""The report on any mix of folders: what it finds, what it says of what is missing, and what it refuses to compare."""

import base64
import io
import json
import re
import shutil

import pytest
from PIL import Image

from mmdpo import progress
from mmdpo.data.images import open_image
from mmdpo.report.diagnosis import write_diagnosis
from mmdpo.report.evaluated import LOOKED_AT, ItemPictures, read_evaluated
from mmdpo.report.evaluation import Benchmarks
from mmdpo.report.figures import DASHES, MOST_POINTS, draw_panels, overlay_panels, panel_svg
from mmdpo.report.layout import make_thumbnail, render
from mmdpo.report.page import write_report
from mmdpo.report.reading import Place, ReportError, distinct_labels, find_folders
from mmdpo.report.trained import SHOWN_STEPS, TrainedRun, read_trained, thin, training_section
from mmdpo.tables import Table, show_interval, show_number
from tests.unit.report.makers import Page, drop_own_script, write_diagnosed, write_evaluated, write_log, write_trained


def read_report(folders, tmp_path, **changes):
    out = write_report(folders, tmp_path / "out" / "page.html", **changes)
    page = Page(out.read_text(encoding="utf-8"))
    assert page.unbalanced == []
    return page


class Compared:
    """Stands for the paired differences; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, folders, labels):
        self.asked.append(list(labels))
        row = {"benchmark": "pope", "metric": "pope/chair", "unit": "%", "better": "lower", "run": labels[1]}
        row |= {"first_value": 12.5, "value": 10.5, "difference": -2.0, "low": -3.0, "high": -1.0}
        row |= {"standard_error": 0.5, "excludes_zero": True, "items": 3, "items_needed": 9}
        statistics = {"level": 0.95, "resamples": 2000, "seed": 0, "resampled": "image"}
        return {"runs": labels, "rows": [row], "notes": [], "missing": [], "statistics": statistics}


class TestFolders:
    def test_each_kind_is_known_and_results_inside_a_run_bear_its_name(self, tmp_path, run_dir):
        run = write_trained(tmp_path / "mdpo")
        write_evaluated(run / "eval" / "pope")
        write_evaluated(run / "eval" / "amber", benchmark="amber")
        (tmp_path / "study" / "trials").mkdir(parents=True)
        (tmp_path / "diagnosis").mkdir()
        (tmp_path / "diagnosis" / "diagnosis.json").write_text("{}")
        found = find_folders([run, run_dir, tmp_path / "study", tmp_path / "diagnosis", run])
        assert found.runs == (Place(run, "mdpo"),)
        assert {(place.path.name, place.label) for place in found.evaluations} == {("pope", "mdpo"), ("amber", "mdpo")}
        others = found.quickstarts + found.studies + found.diagnoses
        assert [place.label for place in others] == ["run", "study", "diagnosis"]

    def test_two_results_of_one_benchmark_are_told_apart(self, tmp_path):
        run = write_trained(tmp_path / "mdpo")
        for part in ("first", "second"):
            write_evaluated(run / part / "pope")
        assert [place.label for place in find_folders([run]).evaluations] == ["mdpo/first", "mdpo/second"]

    def test_folders_whose_names_give_files_one_name_have_files_of_their_own(self, tmp_path):
        folders = [write_diagnosed(tmp_path / name) for name in ("a b", "a-b")]
        html = write_report(folders, tmp_path / "out" / "page.html").read_text(encoding="utf-8")
        ids = {f"diagnosis-{name}" for name in ("a-b", "a-b-2")}
        assert all(f'id="{name}"' in html for name in ids)
        written = {path.stem for path in (tmp_path / "out" / "page_files").iterdir()}
        assert ids <= {stem.split(".")[0] for stem in written}, written

    def test_labels_are_as_short_as_they_can_be(self, tmp_path):
        paths = [tmp_path / name for name in ("a/run", "b/run", "c/other")]
        assert distinct_labels(paths) == ["a/run", "b/run", "c/other"]
        assert distinct_labels(paths[1:]) == ["run", "other"]

    def test_a_folder_of_no_kind_names_what_was_looked_for(self, tmp_path):
        with pytest.raises(ReportError, match=r"recipe.yaml or trainer_state.json .*result.json .*diagnosis.json"):
            find_folders([tmp_path])
        with pytest.raises(ReportError, match="absent: no such folder"):
            find_folders([tmp_path / "absent"])


class TestMissing:
    def test_a_run_that_died_is_reported_as_far_as_it_came(self, tmp_path):
        died = write_trained(tmp_path / "died")
        (died / "model.safetensors").unlink()
        (died / "trainer_state.json").write_text('{"log_history": [{"st')
        for step in (20, 100):
            (died / f"checkpoint-{step}").mkdir()
            log = {"log_history": write_log(range(10, step + 1, 10))}
            (died / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(log))
        (died / "checkpoint-100" / "checkpoint.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}}))
        run = read_trained(Place(died, "died"), [])
        assert [record["step"] for record in run.history] == list(range(10, 101, 10)), "100 comes behind 20"
        assert run.versions == {"torch": "2.13.0"}
        page = read_report([died, write_trained(tmp_path / "whole")], tmp_path)
        for said in (
            "What is missing",
            "died: trainer_state.json is cut short or damaged",
            "died: the curves end at step 100, with checkpoint-100",
            "died: no model was saved",
        ):
            assert said in page.all_text
        assert "whole: " not in page.all_text
        assert "Gradient norm" in page.all_text

    def test_damaged_files_leave_the_rest_on_the_page(self, tmp_path, run_dir):
        run = write_trained(tmp_path / "mdpo")
        (run / "recipe.yaml").write_text("objective: [")
        broken = write_evaluated(run / "eval" / "pope")
        (broken / "result.json").write_text('{"benchmark": "po')
        with (broken / "scores.jsonl").open("a") as file:
            file.write('{"id": "q9", "ima')
        (run_dir / "results.json").write_text("{")
        study = tmp_path / "study"
        (study / "trials" / "dpo" / "seed-0").mkdir(parents=True)
        (study / "trials" / "dpo" / "seed-0" / "trial.json").write_text(
            json.dumps({"metrics": {"world/chair_i": 4.25}})
        )
        (study / "results.json").write_text("{")
        diagnosis = tmp_path / "diagnosis"
        diagnosis.mkdir()
        (diagnosis / "diagnosis.json").write_text("{")
        page = read_report([run, run_dir, study, diagnosis], tmp_path)
        for said in (
            "mdpo: recipe.yaml cannot be read",
            "result.json cannot be read",
            "1 lines of scores.jsonl are damaged",
            "run: cannot be read",
            "study: the study has no results.json that can be read",
            "diagnosis: cannot be read",
            "4.25",
            "a cup",
        ):
            assert said in page.all_text

    def test_an_unfinished_study_lists_its_trials_in_the_order_of_its_file(self, tmp_path):
        study = tmp_path / "study"
        for name in ("alpha", "start", "zeta"):
            (study / "trials" / name / "seed-0").mkdir(parents=True)
            (study / "trials" / name / "seed-0" / "trial.json").write_text(json.dumps({"metrics": {"m": 1}}))
        (study / "study.yaml").write_text("variants: [{name: zeta}, {name: unbegun}, {name: alpha}]")
        text = read_report([study], tmp_path).all_text
        places = [text.index(f"{name}, seed 0") for name in ("start", "zeta", "alpha")]
        assert places == sorted(places)
        assert "unbegun, seed" not in text

    def test_results_of_different_benchmarks_that_share_none_lack_nothing(self, tmp_path):
        folders = [write_evaluated(tmp_path / name, benchmark=name) for name in ("pope", "amber", "mmhal")]
        text = read_report(folders, tmp_path).all_text
        assert "no result of" not in text
        assert "What is missing" not in text

    def test_a_run_lacks_what_one_has_that_shares_a_benchmark_with_it_and_no_more(self, tmp_path):
        for run, benchmarks in {"a": ["pope", "amber"], "b": ["pope"], "c": ["mmhal"]}.items():
            for benchmark in benchmarks:
                write_evaluated(tmp_path / run / benchmark, benchmark=benchmark)
        text = read_report([tmp_path / run for run in "abc"], tmp_path).all_text
        assert "b: no result of amber" in text
        assert text.count("no result of") == 1

    def test_runs_and_studies_inside_a_folder_are_named_and_left_out(self, tmp_path):
        runs = tmp_path / "all"
        write_trained(runs / "mine" / "first")
        write_evaluated(runs / "scored")
        (runs / "theirs" / "trials").mkdir(parents=True)
        (runs / "a" / "b" / "c" / "d").mkdir(parents=True)
        found = find_folders([runs])
        assert [place.path.name for place in found.evaluations] == ["scored"]
        said = "\n".join(found.left_out)
        assert "all/mine/first: a run of mmdpo train inside all; name its folder" in said
        assert "all/theirs: a study inside all" in said
        assert "holds folders below 3 levels, not looked into" in said
        assert "all/mine/first: a run" in read_report([runs], tmp_path).all_text

    def test_what_is_read_and_drawn_is_counted_on_a_terminal(self, tmp_path, monkeypatch):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(progress, "PATIENCE", 0)
        write_report([write_trained(tmp_path / "run"), write_evaluated(tmp_path / "pope")], tmp_path / "report.html")
        units = re.findall(r"0/1 \[.*?(run|result|benchmark)/s\]", terminal.getvalue())
        assert list(dict.fromkeys(units)) == ["run", "result", "benchmark"]

    def test_a_folder_of_many_runs_names_three_and_counts_the_others(self, tmp_path):
        for number in range(9):
            write_trained(tmp_path / "all" / f"run-{number}")
        with pytest.raises(ReportError, match=r"run-2: a run of mmdpo train inside all; .*; and 6 more$") as raised:
            find_folders([tmp_path / "all"])
        assert "run-3" not in str(raised.value)

    def test_a_run_without_a_result_that_others_have_is_named(self, tmp_path):
        first, second = (write_trained(tmp_path / name) for name in ("first", "second"))
        write_evaluated(first / "pope")
        write_evaluated(first / "amber", benchmark="amber")
        write_evaluated(second / "pope")
        assert "second: no result of amber" in read_report([first, second], tmp_path).all_text


class TestDifferences:
    def test_they_are_taken_within_a_benchmark_on_the_same_data_alone(self, tmp_path):
        folders = {
            "first": {},
            "same": {},
            "moved": {"image": "other-{}.jpg"},
            "truth": {"made_by": {"ground_truth": "another"}},
        }
        for name, changes in folders.items():
            write_evaluated(tmp_path / name, **changes)
        write_evaluated(tmp_path / "amber", benchmark="amber")
        compare = Compared()
        page = read_report([tmp_path / name for name in (*folders, "amber")], tmp_path, benchmarks=Benchmarks(compare))
        assert compare.asked == [["first", "same"]]
        assert page.all_text.count("not the same data, so there is no difference between these runs") == 2
        assert "item q0 has another image in first than in moved" in page.all_text
        assert "the ground truth is not named in first and another in truth" in page.all_text
        assert "12.5 [10.0 … 15.0] −2.0 [−3.0 … −1.0] *" in page.all_text.replace("\N{NO-BREAK SPACE}", " ")
        beside = {path.name for path in (tmp_path / "out" / "page_files").iterdir()}
        assert {"eval-pope_differences.png", "eval-pope_differences.svg", "eval-pope_differences.md"} <= beside

    def test_two_results_of_one_benchmark_in_one_folder_are_two_runs(self, tmp_path):
        """A difference stands in the cell of its own run, and each answer in its own column."""
        for name, answer in (("plain", "a cup"), ("short", "a fork")):
            write_evaluated(tmp_path / "mdpo" / name, answer=answer)
        write_evaluated(tmp_path / "mdpo" / "amber", benchmark="amber")
        write_trained(tmp_path / "mdpo")
        compare = Compared()
        text = read_report([tmp_path / "mdpo"], tmp_path, benchmarks=Benchmarks(compare)).all_text
        assert compare.asked == [["mdpo/plain", "mdpo/short"]]
        assert text.count("−2.0 [−3.0 …") == 2, "once in each table"
        assert "a cup" in text
        assert "no result of" not in text

    def test_results_of_which_no_first_items_are_the_same_are_compared_all_the_same(self, tmp_path):
        for name, start in (("all", 0), ("last", LOOKED_AT)):
            folder = write_evaluated(tmp_path / name)
            rows = [{"id": f"q{n}", "image": "", "counts": {}, "reason": {}} for n in range(start, LOOKED_AT + 3)]
            (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        compare = Compared()
        text = read_report([tmp_path / "all", tmp_path / "last"], tmp_path, benchmarks=Benchmarks(compare)).all_text
        assert compare.asked == [["all", "last"]]
        assert "share no item" not in text

    def test_what_cannot_be_compared_is_a_note(self, tmp_path):
        def compare(folders, labels):
            raise ValueError("no metric that both have")

        folders = [write_evaluated(tmp_path / name) for name in ("first", "second")]
        assert (
            "no differences: no metric that both have"
            in read_report(folders, tmp_path, benchmarks=Benchmarks(compare)).all_text
        )

    def test_runs_trained_on_other_data_are_named(self, tmp_path):
        folders = [write_trained(tmp_path / "a"), write_trained(tmp_path / "b", dataset_name="others.json")]
        said = read_report(folders, tmp_path).all_text
        assert "a and b were not trained on the same data (dataset_name pairs.json and others.json)" in said
        assert "were not trained" not in read_report([folders[0], write_trained(tmp_path / "c")], tmp_path).all_text


class TestExamples:
    def test_wrong_words_are_marked_and_the_corrupted_image_stands_beside_the_original(self, tmp_path):
        write_evaluated(tmp_path / "right")
        write_evaluated(tmp_path / "wrong", flagged=["fork"], answer="a cup, a fork")
        grey, black = (Image.new("RGB", (400, 300), colour) for colour in ("grey", "black"))
        pictures = ItemPictures(lambda *item: grey, lambda picture, item_id: black)
        page = read_report([tmp_path / "right", tmp_path / "wrong"], tmp_path, pictures=pictures)
        assert page.text["mark"] == ["marked", "fork", "fork", "fork"]
        assert len({link for link in page.links if link.startswith("data:image/jpeg")}) == 2
        assert page.text["figcaption"] == ["image", "corrupted"] * 3
        assert "the picture is missing" in read_report([tmp_path / "right"], tmp_path).all_text

    def test_an_answer_that_a_judge_rated_shows_rating_reasons_and_reference_and_no_word_of_flags(self, tmp_path):
        for name, ratings in {"base": (0, 0), "mdpo": (5, 5), "odd": (0, 4), "none": (0, None)}.items():
            folder = write_evaluated(tmp_path / name, benchmark="mmhal", answer="A red cup.")
            reason = {"official": ratings[0], "tolerant": ratings[1], "reply": f"Reasons of {name}."}
            reason["reference"] = "A blue cup."
            unscored = "" if ratings[1] is not None else "the judge gave no reply"
            row = {"image": "a.jpg", "counts": {}, "reason": reason, "unscored": unscored}
            (folder / "scores.jsonl").write_text("".join(json.dumps(row | {"id": f"q{n}"}) + "\n" for n in range(3)))
        page = read_report([tmp_path / name for name in ("base", "mdpo", "odd", "none")], tmp_path)
        html = (tmp_path / "out" / "page.html").read_text()
        text = " ".join(re.sub("<[^>]+>", " ", html).replace("&#39;", "'").split())
        for said in (
            "rated 0 of 6 by the judge",
            "rated 5 of 6 by the judge",
            "rated 0 of 6 by the judge as the official rule reads it, 4 as it is meant",
            "not scored: the judge gave no reply",
            "reference answer A blue cup.",
            "Reasons of base.",
            "The judge's reasons",
        ):
            assert said in text, said
        assert "nothing hallucinated" not in page.all_text
        assert "mark" not in page.text
        assert "below 3 it found something that is not there" in page.all_text

    def test_a_verdict_of_true_or_false_is_no_rating(self, tmp_path):
        folder = write_evaluated(tmp_path / "mmvp", benchmark="mmvp")
        reason = {"read_as": "a", "label": "a", "verdicts": {"letter": True, "official": True, "tolerant": True}}
        rows = [{"id": f"q{n}", "image": "a.jpg", "counts": {}, "reason": reason} for n in range(3)]
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = read_evaluated(Place(folder, "mmvp"), [])
        assert [(item.is_wrong, item.rating) for item in run.items.values()] == [(False, None)] * 3
        assert "of 6 by the judge" not in read_report([folder], tmp_path).all_text

    def test_nothing_is_said_of_words_where_a_benchmark_flags_none(self, tmp_path):
        folder = write_evaluated(tmp_path / "pope")
        reason = {"read_as": "yes", "label": "no"}
        rows = [{"id": f"q{n}", "image": "a.jpg", "counts": {}, "reason": reason} for n in range(3)]
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        page = read_report([folder], tmp_path)
        assert "read as yes; right is no" in page.all_text
        assert "nothing hallucinated" not in page.all_text
        assert "nothing hallucinated" in read_report([write_evaluated(tmp_path / "words")], tmp_path).all_text

    def test_text_of_a_run_stays_text_and_pictures_outside_it_stay_there(self, tmp_path):
        hostile = "<script>alert('$x')</script>\""
        Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
        run = write_trained(tmp_path / "mdpo", note=hostile)
        row = {"step": 0, "id": hostile, "prompt": hostile, "chosen": hostile, "answer": hostile}
        (run / "sample_answers.jsonl").write_text(json.dumps(row | {"pictures": ["../secret.png"]}) + "\n")
        write_evaluated(run / "eval", answer=hostile, partial_because=[hostile])
        out = write_report([run], tmp_path / "page.html")
        html = out.read_text(encoding="utf-8")
        assert "<script" not in drop_own_script(html)
        assert "data:image" not in html
        page = Page(html)
        assert page.unbalanced == []
        assert page.all_text.count(hostile) >= 8

    def test_of_many_steps_the_first_the_last_and_some_between_are_shown(self):
        rows = [{"step": step} for step in range(0, 1010, 10)]
        shown = [row["step"] for row in thin(rows)]
        assert len(shown) == SHOWN_STEPS
        assert (shown[0], shown[-1]) == (0, 1000)
        assert thin(rows[:3]) == rows[:3]


class TestStudiesAndDiagnoses:
    def test_a_study_shows_means_differences_curves_by_variant_and_what_is_missing(self, tmp_path):
        def value(mean, **changes):
            return {"mean": mean, "std": 1.25, "low": mean - 1, "high": mean + 1, "n": 2, "by_seed": {}, **changes}

        folder = tmp_path / "study"
        for variant in ("dpo", "mdpo"):
            for seed in (0, 1):
                trial = write_trained(folder / "trials" / variant / f"seed-{seed}", steps=range(1, 4 + seed))
                (trial / "trial.json").write_text("{}")
                write_evaluated(trial / "world", benchmark="world", flagged=["cup"] if variant == "dpo" else [])
                (trial / "world" / "result.json").unlink()
        measure = {"label": "CHAIR_i", "unit": "%", "better": "lower", "digits": 1}
        results = dict(
            study="mine",
            about="what it asks",
            command="mmdpo study mine",
            seeds=[0, 1],
            baseline="dpo",
            variants={"dpo": "", "mdpo": "the method"},
            measures={"world/chair_i": measure},
            values={"dpo": {"world/chair_i": value(8.0)}, "mdpo": {"world/chair_i": value(5.0, std=None)}},
            differences={"mdpo": {"world/chair_i": value(-3.0)}},
            missing=[{"variant": "mdpo", "seed": 7, "error": "it blew up"}],
            statistics="by seed",
            notes=["a note"],
            trial_seconds=3.0,
            versions={"torch": "2.13.0"},
        )
        (folder / "results.json").write_text(json.dumps(results))
        page = read_report([folder], tmp_path)
        for said in (
            "what it asks", "8.0 ± 1.2", "study: mdpo, seed 7: it blew up", "a note", "the method",
            "torch 2.13.0", "the difference to dpo", "its 95 % interval: by seed.", "CHAIR_i (%) ↓",
        ):  # fmt: skip
            assert said in page.all_text.replace("\N{NO-BREAK SPACE}", " ")
        assert "−3.0 [−4.0 … −2.0]" in page.all_text.replace("\N{NO-BREAK SPACE}", " ")
        assert page.text["mark"] == ["marked", "cup", "cup", "cup"], "once for each item, though there are two seeds"
        html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
        assert "band-series0" in html, "seeds are a band"
        shutil.rmtree(folder / "trials" / "mdpo" / "seed-0")
        page = read_report([folder], tmp_path)
        assert page.text["mark"] == ["marked", "cup", "cup", "cup"]
        answers = (tmp_path / "out" / "page.html").read_text(encoding="utf-8").partition("<h3>Answers</h3>")[2]
        assert "<dt>mdpo</dt>" in answers, "of the seed that both have"
        beside = {path.name for path in (tmp_path / "out" / "page_files").iterdir()}
        assert {"study-study_curves.svg", "study-study.csv", "study-study.md"} <= beside

    def test_a_diagnosis_shows_its_verdict_measures_and_pairs_of_both_ends(self, tmp_path):
        folder = tmp_path / "diagnosis"
        (folder / "pictures").mkdir(parents=True)
        measure = {"label": "pair accuracy", "unit": "%", "value": 90.0, "low": 80.0, "high": 95.5, "n": 20}
        result = {
            "kind": "model",
            "pairs": 20,
            "measures": {"accuracy_real": measure},
            "verdict": {"depends": True, "text": "It depends on the image."},
            "notes": ["few"],
            "left_out": [],
            "options": {"model": "m", "adapter": None, "reference": None, "dataset": "d"},
            "versions": {"torch": "2.13.0"},
        }
        (folder / "diagnosis.json").write_text(json.dumps(result))
        with (folder / "examples.jsonl").open("w") as file:
            for rank in range(1, 21):
                pair = {"rank": rank, "id": f"pair-{rank}", "prompt": "p", "chosen": "c", "rejected": "r"}
                pair |= {"margins": {"real": 1.5}, "gains": {"chosen": -0.25}}
                if rank in (1, 20):
                    Image.new("RGB", (8, 8)).save(folder / "pictures" / f"{rank}.png")
                    pair |= {"picture": f"pictures/{rank}.png", "corrupted_picture": "pictures/gone.png"}
                file.write(json.dumps(pair) + "\n")
        page = read_report([folder], tmp_path)
        for said in (
            "It depends on the image.",
            "pair pair-1: p",
            "1 of 20",
            "20 of 20",
            "real +1.50",
            "chosen −0.25",
            "few",
        ):
            assert said in page.all_text
        assert "80.0 … 95.5" in page.all_text.replace("\N{NO-BREAK SPACE}", " ")
        assert "pair-2 " not in page.all_text
        assert page.all_text.count("corrupted: the picture is missing") == 2

    def test_two_diagnoses_in_one_folder_have_files_and_sections_of_their_own(self, tmp_path):
        for name in ("of_model", "模型甲", "模型乙"):
            write_diagnosed(tmp_path / "mdpo" / name)
        page = read_report([tmp_path / "mdpo"], tmp_path)
        html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
        ids = re.findall(r'\bid="([^"]*)"', html)
        assert len(set(ids)) == len(ids) > 3
        beside = {path.name for path in (tmp_path / "out" / "page_files").glob("diagnosis-*.csv")}
        assert {f"diagnosis-mdpo-{name}.csv" for name in ("of_model", "模型甲", "模型乙")} <= beside
        assert "(mdpo/模型甲)" in page.all_text

    def test_a_study_of_one_seed_speaks_of_no_spread_and_no_interval_and_every_column_is_in_a_narrow_table(
        self, tmp_path
    ):
        keys = [
            "world/chair_i",
            "world/cover",
            "pairs/accuracy_real",
            "pairs/accuracy_other",
            "pairs/image_gain",
            "time/train",
        ]
        measures = {key: {"label": key, "unit": "%", "better": "neither", "digits": 1} for key in keys}
        value = {
            "mean": 3.0,
            "std": None,
            "low": None,
            "high": None,
            "n": 1,
            "by_seed": {"7": 3.0},
            "p": None,
            "holm": None,
        }
        variants = ("start", "dpo", "mdpo")
        results = dict(
            study="s", about="", command="", seeds=[7], baseline="dpo", variants=dict.fromkeys(variants, ""),
            measures=measures, values={name: dict.fromkeys(keys, value) for name in variants},
            differences={name: dict.fromkeys(keys, value) for name in ("start", "mdpo")}, missing=[], notes=[],
            statistics="95 % intervals over seeds", trial_seconds=1.0, versions={},
        )  # fmt: skip
        folder = tmp_path / "study"
        (folder / "trials").mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        page = read_report([folder], tmp_path)
        assert "Values with the seed 7 alone" in page.all_text
        for word in ("±", "standard deviation", "95 %"):
            assert word not in page.all_text
            assert word not in (tmp_path / "out" / "page_files" / "study-study.md").read_text()
        assert page.text["h4"] == ["Captions of test scenes", "Preferences on held-out pairs"]
        assert "Time" in page.text["summary"]
        html = (tmp_path / "out" / "page.html").read_text()
        assert [table.count('<th scope="col">') for table in html.split("<table")[1:]] == [6, 3, 4, 2]
        assert page.text["th"].count("start (before training)") == 4

    def test_a_difference_that_stays_clear_among_many_bears_a_mark_and_the_others_none(self, tmp_path):
        measures = {f"world/{name}": {"label": name, "unit": "%", "better": "lower", "digits": 1} for name in "ab"}
        value = {"mean": -3.0, "std": 1.0, "low": -4.0, "high": -2.0, "n": 5, "by_seed": {}}
        of = {"world/a": {**value, "p": 0.001, "holm": 0.002}, "world/b": {**value, "p": 0.04, "holm": 0.08}}
        results = dict(
            study="s", about="", command="", seeds=[0, 1, 2], baseline="dpo", variants={"dpo": "", "mdpo": ""},
            measures=measures, values={}, differences={"mdpo": of}, missing=[], notes=[], statistics="by seed",
            trial_seconds=1.0, versions={},
        )  # fmt: skip
        folder = tmp_path / "study"
        (folder / "trials").mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        text = read_report([folder], tmp_path).all_text.replace("\N{NO-BREAK SPACE}", " ")
        assert text.count("−3.0 [−4.0 … −2.0] †") == 1
        assert text.count("−3.0 [−4.0 … −2.0]") == 2
        assert "† stands after the 1 of 2 differences" in text

    def test_a_verdict_stands_first_and_large(self, tmp_path):
        measure = {"label": "pair accuracy, the real image", "unit": "%", "value": 100.0, "low": 100.0, "high": 100.0}
        other = {**measure, "label": "pair accuracy, another example's image", "value": 48.0, "low": 40.0, "high": 56.0}
        result = {
            "kind": "model", "pairs": 2, "measures": {"accuracy_real": measure, "accuracy_other": other},
            "verdict": {"text": "It depends."}, "options": {"dataset": "d"},
        }  # fmt: skip
        folder = tmp_path / "diagnosis"
        (folder / "pictures").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "pictures" / "1.png")
        pair = {"rank": 1, "id": "16", "source": "pairs.jsonl, row 17", "prompt": "<image>what is\n there?"}
        pair |= {"picture": "pictures/1.png", "other_picture": "pictures/1.png"}
        (folder / "diagnosis.json").write_text(json.dumps(result))
        (folder / "examples.jsonl").write_text(json.dumps(pair) + "\n")
        html = write_diagnosis(folder).read_text()
        page = Page(html)
        assert html.index('<p class="verdict">It depends.</p>') < html.index("<svg") < html.index("<table")
        assert "pairs.jsonl, row 17: what is there?" in page.text["h3"]
        assert "<image>" not in page.all_text
        assert "100.0 … 100.0" in page.all_text.replace("\N{NO-BREAK SPACE}", " ")
        assert page.text["figcaption"] == ["image", "another example's"]
        assert "mmdpo report" not in page.text["h1"]


class TestCurves:
    @pytest.fixture
    def blank_figures(self):
        """None is: they are looked at here."""

    def test_ten_runs_share_a_legend_and_no_two_look_alike(self, tmp_path):
        logs = {f"run {n}": tuple(write_log(range(1, 40), **{"rewards/chosen": n})) for n in range(10)}
        section = training_section([TrainedRun(name, tmp_path, {}, log, {}) for name, log in logs.items()])
        panels = section.curves.panels
        assert [panel.title for panel in panels] == ["Reward of chosen", "Loss: image term", "Gradient norm"]
        looks = {(line.colour, str(line.dashes)) for line in panels[0].lines}
        assert len(looks) == 10
        assert len({str(line.dashes) for line in panels[0].lines}) == len(DASHES)
        page = render("page.html", title="", summary="", sections=[section])
        for place in range(10):
            assert section.html.count(f'-series{place}"') == len(panels), "one line in each panel"
            rule = f'#training-curves:has(#training-curves-pick{place}:not(:checked)) [id$="-series{place}"]'
            assert rule in page, "its box takes it out"
        swatches = re.findall(r'stroke="(#\w+)" stroke-width="2.4" stroke-dasharray="([^"]*)"', section.html)
        assert len(set(swatches)) == 10, "nor in the legend"
        path = draw_panels(panels, tmp_path / "curves.png")
        assert path.with_suffix(".svg").read_text().count("run 7") == 1, "the legend of the sheet"

    def test_the_title_of_a_panel_has_its_place_whatever_its_values(self):
        """A power of ten stands above the axis, too."""
        drawn = [
            panel_svg(overlay_panels({"a": [[{"step": step, "loss": step * size} for step in (1, 2)]]})[0], "p")
            for size in (1.0, 1e-6, 1e9)
        ]
        titles = [re.search(r"<text([^>]*)>Loss</text>", svg)[1] for svg in drawn]
        assert len(set(titles)) == 1
        assert "1e−6" in drawn[1]

    def test_a_long_log_is_drawn_as_means_over_stretches(self):
        log = [{"step": step, "grad_norm": float(step % 2)} for step in range(5000)]
        ((line,),) = [panel.lines for panel in overlay_panels({"long": [log]})]
        assert len(line.steps) <= MOST_POINTS
        assert all(value == pytest.approx(0.5, abs=0.05) for value in line.values)
        assert line.steps[0] == 10

    def test_repetitions_are_a_mean_in_a_band(self):
        logs = [[{"step": 1, "loss": value}, {"step": 2, "loss": 4.0}] for value in (1.0, 2.0, 6.0)]
        (panel,) = overlay_panels({"mdpo": logs, "dpo": logs[:1]})
        assert (panel.lines[0].values, panel.lines[0].low, panel.lines[0].high) == ((3.0, 4.0), (1.0, 4.0), (6.0, 4.0))
        assert panel.lines[1].low == ()

    def test_what_is_no_number_is_left_out(self):
        (panel,) = overlay_panels(
            {"a": [[{"step": 1, "loss": None}, {"step": 2, "loss": "x"}, {"step": 3, "loss": 1}]]}
        )
        assert panel.lines[0].steps == (3,)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (show_number(15000.0), "15,000"),
        (show_number(-0.00001, 2, signed=True), "0.00"),
        (show_number(0.123456), "0.1235"),
        (show_number(None), "–"),
        (show_number(float("nan")), "nan"),
        (show_interval(-1.5, -2.0, None, 1), "−1.5"),
        (show_interval(1.5, -2.0, 3.0, 1, signed=True), "+1.5 [−2.0\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}3.0]"),
    ],
)
def test_numbers_are_shown_with_true_signs(shown, text):
    assert shown == text


def test_a_table_keeps_what_is_missing_missing():
    grid = Table(("run", "x|y"), (("a", "–"),), "Title", ({"run": "a", "x": None}, {"run": "b", "y": 0.1}))
    assert grid.markdown() == "**Title**\n\n| run | x\\|y |\n| --- | ---: |\n| a | – |\n"
    assert grid.csv() == "run,x,y\na,,\nb,,0.1\n"


@pytest.mark.parametrize("is_encoded", [False, True], ids=["file", "bytes"])
@pytest.mark.parametrize(
    ("name", "mode"), [("on_its_side.jpg", "RGB"), ("see_through.png", "RGBA"), ("x_ray.png", "I;16")]
)
def test_a_picture_is_shown_as_training_sees_it(name, mode, is_encoded, tmp_path):
    picture = Image.new(mode, (60, 40), {"RGB": "navy", "RGBA": (255, 0, 0, 0), "I;16": 30_000}[mode])
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "RGB" else 1  # a telephone held upright
    picture.save(tmp_path / name, exif=exif)
    source = (tmp_path / name).read_bytes() if is_encoded else tmp_path / name
    uri = make_thumbnail(source).uri
    shown, seen = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), open_image(source)
    assert shown.size == seen.size == ((40, 60) if mode == "RGB" else (60, 40))
    assert shown.convert("RGB").getpixel((20, 20)) == pytest.approx(seen.getpixel((20, 20)), abs=3)


def test_large_pictures_are_made_small_and_small_ones_keep_their_pixels(tmp_path):
    Image.effect_noise((3000, 2000), 80).convert("RGB").save(tmp_path / "large.png")
    Image.new("RGB", (48, 48), "red").save(tmp_path / "small.png")
    large, small = (make_thumbnail(tmp_path / f"{name}.png") for name in ("large", "small"))
    assert large.uri.startswith("data:image/jpeg")
    assert len(large.uri) < 120_000
    assert small.is_small
    assert small.uri.startswith("data:image/png")
    assert "the picture is missing" in make_thumbnail(tmp_path / "gone.png").why
