"""The keys of a recipe, read from the source of their classes: importing those takes seconds, and help should not.

`TrainingArguments` cannot be imported without torch. Its fields, like ours and TRL's, are assignments in the body of a
class, with literals for defaults and help, so the syntax tree of the installed file says all that there is to say.
"""

import ast
import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mmdpo.options import help_width
from mmdpo.registry import Registry, name_nearest
from mmdpo.shipped import RECIPES

HIDDEN = ("ignore_bias_buffers",)
"""Keys of TRL's script arguments that mean nothing here, and are unknown therefore."""

_HELP = {
    "output_dir": "Run folder: new, empty, or that of the run to resume. Model, checkpoints, recipe and logs go there.",
    "resume_from_checkpoint": "true resumes from the last whole checkpoint in output_dir, or starts a run that has "
    "none; a folder names one checkpoint.",
    "seed": "Seed of all that is drawn: order of rows, new adapter weights, corrupted images.",
    "dataset_name": "Preference pairs: a file, a pattern of shards, a folder, a hub name, or world.",
    "dataset_config": "Configuration of a hub dataset.",
    "dataset_train_split": "Split to train on.",
    "dataset_test_split": "Split to evaluate on: of eval_dataset_name, else, with eval_strategy, of dataset_name.",
    "dataset_streaming": "Read rows while training instead of loading them all; needs max_steps.",
}
"""What keys of TRL and transformers mean here, where their own help speaks of what mmdpo does otherwise."""

COMMON = (
    "output_dir", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "eval_strategy", "eval_steps", "logging_steps", "save_strategy", "save_steps",
    "save_total_limit", "resume_from_checkpoint", "report_to", "run_name", "seed", "dataloader_num_workers",
    "push_to_hub",
)  # fmt: skip
"""Keys of TrainingArguments that most runs set; `--help` shows them, and `--help_all` all."""

INHERITED = {
    "loss": (
        "optim", "optim_args", "optim_target_modules", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2",
        "adam_epsilon", "lr_scheduler_kwargs", "per_device_train_batch_size", "gradient_accumulation_steps",
        "dataloader_drop_last", "ignore_data_skip", "fp16", "seed", "data_seed",
        "dtype", "load_in_4bit", "load_in_8bit", "use_peft", "lora_r", "lora_alpha", "lora_dropout",
        "lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "use_dora", "use_rslora",
    ),
    "length": ("num_train_epochs", "max_steps"),
    "machine": (
        "local_rank", "output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "use_cpu",
        "dataloader_num_workers",
    ),
}  # fmt: skip
"""What options of transformers and TRL decide, as `decides` says of ours; of those that are not listed, `running`."""

DECIDES = {
    "loss": "the numbers of a step: the same on every process, and when a run is resumed",
    "length": "how long is trained: the same on every process, and free when a run is resumed",
    "content": "where data, model or template are found: what is found there is compared when a run is resumed",
    "running": "what is evaluated, logged, saved and checked, and how fast: the same on every process",
    "machine": "paths of a machine, and how much it can do: each process may have its own",
}
"""What an option may decide, in its field's metadata. What resuming, agreement of processes and cards list follows."""

_ABSENT = {
    ("truncation_mode", "max_prompt_length", "max_completion_length"):
        "the answer's end is cut, never the prompt and its images: leave it out, and set max_length",
    ("label_pad_token_id",): "labels are not padded: leave it out",
    ("pad_token", "padding_value"):
        "padding is masked, whatever its token is: leave it out, or set it on the processor's tokenizer",
    ("padding_free", "pad_to_multiple_of"):
        "rows are packed without padding (attention, max_tokens_per_row): leave it out",
    ("use_logits_to_keep",): "logits are made for answers alone: leave it out",
    ("use_liger_loss",): "logits are made in chunks, for answers alone: leave it out",
    ("activation_offloading",): "leave it out, and use gradient_checkpointing",
    ("router_aux_loss_coef",): "the loss of a mixture's router is not added: leave it out",
    ("loss_weights", "discopop_tau"):
        "write the objective as terms, each with a weight of its own (docs/objectives.md)",
    ("rpo_alpha",): "add a term nll: [original, chosen] to the objective, or use the preset dpo_nll (weight 0.5)",
    ("ld_alpha",): "answers of different length are weighed by per_token: true of a term (docs/objectives.md)",
    ("use_weighting",): "give a weight by row with weight_column of a term (docs/objectives.md)",
    ("f_divergence_type", "f_alpha_divergence_coef"):
        "rewards are those of the reverse KL divergence here: leave it out",
    ("reference_free",): "use the objective sft_chosen, or terms without a reference such as nll",
    ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"):
        "the reference stays the start of the run: leave it out, or begin a new run from the last model",
    ("model_adapter_name", "ref_adapter_name", "force_use_ref_model"):
        "the reference is the policy with its adapter off, or ref_model: leave it out",
    ("base_model_attribute_name",): "leave it out: the base model is found by itself",
    ("ref_model_init_kwargs",): "name the reference with ref_model_name_or_path, or load it yourself: ref_model",
    ("generate_during_eval",): "set sample_answers_steps: N, which answers prompts every N steps",
    ("is_encoder_decoder",): "leave it out: the model's class says it",
    ("tools",): "write tools into the rows' prompts",
    ("warmup_ratio",): "give the share of all steps as warmup_steps, such as warmup_steps: 0.1",
}  # fmt: skip
ABSENT: Mapping[str, str] = {name: remedy for names, remedy in _ABSENT.items() for name in names}
"""Options of TRL's DPOConfig, and of older versions of it, that mmdpo does not have: what to use instead."""


class RecipeError(ValueError):
    """A recipe or a flag that cannot be used: says where, what, and what was probably meant."""


class Key(NamedTuple):
    """A key of a recipe as its class declares it."""

    name: str
    help: str = ""
    default: str | None = None
    """As it would be typed; None where there is no default or it is unset."""
    decides: str = ""
    """One of `DECIDES`; empty for an option of somebody else's, which `INHERITED` may list."""
    choices: tuple[str, ...] = ()
    """All values that one of ours takes; empty where they are not few."""


class Group(NamedTuple):
    """The class that keys come from: a package, the module that was imported from it, a name."""

    title: str
    module: str
    name: str

    def read(self) -> tuple[Key, ...]:
        """Returns the keys in the order of the source. A class that is not where it was is imported instead."""
        tree = _parse_source(self.module)
        for node in tree.body if tree else ():
            if isinstance(node, ast.ClassDef) and node.name == self.name:
                return tuple(key for statement in node.body for key in _read_field(statement))
        keys = []
        for field in dataclasses.fields(getattr(import_module(self.module), self.name)):
            is_unset = field.default is dataclasses.MISSING or field.default is None
            default = None if is_unset else str(field.default)
            texts = (field.metadata.get(name, "") for name in ("help", "decides"))
            keys.append(Key(field.name, next(texts), default, next(texts), tuple(field.metadata.get("choices") or ())))
        return tuple(keys)


OURS = Group("mmdpo", "mmdpo.training.config", "MDPOConfig")
MODEL = Group("model and adapter (TRL)", "trl.trainer.model_config", "ModelConfig")
DATASET = Group("dataset (TRL)", "trl.scripts.utils", "ScriptArguments")
TRAINING = Group("training (transformers.TrainingArguments)", "transformers.training_args", "TrainingArguments")


def list_keys() -> dict[Group, tuple[Key, ...]]:
    """Returns every key under its class; one that is ours too is there alone."""
    ours = {key.name for key in OURS.read()}
    return {
        group: tuple(
            key._replace(help=_HELP.get(key.name, key.help))
            for key in group.read()
            if key.name not in HIDDEN and (group is OURS or key.name not in ours)
        )
        for group in (OURS, MODEL, DATASET, TRAINING)
    }


@cache
def known_keys() -> frozenset[str]:
    """Returns the name of every key."""
    return frozenset(key.name for keys in list_keys().values() for key in keys)


def known_names() -> dict[str, tuple[str, ...]]:
    """Returns the names that come with mmdpo, by the key that takes them; those of terms under `terms`."""
    return {
        "objective": _preset_names(),
        "terms": Registry("objective.terms", "").names(),
        "corruption": Registry("corruption", "").names(),
        "dataset_format": Registry("data.formats", "").names(),
    }


def list_deciding(*kinds: str) -> tuple[str, ...]:
    """Returns the keys that decide one of these things (`DECIDES`), ours first. A key not listed decides `running`."""
    ours = {key.name: key.decides for key in OURS.read()}
    kinds_of = ours | {name: kind for kind, names in INHERITED.items() for name in names if name not in ours}
    return tuple(name for name, kind in kinds_of.items() if kind in kinds)


def pop_config(arguments: list[str]) -> str | None:
    """Takes `--config` and its value out of the words of a command line; returns the value, None where there is none.

    Raises RecipeError where the value is missing.
    """
    for place, argument in enumerate(arguments):
        if argument == "--config":
            if place + 1 == len(arguments):
                raise RecipeError("--config needs a file, or the name of one of `mmdpo recipes`")
            del arguments[place]
            return arguments.pop(place)
        if argument.startswith("--config="):
            return arguments.pop(place).partition("=")[2]
    return None


def find_recipe(name_or_path: str) -> Path:
    """Returns the file of a recipe; raises RecipeError, naming the nearest that comes with mmdpo, for none."""
    try:
        return RECIPES.find(name_or_path)
    except ValueError as error:
        raise RecipeError(f"--config: {error}") from error


def names_of(key: str) -> Callable[[], Sequence[str]]:
    """Returns what lists the names of `known_names` of one key, for options that take such a name too."""
    return lambda: known_names()[key]


def check_flags(arguments: Sequence[str]) -> dict[str, None]:
    """Returns the names of the flags in order; RecipeError for one that is no key (with the nearest) or comes twice."""
    seen: dict[str, None] = {}
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        key = argument[2:].partition("=")[0].replace("-", "_")
        if key not in known_keys():
            raise RecipeError(
                f"unknown flag --{key}{explain_unknown(key, {*known_keys(), 'config', 'dry_run', 'help', 'help_all'})}"
            )
        if key in seen:
            raise RecipeError(f"the flag --{key} is given twice")
        seen[key] = None
    return seen


def explain_unknown(key: str, known: Iterable[str]) -> str:
    """Returns how a message about an unknown key goes on: what stands for an option of TRL, or the nearest key."""
    return f": {ABSENT[key]}" if key in ABSENT else name_nearest(key, known)


def describe_keys(*, every: bool = False) -> str:
    """Returns what `mmdpo train --help` says of keys, or with `every` what `--help_all` says."""
    width = help_width()
    lines = []
    for group, keys in list_keys().items():
        shown = keys if every or group is not TRAINING else tuple(key for key in keys if key.name in COMMON)
        lines += [f"{group.title}:", *(line for key in shown for line in _describe(key, width))]
        if shown != keys:
            lines.append(f"  … and {len(keys) - len(shown)} more: mmdpo train --help_all")
        lines.append("")
    for key, names in known_names().items():
        title = {"objective": "objectives", "corruption": "corruptions", "dataset_format": "formats"}.get(key, key)
        lines += textwrap.wrap(f"{title + ':':<13} {', '.join(names)}", width, subsequent_indent=" " * 14)
    return "\n".join(lines)


def _describe(key: Key, width: int) -> Iterator[str]:
    default = "" if key.default is None else f" [default: {key.default}]"
    # What an unset option means stands at the end of its text, in the place of a default.
    said = re.sub(r" Unset: (.*)\.$", r" [default: \1]", key.help)
    text, head = " ".join(f"{said}{default}".split()), f"  {key.name:<29} "
    if len(key.name) > 28:
        yield head.rstrip()
        head = " " * 32
    wrapper = textwrap.TextWrapper(max(width, 62), head, " " * 32, break_on_hyphens=False)
    yield from (line.rstrip() for line in wrapper.wrap(text) or [head])


@cache
def _parse_source(module: str) -> ast.Module | None:
    """Returns the syntax tree of an installed module, which is not imported; None where it has moved."""
    package, *parts = module.split(".")
    spec = find_spec(package)  # looking up a module inside would import its parents
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: pip install {package}")
    path = Path(spec.origin).parent.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


def _read_field(statement: ast.stmt) -> Iterator[Key]:
    """Yields the key that a statement of a dataclass declares: `name: type = field(default=…, metadata=…)`, or ours."""
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
        return
    if "ClassVar" in ast.unparse(statement.annotation):
        return
    name, value = statement.target.id, statement.value
    if not isinstance(value, ast.Call):
        yield Key(name, default=_as_typed(value))
        return
    named: dict[str | None, ast.expr] = {keyword.arg: keyword.value for keyword in value.keywords}
    if ast.unparse(value.func).endswith("field"):
        metadata = named.get("metadata")
        entries = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
        texts = [entry for key, entry in entries if isinstance(key, ast.Constant) and key.value == "help"]
        yield Key(name, _as_text(texts[0]) if texts else "", _as_typed(named.get("default")))
    else:
        default, decides, text = value.args
        choices = named.get("choices")
        listed = tuple(map(str, ast.literal_eval(choices))) if choices is not None else ()
        yield Key(name, _as_text(text), _as_typed(default), _as_text(decides), listed)


def _as_text(node: ast.expr) -> str:
    """Returns a help text; one that is put together from parts is shown as far as its parts are literals."""
    if isinstance(node, ast.BinOp):
        return _as_text(node.left) + _as_text(node.right)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_as_text, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def _as_typed(node: ast.expr | None) -> str | None:
    """Returns a literal default as one would type it, None for one that is worked out when the module is imported."""
    try:
        value = None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
    return None if value is None else str(value)


def _preset_names() -> tuple[str, ...]:
    """Returns the keys of the mapping of presets, in its order."""
    tree = _parse_source("mmdpo.objective.presets")
    nodes = (node for node in (tree.body if tree else ()) if isinstance(node, ast.AnnAssign))
    presets = next(node.value for node in nodes if ast.unparse(node.target) == "PRESETS")
    assert isinstance(presets, ast.Dict)
    return tuple(str(key.value) for key in presets.keys if isinstance(key, ast.Constant))
