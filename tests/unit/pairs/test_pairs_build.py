"""Pairs of answers and verdicts by hand: which are made, what each row says, and what became of all the others."""

import json
import shutil
from collections import Counter

import pytest
import yaml
from datasets import load_dataset
from pyarrow import parquet

from mmdpo.cli import main
from mmdpo.data.read import read_dataset
from mmdpo.pairs.build import build_pairs
from mmdpo.pairs.card import make_recipe, write_card
from mmdpo.pairs.dataset import group_images
from mmdpo.pairs.facts import warn
from mmdpo.pairs.plan import BuildError, BuildPlan
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.rules import Proposal, Rule
from mmdpo.pairs.run import PairsRun
from mmdpo.pairs.run_files import RunFiles
from mmdpo.pairs.samples import SamplesError
from mmdpo.report.pair_files import bound_text
from tests.pairs_help import make_candidate, make_prompt, paint, parse, read_lines, write_lines, write_run

PLAN = {"balance": "none"}


def c(k, text, wrong=0, right=2, **more):
    """An answer with so many wrong and right claims, scored as claims are."""
    claims = {"wrong": [f"wrong {n}" for n in range(wrong)], "right": [f"right {n}" for n in range(right)]}
    return make_candidate(k, text, score=right - 2 * wrong, **claims, **more)


def prompts_of(names, **more):
    return [make_prompt(name, image=paint((10 * place, 0, 99)), **more) for place, name in enumerate(names)]


def run_of(folder, answers, prompts=None, **more):
    prompts = prompts or prompts_of(answers)
    write_run(folder, prompts, answers, **more)
    return prompts


def build(folder, answers, prompts=None, labels=("objects",), **plan):
    """Builds the pairs of answers by prompt; returns what pairs.json holds."""
    prompts = run_of(folder, answers, prompts)
    return build_pairs(prompts, folder, labels, BuildPlan(**{**PLAN, **plan}), resamples=0)


def rows_of(folder, split="train"):
    return parquet.read_table(folder / "dataset" / f"{split}.parquet").to_pylist()


def texts_of(folder, split="train"):
    """Of every pair its id, and the chosen and the rejected text."""
    rows = rows_of(folder, split)
    return [(row["id"], *(row[name][0]["content"][0]["text"] for name in ("chosen", "rejected"))) for row in rows]


def why_dropped(folder):
    return {(row["id"], row.get("k")): row["reason"] for row in read_lines(folder / "dropped.jsonl")}


CLEAN_AND_NOT = [c(1, "a red cup"), c(2, "two blue dogs", wrong=1)]
IN_WORLD = [c(1, "cup , plate ."), c(2, "car , tree .", wrong=1)]
"""In words that the embedded world's model knows."""


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_row_says_where_its_pair_comes_from(tmp_path):
    answers = {
        "a": [
            c(0, "a cup here now", wrong=1, right=1),
            c(1, "a red cup", right=3),
            c(2, "one two three four five", wrong=2, right=1),
        ]
    }
    for each, logprob in zip(answers["a"][1:], (-4.5, -6.25), strict=True):
        each.sample = each.sample._replace(logprob=logprob)
    build(tmp_path, answers, rule="clean_worst", licence="cc-by-4.0", round=3)
    (row,) = rows_of(tmp_path)
    (prompt,) = prompts_of("a")
    claims = json.loads(row.pop("claims_rejected"))
    assert [claim["text"] for claim in claims if not claim["is_true"]] == ["wrong 0", "wrong 1"]
    assert [claim["text"] for claim in json.loads(row.pop("claims_chosen"))] == ["right 0", "right 1", "right 2"]
    assert [image["bytes"][:4] for image in row.pop("images")] == [b"\x89PNG"]
    assert row == {
        "id": "a",
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is there?"}],
            }
        ],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a red cup"}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "one two three four five"}]}],
        "prompt_id": "a",
        "image_sha256": prompt.image_digests[0],
        "round": 3,
        "sampler": "world@0123456789abcdef",
        "seed": 7,
        "k_chosen": 1,
        "k_rejected": 2,
        "judge": "objects",
        "judge_version": "objects@objects-1",
        "score_chosen": 3.0,
        "score_rejected": -3.0,
        "logp_chosen": -4.5,
        "logp_rejected": -6.25,
        "rule": "clean_worst",
        "clean": 1.0,
        "margin": 2.0,
        "length_ratio": 0.6,
        "licence": "cc-by-4.0",
    }


@pytest.fixture(params=["orjson", "json"])
def both_readers(request, monkeypatch):
    """Lines are read by orjson, then by the standard library."""
    reader = pytest.importorskip(request.param, reason="orjson reads lines faster: pip install mmdpo[app]")
    monkeypatch.setattr("mmdpo.pairs.run_files.loads", reader.loads)


@pytest.mark.usefixtures("both_readers")
def test_half_a_character_of_an_answer_that_was_written_by_hand_is_replaced(tmp_path):
    """As an endpoint's is when it comes."""
    build(tmp_path, {"a": [c(1, "a red cup \ud83d"), c(2, "two blue \udc00 dogs", wrong=1)]})
    assert texts_of(tmp_path) == [
        ("a", "a red cup \N{REPLACEMENT CHARACTER}", "two blue \N{REPLACEMENT CHARACTER} dogs")
    ]


def test_a_rewritten_answer_has_no_log_probability_of_its_own(tmp_path):
    answer = make_candidate(1, "A dog.", score=-1, wrong=[("dog", 0)], rewrite="A cat.")
    answer.sample = answer.sample._replace(logprob=-2.0)
    build(tmp_path, {"a": [answer]}, rule="correction")
    (row,) = rows_of(tmp_path)
    assert texts_of(tmp_path) == [("a", "A cat.", "A dog.")]
    assert row.get("logp_chosen") is None
    assert (row["logp_rejected"], row["k_chosen"], row["k_rejected"], row["clean"]) == (-2.0, 1, 1, 1.0)


def test_claims_are_of_the_texts_that_are_in_the_pair(tmp_path):
    """A rewritten answer does not say what was wrong in it, and of a start that alone counts which it says."""

    def claims():
        (row,) = rows_of(tmp_path)
        return [[claim["text"] for claim in json.loads(row[f"claims_{side}"])] for side in ("chosen", "rejected")]

    answer = make_candidate(1, "A dog.", score=-1, wrong=[("dog", 0)], rewrite="A cat.")
    found = build(tmp_path, {"a": [answer]}, rule="correction")
    assert claims() == [[], ["dog"]]
    assert (found["by_judge"], found["struck"], found["errors"]["chosen"]) == ({}, {"dog": 1}, None)
    right = make_candidate(1, "A room. A cup. A hat.", right=[("room", 0), ("cup", 1)], wrong=[("hat", 2)])
    wrong = make_candidate(2, "A room. A dog. A cow.", right=[("room", 0)], wrong=[("dog", 1), ("cow", 2)])
    found = build(tmp_path, {"a": [right, wrong]}, rule="sentence")
    assert claims() == [["room", "cup"], ["room", "dog"]]
    assert (found["errors"]["chosen"], found["errors"]["rejected"]) == (0, 50)
    assert (found["by_judge"], found["struck"]) == ({}, {"dog": 1})


def test_a_picture_has_its_own_licence_before_that_of_the_run(tmp_path):
    prompts = [
        Prompt(each.id, each.turns, each.images, {}, each.source, licence)
        for each, licence in zip(prompts_of("ab"), ("mine", ""), strict=True)
    ]
    build(tmp_path, dict.fromkeys("ab", CLEAN_AND_NOT), prompts, licence="theirs")
    assert [row["licence"] for row in rows_of(tmp_path)] == ["mine", "theirs"]


def test_several_pictures_and_a_system_turn_are_in_the_row(tmp_path):
    turns = (
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Two cups."}]},
        {"role": "user", "content": [{"type": "text", "text": "Which is red?"}]},
    )
    prompt = Prompt("a", turns, (paint((1, 1, 1)), paint((2, 2, 2))), {}, "row 1")
    build(tmp_path, {"a": CLEAN_AND_NOT}, [prompt])
    (example,) = read_dataset(tmp_path / "dataset" / "train.parquet")
    assert [turn["role"] for turn in example.prompt] == ["system", "user", "assistant", "user"]
    assert len(example.images) == 2
    (row,) = rows_of(tmp_path)
    assert row["image_sha256"] == " ".join(prompt.image_digests)


def test_plain_datasets_reads_the_rows_and_data_check_finds_no_fault(tmp_path, capsys):
    build(tmp_path, dict.fromkeys("abc", CLEAN_AND_NOT))
    path = str(tmp_path / "dataset" / "train.parquet")
    found = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert found[1]["chosen"][0]["content"][0]["text"] == "a red cup"
    assert found[1]["images"][0].size == (8, 8)
    assert found[1]["margin"] == 1.0
    assert main(["data", "check", path, "--num_proc", "1"]) == 0, capsys.readouterr().out


def test_built_twice_the_files_are_the_same_to_the_byte(tmp_path):
    answers = {
        name: [c(1, f"a red {name}"), c(2, f"two {name}", wrong=1)]
        for name in ("ä", 'b"b', "c\\c", "日本", *"defghijk")
    }
    build(tmp_path / "one", answers, eval_share=0.5)
    build(tmp_path / "two", answers, eval_share=0.5)
    build(tmp_path / "two", answers, eval_share=0.5)
    for name in ("dataset/train.parquet", "dataset/eval.parquet", "pairs.json", "dropped.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {row["prompt_id"] for split in ("train", "eval") for row in rows_of(tmp_path / "one", split)} == set(answers)


# -- what falls away ---------------------------------------------------------------------------------------------------


def test_every_prompt_and_every_answer_that_is_in_no_pair_has_its_reason(tmp_path):
    answers = {
        "pair": [
            c(1, "a red cup"),
            c(2, "two blue dogs", wrong=1),
            c(3, " "),
            c(4, "no no no no"),
            c(5, "I cannot see it."),
            c(6, "A RED cup!"),
            c(7, "unjudged"),
        ],
        "clean": [c(1, "a cup"), c(2, "two cups")],
        "wrong": [c(1, "a dog", wrong=1), c(2, "two dogs", wrong=2)],
        "alone": [c(1, "a cup"), c(2, "")],
        "near": [c(1, "a bee", right=1), c(2, "a bus", wrong=1, kind="no_image")],
        "nothing": [],
    }
    prompts = run_of(tmp_path, answers)
    verdicts = read_lines(tmp_path / "verdicts-objects.jsonl")
    del verdicts[0]["verdicts"]["7"]
    write_lines(tmp_path / "verdicts-objects.jsonl", verdicts)
    samples = read_lines(tmp_path / "samples.jsonl")
    samples.append({"id": "pair", "k": 8, "text": "and so", "kind": "draw", "finish_reason": "length"})
    write_lines(tmp_path / "samples.jsonl", samples)
    left_out = [(make_prompt("held"), "image held out")]
    found = build_pairs(prompts, tmp_path, ["objects"], BuildPlan(**PLAN, margin=1), left_out=left_out, resamples=0)
    assert texts_of(tmp_path) == [("pair", "a red cup", "two blue dogs"), ("near", "a bee", "a bus")]
    assert why_dropped(tmp_path) == {
        ("pair", 3): "empty",
        ("pair", 4): "repeating",
        ("pair", 5): "refusal",
        ("pair", 6): "duplicate",
        ("pair", 7): "no verdict",
        ("pair", 8): "cut off",
        ("clean", None): "no answer has a wrong claim",
        ("wrong", None): "every answer has a wrong claim",
        ("alone", 2): "empty",
        ("alone", None): "fewer than two answers to compare",
        ("nothing", None): "no answer, or its picture cannot be read",
        ("held", None): "image held out",
    }
    funnel = found["funnel"]
    assert funnel["prompts"] == len(answers) + 1
    assert funnel["pairs"] + sum(funnel["prompts_lost"].values()) == funnel["prompts"]
    assert funnel["answers"] == len(samples)
    assert funnel["candidates"] + sum(funnel["answers_lost"].values()) == funnel["answers"]
    assert funnel["prompts_without_mistakes"] == 2
    assert funnel["prompts_judged"] == 5
    assert funnel["yield"] == 2 / 7
    assert found["pairs"] == {"train": 2}


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"margin": 3}, "margin too small"),
        ({"max_margin": 1}, "margin too large"),
        ({"max_ratio": 1.2}, "lengths too different"),
    ],
)
def test_a_pair_that_the_plan_does_not_want_is_not_made(plan, reason, tmp_path):
    answers = {
        "a": [c(1, "one two three"), c(2, "one two", wrong=2)],
        "b": [c(1, "a b c d e"), c(2, "f g h i j", wrong=3 if "margin" in plan else 1)],
    }
    build(tmp_path, answers, **plan)
    assert [row["id"] for row in rows_of(tmp_path)] == ["b"]
    assert why_dropped(tmp_path) == {("a", None): reason}


def test_near_duplicates_are_one_answer_as_the_plan_says(tmp_path):
    long = "one two three four five six seven eight nine ten eleven twelve"
    answers = {"a": [c(1, long), c(2, f"{long} more", wrong=1), c(3, "a dog", wrong=2)]}
    build(tmp_path, answers)
    assert texts_of(tmp_path) == [("a", long, "a dog")]
    assert why_dropped(tmp_path) == {("a", 2): "near duplicate"}
    build(tmp_path, answers, near_duplicate=1)
    assert texts_of(tmp_path) == [("a", long, f"{long} more")]


def test_no_pair_at_all_is_an_error_that_counts_the_reasons(tmp_path):
    answers = {"a": [c(1, "a cup"), c(2, "two cups")], "b": [c(1, "a bus"), c(2, "a bee")]}
    with pytest.raises(BuildError, match=r"no pair is left of 2 prompts: 2 × prompt: no answer has a wrong claim\."):
        build(tmp_path, answers)
    assert len(why_dropped(tmp_path)) == 2


def test_a_judge_that_gives_every_answer_the_same_score_makes_no_pair(tmp_path):
    answers = {name: [make_candidate(k, f"{name} {k}", score=5) for k in (1, 2, 3)] for name in "ab"}
    run_of(tmp_path, answers, judge="pairwise")
    with pytest.raises(BuildError, match="2 × prompt: all answers have the same score"):
        build_pairs(prompts_of("ab"), tmp_path, ["pairwise"], BuildPlan(rule="best_worst"), resamples=0)


def test_a_rule_that_looks_for_mistakes_refuses_a_judge_that_only_ranks(tmp_path):
    answers = {"a": [make_candidate(1, "a", score=5), make_candidate(2, "b", score=3)]}
    prompts = run_of(tmp_path, answers, judge="pairwise")
    with pytest.raises(
        BuildError, match="clean_near looks for wrong claims, and pairwise only ranks answers: take best_"
    ):
        build_pairs(prompts, tmp_path, ["pairwise"], BuildPlan(), resamples=0)
    found = build_pairs(prompts, tmp_path, ["pairwise"], BuildPlan(rule="best_worst"), resamples=0)
    assert found["clean"] is None
    assert texts_of(tmp_path) == [("a", "a", "b")]


def test_missing_files_are_named_with_the_step_that_makes_them(tmp_path):
    with pytest.raises(BuildError, match="holds no answers: run `mmdpo pairs sample` first"):
        build_pairs(prompts_of("a"), tmp_path, ["objects"], BuildPlan())
    run_of(tmp_path, {"a": CLEAN_AND_NOT})
    with pytest.raises(BuildError, match="holds no verdicts of claims: run `mmdpo pairs judge` first"):
        build_pairs(prompts_of("a"), tmp_path, ["claims"], BuildPlan())


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rule": "clean_nearest"}, "did you mean 'clean_near'"),
        ({"mistakes": "mend"}, "give drop, weigh, keep"),
        ({"balance": "words"}, "give mean, style, none"),
        ({"combine": "all"}, "give both, first_then, mean"),
        ({"per_prompt": 0}, "per_prompt is 0"),
        ({"per_image": 0}, "per_image is 0"),
        ({"near_duplicate": 0}, "near_duplicate is 0"),
        ({"eval_share": 1}, "eval_share is 1"),
        ({"max_ratio": 0.9}, "max_ratio is 0.9"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"max_margin": 0.5}, "max_margin is 0.5"),
    ],
)
def test_a_plan_that_is_none_is_refused_by_name(plan, message):
    with pytest.raises(ValueError, match=message):
        BuildPlan(**plan)


# -- how many of what --------------------------------------------------------------------------------------------------


def test_two_pairs_of_a_prompt_are_different_ones_with_ids_of_their_own(tmp_path):
    answers = {"a": [c(1, "a cup"), c(2, "two dogs", wrong=1), c(3, "three cats now", wrong=1)], "b": CLEAN_AND_NOT}
    build(tmp_path, answers, per_prompt=2)
    assert texts_of(tmp_path) == [
        ("a", "a cup", "two dogs"),
        ("a/1", "a cup", "three cats now"),
        ("b", "a red cup", "two blue dogs"),
    ]
    assert [row["prompt_id"] for row in rows_of(tmp_path)] == ["a", "a", "b"]


def test_a_picture_has_so_many_pairs_whatever_asks_about_it(tmp_path):
    image = paint((1, 2, 3))
    prompts = [make_prompt(name, question=f"What, {name}?", image=image) for name in "abcd"]
    answers = {name: [c(1, f"a {name}"), c(2, f"two {name}", wrong=1), c(3, f"no {name}", wrong=2)] for name in "abcd"}
    found = build(tmp_path, answers, prompts, per_image=3)
    assert [row["id"] for row in rows_of(tmp_path)] == ["a", "b", "c"]
    assert why_dropped(tmp_path) == {("d", None): "too many of an image"}
    assert found["images"] == 1
    found = build(tmp_path, answers, prompts, per_image=3, per_prompt=2)
    assert [row["id"] for row in rows_of(tmp_path)] == ["a", "a/1", "b"]
    assert found["funnel"]["pairs_lost"] == {"too many of an image": 1}
    assert found["funnel"]["prompts_lost"] == {"too many of an image": 2}


def test_a_picture_among_others_has_no_more_pairs_than_one_alone(tmp_path):
    shared, *others = (paint((n, 2, 3)) for n in range(4))
    prompts = [_with_pictures(name, shared, other) for name, other in zip("abc", others, strict=True)]
    build(tmp_path, dict.fromkeys("abc", CLEAN_AND_NOT), prompts, per_image=2)
    assert [row["id"] for row in rows_of(tmp_path)] == ["a", "b"]
    assert why_dropped(tmp_path) == {("c", None): "too many of an image"}


def _with_pictures(name, *images):
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": f"What, {name}?"}]
    return Prompt(name, ({"role": "user", "content": content},), images, {}, f"row {name}")


def test_answers_in_a_script_without_blanks_are_measured_by_their_letters(tmp_path):
    """Counted by what stands between blanks, all of them would have one word, and be of one length."""
    answers = [c(1, "桌上有一只红色的杯子。"), c(2, "有狗。", wrong=1), c(3, "桌上有一只红色的狗。", wrong=1)]
    found = build(tmp_path, {"a": answers})
    assert texts_of(tmp_path) == [("a", "桌上有一只红色的杯子。", "桌上有一只红色的狗。")]
    assert (found["words"]["chosen"], found["words"]["rejected"]) == (10, 9)
    assert [bound_text(answers[place].sample.text)["words"] for place in (0, 2)] == [10, 9]  # as the page has it


def test_the_same_pair_about_the_same_picture_is_made_once(tmp_path):
    """Two rows ask the same; what they ask in another conversation is another prompt."""
    same, other = make_prompt("a"), make_prompt("b")
    turns = ({"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *same.turns)
    prompts = [same, other, Prompt("c", turns, same.images), make_prompt("d", image=paint((0, 9, 0)))]
    build(tmp_path, dict.fromkeys("abcd", CLEAN_AND_NOT), prompts)
    assert [row["id"] for row in rows_of(tmp_path)] == ["a", "c", "d"]
    assert why_dropped(tmp_path) == {("b", None): "the same pair elsewhere"}


def test_the_mean_lengths_are_balanced_and_prompts_that_have_to_go_are_named(tmp_path):
    even = {name: [c(1, f"a red {name}"), c(2, f"two {name} now", wrong=1)] for name in "abcdefgh"}
    odd = {"z": [c(1, "a b c d e f g h i j"), c(2, "two", wrong=1)]}
    found = build(tmp_path, even | odd, balance="mean")
    assert [row["id"] for row in rows_of(tmp_path)] == list(even)
    assert why_dropped(tmp_path) == {("z", None): "lengths and style would differ"}
    assert found["words"]["difference"] == 0
    choice = {"z": [*odd["z"], c(3, "b c d e f g h i j k l", wrong=1)]}
    build(tmp_path, even | choice, balance="mean", rule="clean_worst", margin=1)
    assert texts_of(tmp_path)[-1] == ("z", "a b c d e f g h i j", "b c d e f g h i j k l")


def test_style_is_balanced_on_top_where_a_mark_decides(tmp_path):
    """Polite answers are chosen in every pair; each prompt offers one plain answer as good."""
    answers = {
        name: [
            c(1, f"sure a {name} hope this helps", right=3),
            c(2, f"here now a small {name} stands", right=2),
            c(3, f"here then a big {name} stands", wrong=1),
        ]
        for name in ("cup", "bus", "dog", "cat", "bee", "cow")
    }
    before = build(tmp_path, answers, balance="mean")["style"]
    after = build(tmp_path, answers, balance="style")["style"]
    decided = [name for name, of in before.items() if of["auc"] > 0.6]
    assert decided
    for name in decided:
        assert after[name]["auc"] < before[name]["auc"]
        assert abs(after[name]["chosen"] - after[name]["rejected"]) < 5


# -- splits ------------------------------------------------------------------------------------------------------------


def test_no_picture_is_on_both_sides_of_the_split_though_prompts_share_some(tmp_path):
    """Every prompt shows two of sixty pictures, each picture is in two prompts: rings of ten."""
    pictures = [paint((n, 2 * n, 9)) for n in range(60)]
    turns = ({"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]},)
    prompts = [
        Prompt(str(n), turns, (pictures[n], pictures[n // 10 * 10 + (n + 1) % 10]), {}, f"row {n}") for n in range(60)
    ]
    answers = {each.id: [c(1, f"a red {each.id}"), c(2, f"two {each.id} now", wrong=1)] for each in prompts}
    found = build(tmp_path, answers, prompts, eval_share=0.5)
    assert set(found["pairs"]) == {"train", "eval"}
    assert sum(found["pairs"].values()) == 60
    sides = [
        {digest for row in rows_of(tmp_path, split) for digest in row["image_sha256"].split()}
        for split in found["pairs"]
    ]
    assert sides[0].isdisjoint(sides[1])
    assert all(len(side) % 10 == 0 for side in sides)


def test_the_split_depends_on_the_picture_alone(tmp_path):
    answers = dict.fromkeys(map(str, range(30)), CLEAN_AND_NOT)
    found = build(tmp_path / "all", answers, eval_share=0.3)
    assert 2 <= found["pairs"]["eval"] <= 18
    build(tmp_path / "half", dict(list(answers.items())[:15]), eval_share=0.3)
    kept = [row["id"] for row in rows_of(tmp_path / "all", "eval") if int(row["id"]) < 15]
    assert [row["id"] for row in rows_of(tmp_path / "half", "eval")] == kept
    build(tmp_path / "all", answers)
    assert not (tmp_path / "all" / "dataset" / "eval.parquet").exists()  # of the build before


def test_pictures_that_stand_together_are_one_group():
    assert group_images([("a",), ("b", "c"), ("d", "c"), ("e", "d")]) == {"a": "a"} | dict.fromkeys("bcde", "b")


def test_a_format_of_an_earlier_build_does_not_stay_beside_other_pairs(tmp_path):
    prompts = run_of(tmp_path, {f"p{n}": IN_WORLD for n in range(12)})
    flags = ["--prompts", "x", "--model", "world", "--judges", "objects", "--balance", "none", "--out", tmp_path]
    for words, left in (
        (["--to", "ms_swift", "--eval_share", 0.5], ["ms_swift-eval", "ms_swift-train"]),
        (["--to", "llama_factory"], ["llama_factory-train"]),
        ([], []),
    ):
        PairsRun(parse(*flags, *words), prompts).build()
        assert sorted(path.name for path in (tmp_path / "dataset").iterdir() if path.is_dir()) == left


# -- mistakes ----------------------------------------------------------------------------------------------------------


def three_prompts(clean):
    """Three prompts, of which so many have an answer without a mistake."""
    return {
        name: [c(1, f"a red {name}", wrong=int(place >= clean)), c(2, f"two {name} now", wrong=2)]
        for place, name in enumerate("abc")
    }


def test_where_fewer_than_a_third_have_a_clean_answer_the_best_is_taken_and_its_mistakes_weigh(tmp_path):
    found = build(tmp_path, three_prompts(0))
    assert (found["rule"], found["asked_rule"], found["clean"]) == ("best_worst", "clean_near", 0)
    assert "0 of 3 prompts have an answer without a wrong claim" in found["notes"][0]
    assert [(row["rule"], row["clean"], row["margin"]) for row in rows_of(tmp_path)] == [("best_worst", 0.0, 2.0)] * 3
    found = build(tmp_path, three_prompts(1))
    assert (found["rule"], found["clean"], found["pairs"]) == ("clean_near", 100, {"train": 1})


def test_the_recipe_weighs_the_anchor_where_chosen_answers_have_mistakes(tmp_path, monkeypatch, capsys):
    """As the recipe reader reads it: a dry run of training on the pairs passes."""
    flawed = [c(1, "cup , stove .", wrong=1), c(2, "car , bike .", wrong=2)]
    answers = {f"{name}{n}": of for name, of in (("a", flawed), ("d", IN_WORLD)) for n in range(3)}
    prompts = prompts_of(answers)
    options = parse("--prompts", "world", "--model", "world", "--judges", "objects", "--out", tmp_path)
    for plan, expected in (({"rule": "best_worst", "mistakes": "weigh"}, 50.0), ({}, 100.0)):
        found = build(tmp_path, answers, prompts, **plan)
        assert found["clean"] == expected
        write_card(tmp_path, found, options)
        recipe = yaml.safe_load((tmp_path / "train.yaml").read_text())
        weights = [term.get("weight_column") for term in recipe["objective"]] if expected < 100 else []
        assert weights == ([None, "clean"] if expected < 100 else [])
        assert expected < 100 or recipe["objective"] == "dpo_anchor"
        monkeypatch.setenv("COLUMNS", "200")
        command = ["train", "--config", str(tmp_path / "train.yaml"), "--use_cpu", "true", "--dry_run"]
        assert main(command) == 0, capsys.readouterr().err
        assert "faulty" not in capsys.readouterr().out


def test_the_recipe_opens_the_policy_as_it_was_asked(tmp_path):
    flags = ["--prompts", "world", "--model", "me/policy", "--judges", "objects", "--out", tmp_path]
    found = build(tmp_path, {"a": CLEAN_AND_NOT})
    plain = make_recipe(tmp_path, found, parse(*flags))
    flags += ["--revision", "a1b2", "--pad_to_square", "--chat_template", "vicuna", "--trust_remote_code"]
    recipe = make_recipe(tmp_path, found, parse(*flags, "--chat_template_kwargs", '{"enable_thinking": false}'))
    assert recipe == plain | {
        "model_revision": "a1b2",
        "chat_template": "vicuna",
        "chat_template_kwargs": {"enable_thinking": False},
        "pad_to_square": True,
        "trust_remote_code": True,
    }


@pytest.mark.parametrize(("mistakes", "ids"), [("drop", ["d"]), ("weigh", ["a", "d"]), ("keep", ["a", "d"])])
def test_chosen_answers_with_mistakes_are_dropped_or_kept_as_the_plan_says(mistakes, ids, tmp_path):
    answers = {"a": [c(1, "a red a", wrong=1), c(2, "two a now", wrong=2)], "d": CLEAN_AND_NOT}
    build(tmp_path, answers, rule="best_worst", mistakes=mistakes)
    assert [row["id"] for row in rows_of(tmp_path)] == ids
    assert [row["clean"] for row in rows_of(tmp_path)] == [float(name == "d") for name in ids]
    if mistakes == "drop":
        assert why_dropped(tmp_path) == {("a", None): "chosen answer has a wrong claim"}


def test_the_shares_of_wrong_claims_are_those_of_the_claims(tmp_path):
    """Chosen: 1 of 3 and 0 of 2; rejected: 2 of 4 and 1 of 3; all answers: those and a third one, 0 of 2."""
    answers = {
        "a": [c(1, "a red a", wrong=1), c(2, "two a now", wrong=2), c(3, "a dull a", kind="no_image", wrong=1)],
        "d": [*CLEAN_AND_NOT, c(3, "some cups")],
    }
    found = build(tmp_path, answers, rule="best_worst", mistakes="keep")
    assert found["errors"] == {
        "chosen": pytest.approx(100 / 5),
        "rejected": pytest.approx(300 / 7),
        "pool": pytest.approx(400 / 14),
    }
    assert found["by_judge"] == {"objects": 50}
    assert found["struck"] == {"wrong 0": 2, "wrong 1": 1}
    assert found["words"]["pool"] == pytest.approx(14 / 5)


# -- several judges ----------------------------------------------------------------------------------------------------


def add_judge(folder, label, answers, judge="objects"):
    other = folder.with_name(f"{folder.name} {label}")
    run_of(other, answers, judge=judge, label=label)
    for name in (f"verdicts-{label}.jsonl", f"judge-{label}.json"):
        shutil.copy(other / name, folder / name)


FIRST = {
    "agreed": [c(1, "a cup"), c(2, "two dogs", wrong=1)],
    "turned": [c(1, "a cup"), c(2, "two dogs", wrong=1)],
    "struck": [c(1, "a cup", right=3), c(2, "two dogs", wrong=1)],
    "other": [c(1, "a cup", right=3), c(2, "two dogs", wrong=1), c(3, "a red cup", right=2)],
    "unseen": [c(1, "a cup"), c(2, "two dogs", wrong=1)],
}
SECOND = {
    "agreed": [c(1, "a cup"), c(2, "two dogs", wrong=2)],
    "turned": [c(1, "a cup", wrong=2), c(2, "two dogs", wrong=1)],
    "struck": [c(1, "a cup", right=9, wrong=1), c(2, "two dogs", wrong=1)],
    "other": [c(1, "a cup", wrong=2), c(2, "two dogs", wrong=1), c(3, "a red cup", right=2)],
    "unseen": [c(1, "a cup")],
}


@pytest.mark.parametrize("combine", ["both", "first_then"])
def test_two_judges_have_to_agree_on_a_pair_and_on_its_clean_answer(combine, tmp_path):
    folder = tmp_path / "run"
    prompts = run_of(folder, FIRST)
    add_judge(folder, "second", SECOND)
    plan = BuildPlan(**PLAN, combine=combine)
    found = build_pairs(prompts, folder, ["objects", "second"], plan, resamples=0)
    assert texts_of(folder) == [("agreed", "a cup", "two dogs"), ("other", "a red cup", "two dogs")]
    assert why_dropped(folder) == {(name, None): "judges disagree" for name in ("turned", "struck", "unseen")}
    assert [row["judge"] for row in rows_of(folder)] == ["objects + second"] * 2
    assert [row["score_chosen"] for row in rows_of(folder)] == [2.0, 2.0]  # of the first
    assert found["by_judge"] == {"objects": 0, "second": 0}


def test_the_mean_of_two_judges_counts_where_both_have_a_verdict(tmp_path):
    folder = tmp_path / "run"
    prompts = run_of(folder, FIRST)
    add_judge(folder, "second", SECOND)
    plan = BuildPlan(**PLAN, combine="mean", rule="best_worst", mistakes="keep")
    build_pairs(prompts, folder, ["objects", "second"], plan, resamples=0)
    scores = {row["id"]: (row["k_chosen"], row["score_chosen"], row["score_rejected"]) for row in rows_of(folder)}
    assert scores == {
        "agreed": (1, 2.0, -1.0),
        "struck": (1, 5.0, 0.0),
        "other": (3, 2.0, 0.0),  # of the others the mean is 0.5 and 0
    }
    assert why_dropped(folder)["unseen", 2] == "no verdict"
    assert ("turned", None) in why_dropped(folder)  # both 0


def test_the_mean_of_judges_keeps_a_rewrite(tmp_path):
    answers = {"a": [make_candidate(1, "A dog.", score=-1, wrong=["dog"], rewrite="A cat.")]}
    prompts = run_of(tmp_path, answers)
    add_judge(tmp_path, "second", {"a": [make_candidate(1, "A dog.", wrong=["dog"])]})
    plan = BuildPlan(**PLAN, combine="mean", rule="correction")
    build_pairs(prompts, tmp_path, ["objects", "second"], plan, resamples=0)
    assert texts_of(tmp_path) == [("a", "A cat.", "A dog.")]


def test_an_answer_with_a_wrong_claim_is_not_clean_though_another_judge_holds_all_of_it_to_be_right(tmp_path):
    answers = {"a": [make_candidate(1, "Two, since a dog is there.", wrong=["dog"]), make_candidate(2, "Three.")]}
    prompts = run_of(tmp_path, answers)
    whole = [make_candidate(1, "", score=1, is_right=True), make_candidate(2, "", score=0, is_right=False)]
    add_judge(tmp_path, "second", {"a": whole}, judge="exact")
    plan = BuildPlan(**PLAN, combine="mean", rule="best_worst", margin=0.0, mistakes="keep")
    build_pairs(prompts, tmp_path, ["objects", "second"], plan, resamples=0)
    assert [row["clean"] for row in rows_of(tmp_path)] == [0.0]


# -- files -------------------------------------------------------------------------------------------------------------


def test_answers_of_several_processes_are_read_together(tmp_path):
    answers = dict.fromkeys("abcd", CLEAN_AND_NOT)
    prompts = run_of(tmp_path / "one", answers)
    run_of(tmp_path / "two", answers)
    for name in ("samples", "prompts"):
        rows = read_lines(tmp_path / "two" / f"{name}.jsonl")
        write_lines(tmp_path / "two" / f"{name}.jsonl", [row for row in rows if row["id"] in "ac"])
        write_lines(tmp_path / "two" / f"{name}.part-1.jsonl", [row for row in rows if row["id"] in "bd"])
    for folder in ("one", "two"):
        build_pairs(prompts, tmp_path / folder, ["objects"], BuildPlan(**PLAN), resamples=0)
    assert texts_of(tmp_path / "two") == texts_of(tmp_path / "one")
    one, two = ((tmp_path / folder / "dataset" / "train.parquet").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_lines_are_found_by_their_prompt_and_half_a_line_is_none(tmp_path):
    names = ['say "hi"', "back\\slash", "ünï", "new\nline", "a"]
    run_of(tmp_path, dict.fromkeys(names, CLEAN_AND_NOT))
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"id": "a", "k": 3, "text": "half')
    files = RunFiles(tmp_path, ["objects"])
    for name in names:
        samples, verdicts = files.read(name)
        assert [sample.text for sample in samples] == ["a red cup", "two blue dogs"]
        assert {k: verdict.struck for k, verdict in verdicts["objects"].items()} == {1: 0, 2: 1}
    assert files.read("nobody") == ([], {"objects": {}})


@pytest.mark.usefixtures("both_readers")
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_lines_of_a_prompt_that_stand_apart_are_read_together(tmp_path, separators):
    """Sampling writes the greedy answers of many prompts before their draws."""
    run_of(tmp_path, {name: [c(1, "a")] for name in "abc"})
    order = [(name, k) for ks in ([0], range(1, 12)) for name in "abc" for k in ks]
    rows = [{"id": name, "k": k, "text": f"answer {k} of \ud83d {name}"} for name, k in order]
    lines = (json.dumps(row, separators=separators).replace('{"id":"', '{"id": "') + "\n" for row in rows)
    (tmp_path / "samples.jsonl").write_text("".join(lines))
    files = RunFiles(tmp_path, ["objects"])
    assert [sample.k for sample in files.read("b").samples] == list(range(12))
    some = [(each.k, each.text) for each in files.read("b", (0, 1)).samples]
    assert some == [(k, f"answer {k} of \N{REPLACEMENT CHARACTER} b") for k in (0, 1)]
    assert files.read("b", (2,)).verdicts == {"objects": {}}
    assert files.read("b", (1,)).verdicts["objects"].keys() == {1}


def test_a_later_line_of_a_prompt_counts_and_one_against_another_truth_does_not(tmp_path):
    run_of(tmp_path, {"a": CLEAN_AND_NOT})
    first = read_lines(tmp_path / "verdicts-objects.jsonl")[0]["verdicts"]
    write_lines(
        tmp_path / "verdicts-objects.jsonl",
        [
            {"id": "a", "truth": "old", "verdicts": first},
            {"id": "a", "truth": "new", "verdicts": {"1": {"score": 8}}},
            {"id": "a", "truth": "new", "verdicts": {"1": {"score": 9}}},
        ],
    )
    verdicts = RunFiles(tmp_path, ["objects"]).read("a").verdicts["objects"]
    assert {k: verdict.score for k, verdict in verdicts.items()} == {1: 9}


def test_answers_that_are_not_planned_any_more_are_none(tmp_path):
    answers = {"a": [*CLEAN_AND_NOT, c(3, "three cups", right=9)]}
    prompts = run_of(tmp_path, answers)
    build_pairs(prompts, tmp_path, ["objects"], BuildPlan(**PLAN), resamples=0, is_planned=lambda each: each.k < 3)
    assert texts_of(tmp_path) == [("a", "a red cup", "two blue dogs")]


def test_a_picture_that_is_not_the_one_that_was_asked_about_is_in_no_pair(tmp_path):
    run_of(tmp_path, {"a": CLEAN_AND_NOT})
    with pytest.raises(SamplesError, match="another prompt 'a': its words or pictures have changed"):
        build_pairs([make_prompt("a", image=paint((9, 9, 9)))], tmp_path, ["objects"], BuildPlan(**PLAN), resamples=0)


def test_without_the_list_of_prompts_the_pictures_are_read(tmp_path):
    prompts = run_of(tmp_path, {"a": CLEAN_AND_NOT})
    (tmp_path / "prompts.jsonl").write_text("")
    build_pairs(prompts, tmp_path, ["objects"], BuildPlan(**PLAN), resamples=0)
    assert rows_of(tmp_path)[0]["image_sha256"] == prompts[0].image_digests[0]


def test_a_prompt_without_an_answer_is_counted_and_its_picture_not_opened(tmp_path):
    missing = Prompt("z", make_prompt("z").turns, (tmp_path / "missing.png",))
    prompts = run_of(tmp_path, {"a": CLEAN_AND_NOT})
    result = build_pairs([*prompts, missing], tmp_path, ["objects"], BuildPlan(**PLAN), resamples=0)
    assert result["funnel"]["prompts"] == 2
    assert why_dropped(tmp_path) == {("z", None): "no answer, or its picture cannot be read"}


# -- the card ----------------------------------------------------------------------------------------------------------


def test_the_card_counts_what_became_of_all_and_opens_as_a_dataset_of_the_hub(tmp_path):
    found = build(tmp_path, dict.fromkeys("abc", CLEAN_AND_NOT) | {"d": [c(1, "a"), c(2, "b")]}, eval_share=0)
    options = parse("--prompts", "world", "--model", "world", "--out", tmp_path, "--licence", "cc-by-4.0")
    write_card(tmp_path, found, options)
    card = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "dataset/train.parquet"}]
    assert "no answer has a wrong claim" in card
    assert "3 preference pairs about 3 images" in card


@pytest.mark.parametrize(("low", "is_said"), [(55.0, True), (42.0, False), (None, False)])
def test_that_the_text_alone_decides_is_said_where_it_is_no_chance(low, is_said):
    result = {
        "words": {"difference": 0.0},
        "errors": None,
        "style": {},
        "shortcut": {"rules": {"text": {"accuracy": 76.0, "low": low}}},
        "funnel": {"yield": 1.0},
    }
    assert any("they can be learnt without looking" in note for note in warn(result)) == is_said


def test_what_pairs_are_known_to_teach_besides_looking_is_said(tmp_path):
    answers = {f"p{n}": [c(1, f"a p{n}"), c(2, f"there are really two of p{n} here", wrong=1)] for n in range(20)}
    answers |= {f"q{n}": [c(1, f"a q{n}"), c(2, f"some q{n}")] for n in range(300)}
    notes = " ".join(build(tmp_path, answers)["notes"])
    assert "chosen answers are 111 % shorter than rejected ones" in notes
    assert "20 pairs of 320 prompts, fewer than one in ten" in notes
    assert Counter(why_dropped(tmp_path).values()) == {"no answer has a wrong claim": 300}


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({"cut off": 11}, "11 of 100 answers were cut off at 24 tokens and make no pair: a higher max_new_tokens"),
        (
            {"duplicate": 30, "near duplicate": 21},
            "51 of 100 answers repeat another one to their prompt: a ",
        ),
        ({"cut off": 10, "duplicate": 50}, ""),
    ],
)
def test_settings_that_waste_answers_are_named(lost, said):
    result = {
        "words": {"difference": 0.0},
        "errors": None,
        "style": {},
        "shortcut": {"rules": {}},
        "sampler": {"settings": {"max_new_tokens": 24}},
        "funnel": {"yield": 1.0, "answers": 100, "answers_lost": lost},
    }
    notes = list(warn(result))
    assert [note.startswith(said) for note in notes] == [True] * bool(said)


# -- a rule of one's own -----------------------------------------------------------------------------------------------


def take_lengths(candidates, draw):
    first, *_, last = sorted(candidates, key=lambda each: -each.words)
    yield Proposal(first, last, 3.0, first.is_clean)


LENGTHS = Rule("the longest; the shortest", False, take_lengths)
PAIRS = Rule("two", False, lambda candidates, draw: iter([tuple(candidates[:2])]))


def test_a_rule_of_one_s_own_is_named_by_its_module(tmp_path):
    rule = f"{__name__}:LENGTHS"
    found = build(tmp_path, {"a": [c(1, "a cup"), c(2, "a cup on a table"), c(3, "a cup on it")]}, rule=rule)
    assert (found["rule"], found["about"]) == (rule, "the longest; the shortest")
    (row,) = parquet.read_table(tmp_path / "dataset" / "train.parquet").to_pylist()
    assert (row["k_chosen"], row["k_rejected"], row["margin"], row["rule"]) == (2, 1, 3.0, rule)
    found["pairs"] = {"train": 1}
    write_card(tmp_path, found, parse("--prompts", "x", "--model", "m", "--out", tmp_path, "--judges", "objects"))
    assert "The chosen answer is the longest, the rejected one the shortest." in (tmp_path / "README.md").read_text()


def test_what_is_no_rule_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"there is no rule 'clean_nea'; did you mean 'clean_near'\?.*or package.module"
    ):
        BuildPlan(rule="clean_nea")
    with pytest.raises(ValueError, match=f"{__name__}:take_lengths is a function and no rule: make it a Rule"):
        BuildPlan(rule=f"{__name__}:take_lengths")
    with pytest.raises(TypeError, match=r"PAIRS yields a tuple: it has to yield Proposals of mmdpo\.pairs\.rules"):
        build(tmp_path, {"a": [c(1, "a cup"), c(2, "a cup on a table")]}, rule=f"{__name__}:PAIRS")
