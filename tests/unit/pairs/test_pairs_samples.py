"""Answers to every prompt: which are asked for, what they depend on, and that a run goes on where it was."""

import json
import random
import shutil
from dataclasses import replace

import pytest

from mmdpo.cli import main
from mmdpo.files import UnusableFileError
from mmdpo.folders import check_kind
from mmdpo.generation.endpoint import RefusedError
from mmdpo.generation.questions import GeneratedAnswer, GenerationSettings, Processes
from mmdpo.options import UsageError
from mmdpo.pairs import judging, samples
from mmdpo.pairs.build import build_pairs
from mmdpo.pairs.judges import Context
from mmdpo.pairs.judging import JudgeChoice, judge_samples
from mmdpo.pairs.plan import BuildPlan
from mmdpo.pairs.prompts import draw_prompts
from mmdpo.pairs.run import MARKS, PairsRun
from mmdpo.pairs.samples import (
    SamplesError,
    SamplingPlan,
    check_asked,
    keep_start,
    kind_of,
    numbers_of,
    read_samples,
    sample,
)
from mmdpo.records import RowError, derive_seed
from tests.pairs_help import Scripted, make_prompt, paint, parse, read_lines

SETTINGS = GenerationSettings(max_new_tokens=40, temperature=1.0, seed=3)
WORDS = ("cup", "dog", "bus", "tree", "lamp", "bee", "cow", "book")


class Poet:
    """Says words drawn by the seed of each question, and goes on from what is begun."""

    def __init__(self, *, breaks_after=10**9, refuses=(), processes=None, name="poet"):
        self.breaks_after, self.refuses, self.name = breaks_after, refuses, name
        self.processes = processes or Processes()
        self.asked = []

    def describe(self):
        return {"model": self.name, "versions": {"poet": str(id(self))}}

    def answer(self, questions, settings):
        refused = 0
        for question in reversed(questions):
            if len(self.asked) == self.breaks_after:
                raise OSError("a wire broke")
            self.asked.append((question, settings))
            if question.id in self.refuses:
                refused += 1
                continue
            drawn = random.Random(question.seed if settings.temperature else repr(question.prompt))
            words = " ".join(drawn.choices(WORDS, k=6))
            details = {
                "finish_reason": "stop",
                "tokens": 6,
                "prompt_tokens": 9,
                "logprob": -drawn.random() * 9,
                "odd": 1,
            }
            yield GeneratedAnswer(question.id, f"{question.begun} {words}".strip(), details)
        if refused:
            raise RefusedError(f"{refused} refused")


def prompts_of(count):
    return [make_prompt(f"p{n}", image=paint((n, 0, 0))) for n in range(count)]


def answers_in(folder):
    return {(each.id, each.k): each for each in read_samples(folder)}


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_every_prompt_gets_a_greedy_answer_and_draws_with_seeds_of_their_own(tmp_path):
    poet = Poet()
    assert sample(prompts_of(3), poet, SETTINGS, tmp_path, SamplingPlan(4)) == 0
    found = answers_in(tmp_path)
    assert set(found) == {(f"p{n}", k) for n in range(3) for k in range(5)}
    assert {each.kind for (_, k), each in found.items() if k == 0} == {"greedy"}
    assert {each.kind for (_, k), each in found.items() if k} == {"draw"}
    temperatures = [settings.temperature for _, settings in poet.asked]
    assert temperatures == [0.0] * 3 + [1.0] * 12  # the greedy ones together, then the draws
    seeds = {question.seed for question, settings in poet.asked if settings.temperature}
    assert seeds == {derive_seed(3, f"p{n}", f"answer {k}") for n in range(3) for k in range(1, 5)}
    assert len({each.text for each in found.values() if each.is_draw}) == 12


def test_an_answer_depends_on_its_prompt_and_number_and_not_on_what_else_is_asked(tmp_path):
    sample(prompts_of(5), Poet(), SETTINGS, tmp_path / "all", SamplingPlan(4))
    sample(prompts_of(2), Poet(), SETTINGS, tmp_path / "few", SamplingPlan(2, has_greedy=False))
    few, every = answers_in(tmp_path / "few"), answers_in(tmp_path / "all")
    assert set(few) == {(f"p{n}", k) for n in range(2) for k in (1, 2)}
    assert all(every[key] == each for key, each in few.items())
    sample(prompts_of(5), Poet(), replace(SETTINGS, seed=4), tmp_path / "other", SamplingPlan(4))
    other = answers_in(tmp_path / "other")
    assert all(other[key].text != each.text for key, each in every.items() if each.is_draw)


def test_more_answers_and_more_prompts_are_added_to_those_that_are_there(tmp_path):
    sample(prompts_of(2), Poet(), SETTINGS, tmp_path, SamplingPlan(2))
    poet = Poet()
    sample(prompts_of(3), poet, SETTINGS, tmp_path, SamplingPlan(4))
    assert len(poet.asked) == 2 * 2 + 5
    sample(prompts_of(3), Poet(), SETTINGS, tmp_path / "once", SamplingPlan(4))
    assert answers_in(tmp_path) == answers_in(tmp_path / "once")


def test_what_a_line_says(tmp_path):
    sample(prompts_of(1), Poet(), SETTINGS, tmp_path, SamplingPlan(1))
    greedy, drawn = sorted(read_lines(tmp_path / "samples.jsonl"), key=lambda row: row["k"])
    assert list(greedy) == ["id", "k", "text", "kind", "finish_reason", "tokens", "prompt_tokens", "logprob"]
    assert (greedy["kind"], drawn["kind"]) == ("greedy", "draw")
    assert drawn["logprob"] == round(drawn["logprob"], 3)
    (asked,) = read_lines(tmp_path / "prompts.jsonl")
    (prompt,) = prompts_of(1)
    assert asked == {"id": "p0", "digest": prompt.digest, "images": list(prompt.image_digests)}


def test_numbers_and_kinds_of_a_plan():
    plan = SamplingPlan(2, has_greedy=True, negatives=("no_image", "corrupted:crop_0_20"))
    assert [(k, kind_of(k, plan)) for k in numbers_of(plan)] == [
        (0, "greedy"),
        (1, "draw"),
        (2, "draw"),
        (3, "no_image"),
        (4, "corrupted:crop_0_20"),
    ]
    assert list(numbers_of(SamplingPlan(2, has_greedy=False))) == [1, 2]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"count": 1, "has_greedy": False}, "num_samples is 1: a pair takes two answers"),
        ({"count": 0}, "num_samples is 0"),
        ({"start_share": 1.0}, "start_share is 1.0"),
        ({"negatives": ("blind",)}, "negatives: 'blind' is none; give no_image or corrupted:NAME"),
        ({"negatives": ("corrupted:",)}, "negatives: 'corrupted:' is none"),
        ({"negatives": ("corrupted:crop_0_2",)}, "did you mean 'crop_0_20'"),
        ({"negatives": ("corrupted:random_image",)}, "corrupted:random_image: it needs more than the picture itself"),
        ({"negatives": ("corrupted:noise_region",)}, "corrupted:noise_region: it needs more"),
    ],
)
def test_a_plan_that_gives_no_pair_or_names_nothing_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        SamplingPlan(**plan)


# -- answers made to be rejected ---------------------------------------------------------------------------------------


def test_negatives_go_on_from_the_first_half_of_the_greedy_answer_without_the_picture_or_with_another(tmp_path):
    poet, prompts = Poet(), draw_prompts(2, 0)
    plan = SamplingPlan(1, negatives=("no_image", "corrupted:crop_0_20"))
    sample(prompts, poet, SETTINGS, tmp_path, plan)
    found = answers_in(tmp_path)
    for name in (prompt.id for prompt in prompts):
        start = " ".join(found[name, 0].text.split()[:3])
        assert [found[name, k].kind for k in (2, 3)] == ["no_image", "corrupted:crop_0_20"]
        assert all(found[name, k].text.startswith(f"{start} ") for k in (2, 3))
        assert [found[name, k].logprob is None for k in range(4)] == [False, False, True, True]
        assert not any(found[name, k].is_own or found[name, k].is_draw for k in (2, 3))
    made = [question for question, _ in poet.asked if question.begun]
    blind = [question for question in made if not question.images]
    assert len(made) == 4
    assert len(blind) == 2
    assert all(part["type"] == "text" for question in blind for turn in question.prompt for part in turn["content"])
    for question in made:
        for image in question.images:
            original = prompts[int(question.id.partition("/")[0])].images[0]
            assert image().size == original.size
            assert image().tobytes() == image().tobytes() != original.tobytes()


def test_without_a_greedy_answer_they_go_on_from_the_first_draw(tmp_path):
    sample(prompts_of(1), Poet(), SETTINGS, tmp_path, SamplingPlan(1, has_greedy=False, negatives=("no_image",)))
    found = answers_in(tmp_path)
    assert found["p0", 2].text.startswith(" ".join(found["p0", 1].text.split()[:3]) + " ")


@pytest.mark.parametrize(
    ("text", "share", "start"),
    [
        ("a b c d", 0.5, "a b"),
        ("a b c", 0.5, "a"),
        ("a  b\nc d", 0.75, "a  b\nc"),
        (" a b", 0.5, " a"),
        ("a", 0.5, ""),
        ("", 0.5, ""),
        ("aa a aa a", 0.5, "aa a"),
        ("a b", 0.0, ""),
    ],
)
def test_the_start_of_a_text_is_that_share_of_its_words_as_they_stand_there(text, share, start):
    assert keep_start(text, share) == start


# -- refusals and breakdowns -------------------------------------------------------------------------------------------


def test_what_is_refused_is_counted_left_out_and_asked_again_next_time(tmp_path, caplog):
    plan = SamplingPlan(2, negatives=("no_image",))
    refusing = Poet(refuses=("1/0", "2/1"))  # the greedy answer to p1, and a draw of p2
    assert sample(prompts_of(70), refusing, SETTINGS, tmp_path, plan) == 2 + 2  # places count within 64 prompts
    found = answers_in(tmp_path)
    assert caplog.messages == ["1 refused"]  # the first one
    missing = {("p1", 0), ("p1", 3), ("p2", 1), ("p65", 0), ("p65", 3), ("p66", 1)}
    assert {(f"p{n}", k) for n in range(70) for k in range(4)} - set(found) == missing
    willing = Poet()
    assert sample(prompts_of(70), willing, SETTINGS, tmp_path, plan) == 0
    assert len(willing.asked) == len(missing)
    sample(prompts_of(70), Poet(), SETTINGS, tmp_path / "once", plan)
    assert answers_in(tmp_path) == answers_in(tmp_path / "once")


@pytest.mark.parametrize("breaks_after", [0, 1, 5, 23])
def test_a_model_that_breaks_down_leaves_what_it_has_said_and_the_run_goes_on(breaks_after, tmp_path):
    plan, prompts = SamplingPlan(3, negatives=("no_image",)), prompts_of(6)
    with pytest.raises(OSError, match="a wire broke"):
        sample(prompts, Poet(breaks_after=breaks_after), SETTINGS, tmp_path, plan)
    assert len(answers_in(tmp_path)) == breaks_after
    poet = Poet()
    sample(prompts, poet, SETTINGS, tmp_path, plan)
    assert len(poet.asked) == 30 - breaks_after
    sample(prompts, Poet(), SETTINGS, tmp_path / "once", plan)
    assert answers_in(tmp_path) == answers_in(tmp_path / "once")


def test_several_processes_share_the_prompts_and_write_files_of_their_own(tmp_path):
    waits = []
    for rank in (0, 1):
        processes = Processes(rank, 2, lambda rank=rank: waits.append(rank))
        sample(prompts_of(5), Poet(processes=processes), SETTINGS, tmp_path, SamplingPlan(2))
    assert waits == [0] * 3 + [1] * 3  # before and after reading, so that no line is taken for half a one; at the end
    own = {row["id"] for row in read_lines(tmp_path / "samples.jsonl")}
    others = {row["id"] for row in read_lines(tmp_path / "samples.part-1.jsonl")}
    assert (own, others) == ({"p0", "p2", "p4"}, {"p1", "p3"})
    poet = Poet()
    sample(prompts_of(5), poet, SETTINGS, tmp_path, SamplingPlan(2))  # one process goes on
    assert poet.asked == []


# -- what must not change ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"poet": Poet(name="other")}, "model 'poet', and now it is 'other'"),
        ({"settings": replace(SETTINGS, temperature=0.7)}, "temperature 1.0, and now it is 0.7"),
        ({"settings": replace(SETTINGS, top_p=0.9)}, "top_p 1.0, and now it is 0.9"),
        ({"settings": replace(SETTINGS, max_new_tokens=41)}, "max_new_tokens 40, and now it is 41"),
        ({"settings": replace(SETTINGS, seed=4)}, "seed 3, and now it is 4"),
        ({"settings": replace(SETTINGS, system_prompt="Hi")}, "system_prompt None, and now it is 'Hi'"),
        ({"plan": SamplingPlan(2, negatives=("no_image",))}, "negatives None, and now it is ['no_image']"),
        ({"prompts": [make_prompt("p0", question="What else?", image=paint((0, 0, 0)))]}, "another prompt 'p0'"),
        ({"prompts": [make_prompt("p0", image=paint((9, 9, 9)))]}, "another prompt 'p0'"),
    ],
)
def test_what_would_mix_answers_is_refused_by_its_name(change, named, tmp_path):
    usual = {"prompts": prompts_of(1), "poet": Poet(), "settings": SETTINGS, "plan": SamplingPlan(2)}
    before = (tmp_path / "samples.jsonl", tmp_path / "sampler.json")
    sample(usual["prompts"], usual["poet"], usual["settings"], tmp_path, usual["plan"])
    kept = [path.read_bytes() for path in before]
    now = usual | {"poet": Poet()} | change
    with pytest.raises(SamplesError) as error:
        sample(now["prompts"], now["poet"], now["settings"], tmp_path, now["plan"])
    assert named in str(error.value)
    assert now["poet"].asked == []
    assert [path.read_bytes() for path in before] == kept


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["sampler.json"], r"holds samples\.jsonl, verdicts-claims\.jsonl and no sampler\.json"),
        (["sampler.json", "samples.jsonl"], r"holds verdicts-claims\.jsonl and no sampler\.json"),
        (["samples.jsonl"], r"holds verdicts-claims\.jsonl of answers that are gone"),
    ],
)
def test_verdicts_of_answers_that_are_gone_are_not_taken_for_those_of_others(gone, said, tmp_path):
    sample(prompts_of(1), Poet(), SETTINGS, tmp_path, SamplingPlan(2))
    (tmp_path / "verdicts-claims.jsonl").write_text('{"id": "p0", "verdicts": {}}\n')
    with pytest.raises(SamplesError, match=r"or remove sampler\.json, samples\.jsonl, verdicts-claims\.jsonl"):
        sample(prompts_of(1), Poet(), replace(SETTINGS, seed=4), tmp_path, SamplingPlan(2))
    for name in gone:
        (tmp_path / name).unlink()
    poet = Poet()
    with pytest.raises(SamplesError, match=said):
        sample(prompts_of(1), poet, replace(SETTINGS, seed=3), tmp_path, SamplingPlan(2))
    assert poet.asked == []
    (tmp_path / "verdicts-claims.jsonl").unlink()
    (tmp_path / "samples.jsonl").unlink(missing_ok=True)
    assert sample(prompts_of(1), poet, SETTINGS, tmp_path, SamplingPlan(2)) == 0


def test_the_address_of_a_server_may_change(tmp_path):
    """Of answers, of verdicts and of replies, none of which is asked for again."""
    prompts = prompts_of(1)
    for address in ("http://node-1:8000/v1", "http://node-2:8000/v1"):
        poet, judge = Poet(), Scripted(lambda words: "yes")
        for model in (poet, judge):
            model.describe = lambda address=address: {"model": "m", "base_url": address}
        sample(prompts, poet, SETTINGS, tmp_path, SamplingPlan(2))
        samples = {prompts[0].id: list(read_samples(tmp_path))}
        choice = JudgeChoice("claims", splits="sentences")
        judge_samples(prompts, samples, choice, Context(splits="sentences"), tmp_path, judge)
        (tmp_path / "verdicts-claims.jsonl").unlink()
    assert (poet.asked, judge.asked) == ([], [])


def test_versions_of_packages_may_change(tmp_path):
    sample(prompts_of(1), Poet(), SETTINGS, tmp_path, SamplingPlan(2))
    poet = Poet()  # whose version is another
    assert sample(prompts_of(1), poet, SETTINGS, tmp_path, SamplingPlan(2)) == 0


def test_words_of_prompts_are_compared_without_opening_a_picture(tmp_path):
    sample(prompts_of(2), Poet(), SETTINGS, tmp_path, SamplingPlan(2))
    check_asked(tmp_path, [make_prompt("p0", image="gone.png"), make_prompt("new", question="Who?")])
    with pytest.raises(SamplesError, match=r"another prompt 'p1'.*\(row p1\)"):
        check_asked(tmp_path, [make_prompt("p1", question="Who?", image="gone.png")])


# -- a whole run -------------------------------------------------------------------------------------------------------


def grade(words):
    """Grades by the words of the answer, always the same way."""
    answer = words.partition("An answer to grade:\n")[2].partition("\n\n")[0]
    return f"Score: {sum(map(len, answer.split())) % 11}\nWrong: {answer.split()[-1]}"


class Run:
    """A run of scripted models, with a judge that asks one."""

    def __init__(self, folder, prompts, plan):
        self.folder, self.prompts, self.plan = folder, prompts, plan
        self.options = parse(
            *("--prompts", "x", "--model", "poet", "--out", folder, "--judges", "reference"),
            *("--judge_model", "grader", "--rule", "best_worst"),
        )

    def go_on(self):
        """Does all steps; returns how much was asked of policy and judge."""
        poet, grader = Poet(), Scripted(grade)
        run = PairsRun(self.options, self.prompts)
        sample(self.prompts, poet, SETTINGS, self.folder, self.plan)
        choice = run.judges[0]
        judge_samples(self.prompts, run.read_samples(), choice, run.make_context(choice), self.folder, grader)
        build_pairs(
            self.prompts, self.folder, ["reference"], BuildPlan(rule="best_worst", mistakes="keep"), resamples=0
        )
        return len(poet.asked), len(grader.asked)

    def copy(self, folder):
        """Returns this run in another folder, without its pairs."""
        folder.mkdir()
        for path in self.folder.glob("*.jsonl"):
            shutil.copy(path, folder)
        for name in ("sampler.json", "judge-reference.json"):
            shutil.copy(self.folder / name, folder)
        return Run(folder, self.prompts, self.plan)

    def digest(self):
        return (self.folder / "dataset" / "train.parquet").read_bytes(), (self.folder / "pairs.json").read_bytes()


@pytest.fixture
def small_lots(monkeypatch):
    """Five prompts are asked together, and then the next five."""
    for module in (samples, judging):
        monkeypatch.setattr(module, "LOT", 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    prompts = [make_prompt(f"p{n}", image=paint((n, 0, 0)), reference="A cup.") for n in range(12)]
    run = Run(tmp_path_factory.mktemp("whole") / "run", prompts, SamplingPlan(6))
    asked = run.go_on()
    assert asked[0] == 12 * 7
    assert asked[1] == len(read_lines(run.folder / "replies-reference.jsonl"))
    return run


@pytest.mark.parametrize("name", ["samples", "verdicts-reference", "replies-reference", "prompts"])
@pytest.mark.usefixtures("small_lots")
def test_a_file_that_is_cut_anywhere_is_completed_and_the_pairs_are_the_same_to_the_byte(name, whole, tmp_path):
    name = f"{name}.jsonl"
    content, chance = (whole.folder / name).read_bytes(), random.Random(name)
    lines = content.count(b"\n")
    for place in (0, len(content) - 1, *chance.sample(range(len(content)), 10)):
        run = whole.copy(tmp_path / str(place))
        (run.folder / name).write_bytes(content[:place])
        left = content[: place + 1].count(b"\n")  # a whole line without its end is one
        asked = run.go_on()
        assert asked == (lines - left if name.startswith("samples") else 0, 0)
        assert run.digest() == whole.digest()


def test_only_replies_that_are_lost_are_asked_for_again(whole, tmp_path):
    run = whole.copy(tmp_path / "run")
    (run.folder / "verdicts-reference.jsonl").unlink()
    path = run.folder / "replies-reference.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    lost = content.count(b"\n") - path.read_bytes().count(b"\n")
    assert 0 < lost < content.count(b"\n")
    assert run.go_on() == (0, lost)
    assert run.digest() == whole.digest()


def test_another_rule_or_margin_asks_for_nothing_and_is_not_refused(whole, tmp_path):
    run = whole.copy(tmp_path / "run")
    plan = BuildPlan(rule="ranked", margin=3, mistakes="keep")
    build_pairs(whole.prompts, run.folder, ["reference"], plan, resamples=0)
    assert run.digest() != whole.digest()
    assert run.go_on() == (0, 0)
    assert run.digest() == whole.digest()


def test_a_changed_reference_is_judged_anew_and_nothing_else_is(whole, tmp_path):
    run = whole.copy(tmp_path / "run")
    run.prompts = [replace(each, truth={"reference": "A dog."}) if each.id == "p5" else each for each in whole.prompts]
    of_p5 = {each.text for each in read_samples(whole.folder) if each.id == "p5"}
    assert run.go_on() == (0, len(of_p5))
    assert run.go_on() == (0, 0)


def test_fewer_answers_than_are_there_are_judged_and_built(whole, tmp_path):
    """A run that was begun with six draws and goes on with four has the pairs of one with four."""
    fewer = Run(tmp_path / "few", whole.prompts, SamplingPlan(4))
    fewer.go_on()
    run = whole.copy(tmp_path / "run")
    found = PairsRun(parse("--prompts", "x", "--model", "poet", "--out", run.folder, "--num_samples", 4), whole.prompts)
    assert {each.k for of in found.read_samples().values() for each in of} == {0, 1, 2, 3, 4}
    plan = BuildPlan(rule="best_worst", mistakes="keep")
    build_pairs(whole.prompts, run.folder, ["reference"], plan, resamples=0, is_planned=lambda each: each.k in range(5))
    assert run.digest()[0] == fewer.digest()[0]


# -- the embedded world ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world_run(tmp_path_factory):
    """Answers of the model that ships with the package, some of them made to be rejected."""
    folder = tmp_path_factory.mktemp("world")
    command = ["--prompts", "world", "--model", "world", "--limit", 24, "--max_new_tokens", 48, "--judges", "objects"]
    options = parse(*command, "--negatives", "no_image", "corrupted:crop_0_20", "--out", folder)
    run = PairsRun(options)
    assert run.sample() == 0
    assert {label: tuple(of) for label, of in run.judge().items()} == {"objects": (0, 0)}
    return run


def test_draws_of_one_prompt_differ_from_each_other(world_run):
    distinct = [len({each.text for each in of if each.is_draw}) for of in world_run.read_samples().values()]
    assert len(distinct) == 24
    assert sum(distinct) / len(distinct) >= 4
    assert all(
        each.logprob is not None and each.logprob < 0
        for of in world_run.read_samples().values()
        for each in of
        if each.is_draw
    )


def test_negatives_of_the_world_go_on_from_the_first_half_of_the_greedy_answer_and_are_never_chosen(world_run):
    samples = world_run.read_samples()
    for of in samples.values():
        start = keep_start(of[0].text, 0.5)
        assert [each.kind for each in of[-2:]] == ["no_image", "corrupted:crop_0_20"]
        assert all(each.text.startswith(start) for each in of[-2:])
    assert sum(of[-2].text != of[0].text for of in samples.values()) >= 12
    for rule in ("negatives", "clean_near", "best_worst"):
        plan = BuildPlan(rule=rule, margin=0, mistakes="keep")
        build_pairs(world_run.prompts, world_run.folder, ["objects"], plan, resamples=0)
        from pyarrow import parquet

        rows = parquet.read_table(world_run.folder / "dataset" / "train.parquet").to_pylist()
        assert rows
        assert {row["k_chosen"] for row in rows} <= set(range(9))
        assert rule != "negatives" or {row["k_rejected"] for row in rows} <= {9, 10}


def test_a_run_of_the_world_that_was_cut_ends_with_the_same_answers(world_run, tmp_path):
    """Log π may differ beyond a thousandth, since other answers are then in the batch."""
    content = (world_run.folder / "samples.jsonl").read_bytes()
    prompts = world_run.prompts
    (tmp_path / "samples.jsonl").write_bytes(content[: len(content) // 2])
    shutil.copy(world_run.folder / "sampler.json", tmp_path)
    options = replace(world_run.options, out=tmp_path)
    PairsRun(options, prompts).sample()
    before, after = answers_in(world_run.folder), answers_in(tmp_path)
    assert {key: each.text for key, each in after.items()} == {key: each.text for key, each in before.items()}
    for key, each in after.items():
        assert (each.logprob is None) == (before[key].logprob is None)
        assert each.logprob is None or abs(each.logprob - before[key].logprob) <= 0.0011


def test_prompts_of_the_world_are_fresh_scenes_with_what_is_there():
    prompts = draw_prompts(3, 0)
    assert [each.id for each in prompts] == ["own pairs-0-0", "own pairs-0-1", "own pairs-0-2"]
    assert all(each.truth["objects"] and each.question == "describe" for each in prompts)
    assert [each.digest for each in draw_prompts(3, 0)] == [each.digest for each in prompts]
    assert {each.digest for each in draw_prompts(3, 1)}.isdisjoint(each.digest for each in prompts)


def test_options_that_give_no_pair_are_refused_before_anything_is_asked(tmp_path):
    usual = ("--prompts", "world", "--model", "m", "--out", tmp_path)
    for more, message in (
        (("--num_samples", 1, "--no_greedy"), "a pair takes two answers"),
        (("--temperature", 0), "at 0 all answers to a prompt are the same one"),
        (("--negatives", "no_image", "--base_url", "http://127.0.0.1:1/v1"), "an endpoint goes on from no answer"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(*usual, *more)
    with pytest.raises(UsageError):
        parse(*usual, "--num_sample_s", 3)
    blind = ("--negatives", "no_image", "--start_share", 0, "--base_url", "http://127.0.0.1:1/v1")
    assert parse(*usual, *blind).plan_sampling().negatives == ("no_image",)
    assert json.dumps(parse(*usual).resolved())


# -- pictures that cannot be read --------------------------------------------------------------------------------------


def test_a_damaged_picture_costs_its_own_prompt_alone(tmp_path, caplog):
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for place in range(3):
        paint((place, 0, 0)).save(photos / f"{place}.png")
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    poet, options = (
        Poet(),
        ["--prompts", str(photos), "--ask", "What is there?", "--out", str(run), "--judges", "objects"],
    )
    engine = PairsRun(parse(*options, "--model", "poet", "--num_samples", "2"))
    assert sample(engine.prompts, poet, SETTINGS, run, SamplingPlan(2)) == 0
    assert {name for name, _ in answers_in(run)} == {"0.png", "2.png"}
    (told,) = caplog.messages
    assert told.startswith("1 of 3 prompts are left out, since their pictures cannot be read; the first: ")
    assert str(photos / "1.png") in told

    (photos / "1.png").write_bytes(whole)  # mended, it is asked next time
    assert sample(engine.prompts, poet, SETTINGS, run, SamplingPlan(2)) == 0
    assert {name for name, _ in answers_in(run)} == {"0.png", "1.png", "2.png"}


def test_where_no_picture_can_be_read_nothing_is_asked(tmp_path):
    poet = Poet()
    prompts = [make_prompt(f"p{n}", image=tmp_path / f"{n}.png") for n in range(3)]
    with pytest.raises(RowError, match=r"^row p0: image file .*0\.png does not exist"):
        sample(prompts, poet, SETTINGS, tmp_path / "run", SamplingPlan(2))
    assert not poet.asked


# -- the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["README.md", "config.json", "model.safetensors", "recipe.yaml"], "README.md, config.json, model.safetensors"),
        (["pairs.yaml", "prompts.jsonl", "1.jpg"], "1.jpg, prompts.jsonl"),
        (["pairs.yaml", ".gitignore"], ""),
        (["sampler.json", "notes.txt"], ""),
        (["check-claims.jsonl"], ""),
        ([], ""),
    ],
)
def test_nothing_is_written_into_a_folder_of_something_else(names, said, tmp_path):
    for name in names:
        (tmp_path / name).write_text("mine")
    if not said:
        check_kind(tmp_path, MARKS, "run of `mmdpo pairs`")
        return
    with pytest.raises(UnusableFileError, match=f"holds {said} and no run of `mmdpo pairs`: choose another --out"):
        check_kind(tmp_path, MARKS, "run of `mmdpo pairs`")
    run = PairsRun(parse("--prompts", "world", "--model", "world", "--judges", "objects", "--out", tmp_path))
    for step in (run.sample, run.judge, run.build):
        with pytest.raises(ValueError, match=r"no run of `mmdpo pairs`|no answers"):
            step()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_a_file_in_the_folder_that_says_the_same_stays_as_it_was_written(tmp_path):
    file = tmp_path / "pairs.yaml"
    server = "http://me:secret@127.0.0.1:1/v1"
    own = f"# mine\nprompts: x\nmodel: poet\nbase_url: {server}\nout: {tmp_path}\njudges: [objects]\n"
    file.write_text(own)
    for words, number in (([], 8), (["--num_samples", 2], 2)):
        run = PairsRun(parse("--config", file, *words), [make_prompt()])
        run.open_policy = Poet
        run.sample()
        assert (file.read_text() == own) is (not words)
        assert parse("--config", file).sampling.num_samples == number


def test_a_run_without_answers_says_what_to_do_first(tmp_path, capsys):
    (tmp_path / "pairs.yaml").write_text(f"prompts: world\nmodel: world\nout: {tmp_path}\njudges: [objects]\n")
    assert main(["pairs", "show", str(tmp_path)]) == 2
    assert f"holds no answers yet: run `mmdpo pairs sample --config {tmp_path / 'pairs.yaml'}` first" in (
        capsys.readouterr().err
    )
