"""`ref_model_name_or_path`: another reference than the start of the policy."""

import pytest
import torch

from mmdpo.models.load import load_model
from mmdpo.models.start import LoadOptions, resolve_start
from mmdpo.training import trainer as trainer_module
from mmdpo.world.pairs import make_pairs
from small_trainer import build_trainer, losses_of


def move(folder):
    """Saves the world's model with its head scaled, so that it says other probabilities."""
    model = load_model(resolve_start("world", LoadOptions()))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.5)
    model.save_pretrained(folder)
    return model


def test_losses_are_those_of_the_model_given_as_an_object(tmp_path):
    model = move(tmp_path / "other")
    rows, options = make_pairs(8, 0), dict(max_steps=2, logging_steps=1)
    named = build_trainer(tmp_path / "a", rows, ref_model_name_or_path=str(tmp_path / "other"), **options)
    given = build_trainer(tmp_path / "b", rows, ref_model=model, **options)
    own = build_trainer(tmp_path / "c", rows, **options)
    for trainer in (named, given, own):
        trainer.train()
    assert losses_of(named) == losses_of(given)
    assert losses_of(named) != losses_of(own)
    assert named.ref_model is not None


def test_one_of_two_that_are_given_is_not_passed_over(tmp_path):
    model = move(tmp_path / "other")
    with pytest.raises(ValueError, match="ref_model and ref_model_name_or_path are both given"):
        build_trainer(tmp_path, make_pairs(4, 0), ref_model=model, ref_model_name_or_path=str(tmp_path / "other"))


def test_it_has_no_revision_of_the_policy(tmp_path, monkeypatch):
    asked = []

    def note(name, options):
        asked.append((name, options.arguments.get("revision")))
        return resolve_start(name, options)

    monkeypatch.setattr(trainer_module, "resolve_start", note)
    move(tmp_path / "other")
    given = dict(model_init_kwargs={"revision": "v2"}, ref_model_name_or_path=str(tmp_path / "other"))
    build_trainer(tmp_path, make_pairs(4, 0), **given)
    assert asked == [("world", "v2"), (str(tmp_path / "other"), None)]
