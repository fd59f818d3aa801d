"""Study files, read and checked: those that ship with the package, and a user's own.

    name: mine                        # letters, digits, - _ .
    about: what the study asks
    recipe: world                     # or world_large, or a recipe file; what `options` is laid over
    options: {beta: 0.1}              # keys of a recipe, and those below; shared by all variants
    seeds: [0, 1, 2, 3, 4]
    evaluation: {scenes: 400, pairs: 256}
    variants:                         # differences are taken to the first
      - {name: dpo, objective: dpo}
      - {name: mdpo, about: the method, objective: mdpo}

`fraction` trains on that share of the pairs. Of the embedded worlds', `pairs` says how many are made, and `decided_by`
of which kind. What is unknown, missing or repeated is an error that names file and key.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml

from mmdpo.registry import name_nearest
from mmdpo.study.design import START, Evaluation, Study, StudyError, Variant
from mmdpo.study.variants import world_options
from mmdpo.training.recipe import RecipeError
from mmdpo.world.pairs import DecidedBy
from mmdpo.world.worlds import SMALL, WORLDS, find_world

DEFAULT_SEEDS = (0, 1, 2, 3, 4)
KEYS = ("name", "about", "recipe", "options", "seeds", "evaluation", "variants", "keep_models")
OWN_OPTIONS = ("fraction", "pairs", "decided_by")
"""Options that are no keys of a recipe; the last two are the embedded worlds'."""
SET_BY_STUDY = {
    "seed": "list `seeds:`",
    "output_dir": "give --out",
    "resume_from_checkpoint": "the study itself goes on",
    "push_to_hub": "a study uploads nothing",
}
PROCESSOR_OPTIONS = ("chat_template", "chat_template_kwargs", "pad_to_square")
ONE_START = ("model_name_or_path", "adapter_name_or_path", "model_revision", *PROCESSOR_OPTIONS, "dtype")
"""Options that variants share, for all begin at one start."""
_WORLD_NAMES = " or ".join(WORLDS)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def shipped_names() -> tuple[str, ...]:
    """Returns the names of the studies that come with the package."""
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name[0] != "_"))


def describe_shipped() -> dict[str, str]:
    """Returns what each study of the package asks, in a sentence, by its name."""
    about = {name: str(_load(read_text(name), name).get("about", "")) for name in shipped_names()}
    return {name: re.split(r"(?<=[.?]) ", text)[0] for name, text in about.items()}


def read_text(name_or_path: str) -> str:
    """Returns the text of a study file or of a shipped study. Raises StudyError where there is neither."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise StudyError(f"cannot read the study {name_or_path}: {error.strerror}") from error
    if name_or_path not in shipped_names():
        known = ", ".join(shipped_names())
        raise StudyError(
            f"there is no study {name_or_path!r}{name_nearest(name_or_path, shipped_names())} Shipped: {known}; --list "
            "says what they ask. Or give a file with --config"
        )
    return str((_shipped() / f"{name_or_path}.yaml").read_text(encoding="utf-8"))


def read_study(
    name_or_path: str,
    *,
    seeds: Sequence[int] | None = None,
    variants: Sequence[str] | None = None,
    world: str | None = None,
) -> Study:
    """Reads a study from its file, or a shipped one by name.

    `seeds` replaces those of the file, `variants` names those that are run (the first of the file always is, since
    differences are taken to it), and `world` lays a study of one embedded world in another, under the name
    STUDY-WORLD. Every variant's recipe is tried. Raises StudyError.
    """
    content = _load(read_text(name_or_path), name_or_path)
    file = name_or_path
    command = f"mmdpo study {file}"
    if world is not None:
        content = _move(content, world, file)
        command += f" --world {world}"
    _check_keys(content, KEYS, file, "")
    name = _check_name(content.get("name"), f"{file}: name")
    shared = _shared_options(content, file)
    evaluation = _read_evaluation(content.get("evaluation"), shared, file)
    listed = _read_variants(content.get("variants"), shared, file)
    if variants is not None:
        listed = _choose(listed, variants, file)
        command += f" --variants {' '.join(variant.name for variant in listed[1:])}"
    if seeds is not None:
        command += f" --seeds {' '.join(map(str, seeds))}"
    keep = content.get("keep_models", False)
    if not isinstance(keep, bool):
        raise StudyError(f"{file}: keep_models is true or false; got {keep!r}")
    found = _read_seeds(content.get("seeds", list(DEFAULT_SEEDS)) if seeds is None else list(seeds), file)
    about = str(content.get("about", "")).strip()
    study = Study(file, command, name, about, listed, found, evaluation, keep, content)
    for variant in listed:
        _try_recipe(variant, found[0], file)
    return study


def _move(content: dict[str, Any], world: str, file: str) -> dict[str, Any]:
    """Returns the content of a study of one embedded world as one of another."""
    if find_world(world) is None:
        raise StudyError(f"--world is {_WORLD_NAMES}; got {world!r}")
    if str(content.get("recipe")) not in WORLDS:
        raise StudyError(f"{file}: --world is for studies of an embedded world (recipe: {_WORLD_NAMES}); this is none")
    name = content.get("name") if content["recipe"] == world else f"{content.get('name')}-{world}"
    return {**content, "recipe": world, "name": name}


def _choose(listed: tuple[Variant, ...], names: Sequence[str], file: str) -> tuple[Variant, ...]:
    known = [variant.name for variant in listed]
    for name in names:
        if name not in known:
            hint = name_nearest(name, known)
            raise StudyError(f"{file}: there is no variant {name!r}{hint} There are {', '.join(known)}")
    return tuple(v for place, v in enumerate(listed) if place < 2 or v.name in names)


def _shipped() -> Any:
    return files("mmdpo.study") / "studies"


def _load(text: str, file: str) -> dict[str, Any]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{file} must be a mapping with the keys {', '.join(KEYS)}")
    _refuse_repeats(node, file)
    return content


def _refuse_repeats(node: Any, file: str) -> None:
    """Raises StudyError for a key that is written twice, of which YAML would keep the second."""
    seen: dict[str, int] = {}
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        if isinstance(node, yaml.MappingNode):
            key, child = child
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                raise StudyError(f"{file}: {key.value!r} is given twice, in lines {seen[str(key.value)]} and {line}")
            seen[str(key.value)] = line
        _refuse_repeats(child, file)


def _check_keys(values: Mapping[str, Any], known: Sequence[str], file: str, where: str) -> None:
    for key in values:
        if key not in known:
            place = f"{file}: {where}" if where else f"{file}:"
            raise StudyError(f"{place} unknown key {key!r}{name_nearest(key, known)} There are {', '.join(known)}")


def _check_name(name: Any, where: str) -> str:
    if not isinstance(name, str | int) or not NAME.fullmatch(str(name)):
        raise StudyError(f"{where} must be letters, digits, '-', '_' and '.', for a folder has it; got {name!r}")
    return str(name)


def _shared_options(content: Mapping[str, Any], file: str) -> dict[str, Any]:
    base, options = content.get("recipe", {}), content.get("options") or {}
    if not isinstance(options, dict):
        raise StudyError(f"{file}: options is a mapping of a recipe's keys; got {options!r}")
    world = find_world(base) if isinstance(base, str) else None
    if world is not None:
        return {**world_options(world), **options}
    if not base:
        return {"save_strategy": "no", **options}
    path = Path(file).parent / str(base)
    if not path.is_file():
        raise StudyError(f"{file}: recipe: there is no file {path}; give a recipe, or {_WORLD_NAMES}")
    written = _load(path.read_text(encoding="utf-8"), str(path))
    inherited = {key: value for key, value in written.items() if key not in SET_BY_STUDY}
    # Checkpoints of every trial would fill the disk; a study that wants them says so itself.
    return {**inherited, "save_strategy": "no", **options}


def _read_variants(entries: Any, shared: Mapping[str, Any], file: str) -> tuple[Variant, ...]:
    if not isinstance(entries, list) or not entries:
        raise StudyError(f"{file}: variants must list at least one variant, each with a name")
    variants = [_make_variant(START, "what every variant begins as", shared, file, "options")]
    for number, entry in enumerate(entries, start=1):
        where = f"variants: no. {number}:"
        if not isinstance(entry, dict):
            raise StudyError(f"{file}: {where} a variant is a mapping with a name; got {entry!r}")
        name = _check_name(entry.get("name"), f"{file}: {where} name")
        if name in (variant.name for variant in variants):
            why = "stands for what every variant begins as" if name == START else "is given twice"
            raise StudyError(f"{file}: {where} the name {name!r} {why}; choose another")
        changed = {key: value for key, value in entry.items() if key not in ("name", "about")}
        for key in ONE_START:
            if changed.get(key, shared.get(key)) != shared.get(key):
                raise StudyError(f"{file}: variant {name!r}: {key} differs from the others': all begin at one start")
        about = str(entry.get("about", "")).strip()
        variants.append(_make_variant(name, about, {**shared, **changed}, file, f"variant {name!r}"))
    return tuple(variants)


def _make_variant(name: str, about: str, options: Mapping[str, Any], file: str, where: str) -> Variant:
    for key in options:
        if key in SET_BY_STUDY:
            raise StudyError(f"{file}: {where}: {key} is the study's to set: {SET_BY_STUDY[key]}")
    own = {key: options[key] for key in OWN_OPTIONS if options.get(key) is not None}
    problem = _find_fault(own, is_world=find_world(options.get("dataset_name")) is not None)
    if problem:
        raise StudyError(f"{file}: {where}: {problem}")
    return Variant(name, about, {key: value for key, value in options.items() if key not in OWN_OPTIONS}, **own)


def _find_fault(own: Mapping[str, Any], *, is_world: bool) -> str:
    """Says what is wrong with the options that are no keys of a recipe; nothing if nothing is."""
    for key in ("pairs", "decided_by"):
        if key in own and not is_world:
            return f"{key} belongs to the embedded worlds; with other data, use fraction"
    if "pairs" in own and not _is_count(own["pairs"]):
        return f"pairs is a number of pairs above 0; got {own['pairs']!r}"
    if "decided_by" in own and own["decided_by"] not in get_args(DecidedBy):
        return f"decided_by is {' or '.join(get_args(DecidedBy))}; got {own['decided_by']!r}"
    fraction = own.get("fraction", 1)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        return f"fraction is a share of the training pairs, in (0, 1]; got {fraction!r}"
    return ""


def _read_seeds(seeds: Any, file: str) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds:
        raise StudyError(f"{file}: seeds must list at least one whole number")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise StudyError(f"{file}: seeds are whole numbers from 0; got {seed!r}")
    if len(set(seeds)) < len(seeds):
        raise StudyError(f"{file}: seeds: a seed is given twice in {seeds}")
    return tuple(seeds)


def _read_evaluation(values: Any, shared: Mapping[str, Any], file: str) -> Evaluation:
    if not isinstance(values, dict) or not values:
        raise StudyError(f"{file}: evaluation must say what models are measured on: scenes, pairs, benchmarks, …")
    known = [field.name for field in dataclasses.fields(Evaluation)]
    _check_keys(values, known, file, "evaluation:")
    for key in ("scenes", "pairs", "batch_size"):
        if values.get(key) is not None and not _is_count(values[key]):
            raise StudyError(f"{file}: evaluation: {key} is a number above 0; got {values[key]!r}")
    benchmarks = values.get("benchmarks", [])
    if not isinstance(benchmarks, list) or not all(isinstance(entry, dict) and "name" in entry for entry in benchmarks):
        raise StudyError(f"{file}: evaluation: benchmarks is a list of mappings with a name; got {benchmarks!r}")
    _check_benchmarks(benchmarks, file, has_scenes=bool(values.get("scenes")))
    own = find_world(shared.get("dataset_name"))
    world = values.get("world", (own or SMALL).name)
    if not isinstance(world, str) or find_world(world) is None:
        raise StudyError(f"{file}: evaluation: world is {_WORLD_NAMES}; got {world!r}")
    name = values.get("dataset_name", None if own is None else own.name)
    for key, named in (("world", world), ("dataset_name", name)):
        if own is not None and named in WORLDS and named != own.name:
            raise StudyError(f"{file}: evaluation: {key} is {named}, and the study trains on {own.name}: leave it out")
    if name is None and values.get("pairs") is not None:
        raise StudyError(f"{file}: evaluation: pairs needs dataset_name, the held-out pairs to measure preferences on")
    kind = values.get("decided_by", shared.get("decided_by", "style"))
    if kind not in get_args(DecidedBy):
        raise StudyError(f"{file}: evaluation: decided_by is {' or '.join(get_args(DecidedBy))}; got {kind!r}")
    chosen = {**values, "world": world, "dataset_name": name, "decided_by": kind, "benchmarks": tuple(benchmarks)}
    evaluation = Evaluation(**chosen)
    if not (evaluation.scenes or evaluation.dataset_name or evaluation.benchmarks):
        raise StudyError(f"{file}: evaluation names nothing to measure: give scenes, dataset_name or benchmarks")
    return evaluation


def _check_benchmarks(entries: Sequence[Mapping[str, Any]], file: str, *, has_scenes: bool) -> None:
    from mmdpo.benchmarks.tasks import names

    for entry in entries:
        if entry["name"] not in names():
            raise StudyError(
                f"{file}: evaluation: benchmarks: there is no {entry['name']!r}{name_nearest(entry['name'], names())} "
                f"(known: {', '.join(names())})"
            )
    listed = [entry["name"] for entry in entries]
    if has_scenes and any(name in WORLDS for name in listed):
        raise StudyError(f"{file}: evaluation: scenes and the benchmark {_WORLD_NAMES} measure the same; give one")
    if len(set(listed)) < len(listed):
        raise StudyError(f"{file}: evaluation: benchmarks: a benchmark is listed twice in {', '.join(listed)}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _try_recipe(variant: Variant, seed: int, file: str) -> None:
    try:
        variant.recipe("unused", seed)
    except (RecipeError, ValueError) as error:
        where = "options" if variant.name == START else f"variant {variant.name!r}"
        raise StudyError(f"{file}: {where}: {error}") from error
