"""Corrupted images on the page are those that a run makes: same draw, same options, same choice of images."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from mmdpo.app.pair_pictures import HowCorrupted, OtherPictures, make_pictures, read_how, read_options
from mmdpo.corruption import corrupt_image, load
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.items import Items
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def dataset():
    return PreferenceDataset.from_rows(make_pairs(6, seed=3), name="pairs.jsonl")


def show(dataset, index, how, left_out=()):
    return make_pictures(dataset[index], index, how, lambda: OtherPictures(dataset, left_out))


def pixels(shown):
    kind, _, content = shown.thumbnail.uri.partition(",")
    assert kind == "data:image/png;base64", "a small picture keeps its pixels"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def test_the_picture_is_corrupted_as_by_the_run(dataset):
    how = HowCorrupted("crop_20_50", {"low": 0.3}, seed=7, epoch=2)
    original, corrupted = show(dataset, 4, how)
    example = dataset[4]
    assert np.array_equal(pixels(original), np.asarray(example.images[0]))
    corruption = load("crop_20_50").with_options(low=0.3)
    expected = corrupt_image(corruption, example.images[0], run_seed=7, example_id=example.id, image_index=0, epoch=2)
    assert np.array_equal(pixels(corrupted), np.asarray(expected))
    assert (corrupted.caption, corrupted.alt) == (
        "corrupted: crop_20_50, 96 × 96", "Image of row 5, corrupted (crop_20_50)",
    )  # fmt: skip


def test_random_image_shows_the_row_that_the_run_draws(dataset):
    kept = [0, 2, 3, 4, 5]  # row 2 is dropped, so that the run does not have it
    items = Items(dataset.select(kept), seed=7, draw_others=True)
    for place, index in enumerate(kept):
        shown = show(dataset, index, HowCorrupted("random_image", seed=7), left_out=[1])[1]
        assert np.array_equal(pixels(shown), np.asarray(items[place].other_images[0]))
    assert "the row is left out" in show(dataset, 1, HowCorrupted("random_image"), left_out=[1])[1].thumbnail.why


def test_windows_that_ask_at_once_see_their_own_seed_and_the_pictures_are_looked_at_once(dataset, monkeypatch):
    looked = []

    class SlowItems(Items):
        def __init__(self, *examples, **how):
            looked.append(examples)
            super().__init__(*examples, **how)

        def set_epoch(self, epoch):
            super().set_epoch(epoch)
            time.sleep(0.02)

    monkeypatch.setattr("mmdpo.app.pair_pictures.Items", SlowItems)
    others, hows = OtherPictures(dataset), [HowCorrupted("random_image", seed=seed) for seed in range(8)]

    def draw(how):
        return others.draw(0, how, lambda done, rows: None)[0]

    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(draw, hows))
    assert len(looked) == 1
    assert all(np.array_equal(image, draw(how)) for image, how in zip(drawn, hows, strict=True))
    assert len({np.asarray(image).tobytes() for image in drawn}) > 1


def test_the_datasets_own_corrupted_image_is_shown(dataset):
    own = Image.new("RGB", (48, 48), "navy")
    row = make_pairs(1, seed=3)[0] | {"rejected_images": [own]}
    shown = show(PreferenceDataset.from_rows([row]), 0, HowCorrupted())[1]
    assert np.array_equal(pixels(shown), np.asarray(own))
    assert shown.caption.startswith("corrupted: of the dataset")


def test_images_at_which_the_corruption_is_not_aimed_stay(dataset):
    images = [row["images"][0] for row in make_pairs(2, seed=3)]
    row = {"prompt": "<image><image>which?", "chosen": "a", "rejected": "b", "images": images}
    shown = show(PreferenceDataset.from_rows([row]), 0, HowCorrupted("blank", aimed="demonstrations"))
    assert [each.caption.partition(",")[0] for each in shown] == [
        "image 1", "image 2", "corrupted 1: blank", "corrupted 2: blank",
    ]  # fmt: skip
    assert len(np.unique(pixels(shown[2]))) == 1
    assert np.array_equal(pixels(shown[3]), np.asarray(images[1]))


def test_a_picture_that_cannot_be_opened_says_why(tmp_path):
    row = {"prompt": "<image>?", "chosen": "a", "rejected": "b", "images": ["gone.png"]}
    shown = show(PreferenceDataset.from_rows([row], image_root=tmp_path), 0, HowCorrupted())
    assert [each.thumbnail.uri for each in shown] == ["", ""]
    assert all("gone.png does not exist" in each.thumbnail.why for each in shown)


def test_a_row_without_an_image_shows_none():
    assert show(PreferenceDataset.from_rows([{"prompt": "?", "chosen": "a", "rejected": "b"}]), 0, HowCorrupted()) == []


@pytest.mark.parametrize(
    ("text", "told"), [("{", "options are JSON"), ("[1]", "options are a mapping"), ("[" * 100_000, "options are JSON")]
)
def test_options_that_are_none_are_refused(text, told):
    with pytest.raises(ValueError, match=told):
        read_options(text)


def test_options_that_do_not_fit_are_refused():
    assert read_options(" ") == {}
    with pytest.raises(ValueError, match="has no option 'stepp'"):
        HowCorrupted("noise", read_options('{"stepp": 3}')).make_preparer()


def write(folder, **recipe):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return read_how(folder)


def test_a_runs_recipe_says_how_it_corrupts(tmp_path):
    how = write(
        tmp_path, corruption="noise", corruption_options={"step": 300}, seed=5, corruption_draw="picture",
        corrupted_images="demonstrations", crop_space="processed", objective="mmedpo",
    )  # fmt: skip
    assert how == HowCorrupted("noise", {"step": 300}, 5, 0, "picture", "demonstrations", "mmedpo", True)
    assert how.make_preparer().corrupts_equal_answers_only
    assert write(tmp_path, output_dir="x") == HowCorrupted()


@pytest.mark.parametrize(
    "recipe",
    [
        {"corruption": "antigravity:corrupt"},
        {"objective": "antigravity:TERMS"},
        {"corruption": "noise", "corruption_options": {"step": "many"}},
        {"seed": "five"},
        {"objective": {"no": "list"}},
    ],
)
def test_a_recipe_that_cannot_be_followed_is_left_out_and_runs_nothing(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr("webbrowser.open", SimpleNamespace)  # what importing antigravity does
    import sys

    assert write(tmp_path, **recipe) is None
    assert "antigravity" not in sys.modules


def test_a_folder_without_a_recipe_is_left_out(tmp_path):
    assert read_how(tmp_path) is None
