import base64
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdpo.data.images import digest_image, image_size, image_sources, open_image
from mmdpo.records import RowError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and has no pixels: what a decompression bomb looks like from its header."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def red_left_blue_right():
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image


def is_near(pixel, colour):
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    # What a camera that is held in this way stores, so that undoing it gives the scene again.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    scene = red_left_blue_right()
    stored = scene if orientation == 1 else scene.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "JPEG", quality=95, exif=exif)

    opened = open_image(data)

    assert opened.size == image_size(data) == (40, 20)
    assert is_near(opened.getpixel((2, 10)), RED)
    assert is_near(opened.getpixel((37, 10)), BLUE)


def test_greyscale_becomes_rgb():
    assert open_image(encode(Image.new("L", (3, 2), 77))).getpixel((0, 0)) == (77, 77, 77)


def test_palette_and_its_transparency_lie_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert open_image(encode(image)).getpixel((1, 0)) == BLUE
    opened = open_image(encode(image, transparency=1))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_colour_hidden_under_alpha_does_not_show():
    opened = open_image(encode(Image.new("RGBA", (1, 1), (*RED, 0))))
    assert opened.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["1", "LA", "PA", "CMYK", "YCbCr", "HSV", "RGBX", "I", "F", "I;16", "I;16B"])
def test_every_mode_becomes_rgb_of_the_same_size(mode):
    image = Image.new(mode, (5, 3))
    opened = open_image(image)
    assert (opened.mode, opened.size, image.mode) == ("RGB", (5, 3), mode)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    opened = open_image(encode(Image.fromarray(ramp)))
    assert [opened.getpixel((x, 0))[0] for x in range(4)] == [0, 10, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 10.0, 200.0], [0, 10, 200]), ([-4.0, 0.0, 4.0], [0, 128, 255])],
)
def test_floats_are_scaled_by_the_range_that_holds_them(values, expected):
    opened = open_image(Image.fromarray(np.array([values], dtype=np.float32)))
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == expected


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    path = tmp_path / "scene.png"
    red_left_blue_right().save(path)
    data = path.read_bytes()
    sources = [
        path,
        str(path),
        data,
        Image.open(path),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ]
    assert len({open_image(source).tobytes() for source in sources}) == 1


def test_missing_file_is_named(tmp_path):
    with pytest.raises(RowError, match=r"image file .*gone\.jpg does not exist: check the path, .*image_root"):
        open_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_truncated_file_is_found_though_its_header_is_whole(tmp_path, form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, form)
    path = tmp_path / "half"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(RowError, match=r"image file .*half cannot be read .*damaged or no image; fetch it again"):
        open_image(path)


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(
        RowError, match=r"embedded image \(13 bytes\) cannot be read: it is damaged or no image; fetch it again$"
    ):
        open_image(b"<html></html>")
    with pytest.raises(RowError, match="cannot be read"):
        open_image(tmp_path)


def test_no_pixels():
    with pytest.raises(RowError, match=r"0 × 7 pixels: .* replace it or remove the row"):
        open_image(Image.new("RGB", (0, 7)))
    with pytest.raises(RowError, match=r"cannot be read|0 × 7"):
        open_image(png_header(0, 7))


def test_beyond_the_limit_is_refused_from_the_header():
    # There is nothing to decode in this file: an attempt would be reported as damage.
    with pytest.raises(RowError, match=r"too large. 5000 × 4000 = 20000000 pixels, limit 10000000. Make it smaller"):
        open_image(png_header(5000, 4000), max_pixels=10_000_000)
    with pytest.raises(RowError, match="cannot be read"):
        open_image(png_header(5000, 4000), max_pixels=20_000_000)


def test_pils_own_bomb_checks_give_the_same_error():
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(RowError, match=r"too large. .*Make it smaller, or raise max_image_pixels"):
        open_image(png_header(30000, 30000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RowError, match=r"too large. .*Make it smaller, or raise max_image_pixels"):
            open_image(png_header(9900, 9900))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_relative_paths_are_joined_to_the_root(tmp_path):
    absolute = str(tmp_path / "b.png")
    assert image_sources(["a.png", absolute], tmp_path) == (tmp_path / "a.png", tmp_path / "b.png")
    assert image_sources(None, tmp_path) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://example.org/a.png", "web address: download it"),
        ([b""], "an image is empty"),
        ("data:image/png;base64,", "an image is empty"),
        ("data:image/png;base64,iVB*", "no base64"),
        ({"bytes": "iVB*"}, "no base64"),
        ({"bytes": "\ud83d"}, "no base64"),
        ("data:;base64,\ud83d", "no base64"),
        ("file://[/a.png", "another machine"),
        ("file://elsewhere/a.png", "another machine"),
        ("s3://bucket/a.png", "web address: download it"),
        (7, "an image is of type int"),
    ],
)
def test_what_cannot_be_an_image_is_refused_unopened(value, message):
    with pytest.raises(RowError, match=message):
        image_sources(value, None)


def same_picture(sources):
    return [open_image(source).tobytes() for source in sources] == [red_left_blue_right().tobytes()]


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("where", ["text", "data URI", "bytes", "url", "list"])
def test_encoded_text_is_read_as_the_picture_that_it_is(form, where, tmp_path):
    encoded = base64.b64encode(encode(red_left_blue_right(), form)).decode()
    address = f"data:image/{form.lower()};base64,{encoded}"
    value = {
        "text": encoded,
        "data URI": address,
        "bytes": {"bytes": encoded, "path": None},
        "url": {"url": address},
        "list": [encoded],
    }[where]
    assert same_picture(image_sources(value, tmp_path))


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_formats_that_lose_something_are_known_in_base64_too(form, tmp_path):
    data = encode(red_left_blue_right(), form)
    assert image_sources(base64.b64encode(data).decode(), tmp_path) == (data,)


def test_addresses_of_files_and_mappings_with_a_url_are_paths(tmp_path):
    red_left_blue_right().save(tmp_path / "a scene.png")
    address = (tmp_path / "a scene.png").as_uri()
    assert "%20" in address
    for value in (address, {"url": address}, {"url": "a scene.png"}, [{"bytes": None, "path": None, "url": address}]):
        assert same_picture(image_sources(value, tmp_path))
    assert image_sources("file:///a/b%23c?d#e.png", tmp_path) == (Path("/a/b#c?d#e.png"),)
    assert image_sources("/9j/4AAQ.jpg", None) == (Path("/9j/4AAQ.jpg"),)


@pytest.mark.parametrize(
    "nothing", [None, "", float("nan"), {"bytes": None, "path": None}, {"path": ""}, {"url": None}, {}], ids=repr
)
def test_what_merged_tables_give_rows_without_an_image_is_none(nothing):
    assert image_sources(nothing, None) == image_sources([nothing], None) == image_sources([nothing] * 2, None) == ()
    assert image_sources([nothing, "a.png"], None) == (Path("a.png"),)


@pytest.mark.parametrize("name", ["x" * 5000, "data:image/png," + "A" * 5000, "\x1b[2J.png", "https://a/" + "b" * 5000])
def test_messages_print_neither_pictures_nor_what_steers_a_terminal(name, tmp_path):
    with pytest.raises(RowError) as caught:
        [open_image(source) for source in image_sources(name, tmp_path)]
    assert len(caught.value.problem) < 600
    assert "\x1b" not in caught.value.problem


@pytest.mark.parametrize("kind", ["named pipe", "device", "folder", "loop"])
def test_only_regular_files_are_opened(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for read in (open_image, image_size, digest_image):
        with pytest.raises(RowError, match=rf"it is a {kind}" if kind != "loop" else "cannot be read"):
            read(path)


def test_a_file_of_absurd_size_is_refused_unread(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)
    for read in (open_image, digest_image):
        with pytest.raises(RowError, match="too large: 1099511627776 bytes"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
@pytest.mark.parametrize("value", [0, 1, 70, 70_000, -3])
def test_a_picture_of_one_grey_is_read(mode, value):
    if mode == "I;16" and not 0 <= value < 65536:
        return
    kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    opened = open_image(Image.fromarray(np.full((3, 4), value, dtype=kind)))
    assert len(opened.getcolors()) == 1


def test_numbers_that_are_none_do_not_hide_the_others():
    values = np.array([[np.nan, np.inf, -np.inf, 0.0, 0.5, 1.0]], dtype=np.float32)
    opened = open_image(Image.fromarray(values))
    assert [opened.getpixel((x, 0))[0] for x in range(6)] == [0, 255, 0, 0, 128, 255]


@pytest.mark.parametrize("nothing", [None, "", float("nan")])
def test_a_mapping_gives_the_first_of_bytes_path_and_url_that_says_something(nothing):
    assert image_sources({"bytes": nothing, "path": "a.png"}, None) == (Path("a.png"),)
    assert image_sources({"bytes": nothing, "path": nothing, "url": "a.png"}, None) == (Path("a.png"),)


def test_a_picture_that_another_program_would_have_to_open_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    for source in (path, path.read_bytes()):
        with pytest.raises(RowError, match="is EPS"):
            open_image(source)
