"""Questions with options about what a picture shows, asked with the picture or with a line of text that names it.

Source: Zhu et al., Unraveling Cross-Modality Knowledge Conflicts in Large Vision-Language Models (arXiv 2410.03659),
whose two files of questions (ViQuAE, InfoSeek) are read as they are released.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmdpo.records import RowError

IMAGE, TEXT, NEITHER = "image", "text", "neither"
CELLS: Final = {
    (True, True): ("both_right", "right with the image and with the text"),
    (True, False): ("image_only", "right with the image alone"),
    (False, True): ("text_only", "right with the text alone"),
    (False, False): ("both_wrong", "wrong with both"),
}
"""Right with the image, right with the text → name and meaning."""

_PROMPT: Final = "{question}\n{options}\nAnswer with the letter of the right option."
_NAMED: Final = "The picture shows {entity}.\n"


@dataclass(frozen=True)
class OptionQuestion:
    """A question with options about what a picture shows."""

    id: str
    question: str
    options: Mapping[str, str]
    """Letter → text."""
    answer: str
    """The right letter."""
    image: Path
    entity: str | None
    """What the picture shows, None where the file does not say it."""

    def prompt(self, condition: str) -> str:
        """Returns what a model is asked under a condition, beside the picture if that is `image`."""
        options = "\n".join(f"{letter}. {text}" for letter, text in self.options.items())
        said = _NAMED.format(entity=self.entity) if condition == TEXT else ""
        return said + _PROMPT.format(question=self.question, options=options)


def read_questions(rows: Sequence[Any], image_dir: Path, name: str) -> list[OptionQuestion]:
    """Reads the rows of a released file: `id`, `question`, `image`, `multiple_choices`, `multiple_choices_answer`.

    InfoSeek's rows have `entity`; ViQuAE's have not, and may be given it under the same name.

    Raises RowError where a row lacks one of these, or its answer is none of its options, and names the row.
    """
    questions = []
    for number, row in enumerate(rows, start=1):
        source = f"{name}, row {number}"
        if not isinstance(row, Mapping):
            raise RowError(f"it is {type(row).__name__} and no question", source=source)
        texts = {key: row.get(key) for key in ("question", "image", "multiple_choices_answer")}
        for key, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                raise RowError(f"`{key}` is {value!r:.60}: write the text", source=source)
        options: Any = row.get("multiple_choices")
        is_read = isinstance(options, Mapping) and all(isinstance(v, str) for v in options.values())
        if not is_read or texts["multiple_choices_answer"] not in options:
            raise RowError(
                f"`multiple_choices_answer` is {texts['multiple_choices_answer']!r:.20} and `multiple_choices` "
                f"{options!r:.60}: write a mapping from letters to texts, and one of the letters",
                source=source,
            )
        entity = row.get("entity")
        questions.append(
            OptionQuestion(
                id=str(row.get("id", number)),
                question=str(texts["question"]),
                options=dict(options),
                answer=str(texts["multiple_choices_answer"]),
                image=image_dir / str(texts["image"]),
                entity=entity if isinstance(entity, str) and entity.strip() else None,
            )
        )
    repeated = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        raise RowError(f"the id {repeated[0]!r} is given to several questions", source=name)
    return questions


def read_letter(answer: str, options: Mapping[str, str], right: str) -> str | None:
    """Returns the letter of the option that an answer names, None where it names none; `right` is the right letter.

    The first letter that stands alone, or before whitespace or a colon; else the right option, where its text stands in
    the answer, in any case. This is how the released code tells right from wrong, but that it wants the text in its own
    case; flips it reads by another rule, the first of A to D that stands anywhere before a colon.
    """
    letters = "".join(options)
    found = re.search(rf"\b[{letters}]\b|[{letters}](?=\s|:)", answer)
    if found:
        return found[0]
    return right if options[right].lower() in answer.lower() else None
