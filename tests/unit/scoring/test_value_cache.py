"""The cache of values: what its keys depend on, and a store that never serves what was altered."""

import io
import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo.corruption import load
from mmdpo.data.items import Item
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import find_family
from mmdpo.records import Cell, PreferenceExample, RowError
from mmdpo.scoring import value_cache
from mmdpo.scoring.digests import CellKeys, Fingerprint, digest_processor, digest_weights
from mmdpo.scoring.value_cache import ShardWriter, ValueCache, ValueCacheError
from mmdpo.world.model import CHECKPOINT

DPO = (Cell("original", "chosen"), Cell("original", "rejected"))
MDPO = (*DPO, Cell("corrupted", "chosen"))
ASKED_OTHERWISE = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]},)
VALUES = {bytes([k]) * 16: -1.5 * k for k in range(1, 9)}


def load_model():
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")


def make_cache(root, **components):
    return ValueCache(root, Fingerprint({"weights": "w", "precision": "float32"} | components))


@pytest.fixture
def cache(tmp_path):
    filled = make_cache(tmp_path / "references")
    filled.open()
    filled.write(VALUES)
    return filled


def only_shard(cache):
    (path,) = cache.folder.glob("*.safetensors")
    return path


class TestStore:
    def test_what_was_written_is_read(self, cache):
        again = make_cache(cache.root)
        again.open()
        assert again.read() == VALUES

    @pytest.mark.parametrize("keep", [0, 5, 40, -1])
    def test_a_truncated_shard_is_named_removed_and_replaced(self, cache, keep, caplog):
        shard = only_shard(cache)
        whole = shard.read_bytes()
        shard.write_bytes(whole[:keep])
        assert cache.read() == {}
        assert f"{shard} is damaged" in caplog.text
        cache.write(VALUES)
        assert shard.read_bytes() == whole
        assert cache.read() == VALUES

    def test_no_flipped_byte_changes_a_value(self, cache):
        shard = only_shard(cache)
        whole = shard.read_bytes()
        rejected = 0
        for place in range(len(whole)):
            shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
            found = cache.read()
            assert found in ({}, VALUES), place
            rejected += not found
        data = len(VALUES) * (16 + 4)
        assert rejected >= data, "some byte of keys or values is not covered"

    def test_a_shard_from_the_folder_of_another_reference_is_not_served(self, cache, caplog):
        other = make_cache(cache.root, weights="others")
        other.open()
        shutil.copy(only_shard(cache), other.folder)
        assert other.read() == {}
        assert "checksum" in caplog.text

    def test_a_copied_or_edited_folder_is_refused(self, cache):
        other = make_cache(cache.root, precision="bfloat16")
        shutil.copytree(cache.folder, other.folder)
        with pytest.raises(ValueCacheError, match=r"fingerprint\.json .* copied or edited.*ref_cache_dir"):
            other.open()
        (cache.folder / "fingerprint.json").write_text("{")
        with pytest.raises(ValueCacheError, match="copied or edited"):
            cache.open()

    def test_a_folder_that_cannot_be_written_is_named_with_the_remedies(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueCacheError, match=rf"{tmp_path}/file/.*ref_cache_dir.*precompute_ref_log_probs: fal"):
            make_cache(tmp_path / "file").open()

    def test_the_one_component_that_differs_is_said(self, cache, caplog):
        with caplog.at_level(logging.INFO, logger="mmdpo"):
            make_cache(cache.root, precision="bfloat16", weights="others").open()
            assert caplog.text == "", "two differ: that is another reference altogether"
            make_cache(cache.root, precision="bfloat16").open()
        assert "cached references are for float32, this run is bfloat16: computing anew" in caplog.text

    def test_a_component_that_fills_lines_is_named_and_not_quoted(self, cache, caplog):
        with caplog.at_level(logging.INFO, logger="mmdpo"):
            make_cache(cache.root, precision="[" * 61).open()
        assert caplog.messages == ["cached references are for other precision than this run's: computing anew"]

    def test_what_is_not_finite_is_never_stored(self, cache):
        with pytest.raises(ValueError, match="never stored"):
            cache.write({b"k" * 16: float("nan")})

    def test_a_foreign_file_is_a_damaged_shard(self, cache):
        save_file({"other": np.zeros(3)}, cache.folder / "x.safetensors")
        assert cache.read() == VALUES
        assert not (cache.folder / "x.safetensors").exists()

    def test_shards_are_written_on_the_way_and_when_the_pass_breaks_off(self, cache, monkeypatch):
        monkeypatch.setattr(value_cache, "SHARD_VALUES", 2)
        added = {bytes([k]) * 16: float(k) for k in range(20, 23)}
        counts = []

        def break_off():
            with ShardWriter(cache) as writer:
                for key, value in added.items():
                    writer.add({key: value})
                    counts.append(len(cache.read()) - len(VALUES))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            break_off()
        assert counts == [0, 2, 2]
        assert cache.read() == VALUES | added
        monkeypatch.setattr(value_cache, "SHARD_SECONDS", 0.0)
        with ShardWriter(cache) as writer:
            writer.add({b"t" * 16: 1.0})
            assert b"t" * 16 in cache.read()


class TestRunSide:
    def test_a_fingerprint_does_not_depend_on_the_order_of_its_components(self):
        assert Fingerprint({"a": "1", "b": "2"}).digest == Fingerprint({"b": "2", "a": "1"}).digest

    def test_every_weight_counts_with_its_name_dtype_and_shape(self):
        model = torch.nn.Linear(4, 4)
        model.register_buffer("scale", torch.ones(()), persistent=False)
        digests = [digest_weights(model)]
        for change in (
            lambda: model.weight.data[3, 3].add_(1e-7),
            lambda: model.scale.add_(1),
            lambda: setattr(model, "weight", torch.nn.Parameter(model.weight.data.view(2, 8))),
            lambda: model.to(torch.bfloat16),
            lambda: model.to(torch.float16),
        ):
            change()
            digests.append(digest_weights(model))
        digests.append(digest_weights(torch.nn.Sequential(model)))
        assert len(set(digests)) == len(digests)
        assert digest_weights(model) == digest_weights(model)

    def test_weights_that_are_not_in_memory_have_none(self):
        with pytest.raises(ValueError, match="precompute_ref_log_probs: false"):
            digest_weights(torch.nn.Linear(2, 2, device="meta"))

    def test_with_the_adapter_off_the_digest_is_that_of_the_model_without_it(self):
        plain = digest_weights(load_model())
        adapted = get_peft_model(
            load_model(), LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"])
        )
        base = adapted.get_base_model()
        assert digest_weights(base, adapter_prefix="lora_") == plain
        assert digest_weights(adapted) != plain
        with torch.no_grad():
            base.model.language_model.layers[0].self_attn.q_proj.base_layer.weight[0, 0] += 1e-6
        assert digest_weights(base, adapter_prefix="lora_") != plain

    def test_a_processor_is_what_it_does_to_text_and_pictures(self):
        processor = AutoProcessor.from_pretrained(CHECKPOINT)
        start = digest_processor(processor)
        processor.tokenizer(["a cup", "a"], padding=True, truncation=True, max_length=2)
        assert digest_processor(processor) == start, "how the last call padded is no property of the tokenizer"
        digests = {start}
        processor.image_processor.image_mean = [0.4, 0.5, 0.5]
        digests.add(digest_processor(processor))
        processor.chat_template = "{{ bos_token }}"
        digests.add(digest_processor(processor))
        processor.tokenizer.add_tokens(["zebra"])
        digests.add(digest_processor(processor))
        assert len(digests) == 4


@pytest.fixture(scope="module")
def preparer():
    renderer = Renderer(AutoProcessor.from_pretrained(CHECKPOINT), find_family(load_model().config))
    return Preparer(renderer, MDPO, {"corrupted": load("crop_0_20")}, seed=0)


def picture(shade=0, size=(48, 48)):
    return Image.new("RGB", size, (shade, 0, 0))


def example(**changes):
    prompt = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]},)
    row = PreferenceExample("a", prompt, {"chosen": "a cup", "rejected": "a plate"}, (picture(),), source="t, row 1")
    return replace(row, **changes)


def keys_of(preparer, row, cells=MDPO, **item):
    return CellKeys(preparer)(Item(row, 0, **item), cells)


class TestRowSide:
    @pytest.mark.parametrize(
        ("changes", "changed"),
        [
            ({"source": "elsewhere, row 7", "weights": {"w": 2.0}}, ()),
            ({"id": "b"}, (2,)),
            ({"images": (picture(1),)}, (0, 1, 2)),
            ({"rejected_images": (picture(1),)}, (2,)),
            ({"responses": {"chosen": "a cup", "rejected": "a fork"}}, (1,)),
            ({"responses": {"chosen": "a fork", "rejected": "a plate"}}, (0, 2)),
            (
                {"prompt": ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]},)},
                (0, 1, 2),
            ),
        ],
        ids=["source", "id", "image", "rejected image", "rejected", "chosen", "prompt"],
    )
    def test_a_cell_depends_on_what_it_shows_and_says(self, preparer, changes, changed):
        before, after = keys_of(preparer, example()), keys_of(preparer, example(**changes))
        assert tuple(c for c in range(3) if before[c] != after[c]) == changed

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 1},
            {"crop_space": "processed"},
            {"corruptions": {"corrupted": load("crop_0_20").with_options(low=0.02)}},
            {"corruptions": {"corrupted": load("blur")}},
        ],
        ids=["seed", "crop space", "option", "corruption"],
    )
    def test_how_the_corrupted_image_is_made_concerns_its_own_cell(self, preparer, changes):
        before, after = keys_of(preparer, example()), keys_of(replace(preparer, **changes), example())
        assert before[:2] == after[:2]
        assert before[2] != after[2]
        assert keys_of(preparer, example(), epoch=1)[2] != before[2]

    def test_a_corruption_whose_code_was_edited_is_another_one(self, preparer, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        keys = []
        for number, body in enumerate(("return image", "return image.copy()")):
            (tmp_path / f"own{number}.py").write_text(f"def corrupt(image, generator):\n    {body}\n")
            own = replace(load(f"own{number}:corrupt"), name="own:corrupt")
            keys.append(keys_of(replace(preparer, corruptions={"corrupted": own}), example())[2])
        assert keys[0] != keys[1]

    def test_an_image_is_its_content_wherever_it_lies(self, preparer, tmp_path):
        buffer = io.BytesIO()
        picture().save(buffer, "PNG")
        content = buffer.getvalue()
        for name in ("one.png", "two.png"):
            (tmp_path / name).write_bytes(content)
        rows = [example(images=(source,)) for source in (tmp_path / "one.png", str(tmp_path / "two.png"), content)]
        assert len({keys_of(preparer, row) for row in rows}) == 1
        (tmp_path / "two.png").write_bytes(content + b"\0")
        assert keys_of(preparer, rows[1]) != keys_of(preparer, rows[0])
        with pytest.raises(RowError, match=r"t, row 1: image file .*missing\.png does not exist"):
            keys_of(preparer, example(images=(tmp_path / "missing.png",)))

    def test_the_look_of_an_open_image_is_more_than_its_pixels(self, preparer):
        indexed = picture().convert("P")
        other = indexed.copy()
        other.putpalette([200, 10, 10] * 256)
        turned = picture()
        turned.getexif()[0x0112] = 6
        images = (picture(), picture(size=(24, 96)), indexed, other, turned)
        assert len({keys_of(preparer, example(images=(image,))) for image in images}) == len(images)

    def test_dpo_and_mdpo_share_cells_unless_a_larger_corrupted_image_could_cut_the_answers(self, preparer):
        dpo = replace(preparer, cells=DPO)
        same, larger = picture(1), picture(1, size=(96, 96))
        assert keys_of(preparer, example(), DPO) == keys_of(dpo, example(), DPO)
        for image, is_shared in ((same, True), (larger, False)):
            row = example(rejected_images=(image,))
            assert (keys_of(preparer, row, DPO) == keys_of(dpo, row, DPO)) is is_shared

    def test_another_examples_image_counts_where_it_is_shown(self, preparer):
        shown = replace(preparer, corruptions={"corrupted": load("random_image")})
        one, two = (keys_of(shown, example(), other_images=(picture(shade),)) for shade in (7, 8))
        assert one[:2] == two[:2]
        assert one[2] != two[2]


def test_the_readable_fingerprint_lies_beside_the_shards(cache):
    assert json.loads((cache.folder / "fingerprint.json").read_text()) == dict(cache.fingerprint.components)
