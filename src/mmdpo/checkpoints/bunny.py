"""Bunny-v1.0-3B, from its own layout into `LlavaForConditionalGeneration` and back, without running its code.

The original is SigLIP without its last layer, a projector of two layers, and Phi-2; it splices image features into the
text where `<image>` stood. transformers' LLaVA computes the same, once `<image>` is a token of its own: one row more in
embedding and head.

Source: https://huggingface.co/BAAI/Bunny-v1_0-3B.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import (
    AddedToken,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PhiConfig,
    SiglipVisionConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmdpo.folders import written_aside
from mmdpo.models.families import VICUNA
from mmdpo.models.load import BUNNY_LAYOUT
from mmdpo.models.weights import CheckpointError, check_names, read_checkpoint_json, read_weights
from mmdpo.progress import stages

ORIGINAL = "original"
"""Folder inside a converted checkpoint with the original's small files, which converting back needs."""

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",
)  # fmt: skip

SHARD_BYTES = 2_000_000_000
"""Largest file that is written, unless a single tensor is larger."""

VISION_TOWERS: dict[str, dict[str, Any]] = {
    "siglip-so400m-patch14-384": dict(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
        patch_size=14, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    )
}  # fmt: skip
"""Vision towers by the last part of `mm_vision_tower`: the original's config.json holds nothing more of them."""

RENAMED = (
    ("model.language_model.", "model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ("lm_head.", "lm_head."),
)
"""Beginnings of names in `LlavaForConditionalGeneration` and in the original."""

SAVED_AS = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
)
"""Beginnings of names that `save_pretrained` and `mmdpo merge` write to disk, and of those in the model."""

ROWS_PER_TOKEN = ("model.language_model.embed_tokens.weight", "lm_head.weight")
"""Tensors that have one row more for `<image>`, by their native names."""

TEXT_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "resid_pdrop", "embd_pdrop", "attention_dropout", "hidden_act", "max_position_embeddings", "initializer_range",
    "layer_norm_eps", "qk_layernorm", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Keys that Phi's configuration has under the same name."""

DEMANDED = {
    "model_type": BUNNY_LAYOUT, "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad",
    "tie_word_embeddings": False, "rope_scaling": None, "use_s2": False,
}  # fmt: skip
"""What a config.json must say where it says anything; the first has to be there."""


def convert_bunny(source: Path, target: Path, *, dtype: str | None = None, allow_pickle: bool = False) -> None:
    """Writes the original checkpoint in `source` as a native LLaVA checkpoint with its processor into `target`.

    Raises CheckpointError for a checkpoint of another kind, with names missing or left over, or damaged.
    """
    config = native_config(_read_original_config(source))
    with stages(3, "converting") as begin:
        begin("reading weights")
        # Without what is computed anew, and what is never used: the tower's pooling head.
        dropped = re.compile(r"\.position_ids$|\.inv_freq$|\.vision_model\.head\.")
        held = read_weights(source, allow_pickle=allow_pickle)
        found = {name: tensor for name, tensor in held.items() if not dropped.search(name)}
        shapes = native_shapes(config)
        rows = config.image_token_index
        check_names(
            {
                original_name(name): (rows, *shape[1:]) if name in ROWS_PER_TOKEN else shape
                for name, shape in shapes.items()
            },
            {name: tensor.shape for name, tensor in found.items()},
            f"{source} is no Bunny-v1.0-3B checkpoint",
        )
        begin("adding a token")
        processor = build_processor(source, config)
        weights = {name: found[original_name(name)] for name in shapes}
        # Image features replace what is looked up for `<image>`, so the embedding's row is never read. The head's is
        # masked in scoring and generation; for whoever does not mask it, its logit is the mean of all others, and the
        # mean of exponentials is not below the exponential of the mean: it has at most one share in the vocabulary.
        embeddings, head = (weights[name] for name in ROWS_PER_TOKEN)
        mean = torch.stack([part.double().sum(0) for part in torch.split(head, 1024)]).sum(0) / rows
        for name, row in zip(ROWS_PER_TOKEN, (torch.zeros_like(embeddings[0]), mean.to(head.dtype)), strict=True):
            weights[name] = torch.cat([weights[name], row[None]])
        config.dtype = dtype or head.dtype
        ids = {name: getattr(config.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        generation = GenerationConfig(**ids, suppress_tokens=[rows])
        with written_aside(target) as folder:
            begin("writing weights")
            _write_weights(weights, folder, dtype)
            for part in (config, generation, processor):
                part.save_pretrained(folder)
            _copy_files(source, folder / ORIGINAL)


def revert_bunny(source: Path, target: Path, *, original: Path | None = None, dtype: str | None = None) -> None:
    """Writes a converted (and perhaps trained) checkpoint under the original's names into `target`.

    The original's config.json and tokenizer files come from `original`, by default the folder of that name inside
    `source`. Raises CheckpointError where they are missing or the weights are of another model.
    """
    files = source / ORIGINAL if original is None else original
    if not (files / "config.json").is_file():
        raise CheckpointError(
            f"{files} holds no config.json of the original: name the original checkpoint's folder with --original"
        )
    config = native_config(_read_original_config(files))
    weights = {_rename(name, SAVED_AS): tensor for name, tensor in read_weights(source).items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    check_names(native_shapes(config), shapes, f"{source} is no converted Bunny-v1.0-3B")
    for name in ROWS_PER_TOKEN:
        weights[name] = weights[name][: config.image_token_index].clone()
    with written_aside(target) as folder, stages(1, "converting") as begin:
        begin("writing weights")
        _write_weights({original_name(name): tensor for name, tensor in weights.items()}, folder, dtype)
        _copy_files(files, folder)


def build_processor(source: Path, config: LlavaConfig) -> LlavaProcessor:
    """Returns the processor of a converted checkpoint, from the original's tokenizer files in `source`.

    `<image>` is a token of its own there, and the prompt a chat template. Pictures are padded to a square with the grey
    of the mean (127), then resized bicubically, as the original does it.
    Raises CheckpointError for a tokenizer that is missing, or of another size than the embedding.
    """
    held = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not {"tokenizer.json", "vocab.json"} & set(held):
        raise CheckpointError(f"{source} holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
    with tempfile.TemporaryDirectory() as folder:
        # Without its config.json, which points to code of the checkpoint.
        for name in held:
            shutil.copyfile(source / name, Path(folder) / name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise CheckpointError(f"{source}: the tokenizer cannot be loaded ({error})") from error
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    if len(tokenizer) != config.image_token_index:
        raise CheckpointError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens and config.json a vocab_size of "
            f"{config.image_token_index}: they belong to different checkpoints"
        )
    token = AddedToken("<image>", special=True, normalized=False, lstrip=False, rstrip=False)
    tokenizer.add_tokens([token], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    square, half = dict.fromkeys(("height", "width"), config.vision_config.image_size), [0.5] * 3
    images = LlavaImageProcessorPil(
        do_pad=True, size=square, crop_size=square, do_center_crop=False, image_mean=half, image_std=half
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=VICUNA.read_text(encoding="utf-8"),
    )


def native_config(original: Mapping[str, Any]) -> LlavaConfig:
    """Returns the configuration of the native model. Raises CheckpointError for another vision tower."""
    tower = str(original.get("mm_vision_tower", "")).rstrip("/").rpartition("/")[2]
    if tower not in VISION_TOWERS:
        raise CheckpointError(f"config.json: mm_vision_tower {tower!r} is not supported; {', '.join(VISION_TOWERS)} is")
    settings = VISION_TOWERS[tower]
    layers = settings["num_hidden_layers"] - 1  # the original drops the last one, and the head that pools
    vision = SiglipVisionConfig(**{**settings, "num_hidden_layers": layers}, vision_use_head=False)
    vocabulary = int(original["vocab_size"])
    rope = dict(
        rope_type="default",
        rope_theta=float(original.get("rope_theta", 10000.0)),
        partial_rotary_factor=float(original.get("partial_rotary_factor", 0.5)),
    )
    text = PhiConfig(
        vocab_size=vocabulary + 1,
        rope_parameters=rope,
        tie_word_embeddings=False,
        **{key: original[key] for key in TEXT_KEYS if key in original},
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocabulary,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        architectures=[LlavaForConditionalGeneration.__name__],
    )


def native_shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the native model's weights, in its own order."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def original_name(native: str) -> str:
    """Returns the original's name of a weight of the native model."""
    return _rename(native, RENAMED)


def _rename(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    return next((new + name[len(old) :] for old, new in pairs if name.startswith(old)), name)


def _read_original_config(folder: Path) -> dict[str, Any]:
    original: dict[str, Any] = read_checkpoint_json(folder / "config.json")
    for key, wanted in DEMANDED.items():
        found = original.get(key, None if key == "model_type" else wanted)
        if found != wanted and not (found is None and not wanted):
            raise CheckpointError(
                f"{folder / 'config.json'}: {key} is {found!r}, and only {wanted!r} can be converted: this is another "
                "architecture than Bunny-v1.0-3B"
            )
    absent = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if key not in original]
    if absent:
        raise CheckpointError(f"{folder / 'config.json'}: the key {absent[0]!r} is missing")
    return original


def _write_weights(weights: Mapping[str, Tensor], folder: Path, dtype: str | None) -> None:
    cast = {name: tensor if dtype is None else tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    save_torch_state_dict(cast, folder, max_shard_size=SHARD_BYTES)


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
