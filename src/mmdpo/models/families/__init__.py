"""What differs between vision-language architectures, with defaults that hold for most of them.

Every other room asks a `Family` and names no architecture. A file here has `FAMILIES`, which the contract tests have
proven: `plain.py` those that settings tell apart, any other one a subclass that overrides what differs.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmdpo.models.image_features import find_image_reader
from mmdpo.models.seams import attention_of
from mmdpo.registry import Registry

VICUNA = Path(__file__).parent / "vicuna.jinja"
"""Chat template of LLaVA-1.5 and Bunny-v1.0, as they were trained; `chat_template: vicuna` in a recipe."""
PARTS = ("language_model", "projector", "vision_tower")
"""The parts of a vision-language model, as options and tables name them."""
PROJECTOR_WORDS = (
    "projector", "connector", "merger", "resampler", "aligner", "mlp1", "embed_vision", "image_newline",
    "visual_embeddings_table", "vision_projection",
)  # fmt: skip

PROVEN_DECODERS = (
    "llama", "mistral", "phi", "qwen2", "qwen3", "gemma", "gemma3_text", "qwen2_vl_text", "qwen2_5_vl_text",
    "qwen3_vl_text", "qwen3_vl_moe_text", "glm4v_text", "glm4v_moe_text", "cohere2", "exaone4", "gemma4_text",
    "granite4_vision_text", "hyperclovax", "deepseek_v3", "gemma3n_text",
)  # fmt: skip
"""Text decoders, by `model_type`, that the contract test has scored with shared prefixes."""

CHANGES_OF_LOGITS = (
    "final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap", "lm_head_multiplier",
)  # fmt: skip
"""Options of text decoders that do something to logits after the output head."""


@dataclass(frozen=True)
class Parts:
    """Paths of the text decoder and the output head inside a model; what lies elsewhere reads images."""

    language_model: str
    head: str

    def part_of(self, name: str) -> str:
        """Returns the part that a module or parameter belongs to: `language_model`, `projector` or `vision_tower`."""
        if any(name == path or name.startswith(f"{path}.") for path in (self.language_model, self.head)):
            return "language_model"
        return "projector" if any(word in name for word in PROJECTOR_WORDS) else "vision_tower"

    def pattern_of(self, parts: Collection[str]) -> str:
        """Returns a regular expression that matches the paths of all modules of these parts, and no other."""
        text = rf"({re.escape(self.language_model)}|{re.escape(self.head)})(\..*)?"
        projector = f".*({'|'.join(PROJECTOR_WORDS)}).*"
        patterns = {
            "language_model": text,
            "projector": f"(?!{text}$){projector}",
            "vision_tower": f"(?!{text}$)(?!{projector}$).+",
        }
        return "|".join(patterns[part] for part in parts)


@dataclass(frozen=True, eq=False)
class Family:
    """The generic family: any `AutoModelForImageTextToText` whose forward merges image features into text."""

    model_types: tuple[str, ...] = ()
    """`config.model_type` values that belong to the family; empty for the generic one."""
    shares_prefix: bool = False
    """Whether the contract test has proven that answers after one prompt in one row score as they do alone."""
    both_directions: bool = False
    """Whether a prompt is read in both directions: what two prompts begin with is then read otherwise in each."""
    answer_token_types: Mapping[str, int] = field(default_factory=dict)
    """Value of a token-aligned processor output (`token_type_ids`, …) over the answer; 0 unless named here."""
    refused: str | None = None
    """Why none of its models can be trained; None for those that can."""
    unadapted: tuple[str, ...] = ()
    """Last names of linear layers that LoRA leaves as they are, since PEFT takes them for something else."""
    sizes_stay_on_host: bool = False
    """Whether the model's own forward takes sizes of images from the host, where pixels lie on a device: it makes lists
    of them, and a list of what lies on a device waits for it."""

    def check(self, model: nn.Module) -> None:
        """Raises ValueError, with the reason, for a model whose answers cannot be scored."""
        kind, config = type(model).__name__, model.config
        if self.refused is not None:
            raise ValueError(f"{kind} cannot be trained: {self.refused}")
        if not any(callable(getattr(type(module), "get_image_features", None)) for module in model.modules()):
            raise ValueError(
                f"{kind} has no get_image_features: it is not a vision-language model that mmdpo can train"
            )
        if any(getattr(part, "is_encoder_decoder", False) for part in (config, config.get_text_config())):  # type: ignore[union-attr, operator]
            raise ValueError(
                f"{kind} cannot be trained: it is an encoder and a decoder, and mmdpo trains models whose decoder "
                "reads picture, prompt and answer as one sequence"
            )
        self.locate_parts(model)
        find_image_reader(model)

    def cannot_share(self, model: nn.Module) -> str | None:
        """Returns why cells of this model can never share a row with their prompt, None where they might."""
        decoder = model.get_decoder()  # type: ignore[operator]
        kinds = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if kinds:
            return f"its text decoder has layers of {', '.join(sorted(kinds))}, which read a row as one sequence"
        if attention_of(decoder) == "eager":
            return "it was loaded with attn_implementation: eager; sdpa and flex_attention can share"
        return None

    def why_separate(self, model: nn.Module) -> str | None:
        """Returns why the contract test has not proven that cells of this model can share rows, None where it has."""
        decoder = model.get_decoder().config  # type: ignore[operator]
        if not self.shares_prefix:
            return f"{type(model).__name__} is not among the model families proven to share prefixes"
        if decoder.model_type not in PROVEN_DECODERS:
            return f"its text decoder, {decoder.model_type}, is not among those proven to share prefixes"
        return self.cannot_share(model)

    def head_is_last(self, model: nn.Module) -> bool:
        """Says whether the model gives out what its output head returns, unchanged."""
        decoder = model.get_decoder().config  # type: ignore[operator]
        is_changed = any(getattr(decoder, name, None) is not None for name in CHANGES_OF_LOGITS)
        return self.shares_prefix and decoder.model_type in PROVEN_DECODERS and not is_changed

    def prompt_positions(self, model: nn.Module, batch: Mapping[str, Any]) -> Int[Tensor, "3 K P"] | None:
        """Returns the M-RoPE positions (time, height, width) of each context alone, None where they count tokens.

        They are worked out on the host, where they lie.
        """
        owner = next((module for module in model.modules() if hasattr(type(module), "get_rope_index")), None)
        if owner is None or "mm_token_type_ids" not in batch["token_types"]:
            return None  # in the second case, no context of the batch has an image
        grids = batch["image_sizes"].get("image_grid_thw")
        positions: Tensor = owner.get_rope_index(  # type: ignore[operator]
            torch.as_tensor(batch["prompt_ids"]),
            mm_token_type_ids=torch.as_tensor(batch["token_types"]["mm_token_type_ids"]),
            image_grid_thw=None if grids is None else torch.as_tensor(grids),
            attention_mask=torch.as_tensor(batch["prompt_mask"]).long(),
        )[0]
        return positions

    def plan_encoder(self, owner: Any, sizes: Mapping[str, Tensor], device: Any) -> dict[str, Any]:
        """Returns further arguments of `get_image_features`, which its tower would else work out from sizes: none.

        `sizes` are among the arguments that it is given; `device` is where the pictures lie.
        """
        return {}

    def image_placeholder(self, processor: Any) -> str:
        """Returns what stands for one image in a plain-text prompt given to the model's processor.

        It is what the chat template writes for an image, marks around it included; the image token alone where there is
        no template, or one that moves images in front of the text.
        """
        token = getattr(processor, "image_token", None)
        if not isinstance(token, str):
            raise ValueError(
                f"{type(processor).__name__} names no image token, so `<image>` in plain prompts cannot be translated; "
                "give conversational prompts (a list of messages) instead"
            )
        if not getattr(processor, "chat_template", None):
            return token
        parts = [{"type": "text", "text": "first-part"}, {"type": "image"}, {"type": "text", "text": "second-part"}]
        rendered = processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
        written = str(rendered).partition("first-part")[2].partition("second-part")[0].strip()
        return written if written.count(token) == 1 else token

    def image_token_id(self, processor: Any) -> int | None:
        """Returns the token that an image's features replace, None where neither processor nor tokenizer names it."""
        owners = processor, getattr(processor, "tokenizer", None)
        return next((token for owner in owners if (token := getattr(owner, "image_token_id", None)) is not None), None)

    def complete_prompt(self, processor: Any, prompt: str) -> str:
        """Returns a prompt with what the model's processor itself writes around it: nothing, for most."""
        return prompt

    def pad_to_square(self, processor: Any) -> None:
        """Lets a processor pad pictures to a square before it resizes them. Raises ValueError where that is unknown."""
        raise ValueError(
            f"pad_to_square works for LLaVA-1.5 and its kin; {type(processor).__name__} reads pictures in their shape"
        )

    def generate(self, model: nn.Module, **inputs: Any) -> Any:
        """Returns what transformers' `generate` returns for these inputs and options."""
        return model.generate(**inputs)  # type: ignore[operator]

    def locate_parts(self, model: nn.Module) -> Parts:
        """Returns where the parts of the model lie. Raises ValueError for a model without a text decoder of its own."""
        decoder, head = model.get_decoder(), model.get_output_embeddings()  # type: ignore[operator]
        paths = {id(module): name for name, module in model.named_modules()}
        if not paths.get(id(decoder)) or id(head) not in paths:
            raise ValueError(
                f"{type(model).__name__} has no text decoder and head inside (get_decoder, get_output_embeddings): it "
                "is not a vision-language model that mmdpo can train"
            )
        return Parts(language_model=paths[id(decoder)], head=paths[id(head)])

    def lora_targets(self, model: nn.Module, parts: tuple[str, ...] = ("language_model",)) -> str:
        """Returns a regular expression that matches the full path of every linear layer of the named parts.

        It matches no other module, no layer that LoRA cannot adapt, and not the output head: a `q_proj` of the vision
        tower is never meant. Raises ValueError for parts without such a layer.
        """
        located = self.locate_parts(model)
        paths = [
            name
            for name in find_adaptable(model)
            if name != located.head and located.part_of(name) in parts and name.rpartition(".")[2] not in self.unadapted
        ]
        if not paths:
            raise ValueError(f"{type(model).__name__} has no linear layer in {', '.join(parts)} that LoRA could adapt")
        return _match_paths(paths, {name for name, _ in model.named_modules()} - set(paths))


def find_adaptable(model: nn.Module) -> dict[str, nn.Linear]:
    """Returns the linear layers that LoRA can adapt, by path.

    LoRA adds a product to what a layer returns. torch's MultiheadAttention reads the weight of its output projection
    and never calls it, so that nothing would be added; and a subclass that comes with a model, such as the router of
    Llama 4, returns something else than the product.
    """
    uncalled = {
        id(layer)
        for attention in model.modules()
        if isinstance(attention, nn.MultiheadAttention)
        for layer in attention.modules()
    }
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and id(module) not in uncalled
        and not type(module).__module__.startswith(("transformers.models.", "transformers_modules."))
    }


def _match_paths(paths: Collection[str], others: Collection[str]) -> str:
    """Returns a regular expression that matches the paths and none of the others.

    Numbers of layers are folded where that holds, so that the pattern stays readable in adapter_config.json.
    """
    patterns: dict[str, None] = {}
    for path in paths:
        parts = path.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdigit()]
        candidates = (
            r"\.".join(r"\d+" if place in numbers[:folded] else re.escape(part) for place, part in enumerate(parts))
            for folded in range(len(numbers), -1, -1)
        )
        for pattern in candidates:
            if pattern in patterns or not any(re.fullmatch(pattern, other) for other in others):
                patterns[pattern] = None
                break
    return "|".join(patterns)


@cache
def _families() -> dict[str, Family]:
    registry = Registry("models.families", "model family")
    found = (family for name in registry.names() for family in registry.load(name).FAMILIES)
    return {model_type: family for family in found for model_type in family.model_types}


def find_family(config: Any) -> Family:
    """Returns the family of a model's configuration; the generic one where no file claims its `model_type`."""
    return _families().get(config.model_type, Family())
