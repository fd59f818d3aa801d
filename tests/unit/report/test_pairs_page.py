"""The page of a run of `mmdpo pairs`: what it says and shows, and what it makes of damaged and hostile folders."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mmdpo.files import Unshown
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.unpaired import write_unpaired
from mmdpo.report import pair_figures, pair_files
from mmdpo.report.layout import FORMATS, make_thumbnail
from mmdpo.report.page import write_report
from mmdpo.report.pair_figures import Bar, funnel_of_answers, funnel_of_prompts
from mmdpo.report.pair_files import PairFiles, choose_unpaired, find_pictures, read_answers, read_verdicts
from mmdpo.report.pair_tables import RESULT_SHAPE, check_table, key_table, make_tables
from mmdpo.report.pairs import choose_places, explain_ends, write_pairs
from mmdpo.report.reading import ReportError, find_folders, fit
from tests.unit.report.makers import (
    ANSWERS,
    Page,
    judge,
    paint,
    turn,
    write_evaluated,
    write_lines,
    write_own_pairs,
    write_pairs_parquet,
    write_trained,
)


def read_page(folder):
    html = write_pairs(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert page.unbalanced == []
    assert page.stack == []
    return html, page


def flow(html):
    """Returns the text of a page in its order."""
    text = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", "", text.replace("</", " </")).split())


def article(html, name):
    """Returns the first article about a prompt."""
    return next(part for part in html.split("<article")[1:] if f"prompt {name}" in part).partition("</article>")[0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a whole run, made once."""
    folder = write_own_pairs(tmp_path_factory.mktemp("own") / "mine")
    html, page = read_page(folder)
    return folder, html, page


class TestPage:
    def test_it_says_what_the_pairs_are_and_shows_its_parts_in_order(self, written):
        _, html, page = written
        text = flow(html)
        assert (
            "2 pairs about 2 images, made of the answers that me/mine gave to 12 prompts, judged by objects: the "
            "chosen answer is the best answer, the rejected one the nearest with a mistake (rule clean_near)."
        ) in text
        parts = (
            "chosen answers are shorter",
            "no answer has a wrong claim −9",
            "answers: duplicate",
            "Lengths of answers",
            "How they were made",
            "wrong claims, chosen / rejected / all answers, %",
            "polite words",
            "Claims of rejected answers that are most often wrong",
            "What it cost",
            "The judge objects on labelled answers",
            "All pairs.",
            "Which car?",
        )
        places = [text.index(part) for part in parts]
        assert places == sorted(places)
        assert "What is missing" not in text
        assert page.text["h2"] == [
            "Pairs",
            "From prompts to pairs",
            "Margins and lengths",
            "The pairs in numbers",
            "Pairs drawn at random",
            "Prompts without a pair",
        ]

    def test_it_fetches_nothing(self, written):
        _, html, page = written
        assert not [link for link in page.links if not link.startswith(("#", "data:image/"))]
        assert "@import" not in html
        assert html.count("data:image/") == 3, "two pairs and a prompt without one"

    def test_wrong_claims_are_struck_words_that_differ_are_marked_and_both_are_said(self, written):
        _, html, _ = written
        one = article(html, "a")
        chosen, _, rejected = one.partition("<h4>rejected</h4>")
        assert 'A cup and a <span class="own">plate</span> on a table.' in chosen
        assert 'A cup and a <del><span class="own">fork</span></del> on a table.' in rejected
        assert "1 of 2 claims held to be wrong: fork" in rejected
        assert "held to be wrong" not in chosen
        other = article(html, "b")
        assert '<del>One is </del><del><span class="own">blue</span></del><del>.</del>' in other, "the whole sentence"
        assert "1 of 2 claims held to be wrong: it is blue" in other

    def test_scores_numbers_lengths_and_margins_stand_beside_the_answers(self, written):
        _, html, _ = written
        text = flow(article(html, "a"))
        assert "margin 1 · prompt a chosen" in text
        assert "score 1 · words" not in text
        assert "score 1 · 8 words · answer 0 · log π −2.5" in text
        assert "score −2 · 8 words · answer 1 All 4 answers" in text, "no log π where none is known"

    def test_all_answers_are_folded_with_roles_scores_and_reasons(self, written):
        _, html, _ = written
        one, _, answers = article(html, "b").partition("<details>")
        assert "Dogs." not in one
        text = flow(answers)
        for said in (
            "0 greedy · chosen · objects 1 · 6 words Two dogs run. One is brown.",
            "1 draw · rejected · objects −2 · 6 words",
            "2 draw · objects −2 · 6 words · duplicate",
            "3 draw · objects 1 · 1 word Dogs.",
        ):
            assert said in text
        assert answers.count("<del>") == 2

    def test_a_prompt_without_a_pair_has_question_picture_reason_and_answers(self, written):
        _, html, _ = written
        one = article(html, "c")
        text = flow(one)
        assert text.startswith('class="scene"> Which car?')
        assert "no pair: no answer has a wrong claim · prompt c" in text
        assert "All 4 answers" in text
        assert "a blue car" in text
        assert one.count("data:image/jpeg") == 1

    def test_it_needs_neither_torch_nor_the_data_engine(self):
        code = "import sys, mmdpo.report.pairs; print({'torch', 'transformers', 'mmdpo.pairs'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"

    def test_a_run_without_pairs_built_is_an_error_that_says_so(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own")
        (folder / "pairs.json").unlink()
        with pytest.raises(ReportError, match=r"pairs\.json: no such file; give the folder of a finished `mmdpo pairs"):
            write_pairs(folder)

    def test_a_rewritten_answer_says_what_it_was_made_from(self, tmp_path):
        change = {"k_chosen": 1, "chosen": [turn("assistant", {"type": "text", "text": "A cup on a table."})]}
        html, _ = read_page(write_own_pairs(tmp_path / "own", changes=[{**change, "logp_chosen": None}]))
        text = flow(article(html, "a"))
        assert "score 1 · 5 words · made from answer 1 rejected" in text
        assert "score −2 · 8 words · answer 1" in text
        assert "1 draw · chosen · rejected · objects −2" in text

    def test_a_long_question_stands_whole_below_its_beginning(self, tmp_path):
        question = "Look at it. " * 20
        change = {
            "prompt": [
                turn("system", {"type": "text", "text": "Be brief."}),
                turn("user", {"type": "text", "text": question}),
            ]
        }
        html, _ = read_page(write_own_pairs(tmp_path / "own", changes=[change]))
        one = article(html, "a")
        assert " ".join(question.split()) in one
        assert f"{question[:110]} …</h3>" in one
        assert "Be brief" not in one

    def test_answers_that_share_few_words_are_said_to(self, tmp_path):
        change = {"rejected": [turn("assistant", {"type": "text", "text": "nothing of this kind whatsoever here"})]}
        html, _ = read_page(write_own_pairs(tmp_path / "own", changes=[change]))
        one = article(html, "a")
        assert "The two share few words" in one
        assert 'class="own"' not in one

    def test_a_judge_of_whole_answers_and_a_second_judge_are_said_to_hold_what_they_hold(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own", judges={"exact": "exact@1", "objects": "objects@2"})
        write_lines(folder / "verdicts-exact.jsonl", [{"id": "c", "verdicts": {"3": {"score": 0, "is_right": False}}}])
        html, _ = read_page(folder)
        text = flow(article(html, "c"))
        assert "3 draw · exact 0 · objects 1 · 1 word no the answer as a whole is held to be wrong" in text
        assert "2 draw · objects 1" in text


class TestTables:
    def test_they_hold_what_pairs_json_says(self, written):
        folder, _, _ = written
        result = json.loads((folder / "pairs.json").read_text())
        tables = {table.title: table.rows for table in make_tables(folder, result)}
        assert dict(tables["How they were made"]) == {
            "policy": "me/mine",
            "answers": "temperature 0.8, top_p 1, seed 123456789",
            "judges": "objects (objects@123)",
            "rule": "clean_near",
            "margin": "1 or more",
            "chosen answers with mistakes": "dropped",
            "balance": "–",
        }
        assert ("answers that may be in a pair", "30") in tables["From prompts to pairs"]
        assert tables["What was lost"] == (
            ("prompts: no answer has a wrong claim", "9"),
            ("answers: duplicate", "8"),
            ("answers: cut off", "2"),
            ("pairs: too many of an image", "1"),
        )
        like = dict(tables["What the pairs are like"])
        assert like["words, chosen / rejected / all answers"] == "6.5 / 6.5 / –"
        assert like["chosen longer or shorter, %"] == "−2.5"
        assert like["the longer answer is the chosen one, %"] == "25.0"
        assert like["wrong claims, chosen / rejected / all answers, %"] == "0.0 / 50.0 / 25.0"
        assert tables["Style"] == (("polite words", "50.0", "0.0", "12.5", "75.0"),)
        assert tables["What it cost"] == (("sample", "12", "1,200", "90", "0.12", "3"),)
        ((name, value, count),) = tables["The judge objects on labelled answers"]
        assert (name, value.replace("\N{NO-BREAK SPACE}", " "), count) == (
            "pairs ranked rightly, ties as half", "75.0 [50.0 … 90.0]", "16",
        )  # fmt: skip

    def test_a_check_has_a_row_for_all_that_was_measured(self):
        share = {"value": 50.0, "low": 40.0, "high": 60.0, "n": 9}
        found = {
            "pairs": {"accuracy": share, "ties": share},
            "length": {"better_longer": share, "better_shorter": share, "difference": -0.5},
            "order": {"turned": share},
            "claims": {"accuracy": share, "wrongly_struck": share, "wrongly_believed": share},
            "author": {"better_own": share, "worse_own": share, "difference": 3.0},
        }
        table = check_table("j", found)
        assert len(table.rows) == 12
        assert ("moved by length: the difference", "−0.5", "") in table.rows
        assert ("moved by the author: the difference", "+3.0", "") in table.rows

    def test_several_pairs_of_a_prompt_are_no_share_of_the_prompts(self):
        """`per_prompt` may be more than one: the yield is of pairs, and no per cent."""
        table = key_table(fit({"pairs": {"train": 24}, "funnel": {"prompts": 10, "yield": 2.4}}, RESULT_SHAPE, "", []))
        assert dict(zip(table.headers, table.rows[0], strict=True))["pairs per 100 prompts"] == "240.0"

    def test_they_are_written_unrounded_too(self, written):
        folder, _, _ = written
        result = json.loads((folder / "pairs.json").read_text())
        tables = {table.title: table.csv() for table in make_tables(folder, result)}
        assert "sample,12,1200,90,0.125,3.2" in tables["What it cost"]
        assert 'words, chosen / rejected / all answers",,6.5,6.5,' in tables["What the pairs are like"]
        assert "answers: duplicate,8" in tables["What was lost"]
        assert all(len(text.splitlines()) > 1 for text in tables.values())

    def test_of_an_empty_result_there_is_what_can_be_said(self, tmp_path):
        titles = [table.title for table in make_tables(tmp_path, {})]
        assert titles == ["How they were made", "From prompts to pairs", "What the pairs are like"]

    def test_a_page_shows_so_many_rows_and_characters(self, tmp_path):
        struck = {f"claim {n} " + "x" * 900: n for n in range(500)}
        html, _ = read_page(write_own_pairs(tmp_path / "own", struck=struck, notes=["y" * 9000] * 90))
        assert "and 440 more" in html
        assert "51 more notes are in pairs.json" in html
        assert "x" * 201 not in html
        assert "y" * 601 not in html


def whole(**funnel):
    return fit({"funnel": funnel}, RESULT_SHAPE, "", [])


class TestFigures:
    def test_losses_hang_between_what_was_there_before_and_after(self):
        lost = {"a": 20.0, "b": 50.0}
        funnel = {"prompts": 100, "pairs": 25, "prompts_lost": lost, "pairs_lost": {"c": 5}}
        assert funnel_of_prompts(whole(**funnel)) == [
            Bar("prompts", 0, 100),
            Bar("b", 50, 50, is_lost=True),
            Bar("a", 30, 20, is_lost=True),
            Bar("prompts that offer a pair", 0, 30),
            Bar("c", 25, 5, is_lost=True),
            Bar("pairs", 0, 25),
        ]
        bars = funnel_of_prompts(whole(prompts=100, pairs=30, prompts_lost=lost))
        assert [bar.name for bar in bars] == ["prompts", "b", "a", "pairs"]
        assert funnel_of_answers(whole(answers=9, candidates=4, answers_lost={"d": 5})) == [
            Bar("answers", 0, 9),
            Bar("d", 4, 5, is_lost=True),
            Bar("may be in a pair", 0, 4),
        ]

    def test_many_reasons_are_a_few_and_the_rest_and_odd_numbers_are_nothing(self):
        lost = {f"r{n}": float(n) for n in range(30)} | {"nan": float("nan"), "inf": float("inf"), "less": -5.0}
        bars = funnel_of_answers(whole(answers=float("inf"), answers_lost=lost))
        assert [bar.name for bar in bars[1:3]] == ["r29", "r28"]
        assert bars[-2] == Bar("19 more reasons", 0, sum(range(20)), is_lost=True)
        assert bars[0].length == 0

    def test_they_are_drawn_inside_the_page_and_described(self, written):
        _, html, _ = written
        assert html.count("<svg") == 4
        for said in (
            "What became of prompts: prompts 12; no answer has a wrong claim 9; prompts that offer a pair 3; "
            "too many of an image 1; pairs 2",
            "Margins of 2 pairs, from 1 to 2",
            "Words of answers of 2 pairs; means: chosen 7.0, rejected 7.0",
        ):
            assert f'aria-label="{said}"' in html

    @pytest.mark.parametrize(
        "margins", [{}, {"1.0": 5}, {"x": 1, "nan": 2, "1e999": 3, "2": -1}, {str(n / 7): n + 1 for n in range(400)}]
    )
    def test_any_margins_can_be_drawn(self, tmp_path, margins):
        html, _ = read_page(write_own_pairs(tmp_path / "own", margins=margins))
        assert "cannot be drawn" not in html
        assert ("Margins of" in html) == (len(margins) in (1, 400))

    def test_a_few_very_long_answers_do_not_flatten_the_others(self, tmp_path):
        texts = ["one two three"] * 150 + ["word " * 5000]
        changes = [{"chosen": text, "rejected": text} for text in texts]
        html, _ = read_page(write_own_pairs(tmp_path / "own", changes=changes, rows_a_group=50))
        assert "words (the last bar: and more)" in html


class TestChoice:
    MARGINS = np.array([float(n % 100) for n in range(1000)])

    def test_pairs_are_drawn_by_the_seed_and_from_both_ends(self):
        chosen = choose_places(self.MARGINS, 1000, 3)
        assert chosen == choose_places(self.MARGINS, 1000, 3)
        assert chosen["random"] != choose_places(self.MARGINS, 1000, 4)["random"]
        assert len(set(chosen["random"])) == 20
        assert [self.MARGINS[at] for at in chosen["narrow"]] == [0.0] * 10
        assert [self.MARGINS[at] for at in chosen["wide"]] == [99.0] * 10
        assert len(set(chosen["narrow"])) == 10
        assert chosen["narrow"] != sorted(chosen["narrow"]), "of equal ones those that are drawn, not the first ones"
        said = explain_ends(self.MARGINS, {**chosen, "narrow": chosen["narrow"][:3]})
        assert said["narrow"] == (
            "The 3 narrowest margins, of 0. 10 pairs have one of 0, of which these are drawn by the seed."
        )
        assert said["wide"] == "The 10 widest margins, of 99."
        margins = np.array([3.0, 1.0, 2.0, 5.0])
        ends = {"narrow": [1, 2], "wide": [3, 0]}
        assert explain_ends(margins, ends)["narrow"] == "The 2 narrowest margins, from 1 to 2."

    def test_few_pairs_are_all_shown_once_and_margins_that_are_not_known_are_at_no_end(self):
        chosen = choose_places(np.arange(20.0), 20, 0)
        assert chosen == {"random": list(range(20)), "narrow": [], "wide": []}
        margins = np.full(40, np.nan)
        assert choose_places(margins, 40, 0)["narrow"] == []
        margins[7:10] = 1.0, 2.0, 3.0
        assert (choose_places(margins, 40, 0)["narrow"], choose_places(margins, 40, 0)["wide"]) == ([7], [9])
        assert choose_places(np.array([]), 0, 0) == {"random": [], "narrow": [], "wide": []}

    def test_prompts_without_a_pair_are_of_each_reason_first(self, tmp_path):
        rows = [{"id": f"p{n}", "reason": "often" if n else "seldom"} for n in range(500)]
        rows += [{"id": f"p{n}", "k": 2, "reason": "of an answer"} for n in range(500)]
        write_lines(tmp_path / "dropped.jsonl", rows)
        chosen = choose_unpaired(tmp_path, 10, 0, [])
        assert len(set(chosen)) == 10
        assert chosen[1] == "p0"
        assert chosen == choose_unpaired(tmp_path, 10, 0, [])
        assert chosen != choose_unpaired(tmp_path, 10, 1, [])
        assert max(int(own[1:]) for own in chosen) > 250, "not the first ones"
        assert choose_unpaired(tmp_path, 10, 0, [], {"p4", "p5"}.__contains__) == ["p4", "p5"]

    def test_the_build_puts_question_and_small_pictures_aside(self, tmp_path):
        def ask(name, *images):
            turns = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"What is {name}?"}]},)
            return Prompt(name, turns, images)

        (tmp_path / "unpaired").mkdir()
        (tmp_path / "unpaired" / "9-0.png").write_bytes(b"of an earlier build")
        write_lines(
            tmp_path / "dropped.jsonl", [{"id": name, "reason": "none"} for name in ("a\u2028", "b", "held out")]
        )
        photo = Image.new("RGB", (1600, 900), "red")
        write_unpaired(tmp_path, [ask("a\u2028", photo, paint("blue", (20, 10), "PNG")), ask("b", b"broken")], 0)
        found = pair_files.read_unpaired(tmp_path, [])
        assert {own: of["question"] for own, of in found.items()} == {"a\u2028": "What is a\u2028?", "b": "What is b?"}
        large, small = (Image.open(path) for path in found["a\u2028"]["pictures"])
        assert (large.size, large.format, small.size, small.format) == ((480, 270), "JPEG", (20, 10), "PNG")
        assert make_thumbnail(found["b"]["pictures"][0]).why == ": the picture is missing"
        assert sorted(path.suffix for path in (tmp_path / "unpaired").iterdir()) == [".jpg", ".png"]


class TestBounds:
    def test_only_row_groups_that_are_shown_are_read(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own", changes=[{"margin": float(n)} for n in range(30)], rows_a_group=1)
        path = folder / "dataset" / "train.parquet"
        described = parquet.ParquetFile(path).metadata
        content = bytearray(path.read_bytes())
        for group in (g for g in range(30) if g not in (3, 28)):
            for number in range(described.num_columns):
                column = described.row_group(group).column(number)
                if column.path_in_schema != "margin":
                    start = column.dictionary_page_offset or column.data_page_offset
                    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(content)
        problems = []
        found = dict(PairFiles(folder, problems).read([3, 28]))
        assert {at: row["margin"] for at, row in found.items()} == {3: 3.0, 28: 28.0}
        assert problems == []

    def test_a_column_too_large_to_open_is_left_out_and_named(self, tmp_path, monkeypatch):
        folder = write_own_pairs(tmp_path / "own", changes=[{"images": [{"bytes": os.urandom(9000), "path": None}]}])
        monkeypatch.setattr(pair_files, "MOST_COLUMN", 8000)
        html, _ = read_page(folder)
        assert "row group 0 is too large, so images are not shown" in html
        assert "A cup and a" in article(html, "a")

    def test_more_pairs_than_are_looked_at_are_the_first_ones(self, tmp_path, monkeypatch):
        folder = write_own_pairs(tmp_path / "own", changes=[{"margin": float(n)} for n in range(30)], rows_a_group=7)
        write_pairs_parquet(folder, [{"margin": 99.0}] * 3, 2, "eval.parquet")
        monkeypatch.setattr(pair_files, "MOST_ROWS", 10)
        files = PairFiles(folder, problems := [])
        assert list(files.margins) == [float(n) for n in range(10)]
        assert problems == []
        assert max(choose_places(files.margins, files.count, 0)["random"]) < 10

    def test_lengths_are_of_pairs_all_over_the_files(self, tmp_path, monkeypatch):
        changes = [{"chosen": "a " * n, "rejected": "b"} for n in range(100)]
        folder = write_own_pairs(tmp_path / "own", changes=changes, rows_a_group=5)
        write_pairs_parquet(folder, [{"chosen": "a " * 500, "rejected": "b"}] * 20, 5, "eval.parquet")
        monkeypatch.setattr(pair_files, "LOOKED_AT", 40)
        words = [chosen for chosen, _ in PairFiles(folder, []).count_words()]
        assert words == [*range(5), *range(15, 20), *range(30, 35), *range(45, 50), *range(60, 65), *range(75, 80),
                         *range(90, 95), *[500] * 5]  # fmt: skip

    def test_pairs_of_both_files_are_numbered_through(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own", changes=[{"margin": float(n)} for n in range(5)])
        write_pairs_parquet(folder, [{"margin": 10.0}, {"margin": 11.0}], 2, "eval.parquet")
        files = PairFiles(folder, [])
        assert list(files.margins) == [0, 1, 2, 3, 4, 10, 11]
        assert {at: row["margin"] for at, row in files.read([0, 4, 5, 6])} == {0: 0, 4: 4, 5: 10, 6: 11}

    def test_lines_of_others_are_not_parsed_and_long_and_strange_ones_are_counted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pair_files, "MOST_LINE", 1000)
        lines = [
            '{"id": "b", "k": 0, this is not looked at',
            '{"id": "a", "k": 0, "text": "' + "x" * 5000 + '"}',
            '{"k": 1, "id": "a", "text": "another order"}',
            '{"id": "a", "k": 2, "text": "said"}',
            '{"id": "a", "k": 3, "te',
        ]
        (tmp_path / "samples.jsonl").write_text("\n".join(lines))
        problems = []
        assert {k: of["text"] for k, of in read_answers(tmp_path, ["a"], problems)["a"].items()} == {2: "said"}
        assert problems == ["3 lines of samples.jsonl are damaged and left out"]

    def test_a_file_is_read_so_far_and_it_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pair_files, "MOST_SCANNED", 300)
        write_lines(tmp_path / "samples.jsonl", [{"id": "a", "k": k, "text": "said"} for k in range(50)])
        problems = []
        assert 0 < len(read_answers(tmp_path, ["a"], problems)["a"]) < 10
        assert problems == ["samples.jsonl has more than the 300 bytes that are read"]

    def test_answers_of_all_processes_are_found_the_last_of_a_number_counts_and_few_are_shown(self, tmp_path):
        write_lines(tmp_path / "samples.jsonl", [{"id": "a", "k": k, "text": "one"} for k in range(100)])
        write_lines(tmp_path / "samples.part-1.jsonl", [{"id": "a", "k": 1, "text": "two"}])
        found = read_answers(tmp_path, ["a"], [])["a"]
        assert [found[k]["text"] for k in (0, 1)] == ["one", "two"]
        assert list(found) == list(range(pair_files.MOST_ANSWERS))

    def test_a_page_holds_so_much_of_an_answer(self, tmp_path):
        changes = {"chosen": "line\n" * 3000, "rejected": "word " * 30_000}
        claims = [{"text": f"claim{n} " * 99, "is_true": False} for n in range(500)]
        html, _ = read_page(
            write_own_pairs(tmp_path / "own", changes=[{**changes, "claims_chosen": json.dumps(claims)}])
        )
        one = article(html, "a")
        assert one.count("line") == pair_files.MOST_LINES
        assert one.count("word ") < pair_files.LONGEST_ANSWER / 5 + 10
        assert "3,000 words" in one
        assert "30,000 words" in one
        assert "100 of 100 claims held to be wrong" in one
        assert "and 88 more" in one
        assert len(one) < 20_000


class TestDamage:
    @pytest.mark.parametrize("kind", ["cut", "text", "folder", "pipe", "outside", "absent"])
    def test_a_dataset_that_cannot_be_read_leaves_the_rest_on_the_page(self, tmp_path, kind):
        folder = write_own_pairs(tmp_path / "own")
        path = folder / "dataset" / "train.parquet"
        content = path.read_bytes()
        path.unlink()
        if kind == "cut":
            path.write_bytes(content[:-50])
        elif kind == "text":
            path.write_text("no parquet")
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "outside":
            (tmp_path / "secret.parquet").write_bytes(content)
            path.symlink_to(tmp_path / "secret.parquet")
        html, page = read_page(folder)
        said = "there is no dataset/train.parquet" if kind == "absent" else "dataset/train.parquet cannot be read"
        assert said in page.all_text
        assert "There is no pair to show." in page.all_text
        assert "Which car?" in page.all_text
        assert "polite words" in page.all_text
        assert QUESTIONED not in html

    def test_a_damaged_row_group_costs_its_own_pairs(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own", changes=[{"prompt_id": name} for name in "ab"], rows_a_group=1)
        path = folder / "dataset" / "train.parquet"
        described = parquet.ParquetFile(path).metadata.row_group(1)
        names = [described.column(number).path_in_schema for number in range(described.num_columns)]
        column = described.column(names.index("chosen.list.element.content.list.element.text"))
        content = bytearray(path.read_bytes())
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(content)
        html, page = read_page(folder)
        assert "dataset/train.parquet: row group 1 cannot be read" in page.all_text
        assert "prompt a" in html
        assert "prompt b" not in html

    @pytest.mark.parametrize(
        "table",
        [
            {"x": [1, 2]},
            {"prompt_id": [None, 3], "chosen": [1.5, None], "margin": ["a", "b"], "images": ["x", "y"]},
            {
                "chosen": ["plain text", None],
                "rejected": ["other text", ""],
                "margin": [1, None],
                "prompt": ["Q?", "R?"],
            },
            {
                "claims_chosen": ["[", '[{"text": 3}]'],
                "claims_rejected": ['{"a": 1}', "[[[[1]]]]"],
                "margin": [1e400, -1],
            },
            {"images": [[None], [{"bytes": b"x", "path": "y"}]], "k_chosen": [1.5, 2.0], "prompt_id": ["a", "zzz"]},
            {"chosen": [[{"role": 1, "content": 2}], []], "prompt": [[{"a": [1]}], []]},
        ],
    )
    def test_a_dataset_of_another_shape_is_shown_as_far_as_it_goes(self, tmp_path, table):
        folder = write_own_pairs(tmp_path / "own")
        parquet.write_table(pa.table(table), folder / "dataset" / "train.parquet")
        html, page = read_page(folder)
        assert html.count("<article") == 3
        assert "Which car?" in page.all_text
        if "prompt" in table and "plain text" in str(table):
            assert "plain <" in html or "plain" in page.all_text
            assert "Q?" in page.text["h3"]
        if "margin" not in table or table["margin"] == ["a", "b"]:
            assert "there is no column margin of numbers" in page.all_text

    def test_a_text_that_is_no_utf8_costs_itself(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own")
        path = folder / "dataset" / "train.parquet"
        content = path.read_bytes()
        assert b"A cup and a plate on a table." in content
        path.write_bytes(
            content.replace(b"A cup and a plate on a table.", b"A cup and a \xff\xfe\xfd\xfc\xfb on a table.")
        )
        html, _ = read_page(folder)
        assert "prompt a" in html
        assert "fork" in article(html, "a")

    @pytest.mark.parametrize("name", ["samples", "verdicts-objects", "dropped", "unpaired"])
    def test_without_one_of_the_other_files_the_rest_is_shown(self, tmp_path, name):
        folder = write_own_pairs(tmp_path / "own")
        (folder / f"{name}.jsonl").unlink()
        html, page = read_page(folder)
        assert "What is on the table?" in page.all_text
        said = {
            "samples": "Its answers are not on disk.",
            "verdicts-objects": "2 draw · 3 words",
            "dropped": "no pair: the reason is not known · prompt c",
            "unpaired": "Their questions and pictures are not in the folder",
        }
        assert said[name] in flow(html)
        assert "prompt c" in page.all_text

    @pytest.mark.parametrize("name", ["samples.jsonl", "verdicts-objects.jsonl", "dropped.jsonl", "cost.json"])
    def test_a_pipe_or_a_link_out_of_the_folder_is_named(self, tmp_path, name):
        folder = write_own_pairs(tmp_path / "own")
        (tmp_path / "outside").write_bytes((folder / name).read_bytes())
        (folder / name).unlink()
        os.mkfifo(folder / name)
        _, page = read_page(folder)
        if name != "cost.json":
            assert f"{name} is not read: it is a named pipe and no regular file" in page.all_text
            (folder / name).unlink()
            (folder / name).symlink_to(tmp_path / "outside")
            assert f"{name} is not read: {name} lies outside" in read_page(folder)[1].all_text

    def test_a_judge_whose_name_leads_elsewhere_is_not_followed(self, tmp_path):
        folder = write_own_pairs(tmp_path / "own", judges={"x/../../secret": "1", "objects": "2"})
        (folder / "verdicts-x").mkdir()
        secret = {"id": "a", "verdicts": {"0": {"score": 987}}}
        write_lines(tmp_path / "secret.jsonl", [secret])
        html, page = read_page(folder)
        assert "987" not in page.all_text
        assert "lies outside" in page.all_text
        assert "objects 1" in article(html, "a")

    @pytest.mark.parametrize(
        "key", ["funnel", "plan", "judges", "sampler", "margins", "style", "words", "pairs", "notes"]
    )
    @pytest.mark.parametrize("value", [None, 7, "text", [], [1], {"a": "b"}, {"a": {"b": []}}])
    def test_a_value_of_another_kind_in_pairs_json_costs_itself(self, tmp_path, monkeypatch, key, value):
        monkeypatch.setattr(pair_figures, "inline_figure", lambda draw, *more: draw() and "")
        folder = write_own_pairs(tmp_path / "own", **{key: value})
        _, page = read_page(folder)
        assert "What is on the table?" in page.all_text

    def test_verdicts_of_another_shape_are_left_out(self, tmp_path):
        rows = [
            {"id": "a", "verdicts": {"x": {}, "0": {"score": "high", "claims": [{"text": "cup"}, 3]}, "-1": {}}},
            {"id": "a", "verdicts": {"1": {"score": 2, "claims": [{"text": " ", "is_true": False}]}}},
            {"id": "a", "verdicts": []},
        ]
        write_lines(tmp_path / "verdicts-j.jsonl", rows)
        found = read_verdicts(tmp_path, "j", ["a"], [])["a"]
        assert found == {k: {"score": score, "claims": [], "is_right": None} for k, score in ((0, None), (1, 2))}


QUESTIONED = "What is on the table?"


class TestPictures:
    @pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "PPM"])
    def test_those_of_every_format_are_shown(self, kind):
        assert make_thumbnail(paint("red", (200, 100), kind)).uri.startswith("data:image/jpeg")

    @pytest.mark.parametrize("content", [b"", b"no picture", paint("red")[:200]])
    def test_a_broken_one_is_said_to_be(self, tmp_path, content):
        folder = write_own_pairs(tmp_path / "own", changes=[{"images": [{"bytes": content, "path": None}]}])
        html, _ = read_page(folder)
        one = article(html, "a")
        assert "image not shown: it is damaged or no picture" in one
        assert "data:image" not in one
        assert "A cup" in one

    def test_files_inside_the_folder_are_found_and_no_others(self, tmp_path):
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "a.png").write_bytes(paint("red"))
        (tmp_path / "secret.png").write_bytes(paint("red"))
        value = [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "../secret.png"}, "a.png", 3, b"x", None]
        first, second, third, fourth = find_pictures(tmp_path / "own", value)
        assert first == third == (tmp_path / "own" / "a.png").resolve()
        assert isinstance(second, Unshown)
        assert fourth == b"x"
        assert find_pictures(tmp_path, None) == []

    def test_several_are_named_by_their_places_and_a_few_are_shown(self, tmp_path):
        images = [{"bytes": paint("red", (9, n + 1), "PNG"), "path": None} for n in range(9)]
        html, page = read_page(write_own_pairs(tmp_path / "own", changes=[{"images": images}]))
        assert article(html, "a").count("data:image/png") == pair_files.MOST_PICTURES
        assert page.text["figcaption"][:4] == ["image 1", "image 2", "image 3", "image 4"]

    def test_a_pair_without_one_is_shown(self, tmp_path):
        html, _ = read_page(write_own_pairs(tmp_path / "own", changes=[{"images": []}, {"images": None}]))
        assert html.count("data:image/") == 1


HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)> \" ' \x1b[2J \u202e {{ 7*7 }} \x00\ufffe"


class TestHostileText:
    def test_what_anybody_wrote_stays_text(self, tmp_path):
        said = [turn("assistant", {"type": "text", "text": f"{HOSTILE} cup"})]
        claims = json.dumps([{"text": HOSTILE, "is_true": False, "sentence": 0}])
        change = {
            "prompt_id": HOSTILE, "prompt": [turn("user", {"type": "text", "text": HOSTILE})], "chosen": said,
            "rejected": said, "claims_chosen": claims, "claims_rejected": claims,
        }  # fmt: skip
        names = {HOSTILE: 1.0}
        folder = write_own_pairs(
            tmp_path / "<b>own", changes=[change], rule=HOSTILE, about=f"{HOSTILE}; {HOSTILE}", notes=[HOSTILE],
            sampler={"sampler": {"model": HOSTILE}}, judges={"objects": HOSTILE, HOSTILE: HOSTILE}, struck=names,
            style={HOSTILE: {"chosen": 1.0, "rejected": 2.0}}, margins={HOSTILE: 2, "1": 1}, by_judge=names,
            funnel={"prompts": 5, "pairs": 1, "prompts_lost": names, "answers": 3, "answers_lost": names},
        )  # fmt: skip
        for name in ("samples.jsonl", "verdicts-objects.jsonl", "dropped.jsonl", "unpaired.jsonl"):
            rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            rows += [
                {**row, "id": HOSTILE, **({"text": HOSTILE, "kind": HOSTILE} if "text" in row else {})} for row in rows
            ]
            rows = [{**row, **({"reason": HOSTILE} if "reason" in row else {})} for row in rows]
            rows = [{**row, **({"question": HOSTILE} if "question" in row else {})} for row in rows]
            write_lines(folder / name, rows)
        html, page = read_page(folder)
        assert "<script" not in html
        assert "<img src=x" not in html
        assert "{{ 7*7 }}" in page.all_text, "no template in a text is filled in"
        assert "\x1b" not in html
        assert "\x00" not in html
        assert page.all_text.count("\\x1b[2J") > 20, "shown, in every part"
        assert not [link for link in page.links if not link.startswith(("#", "data:image/"))]
        assert "1 draw" in html
        assert "own" in page.text["h1"][0]
        beside = write_report([folder], tmp_path / "out" / "page.html")
        assert "<script" not in beside.read_text()

    def test_texts_that_hurt_in_colour_or_direction_stand_in_blocks_of_their_own(self, written):
        _, html, _ = written
        assert html.count('<p class="said" dir="auto">') >= 14


@pytest.mark.parametrize("theme", [0, 1])
def test_struck_and_marked_text_can_be_read_in_light_and_dark(written, theme):
    colours = {
        name: re.findall(rf"--{name}: (#[0-9a-f]{{6}})", written[1])[theme]
        for name in ("paper", "panel", "own", "ink", "wrong", "soft")
    }
    for text, below in (("wrong", "own"), ("wrong", "panel"), ("ink", "own"), ("soft", "panel")):
        darker, lighter = sorted(map(_luminance, (colours[text], colours[below])))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, below)


def _luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


class TestAmongOthers:
    def test_a_report_on_several_folders_has_its_sections_and_files(self, tmp_path):
        own, other = write_own_pairs(tmp_path / "own"), write_evaluated(tmp_path / "pope")
        html = write_report([own, other], tmp_path / "out" / "page.html").read_text()
        page = Page(html)
        assert "1 result, 1 run of own pairs: pope, own" in page.all_text
        assert "own: From prompts to pairs" in page.text["h2"]
        assert "Evaluation: POPE" in page.text["h2"]
        assert 'id="own-funnel"' in html
        beside = {path.name for path in (tmp_path / "out" / "page_files").iterdir()}
        assert {
            "own-prompts.png",
            "own-prompts.svg",
            "own-lengths.png",
            "own-tables-0.md",
            "own-funnel-0.csv",
        } <= beside

    def test_it_is_known_by_its_options_and_the_run_of_training_inside_is_named(self, tmp_path):
        own = write_own_pairs(tmp_path / "all" / "own")
        write_trained(own / "run")
        found = find_folders([own])
        assert [place.label for place in found.pairs] == ["own"]
        assert any("own/run: a run of mmdpo train inside own" in line for line in found.left_out)
        write_evaluated(tmp_path / "all" / "scored")
        assert any(
            "all/own: a run of mmdpo pairs inside all" in line for line in find_folders([tmp_path / "all"]).left_out
        )

    def test_pairs_that_were_not_built_cost_no_other_folder(self, tmp_path):
        own, other = write_own_pairs(tmp_path / "own"), write_evaluated(tmp_path / "pope")
        (own / "pairs.json").unlink()
        text = Page(write_report([own, other], tmp_path / "page.html").read_text()).all_text
        assert "own: cannot be read" in text
        assert "a cup" in text


def test_the_fixture_judges_as_it_says():
    assert judge("a", 1)["score"] == -2.0
    assert set(ANSWERS) == {"a", "b", "c"}
