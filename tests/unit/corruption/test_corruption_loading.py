import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmdpo import corruption
from mmdpo.corruption import corrupt_image, derive_corruption_generator, load, names

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
THEIRS = "def tint(image, generator, *, strength=0.5):\n    return image.convert({mode!r})\n"


def test_the_promised_corruptions_are_there():
    promised = {"crop_0_20", "crop_20_50", "moco_v2", "random_image", "blank", "noise", "blur", "patch_mask"}
    assert promised <= set(names())


def test_listing_imports_neither_numpy_nor_pil():
    code = "import sys, mmdpo.corruption as c; assert c.names(); print({'numpy', 'PIL', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_file_dropped_in_is_found_and_one_with_an_underscore_is_not(tmp_path, monkeypatch):
    (tmp_path / "upside_down.py").write_text(
        "from PIL import ImageOps\ndef corrupt(image, generator):\n    return ImageOps.flip(image)\n"
    )
    (tmp_path / "_tables.py").touch()
    monkeypatch.setattr(corruption, "__path__", [*corruption.__path__, str(tmp_path)])
    assert "upside_down" in names()
    assert "_tables" not in names()
    flipped = load("upside_down")(PICTURE, np.random.default_rng(0))
    assert flipped.getpixel((0, 0)) == PICTURE.getpixel((0, PICTURE.height - 1))


def test_a_corruption_from_another_package(tmp_path, monkeypatch):
    (tmp_path / "their_corruptions.py").write_text(THEIRS.format(mode="RGB"))
    (tmp_path / "their_grey_corruptions.py").write_text(THEIRS.format(mode="L"))
    monkeypatch.syspath_prepend(tmp_path)
    tint = load("their_corruptions:tint")
    assert tint.options == {"strength": 0.5}
    assert tint(PICTURE, np.random.default_rng(0)).tobytes() == PICTURE.tobytes()
    with pytest.raises(ValueError, match=r"must return RGB of \(60, 40\), returned L"):
        load("their_grey_corruptions:tint")(PICTURE, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crop_020", "unknown corruption 'crop_020'; did you mean 'crop_0_20'"),
        ("_geometry", "unknown corruption '_geometry'"),
        ("qqq", "'qqq'. There are blank, blur, crop_0_20"),
        ("nowhere.at_all:fn", "cannot load the corruption 'nowhere.at_all:fn'"),
        (":fn", "cannot load the corruption ':fn'"),
        ("math:squash", "cannot load the corruption 'math:squash'"),
    ],
)
def test_unknown_names_say_what_is_valid(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crop_0_20", {"hihg": 0.1}, "has no option 'hihg'; did you mean 'high'? It takes high, low"),
        ("random_image", {"other": PICTURE}, "has no option 'other'. It takes no options"),
        ("crop_0_20", {"low": "1e-2"}, "option 'low' of corruption 'crop_0_20' must be float, like 0.01; got '1e-2'"),
        ("crop_0_20", {"high": True}, "must be float, like 0.2; got True"),
        ("noise", {"step": True}, "must be int, like 500; got True"),
        ("crop_0_20", {"low": 0.5}, "0 < low <= high <= 1"),
        ("noise", {"step": 1000}, "step must be from 0 to 999"),
        ("noise", {"grain": -0.1}, "grain in [0, 1]"),
        ("blur", {"radius": -1}, "radius is a share"),
        ("blank", {"colour": "gray-ish"}, "gray-ish"),
        ("patch_mask", {"share": 1.5}, "share must lie in [0, 1]"),
        ("patch_mask", {"patch": 0}, "patch in (0, 1]"),
        ("moco_v2", {"hue": 0.6}, "hue in [0, 0.5]"),
        ("moco_v2", {"sigma_low": 3.0}, "sigma_low <= sigma_high"),
    ],
)
def test_wrong_options_fail_before_the_first_picture(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(name).with_options(**options)


def test_options_change_what_is_done_and_leave_the_original_alone():
    default = load("blank")
    black = default.with_options(colour="black")
    assert black(PICTURE, np.random.default_rng(0)).getcolors() == [(2400, (0, 0, 0))]
    assert default(PICTURE, np.random.default_rng(0)).getcolors() == [(2400, (127, 127, 127))]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def one(image): return image", "it takes (image), and has to take (image, generator)"),
        ("def one(image, generator): pass", "must return a PIL image, returned a NoneType"),
        (
            "import numpy\ndef one(image, generator): return numpy.array(image)",
            "must return a PIL image, returned a nda",
        ),
    ],
)
def test_slips_of_a_corruption_are_named_before_the_first_picture(tmp_path, monkeypatch, code, said):
    (tmp_path / "slips.py").write_text(code)
    monkeypatch.delitem(sys.modules, "slips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)):
        load("slips:one").with_options()


def test_misuse_is_named():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'blur' takes RGB images, got mode 'L'"):
        load("blur")(PICTURE.convert("L"), generator)
    with pytest.raises(ValueError, match="'random_image' needs another example's image"):
        load("random_image")(PICTURE, generator)


def test_the_corrupted_image_depends_on_seed_example_image_and_epoch_alone():
    crop = load("crop_0_20")
    key = {"run_seed": 1, "example_id": "a", "image_index": 0, "epoch": 0}
    first = corrupt_image(crop, PICTURE, **key).tobytes()
    np.random.default_rng(0).random(10)
    assert corrupt_image(crop, PICTURE.copy(), **key).tobytes() == first
    assert crop(PICTURE, derive_corruption_generator("crop_0_20", **key)).tobytes() == first
    for change in ({"run_seed": 2}, {"example_id": "b"}, {"image_index": 1}, {"epoch": 1}):
        assert corrupt_image(crop, PICTURE, **{**key, **change}).tobytes() != first


def test_random_image_is_the_other_image_unchanged():
    other = Image.new("RGB", (7, 5), "red")
    shown = corrupt_image(load("random_image"), PICTURE, run_seed=0, example_id="a", image_index=0, other=other)
    assert shown.size == (7, 5)
    assert shown.tobytes() == other.tobytes()
