"""What the commands of the pages find: small files by the names that pages use, tiny models for published ones.

A name that a page uses and no other has is one more entry of `MAKERS`.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from PIL import Image

from benchmark_data import HAND_MADE, plain_tools
from mmdpo.benchmarks.tasks import load, names
from mmdpo.cli import main
from mmdpo.evaluation.sources import SOURCES
from mmdpo.shipped import RECIPES
from page_blocks import ROOT, change_flag, read_blocks, set_flags
from tiny_bunny import write_bunny

sys.path.insert(0, str(ROOT / "tests" / "contract"))
from tiny_models import MODELS

TINY = "tiny-llava"
"""Folder of a tiny random LLaVA, which stands for every published model."""
PUBLISHED = re.compile(
    r"(?!checkpoints/|runs/)(?:[\w-]+/[\w.-]*(?:VL|llava|gemma|Bunny|SmolVLM|InternVL)[\w.-]*|base/model|my-model)",
    re.I,
)
BUNNY = "Bunny-v1_0-3B"
"""Folder of a tiny random Bunny as it was published, which can be converted."""
SETS = {"openbmb/RLAIF-V-Dataset": "rlaif.json", "MMInstruction/VLFeedback": "vlfeedback.json"}
"""Published data → a file with rows as it has them."""
TRAINING = """--use_cpu true --max_steps 2 --lora_r 2 --dtype float32 --report_to none --eval_strategy no
    --save_strategy no --dataloader_num_workers 0 --dataset_num_proc 1 --per_device_train_batch_size 2
    --gradient_accumulation_steps 1 --disable_tqdm true --gradient_checkpointing false --warmup_steps 0
    --logging_steps 1""".split()  # noqa: SIM905
RESAMPLES = ["--resamples", "100"]
SUITE = ("amber", "pope")
"""What a suite runs here, where a page does not say."""
QUESTION = "What is in the picture?"


def paint(path, seed=0):
    """Writes a small picture; each seed gives another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32 + seed % 8, 24 + seed // 8), 90).convert("RGB").save(path)


def write_rows(path, count=12, **columns):
    """Writes pairs in TRL's columns, as JSON or JSON Lines, with a picture each; `columns` are functions of the row."""
    rows = []
    for number in range(count):
        picture = f"{path.stem}-{number}.png"
        paint(path.parent / picture, number)
        row = {"images": [picture], "prompt": f"<image>{QUESTION}"}
        row |= {"chosen": f"There are {number} cups.", "rejected": f"There are {number} dogs and a cat."}
        rows.append(row | {name: column(number) for name, column in columns.items()})
    as_lines = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if as_lines else json.dumps(rows))


def write_vqa(path):
    rows = []
    for number in range(8):
        paint(path.parent / f"vqa-{number}.png", number)
        rows.append({"image": f"vqa-{number}.png", "question": QUESTION, "answer": ("a cup", "a dog")[number % 2]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_prompts(path):
    paint(path.parent / "prompt.png")
    path.write_text(json.dumps({"prompt": QUESTION, "image": "prompt.png"}) + "\n")


def write_rlaif(path):
    paint(path.parent / "rlaif.png")
    row = {"image": "rlaif.png", "question": QUESTION, "chosen": "A cup.", "rejected": "A dog."}
    path.write_text(json.dumps([row | {"chosen": f"A cup {number}."} for number in range(4)]))


def write_vlfeedback(path):
    rows = []
    for number in range(4):
        paint(path.parent / "merged_images" / f"{number}.png", number)
        rated = (("best", "5"), ("worst", "1"))
        answers = [
            {"model": "m", "response": said, "annotations": {"Helpfulness": {"Rating": score}}} for said, score in rated
        ]
        rows.append({"prompt": QUESTION, "img_path": f"{number}.png", "completions": answers})
    path.write_text(json.dumps(rows))


def write_block(language, page, number):
    """Returns a maker that writes a block of a page, as the reader would."""

    def write(path):
        blocks = [block for block in read_blocks(ROOT / "docs" / page) if block.language == language]
        path.write_text(blocks[number].text)

    return write


def write_pairs(path):
    write_rows(path, 50)  # of which 2 % are a row


def write_recipe(path):
    write_pairs(path.parent / "pairs.jsonl")
    path.write_text(f"model_name_or_path: {TINY}\ndataset_name: pairs.jsonl\noutput_dir: runs/recipe\nuse_peft: true\n")


def train(path, *more):
    """Trains the tiny model for two steps into a run folder."""
    if not Path("pairs.jsonl").exists():
        write_pairs(Path("pairs.jsonl"))
    words = ["--model_name_or_path", TINY, "--dataset_name", "pairs.jsonl", "--output_dir", str(path), *TRAINING]
    assert main(["train", *words, *(more or ("--use_peft", "true"))]) == 0


def diagnose(path):
    write_rows(path.parent / "seen.jsonl", 4)
    words = ["--model", TINY, "--dataset", str(path.parent / "seen.jsonl"), "--out", str(path), *RESAMPLES]
    assert main(["diagnose", *words]) == 0


def evaluate(path):
    """Scores hand-made answers to POPE."""
    words = ["--answers", str(HAND_MADE / "pope" / "answers.jsonl"), "--data_dir", str(HAND_MADE), *RESAMPLES]
    assert main(["eval", "pope", *words, "--out", str(path)]) == 0


def evaluate_suite(path):
    """Scores hand-made answers to POPE and AMBER, in a suite's folder."""
    words = ["--answers", str(_find_answers("suite")), "--data_dir", str(HAND_MADE), *RESAMPLES]
    words += ["--benchmarks", *SUITE, "--linguistics", "table"]
    assert main(["eval", "suite", *words, "--out", str(path)]) == 0


def write_votes(path):
    from mmdpo.votes.store import VoteStore
    from voted_runs import choose, read_folders, write_runs

    store = VoteStore.open(path, read_folders(write_runs(Path("voted"), "dpo", "mdpo")).study)
    choose(store, "anna", store.next_task("anna"), "mdpo")


def write_conflict(path):
    shutil.copy(HAND_MADE / "knowledge_conflict" / path.name, path)
    for number, name in enumerate(re.findall(r"[\w-]+\.(?:jpe?g|png)", path.read_text())):
        paint(path.parent / "oven" / name, number)


MAKERS = {
    "pairs.jsonl": write_pairs,
    "held_out.jsonl": write_rows,
    "medical.json": lambda path: write_rows(path, score=lambda number: 0.5 + number),
    "vqa.jsonl": write_vqa,
    "prompts.jsonl": write_prompts,
    "rlaif.json": write_rlaif,
    "vlfeedback.json": write_vlfeedback,
    "street.jpg": paint,
    "recipe.yaml": write_recipe,
    "pairs.yaml": write_block("yaml", "pairs.md", 0),
    "iterate.yaml": write_block("yaml", "pairs.md", 1),
    "data_infoseek_sampled_val_mc.json": write_conflict,
    "votes.sqlite": write_votes,
    "runs/mine": train,
    "runs/full": lambda path: train(path, "--use_peft", "false"),
    "runs/mdpo": train,
    "runs/diagnosis": diagnose,
    "runs/dpo/eval": evaluate,
    "runs/mdpo/eval": evaluate,
    "runs/base/eval": evaluate_suite,
    "RUN": train,
    "FOLDER": lambda path: path.mkdir(),
}
"""File or folder → what makes it; made where a page names it and none of its commands writes it."""


def prepare(folder, text):
    """Fills a folder, which is the current one, with what a page's commands read."""
    tiny = MODELS["llava_1_5"]()
    tiny.model.save_pretrained(folder / TINY)
    tiny.processor.save_pretrained(folder / TINY)
    write_bunny(folder / BUNNY)
    written = set(
        re.findall(r"^mmdpo (?:train|eval|diagnose|data|pairs) .*--(?:output_dir|out) (\S+)", text, re.MULTILINE)
    )
    for name, alias in SETS.items():
        text = text.replace(name, alias)
    text += " pairs.jsonl" * ("--config" in text)
    for name, make in MAKERS.items():
        if name not in written and re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-])", text):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            make(Path(name))


def fill_benchmarks(folder, *, downloaded=False):
    """Copies the hand-made benchmarks, or those that can be `downloaded`, into a folder, with pictures."""
    for name in names():
        benchmark = load(name)
        if downloaded and benchmark.data_name not in SOURCES:
            continue
        source, data = HAND_MADE / benchmark.data_name, folder / benchmark.data_name
        if benchmark.draw_image is not None or not source.is_dir():
            continue
        shutil.copytree(source, data, dirs_exist_ok=True)
        for item in benchmark.read_items(data, plain_tools()):
            for picture in filter(None, (item.image, *getattr(item, "images", ()))):
                paint(data / "images" / str(picture))


def stand_in(words, judge_url):
    """Returns a page's command as it is run here: tiny models, small numbers, a judge and answers that are at hand."""
    typed = [SETS.get(word, TINY if PUBLISHED.fullmatch(word) else word) for word in words]
    if typed[0] == "train" and not {"--help", "--help_all"} & set(typed):
        typed = [word for word in typed if word not in ("--key", "value")]
        if typed[typed.index("--config") + 1] in RECIPES.all_names() and "--dataset_name" not in typed:
            typed = set_flags(typed, ["--dataset_name", "pairs.jsonl", "--dataset_format", "auto", "--image_root", "."])
        if typed[typed.index("--config") + 1] == "recipe.yaml" and "--output_dir" not in typed:
            typed += ["--output_dir", f"runs/recipe-{len(list(Path('runs').glob('recipe-*')))}"]
        typed = set_flags(typed, [*TRAINING, "--model_name_or_path", TINY])
    if typed[0] == "convert":
        typed = [BUNNY if word == TINY else word for word in typed]
    if typed[0] == "votes" and "RUN" in typed:
        typed = [word for word in typed if word not in ("--runs", "RUN")]
    if typed[0] == "eval" and typed[1] not in ("compare", "download"):
        typed = _evaluate_small(typed, judge_url)
    if typed[0] == "diagnose":
        typed = [*typed, *RESAMPLES, *(() if "--data_only" in typed or "--conflict" in typed else ("--no_probe",))]
    for flag in ("--sample", "--rows"):
        typed = change_flag(typed, flag, 4)
    if typed[:2] == ["data", "symdpo"]:
        typed = change_flag(typed, "--demonstrations", 2)
    return typed


def _evaluate_small(words, judge_url):
    name = words[1]
    for flag in ("--judge_url", "--base_url"):
        words = change_flag(words, flag, judge_url)
    if "--answers" in words:
        words = change_flag(words, "--answers", _find_answers(name))
        words = [*words, "--partial"] if name == "world" else words
    if "--model" in words:
        words = [*words, "--max_new_tokens", "4"]
        words = [*words, "--limit", "2"] if name == "world" else words
        words = words if "--base_url" in words else [*words, "--no_probe", "--num_workers", "0"]
    if name == "suite" and "--benchmarks" not in words:
        words = [*words, "--benchmarks", *SUITE]
    if "--judge_replies" in words:
        words = change_flag(words, "--judge_replies", HAND_MADE / name / "replies.jsonl")
    reads_words = name in ("amber", "object_halbench", "suite", "chair")
    return [*words, *RESAMPLES, *(("--linguistics", "table") if reads_words else ())]


def _find_answers(name):
    """Returns hand-made answers: of a benchmark, or a folder of those to the four that a suite always runs."""
    if name != "suite":
        return next((HAND_MADE / name).glob("answers.*"))
    folder = Path("suite-answers")
    folder.mkdir(exist_ok=True)
    for each in ("amber", "mmhal", "object_halbench", "pope"):
        source = next((HAND_MADE / each).glob("answers.*"))
        shutil.copy(source, folder / f"{each}{source.suffix}")
    return folder
