"""What generation promises of every model family: prompts as in training, and answers that no neighbour changes."""

import base64
import copy
import io
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import picture, prepare
from PIL import Image
from tiny_models import MODELS, TinyModel

from mmdpo.data.tokenise import Renderer
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.questions import GenerationSettings, Question, chat_request, chat_turns, render_prompt
from mmdpo.generation.transformers import PromptReader, TransformersAnswerer
from mmdpo.generation.vllm import VllmAnswerer
from mmdpo.models.families import find_family
from mmdpo.records import CHOSEN, ORIGINAL, REJECTED, Cell, PreferenceExample, RowError
from mmdpo.scoring.probe import ProbeError

WITH_TEMPLATE = [name for name in MODELS if name != "paligemma"]
SHORT = GenerationSettings(max_new_tokens=7)


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
    """Stands in for vLLM, and keeps what it is given: tokens and picture of each prompt."""

    def generate(prompts: list[dict[str, Any]], *_: Any, **__: Any) -> list[Any]:
        given.extend({"tokens": prompt["prompt_token_ids"], **prompt["multi_modal_data"]} for prompt in prompts)
        return [SimpleNamespace(outputs=[SimpleNamespace(text="", finish_reason="stop")]) for _ in prompts]

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
        tiny = MODELS[name]()
        together = {found.id: found.text for found in self.answerer(tiny).answer(self.asked(), SHORT)}
        assert len(together) == 10
        for question in self.asked()[3:7]:
            alone = next(iter(self.answerer(tiny).answer([question], SHORT)))
            assert together[question.id] == alone.text

    def test_options_are_scored_as_first_words_of_the_answer(self, name):
        tiny = MODELS[name]()
        renderer = InMemory(tiny).load_renderer()
        scores = dict(self.answerer(tiny).score_options(self.asked(), ["A", "B", "no"], SHORT))
        for question in self.asked():
            prompt = render_prompt(question, SHORT, renderer)
            tokens = [renderer.answer_ids(prompt, option)[0] for option in ("A", "B", "no")]
            expected = self.plain(tiny, question).logits[0, -1].float().log_softmax(-1)[tokens]
            torch.testing.assert_close(scores[question.id], expected, atol=1e-5, rtol=1e-5)

    def test_states_are_those_of_a_plain_forward(self, name):
        tiny = MODELS[name]()
        states = self.answerer(tiny).read_last_states(self.asked(), SHORT)
        for place, question in enumerate(self.asked()):
            expected = torch.stack([state[0, -1] for state in self.plain(tiny, question).hidden_states])
            torch.testing.assert_close(states[place], expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_neighbour_changes_no_answer(name):
    tiny = MODELS[name]()
    alone, together = answer(tiny, SHORT, 1), answer(tiny, SHORT, 4)
    assert together == alone
    assert len(set(alone.values())) > 1  # else nothing would show that pictures and words are read


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


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_prompt_is_that_of_training(name):
    tiny = MODELS[name]()
    reader = PromptReader(InMemory(tiny).load_renderer(), SHORT)
    inputs = reader(questions())
    for place, question in enumerate(questions()):
        example = PreferenceExample(
            question.id, chat_turns(question, SHORT), {CHOSEN: "A cup.", REJECTED: "A dog."}, (question.image,)
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
    tiny, asked = MODELS[name](), questions()[:2]
    renderer = InMemory(tiny).load_renderer()
    given: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "vllm", vllm_that_notes(given))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=None))
    list(VllmAnswerer(ForVllm(tiny)).answer(asked, SHORT))  # type: ignore[arg-type]
    by_vllm = {picture.tobytes(): prompt for prompt, picture in map(dict.values, given)}
    for question in asked:
        read = PromptReader(renderer, SHORT)([question])["input_ids"][0].tolist()
        request = chat_request(question, SHORT)
        url = request[-1]["content"][0].pop("image_url")["url"]
        request[-1]["content"][0]["type"] = "image"  # a server puts the picture there and applies the model's template
        served = tiny.processor.apply_chat_template(request, add_generation_prompt=True, tokenize=False)
        picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        tokens = by_vllm[picture.tobytes()]
        assert picture.tobytes() == question.image.tobytes()
        assert tokens == renderer.prompt_ids(served)
        # Processors write many tokens, and marks around them, in the place of one: before and behind it all is alike.
        mark = renderer.tokenizer(tiny.placeholder, add_special_tokens=False)["input_ids"]
        place = next(k for k in range(len(tokens)) if tokens[k : k + len(mark)] == mark)
        before, behind = tokens[:place], tokens[place + len(mark) :]
        assert (read[: len(before)], read[-len(behind) :]) == (before, behind)
        assert question.prompt in renderer.tokenizer.decode(behind)


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
