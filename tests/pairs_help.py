"""What tests of the data engine share: prompts, answers and verdicts by hand, a model that says what a script says."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mmdpo.files import to_json
from mmdpo.generation.endpoint import RefusedError
from mmdpo.generation.questions import GeneratedAnswer, Processes
from mmdpo.options import parse_options
from mmdpo.pairs.judges import Claim, Verdict
from mmdpo.pairs.options import PairsOptions
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.rules import Candidate
from mmdpo.pairs.samples import Sample

REFUSED = None
"""What a script says of a request that is refused."""


@dataclass
class Scripted:
    """A model that replies by a function of the words that it is asked: a text, or a text and log π of first tokens."""

    script: object
    name: str = "scripted"
    processes: Processes = field(default_factory=Processes)
    asked: list = field(default_factory=list)
    """Words, pictures and settings of every request, refused ones too."""

    def describe(self):
        return {"model": self.name, "versions": {"scripted": str(id(self))}}

    def answer(self, questions, settings):
        refused = 0
        for question in questions:
            self.asked.append((question.prompt, question.images, settings))
            said = self.script(question.prompt)
            if said is REFUSED:
                refused += 1
                continue
            text, likeliest = said if isinstance(said, tuple) else (said, None)
            details = {"tokens": len(text.split()), "prompt_tokens": 10}
            yield GeneratedAnswer(question.id, text, details | ({"top_logprobs": likeliest} if likeliest else {}))
        if refused:
            raise RefusedError(f"{refused} questions got no answer")

    def texts(self):
        return [words for words, *_ in self.asked]


def paint(colour=(200, 30, 30), size=8):
    return Image.new("RGB", (size, size), colour)


def make_prompt(name="a", *, question="What is there?", image=None, **truth):
    turns = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},)
    return Prompt(name, turns, (image or paint(),), truth, f"row {name}")


def make_candidate(k, text, score=0.0, wrong=(), right=(), kind=None, **more):
    """An answer with its verdict; claims are words, or words and the number of their sentence."""
    claims = [
        Claim(*([of, is_true] if isinstance(of, str) else [of[0], is_true, None, of[1]]))
        for is_true, named in ((True, right), (False, wrong))
        for of in named
    ]
    return Candidate(
        Sample("a", k, text, kind or ("draw" if k else "greedy")), Verdict(float(score), tuple(claims), **more)
    )


def write_lines(path, rows):
    path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_run(folder, prompts, answers, *, judge="objects", label=None, strikes=None):
    """Writes a folder as sampling and judging leave it. `answers` are candidates by the prompts' ids."""
    label = label or judge
    folder.mkdir(exist_ok=True)
    write_lines(
        folder / "prompts.jsonl",
        [{"id": each.id, "digest": each.digest, "images": list(each.image_digests)} for each in prompts],
    )
    rows, verdicts = [], []
    for name, of in answers.items():
        for each in of:
            row = {field: getattr(each.sample, field) for field in Sample._fields} | {"id": name}
            rows.append({field: value for field, value in row.items() if value is not None})
        verdicts.append({"id": name, "verdicts": {str(each.sample.k): each.verdict.row() for each in of}})
    write_lines(folder / "samples.jsonl", rows)
    write_lines(folder / f"verdicts-{label}.jsonl", verdicts)
    (folder / f"judge-{label}.json").write_text(json.dumps({"judge": {"judge": judge, "words": f"{judge}-1"}}))
    sampler = {"model": "world", "weights": "0123456789abcdef0123"}
    settings = {"seed": 7, "temperature": 1.0, "top_p": 1.0}
    (folder / "sampler.json").write_text(json.dumps({"sampler": sampler, "settings": settings}))


def parse(*arguments):
    """Returns options of a run as the command line does."""
    return parse_options(PairsOptions, list(map(str, arguments)), "pairs")
