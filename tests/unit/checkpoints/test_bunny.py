"""Bunny's conversion: the same network, character for character the same prompt, the same pixels, and the way back."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaConfig

from mmdpo.checkpoints.bunny import convert_bunny, native_config, native_shapes, original_name, revert_bunny
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.models.weights import CheckpointError, read_weights
from mmdpo.training import assembly
from mmdpo.training.config import MDPOConfig
from tiny_bunny import make_weights, plain_logits, write_bunny

OPENING = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
PICTURE = Image.effect_noise((50, 31), 80).convert("RGB")


def ids(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


class TestTheNetwork:
    def test_logits_equal_those_of_the_original_in_plain_torch(self, original, converted):
        model, loading = AutoModelForImageTextToText.from_pretrained(converted, output_loading_info=True)
        assert not any(loading.values()), loading
        processor = AutoProcessor.from_pretrained(converted)
        before, after = f"{OPENING}USER: ", "\nWhat is in the picture? ASSISTANT: A red cup.<|endoftext|>"
        inputs = processor(text=f"{before}<image>{after}", images=PICTURE, return_tensors="pt")
        with torch.no_grad():
            found = model(**inputs).logits[0]
        pixels = inputs["pixel_values"][0]
        expected = plain_logits(read_weights(original), ids(processor, before), pixels, ids(processor, after))
        assert found.shape[1] == expected.shape[1] + 1
        assert expected.std() > 0.5
        torch.testing.assert_close(found[:, :-1], expected, rtol=1e-5, atol=1e-5)

    def test_whoever_does_not_mask_the_row_of_image_gives_it_at_most_one_share(self, converted):
        model = AutoModelForImageTextToText.from_pretrained(converted)
        *others, row = model.lm_head.weight.detach().double()
        torch.testing.assert_close(row, torch.stack(others).mean(0), rtol=0, atol=1e-7)
        chances = model.lm_head(10 * torch.randn(200, 40)).softmax(-1)
        assert chances[:, -1].max() <= 1 / chances.shape[1]

    def test_generation_never_says_image(self, converted):
        model, processor = (kind.from_pretrained(converted) for kind in (AutoModelForImageTextToText, AutoProcessor))
        with torch.no_grad():  # now nothing else would be said
            model.lm_head.weight.zero_()
            model.lm_head.weight[-1] = 1.0
            model.model.language_model.final_layernorm.weight.zero_()
            model.model.language_model.final_layernorm.bias.fill_(1.0)
        inputs = processor(text="USER: <image>\nWhat? ASSISTANT:", images=PICTURE, return_tensors="pt")
        said = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert model(**inputs).logits[0, -1].argmax() == processor.image_token_id
        assert len(said)
        assert processor.image_token_id not in said.tolist()


class TestScoring:
    def test_log_probabilities_are_those_of_the_softmax_without_the_added_row(self, original, converted, tmp_path):
        from mmdpo.data.items import Items

        args = MDPOConfig(output_dir=str(tmp_path / "run"), objective="dpo", use_cpu=True, report_to="none")
        model, processor = (
            load_model(resolve_start(str(converted), args.load_options())),
            load_processor(resolve_start(str(converted), args.load_options())),
        )
        with torch.no_grad():
            model.lm_head.weight[-1] = 3.0  # as training the whole model could leave it
        prompt, answers = (
            f"{OPENING}USER: <image>\nWhat is this? ASSISTANT:",
            {"chosen": " A cup.", "rejected": " A dog"},
        )
        row = {"images": [PICTURE], "prompt": prompt, **answers}
        collator = assembly.build_collator(processor, model.config, args)
        examples = PreferenceDataset.from_rows([row], name="one")
        batch = collator([Items(examples, seed=0, draw_others=False, per_epoch=False)[0]])
        cells = args.build_objective().cells
        scorer = assembly.build_scorer(model, collator.prepare.renderer.family, cells, args)
        with torch.no_grad():
            found = scorer(batch, cells).logprobs[:, 0]

        weights = read_weights(original)
        pixels = processor.image_processor(PICTURE, return_tensors="pt")["pixel_values"][0]
        opening, question = (ids(processor, part) for part in prompt.split("<image>"))
        expected = []
        for cell in cells:
            answer = ids(processor, answers[cell.response] + "<|endoftext|>")
            logits = plain_logits(weights, opening, pixels, question + answer)[-len(answer) - 1 : -1]
            expected.append(logits.log_softmax(-1)[range(len(answer)), answer].sum())
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-4)
        assert "lm_head.bias" not in model.state_dict(), "the mask is not saved"


class TestThePrompt:
    def test_the_chat_template_writes_the_original_s_text(self, converted):
        processor = AutoProcessor.from_pretrained(converted)
        turns = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat is this? "}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        ]
        prompt = processor.apply_chat_template(turns[:1], add_generation_prompt=True)
        assert prompt == f"{OPENING}USER: <image>\nWhat is this? ASSISTANT:"
        assert processor.apply_chat_template(turns) == f"{prompt} A cup.<|endoftext|>"
        more = [*turns, {"role": "user", "content": "Sure?"}]
        continued = processor.apply_chat_template(more, add_generation_prompt=True)
        assert continued == f"{prompt} A cup.<|endoftext|>USER: Sure? ASSISTANT:"
        own = [{"role": "system", "content": "Be brief."}, *turns[:1]]
        assert processor.apply_chat_template(own).startswith("Be brief. USER: <image>\nWhat")

    def test_image_is_one_token_that_swallows_no_space_and_no_line_break(self, original, converted):
        processor = AutoProcessor.from_pretrained(converted)
        inputs = processor(text=f"{OPENING}USER: <image>\nWhat? ASSISTANT:", images=PICTURE)
        # The original tokenises the text on either side by itself.
        before, after = (ids(processor, part) for part in (f"{OPENING}USER: ", "\nWhat? ASSISTANT:"))
        patches = [processor.image_token_id] * 4
        assert np.array(inputs["input_ids"]).tolist() == [before + patches + after], "no BOS"
        assert processor.image_token_id == json.loads((original / "config.json").read_text())["vocab_size"]
        assert processor.tokenizer.decode(before) == f"{OPENING}USER: "

    def test_pictures_are_padded_with_grey_then_resized(self, converted):
        processor = AutoProcessor.from_pretrained(converted)
        for picture in (PICTURE, PICTURE.rotate(90, expand=True), PICTURE.crop((0, 0, 31, 31))):
            side = max(picture.size)
            square = Image.new("RGB", (side, side), (127, 127, 127))
            square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
            resized = np.asarray(square.resize((30, 30), Image.Resampling.BICUBIC), dtype=np.float32)
            found = np.asarray(processor.image_processor(picture)["pixel_values"][0])
            np.testing.assert_allclose(found, (resized / 255 - 0.5).transpose(2, 0, 1) / 0.5, atol=1e-6)


PUBLISHED = dict(
    model_type="bunny-phi", hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, vocab_size=50295, partial_rotary_factor=0.4, resid_pdrop=0.1, hidden_act="gelu_new",
    max_position_embeddings=2048, bos_token_id=50256, eos_token_id=50256, pad_token_id=50256,
    mm_vision_tower="google/siglip-so400m-patch14-384",
)  # fmt: skip


class TestThePublishedCheckpoint:
    """Bunny-v1.0-3B itself, as far as it can be known without its weights."""

    def test_names_shapes_and_bytes(self):
        shapes = native_shapes(native_config(PUBLISHED))
        assert len(shapes) == 877
        rows = {"lm_head.weight", "model.language_model.embed_tokens.weight"}
        counts = {name: torch.Size(shape).numel() - 2560 * (name in rows) for name, shape in shapes.items()}
        # The bytes of its two published files, 6,364,624,584, less those of their headers.
        assert sum(counts.values()) * 2 == 6_364_509_248
        assert shapes["model.vision_tower.encoder.layers.25.mlp.fc1.weight"] == (4304, 1152)
        assert not any("layers.26" in name for name in shapes if "vision" in name)

    def test_configuration(self):
        config = native_config(PUBLISHED)
        assert (config.image_token_index, config.image_seq_length, config.text_config.vocab_size) == (50295, 729, 50296)
        assert config.text_config.rope_parameters["partial_rotary_factor"] == 0.4
        assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-1, "full")


class TestTheWayBack:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_a_round_trip_gives_every_bit_and_every_file_again(self, tmp_path, tiny_tower, dtype, monkeypatch):
        source = write_bunny(tmp_path / "source", dtype=dtype)
        monkeypatch.setattr("mmdpo.checkpoints.bunny.SHARD_BYTES", 30_000)
        convert_bunny(source, tmp_path / "there")
        assert len(list((tmp_path / "there").glob("*.safetensors"))) > 3
        assert LlavaConfig.from_pretrained(tmp_path / "there").dtype == dtype
        revert_bunny(tmp_path / "there", tmp_path / "back")
        first, second = read_weights(source), read_weights(tmp_path / "back")
        assert first.keys() == second.keys()
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        assert all(torch.equal(first[name].view(bits), second[name].view(bits)) for name in first)
        for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()

    def test_what_transformers_saved_again_goes_back_too(self, original, converted, tmp_path):
        model = AutoModelForImageTextToText.from_pretrained(converted)
        model.save_pretrained(tmp_path / "saved")  # under older names
        with pytest.raises(CheckpointError, match="--original"):
            revert_bunny(tmp_path / "saved", tmp_path / "back")
        revert_bunny(tmp_path / "saved", tmp_path / "back", original=original)
        first, second = read_weights(original), read_weights(tmp_path / "back")
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_another_precision_where_asked_for(self, original, tmp_path):
        convert_bunny(original, tmp_path / "small", dtype="bfloat16")
        assert {tensor.dtype for tensor in read_weights(tmp_path / "small").values()} == {torch.bfloat16}
        assert AutoModelForImageTextToText.from_pretrained(tmp_path / "small", dtype="auto").dtype == torch.bfloat16


class TestRefusals:
    @pytest.fixture
    def source(self, original):
        return original

    def change(self, source, **tensors):
        """Changes tensors of the second shard; None removes one."""
        path, index = source / "model-00002-of-00002.safetensors", source / "model.safetensors.index.json"
        held = load_file(path)
        weight_map = json.loads(index.read_text())["weight_map"]
        for name, tensor in tensors.items():
            held.pop(name, None)
            weight_map.pop(name, None)
            if tensor is not None:
                held[name], weight_map[name] = tensor, path.name
        save_file(held, path)
        index.write_text(json.dumps({"weight_map": weight_map}))

    def refused(self, source, message):
        target = source.parent / "target"
        with pytest.raises(CheckpointError, match=message):
            convert_bunny(source, target)
        assert not target.exists()
        assert not list(source.parent.glob(".target*"))

    def test_strangers_missing_names_and_other_shapes_are_listed(self, source):
        changes = {
            "lm_head.bias": torch.zeros(3),
            "model.mm_projector.0.bias": None,
            "lm_head.weight": torch.zeros(3, 40),
        }
        self.change(source, **changes)
        self.refused(
            source,
            r"1 missing: model\.mm_projector\.0\.bias; 1 unknown: lm_head\.bias; "
            r"1 of another shape: lm_head\.weight is \[3, 40\] instead of \[401, 40\]",
        )

    def test_what_is_computed_anew_or_never_used_is_dropped(self, source, tmp_path):
        at = "model.vision_tower.vision_tower.vision_model."
        extra = {f"{at}embeddings.position_ids": torch.arange(4), f"{at}head.probe": torch.zeros(1, 1, 24)}
        self.change(source, **extra, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
        convert_bunny(source, tmp_path / "target")
        assert {original_name(name) for name in read_weights(tmp_path / "target")} == set(
            make_weights(json.loads((source / "config.json").read_text()), 0, torch.float32)
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_type": "llava"}, "model_type is 'llava'.*another architecture"),
            ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
            ({"use_s2": True}, "use_s2 is True"),
            ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "mm_vision_tower 'clip-vit-large-patch14-336'"),
            ({"num_hidden_layers": 3}, "missing: model.layers.2.input_layernorm.bias"),
            ({"vocab_size": 402}, "of another shape"),
        ],
        ids=str,
    )
    def test_a_configuration_of_another_model(self, source, changes, message):
        config = json.loads((source / "config.json").read_text()) | changes
        (source / "config.json").write_text(json.dumps(config))
        self.refused(source, message)

    def test_no_configuration_no_tokenizer(self, source):
        (source / "tokenizer.json").unlink()
        self.refused(source, r"holds no tokenizer")
        (source / "config.json").unlink()
        self.refused(source, r"cannot read .*config\.json: No such file")

    def test_a_tokenizer_of_another_checkpoint(self, source):
        rules = json.loads((source / "tokenizer.json").read_text())
        rules["added_tokens"].append({**rules["added_tokens"][0], "id": 401, "content": "<extra>"})
        (source / "tokenizer.json").write_text(json.dumps(rules))
        self.refused(source, "the tokenizer has 402 tokens and config.json a vocab_size of 401")

    def test_pickled_weights(self, source, tmp_path):
        tensors = read_weights(source)
        for path in source.glob("*.safetensors*"):
            path.unlink()
        torch.save(tensors, source / "pytorch_model.bin")
        self.refused(source, "pickled weights alone")
        convert_bunny(source, tmp_path / "allowed", allow_pickle=True)
        assert torch.equal(read_weights(tmp_path / "allowed")["lm_head.weight"][:-1], tensors["lm_head.weight"])

    def test_going_back_from_another_model(self, converted, tmp_path):
        shutil.copytree(converted, tmp_path / "other")
        config = json.loads((tmp_path / "other" / "original" / "config.json").read_text())
        (tmp_path / "other" / "original" / "config.json").write_text(json.dumps(config | {"hidden_size": 44}))
        with pytest.raises(CheckpointError, match=r"is no converted Bunny-v1\.0-3B: .* of another shape"):
            revert_bunny(tmp_path / "other", tmp_path / "back")
