"""Bunny-v1.0-3B, from its own layout into `LlavaForConditionalGeneration` and back, without running its code.

The original is SigLIP without its last layer, a projector of two layers, and Phi-2; it splices image features into the
text where `<image>` stood. transformers' LLaVA computes the same, once `<image>` is a token of its own: one row more in
embedding and head.

Source: https://huggingface.co/BAAI/Bunny-v1_0-3B.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PhiConfig,
    SiglipVisionConfig,
)

from mmdpo.checkpoints.bunny_processor import TOKENIZER_FILES, build_processor
from mmdpo.models.load import BUNNY_LAYOUT
from mmdpo.models.weights import (
    SHARD_BYTES,
    CheckpointError,
    TensorInfo,
    Weights,
    check_names,
    read_json,
    read_weights,
    write_weights,
    written_aside,
)

ORIGINAL = "original"
"""Folder inside a converted checkpoint with the original's small files, which converting back needs."""

KEPT = ("config.json", "generation_config.json", *TOKENIZER_FILES)

VISION_TOWERS: dict[str, dict[str, Any]] = {
    "siglip-so400m-patch14-384": dict(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        layer_norm_eps=1e-6,
        hidden_act="gelu_pytorch_tanh",
    )
}
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
    ("vision_tower.", "model.vision_tower."),
)
"""Beginnings of names that `save_pretrained` writes to disk, and of those in the model."""

ROWS_PER_TOKEN = ("model.language_model.embed_tokens.weight", "lm_head.weight")
"""Tensors that have one row more for `<image>`, by their native names."""

TEXT_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "resid_pdrop", "embd_pdrop", "attention_dropout", "hidden_act", "max_position_embeddings", "initializer_range",
    "layer_norm_eps", "qk_layernorm", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Keys that Phi's configuration has under the same name."""

DEMANDED = {
    "model_type": BUNNY_LAYOUT,
    "mm_projector_type": "mlp2x_gelu",
    "image_aspect_ratio": "pad",
    "tie_word_embeddings": False,
    "rope_scaling": None,
    "use_s2": False,
}
"""What a config.json must say where it says anything; the first has to be there."""


def convert_bunny(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the original checkpoint in `source` as a native LLaVA checkpoint with its processor into `target`.

    Weights keep their precision unless `dtype` is given. One shard is in memory at a time.
    Raises CheckpointError for a checkpoint of another kind, with names missing or left over, or damaged.
    """
    original = _read_original_config(source)
    config = native_config(original)
    weights = read_weights(source, allow_pickle=allow_pickle)
    expected = native_shapes(config)
    vocabulary = int(original["vocab_size"])
    shapes = {
        original_name(name): (vocabulary, *shape[1:]) if name in ROWS_PER_TOKEN else shape
        for name, shape in expected.items()
    }
    found = {name: info.shape for name, info in weights.infos.items() if not _is_dropped(name)}
    check_names(shapes, found, f"{source} is no Bunny-v1.0-3B checkpoint")
    processor = build_processor(source, config)
    infos = {
        name: TensorInfo(shape, dtype or weights.infos[original_name(name)].dtype) for name, shape in expected.items()
    }
    reader = _NativeReader(weights, infos)
    config.dtype = infos["lm_head.weight"].dtype
    with written_aside(target) as folder:
        write_weights(folder, infos, reader, shard_bytes=shard_bytes)
        config.save_pretrained(folder)
        _generation_config(config).save_pretrained(folder)
        processor.save_pretrained(folder)
        _copy_files(source, folder / ORIGINAL)


def revert_bunny(
    source: Path,
    target: Path,
    *,
    original: Path | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a converted (and perhaps trained) checkpoint under the original's names into `target`.

    The original's config.json and tokenizer files come from `original`, by default the folder of that name inside
    `source`. Raises CheckpointError where they are missing or the weights are of another model.
    """
    files = source / ORIGINAL if original is None else original
    if not (files / "config.json").is_file():
        raise CheckpointError(
            f"{files} holds no config.json of the original: name the original checkpoint's folder with --original"
        )
    settings = _read_original_config(files)
    weights = read_weights(source)
    saved = {native_name(name): name for name in weights.infos}
    expected = native_shapes(native_config(settings))
    check_names(
        expected,
        {name: weights.infos[key].shape for name, key in saved.items()},
        f"{source} is no converted Bunny-v1.0-3B",
    )
    rows = int(settings["vocab_size"])
    names = {original_name(name): name for name in expected}
    infos = {
        key: TensorInfo(
            (rows, *expected[name][1:]) if name in ROWS_PER_TOKEN else expected[name],
            dtype or weights.infos[saved[name]].dtype,
        )
        for key, name in names.items()
    }

    def read(key: str) -> Tensor:
        return weights.read(saved[names[key]])[: infos[key].shape[0]].to(infos[key].dtype)

    with written_aside(target) as folder:
        write_weights(folder, infos, read, shard_bytes=shard_bytes)
        _copy_files(files, folder)


def native_config(original: Mapping[str, Any]) -> LlavaConfig:
    """Returns the configuration of the native model. Raises CheckpointError for another vision tower."""
    tower = str(original.get("mm_vision_tower", "")).rstrip("/").rpartition("/")[2]
    if tower not in VISION_TOWERS:
        raise CheckpointError(f"config.json: mm_vision_tower {tower!r} is not supported; {', '.join(VISION_TOWERS)} is")
    settings = VISION_TOWERS[tower]
    vision = SiglipVisionConfig(
        # The original drops the last layer, and the head that pools.
        **{**settings, "num_hidden_layers": settings["num_hidden_layers"] - 1},
        vision_use_head=False,
    )
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


def native_name(saved: str) -> str:
    """Returns the model's own name of a weight that lies on disk under this or an older name."""
    return _rename(saved, SAVED_AS)


@dataclass(frozen=True)
class _NativeReader:
    """Reads the tensor of a native name out of the original's weights."""

    weights: Weights
    infos: Mapping[str, TensorInfo]

    def __call__(self, name: str) -> Tensor:
        tensor = self.weights.read(original_name(name))
        if name not in ROWS_PER_TOKEN:
            return tensor.to(self.infos[name].dtype)
        # Image features replace what is looked up for `<image>`, so the embedding's row is never read. The head's is
        # masked in scoring and generation; for whoever does not mask it, its logit is the mean of all others, and the
        # mean of exponentials is not below the exponential of the mean: it has at most one share in the vocabulary.
        row = tensor.new_zeros(tensor.shape[1]) if name != "lm_head.weight" else _mean_row(tensor)
        grown = torch.empty(self.infos[name].shape, dtype=self.infos[name].dtype)
        grown[:-1], grown[-1] = tensor, row
        return grown


def _mean_row(tensor: Tensor) -> Tensor:
    total = torch.zeros(tensor.shape[1], dtype=torch.float64)
    for part in torch.split(tensor, 1024):
        total += part.double().sum(0)
    return (total / tensor.shape[0]).to(tensor.dtype)


def _read_original_config(folder: Path) -> dict[str, Any]:
    original: dict[str, Any] = read_json(folder / "config.json")
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


def _generation_config(config: LlavaConfig) -> GenerationConfig:
    text = config.text_config
    return GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        suppress_tokens=[config.image_token_index],
    )


def _is_dropped(name: str) -> bool:
    """Says whether a weight of the original is computed anew, or is never used: the tower's pooling head."""
    return name.endswith((".position_ids", ".inv_freq")) or ".vision_model.head." in name


def _rename(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    return next((new + name[len(old) :] for old, new in pairs if name.startswith(old)), name)


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
