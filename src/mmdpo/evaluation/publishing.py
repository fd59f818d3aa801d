"""Results in the forms of others: lm-eval's samples, Markdown, and the metadata of a model card on the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdpo.benchmarks.evaluate import Evaluation, MetricValue
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.tasks import load
from mmdpo.files import write_rows
from mmdpo.tables import ARROWS, Table, show_ends, show_number

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_TARGETS = ("label", "truth", "answer", "reference")
"""Where the right answer stands in the truth of an item, where it is one text."""
TASK = "image-text-to-text"
"""Of a model that answers about images, as the hub calls it."""


def build_metrics_table(evaluation: Evaluation) -> Table:
    """Returns the metrics of a result as people read them, a row each."""
    digits, rows = {metric.name: metric.digits for metric in load(evaluation.benchmark).all_metrics}, []
    for name, value in evaluation.metrics.items():
        form = 3 if digits[name] is None else digits[name]  # 3 where the official scorer prints all of them
        shown = "undefined" if value.value is None else show_number(value.value, form)
        interval = "" if value.low is None else show_ends(value.low, value.high, form)
        rows.append((name + ARROWS[value.better], shown, interval, f"{value.n:,}", value.unit))
    title = evaluation.benchmark + (" (partial)" if evaluation.partial else "")
    return Table(("metric", "value", "95 % interval", "n", "unit"), tuple(rows), title)


# -- lm-eval's samples ------------------------------------------------------------------------------------------------


def write_samples(evaluation: Evaluation, folder: Path) -> Path:
    """Writes `samples_BENCHMARK.jsonl`, an answer a line with the fields of lm-eval's `--log_samples`.

    `metrics` and the fields that it names are the item's counts, of which our metrics are made; `id` is ours, and lets
    `--answers` read the file.
    """
    path = folder / f"samples_{evaluation.benchmark}.jsonl"
    write_rows(path, _list_samples(evaluation))
    return path


def _list_samples(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(evaluation.items):
        if item.id not in evaluation.scores:
            continue
        row, counts = evaluation.answers.by_id[item.id].row.values, dict(evaluation.scores[item.id].counts)
        has_settings = isinstance(row.get("generation"), dict)
        settings = row["generation"] if has_settings else {}
        prompt = str(row["prompt"]) if has_settings and "prompt" in row else item.prompt
        doc = {"id": item.id, "question": item.prompt, "image": item.image, "part": item.part, **item.truth}
        named = (item.truth.get(key) for key in _TARGETS)
        target = next((text for text in named if isinstance(text, str)), json.dumps(dict(item.truth)))
        text = evaluation.answers.by_id[item.id].text
        yield {
            "doc_id": number,
            "id": item.id,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": settings}},
            "resps": [[text]],
            "filtered_resps": [text],
            "filter": "none",
            "metrics": sorted(counts),
            "doc_hash": _digest(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _digest(prompt),
            "target_hash": _digest(target),
            **counts,
            **({"generation": settings} if has_settings else {}),
        }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# -- the card of a model on the hub -----------------------------------------------------------------------------------


def list_card_results(evaluation: Evaluation) -> list[EvalResult]:
    """Returns a result's metrics as a model card's metadata has them; those that are undefined are left out.

    What made the numbers stands in the dataset's configuration, so that another judge's are another result. Raises
    EvaluationError for a partial result: a card cannot say that it is one.
    """
    from huggingface_hub import EvalResult

    if evaluation.partial:
        raise EvaluationError(f"a partial result belongs on no model card: {'; '.join(evaluation.partial)}")
    title = load(evaluation.benchmark).summary.partition(":")[0]
    made_by = "; ".join(f"{tool}: {by}" for tool, by in sorted(evaluation.made_by.items()))
    about: Mapping[str, Any] = dict(
        task_type=TASK, dataset_type=evaluation.benchmark, dataset_name=title, dataset_config=made_by or None
    )

    def describe(name: str, value: MetricValue) -> EvalResult:
        kind = name.removeprefix(f"{evaluation.benchmark}/")
        return EvalResult(**about, metric_type=kind, metric_value=value.value, metric_name=f"{name} ({value.unit})")

    return [describe(name, value) for name, value in evaluation.metrics.items() if value.value is not None]


def push_results(evaluation: Evaluation, repository: str) -> str:
    """Writes a result into the `model-index` of a model's card on the hub; returns the address of the commit.

    A value that the card has of the same metric is replaced, all else of the card stays. Raises EvaluationError for a
    partial result, and what huggingface_hub raises.
    """
    from huggingface_hub import metadata_update
    from huggingface_hub.repocard_data import eval_results_to_model_index

    index = eval_results_to_model_index(repository.rpartition("/")[2], list_card_results(evaluation))
    message = f"Results of {evaluation.benchmark}, by mmdpo"
    return str(metadata_update(repository, {"model-index": index}, overwrite=True, commit_message=message))
