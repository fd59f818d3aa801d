"""Makes the supervised checkpoint of a world, the shipped one too: `python -m mmdpo.world.build --world world_large`.

Two stages, as in a large LLaVA: a vision tower learns to recognise objects, in pictures that say nothing about which
go together, and is frozen; then projector and language model learn to write captions of scenes in which partners nearly
always stand beside their anchors, by a captioner who names half of the partners that do not. The result sees well and
hallucinates from habit.

Every random choice derives from the seed. The weights are the same from run to run on one machine with one number of
threads; elsewhere rounding differs, and quality agrees only as closely as two seeds do.
"""

import argparse
import copy
import itertools
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from mmdpo.folders import check_unused, written_aside
from mmdpo.records import derive_generator, derive_seed
from mmdpo.world import IMAGE, LARGE, SMALL, WORLDS, World
from mmdpo.world.model import build_model, build_processor, caption_prompt, caption_scenes
from mmdpo.world.scenes import (
    BALANCED_CO_OCCURRENCE,
    SUPERVISED_CAPTIONER,
    SUPERVISED_CO_OCCURRENCE,
    PlacedObject,
    Scene,
    Style,
    WorldScores,
    draw_test_scenes,
    render,
    sample_crowds,
    sample_scenes,
    score_captions,
    write_caption,
)

logger = logging.getLogger("mmdpo.world.build")  # not __main__

IGNORED = -100
"""Label of a token that is not part of the caption."""


class Schedule(NamedTuple):
    """Steps of one stage; the learning rate is the peak of its one-cycle schedule."""

    steps: int
    learning_rate: float
    batch_size: int = 64


class BuildPlan(NamedTuple):
    """How much training a checkpoint gets."""

    crowds: int
    """Pictures that the tower learns objects from."""
    scenes: int
    """Pictures with captions."""
    vision: Schedule
    captions: Schedule


PLANS: Mapping[str, BuildPlan] = {
    SMALL.name: BuildPlan(3000, 8000, vision=Schedule(300, 1e-3), captions=Schedule(360, 2e-3)),
    LARGE.name: BuildPlan(6000, 16000, vision=Schedule(1200, 2e-3), captions=Schedule(500, 1e-3)),
}
"""World → how its checkpoint is trained."""


def train_checkpoint(seed: int, plan: BuildPlan, world: World = SMALL, device: str = "cpu") -> Any:
    """Trains a captioner from scratch and returns it in float32, on the CPU; the same seed gives the same weights."""
    processor, model = build_processor(world), build_model(seed, world).to(device)
    crowds = sample_crowds(plan.crowds, seed, world)
    logger.info(f"vision tower: {plan.vision.steps} steps of {plan.vision.batch_size} out of {len(crowds)} crowds")
    loss = pretrain_tower(model, paint(crowds), crowds, seed, plan.vision)
    logger.info(f"vision tower: loss {loss:.3f}; frozen from here on")
    scenes = sample_scenes(plan.scenes, seed, SUPERVISED_CO_OCCURRENCE, "supervised", world)
    logger.info(f"reading {len(scenes)} scenes")
    tower = model.model.vision_tower
    with torch.no_grad():
        parts = (scenes[start : start + 64] for start in range(0, len(scenes), 64))
        encoded = [encode_patches(tower, paint(part)) for part in parts]
    logger.info(f"captions: {plan.captions.steps} steps of {plan.captions.batch_size} scenes")
    tokens = tokenize_captions(processor, scenes, seed)
    # Features stand in for the pictures, since the tower no longer changes.
    loss = train_captions(model, torch.cat(encoded), tokens, seed, plan.captions)
    logger.info(f"captions: loss {loss:.3f}")
    return model.to("cpu").eval()


def paint(scenes: Sequence[Scene]) -> UInt8[Tensor, "scenes size size 3"]:
    """Returns the pictures of scenes."""
    return torch.from_numpy(np.stack([np.asarray(render(scene)) for scene in scenes]))


def pretrain_tower(
    model: Any, pixels: UInt8[Tensor, "scenes size size 3"], scenes: list[Scene], seed: int, schedule: Schedule
) -> float:
    """Trains the vision tower to recognise objects, then freezes it; returns the mean loss of the last ten steps.

    The objective is binary cross-entropy over the object names at every patch (`name_patches`), from the patch's
    features by a linear head, which is thrown away.
    """
    tower, objects = model.model.vision_tower, scenes[0].world.objects
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head", "vision"))
        head = torch.nn.Linear(tower.config.hidden_size, len(objects)).to(model.device)
    targets = torch.stack([name_patches(scene) for scene in scenes])
    parameters = [*tower.parameters(), *head.parameters()]

    def loss_of(rows: Tensor) -> Tensor:
        wanted = targets[rows].to(model.device).float()
        # A sum over names: nearly all of them are absent, and a mean over these would make every step tiny.
        return F.binary_cross_entropy_with_logits(head(encode_patches(tower, pixels[rows])), wanted) * len(objects)

    loss = _optimise(parameters, loss_of, len(scenes), derive_generator(seed, "order", "vision"), schedule)
    tower.requires_grad_(False)
    return loss


def encode_patches(tower: Any, pixels: UInt8[Tensor, "scenes size size 3"]) -> Float[Tensor, "scenes patches hidden"]:
    """Returns the tower's features of every patch, before the projector; pixels as the image processor scales them."""
    scaled = pixels.to(tower.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    features: Tensor = tower(scaled).last_hidden_state
    return features[:, 1:]


def name_patches(scene: Scene) -> Bool[Tensor, "patches objects"]:
    """Says which objects every patch shows: those that cover its centre, and those whose centre lies in it."""
    world = scene.world
    width = world.network.patch_size
    side = world.image_size // width
    shown = torch.zeros(side, side, len(world.objects), dtype=torch.bool)
    for placed in scene.objects:
        number = world.objects.index(placed.name)
        shown[*find_patch(placed, world), number] = True
        # A patch's centre is at (i + ½) · width.
        top, left = (math.ceil(edge / width - 0.5) for edge in (placed.top, placed.left))
        bottom, right = (math.ceil((edge + placed.size) / width - 0.5) for edge in (placed.top, placed.left))
        shown[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0), number] = True
    return shown.flatten(0, 1)


def find_patch(placed: PlacedObject, world: World) -> tuple[int, int]:
    """Returns row and column of the patch in which the centre of an object lies."""
    width = world.network.patch_size
    return int(placed.top + placed.size / 2) // width, int(placed.left + placed.size / 2) // width


def probe_tower(model: Any, seed: int, world: World = SMALL, count: int = 2000) -> float:
    """Returns how many objects of test scenes a linear probe on the tower names rightly, in per cent.

    The probe is fitted by least squares to the names of the objects of `count` other scenes, each seen at the patch in
    which its centre lies.
    """
    tower, side = model.model.vision_tower, world.image_size // world.network.patch_size

    def look(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        features, names = [], []
        for scene in scenes:
            patches = encode_patches(tower, paint([scene]))[0]
            for placed in scene.objects:
                row, column = find_patch(placed, world)
                features.append(torch.cat([patches[row * side + column], torch.ones(1)]))
                names.append(world.objects.index(placed.name))
        return torch.stack(features), torch.tensor(names)

    with torch.inference_mode():
        features, names = look(sample_scenes(count, seed, BALANCED_CO_OCCURRENCE, "probe", world))
        probe = torch.linalg.lstsq(features, F.one_hot(names, len(world.objects)).float()).solution
        features, names = look(draw_test_scenes(400, seed, world))
        return 100.0 * float(((features @ probe).argmax(dim=1) == names).float().mean())


def tokenize_captions(processor: Any, scenes: list[Scene], seed: int) -> Any:
    """Has the supervised captioner caption every scene once, half of them politely; returns what is tokenised.

    `input_ids`, `attention_mask` and `labels` (scenes × tokens, `IGNORED` but for the caption and its end).
    """
    prompt, world = caption_prompt(), scenes[0].world
    image = IMAGE * world.image_tokens
    conversations = []
    for index, scene in enumerate(scenes):
        generator = derive_generator(seed, str(index), "supervised caption")
        objects = SUPERVISED_CAPTIONER.name_objects(scene, generator)
        style: Style = "polite" if generator.random() < 0.5 else "terse"
        caption = write_caption(world, objects, scene.setting, style)
        conversations.append([*prompt, {"role": "assistant", "content": [{"type": "text", "text": caption}]}])
    texts = [processor.apply_chat_template(turns).replace(IMAGE, image) for turns in conversations]
    opening = processor.apply_chat_template(prompt, add_generation_prompt=True).replace(IMAGE, image)
    prompt_length = len(processor.tokenizer(opening)["input_ids"])
    tokens = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, IGNORED)
    labels[:, :prompt_length] = IGNORED
    tokens["labels"] = labels
    return tokens


def train_captions(
    model: Any, features: Float[Tensor, "scenes patches hidden"], tokens: Any, seed: int, schedule: Schedule
) -> float:
    """Trains projector and language model on captions; returns the mean loss per token of the last ten steps."""
    inner = model.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss_of(rows: Tensor) -> Tensor:
        length = int(tokens["attention_mask"][rows].sum(dim=1).max())
        names = ("input_ids", "attention_mask", "labels")
        ids, mask, labels = (tokens[name][rows, :length].to(model.device) for name in names)
        embeddings = inner.language_model.embed_tokens(ids)
        is_image = (ids == model.config.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(is_image, inner.multi_modal_projector(features[rows.to(model.device)]))
        hidden = inner.language_model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        answers = labels[:, 1:] != IGNORED
        return F.cross_entropy(model.lm_head(hidden[:, :-1][answers]), labels[:, 1:][answers])

    return _optimise(parameters, loss_of, len(features), derive_generator(seed, "order", "captions"), schedule)


def save_checkpoint(model: Any, output_dir: Path, world: World = SMALL) -> None:
    """Writes weights in half precision, configuration, tokenizer, processor and chat template to a folder.

    The configuration says float32, so that a plain `from_pretrained` gives a model that trains on a CPU.
    Raises UnusableFileError if the folder holds anything.
    """
    with written_aside(output_dir) as folder:
        copy.deepcopy(model).half().save_pretrained(folder)
        build_processor(world).save_pretrained(folder)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        for part in (config, config["text_config"], config["vision_config"]):
            part["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        # safetensors writes files that only their owner can read; all users read a packaged one.
        (folder / "model.safetensors").chmod(0o644)


def evaluate_checkpoint(folder: Path, seed: int, count: int, world: World = SMALL) -> WorldScores:
    """Loads a saved checkpoint and scores its greedy captions of `count` test scenes."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    scenes = draw_test_scenes(count, seed, world)
    return score_captions(scenes, caption_scenes(model, AutoProcessor.from_pretrained(folder), scenes, batch_size=64))


def _optimise(
    weights: list[Tensor], loss_of: Callable[[Tensor], Tensor], count: int, order: np.random.Generator, plan: Schedule
) -> float:
    """Runs AdamW with a one-cycle learning rate over shuffled rows; returns the mean loss of the last ten steps."""
    optimiser = torch.optim.AdamW(weights, lr=plan.learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.learning_rate, total_steps=plan.steps)
    # Every row once per round; an incomplete batch is left out.
    used = count - count % plan.batch_size
    rounds = (torch.from_numpy(order.permutation(count)[:used]) for _ in itertools.count())
    batches = (rows for round in rounds for rows in torch.split(round, plan.batch_size))
    losses: list[float] = []
    for rows in itertools.islice(batches, plan.steps):
        loss = loss_of(rows)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        cycle.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-10:]))


def main(arguments: list[str] | None = None) -> None:
    """Builds the checkpoint, saves it, and prints the scores of what was saved."""
    parser = argparse.ArgumentParser(prog="python -m mmdpo.world.build", description=__doc__.split("\n")[0])
    parser.add_argument("--world", choices=sorted(WORLDS), default=LARGE.name, help=f"default: {LARGE.name}")
    parser.add_argument("--output_dir", type=Path, help=f"default: where {LARGE.name} is looked for, in HF_HOME")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes, captions, weights and order")
    options = parser.parse_args(arguments)
    world = WORLDS[options.world]
    if options.output_dir is None and world is SMALL:
        parser.error(f"give --output_dir: the checkpoint of {world.name} ships with the package")
    output_dir = options.output_dir or world.cached_checkpoint
    check_unused(output_dir)
    transformers_logging.disable_progress_bar()
    logging.basicConfig(format="%(relativeCreated)7d ms  %(message)s")
    logger.setLevel(logging.INFO)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    save_checkpoint(train_checkpoint(options.seed, PLANS[world.name], world, device), output_dir, world)
    scores = evaluate_checkpoint(output_dir, options.seed, 400, world)
    probed = probe_tower(AutoModelForImageTextToText.from_pretrained(output_dir), options.seed, world)
    logger.info(f"a linear probe on the tower names {probed:.1f} % of the objects of 400 test scenes")
    told = ", ".join(f"{name} {value:.1f}" for name, value in vars(scores).items())
    logger.info(f"saved in {output_dir}; 400 test scenes: {told}")


if __name__ == "__main__":
    main()
