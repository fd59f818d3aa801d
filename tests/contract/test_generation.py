"""What generation promises of every model family: prompts as in training, and answers that no neighbour changes."""

import base64
import copy
import io
import math
import re
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import picture, prepare
from PIL import Image
from tiny_models import MODELS, TinyModel
from transformers import Llama4TextConfig, TopPLogitsWarper

from mmdpo.data.tokenise import Renderer
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.questions import (
    GeneratedAnswer,
    GenerationSettings,
    Question,
    chat_request,
    chat_turns,
    load_image,
    render_prompt,
)
from mmdpo.generation.transformers import PromptReader, TransformersAnswerer
from mmdpo.generation.vllm import VllmAnswerer
from mmdpo.models.families import Family, find_family
from mmdpo.records import CHOSEN, ORIGINAL, REJECTED, Cell, PreferenceExample, RowError
from mmdpo.scoring.probe import ProbeError

WITH_TEMPLATE = [name for name in MODELS if name != "paligemma"]
SHORT = GenerationSettings(max_new_tokens=7)


def build(name: str) -> TinyModel:
    """Returns a model; Llama 4 with the published `floor_scale`, beyond which its answers depend on their batch."""
    tiny = MODELS[name]()
    if name != "llama4":
        return tiny
    model = copy.deepcopy(tiny.model)
    for layer in model.get_decoder().model.layers:
        layer.self_attn.floor_scale = Llama4TextConfig().floor_scale
    return replace(tiny, model=model)


@dataclass(frozen=True)
class InMemory:
    """A checkpoint whose model is here already."""

    tiny: TinyModel

    def load_renderer(self) -> Renderer:
        return Renderer(self.tiny.processor, find_family(self.tiny.model.config))

    def load(self) -> Any:
        return self.tiny.model


class ForVllm(InMemory):
    """The same, as vLLM is told of it."""

    options, dtype = CheckpointOptions(), "float32"
    start = SimpleNamespace(base="", revision="main", adapter=None)


def vllm_that_notes(given: list[dict[str, Any]]) -> Any:
    """Stands in for vLLM, and keeps what it is given: tokens and pictures of each prompt."""

    def generate(prompts: list[dict[str, Any]], *_: Any, **__: Any) -> list[Any]:
        given.extend({"tokens": prompt["prompt_token_ids"], **prompt["multi_modal_data"]} for prompt in prompts)
        said = SimpleNamespace(text="", finish_reason="stop", token_ids=[2], cumulative_logprob=None, logprobs=None)
        return [SimpleNamespace(prompt_token_ids=[1], outputs=[said]) for _ in prompts]

    model = SimpleNamespace(generate=generate)
    return SimpleNamespace(LLM=lambda **_: model, SamplingParams=lambda **_: None)


def questions() -> list[Question]:
    """Prompts and pictures of different lengths and shapes."""
    asked = [
        ("What?", picture(1, 40, 20)),
        ("Is there a red cup in the picture, or is it a dog that stands in the street?", picture(2, 18, 33)),
        ("Describe the scene.", picture(3, 30, 18)),
        ("What is in the picture?", picture(4, 20, 20)),
        ("Is the sky blue?", picture(5, 40, 20)),
    ]
    return [Question(str(number), text, image) for number, (text, image) in enumerate(asked)]


def conversations() -> list[Question]:
    """Several turns about two pictures, and the same about the pictures the other way round."""
    turns = (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A red cup."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is this a dog?"}]},
    )
    pictures = (picture(6, 30, 18), picture(7, 18, 33))
    return [Question("two", turns, pictures), Question("other way", turns, pictures[::-1])]


def answer(tiny: TinyModel, settings: GenerationSettings, batch_size: int) -> dict[str, str]:
    answerer = TransformersAnswerer(InMemory(tiny), batch_size=batch_size)  # type: ignore[arg-type]
    return {found.id: found.text for found in answerer.answer(questions(), settings)}


@pytest.mark.parametrize("name", WITH_TEMPLATE)
class TestWhatIsReadAtTheEndOfAPrompt:
    """Of prompts with a picture and without one, in batches as they come, against plain forwards of each alone."""

    def asked(self):
        return [*questions(), *(replace(question, id=f"{question.id}-", image=None) for question in questions())]

    def plain(self, tiny, question):
        inputs = PromptReader(InMemory(tiny).load_renderer(), SHORT)([question])
        with torch.no_grad():
            return tiny.model(**inputs, output_hidden_states=True, use_cache=False)

    def answerer(self, tiny):
        return TransformersAnswerer(InMemory(tiny), batch_size=3)  # type: ignore[arg-type]

    def test_questions_without_a_picture_are_answered_as_they_are_alone(self, name):
        tiny = build(name)
        together = {found.id: found.text for found in self.answerer(tiny).answer(self.asked(), SHORT)}
        assert len(together) == 10
        for question in self.asked()[3:7]:
            alone = next(iter(self.answerer(tiny).answer([question], SHORT)))
            assert together[question.id] == alone.text

    def test_options_are_scored_as_first_words_of_the_answer(self, name):
        tiny = build(name)
        renderer = InMemory(tiny).load_renderer()
        scores = dict(self.answerer(tiny).score_options(self.asked(), ["A", "B", "no"], SHORT))
        for question in self.asked():
            prompt = render_prompt(question, SHORT, renderer)
            tokens = [renderer.answer_ids(prompt, option)[0] for option in ("A", "B", "no")]
            expected = self.plain(tiny, question).logits[0, -1].float().log_softmax(-1)[tokens]
            torch.testing.assert_close(scores[question.id], expected, atol=1e-5, rtol=1e-5)

    def test_states_are_those_of_a_plain_forward(self, name):
        tiny = build(name)
        states = self.answerer(tiny).read_last_states(self.asked(), SHORT)
        for place, question in enumerate(self.asked()):
            plain = self.plain(tiny, question).hidden_states  # Gemma 3n has several streams of them
            expected = torch.stack([(state if state.dim() == 3 else state[0])[0, -1] for state in plain])
            torch.testing.assert_close(states[place], expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_neighbour_changes_no_answer_and_pictures_are_seen_in_their_order(name):
    tiny = build(name)
    alone, among = (TransformersAnswerer(InMemory(tiny), batch_size=size) for size in (1, 4))  # type: ignore[arg-type]
    asked = [*questions(), *conversations()]
    expected = {found.id: found.text for found in alone.answer(asked, SHORT)}
    assert {found.id: found.text for found in among.answer(asked, SHORT)} == expected
    assert len(set(expected.values())) > 1  # else nothing would show that pictures and words are read
    one, other = (alone.score_options([question], ["A", "B", "no"], SHORT) for question in conversations())
    assert not torch.allclose(next(one)[1], next(other)[1], atol=1e-3)


def test_a_model_whose_answers_depend_on_their_neighbours_is_stopped_with_both_numbers():
    tiny = MODELS["llava_1_5"]()
    model = copy.deepcopy(tiny.model)
    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))

    def look_at_all(_: Any, args: Any, kwargs: Any) -> Any:
        pixels = args[0] if args else kwargs.pop("pixel_values")
        return (pixels + pixels.mean(0, keepdim=True), *args[1:]), kwargs

    tower.register_forward_pre_hook(look_at_all, with_kwargs=True)
    changed = replace(tiny, model=model)
    with pytest.raises(ProbeError, match=r"log π = -\d+\.\d{4} beside another question and -\d+\.\d{4} alone"):
        answer(changed, SHORT, 4)
    assert len(answer(changed, SHORT, 1)) == len(questions())
    answerer = TransformersAnswerer(InMemory(changed), batch_size=4, probe=False)  # type: ignore[arg-type]
    assert len(list(answerer.answer(questions(), SHORT))) == len(questions())


def test_llama_4_counts_padding_beyond_its_floor_and_is_stopped():
    with pytest.raises(ProbeError, match="what Llama4ForConditionalGeneration says depends on what else"):
        answer(MODELS["llama4"](), SHORT, 4)


@pytest.mark.parametrize(
    ("settings", "loses"), [({"temperature": 1.0}, True), ({"top_logprobs": 2}, True), ({}, False)]
)
def test_a_class_that_loses_logits_processors_is_refused_where_they_are_needed(monkeypatch, settings, loses):
    """Janus' own `generate` does; its family calls that of all others."""
    tiny = MODELS["janus"]()
    monkeypatch.setattr(type(find_family(tiny.model.config)), "generate", Family.generate)
    settings = GenerationSettings(max_new_tokens=7, **settings)
    if not loses:
        assert len(answer(tiny, settings, 4)) == 5
        return
    with pytest.raises(ValueError, match=r"JanusForConditionalGeneration\.generate loses logits_processor"):
        answer(tiny, settings, 4)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_prompt_is_that_of_training(name):
    tiny = build(name)
    reader = PromptReader(InMemory(tiny).load_renderer(), SHORT)
    asked = [*questions(), *conversations()]
    inputs = reader(asked)
    for place, question in enumerate(asked):
        example = PreferenceExample(
            question.id, chat_turns(question, SHORT), {CHOSEN: "A cup.", REJECTED: "A dog."}, question.images
        )
        _, batch = prepare(tiny, [example], (Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED)))
        real = inputs["attention_mask"][place].bool()
        trained = batch["prompt_ids"][0][batch["prompt_mask"][0]]
        # Behind it there may be a mark that generation alone begins with.
        assert inputs["input_ids"][place][real][: len(trained)].tolist() == trained.tolist()
        assert real.int().diff().min() >= 0  # padding stands in front of all, and nowhere else
        for kind, types in batch["token_types"].items():
            if kind in inputs:
                assert inputs[kind][place][real][: len(trained)].tolist() == types[0][: len(trained)].tolist(), kind


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_three_ways_of_asking_give_one_prompt(name, monkeypatch):
    """What the three hand over differs (tensors, tokens, turns); the tokens of text that a model then reads do not."""
    tiny, asked = build(name), [*questions()[:2], *conversations()]
    renderer = InMemory(tiny).load_renderer()
    given: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "vllm", vllm_that_notes(given))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=None))
    list(VllmAnswerer(ForVllm(tiny)).answer(asked, SHORT))  # type: ignore[arg-type]
    by_vllm = {b"".join(map(Image.Image.tobytes, as_list(each["image"]))): each["tokens"] for each in given}
    for question in asked:
        read = PromptReader(renderer, SHORT)([question])["input_ids"][0].tolist()
        request = chat_request(question, SHORT)
        pictures = []
        for part in (part for turn in request for part in turn["content"] if part["type"] == "image_url"):
            url = part.pop("image_url")["url"]
            part["type"] = "image"  # a server puts the picture there and applies the model's template
            pictures.append(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
        served = tiny.processor.apply_chat_template(request, add_generation_prompt=True, tokenize=False)
        assert [each.tobytes() for each in pictures] == [each.tobytes() for each in question.images]
        tokens = by_vllm[b"".join(map(Image.Image.tobytes, pictures))]
        assert tokens == renderer.prompt_ids(served)
        # Processors write many tokens, and marks around them, in the place of one: before and behind them all is alike.
        mark = renderer.tokenizer(tiny.placeholder, add_special_tokens=False)["input_ids"]
        places = [k for k in range(len(tokens)) if tokens[k : k + len(mark)] == mark]
        assert len(places) == len(pictures)
        before, behind = tokens[: places[0]], tokens[places[-1] + len(mark) :]
        assert (read[: len(before)], read[-len(behind) :]) == (before, behind)
        words = question.prompt if isinstance(question.prompt, str) else question.prompt[-1]["content"][-1]["text"]
        assert words in renderer.tokenizer.decode(behind)


def as_list(images: Any) -> list[Any]:
    return images if isinstance(images, list) else [images]


def test_turns_with_another_number_of_places_than_pictures_are_an_error():
    question = replace(conversations()[0], image=picture(1, 8, 8))
    for ask in (chat_turns, chat_request):
        with pytest.raises(RowError, match="item two: its turns have 2 places for 1 images"):
            ask(question, SHORT)


def test_beams_and_samples_need_no_neighbour_either():
    tiny = MODELS["llava_1_5"]()
    beams = GenerationSettings(max_new_tokens=7, num_beams=3)
    assert answer(tiny, beams, 1) == answer(tiny, beams, 4) != answer(tiny, SHORT, 1)
    sampled = GenerationSettings(max_new_tokens=7, temperature=3.0, seed=1)
    before = torch.random.get_rng_state()
    assert answer(tiny, sampled, 4) == answer(tiny, sampled, 4) != answer(tiny, SHORT, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert answer(tiny, GenerationSettings(max_new_tokens=7, temperature=3.0, seed=2), 4) != answer(tiny, sampled, 4)


def test_pictures_can_be_read_by_workers():
    tiny = MODELS["llava_1_5"]()
    answerer = TransformersAnswerer(InMemory(tiny), batch_size=2, workers=2)  # type: ignore[arg-type]
    assert {found.id: found.text for found in answerer.answer(questions(), SHORT)} == answer(tiny, SHORT, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_behind_the_answers_before_it(workers, tmp_path):
    picture(1, 8, 8).save(tmp_path / "whole.png")
    picture(1, 80, 80).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:100])
    asked = [Question("good", "What is it, then?", tmp_path / "whole.png"), Question("bad", "?", tmp_path / "cut.png")]
    answerer = TransformersAnswerer(InMemory(MODELS["llava_1_5"]()), batch_size=1, workers=workers)  # type: ignore[arg-type]
    answers = answerer.answer(asked, SHORT)
    assert next(answers).id == "good"
    with pytest.raises(RowError, match=r"^item bad: image file .*cut\.png cannot be read"):
        next(answers)


def test_a_processor_without_a_template_is_an_error():
    with pytest.raises(RowError, match=r"no chat template.*--chat_template"):
        answer(MODELS["paligemma"](), SHORT, 2)


def test_a_batch_too_large_for_the_memory_is_halved(monkeypatch):
    tiny, sizes = MODELS["llava_1_5"](), []
    expected = answer(tiny, SHORT, 4)
    generate = type(tiny.model).generate

    def scarce(model, **inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(model, **inputs)

    monkeypatch.setattr(type(tiny.model), "generate", scarce)
    assert answer(tiny, SHORT, 5) == expected
    assert sizes[:3] == [2, 1, 1]  # the probe
    assert sizes[3:] == [5, 2, 1, 2]  # the second half has three, which is known to be too many

    def broken(model, **inputs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(type(tiny.model), "generate", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        answer(tiny, SHORT, 5)

    def full(model, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(tiny.model), "generate", full)
    with pytest.raises(ValueError, match="item 1 alone does not fit into memory"):
        answer(tiny, SHORT, 5)


# -- several answers to one prompt ------------------------------------------------------------------------------------

SAMPLED = GenerationSettings(max_new_tokens=7, temperature=1.3, top_p=0.9, top_logprobs=3)


def repeated() -> list[Question]:
    """Three answers to each of three questions with pictures, one of two turns, and of one without; not in order."""
    asked = [*questions()[:2], conversations()[0], replace(questions()[2], image=None)]
    return [replace(question, id=f"{question.id}.{k}", seed=k) for k in range(3) for question in asked]


def tell(answerer: TransformersAnswerer, asked: list[Question], settings: GenerationSettings = SAMPLED) -> Any:
    return {found.id: found for found in answerer.answer(asked, settings)}


def answerer_of(tiny: TinyModel, batch_size: int, *, reads_once: bool | None = None) -> TransformersAnswerer:
    made = TransformersAnswerer(InMemory(tiny), batch_size=batch_size)  # type: ignore[arg-type]
    made._reads_once = reads_once
    return made


@pytest.mark.parametrize("name", WITH_TEMPLATE)
class TestPromptsAreReadOnce:
    def test_samples_are_those_of_prompts_that_are_read_each_time(self, name, monkeypatch):
        tiny, opened = build(name), []
        monkeypatch.setattr("mmdpo.generation.reading_once.ROOM", 2)  # so that copies have to be made wider too
        monkeypatch.setattr(
            "mmdpo.generation.transformers.load_image", lambda image: opened.append(image) or load_image(image)
        )
        once = answerer_of(tiny, 5)  # cuts the three answers to one of the prompts apart
        found, expected = tell(once, repeated()), tell(answerer_of(tiny, 5, reads_once=False), repeated())
        assert once._reads_once is True
        for key, answer in expected.items():
            assert_same(found[key], answer)
        assert len({answer.text for answer in found.values()}) > 6
        opened.clear()
        tell(once, repeated(), replace(SAMPLED, max_new_tokens=1))
        assert len(opened) == 5  # of two prompts one picture, one of them twice, and of another one two

    def test_logprobs_are_those_of_plain_forwards(self, name, monkeypatch):
        tiny = build(name)
        family = type(find_family(tiny.model.config))
        generate = family.generate

        def noting(self, model, **inputs):
            output = generate(self, model, **inputs)
            if isinstance(output, torch.Tensor):  # of the call that goes on from copies
                rows.extend(row[inputs["input_ids"].shape[1] :] for row in output)
            return output

        monkeypatch.setattr(family, "generate", noting)
        rows: list[torch.Tensor] = []
        answers = list(answerer_of(tiny, 5).answer(repeated(), SAMPLED))
        mark = tiny.processor.tokenizer(tiny.placeholder, add_special_tokens=False)["input_ids"]
        mark.append(tiny.model.config.image_token_id)
        compared = 0
        for answer, row in zip(answers, rows, strict=True):
            question = next(question for question in repeated() if question.id == answer.id)
            inputs = PromptReader(InMemory(tiny).load_renderer(), SAMPLED)([question])
            tokens = row[: answer.details["tokens"]]
            length = inputs["input_ids"].shape[1]
            assert length == answer.details["prompt_tokens"]
            if any(token in tokens for token in mark):
                continue  # a plain forward would look for a picture there
            compared += 1
            with torch.no_grad():
                logits = tiny.model(**lengthen(inputs, tokens), use_cache=False).logits[0, length - 1 : -1].float()
            scores = TopPLogitsWarper(0.9)(None, logits / 1.3)  # type: ignore[arg-type]
            expected = scores.log_softmax(-1).gather(1, tokens[:, None]).sum()
            assert answer.details["logprob"] == pytest.approx(float(expected), abs=1e-4)
            likely, tokens = logits[0].log_softmax(-1).topk(3)
            texts = [tiny.processor.tokenizer.decode([token]) for token in tokens.tolist()]
            shares = dict.fromkeys(texts, 0.0)
            for text, logprob in zip(texts, likely.tolist(), strict=True):
                shares[text] += math.exp(logprob)
            said = {text: math.exp(logprob) for text, logprob in answer.details["top_logprobs"].items()}
            assert said == pytest.approx(shares, abs=1e-5)
        assert compared >= 6


def assert_same(found: GeneratedAnswer, expected: GeneratedAnswer) -> None:
    assert found.text == expected.text
    ours, theirs = ({**each.details, **each.details["top_logprobs"]} for each in (found, expected))
    assert ours.pop("top_logprobs").keys() == theirs.pop("top_logprobs").keys()
    assert ours == pytest.approx(theirs, abs=1e-4)


def lengthen(inputs: Any, tokens: torch.Tensor) -> dict[str, Any]:
    """Returns a prompt's inputs with an answer behind it; types of text are 0."""
    longer, shape = dict(inputs), inputs["input_ids"].shape
    for key, values in inputs.items():
        if isinstance(values, torch.Tensor) and values.shape == shape:
            fill = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}.get(key, torch.zeros_like(tokens))
            longer[key] = torch.cat([values, fill[None].to(values.dtype)], dim=1)
    return longer


def with_hook(tiny: TinyModel, hook: Any) -> TinyModel:
    """Returns a copy whose decoder layers are hooked."""
    model = copy.deepcopy(tiny.model)
    for layer in model.get_decoder().layers:
        layer.register_forward_hook(hook)
    return replace(tiny, model=model)


class TestModelsThatCannotGoOnFromCopies:
    def check(self, tiny, caplog, why):
        expected = tell(answerer_of(tiny, 8, reads_once=False), repeated())
        answerer = answerer_of(tiny, 8)
        for _ in range(2):
            found = tell(answerer, repeated())
            assert {key: answer.text for key, answer in found.items()} == {k: a.text for k, a in expected.items()}
        assert answerer._reads_once is False
        (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("mmdpo")]
        assert re.fullmatch(f"prompts that are asked several times are read each time: LlavaFor.* {why}.*", said)

    def test_one_that_reads_a_single_token_otherwise(self, caplog):
        def louder(_: Any, __: Any, output: Any) -> Any:
            return output * 1.1 if output.shape[1] == 1 else output

        tiny = with_hook(MODELS["llava_1_5"](), louder)
        self.check(tiny, caplog, r"begins an answer 0\.\d+ nats a token apart .* rounding to float32 explains 0.001")

    def test_one_with_a_cache_that_is_not_copied(self, caplog, monkeypatch):
        def refuse(*_: Any) -> None:
            raise NotImplementedError("no beams\nhere")

        monkeypatch.setattr("mmdpo.generation.reading_once.RoomyLayer", refuse)
        self.check(MODELS["llava_1_5"](), caplog, r"cannot go on from .* \(NotImplementedError: no beams\)")

    def test_one_without_a_cache(self, caplog):
        tiny = MODELS["llava_1_5"]()
        tiny = replace(tiny, model=copy.deepcopy(tiny.model))
        tiny.model.generation_config.use_cache = False
        self.check(tiny, caplog, r"cannot go on from .* \(ValueError: it keeps no cache of the prompt's tokens\)")


def test_beams_are_searched_for_each_question():
    beams = GenerationSettings(max_new_tokens=7, num_beams=3, top_logprobs=2)
    tiny = MODELS["llava_1_5"]()
    answerer = answerer_of(tiny, 8, reads_once=True)
    found = tell(answerer, repeated(), beams)
    for question in repeated()[:4]:
        assert_same(found[question.id], tell(answerer_of(tiny, 1), [question], beams)[question.id])


def test_answers_to_one_prompt_that_are_too_many_for_the_memory_are_halved(monkeypatch):
    tiny, sizes = MODELS["llava_1_5"](), []
    asked = [question for question in repeated() if question.id[0] in "01"]
    expected, answerer = tell(answerer_of(tiny, 8), asked), answerer_of(tiny, 8, reads_once=True)
    answerer._is_tried = True
    generate = type(tiny.model).generate

    def scarce(model, **inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(model, **inputs)

    monkeypatch.setattr(type(tiny.model), "generate", scarce)
    found = tell(answerer, asked)
    assert {key: answer.text for key, answer in found.items()} == {k: answer.text for k, answer in expected.items()}
    assert sizes == [2, 6, 1, 3, 1, 3]  # two prompts, six answers; then one prompt and three answers each


def test_an_answer_that_is_begun_is_gone_on_from():
    tiny = MODELS["llava_1_5"]()
    asked = [replace(question, id=f"{question.id}.begun", begun="There is a") for question in questions()]
    found = tell(answerer_of(tiny, 3), [*questions(), *asked], SHORT)
    reader = PromptReader(InMemory(tiny).load_renderer(), SHORT)
    for question, begun in zip(questions(), asked, strict=True):
        answer = found[begun.id]
        assert answer.text.startswith("There is a")
        assert answer.text != found[question.id].text
        ids = reader([begun])["input_ids"][0].tolist()
        trained = reader.renderer.answer_ids(render_prompt(question, SHORT, reader.renderer), " There is a")
        assert ids[-len(trained) :] == trained
        assert answer.details["prompt_tokens"] == len(ids)
