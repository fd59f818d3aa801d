"""HallusionBench's questions and groups, which both of its rules share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems
from mmdpo.benchmarks.reading import ANSWER_FIELDS as USUAL_FIELDS
from mmdpo.benchmarks.reading import EvaluationError, Row, read_data

LICENCE: Final = "HallusionBench: BSD-3-Clause"
DATA_NAME: Final = "hallusionbench"
ANSWER_FIELDS: Final = ("model_prediction", *USUAL_FIELDS)
CATEGORIES: Final = ("VD", "VS")
"""Visual dependent and visual supplement: the second can be answered without the image, and is asked so too."""
SUBCATEGORIES: Final = ("chart", "figure", "illusion", "map", "math", "ocr", "table", "video")
_KEYS: Final = ("category", "subcategory", "set_id", "figure_id", "question_id")


def read_all_items(data_dir: Path) -> tuple[BenchmarkItem, ...]:
    """Reads the 1,129 questions; ids are `VD_illusion_0_1_2`: category, subcategory, set, figure, question.

    `truth` has the row's fields. Questions of one set go together. Raises EvaluationError for another file.
    """
    file = data_dir / "HallusionBench.json"
    try:
        return tuple(
            BenchmarkItem(
                id="_".join(str(row[key]) for key in _KEYS),
                part=str(row["category"]),
                prompt=row["question"],
                image=(row["filename"] or "").removeprefix("./"),
                truth={key: str(row[key]) for key in (*_KEYS, "visual_input", "gt_answer", "gt_answer_details")},
                group="_".join(str(row[key]) for key in _KEYS[:3]),
            )
            for row in read_data(file)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{file}: no questions of HallusionBench ({error!r})") from error


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the item of the row's category, subcategory, set_id, figure_id and question_id.

    Raises EvaluationError for a row that lacks one.
    """
    missing = [key for key in _KEYS if key not in row.values]
    if missing:
        raise EvaluationError(f"no {', '.join(missing)}; give these, or an id as VD_illusion_0_1_2")
    return "_".join(str(row.values[key]) for key in _KEYS)
