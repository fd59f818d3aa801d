"""Bunny's processor: its tokenizer with `<image>` as a token, its prompt as a chat template, its preprocessing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from transformers import AddedToken, AutoTokenizer, LlavaConfig, LlavaProcessor, PreTrainedTokenizerBase
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmdpo.models.families import VICUNA
from mmdpo.models.weights import CheckpointError

IMAGE_TOKEN = "<image>"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def build_processor(source: Path, config: LlavaConfig) -> LlavaProcessor:
    """Returns the processor of a converted checkpoint, from the original's tokenizer files in `source`.

    Pictures are padded to a square with the grey of the mean (127), then resized bicubically, as the original does it.
    Raises CheckpointError for a tokenizer that is missing, or of another size than the embedding.
    """
    tokenizer = _load_tokenizer(source)
    if len(tokenizer) != config.image_token_index:
        raise CheckpointError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens and config.json a vocab_size of "
            f"{config.image_token_index}: they belong to different checkpoints"
        )
    token = AddedToken(IMAGE_TOKEN, special=True, normalized=False, lstrip=False, rstrip=False)
    tokenizer.add_tokens([token], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    images = LlavaImageProcessorPil(
        do_pad=True,
        size=square,
        crop_size=square,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=VICUNA.read_text(encoding="utf-8"),
    )


def _load_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    held = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not {"tokenizer.json", "vocab.json"} & set(held):
        raise CheckpointError(f"{source} holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
    with tempfile.TemporaryDirectory() as folder:
        # Without its config.json, which points to code of the checkpoint.
        for name in held:
            shutil.copyfile(source / name, Path(folder) / name)
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise CheckpointError(f"{source}: the tokenizer cannot be loaded ({error})") from error
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer
