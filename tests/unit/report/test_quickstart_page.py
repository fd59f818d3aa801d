"""The folder of a quickstart: read, its table, its figures and its page."""

import io
import json
import subprocess
import sys

import pytest
from PIL import Image
from rich.console import Console

from mmdpo.report.figures import PART_COLOURS, RUN_COLOURS, VARIANT_COLOURS, curve_panels, panel_svg
from mmdpo.report.layout import MarkedAnswer
from mmdpo.report.quickstart import CAVEATS, print_results, read_quickstart, results_table, write_quickstart
from mmdpo.report.reading import ReportError
from mmdpo.world import SMALL
from tests.unit.report.makers import Page, drop_own_script, write_run


def test_run_folder_is_read_whole(run_dir):
    run = read_quickstart(run_dir, [])
    assert list(run.results["variants"]) == ["start", "dpo", "mdpo", "sft_chosen"]
    assert len(run.scenes) == 6
    assert run.scenes[0].truth == ("cup", "plate", "kettle")
    assert run.scenes[0].corrupted_image == run_dir / "scenes/0_corrupted.png"
    assert list(run.histories) == ["dpo", "mdpo", "sft_chosen"], "the start was not trained and has no log"


def test_marks_stand_on_whole_words_and_lose_no_text():
    answer = MarkedAnswer("A cup, a Cup, a teacup and a cupboard. Traffic light", ("cup", "traffic light", "fork"))
    spans = answer.spans()
    assert "".join(span.text for span in spans) == answer.text
    assert [span.text for span in spans if span.hallucinated] == ["cup", "Cup", "Traffic light"]


def test_answer_without_hallucination_has_no_mark():
    assert [span.hallucinated for span in MarkedAnswer("cup , plate .").spans()] == [False]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: None, "results.json: no such file"),
        (lambda text: text[:40], "results.json: not JSON"),
        (lambda text: json.dumps({"variants": {}, "seed": 0}), "results.json: the key 'scenes'"),
    ],
)
def test_results_that_cannot_be_used_are_an_error_with_file_and_key(run_dir, edit, says):
    path = run_dir / "results.json"
    edited = edit(path.read_text())
    path.unlink()
    if edited is not None:
        path.write_text(edited)
    with pytest.raises(ReportError, match=says):
        read_quickstart(run_dir, [])


def test_what_else_is_broken_is_named_on_the_page_with_file_and_key(run_dir):
    for path, one, other in (
        ("examples.json", '"truth"', '"thruth"'),
        ("examples.json", "scenes/2.png", "scenes/x.png"),
        ("dpo/trainer_state.json", '"log_history"', '"log"'),
    ):
        (run_dir / path).write_text((run_dir / path).read_text().replace(one, other, 1))
    text = read_page(run_dir).all_text
    assert "example 0: the key 'truth' is missing" in text
    assert "scene: the picture is missing" in text
    assert "dpo/trainer_state.json: the key 'log_history' is missing" in text


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


def read_page(run_dir) -> Page:
    return Page(write_quickstart(run_dir).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a whole quickstart with its page and pictures, written once."""
    return write_quickstart(write_run(tmp_path_factory.mktemp("written") / "run")).parent


def test_page_fetches_nothing(written):
    html = (written / "report.html").read_text(encoding="utf-8")
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    links = Page(html).links
    pictures = [link for link in links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == 12 + len(SMALL.objects), "six scenes, each with its corrupted image"
    assert all(link.startswith("#") for link in links if link not in pictures)


def test_page_is_balanced_and_tells_everything(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    assert page.unbalanced == []
    assert page.stack == []
    caveats = (
        "prior is planted",
        "unconditional preference",
        "chosen answers does as well",
        "without Cover",
        "toy world",
    )
    assert all(any(caveat in title for title in page.text["h3"]) for caveat in caveats)
    assert "400 scenes and one seed (0)" in page.all_text
    for said in ("−2.06", "+1.04", "–", "768 preference pairs", "mmdpo quickstart", "versions: torch", "2.13.0"):
        assert said in page.all_text
    assert page.text["mark"][1:3] == ["stove", "bowl"], "the first mark explains the others"
    assert "missed: kettle" in page.all_text


def test_text_of_a_run_stays_text(run_dir):
    hostile = "<script>alert('$x & ${y}')</script>\""
    results_path, examples_path = run_dir / "results.json", run_dir / "examples.json"
    results, examples = json.loads(results_path.read_text()), json.loads(examples_path.read_text())
    results |= {"command": hostile, "seed": hostile, "scenes": hostile}
    results["variants"][hostile] = {}
    examples[0] |= {"setting": hostile, "truth": [hostile]}
    examples[0]["answers"] = {hostile: {"text": f"{hostile} fork", "hallucinated": [hostile], "missed": [hostile]}}
    results_path.write_text(json.dumps(results))
    examples_path.write_text(json.dumps(examples))
    html = write_quickstart(run_dir).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in drop_own_script(html)
    assert page.unbalanced == []
    assert hostile in page.text["mark"]
    assert page.all_text.count(hostile) >= 8


def test_page_without_logs_corrupted_images_or_timings(run_dir):
    for path in run_dir.glob("*/trainer_state.json"):
        path.unlink()
    results, examples = (json.loads((run_dir / name).read_text()) for name in ("results.json", "examples.json"))
    for key in ("seconds", "pairs", "versions", "command"):
        del results[key]
    for example in examples:
        del example["corrupted_image"]
    (run_dir / "results.json").write_text(json.dumps(results))
    (run_dir / "examples.json").write_text(json.dumps(examples))
    page = read_page(run_dir)
    assert "No variant left a log" in page.all_text
    assert sum(link.startswith("data:") for link in page.links) == 6 + len(SMALL.objects)


@pytest.mark.parametrize("module", ["page", "quickstart"])
def test_report_needs_neither_torch_nor_transformers(module):
    code = f"import sys, mmdpo.report.{module}; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


LOG = [
    {"step": 5, "loss": 2.0, "loss/rank_response": 0.7, "loss/rank_image": 0.6, "rewards/chosen": 0.1},
    {"step": 10, "loss": float("nan"), "loss/rank_response": 0.5, "rewards/chosen": -0.3, "logps/chosen": -9.0},
    {"step": 10, "train_loss": 1.9},
]


def test_both_figures_are_written_as_png_and_svg_and_wrong_words_are_in_brackets(written):
    for name in ("scenes", "curves"):
        with Image.open(written / f"{name}.png") as image:
            assert min(image.size) > 700
        assert "<svg" in (written / f"{name}.svg").read_text()
    drawn = (written / "scenes.svg").read_text()
    assert "[stove]" in drawn
    assert "(missed: kettle)" in drawn


def test_without_scenes_and_logs_there_is_a_page_and_no_picture(run_dir):
    (run_dir / "examples.json").write_text("[]")
    for path in run_dir.glob("*/trainer_state.json"):
        path.unlink()
    assert write_quickstart(run_dir).is_file()
    assert not list(run_dir.glob("*.png"))


def test_panels_hold_what_was_logged_and_nothing_else():
    panels = {panel.title: panel for panel in curve_panels({"mdpo": LOG})}
    assert list(panels) == ["Log-probability of chosen", "mDPO: loss and its terms", "mDPO: rewards"]
    lines = {line.label: line for line in panels["mDPO: loss and its terms"].lines}
    assert lines["Loss"].steps == (5, 10)
    assert lines["response term"].values == (0.7, 0.5)
    assert lines["image term"].steps == (5,)
    assert panels["mDPO: rewards"].limits == pytest.approx((-0.32, 0.12))


def test_rewards_of_all_variants_share_a_scale_that_survives_nan(run_dir):
    histories = {name: read_quickstart(run_dir, []).histories[name] for name in ("dpo", "mdpo")}
    histories["dpo"][0]["rewards/chosen"] = float("nan")
    limits = [panel.limits for panel in curve_panels(histories) if panel.unit == "reward"]
    highest = -0.1 * 0.8 / 12  # mDPO's first step, now that DPO's higher one is gone
    lowest = -1.5
    pad = 0.05 * (highest - lowest)
    assert limits[0] == limits[1] == pytest.approx((lowest - pad, highest + pad))


def test_inline_svg_takes_the_text_colour_of_the_page_and_shares_no_id():
    (panel, *_) = curve_panels({"<b>&$x$": LOG})
    drawn = panel_svg(panel, "first")
    assert "currentColor" in drawn
    assert "&lt;b&gt;&amp;$x$</text>" in drawn, "a variant's name is text: neither markup nor a formula"
    assert "http" not in drawn
    ids = {part.split('"')[0] for part in drawn.split(' id="')[1:]}
    assert ids
    assert all(name.startswith("first-") for name in ids)
    targets = {part.split('"')[0] for part in drawn.split('href="#')[1:]}
    targets |= {part.split(")")[0] for part in drawn.split("url(#")[1:]}
    assert targets <= ids


@pytest.mark.parametrize("colour", sorted({*VARIANT_COLOURS, *PART_COLOURS, *RUN_COLOURS}))
@pytest.mark.parametrize("paper", ["#ffffff", "#14171a"])
def test_lines_stand_out_from_light_and_dark_paper(colour, paper):
    darker, lighter = sorted((_luminance(colour), _luminance(paper)))
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def _luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
