"""The names under which the hub has a model's weights, where transformers 5 writes others.

Vision towers of CLIP's and SigLIP's classes kept all they hold under `vision_model` in transformers 4. So the published
LLaVA, Gemma 3, PaliGemma or Aya Vision have it, and so vLLM reads them. transformers 5 reads that too, and writes it
without: `vision_tower.embeddings…` for `vision_tower.vision_model.embeddings…`.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mmdpo.models.seams import is_kept_under_vision_model

INDEX = "model.safetensors.index.json"


def name_as_on_the_hub(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Returns the names that differ on the hub, by those that `save_pretrained` of the model writes."""
    towers = [path for path, module in model.named_modules() if is_kept_under_vision_model(module)]
    if not towers:
        return {}
    # `save_pretrained` writes the paths of some models without the `model.` in front.
    paths = "|".join(f"(?:model\\.)?{re.escape(path.removeprefix('model.'))}" for path in towers)
    begins = re.compile(rf"(?P<tower>{paths})\.(?!vision_model\.)")
    return {name: begins.sub(r"\g<tower>.vision_model.", name, count=1) for name in names if begins.match(name)}


def write_as_on_the_hub(folder: Path, model: nn.Module) -> None:
    """Renames the weights that lie in a folder, file by file; `model` is theirs, and may be one without memory.

    A file whose names are right already stays as it is.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as held:
            metadata, renamed = held.metadata(), name_as_on_the_hub(model, held.keys())
        if renamed:
            aside = path.with_name(f"{path.name}.partly")
            tensors = {renamed.get(name, name): tensor for name, tensor in load_file(path).items()}
            save_file(tensors, aside, metadata=metadata)
            del tensors  # they are mapped from the file that goes
            aside.replace(path)
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        renamed = name_as_on_the_hub(model, index["weight_map"])
        index["weight_map"] = {renamed.get(name, name): file for name, file in index["weight_map"].items()}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
