"""A page says first what it found: sentences and small tables on top, in the words of its readers."""

import json
import re
from pathlib import Path

import pytest

from mmdpo.evaluation.paper_table import PAPER
from mmdpo.evaluation.pictures import know_benchmarks
from mmdpo.evaluation.suite import set_beside_paper
from mmdpo.objective import Objective
from mmdpo.objective.presets import PRESETS
from mmdpo.report.bars import Bar, say_bars
from mmdpo.report.diagnosis import RESULT_SHAPE, make_bars, write_diagnosis
from mmdpo.report.evaluation import Benchmarks
from mmdpo.report.figures import DASHES, FIRST, RUN_COLOURS, SHOWN_PANELS, overlay_panels, panel_svg
from mmdpo.report.labels import label_benchmark, label_logged, label_metric
from mmdpo.report.layout import breakable
from mmdpo.report.page import write_report
from mmdpo.report.quickstart import say_results
from mmdpo.report.reading import Place, fit
from mmdpo.report.study_page import order_variants, say_study
from mmdpo.report.trained import (
    TrainedRun,
    order_runs,
    read_trained,
    samples_section,
    settings_section,
    training_section,
)
from mmdpo.texts import words_not_shared
from mmdpo.training.metrics import metric_names
from tests.unit.report.makers import (
    Page,
    write_all,
    write_diagnosed,
    write_evaluated,
    write_lines,
    write_log,
    write_study,
    write_trained,
)


def read_html(folders, tmp_path, **changes):
    out = write_report(folders, tmp_path / "out" / "page.html", **changes)
    html = out.read_text(encoding="utf-8")
    assert Page(html).unbalanced == []
    return html


def flow(html):
    """Returns the text of a page in its order, without its style and script."""
    text = re.sub(r"<(style|script)>.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", "", text.replace("</", " </")).replace("\N{NO-BREAK SPACE}", " ").split())


def metric(value, low=None, high=None, unit="%", better="lower"):
    return {"value": value, "low": low, "high": high, "n": 3, "unit": unit, "better": better}


def write_scored(folder, benchmark, metrics, **result):
    write_evaluated(folder, benchmark=benchmark, **result)
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": metrics}))
    return folder


AMBER = {"amber/chair": metric(4.25, 4.0, 4.5), "amber/cover": metric(60.0, better="higher")}
AMBER |= {
    f"amber/{part}/accuracy": metric(81, better="higher") for part in ("overall", "existence", "tolerant/overall")
}
MMHAL = {"mmhal/score": metric(3.0, unit="0–6", better="higher")}


def stand_in(rows):
    """Returns a comparison of two runs: differences by metric, each with its better side and interval."""

    def compare(folders, labels):
        base = dict(benchmark="amber", unit="%", run=labels[1], first_value=1.0, value=1.0, items=3, items_needed=9)
        made = [
            base | dict(metric=name, better=better, difference=size, low=low, high=high, standard_error=1.0,
                        excludes_zero=low > 0 or high < 0)
            for name, (better, size, low, high) in rows.items()
        ]  # fmt: skip
        statistics = {"level": 0.95, "resamples": 2000, "seed": 0, "resampled": "image"}
        return {"runs": labels, "rows": made, "notes": [], "missing": [], "statistics": statistics}

    return compare


class TestBenchmarks:
    def test_results_stand_beside_the_papers_rows_first_and_every_metric_is_folded_below(self, tmp_path):
        run = tmp_path / "mine"
        write_scored(run / "amber", "amber", AMBER)
        html = read_html([run], tmp_path, benchmarks=know_benchmarks())
        text = flow(html)
        assert html.index('id="in-short"') < html.index('id="eval-amber"')
        assert text.index("mine: AMBER CHAIR 4.2 %, AMBER Cover 60.0 %") < text.index("LLaVA-v1.5-7B + mDPO")
        top = html[: html.index('id="eval-amber"')]
        assert all(label in top for label in PAPER["1"])
        assert top.index('row">mine<') < top.index("Bunny-v1.0-3B"), "runs before what they are compared with"
        assert "4.2\n[4.0\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}4.5]" in top
        section = html[html.index('id="eval-amber"') :]
        assert re.search(r"<details><summary>Every metric \(5\)</summary>.*?tolerant reading · overall", section, re.S)
        assert section.count(">81.0<") == 3, "even formats: 81.0, not 81"
        assert "amber/overall" not in html
        assert (tmp_path / "out" / "page_files" / "beside_published.csv").read_text().startswith("row,MMHal score")

    def test_a_sentence_counts_what_is_better_worse_and_open_and_no_difference_is_shown_twice(self, tmp_path):
        for name in ("base", "mdpo"):
            write_scored(tmp_path / name, "amber", AMBER)
        rows = {
            "amber/chair": ("lower", -2.0, -3.0, -1.0),
            "amber/cover": ("higher", -7.0, -9.0, -5.0),
            "amber/overall/accuracy": ("higher", 5.0, 4.0, 6.0),
        }
        known = Benchmarks(stand_in(rows), know_benchmarks().main, set_beside_paper)
        html = read_html([tmp_path / "base", tmp_path / "mdpo"], tmp_path, benchmarks=known)
        assert "Against base, mdpo is better on 1 of 2 figures and worse on 1." in flow(html)
        section = html[html.index('id="eval-amber"') :]
        key, _, folded = section.partition("<details>")
        shown = "−2.0 [−3.0\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}−1.0]\N{NO-BREAK SPACE}*"
        assert (key.count(shown), folded.count(shown)) == (1, 1), "once on top, and once among all"
        assert "+5.0" not in key
        assert "+5.0" in folded

    def test_a_benchmark_outside_the_papers_table_has_its_main_metrics_on_top_and_not_again(self, tmp_path):
        metrics = {f"pope/{name}": metric(0.5, unit="share", better="higher") for name in ("random/f1", "macro/f1")}
        write_scored(tmp_path / "mine", "pope", metrics)
        html = read_html([tmp_path / "mine"], tmp_path, benchmarks=know_benchmarks())
        top, _, section = html.partition('id="eval-pope"')
        assert "mine: POPE mean of splits · F1 0.500." in flow(top)
        assert section.count("<table") == 1, "the folded one"
        assert "Beside the paper" not in html

    def test_a_difference_that_cannot_be_told_from_chance_is_no_result(self, tmp_path):
        for name in ("base", "mdpo"):
            write_scored(tmp_path / name, "amber", AMBER)
        known = Benchmarks(stand_in({"amber/chair": ("lower", -2.0, -3.0, 1.0)}), know_benchmarks().main)
        text = flow(read_html([tmp_path / "base", tmp_path / "mdpo"], tmp_path, benchmarks=known))
        assert "Against base, mdpo differs beyond chance on none of 1 figure." in text
        assert "mdpo is better" not in text

    def test_a_sentence_names_the_run_that_each_benchmark_is_compared_with(self, tmp_path):
        """The first run has no result of MMHal-Bench, so that the second is what others differ from there."""
        for name in ("base", "dpo", "mdpo"):
            write_scored(tmp_path / name / "amber", "amber", AMBER)
            if name != "base":
                write_scored(tmp_path / name / "mmhal", "mmhal", MMHAL, made_by={"judge": "J"})
        rows = {"amber": {"amber/chair": ("lower", 2.0, 1.0, 3.0)}, "mmhal": {"mmhal/score": ("higher", 0.5, 0.1, 0.9)}}

        def compare(folders, labels):
            of_each = [stand_in(rows[folders[0].name])(folders, [labels[0], label]) for label in labels[1:]]
            return of_each[0] | {"runs": labels, "rows": [row for of in of_each for row in of["rows"]]}

        known = Benchmarks(compare, know_benchmarks().main, set_beside_paper)
        text = flow(read_html([tmp_path / name for name in ("base", "dpo", "mdpo")], tmp_path, benchmarks=known))
        assert (
            "Against base, dpo is better on 0 of 1 figure and worse on 1; mdpo is better on 0 of 1 figure and worse "
            "on 1. Against dpo, mdpo is better on 1 of 1 figure and worse on 0."
        ) in text

    def test_results_that_cannot_be_set_beside_the_papers_are_shown_alone(self, tmp_path):
        write_scored(tmp_path / "mine" / "mmhal", "mmhal", MMHAL)
        html = read_html([tmp_path / "mine"], tmp_path, benchmarks=know_benchmarks())
        assert "was rated by a judge that is not named" in flow(html)

        def publish(results):
            raise KeyError("visible_difference")

        known = Benchmarks(main=know_benchmarks().main, publish=publish)
        text = flow(read_html([tmp_path / "mine"], tmp_path, benchmarks=known))
        assert "mine: MMHal-Bench score 3.00" in text
        assert "the table of published results: cannot be shown (KeyError" in text

    def test_what_no_run_measured_of_the_papers_columns_is_no_table(self):
        assert set_beside_paper({"mine": {"pope": {"metrics": {"pope/macro/f1": metric(1.0)}}}}) is None


class TestTraining:
    def make(self, tmp_path, **values):
        log = write_log(range(1, 4), **{"rewards/margins": 0.5})
        return {
            name: TrainedRun(name, tmp_path, {}, (*log, {"step": 3, "eval_rewards/accuracies": value}), {})
            for name, value in values.items()
        }

    def test_runs_stand_in_the_order_of_their_result_in_sentence_table_and_legend(self, tmp_path):
        runs = self.make(tmp_path, a=0.5, b=0.875, c=None, d=0.75)
        assert [run.label for run in order_runs(list(runs.values()))] == ["b", "d", "a", "c"]
        section = training_section(list(runs.values()))
        head = section.headline
        assert head.text.replace("\N{NO-BREAK SPACE}", " ") == (
            "4 runs; held-out pair accuracy from 87.5 % (b) to 50.0 % (a)."
        )
        assert head.table.headers[:3] == ("run", "Steps", "Held-out pair accuracy, %")
        assert [row[0] for row in head.table.rows] == ["b", "d", "a", "c"]
        assert [row[1] for row in head.table.rows] == ["3"] * 4
        assert [row[2] for row in head.table.rows] == ["87.5", "75.0", "50.0", "–"]
        assert re.findall(r"</svg>(\w)</label>", section.html) == ["b", "d", "a", "c"]

    def test_no_order_is_claimed_of_runs_on_other_data(self, tmp_path):
        folders = [write_trained(tmp_path / name, dataset_name=name) for name in ("a", "b")]
        text = flow(read_html(folders, tmp_path))
        assert "2 runs; loss of a: 1.960." in text
        assert text.index("were not trained on the same data") < text.index("As the trainers logged it")

    def test_a_few_panels_come_first_and_the_others_are_folded(self):
        log = write_log(range(1, 9), **dict.fromkeys((*FIRST, "rewards/rejected", "rewards/image_3_accuracies"), 0.5))
        panels = overlay_panels({"a": [log], "b": [log]})
        titles = [panel.title for panel in panels]
        assert titles[:2] == ["Held-out pair accuracy", "Pair accuracy"]
        assert "Image accuracy, 3" in titles[SHOWN_PANELS:]
        section = training_section([TrainedRun(name, Path(), {}, tuple(log), {}) for name in "ab"])
        seen, _, folded = section.html.partition("<details>")
        assert seen.count('class="plot"') == SHOWN_PANELS
        assert folded.count('class="plot"') == len(panels) - SHOWN_PANELS

    def test_sixty_runs_have_looks_of_their_own(self):
        logs = {str(number): [write_log([1, 2])] for number in range(len(RUN_COLOURS) * len(DASHES))}
        looks = {(line.colour, str(line.dashes)) for line in overlay_panels(logs)[0].lines}
        assert len(looks) == len(logs)

    def test_a_panel_says_where_its_axes_lie_so_that_values_can_be_read_from_the_lines(self):
        (panel, *_) = overlay_panels({"<b>": [[{"step": 10, "loss": 1.25}, {"step": 30, "loss": 0.5}]]})
        drawn = panel_svg(panel, "p")
        axes = [float(number) for number in re.search(r'data-axes="([^"]*)"', drawn)[1].split()]
        left, right, bottom, top, x0, x1, y0, y1 = axes
        path = re.search(r'id="p-series0">\s*<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)', drawn)
        points = [float(number) for number in path.groups()]
        read = [
            (x0 + (x1 - x0) * (x - left) / (right - left), y0 + (y1 - y0) * (y - bottom) / (top - bottom))
            for x, y in (points[:2], points[2:])
        ]
        assert read[0] == pytest.approx((10, 1.25), abs=1e-3)
        assert read[1] == pytest.approx((30, 0.5), abs=1e-3)
        assert "&lt;b&gt;" in drawn
        assert "<b>" not in drawn

    def test_settings_show_what_differs_inside_a_key_and_versions_that_are_equal_in_a_line(self, tmp_path):
        runs = [
            TrainedRun(name, tmp_path, {"model_init_kwargs": {"dtype": dtype, "same": 1}}, (), {"torch": "2"})
            for name, dtype in (("a", "float32"), ("b", "bfloat16"))
        ]
        html = settings_section(runs).html
        assert 'row">model_<wbr>init_<wbr>kwargs.dtype</th><td>float32</td><td>bfloat16</td>' in html
        assert html.count("<tr>") == 2, "the head and one key"
        assert "All trained with torch 2." in flow(html)

    def test_versions_are_read_from_the_card_where_no_checkpoint_is_left(self, tmp_path):
        folder = write_trained(tmp_path / "run")
        rows = "| package | version |\n| --- | --- |\n| torch | 2.13.0+cpu |\n| mmdpo | 0.2.0 |\n"
        (folder / "README.md").write_text(f"# run\n\n## Versions\n\n{rows}")
        assert read_trained(Place(folder, "run"), []).versions == {"torch": "2.13.0+cpu", "mmdpo": "0.2.0"}

    def test_of_many_runs_the_settings_have_a_row_each(self, tmp_path):
        runs = [TrainedRun(str(n), tmp_path, {"beta": n, "objective": "mdpo"}, (), {}) for n in range(11)]
        html = settings_section(runs).html
        assert '<th scope="col">run</th><th scope="col">beta</th>' in html
        assert html.count('<th scope="row">') == 11


class TestSamples:
    def show(self, tmp_path, **said):
        base = {"id": "s1", "prompt": "<image>\nwhat?", "chosen": "a dog", "rejected": "a cat", "pictures": []}
        rows = {name: tuple({**base, "step": n, "answer": of[n]} for n in range(len(of))) for name, of in said.items()}
        return samples_section([TrainedRun(name, tmp_path, {}, (), {}, of) for name, of in rows.items()]).html

    def test_the_start_is_said_once_and_words_that_not_all_runs_have_are_marked(self, tmp_path):
        html = self.show(tmp_path, one=["a cow", "a red dog"], two=["a cow", "a blue dog"])
        assert flow(html).count("a cow") == 1
        assert 'a <span class="own">red</span> dog' in html
        assert 'a <span class="own">blue</span> dog' in html
        assert "<h3>what?</h3>" in html
        assert html.index("<h4>chosen</h4>") < html.index("<h4>rejected</h4>") < html.index("<dt>before training")

    def test_equal_answers_of_runs_stand_once_under_all_their_names(self, tmp_path):
        html = self.show(tmp_path, one=["a cow", "a dog"], two=["a cow", "a dog"])
        assert "<dt>one, two<br>" in html
        assert 'class="own">marked' in html
        assert html.count('class="own"') == 1

    def test_one_run_is_compared_with_its_start(self, tmp_path):
        html = self.show(tmp_path, one=["a cow", "a cow", "a big dog"])
        assert 'a <span class="own">big dog</span>' in html
        assert "The steps between" in html

    def test_what_an_older_run_did_not_keep_is_a_dash(self, tmp_path):
        row = {"id": "s1", "step": 0, "prompt": "what?", "chosen": "a dog", "answer": "a cow"}
        section = samples_section([TrainedRun("one", tmp_path, {}, (), {}, (row,))])
        assert "| one | 0 | s1 | what? | a dog | – | a cow |" in section.files["samples.md"]


@pytest.mark.parametrize(
    ("text", "others", "marks"),
    [
        ("a red cup", ["a red cup", "a red cup"], []),
        ("a Red cup", ["A red CUP"], []),
        ("a red cup on it", ["a cup"], [(2, 5), (10, 15)]),
        ("a cup", [], []),
        ("", ["a"], []),
    ],
)
def test_words_are_marked_that_others_do_not_have(text, others, marks):
    assert words_not_shared(text, others) == marks


class TestDiagnosis:
    def test_bars_show_every_image_with_its_interval_and_the_numbers_stand_in_words(self, tmp_path):
        folder = write_diagnosed(tmp_path / "diagnosis")
        result = json.loads((folder / "diagnosis.json").read_text())
        names = {"real": "the real image", "corrupted": "the corrupted image", "other": "another's", "none": "no image"}
        result["measures"] = {
            f"accuracy_{key}": metric(50.0 + n, 40.0, 60.0) | {"label": f"pair accuracy, {name}"}
            for n, (key, name) in enumerate(names.items())
        } | {"lost_other": {"label": "lost", "unit": "points", "value": 3.0}}
        (folder / "diagnosis.json").write_text(json.dumps(result))
        above, bars = make_bars(fit(result, RESULT_SHAPE, "", []))
        assert bars == [Bar(name, 50.0 + n, 40.0, 60.0) for n, name in enumerate(names.values())]
        assert "no image 53.0 [40.0" in say_bars(above, bars)
        html = write_diagnosis(folder).read_text()
        assert (
            html.index('class="verdict"')
            < html.index('class="chart"')
            < html.index("<li>few</li>")
            < html.index("<table")
        )
        assert 'aria-label="Pairs whose chosen answer is preferred, %, under: the real image 50.0' in html
        assert all(f"{name}</text>" in html.replace("&#x27;", "'") for name in names.values())

    def test_both_ends_have_a_heading_and_each_pair_says_what_it_needs(self, tmp_path):
        folder = write_diagnosed(tmp_path / "diagnosis")
        rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
        rows[0] |= {
            "margins": {"real": 2.0, "corrupted": -1.0, "other": 0.0, "none": -0.5},
            "other_picture": "pictures/1.png",
        }
        write_lines(folder / "examples.jsonl", rows)
        html = write_diagnosis(folder).read_text()
        text = flow(html)
        assert "Right with its own image; wrong with a corrupted one, another example's, no image." in text.replace(
            "&#39;", "'"
        )
        assert text.index("Pairs that need the image most") < text.index("Pairs that need the image least")
        assert "image: margin +2.00" in text
        assert html.count('<label class="zoom"') == 3, "every picture can be enlarged"

    def test_in_a_report_its_verdict_stands_on_top_under_the_question(self, tmp_path):
        html = read_html([write_diagnosed(tmp_path / "diagnosis"), write_trained(tmp_path / "run")], tmp_path)
        top = html[: html.index('class="verdict"')]
        assert '<h3><a href="#diagnosis-diagnosis">Does the preference depend on the image?</a></h3>' in top
        assert '<p class="lead">It depends on the image.</p>' in top
        assert "Diagnosis: diagnosis" not in html


class TestStudy:
    def make(self, **means):
        measures = {"world/f1": {"label": "F1", "unit": "%", "better": "higher", "digits": 1}}
        measures["pairs/accuracy_other"] = {"label": "other", "unit": "%", "better": "neither", "digits": 1}
        values = {name: {"world/f1": {"mean": mean, "std": None}} for name, mean in means.items()}
        differences = {"mdpo": {"world/f1": {"mean": 1.0, "low": 0.5, "high": 1.5, "holm": 0.01}}}
        return dict(study="s", baseline="dpo", seeds=[0], variants=dict.fromkeys(means, ""), measures=measures,
                    values=values, differences=differences)  # fmt: skip

    def test_variants_stand_after_the_start_in_the_order_of_the_deciding_measure(self):
        results = self.make(dpo=50.0, start=90.0, none=None, mdpo=70.0)
        assert order_variants(results) == ["start", "mdpo", "dpo", "none"]
        said = say_study(results, order_variants(results)).replace("\N{NO-BREAK SPACE}", " ")
        assert said == "Best of 3 variants, 1 seed: F1 70.0 % by mdpo †."

    def test_its_key_columns_stand_on_top_of_the_page(self, tmp_path):
        html = read_html([write_study(tmp_path / "study")], tmp_path)
        top = html[html.index('id="in-short"') : html.index('id="study-study"')]
        assert re.findall(r'<th scope="col">([^<]*)', top) == ["variant", "CHAIR_i (%) ↓", "image gain (nats) ↑"]
        assert top.index("start (before training)") < top.index('row">mdpo')


class TestLabels:
    def test_no_metric_that_any_objective_logs_has_a_raw_name(self):
        for terms in PRESETS.values():
            for name in metric_names(Objective(tuple(terms))):
                for key in (name, f"eval_{name}"):
                    title = label_logged(key).title
                    assert not re.search(r"[/_]", title), (key, title)
                    assert title[0].isupper(), title

    def test_titles_tell_metrics_apart(self):
        for terms in PRESETS.values():
            names = metric_names(Objective(tuple(terms)))
            assert len({label_logged(name).title for name in names}) == len(names)

    def test_no_metric_of_a_benchmark_has_a_raw_name_and_all_are_told_apart(self):
        from mmdpo.benchmarks.tasks import load, names

        titles = [label_benchmark(name) for name in names()]
        assert len(set(titles)) == len(titles)
        assert all(title[0].isupper() and "_" not in title for title in titles)
        for name in names():
            metrics = [metric.name for metric in load(name).all_metrics]
            labels = [label_metric(metric, name) for metric in metrics]
            assert len(set(labels)) == len(labels), name
            assert not any("_" in label for label in labels)

    @pytest.mark.parametrize(
        ("key", "value", "shown"),
        [
            ("rewards/accuracies", 1, "100.0"),
            ("rewards/margins", 2, "2.00"),
            ("step", 80, "80"),
            ("loss", None, "–"),
            ("loss", True, "–"),
            ("unheard_of", 0.5, "0.5"),
        ],
    )
    def test_numbers_of_a_metric_have_one_format(self, key, value, shown):
        assert label_logged(key).show(value) == shown

    def test_names_are_broken_after_strokes_alone_and_stay_text(self):
        assert breakable("mdpo_other_image") == "mdpo_<wbr>other_<wbr>image"
        assert breakable("CHAIR_i <b>") == "CHAIR_i &lt;b&gt;"


def test_what_is_missing_stands_last_and_a_long_list_is_folded(tmp_path):
    folders = write_all(tmp_path / "all")
    (folders[0] / "model.safetensors").unlink()
    page = Page(read_html(folders, tmp_path, benchmarks=know_benchmarks()))
    assert page.text["h2"][0] == "In short"
    assert page.text["h2"][-1] == "What is missing"
    assert page.text["h2"].index("Study: mine") < page.text["h2"].index("Training"), (
        "results before how they came about"
    )


def test_parts_of_one_folder_have_one_place_in_the_menu(tmp_path):
    html = read_html(write_all(tmp_path / "all"), tmp_path)
    menu = html[html.index("<nav") : html.index("</nav>")]
    assert [title for title in re.findall(r'">([^<]*)</a>', menu) if title.startswith(("own:", "quickstart:"))] == [
        "own: Pairs",
        "quickstart: Results",
    ]


def test_a_quickstart_says_who_uses_the_image():
    variants = {"start": {"chair_i": 21.24}, "mdpo": {"chair_i": 6.9, "accuracy_real": 93.75, "accuracy_other": 91.0}}
    assert say_results(variants).replace("\N{NO-BREAK SPACE}", " ") == (
        "Of the objects that captions name, 21.2 % (Start), 6.9 % (mDPO) are not in the scene. "
        "Points of pair accuracy lost with another scene's image: 2.8 (mDPO)."
    )
    assert say_results({"mdpo": {}}) == "Nothing was measured."
