"""What the page "Does it look?" takes, and what it shows, without a browser."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")

from mmdpo import score_tokens
from mmdpo.app.look import MOST_CHARACTERS, Question, look, render_looked, take_other, take_row, take_typed
from mmdpo.app.look_page import explain
from mmdpo.app.models import Models
from mmdpo.corruption import load
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import OTHER
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, RowError
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def dataset():
    return PreferenceDataset.from_rows(make_pairs(4, seed=5))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, base_model_name_or_path="world")
    adapted = get_peft_model(load_model(resolve_start("world")), settings)
    adapted.peft_config["default"].base_model_name_or_path = "world"
    adapted.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(adapter):
    return Models(["world", adapter])


def ask(models, name, question, **options):
    return models.ask(name, lambda loaded: look(loaded, question, **options)).result()


def test_a_row_is_looked_at_as_the_library_scores_it(models, dataset):
    example, where = take_row(dataset, 2)
    found = ask(models, "world", Question(example, where))
    expected = models.ask(
        "world", lambda loaded: score_tokens(loaded.model, loaded.processor, dataset[1], against=[NO_IMAGE])
    ).result()
    assert [of.name for of in found.answers] == [CHOSEN, REJECTED]
    for one, other in zip(found.answers, (of for of in expected if of.name in (CHOSEN, REJECTED)), strict=True):
        assert (one.tokens, one.spans) == (other.tokens, other.spans)
        torch.testing.assert_close(one.reliance(), other.reliance())


def test_the_page_has_every_token_the_sums_and_both_pictures(models, dataset):
    example, where = take_row(dataset, 1)
    question = Question(example, where, CORRUPTED, load("blur"), seed=7)
    found = ask(models, "world", question)
    page = render_looked(question, [found])
    for answer in found.answers:
        for value in answer.reliance(CORRUPTED).tolist():
            assert (
                f'title="{f"{value:+.2f}".replace("-", "−").replace("+0.00", "0.00").replace("−0.00", "0.00")} nats"'
                in page
            )
        sums = [float(answer.logprobs[image].sum()) for image in (ORIGINAL, CORRUPTED)]
        for value in (*sums, sums[0] - sums[1]):
            assert f"<td>{value:+.2f}</td>".replace("-", "−") in page
    assert 'alt="Image of row 1"' in page
    assert 'alt="Corrupted: blur of row 1"' in page
    assert "log π(token | the corrupted image)" in page
    assert "world: chosen − rejected" in page


def test_a_model_stands_beside_itself_without_its_adapter_which_is_its_base(models, adapter, dataset):
    example, where = take_row(dataset, 1)
    question = Question(example, where)
    on, off, base = (
        ask(models, adapter, question),
        ask(models, adapter, question, without_adapter=True),
        ask(models, "world", question),
    )
    for of_on, of_off, of_base in zip(on.answers, off.answers, base.answers, strict=True):
        torch.testing.assert_close(of_off.reliance(), of_base.reliance())
        assert not torch.allclose(of_on.reliance(), of_off.reliance())
    page = render_looked(question, [on, off])
    assert f"{adapter} without its adapter: sum" in page
    with pytest.raises(ValueError, match="world has no adapter to take off"):
        ask(models, "world", question, without_adapter=True)


def test_what_is_typed_is_text_and_a_picture_is_uploaded(models, tmp_path):
    Image.new("RGB", (48, 48), "teal").save(tmp_path / "a.png")
    example, where = take_typed(tmp_path / "a.png", "describe", ["a <b>cup</b>", " ", "<script>alert(1)</script>"])
    assert list(example.responses) == ["answer 1", "answer 2"]
    question = Question(example, where)
    page = render_looked(question, [ask(models, "world", question)])
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;" in page
    assert 'alt="Image of the uploaded picture"' in page


def test_another_image_is_that_of_a_row_or_an_uploaded_one(models, dataset, tmp_path):
    example, where = take_row(dataset, 1)
    of_row = take_other(example, dataset, 3, None)
    assert of_row == dataset[2].images
    Image.new("RGB", (20, 10)).save(tmp_path / "b.png")
    uploaded = take_other(example, dataset, 3, str(tmp_path / "b.png"))
    found = [ask(models, "world", Question(example, where, OTHER, None, images)) for images in (of_row, uploaded)]
    assert not torch.allclose(*(of.answers[0].reliance(OTHER) for of in found))
    pictures = Question(example, where, OTHER, None, uploaded).make_pictures()
    assert [shown.caption for shown in pictures] == ["image, 96 × 96", "another image, 20 × 10"]
    with pytest.raises(ValueError, match="there is no other image"):
        take_other(example, None, None, None)


class TestRefused:
    @pytest.mark.parametrize("number", [0, 5, -1])
    def test_a_row_that_is_not_there(self, dataset, number):
        with pytest.raises(ValueError, match=rf"there is no row {number}: .* has 4"):
            take_row(dataset, number)

    def test_a_row_without_an_image(self):
        rows = PreferenceDataset.from_rows([{"prompt": "what?", "chosen": "a", "rejected": "b"}])
        with pytest.raises(RowError, match="it has no image"):
            take_row(rows, 1)

    @pytest.mark.parametrize(
        ("prompt", "answers", "said"),
        [
            (" ", ["a"], "there is no question"),
            ("what?", ["", " "], "there is no answer"),
            ("what?", ["a" * (MOST_CHARACTERS + 1)], "a text has 8,001 characters, and 8,000 are taken"),
        ],
    )
    def test_texts_that_are_missing_or_too_long(self, tmp_path, prompt, answers, said):
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=said):
            take_typed(tmp_path / "a.png", prompt, answers)

    @pytest.mark.parametrize("kind", ["none", "text", "cut", "pixels"])
    def test_a_picture_that_is_none_says_so_without_the_servers_path(self, tmp_path, kind):
        path = tmp_path / "a.png"
        if kind == "pixels":
            Image.new("1", (9000, 9000)).save(path)
        elif kind == "cut":
            Image.radial_gradient("L").save(path)
            path.write_bytes(path.read_bytes()[:-30])
        elif kind == "text":
            path.write_text("no picture")
        with pytest.raises(ValueError, match=r"there is no picture: upload one|a\.png") as caught:
            take_typed(None if kind == "none" else path, "what?", ["a"])
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in explain(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n  b"), "a b"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "memory ran out: take a shorter answer"),
        (RowError("it is empty", source="pairs, row 3"), "pairs, row 3: it is empty"),
    ],
)
def test_an_error_is_one_line(error, said):
    assert explain(error).startswith(said)
