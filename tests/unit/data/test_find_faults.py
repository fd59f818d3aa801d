import io
import json
import os
import signal
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from PIL import Image
from rich.console import Console

from mmdpo.data.check import CheckResult, ExampleFacts, find_faults, inspect_example
from mmdpo.data.check_summary import list_warnings, print_summary
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.faults import write_faults
from mmdpo.data.validate import require_images, validate_example
from mmdpo.objective import build_objective
from mmdpo.records import RowError, response_names


def png(width=6, height=4):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def pair(**columns):
    return {"prompt": "<image>What is it?", "chosen": "A cup.", "rejected": "A red car.", "images": [png()]} | columns


def turns(*content):
    return [{"role": "user", "content": [{"type": part, "text": "What?"} for part in content]}]


def answers(**columns):
    return {
        "chosen": [{"role": "assistant", "content": "cup"}],
        "rejected": [{"role": "assistant", "content": "car"}],
    } | columns


BAD = {
    "no chosen": (pair(chosen=None), "there is no `chosen`: add the answer, or remove the row"),
    "no rejected": (pair(rejected=None), "there is no `rejected`: add the answer, or remove the row"),
    "no prompt": (pair(prompt=None), "the prompt is empty: write the question, or remove the row"),
    "image alone": (pair(prompt="<image> \n"), "the prompt is empty: write the question, or remove the row"),
    "empty": (pair(chosen=""), "`chosen` is empty: write the answer, or remove the row"),
    "blank": (pair(rejected=" \n\t"), "`rejected` is empty: write the answer, or remove the row"),
    "blank turn": (pair(prompt=turns("image", "text"), **answers(chosen=" ")), "`chosen` is empty: write the answer"),
    "equal": (pair(rejected="A cup. "), "`chosen` and `rejected` are equal: there is nothing to prefer"),
    "image in answer": (pair(chosen="<image> A cup."), "`chosen` has an <image> in it: images belong to the prompt"),
    "prompt in answer": (
        pair(prompt=turns("image", "text"), **answers(chosen=turns("text"))),
        "`chosen` begins with a turn of the user: keep only the answer",
    ),
    "several turns": (
        pair(
            prompt=turns("image", "text"),
            **answers(
                chosen=[{"role": "assistant", "content": "cup"}, *turns("text"), {"role": "assistant", "content": "x"}]
            ),
        ),
        "`chosen` has 3 turns, and every word of an answer is trained on: keep one turn",
    ),
    "half a character": (pair(chosen="A red \ud83d cup."), r"`chosen` is not valid Unicode: .*'A red \\ud83d cup.'"),
    "half in a turn": (pair(prompt=turns("image", "text"), **answers(rejected="\udc00x")), "`rejected` is not valid"),
    "half in a prompt": (pair(prompt="<image>\ud83d?"), "`prompt` is not valid Unicode"),
    "more images": (pair(images=[png(), png()]), "1 place for 2 images: write <image> where each image belongs"),
    "fewer images": (pair(images=[]), "1 place for 0 images: add the missing images, or remove <image>"),
    "turns without place": (pair(prompt=turns("text"), **answers()), "0 places for 1 image: write <image>"),
    "turns without image": (pair(prompt=turns("image", "image", "text"), **answers()), "2 places for 1 image: add"),
    "more corrupted": (
        pair(rejected_images=[png(), png()]),
        r"2 corrupted images \(rejected_images\) for 1 image: give",
    ),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_every_fault_says_what_and_how_to_mend_it(row, message):
    example = PreferenceDataset.from_rows([row], format="trl", name="pairs.json")[0]
    with pytest.raises(RowError, match=message) as caught:
        validate_example(example)
    assert caught.value.source == "pairs.json, row 1"


def test_only_the_responses_that_are_needed_are_judged():
    example = PreferenceDataset.from_rows([pair(rejected=None, alternative=" ")], format="trl")[0]
    validate_example(example, responses=["chosen"])
    with pytest.raises(RowError, match="`alternative` is empty"):
        validate_example(example, responses=["chosen", "alternative"])


class TestAFaultIsATermWhoseTwoCellsAreEqual:
    """Image and answer; what no term compares may be equal."""

    ROWS: ClassVar = {
        "two answers": pair(),
        "same answers": pair(rejected="A cup. "),
        "same images": pair(rejected_images=[png()]),
        "both": pair(rejected="A cup.", rejected_images=[png()]),
    }

    @pytest.mark.parametrize(
        ("objective", "faulty"),
        {
            "dpo": {"same answers": "`chosen` and `rejected` are equal", "both": "`chosen` and `rejected` are equal"},
            "mdpo": {
                "same answers": "`chosen` and `rejected` are equal",
                "same images": "are the images themselves: there is nothing to prefer",
                "both": "`chosen` and `rejected` are equal",
            },
            "image_dpo": {"same images": "are the images themselves", "both": "are the images themselves"},
            "mmedpo": {"both": "are the images themselves, and `chosen` equals `rejected`"},
            "sft_chosen": {},
        }.items(),
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_each_objective_refuses_what_it_cannot_learn_from(self, objective, faulty):
        built = build_objective(objective)
        for name, row in self.ROWS.items():
            example = PreferenceDataset.from_rows([row], format="trl")[0]
            wanted = dict(responses=response_names(built.cells), comparisons=built.comparisons)
            if name in faulty:
                with pytest.raises(RowError, match=faulty[name]):
                    validate_example(example, **wanted)
            else:
                validate_example(example, **wanted)

    def test_a_row_that_says_it_is_not_corrupted_compares_the_image_with_itself(self):
        built = build_objective("image_dpo")
        example = replace(PreferenceDataset.from_rows([pair()], format="trl")[0], is_corrupted=False)
        with pytest.raises(RowError, match="are the images themselves"):
            validate_example(example, responses=["chosen"], comparisons=built.comparisons)


def test_a_row_without_images_is_good():
    validate_example(PreferenceDataset.from_rows([pair(prompt="What?", images=[])])[0])


@pytest.fixture
def mixed(tmp_path):
    rows = [
        pair(),
        pair(chosen=""),
        pair(images=[png(30, 10)]),
        pair(images=[png()[:45]]),
        pair(images=["gone.png"]),
        pair(rejected_images=[b"junk"]),
        pair(prompt=5),
        pair(),
    ]
    return PreferenceDataset.from_rows(rows, name="pairs.json", image_root=tmp_path)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_fault_hides_another(mixed, workers):
    result = find_faults(mixed, num_workers=workers, progress=False)
    assert result.good == (0, 2, 7)
    assert [fault.row for fault in result.faults] == [2, 4, 5, 6, 7]
    assert [fault.source for fault in result.faults] == [f"pairs.json, row {row}" for row in (2, 4, 5, 6, 7)]
    expected = [
        "`chosen` is empty",
        "embedded image (45 bytes) cannot",
        "gone.png does not exist",
        "(4 bytes) cannot",
        "`prompt`",
    ]
    assert all(text in fault.problem for text, fault in zip(expected, result.faults, strict=True))
    assert result.facts[1] == ExampleFacts(3, 2, 3, ((30, 10),), unit="words")
    assert result.repeats == 1


def test_rows_of_a_selection_keep_their_numbers(mixed):
    result = find_faults(mixed.select([7, 1]), num_workers=1, progress=False)
    assert (result.good, [fault.row for fault in result.faults]) == ((0,), [2])


def test_whatever_a_row_raises_is_its_fault(mixed):
    def inspect(example):
        if example.id == "3":
            raise KeyError("colour")
        return inspect_example(example)

    problems = {fault.row: fault.problem for fault in find_faults(mixed, inspect, num_workers=2, progress=False).faults}
    assert problems[3] == "KeyError: 'colour'"
    assert len(problems) == 6


def test_several_processes_share_the_rows_and_their_order_stays():
    def tell_process(example):
        return ExampleFacts(os.getpid(), int(example.id), 0, ())

    dataset = PreferenceDataset.from_rows([pair() for _ in range(70)])
    facts = {
        workers: find_faults(dataset, tell_process, num_workers=workers, progress=False).facts for workers in (1, 2)
    }
    assert {fact.prompt_tokens for fact in facts[1]} == {os.getpid()}
    assert len({fact.prompt_tokens for fact in facts[2]} - {os.getpid()}) == 2
    for of_rows in facts.values():
        assert [fact.chosen_tokens for fact in of_rows] == list(range(1, 71))


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_drawn_from_the_generator_of_the_run(workers):
    dataset = PreferenceDataset.from_rows([pair() for _ in range(40)])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    find_faults(dataset, num_workers=workers, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_faults_of_workers_are_those_of_one_process(mixed):
    many = mixed.select(list(range(len(mixed))) * 6)
    assert find_faults(many, num_workers=2, progress=False) == find_faults(many, num_workers=1, progress=False)


def test_a_worker_that_is_killed_is_one_error_that_says_what_to_do():
    def die(example):
        os.kill(os.getpid(), signal.SIGKILL)

    dataset = PreferenceDataset.from_rows([pair() for _ in range(40)])
    with pytest.raises(OSError, match="fewer of them"):
        find_faults(dataset, die, num_workers=2, progress=False)


def test_progress_goes_to_standard_error(mixed, capsys):
    find_faults(mixed, num_workers=1, progress=True)
    assert capsys.readouterr().out == ""


def test_summary_shows_counts_lengths_sizes_examples_and_every_fault(mixed):
    result = find_faults(mixed, num_workers=1, progress=False)
    console = Console(file=io.StringIO(), width=200)
    print_summary(result, mixed, console)
    lines = [" ".join(line.replace("│", " ").split()) for line in console.file.getvalue().splitlines()]
    for expected in (
        "format trl",
        "rows 8",
        "good 3",
        "faulty 5",
        "Lengths in words",
        "rejected 3 3 3 3",
        "width 6 6 30",
        "width / height 1.50 1.50 3.00",
        "Images: 3 with 2 distinct sizes, most often 6 × 4 (2)",
        "pairs.json, row 3",
        "Note: 1 of 3 rows have the prompt and images of an earlier row",
        "Note: chosen is shorter than rejected in 100% of the pairs: length alone tells them apart",
    ):
        assert expected in lines
    assert sum(line.startswith(tuple(f"{row} pairs.json, row {row}" for row in (2, 4, 5, 6, 7))) for line in lines) == 5


def test_summary_prints_brackets_as_they_are_and_survives_no_good_row():
    dataset = PreferenceDataset.from_rows([pair(chosen="[bold]A cup[/red]."), pair(chosen="")], name="[x]")
    for part in (dataset, dataset.select([1])):
        console = Console(file=io.StringIO(), width=200)
        print_summary(find_faults(part, num_workers=1, progress=False), part, console)
        assert "[x], row 2" in console.file.getvalue()
        assert ("[bold]A cup[/red]." in console.file.getvalue()) == (part is dataset)


def test_warnings_about_balanced_pairs_with_images_are_none():
    rows = [pair(prompt="<image>One?"), pair(prompt="<image>Two?", chosen="A very red cup.")]
    assert list_warnings(find_faults(PreferenceDataset.from_rows(rows), num_workers=1, progress=False)) == []
    rows[0] |= {"prompt": "What?", "images": []}
    (warning,) = list_warnings(find_faults(PreferenceDataset.from_rows(rows), num_workers=1, progress=False))
    assert warning.startswith("1 of 2 rows have no image")


TURNS = {
    "prompt": [{"role": "user", "content": "What?"}],
    **{name: [{"role": "assistant", "content": f"A {name} cup."}] for name in ("chosen", "rejected")},
}


@pytest.mark.parametrize(
    ("changes", "is_said"),
    [
        ({"prompt": "<image>\nWhat is this?"}, True),
        ({"prompt": "<|im_start|>user\n<image>What is this?<|im_end|>"}, False),
        ({"prompt": "A chat. USER: <image>\nWhat is this? ASSISTANT:"}, False),
        ({"prompt": "[INST] <image>\nWhat is this? [/INST]"}, False),
        (TURNS, False),
    ],
    ids=["plain", "chatml", "vicuna", "mistral", "turns"],
)
def test_a_prompt_that_no_template_was_applied_to_is_told(changes, is_said):
    dataset = PreferenceDataset.from_rows([pair(**changes)])
    console = Console(file=io.StringIO(), width=200)
    print_summary(find_faults(dataset, num_workers=1, progress=False), dataset, console)
    assert ("Note: prompts are plain text, to which no chat template is applied" in console.file.getvalue()) == is_said


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "b", "c"], None),
        (["a", "b", "a"], "rows 1 and 3 have the same"),
        (["a", "b", None], "1 rows have none"),
        ([None, None, None], None),
    ],
)
def test_ids_that_are_not_used_are_told(ids, said):
    dataset = PreferenceDataset.from_rows([pair(id=one) for one in ids])
    assert [example.id for example in dataset] == (ids if said is None and ids[0] else ["1", "2", "3"])
    console = Console(file=io.StringIO(), width=200)
    print_summary(find_faults(dataset, num_workers=1, progress=False), dataset, console)
    told = f"Note: the column `id` is not used for ids, since {said}: rows go by their numbers"
    assert (told in console.file.getvalue()) == (said is not None)


def test_faults_are_written_as_json_lines(mixed, tmp_path):
    faults = find_faults(mixed, num_workers=1, progress=False).faults
    write_faults(tmp_path / "faults.jsonl", faults)
    lines = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["row"] for line in lines] == [2, 4, 5, 6, 7]
    assert lines[0] == {
        "row": 2,
        "source": "pairs.json, row 2",
        "problem": "`chosen` is empty: write the answer, or remove the row",
    }


def test_what_cannot_be_printed_ends_no_check_and_is_shown(tmp_path):
    odd = "\x1b]0;owned\x07\x9b2J"
    rows = [
        pair(chosen=f"{odd} cup", id=f"\ud83d{odd}"),
        pair(images=[f"{odd}\ud83d.png"]),
        pair(prompt=f"\ud83d{odd}"),
    ]
    dataset = PreferenceDataset.from_rows(rows, name=odd, image_root=tmp_path)
    result = find_faults(dataset, num_workers=1, progress=False)
    assert [fault.row for fault in result.faults] == [2, 3]
    console = Console(file=io.StringIO(), width=200)
    print_summary(result, dataset, console)
    write_faults(tmp_path / "faults.jsonl", result.faults)
    for printed in (console.file.getvalue(), (tmp_path / "faults.jsonl").read_text(encoding="utf-8")):
        printed.encode()
        assert not set(printed) & set("\x1b\x07\x9b")
        assert "x1b]0;owned" in printed


def test_answers_that_the_objective_does_not_read_are_not_spoken_of():
    facts = [ExampleFacts(5, 7, None, ((6, 4),))] * 3
    dataset = PreferenceDataset.from_rows([pair(prompt=f"<image>{n}?") for n in range(3)])
    result = CheckResult(good=(0, 1, 2), facts=tuple(facts), faults=(), repeats=0)
    assert list_warnings(result) == []
    console = Console(file=io.StringIO(), width=200)
    print_summary(result, dataset, console)
    lines = [" ".join(line.replace("│", " ").split()) for line in console.file.getvalue().splitlines()]
    assert "chosen 7 7 7 7" in lines
    assert "chosen is longer –" in lines
    assert not any(line.startswith("rejected 0") for line in lines)


def test_a_wrong_folder_of_images_is_one_error_and_a_missing_image_is_a_row(tmp_path):
    rows = [pair(images=[f"{number}.png"]) for number in range(100)]
    with pytest.raises(ValueError, match=rf"^pairs: no image was found under {tmp_path}; .* \(image_root\)$"):
        require_images(PreferenceDataset.from_rows(rows, name="pairs", image_root=tmp_path))
    (tmp_path / "0.png").write_bytes(png())
    require_images(PreferenceDataset.from_rows(rows, image_root=tmp_path))
    require_images(PreferenceDataset.from_rows([pair(images=["gone.png"]), pair(prompt=7)], image_root=tmp_path))
