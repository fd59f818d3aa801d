"""Small evaluated runs, written by hand as `mmdpo eval` writes them, for votes and for pages about answers."""

import json

from mmdpo.report.reading import find_folders
from mmdpo.votes.study import read_voted_runs


def read_folders(folders):
    """Returns the runs of folders as votes see them."""
    return read_voted_runs(find_folders(folders).evaluations)


def write_run(folder, answers, *, benchmark="mmhal", prompts=None, images=None, types=None, counts=None, reasons=None):
    """Writes answers.jsonl, scores.jsonl and result.json for item → answer; returns the folder."""
    folder.mkdir(parents=True)
    prompts, images, types, counts, reasons = (each or {} for each in (prompts, images, types, counts, reasons))
    rows, scores = [], []
    for item, answer in answers.items():
        image = images.get(item, f"{item}.png")
        prompt = prompts.get(item, f"What is in {item}?")
        rows.append({"id": item, "benchmark": benchmark, "prompt": prompt, "image": image, "answer": answer})
        of_item = counts.get(item, {}) | ({f"{types[item]}/n": 1.0} if item in types else {})
        score = {"id": item, "part": "all", "image": image, "counts": of_item, "reason": reasons.get(item, {})}
        scores.append(score | {"traps": {}, "unscored": ""})
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    (folder / "result.json").write_text(json.dumps({"benchmark": benchmark, "metrics": {}, "made_by": {}}))
    return folder


def write_runs(folder, *labels, items=6, types=("attribute", "counting")):
    """Writes runs that answer the same items, each in its own words; returns their folders."""
    names = [f"item-{number}" for number in range(items)]
    kinds = {item: types[number % len(types)] for number, item in enumerate(names)}
    return [
        write_run(folder / label, {item: f"{label} says {item}" for item in names}, types=kinds) for label in labels
    ]


def choose(store, rater, task, outcome):
    """Casts the vote that says so: the label of the run that is preferred, `tie` or `both_bad`."""
    labels = [store.study.labels[side] for side in store.study.sides(rater, task)]
    choice = ("left", "right")[labels.index(outcome)] if outcome in labels else outcome
    assert store.cast(rater, task, choice) == "counted"
    return choice
