"""`mmdpo merge`: from a run folder to one model that other tools load."""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, ProcessorMixin

from mmdpo.checkpoints import bunny
from mmdpo.checkpoints.card import find_base, write_card
from mmdpo.checkpoints.layout import write_as_on_the_hub
from mmdpo.data.collate import Collator
from mmdpo.data.items import Item
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.folders import written_aside
from mmdpo.models.families import find_family
from mmdpo.models.load import build_empty_model, load_whole_model
from mmdpo.models.start import (
    ADAPTER_CONFIG,
    UNSEALED,
    LoadOptions,
    check_name,
    find_folder,
    list_adapters_inside,
    read_base_name,
    resolve_start,
    resolve_world,
    warn_of_others,
)
from mmdpo.models.trained import attach_adapter
from mmdpo.models.weights import CheckpointError, read_checkpoint_json, read_weights
from mmdpo.progress import count, stages
from mmdpo.records import CHOSEN, NO_IMAGE, ORIGINAL, Cell, PreferenceExample
from mmdpo.scoring.probe import TOLERANCES, compare, find_precision, score_alone

logger = logging.getLogger(__name__)

QUESTION = "<image>\nWhat is in the picture, and where does it stand?"
ANSWER = " A red cup and two small dogs are on the wooden table near the window, and it is 3 o'clock in the morning."
"""What adapter and base are asked, and the model that they are merged to."""


def merge_run(
    run: Path,
    target: Path,
    *,
    base: str | None = None,
    dtype: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Writes the model of a run, or of a checkpoint inside one, with its processor and card into `target`.

    An adapter is added to its base in float32, layer by layer, and the sum rounded to the base's own precision, or to
    `dtype`. A model that was trained whole is copied as it was saved, unless `dtype` is given. `base` names the base
    where it is not what the adapter says. Weights have the names that published checkpoints of the class have, which
    transformers and vLLM read. What is merged is read again, and scores a sequence as base and adapter do.
    Raises CheckpointError for a folder without a model, an adapter for another base, and a merged model that scores
    otherwise; UnusableFileError for a `target` that is not empty.
    """
    check_name(str(run))
    base = base and resolve_world(base)
    has_adapter = (run / ADAPTER_CONFIG).is_file()
    if has_adapter:
        warn_of_others(run)
    else:
        _check_whole_model(run)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not allow_pickle:
        options["use_safetensors"] = True
    steps = 4 if has_adapter else 3 if dtype is not None else 2
    with written_aside(target) as folder, stages(steps, "merging") as begin:
        begin("reading")
        processor = _find_processor(run, base, trust_remote_code)
        source, expected = Path(find_base(run) or run), None
        if has_adapter:
            tensors = read_weights(run, allow_pickle=allow_pickle, of_adapter=True)
            name, source = _find_base(run, base, allow_pickle)
            model = load_whole_model(str(source), dtype=dtype or "auto", **options)
            adapted = attach_adapter(model, run, tensors, base=name)
            expected = _score_sequence(adapted, processor)
            begin("adding the adapter")
            merged = _merge_in_float32(adapted)
            begin("writing")
            _save(merged, folder)
            del model, adapted, merged  # one is in memory at a time
        elif dtype is not None:
            model = load_whole_model(str(run), dtype=dtype, **options)
            expected = _score_sequence(model, processor)
            begin("writing")
            _save(model, folder)
            del model
        else:
            read_weights(run)  # a shard that is cut short is found here, not by who loads the copy
            begin("copying")
            for pattern in ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"):
                for path in run.glob(pattern):
                    shutil.copyfile(path, folder / path.name)
            start = resolve_start(str(run), LoadOptions(trust_remote_code=trust_remote_code))
            write_as_on_the_hub(folder, build_empty_model(start))
        if expected is not None:
            begin("comparing")
            merged = load_whole_model(str(folder), dtype="auto", **options)
            precision, difference = find_precision(merged), compare(_score_sequence(merged, processor) or [], expected)
            if not difference.distance <= TOLERANCES[precision]:
                raise CheckpointError(
                    f"what {run} was merged to is not the model that it was made of: of one answer it says log π = "
                    f"{difference.found:.4f}, and that says {difference.expected:.4f}, {difference.distance:.2g} nats "
                    f"a token apart, where rounding to {precision} explains {TOLERANCES[precision]:g}. It is not "
                    "written"
                )
        if (source / bunny.ORIGINAL).is_dir():  # converting back needs it
            shutil.copytree(source / bunny.ORIGINAL, folder / bunny.ORIGINAL)
        processor.save_pretrained(folder)
        write_card(run, folder, title=target.resolve().name, base=base)


def push_folder(folder: Path, repository: str) -> str:
    """Uploads a folder to a model repository, made if need be; returns its address. CheckpointError if that fails."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        name = api.create_repo(repository, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload with mmdpo merge"))
    except (OSError, ValueError) as error:  # those of the hub are among them
        raise CheckpointError(
            f"{folder} is whole, and could not be uploaded ({error}): `hf upload {repository} {folder}` does it later"
        ) from error


def _check_whole_model(run: Path) -> None:
    if (run / "config.json").is_file() and any(run.glob("*.safetensors")):
        return
    if adapters := list_adapters_inside(run):
        raise CheckpointError(f"{run} holds adapters by name; name one of them: {', '.join(adapters)}")
    folders = [path for path in run.glob("checkpoint-*") if path.is_dir()]
    checkpoints = sorted(path.name for path in folders if not (path / UNSEALED).exists())
    if checkpoints:
        raise CheckpointError(f"{run} holds no finished model; name one of its checkpoints: {', '.join(checkpoints)}")
    raise CheckpointError(
        f"{run} is no run folder: it holds neither {ADAPTER_CONFIG} nor config.json with weights in safetensors"
    )


def _find_base(run: Path, base: str | None, allow_pickle: bool) -> tuple[str, Path]:
    """Returns the name and the folder of the base of a run's adapter."""
    name = base or read_base_name(run)
    if not name:
        raise CheckpointError(f"{run / ADAPTER_CONFIG} names no base model: give it with --base")
    # One that is given has revisions of its own.
    revision = None if base else read_checkpoint_json(run / ADAPTER_CONFIG).get("revision")
    try:
        folder = find_folder(name, revision=revision, allow_pickle=allow_pickle)
    except CheckpointError as error:
        raise CheckpointError(f"the base of {run}: {error}; --base names it where it lies elsewhere now") from error
    if (folder / "config.json").is_file() and read_checkpoint_json(folder / "config.json").get("quantization_config"):
        raise CheckpointError(
            f"the base of {run}, {name}, holds quantised weights, to which an adapter cannot be added: name the model "
            "that they were made of with --base"
        )
    return name, folder


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    write_as_on_the_hub(folder, model)


def _merge_in_float32(adapted: Any) -> Any:
    """Adds the adapter to each layer in float32: a change is often smaller than a step of bfloat16."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in count(layers, "adding the adapter", "layer"):
        if getattr(layer.get_base_layer(), "weight", None) is not None:
            base = layer.get_base_layer()
            holders = [p for _, p in adapted.named_parameters(remove_duplicate=False) if p is base.weight]
            if len(holders) > 1:  # what is added to a head must not change the embeddings that it is tied to
                base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=base.weight.requires_grad)
            weight, kept = base.weight, base.weight.dtype
            weight.data = weight.data.float()
            try:
                layer.merge(safe_merge=True)
            except (RuntimeError, ValueError) as error:  # a bias where the base has none, numbers that are not finite
                raise CheckpointError(
                    f"the adapter cannot be added to its base: {error} `mmdpo eval` and `diagnose` take it unmerged"
                ) from error
            weight.data = weight.data.to(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns for every layer that is merged already, which all are
        model = adapted.merge_and_unload()
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:  # and may have been tied before
        for config in (model.config, model.config.get_text_config()):
            if getattr(config, "tie_word_embeddings", False):
                config.tie_word_embeddings = False
    return model


def _find_processor(run: Path, base: str | None, trust_remote_code: bool) -> Any:
    """Returns the processor of a checkpoint, of the run that it lies in, or of the base."""
    for place in filter(None, (str(run), str(run.parent), base or find_base(run))):
        try:
            processor = AutoProcessor.from_pretrained(place, trust_remote_code=trust_remote_code)
        except (OSError, ValueError):
            continue
        if isinstance(processor, ProcessorMixin):
            return processor
    raise CheckpointError(f"{run} holds no processor, and neither does its base: put the base's beside the weights")


def _score_sequence(model: Any, processor: Any) -> list[Float[Tensor, "n"]] | None:
    """Returns the log-probabilities of an answer's tokens after a picture, and without one.

    None, said in the log, for a model that reads images in a way that is not supported.
    """
    cells = (Cell(ORIGINAL, CHOSEN), Cell(NO_IMAGE, CHOSEN))
    across, around = Image.linear_gradient("L"), Image.radial_gradient("L")
    picture = Image.merge("RGB", (across, across.rotate(90), around))
    example = PreferenceExample("sequence", prompt=QUESTION, responses={CHOSEN: ANSWER}, images=(picture,))
    try:
        collator = Collator(Preparer(Renderer(processor, find_family(model.config)), cells, {}, seed=0))
        items = [Item(example, 0)]
        with torch.no_grad():
            return score_alone(model.eval(), collator, items, collator(items))
    except ValueError as error:
        logger.warning("the merged model is not compared with base and adapter: %s", error)
        return None
