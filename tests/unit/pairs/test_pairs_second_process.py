"""What a second process does is what one process does, and it never outlives the first one."""

import multiprocessing
import os
import select
import signal
import time

import pytest
import torch

from mmdpo.pairs import second_process
from mmdpo.pairs.build import build_pairs
from mmdpo.pairs.facts import Facts
from mmdpo.pairs.offers import Offering
from mmdpo.pairs.plan import BuildPlan
from mmdpo.pairs.samples import SamplesError
from tests.pairs_help import make_candidate, make_prompt, paint, write_run

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="a second process is forked on Linux alone"
)
FILES = ("dataset/train.parquet", "dataset/eval.parquet", "pairs.json", "dropped.jsonl")


@pytest.fixture
def forked(monkeypatch):
    """Lets few prompts be many; returns the list that each forked process is added to."""
    found = []

    context = multiprocessing.get_context("fork")

    class Watched(context.Process):
        def start(self):
            super().start()
            found.append(self)

    monkeypatch.setattr(context, "Process", Watched, raising=False)
    monkeypatch.setattr(second_process, "MANY", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    return found


def write_answers(folder):
    """Writes prompts of which some repeat one of the other half, with answers of which many fall away."""
    prompts, answers = [], {}
    for place in range(24):
        name, of = f"p{place}", place - 12 if place in (13, 17, 20) else place
        prompts.append(make_prompt(name, image=paint((of, 5, 9))))
        more = "really " * (of % 4)
        answers[name] = [
            make_candidate(1, f"a red cup and {of % 2}", score=2, right=["cup"]),
            make_candidate(2, f"two dogs {more}here", score=-2, wrong=[("dogs", 0)], rewrite="A cup."),
            make_candidate(3, "I cannot see it." if of % 5 else "maybe a lamp", score=1, right=["lamp"]),
            make_candidate(4, "no no no no" if of % 4 == 3 else f"a tree, a tree, {of}", wrong=["tree"]),
        ][: 1 if of in (4, 19) else 4]
    write_run(folder, prompts, answers)
    unread = make_prompt("unread", image=folder / "missing.png")
    return [*prompts[:18], unread, *prompts[18:]]


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"balance": "style", "eval_share": 0.4, "per_prompt": 2},
        {"rule": "correction", "balance": "none", "per_image": 9},
        {"rule": "ranked", "mistakes": "keep", "margin": 0.0},
    ],
)
def test_two_processes_write_what_one_writes_to_the_byte(tmp_path, monkeypatch, forked, plan):
    prompts = write_answers(tmp_path)
    left_out = [(make_prompt("held"), "image held out")]

    def build():
        build_pairs(prompts, tmp_path, ["objects"], BuildPlan(**plan), left_out=left_out, resamples=0)
        return [path.read_bytes() if (path := tmp_path / name).is_file() else None for name in FILES]

    two = build()
    assert len(forked) == 2, "one makes offers, one counts what pairs are like"
    monkeypatch.setattr(second_process, "MANY", 1_000)
    assert build() == two
    assert len(forked) == 2


def test_the_shortcut_is_measured_in_a_process_whose_first_one_has_threads_of_pytorch(tmp_path, monkeypatch, forked):
    torch.randn(300, 300) @ torch.randn(300, 300)  # what starts them
    prompts = write_answers(tmp_path)
    found = []
    for many in (4, 1_000):
        monkeypatch.setattr(second_process, "MANY", many)
        found.append(build_pairs(prompts, tmp_path, ["objects"], BuildPlan(rule="ranked"), resamples=50))
    assert len(forked) == 2
    assert found[0]["shortcut"]["rules"]["text"]["n"] > 5
    assert found[0] == found[1]


def test_an_error_in_the_second_process_is_told_as_in_one(tmp_path, monkeypatch, forked):
    prompts = write_answers(tmp_path)
    path = tmp_path / "verdicts-objects.jsonl"
    lines = path.read_text().splitlines()
    lines[-2] = lines[-2].replace('"score"', '"scores"')
    path.write_text("\n".join(lines) + "\n")
    said = []
    for many in (4, 1_000):
        monkeypatch.setattr(second_process, "MANY", many)
        with pytest.raises(TypeError) as caught:
            build_pairs(prompts, tmp_path, ["objects"], BuildPlan(rule="best_worst"), resamples=0)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert len(forked) == 1
    assert not forked[0].is_alive()


def test_an_error_in_counting_what_pairs_are_like_is_told_as_in_one(tmp_path, monkeypatch, forked):
    def fail(facts, resamples):
        raise ValueError(f"no facts of {facts._count} pairs")

    prompts = write_answers(tmp_path)
    monkeypatch.setattr(Facts, "describe", fail)
    for many in (4, 1_000):
        monkeypatch.setattr(second_process, "MANY", many)
        with pytest.raises(ValueError, match=r"^no facts of 1\d pairs$"):
            build_pairs(prompts, tmp_path, ["objects"], BuildPlan(), resamples=0)
    assert len(forked) == 2
    assert not any(process.is_alive() for process in forked)


def test_a_picture_that_has_changed_is_told_and_ends_the_second_process(tmp_path, monkeypatch, forked):
    prompts = write_answers(tmp_path)
    path = tmp_path / "prompts.jsonl"
    path.write_text(path.read_text().replace('"images": ["', '"images": ["f'))
    monkeypatch.setattr(Facts, "describe", lambda facts, resamples: time.sleep(60))
    begin = time.monotonic()
    with pytest.raises(SamplesError, match="p0"):
        build_pairs(prompts, tmp_path, ["objects"], BuildPlan(), resamples=0)
    assert time.monotonic() - begin < 50
    assert len(forked) == 2
    assert not any(process.is_alive() for process in forked)


@pytest.mark.parametrize(
    ("of", "name", "doing"),
    [(Offering, "offer", "reading answers"), (Facts, "add", "counting what pairs are like")],
)
def test_a_second_process_that_is_killed_is_told(tmp_path, monkeypatch, forked, of, name, doing):
    prompts, first, do = write_answers(tmp_path), os.getpid(), getattr(of, name)

    def do_or_die(*arguments):
        if os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return do(*arguments)

    monkeypatch.setattr(of, name, do_or_die)
    with pytest.raises(ChildProcessError, match=f"the second process that was {doing} was killed"):
        build_pairs(prompts, tmp_path, ["objects"], BuildPlan(), resamples=0)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_the_first_process_ends_the_second_one(tmp_path, monkeypatch, forked, end):
    write_answers(tmp_path)
    prompts = [make_prompt(f"p{place}", image=paint((place, 5, 9))) for place in range(250)]  # of 25 s and more
    reader, writer = os.pipe()

    def wait(offering, prompt):
        os.write(writer, b"%d " % os.getpid())
        time.sleep(0.2)
        return []

    def build():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script has started with `&`
        build_pairs(prompts, tmp_path, ["objects"], BuildPlan())

    monkeypatch.setattr(Offering, "offer", wait)
    first = multiprocessing.get_context("fork").Process(target=build)
    first.start()
    os.close(writer)  # the two hold it alone now
    said = b""
    while len(set(said.split()[:-1])) < 2:
        said += os.read(reader, 100)
    os.kill(first.pid, end)
    first.join()
    deadline = time.monotonic() + 20
    while said:  # which is empty once both have ended
        assert select.select([reader], [], [], deadline - time.monotonic())[0], "the second process lives on"
        said = os.read(reader, 100)
    os.close(reader)
