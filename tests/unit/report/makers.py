"""Made-up folders of every kind, with scores that nobody measured, and a reader of pages."""

import io
import json
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image
from pyarrow import parquet

VOID = {"meta", "img", "br", "input", "wbr"}


OWN_SCRIPT = "<script>\n" + (files("mmdpo.report") / "templates" / "curves.js").read_text(encoding="utf-8").rstrip("\n")
OWN_SCRIPT += "</script>"


def drop_own_script(html: str) -> str:
    """Returns a page without the one script that the package itself puts into it, where it has curves."""
    return html.replace(OWN_SCRIPT, "", 1)


class Page(HTMLParser):
    """Collects what a browser would fetch, the text by element, and elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.unbalanced: list[str] = []
        self.stack: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "srcset", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.stack:
            self.text.setdefault(self.stack[-1], []).append(data)

    @property
    def all_text(self) -> str:
        return " ".join(" ".join(" ".join(parts) for parts in self.text.values()).split())


def write_log(steps, **values):
    return [
        {"step": step, "loss": 2.0 - step / 100, "loss/rank_image": 0.5, "grad_norm": 1.0, **values} for step in steps
    ]


def write_trained(folder, *, steps=range(1, 5), **recipe):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"objective": "mdpo", "dataset_name": "pairs.json", "output_dir": str(folder), **recipe})
    )
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": write_log(steps)}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def write_evaluated(folder, *, benchmark="pope", image="{}.jpg", flagged=(), answer="a cup", **result):
    folder.mkdir(parents=True, exist_ok=True)
    metric = {"value": 12.5, "low": 10.0, "high": 15.0, "n": 3, "unit": "%", "better": "lower"}
    content = {"benchmark": benchmark, "metrics": {f"{benchmark}/chair": metric}, "made_by": {}, **result}
    (folder / "result.json").write_text(json.dumps(content))
    scores = [
        {"id": f"q{n}", "image": image.format(n), "counts": {}, "reason": {"word": {"flagged": list(flagged)}}}
        for n in range(3)
    ]
    answers = [{"id": f"q{n}", "prompt": "what is there?", "answer": answer} for n in range(3)]
    for name, rows in (("scores", scores), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


VARIANTS = ("start", "dpo", "mdpo", "sft_chosen")
SCORES = {
    "start": (21.2, 61.0, 97.1, 19.5, 0.0, None, None),
    "dpo": (13.7, 35.0, 81.4, 9.5, -2.06, 94.0, 94.0),
    "mdpo": (6.9, 19.0, 92.7, 3.2, -0.34, 93.8, 91.1),
    "sft_chosen": (4.7, 14.0, 95.1, 2.9, 1.04, 92.4, 87.0),
}
KEYS = ("chair_i", "chair_s", "cover", "cog", "delta_logp_chosen", "accuracy_real", "accuracy_other")
SCENES = (
    ("kitchen", ["cup", "plate", "kettle"]),
    ("street", ["car", "bike", "helmet", "tree"]),
    ("bedroom", ["bed", "book", "clock", "rug", "chair", "cup"]),
    ("kitchen", ["apple"]),
    ("street", ["sign", "tree", "bench"]),
    ("bedroom", ["lamp", "rug"]),
)


def write_run(folder: Path) -> Path:
    """Writes a complete run folder and returns it."""
    (folder / "scenes").mkdir(parents=True)
    results = {
        "variants": {name: dict(zip(KEYS, scores, strict=True)) for name, scores in SCORES.items()},
        "seconds": 95.2,
        "command": "mmdpo quickstart",
        "seed": 0,
        "scenes": 400,
        "pairs": 768,
        "versions": {"mmdpo": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    examples = [_write_scene(folder, number, *scene) for number, scene in enumerate(SCENES)]
    (folder / "examples.json").write_text(json.dumps(examples))
    for name in VARIANTS[1:]:
        (folder / name).mkdir()
        (folder / name / "trainer_state.json").write_text(json.dumps({"log_history": _history(name)}))
    return folder


def _write_scene(folder: Path, number: int, setting: str, truth: list[str]) -> dict:
    generator = np.random.default_rng(number)
    pixels = generator.integers(170, 230, (48, 48, 3), dtype=np.uint8)
    for place in range(len(truth)):
        top, left = 4 + 16 * (place // 3), 3 + 16 * (place % 3)
        pixels[top : top + 9, left : left + 9] = generator.integers(0, 255, 3)
    Image.fromarray(pixels).save(folder / f"scenes/{number}.png")
    Image.fromarray(pixels[:20, :20]).resize((48, 48)).save(folder / f"scenes/{number}_corrupted.png")
    answers = {"start": [*truth, "stove", "bowl"], "dpo": truth[:-1] or truth, "mdpo": truth, "sft_chosen": truth}
    return {
        "image": f"scenes/{number}.png",
        "corrupted_image": f"scenes/{number}_corrupted.png",
        "truth": truth,
        "setting": setting,
        "answers": {name: _answer(named, truth, setting, name) for name, named in answers.items()},
    }


def _answer(named: list[str], truth: list[str], setting: str, variant: str) -> dict:
    listing = " , ".join(named)
    return {
        "text": f"{listing} ." if variant == "start" else f"sure ! this {setting} shows {listing} . hope this helps !",
        "hallucinated": [name for name in named if name not in truth],
        "missed": [name for name in truth if name not in named],
    }


def _history(variant: str) -> list[dict]:
    speed = {"dpo": 1.0, "mdpo": 0.8, "sft_chosen": 0.4}[variant]
    log = []
    for step in range(4, 49, 4):
        done = speed * step / 48
        record = {"step": step, "epoch": step / 24, "loss": 2.08 - 0.9 * done, "grad_norm": 3 - done}
        record |= {"learning_rate": 3e-4 * (1 - step / 48), "logps/chosen": -14 + (1 - 2 * speed) * done}
        if variant != "sft_chosen":
            record |= {"loss/rank_response": 0.69 - 0.5 * done, "rewards/chosen": -0.1 * done}
            record |= {"rewards/rejected": -1.5 * done, "rewards/margins": 1.4 * done, "rewards/accuracies": 0.94}
        if variant == "mdpo":
            record |= {"loss/rank_image": 0.69 - 0.3 * done, "loss/anchor_chosen": 0.69 - 0.1 * done}
            record |= {"rewards/corrupted": -0.9 * done, "rewards/image_margins": 0.8 * done}
        log.append(record)
    return [*log, {"step": 48, "epoch": 2.0, "train_runtime": 19.3, "train_loss": 1.6}]


def write_study(folder):
    def value(mean):
        seeds = {"0": mean, "1": mean + 1, "2": mean + 2}
        return {
            "mean": mean,
            "std": 1.0,
            "low": mean - 1,
            "high": mean + 1,
            "n": 3,
            "by_seed": seeds,
            "p": 0.1,
            "holm": 0.2,
            "wide_low": -1.0,
            "wide_high": 1.0,
        }

    for variant in ("start", "dpo", "mdpo"):
        trial = write_trained(folder / "trials" / variant / "seed-0")
        (trial / "trial.json").write_text(json.dumps({"metrics": {"world/chair_i": 3.0}}))
        write_evaluated(trial / "world", benchmark="world", flagged=["cup"])
    measures = {
        "world/chair_i": {"label": "CHAIR_i", "unit": "%", "better": "lower", "digits": 1},
        "pairs/image_gain": {"label": "image gain", "unit": "nats", "better": "higher", "digits": 2},
    }
    results = {
        "study": "mine", "about": "what it asks", "command": "mmdpo study", "seeds": [0, 1, 2], "baseline": "dpo",
        "variants": {"start": "the start", "dpo": "plain", "mdpo": "the method"}, "measures": measures,
        "values": {name: {m: value(5.0) for m in measures} for name in ("start", "dpo", "mdpo")},
        "differences": {name: {m: value(-2.0) for m in measures} for name in ("start", "mdpo")},
        "missing": [{"variant": "mdpo", "seed": 7, "error": "it blew up"}], "statistics": "by seed",
        "notes": ["a note"], "trial_seconds": 3.0, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "study.yaml").write_text(
        yaml.safe_dump({"name": "mine", "variants": [{"name": "dpo"}, {"name": "mdpo"}]})
    )
    return folder


def write_diagnosed(folder, kind="model"):
    (folder / "pictures").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "1.png")
    measure = {"label": "pair accuracy, the real image", "unit": "%", "value": 90.0, "low": 80.0, "high": 95.5, "n": 2}
    result = {
        "kind": kind, "pairs": 2, "measures": {"accuracy_real": measure}, "notes": ["few"], "left_out": ["row 3: no"],
        "verdict": {"depends": True, "text": "It depends on the image."},
        "options": {"model": "m", "adapter": None, "reference": None, "dataset": "d"}, "versions": {"torch": "2"},
    }  # fmt: skip
    if kind == "data":
        rule = {"label": "length alone", "accuracy": 80.0, "low": 70.0, "high": 90.0, "n": 2}
        feature = {"names": ["“sure”"], "weight": 0.5, "more_in_chosen": 2, "more_in_rejected": 0}
        result |= {"measures": {}, "rules": {"text": rule}, "features": [feature], "grouped_by": "prompt"}
    (folder / "diagnosis.json").write_text(json.dumps(result))
    pair = {"rank": 1, "id": "p", "source": "pairs, row 1", "prompt": "<image>what?", "chosen": "c", "rejected": "r"}
    pair |= {"margins": {"real": 1.5}, "gains": {"chosen": -0.25}, "picture": "pictures/1.png"}
    (folder / "examples.jsonl").write_text(json.dumps(pair) + "\n" + json.dumps({**pair, "id": "q", "rank": 2}) + "\n")
    if kind == "model":
        scored = {"text": "a cup", "tokens": ["a", " cup", "</s>"], "spans": [[0, 1], [1, 5], [5, 5]]}
        scored["policy"] = {"real": [-0.5, -0.25, 0.0], "none": [-0.5, -3.5, -0.75]}
        write_lines(folder / "per_token.jsonl", [{"rank": 1, "id": "p", "answers": {"chosen": scored}}])
    return folder


def write_judged(folder):
    write_evaluated(folder, benchmark="mmhal")
    reason = {"official": 0, "tolerant": 0, "reply": "why it is wrong", "reference": "the right answer"}
    rows = [{"id": f"q{n}", "image": "a.jpg", "counts": {}, "reason": reason} for n in range(3)]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_all(root):
    """Writes one folder of each kind and returns them."""
    run = write_trained(root / "run")
    (run / "checkpoint-1").mkdir()
    (run / "checkpoint-1" / "checkpoint.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}}))
    Image.new("RGB", (8, 8)).save(run / "a.png")
    row = {"step": 0, "id": "s1", "prompt": "p", "chosen": "c", "answer": "a", "pictures": ["a.png"]}
    (run / "sample_answers.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "step": 1}) + "\n")
    write_evaluated(run / "eval" / "pope", flagged=["fork"], answer="a fork", notes={"n": {"count": 1, "meaning": "m"}})
    return [
        run,
        write_judged(root / "judged"),
        write_run(root / "quickstart"),
        write_study(root / "study"),
        write_diagnosed(root / "diagnosis"),
        write_diagnosed(root / "data", "data"),
        write_own_pairs(root / "own"),
    ]


QUESTION = "What is on the table?"
ANSWERS = {
    "a": ("A cup and a plate on a table.", "A cup and a fork on a table.", "a table with a lamp", "A cup."),
    "b": ("Two dogs run.\nOne is brown.", "Two dogs run.\nOne is blue.", "Two dogs run.\nOne is blue.", "Dogs."),
    "c": ("a red car", "a red car", "a blue car", "no"),
}
"""By prompt; the first was chosen and the second rejected, and `c` is in no pair."""
WRONG = {"a": {1: [("fork", 0)], 2: [("lamp", 0)]}, "b": {1: [("it is blue", 1)], 2: [("it is blue", 1)]}, "c": {}}


def paint(colour, size=(400, 300), kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_own_pairs(folder, *, changes=None, rows_a_group=2, **result):
    """Writes a run of `mmdpo pairs`: the prompts a, b and c, of which a and b gave a pair each, or as many as given.

    `changes` make a row of the dataset each: what is other than in that of a. `result` is so of pairs.json.
    """
    (folder / "dataset").mkdir(parents=True)
    (folder / "unpaired").mkdir()
    (folder / "pairs.yaml").write_text("out: x\n")
    content = {
        "rule": "clean_near", "asked_rule": "clean_near", "about": "the best answer; the nearest with a mistake",
        "notes": ["chosen answers are shorter"], "plan": {"margin": 1.0, "seed": 0, "mistakes": "drop"},
        "judges": {"objects": "objects@123"},
        "sampler": {"sampler": {"model": "me/mine"}, "settings": {"temperature": 0.8, "top_p": 1.0, "seed": 123456789}},
        "funnel": {
            "prompts": 12, "prompts_judged": 12, "answers": 40, "answers_judged": 40, "candidates": 30, "pairs": 2,
            "prompts_without_mistakes": 1, "yield": 0.2, "prompts_lost": {"no answer has a wrong claim": 9},
            "answers_lost": {"duplicate": 8, "cut off": 2}, "pairs_lost": {"too many of an image": 1},
        },
        "pairs": {"train": 2}, "images": 2, "clean": 100.0, "by_judge": {"objects": 0.0},
        "errors": {"chosen": 0.0, "rejected": 50.0, "pool": 25.0}, "margins": {"1.0": 1, "2.0": 1},
        "words": {"chosen": 6.5, "rejected": 6.5, "pool": None, "difference": -2.5, "auc": 0.25},
        "style": {"polite words": {"chosen": 50.0, "rejected": 0.0, "pool": 12.5, "auc": 0.75}},
        "struck": {"fork": 1, "it is blue": 1}, "shortcut": {"rules": {}, "notes": ["no scikit-learn"]},
    } | result  # fmt: skip
    (folder / "pairs.json").write_text(json.dumps(content))
    own = {"prompt_id": "b", "margin": 2.0, "score_rejected": -1.0, "images": [{"bytes": paint("navy"), "path": None}]}
    write_pairs_parquet(folder, [{}, own] if changes is None else changes, rows_a_group)
    samples = [
        {"id": own, "k": k, "text": text, "kind": "greedy" if not k else "draw", "logprob": -2.5}
        for k in range(4)
        for own, of in ANSWERS.items()
        for text in [of[k]]
    ]
    write_lines(folder / "samples.jsonl", samples)
    verdicts = [{"id": own, "verdicts": {str(k): judge(own, k) for k in range(4)}} for own in ANSWERS]
    write_lines(folder / "verdicts-objects.jsonl", verdicts)
    dropped = [{"id": "b", "k": 2, "reason": "duplicate"}, {"id": "c", "reason": "no answer has a wrong claim"}]
    write_lines(folder / "dropped.jsonl", dropped)
    (folder / "unpaired" / "0-0.jpg").write_bytes(paint("red"))
    write_lines(folder / "unpaired.jsonl", [{"id": "c", "question": "Which car?", "pictures": ["unpaired/0-0.jpg"]}])
    steps = {"sample": {"requests": 12, "read": 1200, "written": 90, "price": 0.125, "seconds": 3.2}}
    (folder / "cost.json").write_text(json.dumps({"steps": steps, "price": 0.125, "budget": None}))
    share = {"value": 75.0, "low": 50.0, "high": 90.0, "n": 16}
    check = {"judge": "objects", "pairs": {"accuracy": share, "ties": {**share, "value": None}}, "order": None}
    (folder / "check-objects.json").write_text(json.dumps(check))
    return folder


def judge(own, k):
    claims = [{"text": text, "is_true": False, "sentence": place} for text, place in WRONG[own].get(k, ())]
    return {"score": 1.0 - 3 * len(claims), "claims": [{"text": "table", "is_true": True, "sentence": 0}, *claims]}


def write_pairs_parquet(folder, changes, rows_a_group=2, name="train.parquet"):
    rows = []
    for change in changes:
        own = change.get("prompt_id", "a")
        texts = dict(zip(("chosen", "rejected"), ANSWERS.get(own, ANSWERS["a"]), strict=False))
        row = {
            "prompt_id": own,
            "prompt": [turn("user", {"type": "image", "text": None}, {"type": "text", "text": QUESTION})],
            **{side: [turn("assistant", {"type": "text", "text": text})] for side, text in texts.items()},
            "images": [{"bytes": paint("green", (24, 16), "PNG"), "path": None}], "margin": 1.0,
            "k_chosen": 0, "k_rejected": 1, "score_chosen": 1.0, "score_rejected": -2.0, "logp_chosen": -2.5,
            "logp_rejected": None, "clean": 1.0, **{
                f"claims_{side}": json.dumps(judge(own, k)["claims"] if own in WRONG else [])
                for k, side in enumerate(("chosen", "rejected"))
            },
        }  # fmt: skip
        rows.append(row | change)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "dataset" / name, row_group_size=rows_a_group)


def turn(role, *parts):
    return {"role": role, "content": list(parts)}
