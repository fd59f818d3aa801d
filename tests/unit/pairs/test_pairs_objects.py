"""Objects that answers name: the judges that count them, against the embedded world's own scores and by hand."""

import numpy as np
import pytest

from mmdpo.pairs.judges import Claim, Context, Verdict, claim_objects, consistency, find_objects, objects
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.records import RowError
from mmdpo.world import SMALL
from mmdpo.world.scenes import (
    SUPERVISED_CAPTIONER,
    compare_names,
    mentioned_objects,
    sample_scenes,
    score_captions,
    write_caption,
)

VOCABULARY = {
    "dog": "dog",
    "puppy": "dog",
    "hot dog": "hot dog",
    "bus": "bus",
    "light": "lamp",
    "traffic light": "lamp",
}


def write_captions(scenes, generator):
    """Captions as a model writes them: both styles, what is usual but absent, repeats, cut ones, and none at all."""
    captions = []
    for number, scene in enumerate(scenes):
        names = SUPERVISED_CAPTIONER.name_objects(scene, generator)
        text = write_caption(SMALL, names, scene.setting, "polite" if number % 2 else "terse")
        words = text.split()
        if number % 7 == 3:
            words = words[: int(generator.integers(0, len(words)))]
        if number % 5 == 4:
            words += [",", str(generator.choice(SMALL.objects)), ",", words[0] if words else "cup"]
        captions.append(" ".join(words))
    return captions


def test_objects_counts_as_the_world_scores_to_the_last_claim():
    scenes = sample_scenes(300, 5, 0.5, "judge test")
    captions = write_captions(scenes, np.random.default_rng(1))
    context = Context({name: name for name in SMALL.objects})
    hallucinated = right = 0
    for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        prompt = Prompt(str(number), (), (), {"objects": list(scene.names)})
        (verdict,) = objects.judge(prompt, [Sample(prompt.id, 1, caption)], context)
        detail = compare_names(SMALL, scene.names, caption)
        assert [claim.text for claim in verdict.claims] == list(mentioned_objects(SMALL, caption))
        assert [claim.text for claim in verdict.claims if not claim.is_true] == list(detail.hallucinated)
        assert (verdict.right, verdict.struck) == (len(detail.correct), len(detail.hallucinated))
        assert verdict.score == len(detail.correct) - 2 * len(detail.hallucinated)
        hallucinated += verdict.struck
        right += verdict.right
    scores = score_captions(scenes, captions)
    assert hallucinated > 50
    assert scores.chair_i == pytest.approx(100 * hallucinated / (hallucinated + right), abs=1e-12)
    assert scores.cover == pytest.approx(100 * right / sum(len(scene.objects) for scene in scenes), abs=1e-12)


def test_objects_knows_synonyms_on_both_sides_and_counts_each_object_once():
    prompt = Prompt("a", (), (), {"objects": ["Puppy", "bus", "zebra"]})
    text = "A dog. The puppy, two buses and a hot dog; a dog again."
    (verdict,) = objects.judge(prompt, [Sample("a", 1, text)], Context(VOCABULARY))
    assert verdict == Verdict(
        0.0, (Claim("dog", True, None, 0), Claim("bus", True, None, 1), Claim("hot dog", False, None, 1))
    )


def test_plurals_count_and_longer_phrases_come_before_their_parts():
    assert find_objects("Two dogs, three BUSES, hot dogs.", VOCABULARY) == ("dog", "bus", "hot dog")
    assert find_objects("hot dogs", VOCABULARY) == ("hot dog",)
    assert find_objects("A traffic light, then a light.", VOCABULARY) == ("lamp",)
    assert find_objects("a dogma, a doghouse, a busy underdog", VOCABULARY) == ()


def test_letters_of_other_scripts_that_fold_into_ours_are_no_error():
    assert find_objects("a buſ and a bus", VOCABULARY) == ("bus",)
    assert find_objects("a LİGHT", VOCABULARY) == ()


def test_an_empty_vocabulary_finds_nothing():
    assert find_objects("A dog.", {}) == ()
    assert claim_objects("A dog.", {}, lambda name: (True, None)) == Verdict(0.0)


def test_consistency_believes_what_enough_of_the_draws_name():
    """The greedy answer and those made to be rejected are judged, and have no vote: of four draws three say dog."""
    texts = ["A dog and a bus.", "A dog.", "A dog, a light.", "A light."]
    samples = [Sample("a", 0, "A bus.", "greedy"), *(Sample("a", k, text) for k, text in enumerate(texts, start=1))]
    samples.append(Sample("a", 5, "A dog on a bus.", "no_image"))
    prompt = Prompt("a", (), ())
    found = consistency.judge(prompt, samples, Context(VOCABULARY, agreement=0.75))
    shares = [{claim.text: (claim.is_true, claim.probability) for claim in verdict.claims} for verdict in found]
    dog, bus, lamp = (True, 0.75), (False, 0.25), (False, 0.5)
    assert shares == [
        {"bus": bus},
        {"dog": dog, "bus": bus},
        {"dog": dog},
        {"dog": dog, "lamp": lamp},
        {"lamp": lamp},
        {"dog": dog, "bus": bus},
    ]
    assert [verdict.score for verdict in found] == [-2, -1, 1, -1, -2, -1]
    believing = consistency.judge(prompt, samples, Context(VOCABULARY, agreement=0.5))
    assert [verdict.score for verdict in believing] == [-2, -1, 1, 2, 1, -1]


def test_consistency_without_draws_goes_by_what_there_is():
    samples = [Sample("a", 0, "A dog.", "greedy")]
    (verdict,) = consistency.judge(Prompt("a", (), ()), samples, Context(VOCABULARY))
    assert verdict == Verdict(1.0, (Claim("dog", True, 1.0, 0),))


def test_objects_that_are_one_text_are_no_list_of_letters():
    prompt = Prompt("a", (), (), {"objects": "dog, bus"}, "rows.jsonl, row 3")
    with pytest.raises(RowError, match=r"rows\.jsonl, row 3: `objects` is 'dog, bus': give a list of names"):
        objects.judge(prompt, [Sample("a", 1, "A dog.")], Context(VOCABULARY))
