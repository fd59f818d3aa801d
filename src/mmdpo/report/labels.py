"""What measures are called on pages: the one place that turns the names in logs and results into words.

A name that nobody has entered here is shown in words too: its parts, with blanks for underscores.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mmdpo.registry import Registry
from mmdpo.tables import show_number


class Label(NamedTuple):
    """How a logged metric is shown: its name, its unit, decimals, and what its values are multiplied by."""

    title: str
    unit: str = ""
    digits: int | None = None
    """None shows four significant digits."""
    scale: float = 1.0

    @property
    def head(self) -> str:
        """The name as the head of a column: with the unit where that is per cent."""
        return f"{self.title}, %" if self.unit.startswith("%") else self.title

    def show(self, value: Any) -> str:
        """Returns a logged value as a table shows it."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return show_number(self.scale * value if is_number else None, self.digits)


_LOGGED = {
    "step": Label("Steps", digits=0),
    "epoch": Label("Epochs", digits=2),
    "loss": Label("Loss", "mean over pairs", 3),
    "train_loss": Label("Loss over the whole run", "mean over pairs", 3),
    "train_runtime": Label("Seconds of training", "s", 0),
    "runtime": Label("Seconds", "s", 1),
    "samples_per_second": Label("Pairs a second"),
    "steps_per_second": Label("Steps a second"),
    "train_samples_per_second": Label("Pairs a second"),
    "train_steps_per_second": Label("Steps a second"),
    "total_flos": Label("Floating-point operations"),
    "learning_rate": Label("Learning rate"),
    "grad_norm": Label("Gradient norm", "before clipping", 2),
    "rewards/margins": Label("Response margin", "reward, chosen − rejected", 2),
    "rewards/image_margins": Label("Image margin", "reward, original − corrupted", 2),
    "rewards/rejected": Label("Reward of rejected", "reward", 2),
    "rewards/corrupted": Label("Reward under the corrupted image", "reward", 2),
}
_KINDS = {"": "Response", "image": "Image", "bco": "BCO", "joint": "Joint"}
"""What a term ranks, by the beginning of its name in logs; a number or another word may follow."""
_TERMS = {"rank_response": "response term", "rank_image": "image term", "rank_joint": "joint term", "bco": "BCO term"}
_IMAGES = {"none": "no image", "original": "its own image", "corrupted": "the corrupted image"}
_RESPONSES = ("chosen", "rejected", "alternative")

_BENCHMARKS = Registry("benchmarks.tasks", "benchmark")
_WORDS = {
    "chair": "CHAIR", "chair_i": "CHAIRi", "chair_s": "CHAIRs", "chair_s_refine": "CHAIRs, answers that name objects",
    "cover": "Cover", "hal": "Hal", "cog": "Cog", "f1": "F1", "tnr": "true negative rate", "tpr": "true positive rate",
    "aacc": "question accuracy", "facc": "figure accuracy", "qacc": "question pair accuracy", "yes_ratio": "yes ratio",
    "hallucination_rate": "hallucination rate", "tolerant": "tolerant reading", "macro": "mean of splits",
    "llm": "LLM mode", "word": "word mode", "repope": "RePOPE", "vlmevalkit": "VLMEvalKit", "lmms_eval": "lmms-eval",
    "viquae": "ViQuAE", "infoseek": "InfoSeek", "vd": "visual dependent", "vs": "visual supplement", "ocr": "OCR",
    "lh": "language hallucination", "vi": "visual illusion", "fp_ratio": "false positive ratio",
    "yes_difference": "yes difference", "easy_aacc": "easy question accuracy", "hard_aacc": "hard question accuracy",
}  # fmt: skip
"""Parts of the names of metrics, where replacing underscores by blanks would not say it."""


def label_logged(key: str) -> Label:
    """Returns how a metric of a trainer's log is shown.

    >>> label_logged("rewards/image_other_accuracies").head
    'Image accuracy, other, %'
    >>> label_logged("eval_loss/rank_image").title
    'Held-out loss: image term'
    """
    if key.startswith("eval_"):
        own = label_logged(key.removeprefix("eval_"))
        return own._replace(title=f"Held-out {own.title[0].lower()}{own.title[1:]}" if own.title else key)
    if key in _LOGGED:
        return _LOGGED[key]
    group, _, name = key.partition("/")
    ranked = re.fullmatch(r"(.*?)_?(margins|accuracies)", name)
    if group == "rewards" and ranked is not None:
        kind, which = _name_kind(ranked[1])
        of = "margin" if ranked[2] == "margins" else "accuracy"
        title = "Pair accuracy" if (kind, of) == ("Response", "accuracy") else f"{kind} {of}"
        title += f", {which}" if which else ""
        return Label(title, "reward", 2) if ranked[2] == "margins" else Label(title, "% of pairs", 1, 100.0)
    if group == "rewards" and name:
        return Label(f"Reward of {_name_cell(name)}", "reward", 2)
    if group == "logps" and name:
        return Label(f"Log-probability of {_name_cell(name)}", "nats", 2)
    if group == "loss" and name:
        return Label(f"Loss: {_name_term(name)}", "before its weight", 3)
    words = " · ".join(part.replace("_", " ") for part in key.split("/"))
    return Label(words[:1].upper() + words[1:])


def label_metric(name: str, benchmark: str = "") -> str:
    """Returns what a benchmark's metric is called, without the benchmark.

    >>> label_metric("amber/tolerant/overall/f1", "amber")
    'tolerant reading · overall · F1'
    """
    parts = name.removeprefix(f"{benchmark}/").split("/")
    return " · ".join(_WORDS.get(part, part.replace("_", " ")) for part in parts)


def label_benchmark(name: str) -> str:
    """Returns what a benchmark is called: the first line of its file up to the colon; another name stands as it is.

    >>> label_benchmark("object_halbench"), label_benchmark("mine")
    ('Object HalBench', 'mine')
    """
    return _BENCHMARKS.about(name).partition(":")[0] if name in _BENCHMARKS.names() else name


def _name_kind(kind: str) -> tuple[str, str]:
    """Returns what a term ranks, and what else its name says: `image_other` → Image, other."""
    first, _, rest = kind.partition("_")
    if first == "response":
        first = ""
    return (_KINDS.get(first, first.capitalize()), rest.replace("_", " "))


def _name_cell(name: str) -> str:
    """Returns a cell, an answer under a version of the image, in words."""
    if name == "corrupted":
        return "chosen under the corrupted image"
    image, _, response = name.rpartition("_")
    if not image or response not in _RESPONSES:
        return name.replace("_", " ")
    return f"{response} under {_IMAGES.get(image, image.replace('_', ' '))}"


def _name_term(name: str) -> str:
    if name in _TERMS:
        return _TERMS[name]
    first, _, rest = name.partition("_")
    if first == "anchor":
        return f"anchor of {_name_cell(rest)}"
    if first == "nll":
        return f"NLL of {_name_cell(rest)}"
    known = next((term for term in _TERMS if name.startswith(f"{term}_")), None)
    if known is not None:
        return f"{_TERMS[known]}, {name.removeprefix(f'{known}_').replace('_', ' ')}"
    return name.replace("_", " ")
