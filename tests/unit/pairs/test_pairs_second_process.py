"""Offers that a second process makes are those that one process makes, and it never outlives the first one."""

import multiprocessing
import os
import select
import signal
import time

import pytest

from mmdpo.pairs import second_process
from mmdpo.pairs.build import build_pairs
from mmdpo.pairs.offers import Offering
from mmdpo.pairs.plan import BuildPlan
from tests.pairs_help import make_candidate, make_prompt, paint, write_run

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="a second process is forked on Linux alone"
)
FILES = ("dataset/train.parquet", "dataset/eval.parquet", "pairs.json", "dropped.jsonl")


@pytest.fixture
def forked(monkeypatch):
    """Lets few prompts be many; returns the list that each forked process is added to."""
    found = []

    def fork(method):
        context = multiprocessing.get_context(method)
        start = context.Process

        class Watched(start):
            def start(self):
                super().start()
                found.append(self)

        monkeypatch.setattr(context, "Process", Watched, raising=False)
        return context

    monkeypatch.setattr(second_process, "MANY", 4)
    monkeypatch.setattr(second_process, "get_context", fork)
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
    return prompts


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
    assert len(forked) == 1
    monkeypatch.setattr(second_process, "MANY", 1_000)
    assert build() == two
    assert len(forked) == 1


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


def test_a_second_process_that_is_killed_is_told(tmp_path, monkeypatch, forked):
    prompts, first, offer = write_answers(tmp_path), os.getpid(), Offering.offer

    def offer_or_die(offering, prompt):
        if os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return offer(offering, prompt)

    monkeypatch.setattr(Offering, "offer", offer_or_die)
    with pytest.raises(ChildProcessError, match="the second process that was reading answers was killed"):
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

    monkeypatch.setattr(Offering, "offer", wait)
    first = multiprocessing.get_context("fork").Process(
        target=build_pairs, args=(prompts, tmp_path, ["objects"], BuildPlan())
    )
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
