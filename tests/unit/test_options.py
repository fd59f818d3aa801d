"""Flags are made of the fields of dataclasses: every type, groups, what was given, and errors that name the flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from mmdpo.commands import all_verbs
from mmdpo.options import REQUIRED, Options, UsageError, group, make_options, option, parse_options, read_entry


@dataclass(frozen=True, kw_only=True)
class Engine(Options):
    """the engine"""

    PREFIX: ClassVar[str] = "engine_"

    kind: str = option("petrol", "What it burns.", choices=("petrol", "wood"), flag="engine")
    power: float = option(1.0, "Its power.")
    pistons: int = option(4, "How many pistons it has.", least=1)


@dataclass(frozen=True, kw_only=True)
class Car(Options):
    """A car."""

    place: Path = option(REQUIRED, "Where it stands.", positional=True, metavar="PLACE")
    owner: str | None = option(None, "Whose it is; 100 % of it.", positional=True, metavar="OWNER")
    colour: Literal["red", "blue"] | None = option(None, "Its colour.")
    doors: tuple[int, ...] = option((), "Widths of its doors.", use="doors")
    is_old: bool = option(False, "It is old.")
    engine: Engine = group(Engine)


def parse(*words, uses=None):
    return parse_options(Car, words, "car", uses=uses)


def test_values_have_the_types_of_their_fields_and_the_rest_its_defaults():
    car = parse("garage", "--doors", "70", "80", "--engine", "wood", "--engine_power=-2.5", "--is_old")
    assert car == Car(place=Path("garage"), doors=(70, 80), is_old=True, engine=Engine(kind="wood", power=-2.5))
    assert (car.given, car.engine.given) == ({"place", "doors", "is_old"}, {"engine", "engine_power"})
    assert parse("garage", "me", "--col", "red").owner == "me"
    assert parse("garage").given == {"place"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: PLACE|required: place"),
        (("garage", "--colr", "red"), "unknown flag --colr; did you mean '--colour'"),
        (("garage", "--colour", "green"), "--colour: invalid choice"),
        (("garage", "--engine_pistons", "many"), "--engine_pistons: invalid int value: 'many'"),
        (("garage", "me", "you"), "unrecognized arguments: you"),
    ],
)
def test_wrong_words_are_named_with_their_verb(words, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse(*words)
    assert str(caught.value).startswith("car: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_number_that_is_too_small_is_refused_from_the_command_line_and_from_code():
    for make in (lambda: parse("garage", "--engine_pistons", "0"), lambda: Engine(pistons=0)):
        with pytest.raises(ValueError, match="--engine_pistons is 0; give 1 or more"):
            make()


def test_the_help_has_groups_and_defaults_and_leaves_out_what_is_not_used(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help", uses=())
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "usage: mmdpo car PLACE [OWNER] [options]" in shown
    assert "the engine: --engine {petrol,wood} What it burns. [default: petrol]" in shown
    assert "100 % of it" in shown
    assert "--doors" not in shown


@pytest.mark.parametrize("verb", all_verbs().verbs.values(), ids=list(all_verbs().verbs))
def test_every_verb_says_in_one_line_what_it_does(verb):
    assert verb.about.endswith((".", "?"))
    assert "\n" not in verb.about


def test_options_are_made_of_python_values_by_the_names_of_flags():
    made = make_options(Car, {"place": "garage", "engine": "wood", "engine_power": 2, "colour": None})
    assert (made.place, made.engine.kind, made.engine.power) == (Path("garage"), "wood", 2.0)
    assert made.given == {"place"}
    assert made.engine.given == {"engine", "engine_power"}
    assert made == parse("garage", "--engine", "wood", "--engine_power", "2")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"place": "a", "colr": "red"}, TypeError, "there is no option 'colr'; did you mean 'colour'"),
        ({}, TypeError, "place is missing"),
        ({"place": "a", "colour": "green"}, ValueError, "colour is one of red, blue; got 'green'"),
        ({"place": "a", "engine": "steam"}, ValueError, "engine is one of petrol, wood"),
        ({"place": "a", "engine_pistons": "4"}, TypeError, "engine_pistons should be int, is '4'"),
        ({"place": "a", "engine_pistons": True}, TypeError, "engine_pistons should be int, is True"),
        ({"place": "a", "engine_pistons": 0}, ValueError, "--engine_pistons is 0; give 1 or more"),
        ({"place": 3}, TypeError, "place should be Path, is 3"),
    ],
)
def test_values_of_another_kind_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        make_options(Car, values)


@dataclass(frozen=True, kw_only=True)
class Wheel(Options):
    MARK: ClassVar[str] = ""

    width: int = option(7, "In inches.", least=1)
    pressure: float = option(0.5, "As a share.", within="(0, 1]")
    spokes: tuple[Literal["steel", "wood"], ...] = option((), "Of what.")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": 0}, "width is 0; give 1 or more"),
        ({"pressure": 0.0}, r"pressure is 0\.0; give a number in \(0, 1\]"),
        ({"pressure": float("nan")}, r"pressure is nan; give a number in \(0, 1\]"),
        ({"spokes": ("steel", "tin")}, r"spokes is \('steel', 'tin'\); give steel, wood"),
    ],
)
def test_a_value_out_of_range_is_refused_whoever_makes_the_options(values, said):
    assert Wheel(width=1, pressure=1, spokes=("wood",)).pressure == 1
    with pytest.raises(ValueError, match=f"^{said}"):
        Wheel(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (3, "wheel is a mapping of options; got 3"),
        ({"widht": 1}, "wheel: there is no option 'widht'; did you mean 'width'"),
        ({"width": "wide"}, "wheel: width should be int, is 'wide'"),
        ({"width": 0}, "wheel: width is 0; give 1 or more"),
    ],
)
def test_an_entry_of_a_file_is_told_with_its_place(values, said):
    assert read_entry(Wheel, {"width": 2, "pressure": None}, "wheel") == Wheel(width=2)
    with pytest.raises(ValueError, match=said):
        read_entry(Wheel, values, "wheel")
