"""The example of docs/pairs.md, as it stands there: from a folder of photographs to a trained model."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from chat_server import Act, serve
from mmdpo.cli import main
from mmdpo.options import parse_options
from mmdpo.pairs.judges import JUDGES
from mmdpo.pairs.options import IterateOptions
from mmdpo.pairs.rules import RULES
from mmdpo.world import SMALL

PAGE = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text(encoding="utf-8")
STATEMENT = "There is a {}."


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def paint_photographs(folder, count):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(folder / f"{number:02}.jpg")


def judge(request, number):
    """Splits a text into the objects that it names, and believes those whose names are short."""
    content = request["messages"][0]["content"]
    text = next(part["text"] for part in content if part["type"] == "text")
    if "sentences numbered" in text:
        assert all(part["type"] == "text" for part in content)
        sentences = re.findall(r"^(\d+)\. (.*)$", text.rpartition("NONE.")[2], re.MULTILINE)
        found = [(place, word) for place, said in sentences for word in said.split() if word in SMALL.objects]
        return Act("\n".join(f"{place}: {STATEMENT.format(word)}" for place, word in found) or "NONE")
    assert any(part["type"] == "image_url" for part in content)
    said = re.search(r"a (\w+)\.", text)[1]
    return Act("yes" if len(said) < 5 else "No.")


@pytest.mark.slow
def test_every_command_of_the_page_runs_and_a_model_is_trained(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    paint_photographs(tmp_path / "photos", 12)
    (tmp_path / "gold.jsonl").write_text(re.sub(r"photos/(\d)", r"photos/0\1", block("json")))
    with serve(judge) as server:
        config = yaml.safe_load(block("yaml"))
        config |= {"model": "world", "judge_base_url": server.url, "max_new_tokens": 40, "rule": "best_worst"}
        config |= {"mistakes": "weigh", "balance": "none"}
        (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(config))
        for line in block("bash").splitlines():
            words = shlex.split(line.partition("#")[0])
            if words[1] == "train":
                words += shlex.split("--learning_rate 3e-4 --use_cpu true --max_steps 2 --report_to none")
                words += shlex.split("--freeze_projector false --per_device_train_batch_size 4 --save_strategy no")
            if "--limit" in words:
                words[words.index("--limit") + 1] = "4"
            assert main(words[1:]) == 0, line
        exec(compile(block("python", -1), "pairs.md", "exec"), {})  # the same steps, which find nothing left to do
    said = capfd.readouterr().out
    run = tmp_path / "runs" / "own"
    assert (run / "run" / "model.safetensors").is_file()
    assert (run / "report.html").is_file()
    assert "pairs ranked rightly" in said
    assert "What is left, in proportion to what was done" in said
    cost = json.loads((run / "cost.json").read_text())
    # The stand-in says that it read 7 and wrote 3 tokens for each request, at 0.4 and 1.6 a million.
    requests = sum(cost["steps"][step]["requests"] for step in ("check claims", "judge claims"))
    asked = {json.dumps([request["messages"], request["temperature"]], sort_keys=True) for request in server.requests}
    assert requests == len(asked), "each is paid for once, though the first prompts were judged before"
    assert cost["price"] == pytest.approx(requests * (7 * 0.4 + 3 * 1.6) / 1e6)


def test_the_second_file_of_the_page_names_options_that_there_are(tmp_path):
    (tmp_path / "iterate.yaml").write_text(block("yaml", 1))
    words = shlex.split(block("bash", 1).strip())
    options = parse_options(IterateOptions, ["--config", str(tmp_path / words[-1])], words[1])
    assert (options.rounds, options.prompts_per_round, options.held_out) == (2, 4000, 200)


def test_the_page_names_every_judge_and_every_rule():
    assert [name for name in (*JUDGES.names(), *RULES) if f"`{name}`" not in PAGE] == []
