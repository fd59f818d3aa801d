"""Which path a model is scored on, and what is said where it is not the one that was asked for."""

import logging

import pytest

from mmdpo import MDPOConfig
from mmdpo.models.families import Family, find_family
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.objective import build_objective
from mmdpo.scoring.tree_attention import SDPA
from mmdpo.training.assembly import build_scorer

CELLS = build_objective("mdpo").cells
REASON = "LlavaForConditionalGeneration is not among the model families proven to share prefixes"


def configure(tmp_path, **options):
    return MDPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)


def build(tmp_path, *, family=None, **options):
    args = configure(tmp_path, **options)
    model = load_model(resolve_start("world", args.load_options()))
    return build_scorer(model, family or find_family(model.config), CELLS, args)


def implementation(scorer):
    return scorer.model.get_decoder().config._attn_implementation


@pytest.mark.parametrize("options", [{}, dict(attention="auto"), dict(attention="shared")], ids=str)
def test_a_model_that_can_share_shares(tmp_path, caplog, options):
    with caplog.at_level(logging.WARNING, "mmdpo"):
        scorer = build(tmp_path, max_tokens_per_row=77, **options)
    assert (scorer.shares_prefix, scorer.max_tokens_per_row, scorer.collated) == (True, 77, CELLS)
    assert implementation(scorer) == SDPA
    assert not caplog.records


def test_separate_is_separate_without_a_word(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "mmdpo"):
        scorer = build(tmp_path, attention="separate")
        other = build(tmp_path, attention="separate", family=Family())
    assert not scorer.shares_prefix
    assert not other.shares_prefix
    assert implementation(scorer) == "sdpa", "the model is left as it was"
    assert not caplog.records


def test_auto_falls_back_with_one_line_that_says_why(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "mmdpo"):
        scorer = build(tmp_path, attention="auto", family=Family())
    assert not scorer.shares_prefix
    assert implementation(scorer) == "sdpa"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert REASON in record.getMessage()
    assert "\n" not in record.getMessage()


def test_asking_for_what_a_model_cannot_is_an_error_that_says_why(tmp_path):
    with pytest.raises(ValueError, match=f"attention: shared .*{REASON}.* use attention: auto or separate"):
        build(tmp_path, attention="shared", family=Family())


def test_a_model_loaded_with_eager_attention_says_what_to_load_it_with(tmp_path):
    with pytest.raises(ValueError, match="attn_implementation: eager; sdpa and flex_attention can share"):
        build(tmp_path, attention="shared", model_init_kwargs={"attn_implementation": "eager"})


@pytest.mark.parametrize("value", ["packed", "", None])
def test_any_other_word_is_an_error(tmp_path, value):
    with pytest.raises(ValueError, match="attention must be one of auto, shared, separate; got"):
        configure(tmp_path, attention=value)
