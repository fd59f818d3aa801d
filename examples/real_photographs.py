"""Trains one mDPO step on real photographs, and evaluates, through the real LLaVA classes at a tiny size.

    python examples/real_photographs.py [FOLDER]

The photographs come with scikit-image (`pip install scikit-image`). They are written as users have them: JPEGs of
several sizes and shapes, a greyscale, a palette PNG, one that its EXIF tag turns by a quarter. The model's weights are
random, so the numbers mean nothing; with a name from the hub in place of `build_model` the same lines train a real one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from PIL import Image
from skimage import data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPImageProcessorPil

from mmdpo import MDPOConfig, MDPOTrainer

EXIF_ORIENTATION, QUARTER_TURN = 0x0112, 6
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def write_photographs(folder: Path) -> dict[str, str]:
    """Writes the photographs and returns a true description of each, by file name."""
    astronaut, coffee = Image.fromarray(data.astronaut()), Image.fromarray(data.coffee())
    camera = Image.fromarray(data.camera())
    folder.mkdir(parents=True, exist_ok=True)
    astronaut.save(folder / "astronaut.jpg", quality=90)
    astronaut.crop((0, 0, 512, 170)).save(folder / "banner.jpg", quality=75)
    coffee.save(folder / "coffee.jpg", quality=85)
    camera.save(folder / "grey.jpg", quality=90)
    coffee.resize((300, 200)).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(folder / "palette.png")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = QUARTER_TURN
    coffee.resize((240, 160)).rotate(90, expand=True).save(folder / "turned.jpg", exif=exif)
    return {
        "astronaut.jpg": "A woman in an orange space suit stands in front of a flag.",
        "banner.jpg": "The upper part of a portrait, wide and low.",
        "coffee.jpg": "A cup of coffee stands on a wooden table.",
        "grey.jpg": "A man with a camera on a lawn, in black and white.",
        "palette.png": "A cup of coffee in few colours.",
        "turned.jpg": "A cup of coffee, taken with the camera turned.",
    }


def write_pairs(folder: Path) -> Path:
    """Writes preference pairs in TRL's format beside the photographs: the truth is preferred to a false sentence."""
    truths = write_photographs(folder)
    rows = [
        {
            "images": [str(folder / name)],
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": truth}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A dog runs along the beach."}]}],
        }
        for name, truth in truths.items()
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def build_processor(texts: list[str]) -> Any:
    """Returns LLaVA's own processor with a byte-pair tokenizer learnt from the texts and small images."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, do_convert_rgb=True
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", image_token="<image>"
        ),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build_model(processor: Any) -> LlavaForConditionalGeneration:
    """Returns a LLaVA of some hundred thousand random parameters."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        **shape,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**shape, image_size=56, patch_size=14, projection_dim=64)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=processor.image_token_id)
    )


def main(folder: Path) -> MDPOTrainer:
    """Trains one step with mDPO, evaluates, prints both, and returns the trainer."""
    dataset = load_dataset("json", data_files=str(write_pairs(folder / "photographs")), split="train")
    processor = build_processor((folder / "photographs" / "pairs.jsonl").read_text().splitlines())
    args = MDPOConfig(
        output_dir=str(folder / "run"),
        objective="mdpo",
        max_steps=1,
        per_device_train_batch_size=len(dataset),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
    )
    trainer = MDPOTrainer(
        build_model(processor), args=args, train_dataset=dataset, eval_dataset=dataset, processing_class=processor
    )
    trainer.train()
    for name, value in trainer.evaluate().items():
        print(f"{name:<32} {value:.4f}")
    return trainer


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="mmdpo-")))
