"""Object HalBench: COCO objects in 300 detailed descriptions that are not in the image, counted in two ways.

Source: Rohrbach et al., Object Hallucination in Image Captioning, EMNLP 2018; Yu et al., RLHF-V, CVPR 2024, whose
`eval_gpt_obj_halbench.py` this follows. `word` takes every word of the answer that names a COCO class; `llm` takes the
objects that a language model lists. Published tables mix the two, so their names never do here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from mmdpo.benchmarks.definitions import BenchmarkItem, Better, ItemScore, Linguistics, Tools, ratio_metric
from mmdpo.benchmarks.reading import EvaluationError, find_by_image, read_data, read_data_text
from mmdpo.files import parse_json

LICENCE = "Object HalBench: questions CC BY-NC 4.0, for research; COCO annotations CC BY 4.0"
SIZE = 300
GENERATION: Mapping[str, Any] = {"max_new_tokens": 1024, "num_beams": 3}
LANGUAGE_TOOLS = ("linguistics",)
MODES: Final = ("word", "llm")
SYNONYMS: Final = "synonyms_refine.txt"
TRAPS = {
    "men": '"men" in the answer, which word mode does not see (WordNet keeps it)',
    "vases": '"vases" in the answer, which word mode does not see (WordNet makes it "vas")',
    "no_mention": "answers without any COCO word, which count in chair_s and not in chair_s_refine",
    "sports_ball_or_scissors": "listed objects that LLM mode never matches: sports ball, scissors",
    "reply_unreadable": "replies of the language model that are no JSON list: unscored in LLM mode",
}
_SHORT: Final = 3
"""An answer of so many words has no objects in LLM mode."""
_ANIMALS: Final = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"
_NO_OBJECTS: Final = ("home plate", "train track")
"""Pairs that are merged so that neither word counts."""
_LLM_LEMMAS: Final = {"scissors": "scissor"}
"""What spaCy, which the official LLM mode lemmatises with, does to a word and WordNet does not."""


_RATES: Final[Mapping[str, tuple[str, str, Better]]] = {
    "chair_s": ("hallucinating", "n", "lower"),
    "chair_s_refine": ("hallucinating", "mentioning", "lower"),
    "chair_i": ("hallucinated", "mentions", "lower"),
    "recall": ("found", "truth", "higher"),
}
_ratio = partial(ratio_metric, digits=1)
METRICS = (
    *(
        _ratio(f"object_halbench/{mode}/{name}", part, whole, scopes=[f"{mode}/"], over="n", better=better)
        for mode in MODES
        for name, (part, whole, better) in _RATES.items()
    ),
    _ratio("object_halbench/answer_words", "words", "n", factor=1, better="neither", unit="words"),
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads the 300 questions with the COCO classes of their images; ids are COCO image ids.

    The classes are built from COCO's own annotations where `instances_*2014.json` and `captions_*2014.json` are in the
    folder, as officially; else `gt_objects_300.json` is taken as it is.

    Raises EvaluationError for a file that is missing, or does not know an image.
    """
    file = data_dir / "obj_halbench_300_questions.jsonl"
    try:
        rows = [parse_json(line) for line in read_data_text(file).splitlines() if line.strip()]
        asked = {str(row["image_id"]): str(row["question"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{file}: no questions of Object HalBench ({error!r})") from error
    truth = _read_truth(data_dir, frozenset(asked), tools)
    missing = [image_id for image_id in asked if image_id not in truth]
    if missing:
        raise EvaluationError(f"{data_dir}: no objects are known of {len(missing)} images, the first is {missing[0]}")
    return tuple(
        BenchmarkItem(image_id, "all", question, f"COCO_val2014_{int(image_id):012d}.jpg", {"objects": truth[image_id]})
        for image_id, question in asked.items()
    )


def _read_truth(data_dir: Path, image_ids: frozenset[str], tools: Tools) -> Mapping[str, Sequence[str]]:
    instances = sorted(data_dir.glob("instances_*2014.json"))
    captions = sorted(data_dir.glob("captions_*2014.json"))
    if not instances or not captions:
        tools.used["ground_truth"] = "gt_objects_300.json, as given"
        found: Mapping[str, Sequence[str]] = read_data(data_dir / "gt_objects_300.json")
        return found
    tools.used["ground_truth"] = ", ".join(file.name for file in (*instances, *captions))
    synonyms = CocoObjects.build(read_data_text(data_dir / SYNONYMS).splitlines())
    contents = [map(read_data, files) for files in (instances, captions)]
    return gather_objects(contents[0], contents[1], image_ids, synonyms, tools.linguistics)


def gather_objects(
    instances: Iterable[Any],
    captions: Iterable[Any],
    image_ids: frozenset[str],
    synonyms: CocoObjects,
    linguistics: Linguistics,
) -> dict[str, list[str]]:
    """Returns image id → the classes of its instances and of what its reference captions name.

    `instances` and `captions` are the contents of COCO's files of annotations.
    """
    objects: dict[str, set[str]] = {}
    for content in instances:
        names = {category["id"]: category["name"] for category in content["categories"]}
        for image_id, record in _annotations(content, image_ids):
            objects.setdefault(image_id, set()).add(synonyms.class_of[names[record["category_id"]]])
    for content in captions:
        for image_id, record in _annotations(content, image_ids):
            named = synonyms.mentions(record["caption"], linguistics)
            objects.setdefault(image_id, set()).update(mention.coco_class for mention in named)
    return {image_id: sorted(classes) for image_id, classes in objects.items()}


def _annotations(content: Mapping[str, Any], image_ids: frozenset[str]) -> list[tuple[str, Mapping[str, Any]]]:
    records = ((str(record["image_id"]), record) for record in content["annotations"])
    return [(image_id, record) for image_id, record in records if image_id in image_ids]


find_id = find_by_image


def judge_prompt(item: BenchmarkItem, answer: str) -> str:
    """Returns what the language model is asked: our own wording; its reply should be a JSON list."""
    return (
        "Below are a question about a picture and the answer that somebody gave. List the physical objects that the "
        "answer says are visible in the picture.\n"
        "- Take only what the answer names; do not infer anything else, and leave out what it says is absent.\n"
        "- Give the bare name of each object: no colour, material, number, place or other attribute.\n"
        "- Reply with one JSON list of strings on one line and nothing else; with [] if there is none.\n\n"
        f"Question: {item.prompt}\nAnswer: {answer}\n"
    )


def reads(reply: str) -> bool:
    """Returns whether a reply of the language model is a list of objects."""
    return read_objects(reply) is not None


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the rule: word mode always, LLM mode where there is a judge."""
    synonyms = CocoObjects.build(read_data_text(data_dir / SYNONYMS).splitlines())
    if tools.judge is not None:
        tools.used["judge"] = tools.judge.name

    return partial(score_answer, synonyms=synonyms, tools=tools)


def score_answer(item: BenchmarkItem, answer: str, synonyms: CocoObjects, tools: Tools) -> ItemScore:
    """Scores one answer in word mode and, if there is a judge, in LLM mode."""
    answer = answer.replace("Assistant:", "").strip()  # as the official code does
    truth = frozenset(item.truth["objects"])
    words = answer.lower().split()
    mentions = synonyms.mentions(answer, tools.linguistics)
    counts = {"n": 1.0, "words": float(len(answer.split(" ")))} | _count("word", mentions, truth)
    reason: dict[str, Any] = {"word": _explain(mentions, truth)}
    traps = {name: sum(1 for word in words if word.strip(".,;:!?") == name) for name in ("men", "vases")}
    traps["no_mention"] = not mentions
    unscored = ""
    if tools.judge is not None:
        reply = tools.judge.reply(item, answer) if len(words) > _SHORT else "[]"
        listed = None if reply is None else read_objects(reply)
        if listed is None:
            unscored = "the language model gave no JSON list of objects"
            traps["reply_unreadable"] = 1
        else:
            mentions = synonyms.listed_mentions(listed, tools.linguistics)
            counts |= _count("llm", mentions, truth)
            reason["llm"] = {"listed": listed} | _explain(mentions, truth)
            unmatched = ("sports ball", "sports balls", "scissors")
            traps["sports_ball_or_scissors"] = sum(1 for phrase in listed if phrase.lower() in unmatched)
    return ItemScore(counts, reason, {name: int(count) for name, count in traps.items() if count}, unscored)


def read_objects(reply: str) -> list[str] | None:
    """Returns the JSON list of a reply or of its last line, where the official code looks too; None if neither is."""
    for text in (reply, reply.strip().removesuffix("```").strip().rpartition("\n")[2]):
        try:
            listed = parse_json(text)
        except ValueError:
            continue
        if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            return listed
    return None


def _count(mode: str, mentions: Sequence[Mention], truth: frozenset[str]) -> dict[str, float]:
    hallucinated = sum(1 for mention in mentions if mention.coco_class not in truth)
    counts = {
        "n": 1,
        "hallucinating": hallucinated > 0,
        "mentioning": len(mentions) > 0,
        "hallucinated": hallucinated,
        "mentions": len(mentions),
        "found": len({mention.coco_class for mention in mentions} & truth),
        "truth": len(truth),
    }
    return {f"{mode}/{name}": float(count) for name, count in counts.items()}


def _explain(mentions: Sequence[Mention], truth: frozenset[str]) -> dict[str, Any]:
    return {
        "kept": [list(mention) for mention in mentions],
        "flagged": [mention.word for mention in mentions if mention.coco_class not in truth],
    }


# -- words that name classes ------------------------------------------------------------------------------------------


class Mention(NamedTuple):
    """One word of an answer that names a class."""

    word: str
    coco_class: str


@dataclass(frozen=True)
class CocoObjects:
    """COCO's classes named by words, through their synonyms: the rule of CHAIR as Object HalBench refines it."""

    class_of: dict[str, str]
    """Synonym → class; a synonym that several lines name belongs to the last."""
    pairs: dict[str, str]
    """Two words that count as one → what they are replaced by."""

    @classmethod
    def build(cls, lines: Sequence[str]) -> CocoObjects:
        """Builds the table from lines of synonyms, the class first, separated by commas."""
        rows = [[word.strip() for word in line.split(",")] for line in lines if line.strip()]
        class_of = {word: row[0] for row in rows for word in row}
        pairs = {word: word for word in (*class_of, *_NO_OBJECTS) if " " in word}
        pairs |= {f"{age} {animal}": animal for animal in _ANIMALS.split() for age in ("baby", "adult")}
        pairs |= {"passenger jet": "jet", "passenger train": "train"}
        pairs |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
        return cls(class_of, pairs)

    def mentions(self, text: str, linguistics: Linguistics) -> list[Mention]:
        """Returns the mentions of a text in order, repeats included: word mode."""
        return self._name_classes(self._merge(linguistics.lemmas(text.lower())))

    def listed_mentions(self, phrases: Sequence[str], linguistics: Linguistics) -> list[Mention]:
        """Returns the distinct mentions among phrases that name one object each: LLM mode."""
        words = [word for phrase in phrases for word in self._words_of_phrase(phrase, linguistics)]
        return self._name_classes(list(dict.fromkeys(words)))

    def _words_of_phrase(self, phrase: str, linguistics: Linguistics) -> list[str]:
        sentence = f"a {phrase}"  # the article lets a tagger see a noun
        lemmas = [_LLM_LEMMAS.get(lemma, lemma) for lemma in linguistics.lemmas(sentence)]
        runs = (run.split() for run in linguistics.noun_runs(sentence))
        named = [" ".join(_LLM_LEMMAS.get(word, word) for word in run) for run in runs]
        return self._merge(lemmas, pairs_only=True) or named

    def _merge(self, words: Sequence[str], *, pairs_only: bool = False) -> list[str]:
        """Replaces two-word synonyms from left to right, each word used once."""
        merged, index = [], 0
        while index < len(words):
            pair = self.pairs.get(" ".join(words[index : index + 2]))
            if pair is not None:
                merged.append(pair)
            elif not pairs_only:
                merged.append(words[index])
            index += 1 if pair is None else 2
        return merged

    def _name_classes(self, words: Sequence[str]) -> list[Mention]:
        dropped = "seat" if "toilet" in words else ""  # the seat of a toilet is no chair
        return [Mention(word, self.class_of[word]) for word in words if word in self.class_of and word != dropped]
