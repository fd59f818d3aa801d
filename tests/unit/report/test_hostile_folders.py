"""Folders that a stranger wrote: what is in them is text and data, whatever it says, and one bad value costs itself."""

import csv
import io
import json
import os
import random
import time
import xml.etree.ElementTree as ET

import pytest
import yaml
from PIL import Image
from rich.console import Console

from mmdpo.evaluation.compare import compare_runs, write_comparison
from mmdpo.evaluation.pictures import MOST_SCENES, find_picture, know_benchmarks, make_pictures
from mmdpo.files import Unshown, UnusableFileError, clean, find_inside, read_json, read_yaml
from mmdpo.report.comparison import csv_comparison, print_comparison
from mmdpo.report.diagnosis import write_diagnosis
from mmdpo.report.layout import MOST_PIXELS, make_thumbnail
from mmdpo.report.page import write_report
from mmdpo.report.quickstart import results_table, write_quickstart
from mmdpo.report.reading import fit
from mmdpo.report.study import print_study, read_study_results, study_csv, write_study_files
from mmdpo.tables import csv_text
from mmdpo.world import SMALL
from tests.unit.report.makers import (
    Page,
    drop_own_script,
    write_all,
    write_diagnosed,
    write_evaluated,
    write_run,
    write_study,
    write_trained,
)

PAYLOADS = (
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "[/bold][link=file:///etc]x[/link]",
    "\x1b]0;owned\x07\x1b[2J\x9b31m",
    "a\x00b\x08c\ud800d\ufffee",
    "=HYPERLINK(1)",
    "${title} $x %s {0} {scenes}",
    "| a | b |\n| - |",
)
HOSTILE = " ".join(PAYLOADS)
CONTROLS = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))]

LEGEND = len(SMALL.objects)
"""Pictures of a quickstart's legend."""


def spoil(value, to):
    """Returns data with every text replaced, keys that are names of the writer's choosing too."""
    if isinstance(value, str):
        return to
    if isinstance(value, list):
        return [spoil(inner, to) for inner in value]
    if isinstance(value, dict):
        return {key: spoil(inner, to) for key, inner in value.items()}
    return value


KEPT = ("better", "kind", "benchmark", "picture", "image", "corrupted_image", "pictures", "baseline", "id")
"""Keys whose texts are left: what they decide would hide the others."""


def spoil_file(path, to):
    def change(value):
        if isinstance(value, dict):
            return {
                k: v if k in KEPT else change(v) if isinstance(v, dict | list) else spoil(v, to)
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [change(inner) if isinstance(inner, dict | list) else spoil(inner, to) for inner in value]
        return value

    if path.suffix == ".jsonl":
        lines = [json.dumps(change(json.loads(line))) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{line}\n" for line in lines))
    else:
        content = change(json.loads(path.read_text()))
        for part in ("variants", "values", "differences", "made_by", "notes", "versions"):
            if isinstance(content, dict) and isinstance(content.get(part), dict) and path.name != "checkpoint.json":
                content[part] = {**content[part], to: next(iter(content[part].values()), {})}
        path.write_text(json.dumps(content))


def check_text(text):
    """Asserts that no control character is in a text, and that it can be encoded."""
    assert not [character for character in CONTROLS if character in text]
    text.encode()


def report_on(folders, tmp_path, **changes):
    out = write_report(folders, tmp_path / "out" / "page.html", **changes)
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert page.unbalanced == []
    return html, page


class TestText:
    @pytest.fixture(scope="class")
    def spoilt(self, tmp_path_factory):
        """The page about folders of every kind whose texts all are hostile."""
        root = tmp_path_factory.mktemp("spoilt")
        folders = write_all(root)
        for path in (path for folder in folders for path in sorted(folder.rglob("*.json*"))):
            spoil_file(path, HOSTILE)
        (folders[0] / "recipe.yaml").write_text(yaml.safe_dump({"objective": HOSTILE, HOSTILE: [HOSTILE]}))
        odd = root / "[red]\x1b[31m<b>=1"
        folders[0].rename(odd)
        html, page = report_on([odd, *folders[1:]], root)
        return root, html, page

    def test_no_section_makes_markup_of_it_and_none_is_lost(self, spoilt):
        _, html, page = spoilt
        assert "<script" not in drop_own_script(html)
        assert "onerror=alert" not in html.replace("&lt;img src=x onerror=alert", "")
        assert not [link for link in page.links if not link.startswith(("#", "data:image/"))]
        check_text(html)
        assert "cannot be shown" not in page.all_text
        for section in (
            "Training",
            "Evaluation: POPE",
            "Evaluation: MMHal-Bench",
            "Does the preference depend on the image?",
            "Study:",
            "Settings",
            "Scenes",
        ):
            assert section in page.all_text
        assert page.all_text.count("\\x1b]0;owned\\x07") > 40, "shown, in every section"

    def test_pictures_are_valid_xml_and_tables_hold_no_formula(self, spoilt):
        root, _, _ = spoilt
        written = list((root / "out" / "page_files").iterdir())
        assert len([ET.parse(path) for path in written if path.suffix == ".svg"]) >= 3
        for path in written:
            if path.suffix in (".md", ".csv", ".svg"):
                check_text(path.read_text(encoding="utf-8"))
            if path.suffix == ".csv":
                cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
                assert not [cell for cell in cells if cell[:1] in tuple("=@+\t\r")]

    def test_a_quickstarts_own_page_and_a_diagnosis_page_keep_to_it_too(self, tmp_path):
        run, diagnosis = write_run(tmp_path / "run"), write_diagnosed(tmp_path / "diagnosis")
        for folder in (run, diagnosis):
            for path in folder.glob("*.json*"):
                spoil_file(path, HOSTILE)
        for page in (write_quickstart(run), write_diagnosis(diagnosis)):
            html = page.read_text(encoding="utf-8")
            assert "<script" not in drop_own_script(html)
            assert Page(html).unbalanced == []
            check_text(html)

    def test_what_a_study_and_a_comparison_print_is_text_in_the_terminal(self, tmp_path):
        study = write_study(tmp_path / "study")
        spoil_file(study / "results.json", HOSTILE)
        results = read_study_results(study)
        shown = Console(file=io.StringIO(), force_terminal=True, width=400, color_system=None)
        print_study(results, shown)
        names = ["[/bold]x", "[red]\x1b[2Jy"]
        row = {"benchmark": "pope", "metric": "pope/[/x]", "unit": "%", "better": "lower", "run": names[1]}
        row |= {"first_value": 1.0, "value": 2.0, "difference": 1.0, "low": -3.0, "high": 1.0, "items_needed": 9}
        row |= {"standard_error": 0.5, "excludes_zero": False, "items": 3}
        statistics = {"resampled": "image", "resamples": 5, "seed": 0}
        content = {"runs": names, "rows": [row], "notes": [HOSTILE], "missing": []}
        print_comparison({**content, "statistics": statistics}, shown)
        shown.print(results_table({"[/bold]": {}}).terminal())
        text = shown.file.getvalue()
        assert "[/bold]x" in text
        assert "[red]\\x1b[2Jy" in text
        check_text(text)

    def test_pictures_and_tables_of_a_study_are_written_whatever_its_variants_are_called(self, tmp_path):
        study = write_study(tmp_path / "study")
        spoil_file(study / "results.json", HOSTILE)
        *_, picture = write_study_files(study)
        ET.parse(picture.with_suffix(".svg"))
        check_text((study / "table.md").read_text())


class TestFormulas:
    @pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
    def test_a_text_that_a_spreadsheet_would_run_has_an_apostrophe_before_it(self, text):
        head, row = csv.reader(io.StringIO(csv_text([text], [[text]]), newline=""))
        assert head == row == [clean(f"'{text}")]

    def test_numbers_stay_numbers_and_other_texts_stay_as_they_are(self):
        cells = [-1.5, 3, None, "-1.5", "+2e-3", "a=b", "−3", "", True]
        assert csv_text(["x"] * 9, [cells]).splitlines()[1] == "-1.5,3,,-1.5,+2e-3,a=b,−3,,True"

    def test_every_table_that_is_written_goes_that_way(self, tmp_path):
        write_study(tmp_path / "study")
        results = read_study_results(tmp_path / "study")
        results["variants"] = {"=1": ""}
        row = {"run": "=2", "metric": "@m", "value": -1.0}
        tables = (
            study_csv(results),
            results_table({"=1": {"chair_i": -1.0}}).csv(),
            csv_comparison({"runs": ["=1", "=2"], "rows": [row]}),
        )
        for table in tables:
            assert "\n'=1," in table
        assert "-1.0" in tables[1]
        assert "-1.0" in tables[2]


class TestPictures:
    def test_one_outside_its_folder_is_not_shown_by_any_name_or_link(self, tmp_path):
        Image.new("RGB", (200, 200), "red").save(tmp_path / "secret.png")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / "folder" / "circle.png").symlink_to(tmp_path / "folder" / "circle.png")
        for name in (
            "../secret.png",
            str(tmp_path / "secret.png"),
            "link.png",
            "circle.png",
            "a\0b",
            "x" * 5000,
            3,
            None,
        ):
            found = find_inside(tmp_path / "folder", name)
            assert not make_thumbnail(found).uri, name

    def test_those_of_a_reported_diagnosis_quickstart_and_benchmark_stay_inside(self, tmp_path):
        Image.new("RGB", (200, 200), "red").save(tmp_path / "secret.png")
        diagnosis, run = write_diagnosed(tmp_path / "diagnosis"), write_run(tmp_path / "run")
        pairs = [json.loads(line) for line in (diagnosis / "examples.jsonl").read_text().splitlines()]
        secret = {"picture": str(tmp_path / "secret.png"), "corrupted_picture": "../secret.png"}
        (diagnosis / "examples.jsonl").write_text("".join(json.dumps(pair | secret) + "\n" for pair in pairs))
        scenes = json.loads((run / "examples.json").read_text())
        scenes[0] |= {"image": str(tmp_path / "secret.png"), "corrupted_image": "../secret.png"}
        (run / "examples.json").write_text(json.dumps(scenes))
        html, page = report_on([diagnosis, run], tmp_path)
        assert html.count("data:image/jpeg") == 0
        assert page.all_text.count("lies outside") == 6
        assert html.count("data:image/png") == 10 + LEGEND, "the other scenes"
        (tmp_path / "images").mkdir()
        for name in ("../secret.png", str(tmp_path / "secret.png")):
            assert isinstance(find_picture(tmp_path / "images", "pope", "q1", name), Unshown)
        assert find_picture(None, "../..", "q1", "secret.png") is None

    @pytest.mark.parametrize("kind", ["pipe", "device", "huge", "damaged", "text", "eps", "folder"])
    def test_one_that_cannot_be_shown_is_said_to_be_at_once(self, tmp_path, kind):
        path = tmp_path / "picture.png"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "huge":
            Image.new("1", (30000, 30000)).save(path)
        elif kind == "damaged":
            Image.new("RGB", (64, 64)).save(path)
            path.write_bytes(path.read_bytes()[:60])
        elif kind == "eps":
            Image.new("RGB", (8, 8)).save(path, "EPS")
        elif kind == "folder":
            path.mkdir()
        else:
            path.write_text("no picture")
        began = time.monotonic()
        shown = make_thumbnail(path)
        assert not shown.uri
        assert " not shown: it " in shown.why
        assert time.monotonic() - began < 5

    def test_pixels_are_limited_below_what_pillow_warns_of(self):
        assert MOST_PIXELS < Image.MAX_IMAGE_PIXELS

    @pytest.mark.parametrize(
        "item", ["test-0-30000000", "test-0-²", "test-²-1", "test--1-2", "test-0-٣", "test-0", "x"]
    )
    def test_an_odd_id_of_a_scene_neither_hangs_nor_ends_the_page(self, item):
        found = find_picture(None, "world", item, "")
        assert found is None or (isinstance(found, Unshown) and f"{MOST_SCENES:,}" in found.reason)


class TestCode:
    def test_a_report_imports_nothing_that_a_recipe_names(self, tmp_path, monkeypatch):
        (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
        monkeypatch.syspath_prepend(tmp_path)
        run = write_trained(tmp_path / "run", corruption="evil_module:corrupt", objective="evil_module:TERMS")
        write_evaluated(run / "world", benchmark="world")
        rows = [{"id": f"test-0-{n}", "image": "", "counts": {}, "reason": {"flagged": []}} for n in range(2)]
        (run / "world" / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        html, page = report_on([run], tmp_path, pictures=make_pictures([run], None))
        assert not (tmp_path / "was_run").exists()
        assert "its corruption 'evil_module:corrupt' is not one of the package's" in page.all_text
        assert "evil_module:TERMS" in page.all_text
        assert html.count("<figcaption>image</figcaption>") == 2, "the items are shown all the same"

    @pytest.mark.parametrize("options", [{"step": 10**9}, {"nope": 1}, "text", ["list"], {"step": "x"}])
    def test_options_of_a_corruption_that_do_not_fit_cost_the_corrupted_picture_alone(self, tmp_path, options):
        run = write_trained(tmp_path / "run", corruption="noise", corruption_options=options)
        pictures = make_pictures([run], None)
        assert pictures.notes or isinstance(pictures.corrupt(Image.new("RGB", (8, 8)), "x"), Unshown)


class TestFiles:
    def test_a_pipe_a_device_and_deep_or_unfolding_data_are_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "deep.json").write_text("[" * 100_000)
        layers = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
        (tmp_path / "bomb.yaml").write_text("\n".join(layers))
        (tmp_path / "circle.yaml").write_text("a: &a [*a]")
        (tmp_path / "deep.yaml").write_text("[" * 5000)
        began = time.monotonic()
        for name, read in (
            ("pipe", read_json), ("pipe", read_yaml), ("deep.json", read_json), ("bomb.yaml", read_yaml),
            ("circle.yaml", read_yaml), ("deep.yaml", read_yaml),
        ):  # fmt: skip
            with pytest.raises(UnusableFileError):
                read(tmp_path / name)
        with pytest.raises(UnusableFileError):
            read_json(tmp_path.__class__("/dev/zero"))
        assert time.monotonic() - began < 20

    def test_every_file_of_a_run_may_be_a_pipe_and_the_rest_is_reported(self, tmp_path):
        run, other = write_trained(tmp_path / "run"), write_evaluated(tmp_path / "other")
        write_evaluated(run / "pope")
        for path in ("recipe.yaml", "README.md", "sample_answers.jsonl", "pope/scores.jsonl", "pope/answers.jsonl"):
            (run / path).unlink(missing_ok=True)
            os.mkfifo(run / path)
        _, page = report_on([run, other], tmp_path, benchmarks=know_benchmarks())
        assert "recipe.yaml cannot be read (it is a named pipe and no regular file)" in page.all_text
        assert "scores.jsonl is not read: it is a named pipe and no regular file" in page.all_text
        assert "a cup" in page.all_text

    def test_comparing_folders_whose_files_are_pipes_names_them(self, tmp_path):
        folders = [write_evaluated(tmp_path / name) for name in ("first", "second")]
        (folders[1] / "result.json").unlink()
        os.mkfifo(folders[1] / "result.json")
        with pytest.raises(ValueError, match="no regular file"):
            compare_runs(folders)

    def test_a_name_of_a_folder_that_cannot_be_encoded_is_written_out(self, tmp_path):
        folder = tmp_path / os.fsdecode(b"odd-\xff-name")
        _, page = report_on([write_evaluated(folder), write_evaluated(tmp_path / "other")], tmp_path)
        assert "odd-\\udcff-name" in page.all_text

    def test_cleaned_data_can_be_calculated_with_and_encoded(self):
        found = clean({"a\x1b": [10**400, -(10**400), True, None, 1.5, "\ud800"], 3: {"x"}})
        assert found == {"a\\x1b": [float("inf"), -float("inf"), True, None, 1.5, "\\ud800"], "3": ["x"]}


class TestWrongTypes:
    def test_what_fits_is_kept_and_the_rest_named(self):
        problems = []
        shape = {"name": str, "size": float, "rows": [{"n": float}], "any": {str: float}, "inner": {"of": [str]}}
        value = {"name": 3, "size": None, "rows": [{"n": 1}, {"n": "x"}, 4, None]}
        value |= {"any": {"a": 1, "b": True, "c": None}, "other": []}
        found = fit(value, shape, "file", problems)
        rows = [{"n": 1}, {"n": None}]
        assert found == {
            "name": "", "size": None, "rows": rows, "any": {"a": 1}, "other": [], "inner": {"of": []}
        }  # fmt: skip
        assert problems[:2] == [
            "file: name is a number, not a text, so it is left out",
            "file: rows[1].n is a text, not a number, so it is left out",
        ]
        assert "file: 1 more values are of a wrong type and left out" in problems
        assert (fit(3, [str], "", []), fit(3, str, "", []), fit("a", float, "", [])) == ([], "", None)

    @pytest.mark.slow
    def test_one_value_of_a_wrong_type_anywhere_costs_no_other_folder(self, tmp_path, monkeypatch):
        """Draws places in all files of all kinds of folders, and other values to put there."""
        monkeypatch.setattr("mmdpo.report.page._write_files", lambda *arguments: None)  # drawing takes most of the time
        generator = random.Random(0)
        folders = write_all(tmp_path / "all")
        files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".jsonl")]
        healthy = write_evaluated(tmp_path / "healthy", benchmark="amber", answer="said by the healthy one")
        odd = (None, True, 7, -1.5, 10**400, "text", [], ["a", 1], {}, {"a": {}}, [[]], "\ud800\x1b", float("nan"))
        for _ in range(60):
            path = generator.choice(files)
            before = path.read_text()
            content = (
                [json.loads(line) for line in before.splitlines()] if path.suffix == ".jsonl" else json.loads(before)
            )
            holder, key = generator.choice(list(places_in(content)))
            holder[key] = value = generator.choice(odd)
            rows = content if path.suffix == ".jsonl" else [content]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            try:
                folder = next(folder for folder in folders if path.is_relative_to(folder))
                _, page = report_on([folder, healthy], tmp_path)
                assert "said by the healthy one" in page.all_text, (path, key, value)
            finally:
                path.write_text(before)

    @pytest.mark.parametrize(
        "text", ["[]", *(pytest.param(text, marks=pytest.mark.slow) for text in ("null", "\x00", '{"variants": 3}'))]
    )
    @pytest.mark.parametrize("name", ["results.json", "examples.json", "dpo/trainer_state.json"])
    def test_a_file_of_a_quickstart_that_is_something_else_is_named(self, run_dir, tmp_path, name, text):
        (run_dir / name).write_text(text)
        healthy = write_evaluated(tmp_path / "healthy", answer="said by the healthy one")
        _, page = report_on([run_dir, healthy], tmp_path)
        assert "said by the healthy one" in page.all_text
        if (name, text) != ("examples.json", "[]"):
            assert name in page.all_text or "results.json" in page.all_text

    def test_a_scene_whose_picture_is_gone_is_shown_without_it_among_others(self, run_dir, tmp_path):
        (run_dir / "scenes" / "2.png").unlink()
        html, page = report_on([run_dir], tmp_path)
        assert "scene: the picture is missing" in page.all_text
        assert html.count("data:image/png") == 11 + LEGEND


def places_in(value):
    """Yields each place that holds a value: what it is in, and its key."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places_in(value[key])


def test_the_comparison_of_folders_with_odd_names_is_written_and_its_picture_is_valid(tmp_path):
    folders = [tmp_path / os.fsdecode(name) for name in (b"[b]\x1b[2J\xff", b"=second<b>")]
    for folder, shift in zip(folders, (0, 1), strict=True):
        write_evaluated(folder)
        counts = [{"random/n": 1, f"random/{'true' if (n + shift) % 3 else 'false'}_yes": 1} for n in range(30)]
        rows = [
            {"id": f"q{n}", "part": "random", "image": f"{n}.jpg", "counts": count} for n, count in enumerate(counts)
        ]
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture = write_comparison(compare_runs(folders, resamples=100), tmp_path / "out")
    ET.parse(picture.with_suffix(".svg"))
    assert "udcff" in (tmp_path / "out" / "compare.md").read_text()
