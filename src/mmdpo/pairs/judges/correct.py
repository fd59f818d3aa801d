"""A model that sees the picture rewrites each answer with as few changes as make it true and complete.

What it took out counts as wrong. Rule `correction` makes pairs of answer and rewrite. A rewrite that only takes out
teaches silence, so it is asked to complete as well. Source: OPA-DPO (arXiv 2501.09695) corrects own answers so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from mmdpo.pairs.filters import why_useless
from mmdpo.pairs.judges import Ask, Asking, Claim, Context, Reply, Verdict, Verdicts
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.texts import split_sentences

NEEDS, STRIKES = "", True
WORDS = {
    "rewrite": (
        "This text answers a request about what is shown.\nRequest: {question}\nText: {answer}\n\nRewrite the text "
        "with as few changes as you can so that all of it is true of what is shown and nothing that matters is left "
        "out. Keep its style and, as far as that goes, its length. If nothing has to change, repeat it. Write the text "
        "and nothing else."
    )
}


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Asking:
    """Yields one request for each distinct answer; returns verdicts with the rewrite and what it took out."""
    texts = list(dict.fromkeys(sample.text for sample in samples))
    asked = [
        Ask(WORDS["rewrite"].format(question=prompt.question, answer=text), _read, prompt.images) for text in texts
    ]
    rewrites = dict(zip(texts, (yield asked), strict=True))
    found: Verdicts = [
        None if (new := rewrites[sample.text]) is None else compare(sample.text, new) for sample in samples
    ]
    return found


def compare(text: str, rewrite: str) -> Verdict:
    """Returns the verdict of a text by its rewrite: a point less for each stretch of words that was taken out.

    Case and marks take no part.

    >>> [claim.text for claim in compare("A cup, a red dog.", "A cup and a dog.").claims]
    ['red']
    """
    old, new = text.split(), rewrite.split()
    heard = [[re.sub(r"^\W+|\W+$", "", word.lower()) or word for word in of] for of in (old, new)]
    matcher = SequenceMatcher(None, heard[0], heard[1], autojunk=False)
    ends, end = list[int](), 0
    for sentence in split_sentences(text):
        end += len(sentence.split())
        ends.append(end)
    gone = [
        Claim(" ".join(old[start:stop]), False, sentence=next((n for n, e in enumerate(ends) if start < e), None))
        for kind, start, stop, *_ in matcher.get_opcodes()
        if kind in ("delete", "replace")
    ]
    return Verdict(-float(len(gone)), tuple(gone), rewrite=rewrite)


def _read(reply: Reply) -> str | None:
    """Returns the rewrite, None for one that could not be an answer: none, a refusal, a loop."""
    text = reply.text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2
    text = text[1:-1].strip() if is_quoted else text
    return text if why_useless(Sample("", 0, text)) is None else None
