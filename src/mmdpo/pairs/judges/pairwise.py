"""A model that sees the picture compares answers two at a time, in both orders; a verdict that turns is a tie.

Which of two stands first decides one verdict in eight of a strong judge, so each pair is shown both ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmdpo.pairs.judges import Ask, Asking, Context, Reply, Verdict, Verdicts
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.records import derive_generator

NEEDS, STRIKES, OPTIONS = "", False, ("opponents", "seed")
WORDS = {
    "compare": (
        "Two answers were given to this request about what is shown:\n{question}\n\nAnswer A:\n{first}\n\nAnswer B:\n"
        "{second}\n\nWhich of them fits better what is shown? Something wrong costs more than something left out; "
        "length, "
        "style and order cost nothing. Reply with one letter: A, B, or T for a tie."
    )
}
_LETTER = re.compile(
    r"\W*(?i:(?:the\s+|better\s+|best\s+)*answer(?:\s+is)?\W+)?"
    r"(?:T\b|(?i:(?:an?\s+|it\s+is\s+a\s+)?tie\b)"
    r"|(?P<letter>[AB])\b(?![ \t]+(?!wins\b|better\b"
    r"|(?:is|fits)\b(?!\s+(?:not|wrong|worse|less|in(?:correct|accurate))\b))[a-z]))"
)
"""A letter before small words is the article, and one of which nothing good is said is no choice."""
SCALE = 10.0
"""Score of an answer that won all its comparisons."""


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Asking:
    """Yields both orders of every comparison; returns the share of comparisons that each answer won, a tie as half."""
    texts = list(dict.fromkeys(sample.text for sample in samples))
    matches = draw_matches(texts, context.opponents, context.seed, prompt.id)
    both = [order for one, other in matches for order in ((one, other), (other, one))]
    asked = [
        Ask(WORDS["compare"].format(question=prompt.question, first=a, second=b), read_letter, prompt.images)
        for a, b in both
    ]
    said = iter((yield asked) if asked else [])
    won: dict[str, list[float]] = {text: [] for text in texts}
    turned = dict.fromkeys(texts, 0)
    for one, other in matches:
        first, second = next(said), next(said)
        if first is None or second is None:
            continue
        shares = (first, 1 - second)  # what `one` got of each
        is_turned = shares[0] != shares[1]
        share = 0.5 if is_turned else shares[0]
        won[one].append(share)
        won[other].append(1 - share)
        for text in (one, other):
            turned[text] += is_turned
    verdicts: dict[str, Verdict | None] = {
        text: Verdict(SCALE * sum(of) / len(of), comparisons=len(of), inconsistent=turned[text]) if of else None
        for text, of in won.items()
    }
    found: Verdicts = [verdicts[sample.text] for sample in samples]
    return found


def draw_matches(texts: Sequence[str], opponents: int, seed: int, name: str) -> list[tuple[str, str]]:
    """Returns which answers are compared: in a circle of drawn order, each with those that follow it."""
    order = derive_generator(seed, name, "comparisons").permutation(len(texts)).tolist()
    found: dict[frozenset[int], tuple[str, str]] = {}
    for step in range(1, opponents // 2 + opponents % 2 + 1):
        for place in range(len(order)):
            one, other = order[place], order[(place + step) % len(order)]
            if one != other:
                found.setdefault(frozenset((one, other)), (texts[one], texts[other]))
    return list(found.values())


def read_letter(reply: Reply) -> float | None:
    """Returns what the first answer got: 1, 0, or a half for a tie; None for a reply that does not begin with a letter.

    >>> [read_letter(Reply(text)) for text in ("B", "**A** fits better", "A tie", "Answer B.", "A cup is in both")]
    [0.0, 1.0, 0.5, 0.0, None]
    """
    found = _LETTER.match(reply.text)
    return None if found is None else {"A": 1.0, "B": 0.0}.get(found["letter"], 0.5)
