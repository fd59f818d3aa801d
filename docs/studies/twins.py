"""How well a model of the large world tells twins from partners: `python docs/studies/twins.py [MODEL]`.

Takes every twin of 400 test scenes, then the same picture with the partner in its place, and prints the probability
of either word where the partner's would stand in the caption, by the size of the object in pixels.
"""

import sys
from collections import defaultdict
from dataclasses import replace

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo.world import LARGE
from mmdpo.world.model import caption_prompt
from mmdpo.world.scenes import draw_test_scenes, render


def main(name: str) -> None:
    """Prints one line for each range of sizes."""
    model, processor = AutoModelForImageTextToText.from_pretrained(name), AutoProcessor.from_pretrained(name)
    opening = processor.apply_chat_template(caption_prompt(), add_generation_prompt=True)
    partners = {twin: partner for partner, twin in LARGE.twins.items()}
    found: dict[int, list[list[float]]] = defaultdict(list)
    for scene in draw_test_scenes(400, 0, world=LARGE):
        for placed in scene.objects:
            if placed.name not in partners:
                continue
            words = (partners[placed.name], placed.name)
            ids = [LARGE.vocabulary.index(word) for word in words]
            before = [n for n in scene.names if LARGE.objects.index(n) < LARGE.objects.index(words[0])]
            text = opening + "".join(f" {name} ," for name in before)
            row: list[float] = []
            for shown in words[::-1]:
                objects = tuple(p._replace(name=shown) if p is placed else p for p in scene.objects)
                inputs = processor(images=[render(replace(scene, objects=objects))], text=[text], return_tensors="pt")
                with torch.inference_mode():
                    row += model(**inputs).logits[0, -1].softmax(-1)[ids].tolist()
            found[placed.size // 10 * 10].append(row)
    for size, rows in sorted(found.items()):
        twin_there, partner_there = torch.tensor(rows).mean(0).split(2)
        print(
            f"{size} to {size + 9} pixels, {len(rows)} twins: "
            f"where the twin stands, p(partner) {twin_there[0]:.2f}, p(twin) {twin_there[1]:.2f}; "
            f"where the partner stands, {partner_there[0]:.2f}, {partner_there[1]:.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(LARGE.checkpoint))
