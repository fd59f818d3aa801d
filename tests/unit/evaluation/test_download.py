"""`mmdpo eval download`, from a server on loopback that breaks off, refuses, and changes its mind."""

import base64
import hashlib
import io
import json
import re
import shutil
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from benchmark_data import HAND_MADE, official_data
from eval_verb import run
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.cli import main
from mmdpo.evaluation import download as download_room
from mmdpo.evaluation.download import choose_data_dir, default_folder, download
from mmdpo.evaluation.fetch import FetchError
from mmdpo.evaluation.preferences import PREFERENCES
from mmdpo.evaluation.sources import SOURCES, Archive, Data, RemoteFile
from mmdpo.evaluation.unpacking import unpack_pictures, unpack_questions
from mmdpo.shipped import RECIPES

PICTURE = b"\xff\xd8\xff the picture"


class FileServer:
    """Serves `files` by path; `cut` ends its answers after so many bytes, `states` refuses; each once a turn."""

    def __init__(self):
        self.files, self.cut, self.states, self.seen, self.tags = {}, {}, {}, [], True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, handler):
        self.seen.append((handler.path, handler.headers.get("Range")))
        state = self.states.get(handler.path, [])
        content = self.files.get(handler.path)
        if state or content is None:
            handler.send_error(state.pop(0) if state else 404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = 0
        if handler.headers.get("Range") and handler.headers.get("If-Range") in (tag, "", None):
            start = int(re.match(r"bytes=(\d+)-", handler.headers["Range"])[1])
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.tags:
            handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        cuts = self.cut.get(handler.path, [])
        handler.wfile.write(content[start : start + cuts.pop(0)] if cuts else content[start:])
        handler.close_connection = True

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("mmdpo.evaluation.fetch.FIRST_WAIT", 0.001)
    started = FileServer()
    yield started
    started.close()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"deep/../folder/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def get(folder, said=None, images=True, **data):
    said = [] if said is None else said
    download("it", folder, images=images, say=said.append, sources={"it": Data(licences=("It: mine",), **data)})
    return json.loads((folder / "checksums.json").read_text())


def one_file(server, pinned=None, *more):
    addresses = (f"{server.url}/questions.json", *more)
    return {"files": (RemoteFile("data/questions.json", addresses, pinned),)}


def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    content = bytes(range(256)) * 40
    server.files["/questions.json"] = content
    server.cut["/questions.json"] = [3000, 3000]
    said = []
    record = get(tmp_path, said, **one_file(server, sha256(content)))
    assert (tmp_path / "data" / "questions.json").read_bytes() == content
    assert [asked for _, asked in server.seen] == [None, "bytes=3000-", "bytes=6000-"]
    assert record["files"]["data/questions.json"]["pinned"] is True
    assert said[:2] == [f"it → {tmp_path}", "licence: It: mine"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["questions.json"]
    get(tmp_path, **one_file(server, sha256(content)))
    assert len(server.seen) == 3  # what is there is not fetched again


@pytest.mark.parametrize("tags", [True, False], ids=["version_known", "version_unknown"])
def test_the_rest_of_another_version_is_not_put_behind_the_first(server, tmp_path, monkeypatch, tags):
    server.tags = tags
    server.files["/questions.json"] = b"old " * 1000
    server.cut["/questions.json"] = [100]
    monkeypatch.setattr(
        "mmdpo.evaluation.fetch.time.sleep", lambda _: server.files.update({"/questions.json": b"new " * 900})
    )
    get(tmp_path, **one_file(server))
    assert (tmp_path / "data" / "questions.json").read_bytes() == b"new " * 900


def test_a_wrong_checksum_names_file_expected_and_got_and_leaves_nothing_in_place(server, tmp_path):
    server.files["/questions.json"] = b"tampered"
    expected = sha256(b"the original")
    with pytest.raises(
        FetchError, match=rf"questions\.json cannot be fetched.*expected SHA-256 {expected}.*got {sha256(b'tampered')}"
    ):
        get(tmp_path, **one_file(server, expected))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["questions.json.wrong"]
    server.files["/mirror"] = b"the original"
    get(tmp_path, **one_file(server, expected, f"{server.url}/mirror"))
    assert (tmp_path / "data" / "questions.json").read_bytes() == b"the original"


def test_without_a_known_checksum_the_first_download_decides_and_that_is_said(server, tmp_path):
    server.files["/questions.json"] = b"first"
    said = []
    record = get(tmp_path, said, **one_file(server))
    assert record["files"]["data/questions.json"] == {
        "sha256": sha256(b"first"),
        "from": f"{server.url}/questions.json",
        "pinned": False,
    }
    assert any(line.startswith("NOT PINNED BY THE PROJECT: 1 of them (data/questions.json") for line in said)
    (tmp_path / "data" / "questions.json").unlink()
    server.files["/questions.json"] = b"second"
    with pytest.raises(FetchError, match=r"of the first download; if the file was changed on purpose"):
        get(tmp_path, **one_file(server))


def test_a_file_that_was_damaged_since_is_set_aside_and_fetched_again(server, tmp_path):
    server.files["/questions.json"] = b"whole"
    get(tmp_path, **one_file(server))
    (tmp_path / "data" / "questions.json").write_bytes(b"damaged")
    get(tmp_path, **one_file(server))
    assert (tmp_path / "data" / "questions.json").read_bytes() == b"whole"
    assert (tmp_path / "data" / "questions.json.wrong").read_bytes() == b"damaged"


def test_passing_trouble_is_waited_out_and_lasting_trouble_is_named(server, tmp_path, monkeypatch):
    server.files["/questions.json"] = b"here"
    server.states["/questions.json"] = [503, 429, 500]
    get(tmp_path, **one_file(server))
    assert len(server.seen) == 4
    server.states["/questions.json"] = [403]
    with pytest.raises(FetchError, match=r"questions\.json: state 403"):
        get(tmp_path / "other", **one_file(server))
    server.states["/questions.json"] = [503] * 50
    with pytest.raises(FetchError, match=r"state 503.*gave up after 6 tries"):
        get(tmp_path / "other", **one_file(server))
    server.close()
    with pytest.raises(FetchError, match=r"refused.*gave up after 6 tries"):
        get(tmp_path / "third", **one_file(server))


def test_archives_are_unpacked_flat_and_not_kept(server, tmp_path):
    server.files["/images.zip"] = zipped(AMBER1_jpg=PICTURE, AMBER2_jpg=PICTURE, notes_txt=b"")
    archive = Archive("images", (f"{server.url}/images.zip",), unpack_pictures, "2 images", only_images=True)
    record = get(tmp_path, archives=(archive,))
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["checksums.json", "images/AMBER1.jpg", "images/AMBER2.jpg"]
    assert record["archives"]["images"]["sha256"] == sha256(server.files["/images.zip"])
    get(tmp_path, archives=(archive,))
    assert len(server.seen) == 1
    (tmp_path / "images" / "AMBER2.jpg").unlink()
    get(tmp_path, archives=(archive,))
    assert len(server.seen) == 2
    assert (tmp_path / "images" / "AMBER2.jpg").read_bytes() == PICTURE


def test_a_page_instead_of_an_archive_is_not_taken_for_the_first_download(server, tmp_path):
    server.files["/images.zip"] = b"<html>Sign in, please</html>"
    archive = Archive("images", (f"{server.url}/images.zip",), unpack_pictures, "2 images", only_images=True)
    with pytest.raises(FetchError, match="no zip archive"):
        get(tmp_path, archives=(archive,))
    assert not (tmp_path / "checksums.json").exists()
    server.files["/images.zip"] = zipped(a_jpg=PICTURE)
    get(tmp_path, archives=(archive,))


def test_images_are_fetched_one_by_one_and_what_came_is_kept(server, tmp_path):
    (tmp_path / "coco_pope_random.json").write_text('{"image": "a.jpg"}\n{"image": "b.jpg"}\n{"image": "a.jpg"}\n')
    data = {"image_address": lambda name: f"{server.url}/val/{name}", "image_names": SOURCES["pope"].image_names}
    server.files["/val/a.jpg"] = PICTURE
    server.files["/val/b.jpg"] = b"<html>no picture</html>"
    with pytest.raises(FetchError, match=r"b\.jpg cannot be fetched.*neither JPEG nor PNG"):
        get(tmp_path, **data)
    server.files["/val/b.jpg"] = PICTURE
    record = get(tmp_path, **data)
    assert sorted(record["files"]) == ["images/a.jpg", "images/b.jpg"]
    assert [path for path, _ in server.seen].count("/val/a.jpg") == 1
    assert get(tmp_path / "none", images=False, **one_file_of(server))["files"].keys() == {"data/questions.json"}


def one_file_of(server):
    server.files["/questions.json"] = b"q"
    return one_file(server) | {"image_names": lambda folder: ["never.jpg"], "image_address": lambda name: name}


def test_object_halbench_is_taken_out_of_its_official_file(server, tmp_path):
    rows = [{"org_idx": 1, "image_id": 42, "question": "What?", "image": base64.b64encode(PICTURE).decode(), "x": 0}]
    server.files["/with_image.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    questions = b'{"org_idx": 1, "image_id": 42, "question": "What?"}\n'
    file = "obj_halbench_300_questions.jsonl"
    addresses = (f"{server.url}/with_image.jsonl",)
    archive = Archive("all", addresses, unpack_questions, "one", contents={file: sha256(questions)})
    record = get(tmp_path, archives=(archive,))
    assert (tmp_path / file).read_bytes() == questions
    assert (tmp_path / "images" / "COCO_val2014_000000000042.jpg").read_bytes() == PICTURE
    assert [entry["pinned"] for entry in record["files"].values()] == [False, True]
    archive = Archive("all", addresses, unpack_questions, "one", contents={file: sha256(b"other")})
    with pytest.raises(FetchError, match=rf"{file} has a wrong checksum: expected"):
        get(tmp_path / "again", archives=(archive,))


def test_the_pinned_checksums_are_those_of_the_official_files():
    folder = official_data()
    pinned = {(name, file.path): file.sha256 for name, data in SOURCES.items() for file in data.files}
    for name, data in SOURCES.items():
        for archive in data.archives:
            pinned |= {(name, path): checksum for path, checksum in (archive.contents or {}).items()}
    unpinned = {name for name, checksum in pinned.items() if checksum is None}
    assert unpinned == {("haloquest", "haloquest-eval.csv"), ("mmvp", "Questions.csv")}  # not in hand
    pinned = {name: checksum for name, checksum in pinned.items() if name not in unpinned}
    assert len(pinned) == 19
    for (name, path), checksum in pinned.items():
        assert sha256((folder / name / path).read_bytes()) == checksum, path


def test_every_source_has_a_licence_and_every_official_folder_can_be_filled():
    for name, data in SOURCES.items():
        assert data.licences, name
        assert data.files, name
        assert all(re.match(r"https?://|hub:", address) for file in data.files for address in file.addresses)
        has_images = data.archives or data.image_address
        assert has_images or name in ("haloquest", "knowledge_conflict")  # whose images are of other places


def test_what_is_downloaded_is_found_without_a_folder_being_named(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"no data of pope in .*mmdpo eval download pope.*--data_dir"):
        choose_data_dir("pope", None)
    for split in ("random", "popular", "adversarial"):
        server.files[f"/{split}"] = (HAND_MADE / "pope" / f"coco_pope_{split}.json").read_bytes()
    files = tuple(RemoteFile(f"coco_pope_{split[1:]}.json", (server.url + split,)) for split in server.files)
    monkeypatch.setitem(download_room.SOURCES, "pope", Data(("POPE: MIT",), files))
    answers = ["pope", "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path / "run"]
    assert run("download", "pope") == 0
    assert "licence: POPE: MIT" in capsys.readouterr().out
    assert choose_data_dir("pope", None) == default_folder()
    assert run(*answers, "--resamples", "100") == 0
    assert choose_data_dir("pope", tmp_path) == tmp_path


def vlfeedback(server, monkeypatch, rows, pictures):
    """Lets `mmdpo data download mdpo` find these rows and pictures on the server."""
    server.files["/rows.json"] = json.dumps(rows).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in pictures:
            archive.writestr(name, PICTURE + name.encode())
    server.files["/images.zip"] = packed.getvalue()
    real = PREFERENCES["mdpo"]
    (rows_file,), (images,) = real.files, real.archives
    there = replace(
        real,
        files=(replace(rows_file, addresses=(f"{server.url}/rows.json",)),),
        archives=(replace(images, addresses=(f"{server.url}/images.zip",)),),
    )
    monkeypatch.setitem(download_room.PREFERENCES, "mdpo", there)


def test_the_papers_pairs_lie_where_its_recipes_look(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"img_path": "a.jpg", "prompt": "p"}, {"img_path": "deep/b.png", "prompt": "p"}]
    vlfeedback(server, monkeypatch, rows, ["merged_images/a.jpg", "merged_images/b.png", "merged_images/other.jpg"])
    assert main(["data", "download", "mdpo", "--no_images"]) == 0
    recipe = yaml.safe_load(RECIPES.find("bunny-v1.0-3b-mdpo").read_text())
    assert json.loads(Path(recipe["dataset_name"]).read_text()) == rows
    assert not Path(recipe["image_root"]).exists()
    assert main(["data", "download", "mdpo"]) == 0
    root = Path(recipe["image_root"])
    # Those that rows name, by the names that rows have for them; the others of 80,000 are left in the archive.
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*")) == ["a.jpg", "deep/b.png"]
    assert (root / "deep" / "b.png").read_bytes() == PICTURE + b"merged_images/b.png"
    said = capsys.readouterr().out
    assert "no licence is known" in said
    assert "NOT PINNED BY THE PROJECT: 3 of them" in said
    asked = len(server.seen)
    assert main(["data", "download", "mdpo"]) == 0
    assert len(server.seen) == asked, "what is there is not fetched again"


def test_what_the_papers_pairs_cannot_be_is_refused(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vlfeedback(server, monkeypatch, [{"img_path": "../../a.jpg"}], ["a.jpg"])
    assert main(["data", "download", "mdpo"]) == 2
    assert "leads out of the folder" in capsys.readouterr().err
    shutil.rmtree("data")
    vlfeedback(server, monkeypatch, [{"image": "a.jpg"}], ["a.jpg"])
    assert main(["data", "download", "mdpo"]) == 2
    assert "a row has no img_path" in capsys.readouterr().err
    assert main(["data", "download", "mdop"]) == 2
    assert "nothing to download for mdop; did you mean 'mdpo'? There are mdpo, all" in capsys.readouterr().err
