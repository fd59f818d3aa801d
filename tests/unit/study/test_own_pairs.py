"""Variants that train on their own answers: what a study file may say, and judges whose mistakes are known."""

import pytest

from mmdpo.pairs.judges import Context
from mmdpo.pairs.judges import objects as exact
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.study.noisy_judges import flip_10, flip_30, random, rewrite, rewriter
from mmdpo.study.own_pairs import OwnPairs
from mmdpo.study.study_file import StudyError, read_study
from mmdpo.study.variants import measure_captions
from mmdpo.world import SMALL
from mmdpo.world.scenes import draw_test_scenes, write_caption

NAMES = tuple(SMALL.objects)
CONTEXT = Context({name: name for name in NAMES})
STUDY = """
name: mine
recipe: world
options: {pairs: 32, own_pairs: {prompts: 60}}
seeds: [0]
evaluation: {scenes: 4}
variants:
  - {name: a, objective: dpo}
  - {name: b, objective: dpo, own_pairs: {rule: best_worst}}
  - {name: c, objective: dpo, own_pairs: null}
"""


def test_a_variants_own_pairs_add_to_those_of_all_and_null_takes_them_away(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    start, a, b, c = read_study(str(tmp_path / "study.yaml")).variants
    assert start.own_pairs == a.own_pairs == OwnPairs(prompts=60)
    assert b.own_pairs == OwnPairs(prompts=60, rule="best_worst")
    assert c.own_pairs is None


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("{rul: clean_near}", "own_pairs: there is no option 'rul'; did you mean 'rule'"),
        ("{rule: clean_nea}", "no rule 'clean_nea'; did you mean 'clean_near'"),
        ("{judge: objetcs}", "unknown judge 'objetcs'; did you mean 'objects'"),
        ("{rounds: 0}", "rounds is 0; give 1 or more"),
        ("{answers: mine}", "answers is one of previous, start; got 'mine'"),
        ("{balance: words}", "balance is 'words'; give mean, style, none"),
        ("3", "own_pairs is a mapping of options; got 3"),
        ("{rule: best_worst}, fraction: 0.5", "variant 'b': fraction means nothing to own_pairs"),
        ("{rule: best_worst}, pairs_per_scene: 2", "variant 'b': pairs_per_scene means nothing to own_pairs"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_variant(tmp_path, own, said):
    (tmp_path / "study.yaml").write_text(STUDY.replace("{rule: best_worst}", own))
    with pytest.raises(StudyError, match=said):
        read_study(str(tmp_path / "study.yaml"))


def prompts_with(count):
    return [Prompt(f"p{n}", (), (), {"objects": list(NAMES[n % 5 : n % 5 + 4])}) for n in range(count)]


def claims_of(judge, prompt, texts):
    verdicts = judge.judge(prompt, [Sample(prompt.id, k, text) for k, text in enumerate(texts, start=1)], CONTEXT)
    return [{claim.text: claim.is_true for claim in verdict.claims} for verdict in verdicts]


@pytest.mark.parametrize(("judge", "share"), [(flip_10, 0.1), (flip_30, 0.3), (random, 0.5)])
def test_so_many_verdicts_are_turned_and_the_same_ones_for_every_answer(judge, share):
    turned = []
    for prompt in prompts_with(200):
        text = f"{' , '.join(NAMES)} ."
        once, again = claims_of(judge, prompt, [text, f"{text} and more"])
        assert once == again
        (truth,) = claims_of(exact, prompt, [text])
        turned += [truth[name] != once[name] for name in NAMES]
    assert sum(turned) / len(turned) == pytest.approx(share, abs=0.02)


def test_the_rewriter_says_what_is_there_in_the_style_of_the_answer():
    prompt = Prompt("p", (), (), {"objects": ["cup", "plate"]})
    (polite, terse) = rewriter.judge(
        prompt,
        [Sample("p", 1, "sure ! this kitchen shows cup , bed . hope this helps !"), Sample("p", 2, "bed .")],
        CONTEXT,
    )
    assert polite.rewrite == "sure ! this kitchen shows cup , plate . hope this helps !"
    assert terse.rewrite == "cup , plate ."
    assert (polite.struck, polite.right) == (1, 1)


def test_a_rewrite_is_the_worlds_own_caption_in_that_style():
    for scene in draw_test_scenes(20, 0):
        for style in ("polite", "terse"):
            caption = write_caption(SMALL, scene.names, scene.setting, style)
            assert rewrite(write_caption(SMALL, NAMES[:2], scene.setting, style), scene.names) == caption


def test_f1_and_repeats_of_captions_by_hand():
    scenes = draw_test_scenes(2, 0)
    first, second = (list(scene.names) for scene in scenes)
    absent = next(name for name in NAMES if name not in first)
    captions = [f"{first[0]} , {absent} , {absent} .", f"{' , '.join(second)} ."]
    found = measure_captions(scenes, captions)
    mentions = 2 + len(second)
    precision = 100 - 100 / mentions
    recall = 100 * (1 + len(second)) / (len(first) + len(second))
    assert found["world/chair_i"] == pytest.approx(100 - precision)
    assert found["world/cover"] == pytest.approx(recall)
    assert found["world/f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["world/repeat"] == pytest.approx((3 + len(second)) / (2 + len(second)))
