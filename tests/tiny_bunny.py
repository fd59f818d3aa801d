"""A Bunny-v1.0-3B checkpoint made tiny: the original's files, key names and two shards; and its network in plain torch.

In the published checkpoint these names are 877, and its two files have exactly as many bytes as they would have in
float16: its tower keeps its last norm, and its head has no bias.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from tiny_tokenizers import gpt2_tokenizer

TOWER = "siglip-tiny"
TOWER_SETTINGS = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=30,  # like 384 by 14, no multiple of the patch
    patch_size=14,
    layer_norm_eps=1e-6,
    hidden_act="gelu_pytorch_tanh",
)

CONFIG: dict[str, Any] = {
    "_name_or_path": "BAAI/bunny-phi-2-siglip",
    "architectures": ["BunnyPhiForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_bunny_phi.BunnyPhiConfig",
        "AutoModelForCausalLM": "modeling_bunny_phi.BunnyPhiForCausalLM",
    },
    "embd_pdrop": 0.0,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "gelu_new",
    "hidden_size": 40,
    "image_aspect_ratio": "pad",
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 256,
    "mm_hidden_size": 24,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": f"google/{TOWER}",
    "model_type": "bunny-phi",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "resid_pdrop": 0.1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 256,
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
    "use_cache": True,
    "use_mm_proj": True,
}


def write_bunny(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Writes the checkpoint and returns its folder; `changes` are keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = gpt2_tokenizer()
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # As the original's: another class, and no token for padding.
    settings = {key: value for key, value in settings.items() if key not in ("pad_token", "backend")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "CodeGenTokenizer"}))
    end = tokenizer.eos_token_id
    config = CONFIG | {"vocab_size": len(tokenizer), **dict.fromkeys(("bos_token_id", "eos_token_id"), end)}
    config |= {"pad_token_id": end, **changes}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True, "eos_token_id": end}))
    (folder / "modeling_bunny_phi.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    (folder / "configuration_bunny_phi.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    weights = make_weights(config, seed, dtype)
    names = list(weights)
    half = len(names) // 2
    weight_map = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def make_weights(config: dict[str, Any], seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Returns random weights under the original's names, large enough that every part of the network shows."""
    wide, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    tower = TOWER_SETTINGS
    shapes = {"model.embed_tokens.weight": (rows, wide)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            shapes |= _linear(f"{at}self_attn.{name}", wide, wide)
        shapes |= _linear(f"{at}mlp.fc1", inner, wide) | _linear(f"{at}mlp.fc2", wide, inner)
        shapes |= _norm(f"{at}input_layernorm", wide)
    shapes |= _norm("model.final_layernorm", wide)
    small, mlp, patch = tower["hidden_size"], tower["intermediate_size"], tower["patch_size"]
    at = "model.vision_tower.vision_tower.vision_model."
    shapes |= {f"{at}embeddings.patch_embedding.weight": (small, 3, patch, patch)}
    shapes |= {f"{at}embeddings.patch_embedding.bias": (small,)}
    shapes |= {f"{at}embeddings.position_embedding.weight": ((tower["image_size"] // patch) ** 2, small)}
    for layer in range(tower["num_hidden_layers"] - 1):
        here = f"{at}encoder.layers.{layer}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{here}self_attn.{name}", small, small)
        shapes |= _linear(f"{here}mlp.fc1", mlp, small) | _linear(f"{here}mlp.fc2", small, mlp)
        shapes |= _norm(f"{here}layer_norm1", small) | _norm(f"{here}layer_norm2", small)
    shapes |= _norm(f"{at}post_layernorm", small)
    shapes |= _linear("model.mm_projector.0", wide, small) | _linear("model.mm_projector.2", wide, wide)
    shapes |= {"lm_head.weight": (rows, wide)}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        made = torch.randn(shape, generator=generator) * (0.25 if len(shape) > 1 else 0.1)
        weights[name] = (made + 1 if "norm" in name and name.endswith("weight") else made).to(dtype)
    return weights


def plain_logits(weights: dict[str, torch.Tensor], before: list[int], pixels: Any, after: list[int]) -> torch.Tensor:
    """Returns the logits [S, V] of text, an image's features in place of a token, and text, in the original's way."""
    weights = {name: tensor.float() for name, tensor in weights.items()}
    embedding = weights["model.embed_tokens.weight"]
    parts = [embedding[before], *([] if pixels is None else [_image_features(weights, pixels)]), embedding[after]]
    states = torch.cat(parts)
    for layer in range(CONFIG["num_hidden_layers"]):
        states = states + _phi_layer(weights, f"model.layers.{layer}.", states)
    return _apply_norm(weights, "model.final_layernorm", states, 1e-5) @ weights["lm_head.weight"].T


def _phi_layer(weights: dict[str, torch.Tensor], at: str, states: torch.Tensor) -> torch.Tensor:
    normed = _apply_norm(weights, f"{at}input_layernorm", states, CONFIG["layer_norm_eps"])
    heads = CONFIG["num_attention_heads"]
    q, k, v = (_split(_apply(weights, f"{at}self_attn.{name}_proj", normed), heads) for name in "qkv")
    turned = int(q.shape[-1] * CONFIG["partial_rotary_factor"])
    q, k = (torch.cat([_rotate(part[..., :turned]), part[..., turned:]], dim=-1) for part in (q, k))
    hidden = torch.full((len(states), len(states)), -math.inf).triu(1)
    attended = ((q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1]) + hidden).softmax(-1) @ v
    attended = _apply(weights, f"{at}self_attn.dense", attended.transpose(0, 1).flatten(1))
    inner = gelu(_apply(weights, f"{at}mlp.fc1", normed), approximate="tanh")
    return attended + _apply(weights, f"{at}mlp.fc2", inner)


def _rotate(part: torch.Tensor) -> torch.Tensor:
    """Turns pairs (i, i + half) of the last axis by position times frequency."""
    half = part.shape[-1] // 2
    frequencies = CONFIG["rope_theta"] ** (-torch.arange(half) / half)
    angles = torch.arange(part.shape[1])[:, None] * frequencies
    first, second = part[..., :half], part[..., half:]
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


def _image_features(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    at = "model.vision_tower.vision_tower.vision_model."
    kernel, bias = (weights[f"{at}embeddings.patch_embedding.{name}"] for name in ("weight", "bias"))
    states = conv2d(pixels[None], kernel, bias, stride=TOWER_SETTINGS["patch_size"])[0].flatten(1).T
    states = states + weights[f"{at}embeddings.position_embedding.weight"]
    for layer in range(TOWER_SETTINGS["num_hidden_layers"] - 1):
        here = f"{at}encoder.layers.{layer}."
        normed = _apply_norm(weights, f"{here}layer_norm1", states, 1e-6)
        names, heads = ("q_proj", "k_proj", "v_proj"), TOWER_SETTINGS["num_attention_heads"]
        q, k, v = (_split(_apply(weights, f"{here}self_attn.{name}", normed), heads) for name in names)
        attended = ((q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        states = states + _apply(weights, f"{here}self_attn.out_proj", attended.transpose(0, 1).flatten(1))
        normed = _apply_norm(weights, f"{here}layer_norm2", states, 1e-6)
        inner = gelu(_apply(weights, f"{here}mlp.fc1", normed), approximate="tanh")
        states = states + _apply(weights, f"{here}mlp.fc2", inner)
    return _apply(weights, "model.mm_projector.2", gelu(_apply(weights, "model.mm_projector.0", states)))


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _apply(weights: dict[str, torch.Tensor], name: str, states: torch.Tensor) -> torch.Tensor:
    return linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _apply_norm(weights: dict[str, torch.Tensor], name: str, states: torch.Tensor, eps: float) -> torch.Tensor:
    return layer_norm(states, states.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def _split(states: torch.Tensor, heads: int) -> torch.Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(0, 1)
