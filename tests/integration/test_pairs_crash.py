"""Pairs by models of an endpoint that fails, in a command that is killed: the same pairs, and nothing paid twice."""

import hashlib
import json
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image

import forked
from chat_server import Act, serve
from mmdpo.world import SMALL

PROMPTS, ANSWERS, KILLS, CONCURRENCY = 12, 4, 10, 2
FAULTS = (Act(status=429, headers={"Retry-After": "0"}), Act(status=500), Act(cut=True), Act(body=b""))


def draw(*words):
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:8], 16)


def reply(request):
    """The policy names three objects by its seed, and the judge believes those with short names."""
    text = next(part["text"] for part in request["messages"][-1]["content"] if part["type"] == "text")
    if request["model"] == "policy":
        picture = next(p["image_url"]["url"] for p in request["messages"][-1]["content"] if p["type"] == "image_url")
        number = draw(picture, request.get("seed"), request["temperature"])
        return " ".join(f"A {SMALL.objects[(number >> 4 * k) % len(SMALL.objects)]}." for k in range(3))
    if "sentences numbered" in text:
        sentences = re.findall(r"^(\d+)\. (.*)$", text.rpartition("NONE.")[2], re.MULTILINE)
        return "\n".join(f"{place}: There is {said.rstrip('.').lower()}." for place, said in sentences) or "NONE"
    return "yes" if len(re.search(r"a (\w+)\.", text)[1]) < 5 else "no"


def key(request):
    return json.dumps([request["model"], request["messages"], request.get("seed"), request["temperature"]])


def write_config(folder, url):
    photographs = folder / "photographs"
    photographs.mkdir(parents=True)
    for number in range(PROMPTS):
        Image.new("RGB", (16, 12), (20 * number, 200 - 10 * number, 90)).save(photographs / f"{number:02}.png")
    config = folder / "pairs.yaml"
    config.write_text(
        yaml.safe_dump(
            {"prompts": str(photographs), "ask": ["What is there?"], "model": "policy", "base_url": url}
            | {"out": str(folder / "run"), "num_samples": ANSWERS, "judges": ["claims"], "judge_model": "judge"}
            | {"judge_base_url": url, "concurrency": CONCURRENCY, "rule": "best_worst", "mistakes": "keep"}
            | {"balance": "none", "tries": 6}
        )
    )
    return config


def make(folder, url, kills=0, last_line=1):
    script = Path(__file__).with_name("pairs_crash_driver.py")
    words = (script, write_config(folder, url), folder / "run", kills, last_line)
    status, _, errors = forked.run(*words, OPENAI_API_KEY="")
    assert status == 0, errors[-3000:]
    return json.loads((folder / "run" / "attempts.json").read_text())


@pytest.mark.slow
def test_killed_ten_times_by_an_endpoint_that_fails_the_pairs_are_the_same_to_the_byte(tmp_path):
    failing, served = [], Counter()

    def behave(request, number):
        if failing and number % 5 == 3:
            return FAULTS[(number // 5) % len(FAULTS)]
        served[key(request)] += 1
        return Act(reply(request))

    with serve(behave) as server:
        (whole,) = make(tmp_path / "calm", server.url)
        asked = dict(served)
        served.clear()
        failing.append(True)
        attempts = make(tmp_path / "bad", server.url, KILLS, whole["lines"])
    killed = [of for of in attempts if of["status"] == -signal.SIGKILL]
    assert len(killed) >= 8, "the run was over before it could be killed"
    assert (whole["status"], attempts[-1]["status"]) == (0, 0)
    for name in ("dataset/train.parquet", "dropped.jsonl", "pairs.json"):
        assert (tmp_path / "bad" / "run" / name).read_bytes() == (tmp_path / "calm" / "run" / name).read_bytes(), name
    assert served.keys() == asked.keys(), "nothing is lost, and nothing else is asked"
    assert set(asked.values()) == {1}
    again = sum(count - 1 for count in served.values())
    assert again <= CONCURRENCY * len(killed), "what was answered is asked again only if it was on its way"
