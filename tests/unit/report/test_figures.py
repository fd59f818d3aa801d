import json

import pytest
from PIL import Image

from mmdpo.report.curves import PART_COLOURS, RUN_COLOURS, VARIANT_COLOURS, curve_panels, panel_svg
from mmdpo.report.quickstart import draw_curves, read_quickstart
from mmdpo.report.scene_picture import RED, draw_scenes
from mmdpo.report.shape import ReportError

LOG = [
    {"step": 5, "loss": 2.0, "loss/rank_response": 0.7, "loss/rank_image": 0.6, "rewards/chosen": 0.1},
    {"step": 10, "loss": float("nan"), "loss/rank_response": 0.5, "rewards/chosen": -0.3, "logps/chosen": -9.0},
    {"step": 10, "train_loss": 1.9},
]


def test_both_figures_are_written_as_png_and_svg(run_dir):
    for path in (draw_scenes(run_dir), draw_curves(run_dir)):
        with Image.open(path) as image:
            assert min(image.size) > 800
        assert "<svg" in path.with_suffix(".svg").read_text()


def test_hallucinated_words_are_red_and_only_they(run_dir):
    assert RED in draw_scenes(run_dir).with_suffix(".svg").read_text()
    path = run_dir / "examples.json"
    examples = json.loads(path.read_text())
    for example in examples:
        for answer in example["answers"].values():
            answer["hallucinated"] = []
    path.write_text(json.dumps(examples))
    assert RED not in draw_scenes(run_dir).with_suffix(".svg").read_text()


def test_nothing_to_draw_is_an_error_for_scenes_and_none_for_curves(run_dir):
    (run_dir / "examples.json").write_text("[]")
    with pytest.raises(ReportError, match="no examples"):
        draw_scenes(run_dir)
    for path in run_dir.glob("*/trainer_state.json"):
        path.unlink()
    assert draw_curves(run_dir) is None


def test_panels_hold_what_was_logged_and_nothing_else():
    panels = {panel.title: panel for panel in curve_panels({"mdpo": LOG})}
    assert list(panels) == ["Chosen answer", "mDPO: loss and its terms", "mDPO: rewards"]
    lines = {line.label: line for line in panels["mDPO: loss and its terms"].lines}
    assert lines["loss"].steps == (5, 10)
    assert lines["rank_response"].values == (0.7, 0.5)
    assert lines["rank_image"].steps == (5,)
    assert panels["mDPO: rewards"].limits == pytest.approx((-0.32, 0.12))


def test_rewards_of_all_variants_share_a_scale_that_survives_nan(run_dir):
    histories = {name: read_quickstart(run_dir).histories[name] for name in ("dpo", "mdpo")}
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
