from functools import partial

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo.files import UnusableFileError
from mmdpo.world import LARGE, SMALL, build
from mmdpo.world.build import (
    IGNORED,
    BuildPlan,
    Schedule,
    encode_patches,
    evaluate_checkpoint,
    main,
    name_patches,
    paint,
    probe_tower,
    save_checkpoint,
    tokenize_captions,
    train_checkpoint,
)
from mmdpo.world.model import CHECKPOINT, build_model, build_processor
from mmdpo.world.scenes import PlacedObject, Scene, draw_test_scenes, sample_crowds, sample_scenes

TINY = BuildPlan(crowds=24, scenes=24, vision=Schedule(2, 1e-3, batch_size=8), captions=Schedule(2, 1e-3, batch_size=8))


def test_build_is_a_function_of_its_seed(caplog):
    caplog.set_level("INFO", logger="mmdpo.world.build")
    first, again, other = (train_checkpoint(seed, TINY).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert "frozen" in caplog.text


def patches_of(world, name, left, top, size):
    shown = name_patches(Scene("kitchen", (PlacedObject(name, left, top, size, "red"),), 0, world))
    side = world.image_size // world.network.patch_size
    assert shown.shape == (side * side, len(world.objects))
    assert shown.sum() == shown[:, world.objects.index(name)].sum(), "no other object is there"
    return {divmod(place, side) for place in shown.any(dim=1).nonzero().flatten().tolist()}


def test_a_patch_shows_what_covers_its_centre_or_has_its_centre_in_it():
    # Patches of 24 pixels have their centres at 12, 36, 60, ….
    assert patches_of(SMALL, "cup", left=24, top=48, size=24) == {(2, 1)}
    assert patches_of(SMALL, "cup", left=40, top=40, size=18) == {(2, 2)}, "its centre, 49, and no patch's"
    assert patches_of(LARGE, "cup", left=20, top=30, size=64) == {(r, c) for r in (1, 2, 3) for c in (1, 2)}
    assert patches_of(LARGE, "cup", left=0, top=0, size=13) == {(0, 0)}


def test_patches_are_scaled_as_the_image_processor_scales_them():
    model, scenes = build_model(0), draw_test_scenes(2, 0)
    pixels = build_processor().image_processor([paint([scene])[0].numpy() for scene in scenes], return_tensors="pt")
    expected = model.model.vision_tower(pixels["pixel_values"]).last_hidden_state[:, 1:]
    torch.testing.assert_close(encode_patches(model.model.vision_tower, paint(scenes)), expected, atol=1e-5, rtol=1e-5)


def test_crowds_are_full_and_say_nothing_about_what_goes_together():
    crowds = sample_crowds(1500, 0)
    assert crowds[:3] == sample_crowds(3, 0)
    assert crowds[:3] != sample_crowds(3, 1)
    counts = {len(scene.objects) for scene in crowds}
    assert (min(counts), max(counts)) == (8, 16), "half of the sixteen places, or more"
    beside = [("plate" in scene.names, "cup" in scene.names) for scene in crowds]
    with_cup = [plate for plate, cup in beside if cup]
    without = [plate for plate, cup in beside if not cup]
    assert abs(sum(with_cup) / len(with_cup) - sum(without) / len(without)) < 0.1


@pytest.mark.slow
def test_a_probe_tells_a_tower_that_sees_from_one_that_does_not():
    shipped = AutoModelForImageTextToText.from_pretrained(CHECKPOINT)
    assert probe_tower(shipped, 0, count=200) >= 95
    assert probe_tower(build_model(0), 0, count=200) < 60


def test_labels_are_the_caption_and_its_end():
    tokenizer = build_processor().tokenizer
    scenes = sample_scenes(8, 0, 0.85, "supervised")
    tokens = tokenize_captions(build_processor(), scenes, seed=0)
    for ids, mask, labels in zip(tokens.input_ids, tokens.attention_mask, tokens.labels, strict=True):
        taught = labels != IGNORED
        assert torch.equal(ids[taught], labels[taught])
        before = ids[: int(taught.nonzero()[0])]
        assert tokenizer.decode(before[-2:]) == "describe assistant"
        assert int(labels[taught][-1]) == tokenizer.eos_token_id
        assert int(taught.sum()) == int(mask.sum()) - len(before)


def test_saved_checkpoint_has_the_files_of_the_shipped_one(tmp_path):
    save_checkpoint(train_checkpoint(0, TINY), tmp_path / "made")
    assert {file.name for file in (tmp_path / "made").iterdir()} == {file.name for file in CHECKPOINT.iterdir()}
    prompt = [{"role": "user", "content": "describe"}]
    made, shipped = (AutoProcessor.from_pretrained(folder) for folder in (tmp_path / "made", CHECKPOINT))
    assert made.apply_chat_template(prompt) == shipped.apply_chat_template(prompt)
    # Half precision on disk, single precision in use.
    assert (tmp_path / "made" / "model.safetensors").stat().st_size < 2_500_000
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "made").dtype == torch.float32


def test_used_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UnusableFileError, match="holds something already: choose another folder"):
        main(["--output_dir", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.rest
def test_script_reproduces_the_quality_of_the_shipped_checkpoint(tmp_path, monkeypatch):
    # The same seed on another machine rounds differently and ends like another seed: CHAIR_i of three seeds was 22.1,
    # 18.6 and 20.6, so a difference has a standard deviation of 2.5 and the tolerance is 2.5 of these.
    found = []
    monkeypatch.setattr(
        build, "evaluate_checkpoint", lambda *given: found.append(evaluate_checkpoint(*given)) or found[0]
    )
    monkeypatch.setattr(build, "probe_tower", partial(probe_tower, count=100))  # another test's
    main(["--world", "world", "--output_dir", str(tmp_path / "made"), "--seed", "0"])
    (made,), shipped = found, evaluate_checkpoint(CHECKPOINT, seed=0, count=400)
    assert made.chair_i == pytest.approx(shipped.chair_i, abs=6)
    assert made.cog == pytest.approx(shipped.cog, abs=6)
    assert made.cover == pytest.approx(shipped.cover, abs=2.5)


def test_the_shipped_world_is_not_built_over_by_default(capsys):
    with pytest.raises(SystemExit):
        main(["--world", "world"])
    assert "give --output_dir: the checkpoint of world ships with the package" in capsys.readouterr().err


def test_the_large_captioner_is_of_the_size_that_the_world_says():
    model, network = build_model(0, LARGE), LARGE.network
    assert 5.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 6.5e6
    assert len(model.model.language_model.layers) == network.text_layers
    assert model.config.image_seq_length == LARGE.image_tokens == 36
    assert model.generation_config.max_new_tokens == LARGE.max_words


def test_a_build_that_is_cut_short_leaves_nothing_under_its_name(tmp_path, monkeypatch):
    model = train_checkpoint(0, TINY)

    def fail(world):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("mmdpo.world.build.build_processor", fail)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(model, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    save_checkpoint(model, tmp_path / "made")
    assert [folder.name for folder in tmp_path.iterdir()] == ["made"]
