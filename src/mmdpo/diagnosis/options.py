"""What a diagnosis can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from mmdpo.keys import names_of
from mmdpo.options import REQUIRED, Options, option

_OF_PAIRS: Final = ("reference", "split", "dataset_config", "dataset_format", "image_root", "pairs")
_OF_SCORES: Final = ("corruption", "beta", "max_length", "per_token")
_OF_MODELS: Final = ("batch_size", "chat_template", "chat_template_kwargs", "dtype", "trust_remote_code", "no_probe")
_UNUSED: Final = {
    "dataset": ("image_dir", "empty"),
    "data_only": ("image_dir", "empty", *_OF_SCORES, *_OF_MODELS),
    "conflict": (*_OF_PAIRS, *_OF_SCORES, "empty"),
    "empty_image": (*_OF_PAIRS, *_OF_SCORES),
}
"""What is looked at → options that mean nothing there."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisOptions(Options):
    """What is diagnosed, and how. Raises ValueError for options that do not go together."""

    USAGE: ClassVar[str] = "(--dataset TEXT | --conflict PATH | --empty_image PATH)"

    dataset: str | None = option(None, "Pairs: a file, a folder, a hub name, `world`.")
    conflict: Path | None = option(None, "Questions with options: answers from the image against answers from text.")
    empty_image: Path | None = option(None, "Prompts: what a picture without content does to them.")
    empty: Literal["blank", "noise"] = option("blank", "The picture without content.")
    image_dir: Path | None = option(None, "Folder of the pictures of questions or prompts.", unset="that of their file")
    out: Path = option(REQUIRED, "A new folder; a diagnosis that was interrupted there is resumed.")
    model: str | None = option(None, "A hub name, a run folder, an adapter, or `world`.")
    adapter: str | None = option(None, "Adapter on the model; the reference is then the model without it.")
    reference: str | None = option(None, "What the model was trained from, for rewards.")
    data_only: bool = option(False, "Without a model: does the text alone decide?")
    split: str | None = option(None, "Split of the dataset.", unset="train; of `world`: test")
    dataset_config: str | None = option(None, "Configuration of a hub dataset.")
    dataset_format: str = option("auto", "Format of the rows.", known=names_of("dataset_format"))
    image_root: str | None = option(None, "Folder that relative image paths start from.")
    pairs: int | None = option(None, "Number of pairs, drawn by the seed.", least=1, unset="all")
    corruption: str = option("crop_0_20", "What makes the corrupted image.", known=names_of("corruption"))
    beta: float = option(0.1, "β of the rewards.", within="(0, inf]")
    seed: int = option(0, "Seed of the draws and of the bootstrap.")
    batch_size: int = option(8, "Pairs at a time.", least=1)
    max_length: int = option(2048, "Tokens of a row.", least=1)
    chat_template: str | None = option(
        None, "Chat template: a Jinja file, or vicuna, which is LLaVA-1.5's.", unset="the processor's"
    )
    chat_template_kwargs: str | None = option(None, "Variables of the chat template, as JSON.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None, "Precision of the weights.", unset="bfloat16 on a GPU that has it, else float32"
    )
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.")
    per_token: str = option(
        "12", "Pairs from both ends of the order of which each token's reliance is kept: a number, `all`, or 0."
    )
    no_probe: bool = option(False, "Do not score two pairs by plain forwards first.")
    resamples: int = option(2000, "Number of resamples of the bootstrap.", least=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [name for name in ("dataset", "conflict", "empty_image") if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ValueError("give one of --dataset, --conflict and --empty_image: what the diagnosis looks at")
        if self.data_only and self.dataset is None:
            raise ValueError("--data_only looks at pairs: give --dataset")
        if self.data_only:
            named = [name for name in ("model", "adapter", "reference") if getattr(self, name) is not None]
            if named:
                raise ValueError(f"--data_only needs no model: leave out --{', --'.join(named)}, or --data_only")
        elif self.model is None:
            raise ValueError("--model is missing; without a model, --data_only diagnoses the data")
        if self.adapter is not None and self.reference is not None:
            raise ValueError("give --adapter, whose reference is the model without it, or --reference, not both")
        kind = "data_only" if self.data_only else asked[0]
        defaults = {each.name: each.default for each in fields(self)}
        unused = next((name for name in _UNUSED[kind] if getattr(self, name) != defaults[name]), None)
        if unused is not None:
            raise ValueError(f"--{unused} means nothing to --{kind}; leave it out")
        if self.per_token != "all" and not self.per_token.isdecimal():
            raise ValueError(f"--per_token is {self.per_token}; give a number of pairs, `all`, or 0")

    def select_ends(self, order: Sequence[int]) -> list[int]:
        """Returns those of an order of pairs whose tokens are kept: as many from either end, in order."""
        most = len(order) if self.per_token == "all" else int(self.per_token)
        if most >= len(order):
            return list(order)
        return [*order[: most - most // 2], *order[len(order) - most // 2 :]]

    def record(self) -> dict[str, Any]:
        """Returns what diagnosis.json says of the options."""
        left_out = ("out", "data_only", "no_probe")
        unset = {name for name in ("conflict", "empty_image", "image_dir") if getattr(self, name) is None}
        if self.empty_image is None:
            unset.add("empty")
        values = {name: value for name, value in asdict(self).items() if name not in {*left_out, *unset}}
        values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        return {**values, "model": self.model or "", "probe": not self.no_probe}
