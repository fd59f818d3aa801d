"""Hostile images: each is read with the right pixels, or is a faulty row that is named. No traceback, hang or guess."""

import io
import os
import random
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mmdpo.data.check import find_faults
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import open_image

SIZE = (24, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 3), dtype=np.uint8)
SCENE = COLOURS[np.random.default_rng(1).integers(0, 8, (4, 6)).repeat(4, 0).repeat(4, 1)]
"""Blocks of a few colours, so that a palette holds them and JPEG keeps them."""
FAULT = None
LOSSLESS = {
    "png": {},
    "bmp": {},
    "tiff": {"compression": "tiff_lzw"},
    "gif": {},
    "webp": {"lossless": True},
    "ppm": {},
    "tga": {},
    "jpeg2000": {"irreversible": False},
}
UNDO_EXIF = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def as_image(array, mode=None):
    return Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header, pixels, *chunks):
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def grey(values):
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2)


def on_white(array, alpha):
    share = alpha[..., None].astype(float) / 255
    return np.rint(array * share + 255 * (1 - share))


def good_files():
    """Yields a name, the content, the pixels, and how far they may be off."""
    scene = as_image(SCENE)
    for form, options in LOSSLESS.items():
        yield f"{form}.{form}", encode(scene, form, **options), SCENE, 0
        yield f"{form} called.jpg", encode(scene, form, **options), SCENE, 0
        yield f"{form} of no name", encode(scene, form, **options), SCENE, 0
    for form, options in {"png": {}, "tiff": {}, "webp": {"lossless": True}}.items():
        alpha = np.random.default_rng(2).integers(0, 256, SIZE[::-1], dtype=np.uint8)
        yield f"alpha.{form}", encode(as_image(np.dstack([SCENE, alpha])), form, **options), on_white(SCENE, alpha), 2
    luminance = SCENE[..., 0]
    for form in ("png", "bmp", "tiff", "webp", "jpeg"):
        yield (
            f"grey.{form}",
            encode(as_image(luminance), form, **{"lossless": True} if form == "webp" else {}),
            grey(luminance),
            40,
        )
    bits = luminance > 127
    for form in ("png", "bmp", "tiff", "gif"):
        yield f"one bit.{form}", encode(as_image(bits), form), grey(bits * 255), 0
    deep = (luminance.astype(np.uint16) * 257).astype(np.uint16)
    yield "16 bit.png", encode(as_image(deep), "PNG"), grey(luminance), 0
    yield "16 bit.tiff", encode(as_image(deep), "TIFF"), grey(luminance), 0
    yield "32 bit.tiff", encode(as_image(deep.astype(np.int32)), "TIFF"), grey(luminance), 0
    yield "float.tiff", encode(as_image(luminance.astype(np.float32)), "TIFF"), grey(luminance), 0
    yield "float to one.tiff", encode(as_image(luminance.astype(np.float32) / 255), "TIFF"), grey(luminance), 0
    for value in (0, 1, 4000, 70_000):
        level = value * 255 / (255 if value < 256 else 65535) if value < 65536 else 0
        array = np.full(SIZE[::-1], value)
        yield (
            f"all {value}.tiff",
            encode(as_image(array.astype(np.int32)), "TIFF"),
            grey(np.full(SIZE[::-1], round(level))),
            1,
        )
    constant = np.full(SIZE[::-1], -3.5, dtype=np.float32)
    yield "all -3.5.tiff", encode(as_image(constant), "TIFF"), grey(np.zeros(SIZE[::-1])), 0
    rows = b"".join(b"\0" + (SCENE[y].astype(">u2") * 257).astype(">u2").tobytes() for y in range(SIZE[1]))
    yield "16 bit colour.png", png(struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0), zlib.compress(rows)), SCENE, 1
    palette = scene.quantize(8)
    yield "palette.png", encode(palette, "PNG"), SCENE, 0
    index = int(np.asarray(palette)[0, 0])
    hidden = np.where((np.asarray(palette) == index)[..., None], 255, SCENE)
    yield "palette with a hole.png", encode(palette, "PNG", transparency=index), hidden, 0
    yield "palette with a hole.gif", encode(palette, "GIF", transparency=index), hidden, 0
    yield "cmyk.tiff", encode(scene.convert("CMYK"), "TIFF"), SCENE, 2
    yield "cmyk.jpg", encode(scene.convert("CMYK"), "JPEG", quality=98, subsampling=0), SCENE, 40
    yield "progressive.jpg", encode(scene, "JPEG", quality=98, subsampling=0, progressive=True), SCENE, 40
    yield (
        "lab.tiff",
        encode(as_image(grey(np.full(SIZE[::-1], 0))).convert("RGB"), "TIFF"),
        grey(np.zeros(SIZE[::-1])),
        0,
    )
    for orientation, undo in UNDO_EXIF.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = scene if undo is None else scene.transpose(Image.Transpose(undo))
        yield f"turned {orientation}.png", encode(stored, "PNG", exif=exif), SCENE, 0
        yield f"turned {orientation}.jpg", encode(stored, "JPEG", quality=98, subsampling=0, exif=exif), SCENE, 40
        yield f"turned {orientation}.webp", encode(stored, "WEBP", lossless=True, exif=exif), SCENE, 0
    exif = Image.Exif()
    exif[0x0112] = 77
    yield "turned beyond reason.png", encode(scene, "PNG", exif=exif), SCENE, 0
    frames = [as_image(255 - SCENE), as_image(SCENE[::-1].copy())]
    for form, options in (("png", {}), ("gif", {}), ("webp", {"lossless": True}), ("tiff", {})):
        yield f"moving.{form}", encode(scene, form, save_all=True, append_images=frames, **options), SCENE, 0


def bad_files():
    """Yields a name and a content that holds no picture."""
    for width, height in ((0, 7), (7, 0), (30_000, 30_000), (60_000, 2_000), (9_900, 9_900)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        yield f"claims {width} x {height}.png", png(header, zlib.compress(b"")), FAULT, 0
    bomb = chunk(b"zTXt", b"text\0\0" + zlib.compress(b"x" * 200_000_000))
    yield "text bomb.png", png(struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0), zlib.compress(b""), bomb), FAULT, 0
    yield "claims much.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";", FAULT, 0
    yield (
        "claims much.bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 65_535, 65_535, 1, 24, 0, 0, 0, 0, 0, 0),
        FAULT,
        0,
    )
    texts = (
        "",
        "\0",
        "GIF89a",
        "<html></html>",
        "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "%PDF-1.4",
        "RIFF0000WEBP",
    )
    for number, text in enumerate(texts):
        yield f"text {number}.png", text.encode(), FAULT, 0
    for number in range(8):
        yield f"noise {number}.jpg", random.Random(number).randbytes(3000), FAULT, 0
    for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP"):
        yield f"beginning.{form}", encode(as_image(SCENE), form)[:20], FAULT, 0


def cut_files():
    """Yields files that end early: what is lost may be no more than what stands behind the picture."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    draw = random.Random(4)
    for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        whole = encode(as_image(noise), form)
        pixels = np.asarray(open_image(whole))
        for _ in range(4):
            yield f"cut {len(whole)}.{form}", whole[: draw.randrange(30, len(whole) - 60)], FAULT, 0
        yield f"end missing.{form}", whole[:-1], pixels, "or fault"


def make_odd_paths(folder):
    """Makes what is no file, and odd names; returns the paths, none of which holds a picture."""
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop2.png")
    (folder / "loop2.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "to a pipe.png").symlink_to("pipe.png")
    with (folder / "huge.png").open("wb") as file:
        file.truncate(1 << 42)
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # the name of a socket is short
    try:
        listening.bind("socket.png")
    finally:
        os.chdir(here)
        listening.close()
    names = ("pipe", "folder", "loop", "loop2", "nowhere", "zero", "to a pipe", "huge", "socket", "gone")
    return [
        *(folder / f"{name}.png" for name in names),
        folder / "a\0b.png",
        folder / ("x" * 300),
        folder / "a.png" / "b",
    ]


def test_hostile_images_are_read_right_or_named(tmp_path):
    files = [*good_files(), *bad_files(), *cut_files()]
    assert len(files) >= 115
    rows, expected = [], []
    for number, (name, content, pixels, tolerance) in enumerate(files):
        (tmp_path / f"{number} {name}").write_bytes(content)
        for image in (tmp_path / f"{number} {name}", content):
            rows.append((name, image))
            expected.append((pixels, tolerance))
    for path in make_odd_paths(tmp_path):
        rows.append((repr(path), path))
        expected.append((FAULT, 0))
    pairs = [
        {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "images": [image]} for _, image in rows
    ]
    dataset = PreferenceDataset.from_rows(pairs, name="pairs")
    result = find_faults(dataset, num_workers=2, progress=False)
    faults = {fault.row - 1: fault.problem for fault in result.faults}
    assert sorted([*result.good, *faults]) == list(range(len(rows)))
    for place, ((name, image), (pixels, tolerance)) in enumerate(zip(rows, expected, strict=True)):
        if place in faults:
            assert pixels is FAULT or tolerance == "or fault", (name, faults[place])
            assert faults[place].startswith(("image file ", "the embedded image ", "an image is ")), faults[place]
            assert len(faults[place]) < 700
            continue
        assert pixels is not FAULT, f"{name} passes"
        opened = open_image(image)
        assert (opened.mode, opened.size) == ("RGB", np.asarray(pixels).shape[1::-1]), name
        off = np.abs(np.asarray(opened).astype(float) - pixels).max()
        assert off <= (0 if tolerance == "or fault" else tolerance), (name, off)
