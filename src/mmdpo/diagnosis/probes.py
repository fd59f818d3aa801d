"""Runs the probes of `mmdpo diagnose` that ask a model: `--conflict` and `--empty_image`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import save_file

from mmdpo.benchmarks.option_questions import read_questions
from mmdpo.data.images import digest_image
from mmdpo.data.read import open_rows
from mmdpo.diagnosis import conflict, empty_image
from mmdpo.diagnosis.diagnose import EXAMPLES, write_result
from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.diagnosis.replies import ReplyLog
from mmdpo.files import write_rows
from mmdpo.folders import hold_folder, make_folder
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.transformers import TransformersAnswerer

VECTORS = "vectors.safetensors"


def probe_conflict(options: DiagnosisOptions, console: Console) -> dict[str, Any]:
    """Asks the questions of `options.conflict`, writes the files, and returns diagnosis.json's content.

    Raises RowError for a row that is no question or whose picture cannot be read.
    """
    file = Path(str(options.conflict))
    found = open_rows(file)
    questions = read_questions(list(found.rows), options.image_dir or file.parent, found.name)
    asked = [(each, digest_image(each.image)) for each in questions]
    answerer = _open(options)
    make_folder(options.out)
    with hold_folder(options.out):
        with closing(ReplyLog(options.out, answerer, conflict.SETTINGS, asked, shown=not console.quiet)) as log:
            replies = conflict.ask_all(answerer, questions, log)
        rows = list(conflict.describe_replies(questions, replies))
        write_rows(options.out / EXAMPLES, rows)
        summary = conflict.summarise(rows, resamples=options.resamples, seed=options.seed)
        return write_result(options, "conflict", len(questions), (), summary)


def probe_empty_image(options: DiagnosisOptions, console: Console) -> dict[str, Any]:
    """Reads and answers the prompts of `options.empty_image`; writes files and vectors, and returns diagnosis.json's.

    Raises RowError for a row without a prompt, or with a picture that cannot be read.
    """
    file = Path(str(options.empty_image))
    found = open_rows(file)
    questions = empty_image.read_prompts(list(found.rows), found.name, options.image_dir or file.parent)
    answerer, picture = _open(options), empty_image.draw_empty(options.empty, options.seed)
    make_folder(options.out)
    with hold_folder(options.out):
        shift = empty_image.measure_shift(answerer, questions, picture, shown=not console.quiet)
        asked = (options.empty, options.seed, [(each.id, each.prompt, _digest(each.image)) for each in questions])
        with closing(ReplyLog(options.out, answerer, empty_image.SETTINGS, asked, shown=not console.quiet)) as log:
            answers = empty_image.ask_all(answerer, questions, picture, log)
        save_file({name: values.contiguous() for name, values in shift.directions().items()}, options.out / VECTORS)
        rows = list(empty_image.describe_answers(questions, answers, shift))
        write_rows(options.out / EXAMPLES, rows)
        summary = empty_image.summarise(rows, shift, resamples=options.resamples, seed=options.seed)
        return write_result(options, "empty_image", len(questions), (), summary)


def _digest(image: Any) -> str:
    return "" if image is None else digest_image(image)


def _open(options: DiagnosisOptions) -> TransformersAnswerer:
    shared = ("adapter", "dtype", "chat_template", "chat_template_kwargs", "trust_remote_code")
    given = CheckpointOptions(**{name: getattr(options, name) for name in shared})
    checkpoint = Checkpoint(str(options.model), given)
    return TransformersAnswerer(checkpoint, batch_size=options.batch_size, probe=not options.no_probe)
