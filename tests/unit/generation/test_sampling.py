"""Samples: distributed as the sampler says, and each a function of its prompt and seed alone."""

import math
import random
from collections import Counter

import pytest
import torch

from mmdpo.benchmarks.tasks._world import WorldBenchmark
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import GenerationSettings, Question, merge_logprobs
from mmdpo.generation.sampling import FirstTokens, SeededDraw, draw_noise
from mmdpo.generation.transformers import TransformersAnswerer, _Generator
from mmdpo.records import derive_seed
from mmdpo.world import SMALL
from mmdpo.world.scenes import render

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.5, -1.0, -3.0, 0.0, float("-inf")])
DRAWS = 20_000
PICTURES = [render(scene) for scene in WorldBenchmark(SMALL).scenes[:3]]
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=1.0, top_logprobs=5)


def draw(settings, seeds, steps=1):
    """Returns the tokens of rows that all have the same logits."""
    sampler, ids = SeededDraw(seeds, settings), torch.zeros(len(seeds), 1, dtype=torch.long)
    for _ in range(steps):
        ids = torch.cat([ids, sampler(ids, LOGITS.repeat(len(seeds), 1)).argmax(-1, keepdim=True)], dim=1)
    return ids[:, 1:], sampler


def chisquare(counts, expected):
    from scipy import stats  # which takes half a second to import

    return stats.chisquare(counts, expected)


def assert_drawn_from(tokens, probabilities):
    counts = torch.bincount(tokens.flatten(), minlength=len(probabilities)).double()
    assert counts[probabilities == 0].sum() == 0
    kept = probabilities > 0
    expected = probabilities[kept].double()
    assert chisquare(counts[kept], expected / expected.sum() * counts.sum()).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("seeds", [range(DRAWS), [derive_seed(0, str(k), "answer") for k in range(DRAWS)]], ids=len)
def test_tokens_are_drawn_at_their_temperature_in_every_step(temperature, seeds):
    tokens, _ = draw(GenerationSettings(temperature=temperature), seeds, steps=3)
    for step in tokens.T:
        assert_drawn_from(step, (LOGITS / temperature).softmax(-1))
    # A token says nothing of the next one, nor a seed of the next one.
    pairs = tokens[:, 0] * len(LOGITS) + tokens[:, 1]
    single = (LOGITS / temperature).softmax(-1)
    assert_drawn_from(pairs, torch.outer(single, single).flatten())
    assert_drawn_from(tokens[:-1, 0] * len(LOGITS) + tokens[1:, 0], torch.outer(single, single).flatten())


def test_what_top_p_cuts_off_is_never_drawn():
    tokens, sampler = draw(GenerationSettings(temperature=2.0, top_p=0.7), range(DRAWS))
    warm = (LOGITS / 2).softmax(-1)
    kept = torch.tensor([True, True, True, True, False, False, False, False])
    assert warm[:3].sum() < 0.7 < warm[:4].sum()
    cut = torch.where(kept, warm, torch.zeros(())) / warm[kept].sum()
    assert_drawn_from(tokens, cut)
    assert sampler.sum_logprobs([1] * DRAWS) == pytest.approx(cut.log()[tokens[:, 0]].tolist(), abs=1e-5)


def test_log_probability_is_that_of_the_counted_tokens():
    tokens, sampler = draw(GenerationSettings(temperature=1.7), range(5), steps=4)
    each = (LOGITS / 1.7).log_softmax(-1)[tokens]
    counts = [1, 2, 3, 4, 4]
    expected = [float(row[:count].sum()) for row, count in zip(each, counts, strict=True)]
    assert sampler.sum_logprobs(counts) == pytest.approx(expected, abs=1e-5)


def test_noise_is_a_function_of_seed_step_and_token():
    seeds = torch.tensor([0, 1, -1, 2**62])
    noise = draw_noise(seeds, 3, 50_000)
    assert noise.isfinite().all()
    assert torch.equal(draw_noise(seeds[2:], 3, 100), noise[2:, :100])
    assert not torch.isclose(draw_noise(seeds, 4, 100), noise[:, :100]).any()
    assert noise.mean(dim=1) == pytest.approx([0.5772] * 4, abs=0.02)
    assert noise.var(dim=1) == pytest.approx([math.pi**2 / 6] * 4, abs=0.05)
    assert noise.max() > 9  # the largest of so many
    assert (torch.corrcoef(noise) - torch.eye(4)).abs().max() < 0.02


def test_any_whole_number_is_a_seed():
    kinds = [0, -1, 2**63, 2**64 - 2, 10**30]
    ids = torch.zeros(5, 1, dtype=torch.long)
    noise = SeededDraw(kinds, GenerationSettings(temperature=1.0))(ids, torch.zeros(5, 100))
    assert len({tuple(row.tolist()) for row in noise}) == 5


def test_equal_texts_are_added():
    merged = merge_logprobs([("no", math.log(0.3)), ("yes", math.log(0.2)), ("yes", math.log(0.2)), ("x", -math.inf)])
    assert list(merged) == ["yes", "no"]
    assert merged == pytest.approx({"yes": math.log(0.4), "no": math.log(0.3)})
    assert merge_logprobs([("far", -5000.0), ("far", -5000.0)]) == pytest.approx({"far": -5000 + math.log(2)})


def test_first_tokens_of_beams_are_those_of_the_first_beam():
    first = FirstTokens(num_beams=2)
    scores = torch.randn(4, 6)
    assert torch.equal(first(torch.zeros(4, 1, dtype=torch.long), scores), scores)
    first(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 6))
    assert torch.equal(first.logprobs, scores[::2].log_softmax(-1))


# -- the embedded world -----------------------------------------------------------------------------------------------


def world(batch_size):
    return TransformersAnswerer(Checkpoint("world"), batch_size=batch_size)


def questions(count=8):
    return [Question(f"{p}.{k}", "describe", PICTURES[p], seed=k) for p in range(len(PICTURES)) for k in range(count)]


def say(answerer, asked, settings=SAMPLED):
    return {found.id: found for found in answerer.answer(asked, settings)}


@pytest.fixture(scope="module")
def said():
    return say(world(8), questions())


def test_seeds_give_different_answers(said):
    for picture in range(len(PICTURES)):
        assert len({said[f"{picture}.{k}"].text for k in range(8)}) >= 4


@pytest.mark.parametrize("batch_size", [1, pytest.param(3, marks=pytest.mark.slow), 24])
@pytest.mark.parametrize("which", ["all", "shuffled", "some"])
def test_an_answer_depends_on_nothing_else_that_is_asked(said, batch_size, which):
    asked = questions()
    if which != "all":
        random.Random(4).shuffle(asked)
    found = say(world(batch_size), asked[:7] if which == "some" else asked)
    for key, answer in found.items():
        assert answer.text == said[key].text
        assert answer.details["tokens"] == said[key].details["tokens"]
        assert answer.details["logprob"] == pytest.approx(said[key].details["logprob"], abs=1e-4)


def test_seeds_are_derived_from_the_settings_and_the_id(said):
    without = [Question(str(k), "describe", PICTURES[0]) for k in range(8)]
    first, again = (say(world(size), without) for size in (8, 2))
    assert {key: answer.text for key, answer in first.items()} == {key: answer.text for key, answer in again.items()}
    assert len({answer.text for answer in first.values()}) >= 4
    other = say(world(8), without, GenerationSettings(max_new_tokens=24, temperature=1.0, seed=1))
    assert sum(other[key].text == answer.text for key, answer in first.items()) < 8
    given = Question("0", "describe", PICTURES[0], seed=derive_seed(0, "0", "generation"))
    assert say(world(1), [given])["0"].text == first["0"].text


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (2.0, 0.8)])
def test_first_tokens_are_drawn_from_the_model(temperature, top_p):
    settings = GenerationSettings(max_new_tokens=1, temperature=temperature, top_p=top_p)
    answerer = world(600)
    asked = [Question(str(k), "describe", PICTURES[1], seed=k) for k in range(3000)]
    counts = Counter(answer.text for answer in answerer.answer(asked, settings))
    reader = answerer._make_reader(settings)
    scores = _Generator(answerer._model, reader).begin(asked[:1])[0] / temperature
    likely, tokens = scores.softmax(-1).sort(descending=True)
    kept = likely.cumsum(-1) - likely < top_p
    shares = Counter()
    for share, token in zip((likely[kept] / likely[kept].sum()).tolist(), tokens[kept].tolist(), strict=True):
        shares[reader.renderer.tokenizer.decode([token], skip_special_tokens=True).strip()] += share
    assert not counts.keys() - shares.keys()
    assert 0.5 * sum(abs(counts[text] / 3000 - share) for text, share in shares.items()) < 0.04
    frequent = [text for text, share in shares.items() if share * 3000 > 5]
    found = [counts[text] for text in frequent]
    expected = torch.tensor([shares[text] for text in frequent], dtype=torch.float64)
    assert chisquare(found, (expected / expected.sum() * sum(found)).numpy()).pvalue > 1e-3


def test_a_greedy_answer_says_how_long_it_is_and_how_it_might_have_begun():
    settings = GenerationSettings(max_new_tokens=24, top_logprobs=4)
    (answer,) = say(world(1), questions(1)[:1], settings).values()
    assert answer.details.keys() == {"finish_reason", "tokens", "prompt_tokens", "top_logprobs"}
    tokenizer = Checkpoint("world").load_renderer().tokenizer
    assert answer.details["tokens"] == len(tokenizer(answer.text)["input_ids"]) + 1  # and the end
    likeliest = answer.details["top_logprobs"]
    assert len(likeliest) == 4
    assert answer.text.startswith(next(iter(likeliest)))
    assert list(likeliest.values()) == sorted(likeliest.values(), reverse=True)
    assert 0.5 < sum(map(math.exp, likeliest.values())) <= 1
    (short,) = say(world(1), questions(1)[:1], GenerationSettings(max_new_tokens=2)).values()
    assert (short.details["finish_reason"], short.details["tokens"]) == ("length", 2)


def test_a_greedy_answer_is_gone_on_from_to_the_same_end():
    asked, settings = questions(1), GenerationSettings(max_new_tokens=24)
    whole = say(world(3), asked, settings)
    starts = {key: " ".join(answer.text.split()[:3]) for key, answer in whole.items()}
    begun = [Question(each.id, each.prompt, each.image, begun=starts[each.id]) for each in asked]
    for key, answer in say(world(3), begun, settings).items():
        assert answer.text == whole[key].text
        assert answer.details["tokens"] == whole[key].details["tokens"] - 3
        assert answer.details["prompt_tokens"] == whole[key].details["prompt_tokens"] + 3


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    say(world(4), questions(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_equal_prompts_share_a_batch_whatever_the_order_is():
    asked = questions(4)
    random.Random(1).shuffle(asked)
    batches = world(4)._make_batches([*asked, Question("words", "describe")])
    assert [len({question.id.partition(".")[0] for question in batch}) for batch in batches] == [1, 1, 1, 1]
    assert [len(batch) for batch in batches] == [4, 4, 4, 1]
