"""docs/reproduce.md from its first command to its last, on tiny random models of both classes and made-up data.

What is changed for that stands in `tiny`: names of published checkpoints, addresses, and how much is done. All else is
the page's: the commands, their order, and the files that one leaves for the next.
"""

import json
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from benchmark_data import HAND_MADE, plain_tools
from chat_server import Act, serve
from mmdpo.benchmarks.tasks import load
from mmdpo.checkpoints import bunny
from mmdpo.cli import main
from mmdpo.evaluation import download as downloads
from mmdpo.evaluation.paper_table import COLUMNS, PAPER
from mmdpo.evaluation.sources import Data, RemoteFile
from page_blocks import ROOT, PageShell, change_flag, read_blocks, set_flags
from tiny_bunny import TOWER, TOWER_SETTINGS, write_bunny

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from tiny_models import MODELS

PAGE = ROOT / "docs" / "reproduce.md"
SIMULATION = max((ROOT / "perf" / "results").glob("simulation-*.json"), key=lambda path: path.stem[-10:])
PAIRS = 8
PUBLISHED_PAIRS = 9420
CURIOUS = "A chat between a curious user and an artificial intelligence assistant. USER: <image>\n{} ASSISTANT:"
BENCHMARKS = ("amber", "mmhal", "object_halbench")

TRAINING = """--use_cpu true --max_steps 2 --learning_rate 0.05 --lora_r 2 --dtype float32 --report_to none
    --dataloader_num_workers 0 --dataset_num_proc 1 --per_device_train_batch_size 2 --gradient_accumulation_steps 1
    --disable_tqdm true --gradient_checkpointing false --warmup_steps 0 --logging_steps 1""".split()  # noqa: SIM905
ASKING = "--max_new_tokens 4 --linguistics table --resamples 100 --no_probe --num_workers 0".split()  # noqa: SIM905


def as_file(path):
    return f"file://{quote(str(path))}"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Stand-ins of what the page fetches, and the folder in which its commands are run."""
    monkeypatch.setitem(bunny.VISION_TOWERS, TOWER, TOWER_SETTINGS)
    there = tmp_path / "there"
    write_bunny(there / "Bunny-v1_0-3B")
    _save_llava(there / "llava-1.5-7b-hf")
    _publish_pairs(there, monkeypatch)
    for name in BENCHMARKS:
        files = [path for path in (HAND_MADE / name).rglob("*") if path.is_file()]
        given = tuple(RemoteFile(str(path.relative_to(HAND_MADE / name)), (as_file(path),)) for path in files)
        monkeypatch.setitem(downloads.SOURCES, name, Data(("made by hand",), given))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    return here


def _save_llava(folder):
    tiny = MODELS["llava_1_5"]()
    tiny.model.save_pretrained(folder)
    tiny.processor.save_pretrained(folder)


def _publish_pairs(folder, monkeypatch):
    """Makes the two files that `mmdpo data download mdpo` fetches."""
    rows = []
    with zipfile.ZipFile(folder / "merged_images.zip", "w") as archive:
        for number in range(PAIRS):
            picture = folder / f"{number}.png"
            Image.effect_noise((40, 24 + number), 90).convert("RGB").save(picture)
            archive.write(picture, f"merged_images/{picture.name}")
            prompt = CURIOUS.format("What is it?")
            rows.append(
                {"img_path": picture.name, "prompt": prompt, "chosen": f"A cup {number}.", "rejected": "A dog."}
            )
    (folder / "rows.json").write_text(json.dumps(rows))
    real = downloads.PREFERENCES["mdpo"]
    made = replace(
        real,
        files=tuple(replace(each, addresses=(as_file(folder / "rows.json"),)) for each in real.files),
        archives=tuple(replace(each, addresses=(as_file(folder / "merged_images.zip"),)) for each in real.archives),
    )
    monkeypatch.setitem(downloads.PREFERENCES, "mdpo", made)


def tiny(words, there, judge_url):
    """Returns a command of the page as it is run here."""
    words = [str(there / Path(word).name) if word in ("BAAI/Bunny-v1_0-3B",) else word for word in words]
    words = [str(there / "llava-1.5-7b-hf") if word == "llava-hf/llava-1.5-7b-hf" else word for word in words]
    if words[0] == "train":
        words = set_flags(words, TRAINING)
        if "llava" in words[words.index("--config") + 1]:
            words += ["--model_name_or_path", str(there / "llava-1.5-7b-hf")]
    if words[:2] == ["eval", "suite"] and "--model" in words:
        words = [*change_flag(words, "--judge_url", judge_url), *ASKING]
    if words[:2] == ["data", "convert"]:
        wanted = int(words[words.index("--sample") + 1])
        words = change_flag(words, "--sample", max(2, round(PAIRS * wanted / PUBLISHED_PAIRS)))
    if words[0] == "diagnose":
        words = [*change_flag(words, "--pairs", PAIRS), "--resamples", "100"]
    return words


def paint_benchmarks(folder):
    """Paints the pictures of the benchmarks, which are made by hand and have none."""
    for name in BENCHMARKS:
        benchmark = load(name)
        for item in benchmark.read_items(folder / name, plain_tools()):
            (folder / name / "images").mkdir(exist_ok=True)
            Image.effect_noise((24, 24), 90).convert("RGB").save(folder / name / "images" / item.image)


def vote(words):
    """Votes in place of people, who would open the page that the command serves."""
    from mmdpo.votes.store import VoteStore
    from voted_runs import choose, read_folders

    place = words.index("--runs")
    runs = [Path(word) for word in words[place + 1 : place + 3]]
    store = VoteStore.open(Path(words[words.index("--votes") + 1]), read_folders(runs).study)
    while (task := store.next_task("anna")) is not None:
        choose(store, "anna", task, "tie")
    return 0


@pytest.mark.slow
def test_the_page_runs_from_the_first_command_to_the_last(workplace):
    def run(words):
        if words[0] == "app":
            return vote(words)
        if words[0] == "@python":  # NLTK's data, which nothing here reads
            return 0
        status = main(tiny(words, workplace.parent / "there", server.url))
        if words[:2] == ["eval", "download"]:
            paint_benchmarks(workplace / "benchmarks")
        return status

    # One reply that both prompts read: MMHal-Bench's rating, and Object HalBench's list.
    with serve(lambda request, number: Act('["dog"]\nRating: 3')) as server:
        shell = PageShell(workplace, run)
        script = "\n".join(block.text for block in read_blocks(PAGE) if block.language == "bash")
        status, said = shell.execute(script)
    assert status == 0, said[-4000:]
    assert [words for words, status in shell.lines if status] == []

    runs = workplace / "runs"
    trained = {path.parent.name for path in runs.glob("*/adapter_model.safetensors")}
    recipes = {"bunny-v1.0-3b-dpo", "bunny-v1.0-3b-mdpo", "llava-v1.5-7b-dpo", "llava-v1.5-7b-mdpo"}
    assert recipes < trained
    assert len(trained) == 4 + 2 + 3 + 2 + 1 + 6, "Tables 1 to 4, Figures 1 and 5"
    # Each has other weights than the run that it is to be compared with.
    logged = {name: json.loads((runs / name / "trainer_state.json").read_text())["log_history"][0] for name in trained}
    start = {name: round(log["loss"], 3) for name, log in logged.items()}  # a multiple of ln 2, one for each term
    assert start["bunny-v1.0-3b-mdpo"] == start["llava-v1.5-7b-mdpo"] == 2.079
    assert (start["bunny-v1.0-3b-anchors-2"], start["bunny-v1.0-3b-anchors-3"]) == (2.773, 3.466)
    assert start["bunny-v1.0-3b-dpo-no-image"] == start["bunny-v1.0-3b-dpo"] == 0.693
    corruptions = {
        re.search(r"^corruption: (\w+)", (runs / name / "recipe.yaml").read_text(), re.MULTILINE)[1]
        for name in trained
        if "mdpo" in name
    }
    assert corruptions == {"crop_0_20", "random_image", "crop_20_50", "moco_v2"}
    scored = {path.parent.parent.name for path in runs.glob("*/eval/suite.json")}
    assert scored == trained | {"bunny-v1.0-3b", "llava-v1.5-7b"}
    # The tables of the page are printed with three rows of one's own below the paper's. A random model names no object,
    # so that Object HalBench's CHAIRi, a share of the objects that are named, is 0 / 0.
    value = r" [\d.]+ \[[\d.]+ … [\d.]+\] \|"
    assert re.search(rf"^\| \+mDPO \|({value}){{3}} – \|({value}){{4}}$", said, re.MULTILINE)
    for labels in (("without_conditional",), ("moco_v2",), ("y_w,y_l,m_l",)):
        assert all(label in said for label in labels)
    assert (runs / "figure-4" / "votes.md").is_file()
    assert (runs / "bunny-v1.0-3b-mdpo" / "diagnosis" / "diagnosis.html").is_file()


def test_the_tables_of_the_page_are_those_that_the_commands_print():
    text = PAGE.read_text()
    for number, rows in PAPER.items():
        for label, figures in rows.items():
            cells = (format(value, column.form) for value, column in zip(figures, COLUMNS, strict=False))
            assert f"| {' | '.join([label, *cells])} |\n" in text, f"Table {number}: {label}"


def test_what_it_costs_follows_from_the_simulation():
    text = PAGE.read_text()
    found = json.loads(SIMULATION.read_text())
    batches = 3 * -(-PUBLISHED_PAIRS // 4)
    assert f"{batches // 3:,} micro-batches" in text
    hours = {}
    for model, name in (("bunny", "Bunny-v1.0-3B"), ("llava", "LLaVA-v1.5-7B")):
        for side, objective in (("mdpo_warm", "mDPO"), ("dpo_warm", "DPO")):
            case = next(
                case
                for case in found["cases"]
                if (case["model"], case["side"], case["checkpointing"]) == (model, side, True)
            )
            step = case["batches"]["4"]
            shown = []
            for gpu in ("H100", "H200"):
                hours[name, objective, gpu] = batches * step["seconds"][gpu] / 3600
                shown.append(f"{step['seconds'][gpu]:.3f}, {hours[name, objective, gpu]:.1f}")
            memory = (step["peak_bytes"] + case["optimizer_bytes"] + found["cuda_bytes"]) / 1e9
            assert f"| {name}, {objective} | {shown[0]} | {shown[1]} | {memory:.1f} |" in text
    # Table 1; 2 (one costs what DPO does); 3; 4; Figure 1; Figure 5: seven eighths of each.
    whole = hours["LLaVA-v1.5-7B", "mDPO", "H100"] + hours["LLaVA-v1.5-7B", "DPO", "H100"]
    whole += (1 + 1 + 3 + 2 + 7 / 8) * hours["Bunny-v1.0-3B", "mDPO", "H100"]
    whole += (1 + 1 + 1 + 7 / 8) * hours["Bunny-v1.0-3B", "DPO", "H100"]
    assert f"take at least {whole:.0f} hours of an H100" in text
