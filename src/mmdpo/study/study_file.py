"""Study files, read and checked: those that ship with the package, and a user's own.

    name: mine                        # letters, digits, - _ .
    about: what the study asks
    recipe: world                     # or world_large, or a recipe file; `options` override it
    options: {beta: 0.1}              # keys of a recipe, and those below; shared by all variants
    seeds: [0, 1, 2, 3, 4]
    evaluation: {scenes: 400, pairs: 256}
    tune: {key: learning_rate, values: [1.0e-4, 3.0e-4], seeds: [300, 301, 302], by: world/f1}
    variants:                         # differences are taken to the first
      - {name: dpo, objective: dpo}
      - {name: mdpo, about: the method, objective: mdpo}

`tune` gives every variant that does not set the key itself its own best value: the one with the best mean of a measure
over seeds that nothing else is measured on (see `mmdpo.study.planning`). A variant with `tuned_as: NAME` takes that of
another one. A study that is moved to another world tries learning rates that are scaled as the world's own is.

`fraction` trains on that share of the pairs. With an embedded world, `pairs` says how many are made, `pairs_per_scene`
how many of them show one scene, `decided_by` of which kind they are, and `own_pairs` that they are made of the model's
own answers (see `mmdpo.study.own_pairs`; a variant's mapping adds to that of `options`, and `own_pairs: null` takes it
away). What is unknown, missing or repeated is an error that names file and key.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import yaml

from mmdpo.benchmarks.tasks import load as load_benchmark
from mmdpo.benchmarks.tasks import names as benchmark_names
from mmdpo.options import REQUIRED, Options, make_options, option, read_entry
from mmdpo.registry import name_nearest
from mmdpo.shipped import RECIPES, STUDIES
from mmdpo.study.own_pairs import OwnPairs
from mmdpo.study.variants import MEASURES, choose_benchmark_options, world_options
from mmdpo.training.recipe import Recipe, RecipeError, parse_recipe
from mmdpo.world import SMALL, WORLDS, find_world
from mmdpo.world.pairs import DecidedBy

START = "start"
"""Name of what every variant begins as; it is measured, not trained."""
DEFAULT_SEEDS = (0, 1, 2, 3, 4)
KEYS = ("name", "about", "recipe", "options", "seeds", "evaluation", "tune", "variants", "keep_models")
ABOUT_VARIANT = ("name", "about", "tuned_as")
"""Keys of a variant that are no options."""
OWN_OPTIONS = ("fraction", "pairs", "pairs_per_scene", "decided_by", "own_pairs")
"""Options that are no keys of a recipe; all but the first are the embedded worlds'."""
SET_BY_STUDY = {
    "seed": "list `seeds:`",
    "output_dir": "give --out",
    "resume_from_checkpoint": "the study resumes by itself",
    "push_to_hub": "a study uploads nothing",
}
PROCESSOR_OPTIONS = ("chat_template", "chat_template_kwargs", "pad_to_square")
ONE_START = ("model_name_or_path", "adapter_name_or_path", "model_revision", *PROCESSOR_OPTIONS, "dtype")
"""Options that variants share, since all begin at one start."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WORLD_NAMES = " or ".join(WORLDS)


class StudyError(ValueError):
    """A study that cannot be run: says which file and key, and how to mend it."""


@dataclass(frozen=True, kw_only=True)
class WorldPairs(Options):
    """How many pairs a variant trains on, and of which kind; all but the share are the embedded worlds'."""

    MARK: ClassVar[str] = ""

    fraction: float = option(
        1.0, "Share of the training pairs, drawn by the seed; a larger share holds the smaller ones.", within="(0, 1]"
    )
    pairs: int | None = option(None, "How many are made.", least=1, unset="as many as the training split has")
    pairs_per_scene: int = option(1, "How many of them show one scene.", least=1)
    decided_by: DecidedBy = option("style", "Of which kind they are.")


@dataclass(frozen=True)
class Variant(WorldPairs):
    """One way to train."""

    name: str
    about: str
    options: Mapping[str, Any]
    """All keys of its recipe but those that the study sets."""
    own_pairs: OwnPairs | None = None
    """How pairs are made of the model's own answers; None for those of `decided_by`."""
    own_keys: frozenset[str] = frozenset()
    """The options that its entry in the study's file sets."""
    tuned_as: str = ""
    """The variant whose tuned value it takes; "" for one that is tuned itself."""

    def having(self, key: str, value: Any) -> Variant:
        """Returns this variant with another value of one option; a whole number is written as one."""
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        return dataclasses.replace(self, options={**self.options, key: value})

    def recipe(self, output_dir: str | Path, seed: int) -> Recipe:
        """Returns the recipe of a trial, parsed by the rules of recipe files. Raises RecipeError."""
        values = {**self.options, "output_dir": str(output_dir), "seed": seed}
        with TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
            try:
                return parse_recipe(["--config", str(path)])
            except RecipeError as error:
                raise RecipeError(str(error).removeprefix(f"{path}: ")) from error


@dataclass(frozen=True, kw_only=True)
class StudyEvaluation(Options):
    """What every model of a study is measured on. Raises ValueError where that is nothing, or one thing twice."""

    MARK: ClassVar[str] = ""

    scenes: int = option(0, "Test scenes of an embedded world to caption.", least=0)
    world: str = option(SMALL.name, "Which world's; that of the training pairs unless given.", choices=tuple(WORLDS))
    dataset_name: str | None = option(None, "Held-out pairs: `world`, a file, a folder or a hub name.")
    dataset_split: str = option("test", "Their split.")
    pairs: int | None = option(None, "How many of them, the first.", least=1, unset="all")
    decided_by: DecidedBy = option("style", "Which kind of an embedded world's; that of `options` unless given.")
    batch_size: int = option(8, "Pairs at a time.", least=1)
    benchmarks: tuple[dict[str, Any], ...] = option(
        (), "Benchmarks of `mmdpo eval`: `name`, `data_dir`, and further options of answering and scoring."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.scenes or self.dataset_name or self.benchmarks):
            raise ValueError("nothing is measured: give scenes, dataset_name or benchmarks")
        if self.pairs is not None and self.dataset_name is None:
            raise ValueError("pairs needs dataset_name, the held-out pairs to measure preferences on")
        listed = [entry.get("name") for entry in self.benchmarks]
        for name in listed:
            _require_known(name, benchmark_names(), "benchmarks: there is no")
        if self.scenes and any(name in WORLDS for name in listed):
            raise ValueError(f"scenes and the benchmark {_WORLD_NAMES} measure the same; give one")
        if len(set(listed)) < len(listed):
            raise ValueError(f"benchmarks: a benchmark is listed twice in {', '.join(map(str, listed))}")
        for entry in self.benchmarks:
            choose_benchmark_options(entry, "model", "out")

    @property
    def deciding(self) -> tuple[str, ...]:
        """The names of the measures that it may find, those that have a better side."""
        is_found = {"world": self.scenes, "pairs": self.dataset_name}
        found = [(name, of.better) for name, of in MEASURES.items() if is_found.get(name.partition("/")[0])]
        for entry in self.benchmarks:
            found += [(metric.name, metric.better) for metric in load_benchmark(entry["name"]).all_metrics]
        return tuple(name for name, better in found if better != "neither")


@dataclass(frozen=True, kw_only=True)
class Tuning(Options):
    """How each variant gets its own value of one option, before it is measured."""

    MARK: ClassVar[str] = ""

    key: str = option(
        REQUIRED, "An option of a recipe, as `learning_rate`; variants that set it themselves keep theirs."
    )
    values: tuple[float, ...] = option(REQUIRED, "What is tried, two or more, in increasing order.")
    seeds: tuple[int, ...] = option(REQUIRED, "Seeds of the tries, none of the study's.")
    by: str = option(REQUIRED, "The measure whose best mean decides.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.values) < 2 or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"values lists two numbers or more, from the least to the greatest; got {self.values}")
        _read_seeds(list(self.seeds))


@dataclass(frozen=True)
class Study:
    """A study, checked; `command` runs it again, and `content` is what its file says."""

    command: str
    name: str
    about: str
    variants: tuple[Variant, ...]
    """The start first; the second is the one that differences are taken to."""
    seeds: tuple[int, ...]
    evaluation: StudyEvaluation
    keep_models: bool = False
    tuning: Tuning | None = None
    content: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def read_study(
    name_or_path: str,
    *,
    seeds: Sequence[int] | None = None,
    variants: Sequence[str] | None = None,
    world: str | None = None,
    tuning_seeds: Sequence[int] | None = None,
) -> Study:
    """Reads a study from its file, or a shipped one by name.

    `seeds` replaces those of the file, `variants` names those that are run (the first of the file always is, since
    differences are taken to it), and `world` moves a study of one embedded world to another, under the name
    STUDY-WORLD. `tuning_seeds` replaces the seeds of `tune`. Every variant's recipe is tried. Raises StudyError.
    """
    try:
        path = STUDIES.find(name_or_path)
    except ValueError as error:
        raise StudyError(f"{error}; --list says what those of the package ask") from error
    content = _load(path, name_or_path)
    command, moved_from = f"mmdpo study {shlex.quote(name_or_path)}", str(content.get("recipe"))
    with _naming(name_or_path):
        if world is not None:
            _require(world in WORLDS, f"--world is {_WORLD_NAMES}; got {world!r}")
            of_world = f"--world is for studies of an embedded world (recipe: {_WORLD_NAMES}); this is none"
            _require(moved_from in WORLDS, of_world)
            name = _read_name(content.get("name"))
            content |= {"recipe": world, "name": name if moved_from == world else f"{name}-{world}"}
            command += f" --world {world}"
        for key in content:
            _require_known(key, KEYS, "unknown key")
        shared = _read_options(content, Path(name_or_path).parent)
        listed = _read_variants(content.get("variants"), shared)
        if variants is not None:
            for name in variants:
                _require_known(name, [variant.name for variant in listed], "there is no variant")
            listed = [variant for place, variant in enumerate(listed) if place < 2 or variant.name in variants]
            command += f" --variants {' '.join(variant.name for variant in listed[1:])}"
        if seeds is not None:
            command += f" --seeds {' '.join(map(str, seeds))}"
        if tuning_seeds is not None:
            if not isinstance(tune := content.get("tune"), dict):
                raise StudyError("--tuning_seeds: the study tunes nothing: leave it out")
            content["tune"] = {**tune, "seeds": list(tuning_seeds)}
            command += f" --tuning_seeds {' '.join(map(str, tuning_seeds))}"
        keep = content.get("keep_models", False)
        _require(isinstance(keep, bool), f"keep_models is true or false; got {keep!r}")
        study = Study(
            command,
            _read_name(content.get("name")),
            _read_about(content),
            tuple(listed),
            _read_seeds(content.get("seeds", list(DEFAULT_SEEDS)) if seeds is None else list(seeds)),
            _read_evaluation(content.get("evaluation"), shared),
            keep,
            content=content,
        )
        tuning = _read_tuning(content, moved_from, study)
        if tuning is not None:  # its values were moved too, and what is written is what is run
            content["tune"] = {**content["tune"], "values": list(tuning.values)}
        study = dataclasses.replace(study, tuning=tuning)
        for variant in listed:
            with _naming("options" if variant.name == START else f"variant {variant.name!r}"):
                variant.recipe("unused", study.seeds[0])
    return study


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Puts the file, or a place in it, in front of what is wrong there."""
    try:
        yield
    except ValueError as error:
        raise StudyError(f"{where}: {error}") from error


def _require(is_right: bool, message: str) -> None:
    if not is_right:
        raise StudyError(message)


def _require_known(name: Any, known: Sequence[str], wrong: str, advice: str = "") -> None:
    nearest = f"{name_nearest(str(name), known)} There are {', '.join(known)}{advice}"
    _require(name in known, f"{wrong} {name!r}{nearest}")


def _load(path: Path, file: str) -> dict[str, Any]:
    with _naming(file):
        text = path.read_text(encoding="utf-8")
    try:
        node, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"{file} is not valid YAML: {error}") from error
    _require(isinstance(content, dict), f"{file} must be a mapping with the keys {', '.join(KEYS)}")
    with _naming(file):
        _refuse_repeats(node)
    return dict(content)


def _refuse_repeats(node: Any) -> None:
    """Raises StudyError for a key that is written twice; YAML would keep the second."""
    seen: dict[str, int] = {}
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        if isinstance(node, yaml.MappingNode):
            key, child = child
            name, line = str(key.value), key.start_mark.line + 1
            _require(name not in seen, f"{name!r} is given twice, in lines {seen.get(name)} and {line}")
            seen[name] = line
        _refuse_repeats(child)


def _read_name(name: Any) -> str:
    is_name = isinstance(name, str | int) and NAME.fullmatch(str(name)) is not None
    _require(is_name, f"name must be letters, digits, '-', '_' and '.', since a folder is named so; got {name!r}")
    return str(name)


def _read_about(entry: Mapping[str, Any]) -> str:
    return str(entry.get("about") or "").strip()


def _read_options(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the options that variants share; those of a recipe file, whose path starts from `folder`, come first."""
    base, options = content.get("recipe", {}), content.get("options") or {}
    _require(isinstance(options, dict), f"options is a mapping of a recipe's keys; got {options!r}")
    world = find_world(base) if isinstance(base, str) else None
    if world is not None:
        return {**world_options(world), **options}
    inherited: dict[str, Any] = {}
    if base:
        beside = folder / str(base)
        try:
            path = RECIPES.find(str(beside) if beside.is_file() else str(base))
        except ValueError as error:
            raise StudyError(f"recipe: {error}; or {_WORLD_NAMES}") from error
        written = _load(path, str(path))
        inherited = {key: value for key, value in written.items() if key not in SET_BY_STUDY}
    # Checkpoints of every trial would fill the disk; a study that wants them says so itself.
    return {**inherited, "save_strategy": "no", **options}


def _read_variants(entries: Any, shared: Mapping[str, Any]) -> list[Variant]:
    is_list = isinstance(entries, list) and len(entries) > 0
    _require(is_list, "variants must list at least one variant, each with a name")
    with _naming("options"):
        variants = {START: _make_variant(START, "what every variant begins as", shared)}
    for number, entry in enumerate(entries, start=1):
        with _naming(f"variants: no. {number}"):
            _require(isinstance(entry, dict), f"a variant is a mapping with a name; got {entry!r}")
            name = _read_name(entry.get("name"))
            _require(name != START, f"the name {name!r} stands for what every variant begins as; choose another")
            _require(name not in variants, f"the name {name!r} is given twice; choose another")
        with _naming(f"variant {name!r}"):
            options = {**shared, **{key: value for key, value in entry.items() if key not in ABOUT_VARIANT}}
            if isinstance(entry.get("own_pairs"), dict):
                options["own_pairs"] = {**(shared.get("own_pairs") or {}), **entry["own_pairs"]}
            for key in ONE_START:
                is_same = options.get(key) == shared.get(key)
                _require(is_same, f"{key} differs from the others', and all begin at one start")
            made = _make_variant(name, _read_about(entry), options)
            tuned_as = str(entry.get("tuned_as") or "")
            variants[name] = dataclasses.replace(made, own_keys=frozenset(entry), tuned_as=tuned_as)
    return list(variants.values())


def _make_variant(name: str, about: str, options: Mapping[str, Any]) -> Variant:
    for key in options:
        _require(key not in SET_BY_STUDY, f"{key} is set by the study: {SET_BY_STUDY.get(key)}")
    own = {key: options[key] for key in OWN_OPTIONS if options.get(key) is not None}
    for key in own:
        is_wanted = key == "fraction" or find_world(options.get("dataset_name")) is not None
        _require(is_wanted, f"{key} is for the embedded worlds; with other data, use fraction")
    own_pairs = read_entry(OwnPairs, own.pop("own_pairs"), "own_pairs") if "own_pairs" in own else None
    for key in ("fraction", "pairs_per_scene"):
        _require(own_pairs is None or key not in own, f"{key} means nothing to own_pairs: leave it out, and give pairs")
    pairs = asdict(make_options(WorldPairs, own))
    rest = {key: value for key, value in options.items() if key not in OWN_OPTIONS}
    return Variant(name, about, rest, own_pairs, **pairs)


def _read_seeds(seeds: Any) -> tuple[int, ...]:
    _require(isinstance(seeds, list) and len(seeds) > 0, "seeds must list at least one whole number")
    for seed in seeds:
        is_seed = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
        _require(is_seed, f"seeds are whole numbers from 0; got {seed!r}")
    _require(len(set(seeds)) == len(seeds), f"seeds: a seed is given twice in {seeds}")
    return tuple(seeds)


def _read_evaluation(values: Any, shared: Mapping[str, Any]) -> StudyEvaluation:
    needed = "evaluation: it must say what models are measured on: scenes, pairs, benchmarks, …"
    _require(isinstance(values, dict) and len(values) > 0, needed)
    own = find_world(shared.get("dataset_name"))
    of_world = {} if own is None else {"world": own.name, "dataset_name": own.name}
    evaluation = read_entry(
        StudyEvaluation, {"decided_by": shared.get("decided_by"), **of_world, **values}, "evaluation"
    )
    for key in of_world:
        is_other = (named := getattr(evaluation, key)) in WORLDS and named != of_world[key]
        _require(not is_other, f"evaluation: {key} is {named}, and the study trains on {of_world[key]}: leave it out")
    return evaluation


def _read_tuning(content: Mapping[str, Any], moved_from: str, study: Study) -> Tuning | None:
    """Returns `tune`, its learning rates scaled as those of the worlds are where the study was moved to another one."""
    if content.get("tune") is None:
        return None
    tuning, here = read_entry(Tuning, content["tune"], "tune"), str(content.get("recipe"))
    if tuning.key == "learning_rate" and {here, moved_from} <= set(WORLDS):
        there, now = (world_options(WORLDS[name])["learning_rate"] for name in (moved_from, here))
        tuning = dataclasses.replace(tuning, values=tuple(now / there * value for value in tuning.values))
    with _naming("tune"):
        shared = sorted(set(tuning.seeds) & set(study.seeds))
        _require(not shared, f"seeds {shared} are the study's own, which nothing may be chosen by")
        _require_known(
            tuning.by, study.evaluation.deciding, "by: the evaluation has no measure to decide by that is named"
        )
        tuned = {variant.name: variant for variant in study.variants[1:] if is_tuned(variant, tuning)}
        for variant in study.variants[1:]:
            if variant.tuned_as:
                wrong = f"variant {variant.name!r}: tuned_as: nothing that is run here tunes"
                _require_known(variant.tuned_as, list(tuned), wrong)
        for variant in tuned.values():
            for value in tuning.values:
                variant.having(tuning.key, value).recipe("unused", tuning.seeds[0])
    return tuning


def is_tuned(variant: Variant, tuning: Tuning) -> bool:
    """Says whether values are tried for a variant itself."""
    return tuning.key not in variant.own_keys and not variant.tuned_as
