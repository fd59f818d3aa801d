"""Page that shows what a model looks at: each token of an answer coloured by what the image does to its probability."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from mmdpo import corruption as corruptions
from mmdpo.app.html import paragraph
from mmdpo.app.look import AGAINST, Question, look, open_upload, render_looked, take_other, take_row, take_typed
from mmdpo.app.models import Models
from mmdpo.app.pair_pictures import read_options
from mmdpo.app.sources import Sources
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import OTHER
from mmdpo.records import CORRUPTED, NO_IMAGE, RowError

TITLE = "Does it look?"
STYLE = (files("mmdpo.report") / "templates" / "tokens.css").read_text(encoding="utf-8")
MOST_UPLOADED = "20mb"
PAIR, OWN = "a pair of the dataset", "a picture of your own"
NOTHING, WITHOUT_ADAPTER = "nothing", "the same without its adapter"
_VERSIONS = {text: version for version, text in AGAINST.items()}
_NEEDS_OTHERS = "random_image"
_LOOK_AGAIN = 0.25
"""Seconds between two words about a model that is waited for."""


def is_wanted(sources: Sources) -> bool:
    """Returns whether there is a model to ask."""
    return bool(list_models(sources))


def list_models(sources: Sources) -> list[str]:
    """Returns the models that were named, and the runs that hold one."""
    files_of_models = ("config.json", "adapter_config.json")
    runs = (place.path for place in sources.found.runs)
    found = [str(run) for run in runs if any((run / name).is_file() for name in files_of_models)]
    return list(dict.fromkeys([*sources.models, *found]))


def build(sources: Sources) -> Callable[[], Any]:
    """Fills the tab; returns what begins to load the first model."""
    models = Models(list_models(sources), most=sources.max_models)
    _Page(models, {source.name: source.read() for source in sources.datasets}, sources.seed).build()
    return lambda: models.ask(models.names[0])


class _Page:
    """The components of the tab, and what happens between them."""

    def __init__(self, models: Models, datasets: dict[str, PreferenceDataset], seed: int) -> None:
        self.models, self.datasets, self.run_seed = models, datasets, seed

    def build(self) -> None:
        names, first = list(self.models.names), next(iter(self.datasets), None)
        with gr.Row(elem_classes=["controls"]):
            self.model = gr.Dropdown(names, value=names[0], label="Model", min_width=180)
            beside = [NOTHING, WITHOUT_ADAPTER, *names]
            self.beside = gr.Dropdown(beside, value=NOTHING, label="Beside it", min_width=180)
            kinds = [PAIR, OWN] if self.datasets else [OWN]
            self.kind = gr.Radio(kinds, value=kinds[0], label="Look at", scale=2, min_width=260)
            self.dataset = gr.Dropdown(
                list(self.datasets), value=first, label="Dataset", visible=len(self.datasets) > 1, min_width=160
            )
            self.row = gr.Number(
                1, precision=0, minimum=1, label="Row", visible=bool(self.datasets), scale=0, min_width=100
            )
        with gr.Row(visible=not self.datasets) as own:
            with gr.Column(min_width=220):
                self.picture = gr.File(label="Picture", file_types=["image"], height=140)
                self.preview = gr.HTML()
            with gr.Column(scale=2, min_width=260):
                self.prompt = gr.Textbox(label="Question", lines=2, placeholder="What is in the picture?")
                self.answer = gr.Textbox(label="Answer", lines=2, placeholder="whose words are looked at")
                self.second = gr.Textbox(label="Another answer, if any", lines=2)
        with gr.Row(elem_classes=["controls"]):
            versions = list(_VERSIONS)
            self.against = gr.Radio(versions, value=AGAINST[NO_IMAGE], label="Compared with", min_width=260, scale=2)
            look_at = gr.Button("Look (l)", variant="primary", elem_classes=["key-l"], min_width=120)
        with gr.Row(visible=False) as corrupted:
            kinds = [name for name in corruptions.names() if name != _NEEDS_OTHERS]
            self.corruption = gr.Dropdown(kinds, value="crop_0_20", label="corruption", min_width=140)
            self.options = gr.Textbox(_default_options("crop_0_20"), label="corruption_options", min_width=200)
            self.seed = gr.Number(self.run_seed, precision=0, label="seed", min_width=80)
        with gr.Row(visible=False) as other:
            self.other_row = gr.Number(
                2, precision=0, minimum=1, label="Its row", visible=bool(self.datasets), min_width=100
            )
            self.other = gr.File(label="Or a picture of your own", file_types=["image"], height=140)
        self.status = gr.HTML(elem_classes=["status"])
        self.looked = gr.HTML()
        self._connect(look_at, own, corrupted, other)

    def _connect(self, look_at: Any, own: Any, corrupted: Any, other: Any) -> None:
        quietly: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")

        def choose_kind(kind: str) -> Any:
            is_pair = kind == PAIR
            several = is_pair and len(self.datasets) > 1
            return gr.update(visible=several), gr.update(visible=is_pair), gr.update(visible=not is_pair)

        def choose_version(against: str) -> Any:
            version = _VERSIONS[against]
            return gr.update(visible=version == CORRUPTED), gr.update(visible=version == OTHER)

        self.kind.change(choose_kind, self.kind, [self.dataset, self.row, own], **quietly)
        self.against.change(choose_version, self.against, [corrupted, other], **quietly)
        self.corruption.input(_default_options, self.corruption, self.options, **quietly)
        self.picture.change(_preview, self.picture, self.preview, **quietly)
        inputs = [
            self.model, self.beside, self.kind, self.dataset, self.row, self.picture, self.prompt, self.answer,
            self.second, self.against, self.corruption, self.options, self.seed, self.other_row, self.other,
        ]  # fmt: skip
        gr.on(
            [look_at.click, self.row.submit, self.prompt.submit, self.answer.submit],
            self.show, inputs, [self.status, self.looked], trigger_mode="once", concurrency_limit=4, **quietly,
        )  # fmt: skip

    def show(self, model: str, beside: str, *values: Any) -> Iterator[tuple[Any, Any]]:
        """Yields what is waited for, then what was found, or in one line why nothing was."""
        try:
            question = self._read(*values)
            asked = [(model, False)]
            if beside != NOTHING:
                asked.append((model, True) if beside == WITHOUT_ADAPTER else (beside, False))
            found = []
            for name, without_adapter in dict.fromkeys(asked):
                answer = self.models.ask(name, partial(look, question=question, without_adapter=without_adapter))
                while not wait([answer], _LOOK_AGAIN).done:
                    yield paragraph(self.models.describe(name), "soft", role="status"), gr.skip()
                found.append(answer.result())
            yield (
                paragraph(" · ".join(map(self.models.describe, dict(asked))), "soft", role="status"),
                render_looked(question, found),
            )
        except Exception as error:
            yield paragraph(explain(error), "problem", role="alert"), ""

    def _read(
        self, kind: str, dataset: str | None, row: Any, picture: Any, prompt: str, answer: str, second: str,
        against: str, corruption: str, options: str, seed: Any, other_row: Any, other: Any,
    ) -> Question:  # fmt: skip
        rows, version = self.datasets.get(dataset or ""), _VERSIONS[against]
        if kind == PAIR and rows is not None:
            example, where = take_row(rows, int(row or 0))
        else:
            example, where = take_typed(picture, prompt or "", (answer or "", second or ""))
        made = (
            corruptions.load(corruption).with_options(**read_options(options or "")) if version == CORRUPTED else None
        )
        others = (
            take_other(example, rows, None if other_row is None else int(other_row), other) if version == OTHER else ()
        )
        return Question(example, where, version, made, others, int(seed or 0))


def explain(error: Exception) -> str:
    """Returns an error in one line."""
    if "out of memory" in str(error).lower():
        return (
            "memory ran out: take a shorter answer or a smaller picture, or start the app with --max_models 1 "
            f"({type(error).__name__})"
        )
    told = error.problem if isinstance(error, RowError) and not error.source else str(error)
    line = " ".join(told.split()) or type(error).__name__
    return line if isinstance(error, ValueError | OSError | MemoryError) else f"{type(error).__name__}: {line}"


def _preview(picture: str | None) -> Any:
    if picture is None:
        return ""
    try:
        open_upload(picture)
    except RowError as error:
        return paragraph(explain(error), "problem", role="alert")
    return paragraph(f"{Path(picture).name} is ready", "soft", role="status")


def _default_options(name: str) -> str:
    return json.dumps(dict(corruptions.load(name).options))
