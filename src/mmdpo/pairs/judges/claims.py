"""Everything that an answer says about the picture, statement by statement: each is asked once per picture, yes or no.

One token answers, and P(yes) against P(no) is read from its probabilities. Statements that several answers make are
asked about once, so that the verdict is shared by all of them. Source: RLAIF-V (arXiv 2405.17220) splits and asks so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmdpo.pairs.judges import Ask, Asking, Claim, Context, Reply, Verdicts, score_claims
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.texts import split_sentences

NEEDS, STRIKES, OPTIONS = "", True, ("votes", "splits", "threshold")
WORDS = {
    "split": (
        "Below is a text about a picture, with its sentences numbered. List all that it says about what can be seen: "
        "one short statement a line, each after the number of its sentence, as in\n2: There is a red car.\nA statement "
        "has to be understood without the others, so name things instead of writing it or they. Leave out opinions, "
        "guesses and what is said to the reader. Where nothing is left, write NONE.\n\n{text}"
    ),
    "check": 'Look at what is shown. Is this statement about it true?\n"{claim}"\nAnswer yes or no.',
    "check 2": '"{claim}"\nDoes what is shown bear this out? Say yes or no and nothing else.',
    "check 3": 'Somebody says of what is shown: "{claim}" Is that right? One word, yes or no.',
}
_CHECKS = ("check", "check 2", "check 3")
_LINE = re.compile(r"\s*[-*•]?\s*[\[(]?(\d{1,3})[\])]?\s*[:：.]\s*(\S.*?)\s*")
_NOTHING = re.compile(r"NONE\b.*|(?i:none)\W*")
"""What stands after the number of a sentence that says nothing of the picture."""


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Asking:
    """Yields what is asked; returns one verdict for each sample, None for one that was not split or checked."""
    sentences = {sample.text: split_sentences(sample.text) for sample in samples}
    split: dict[str, list[tuple[int, str]] | None]
    if context.splits == "sentences":
        split = {text: list(enumerate(parts)) for text, parts in sentences.items()}
    else:
        asks = [Ask(WORDS["split"].format(text=_number(parts)), _read_split) for parts in sentences.values()]
        split = dict(zip(sentences, (yield asks), strict=True))
    distinct = {normalise(claim): claim for found in split.values() if found for _, claim in reversed(found)}
    wordings = _CHECKS[: context.votes]
    checks = [
        Ask(WORDS[wording].format(claim=claim), read_yes, prompt.images, is_yes_no=True)
        for claim in distinct.values()
        for wording in wordings
    ]
    said = iter((yield checks) if checks else [])
    shares: dict[str, float | None] = {}
    for key in distinct:
        votes = [vote for vote in (next(said) for _ in wordings) if vote is not None]
        shares[key] = sum(votes) / len(votes) if votes else None

    def decide(text: str) -> Verdicts:
        found = split[text]
        if found is None:
            return [None]
        once = {normalise(claim): (place, claim) for place, claim in reversed(found)}  # the first mention stays
        claims = []
        for key, (place, claim) in reversed(once.items()):
            share = shares[key]
            if share is None:
                return [None]
            sentence = place if 0 <= place < len(sentences[text]) else None  # a number that the model made up
            claims.append(Claim(claim, share >= context.threshold, share, sentence))
        return [score_claims(claims)]

    return [decide(sample.text)[0] for sample in samples]


def normalise(claim: str) -> str:
    """Returns what two statements have in common that are asked about once.

    >>> normalise("There is a red car.") == normalise("there is the red car")
    True
    """
    return " ".join(word for word in re.findall(r"\w+", claim.lower()) if word not in ("a", "an", "the"))


def read_yes(reply: Reply) -> float | None:
    """Returns P(yes) of a reply; 1 or 0 by its first word where the model says no probabilities, None for neither."""
    if reply.yes is not None:
        return reply.yes
    first = next(iter(re.findall(r"\w+", reply.text.lower())), "")
    return {"yes": 1.0, "no": 0.0}.get(first)


def _number(sentences: Sequence[str]) -> str:
    return "\n".join(f"{place}. {sentence}" for place, sentence in enumerate(sentences, start=1))


def _read_split(reply: Reply) -> list[tuple[int, str]] | None:
    """Returns the statements with the places of their sentences; None for a reply in another form."""
    lines = [line for line in reply.text.splitlines() if line.strip()]
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    if not found:
        return [] if re.search(r"\bNONE\b", reply.text) else None
    return [(int(match[1]) - 1, match[2]) for match in found if not _NOTHING.fullmatch(match[2])]
