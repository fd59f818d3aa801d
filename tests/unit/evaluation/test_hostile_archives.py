"""Archives and records that mean harm: nothing is written outside the folder of the data, and the end is one line."""

import io
import json
import random
import shutil
import stat
import struct
import zipfile
from functools import partial

import pytest

from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.evaluation import download as download_room
from mmdpo.evaluation.download import download
from mmdpo.evaluation.fetch import hash_file
from mmdpo.evaluation.sources import Archive, Data, RemoteFile
from mmdpo.evaluation.unpacking import unpack_annotations, unpack_folders, unpack_pictures, unpack_questions

PICTURE = b"\xff\xd8\xff the picture"


def zipped(*members, packed=zipfile.ZIP_STORED):
    """A zip archive of (name or ZipInfo, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def member(name, kind):
    """A member that says that it is no plain file."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


@pytest.fixture
def unpack(tmp_path, monkeypatch):
    """Downloads an archive into tmp_path/data, as if a server had sent these bytes; returns what lies there."""
    folder = tmp_path / "data"

    def run(content, how=unpack_pictures, contents=None):
        def arrive(addresses, target, *, sha256, whence="", check=None, show=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            try:
                check(target)
            except EvaluationError:
                target.unlink()
                raise
            return hash_file(target), addresses[0]

        shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.setattr(download_room, "fetch", arrive)
        archive = Archive("it", ("http://127.0.0.1:9/it.zip",), how, "small", contents=contents)
        sources = {"it": Data(licences=("mine",), archives=(archive,))}
        before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
        try:
            download("it", folder, say=lambda _: None, sources=sources)
        finally:
            outside = {path for path in tmp_path.rglob("*") if folder not in path.parents and path != folder}
            assert outside == before - {folder}
            assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"checksums.json"}

    return run


@pytest.mark.parametrize(
    "name",
    [
        "../../a.jpg",
        "../" * 40 + "tmp/a.jpg",
        "/a.jpg",
        "/etc/../../a.jpg",
        "//server/share/a.jpg",
        r"..\..\a.jpg",
        r"C:\a.jpg",
        "x/./../a.jpg",
        "images/../../a.jpg",
    ],
)
def test_a_path_that_leads_out_is_of_no_account(unpack, name):
    assert unpack(zipped((name, PICTURE))) == {"images/a.jpg"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hallusion_bench/VD/chart/0_1.png", "images/VD/chart/0_1.png"),
        ("/VD/a.png", "images/VD/a.png"),
        ("../../VD/a.png", None),
        ("VD/../../a.png", None),
        (r"VD\..\..\a.png", None),
        ("elsewhere/a.png", None),
        ("VD/.a.png", None),
        ("VD/a.sh", None),
    ],
)
def test_folders_that_are_kept_lie_inside_the_images(unpack, name, place):
    content = zipped((name, PICTURE), ("VS/kept.png", PICTURE))
    found = unpack(content, partial(unpack_folders, roots=("VD", "VS")))
    assert found == {"images/VS/kept.png"} | ({place} if place else set())


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused_before_anything_is_unpacked(unpack, kind, tmp_path):
    with pytest.raises(EvaluationError, match=r"'b\.jpg' in it is a link or a device"):
        unpack(zipped(("a.jpg", PICTURE), (member("b.jpg", kind), "/etc/passwd")))
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_bomb_is_refused_before_it_is_unpacked(unpack, monkeypatch, tmp_path):
    monkeypatch.setattr("mmdpo.evaluation.unpacking.LARGEST_PICTURE", 1 << 20)
    monkeypatch.setattr("mmdpo.evaluation.unpacking.LARGEST_ARCHIVE", 4 << 20)
    with pytest.raises(EvaluationError, match=r"'b\.jpg' in it unpacks to 8,388,608 bytes"):
        unpack(zipped(("a.jpg", PICTURE), ("b.jpg", bytes(8 << 20)), packed=zipfile.ZIP_DEFLATED))
    many = [(f"{number}.jpg", bytes(1 << 20)) for number in range(5)]
    with pytest.raises(EvaluationError, match="it unpacks to more than"):
        unpack(zipped(*many, packed=zipfile.ZIP_DEFLATED))
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_size_that_is_a_lie_is_no_more_than_the_size(unpack, monkeypatch):
    """The size that the archive claims is all that is read of it."""
    content = bytearray(zipped(("a.jpg", bytes(8 << 20)), packed=zipfile.ZIP_DEFLATED))
    claimed = struct.pack("<I", 8 << 20)
    while (at := content.find(claimed)) >= 0:
        content[at : at + 4] = struct.pack("<I", 100)
    with pytest.raises(EvaluationError, match="no zip archive that can be read"):
        unpack(bytes(content))


def test_one_file_cannot_stand_in_for_another(unpack):
    assert unpack(zipped(("one/a.jpg", PICTURE), ("two/a.jpg", PICTURE))) == {"images/a.jpg"}
    with pytest.raises(EvaluationError, match=r"two different files named 'a\.jpg'"):
        unpack(zipped(("one/a.jpg", PICTURE), ("two/a.jpg", PICTURE + b"!")))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>Sign in</html>",
        b"PK\x05\x06" + bytes(18),
        zipped(("a.jpg", PICTURE))[:-30],
        zipped(("a.jpg", PICTURE)).replace(PICTURE, PICTURE[::-1]),
        zipped(("a.jpg", PICTURE)).replace(
            b"PK\x01\x02" + bytes([20, 3, 20, 0, 0, 0]), b"PK\x01\x02" + bytes([20, 3, 20, 0, 1, 0])
        ),
        zipped(("a.jpg", PICTURE)).replace(b"a.jpg", b"a.exe"),
        zipped((f"{'a' * 300}.jpg", PICTURE)),
        zipped(("dir.jpg/", b"")),
    ],
    ids=["empty", "page", "no member", "cut", "checksum", "encrypted", "nothing wanted", "long name", "folder"],
)
def test_what_is_no_archive_of_pictures_ends_in_one_line(unpack, content):
    with pytest.raises(EvaluationError):
        unpack(content)


def test_damaged_archives_are_errors_or_pictures_and_never_anything_else(unpack):
    chance = random.Random(4)
    whole = zipped(*((f"d/{n}.jpg", PICTURE * 9) for n in range(4)), packed=zipfile.ZIP_DEFLATED)
    lines = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        for how in (unpack_pictures, unpack_annotations):
            try:
                unpack(bytes(content), how)
            except EvaluationError as error:
                lines.append(str(error))
    assert not any("\n" in line for line in lines)
    assert 100 < len(lines) < 600


@pytest.mark.parametrize(
    "row",
    [
        "[" * 100_000,
        "7",
        "null",
        '{"org_idx": 1, "image_id": "../../x", "question": "?", "image": "AAAA"}',
        '{"org_idx": 1, "image_id": 1, "question": "?", "image": "%%"}',
        '{"image_id": 1' + "0" * 5_000 + "}",
    ],
)
def test_rows_of_questions_that_are_none_end_in_one_line(unpack, row):
    with pytest.raises(EvaluationError, match="no questions of Object HalBench"):
        unpack(f"{row}\n".encode(), unpack_questions)


@pytest.mark.parametrize("path", ["../a.json", "/a.json", "x/../../a.json", r"..\a.json"])
def test_no_path_of_a_file_or_an_image_leads_out_of_the_folder(path, tmp_path):
    asked = []
    remote = {"files": (RemoteFile(path, ("http://127.0.0.1:9/a",)),)}
    images = {"image_names": lambda folder: [f"../{path}"], "image_address": asked.append}
    for data in (remote, images):
        with pytest.raises(EvaluationError, match="leads out of the folder"):
            download("it", tmp_path / "data", say=lambda _: None, sources={"it": Data(licences=("mine",), **data)})
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "7",
        '{"files": [1]}',
        '{"files": {"a": 1}}',
        '{"archives": {"it": {"sha256": 1, "unpacked": 2}}}',
        "[" * 100_000,
        '{"files": {"a": {"sha256": null, "pinned": true}}}',
        '{"archives": {"it": {"sha256": "a"}}}',
    ],
)
def test_a_record_of_checksums_that_is_none_is_named(record, tmp_path):
    (tmp_path / "checksums.json").write_text(record)
    with pytest.raises(EvaluationError, match=r"checksums\.json"):
        download("it", tmp_path, say=lambda _: None, sources={"it": Data(licences=("mine",))})
    assert (tmp_path / "checksums.json").read_text() == record


def test_a_stream_without_end_is_ended(tmp_path, monkeypatch):
    class Endless(io.RawIOBase):
        status, headers = 200, {}

        def read(self, size=-1):
            return b"x" * 1_000_000

    monkeypatch.setattr("mmdpo.evaluation.fetch.LARGEST", 5_000_000)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Endless())
    data = Data(licences=("mine",), files=(RemoteFile("a.json", ("http://127.0.0.1:9/a",)),))
    with pytest.raises(EvaluationError, match="more came than 5,000,000 bytes"):
        download("it", tmp_path, say=lambda _: None, sources={"it": data})
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"
