"""AMBER's table of similar words out of a spaCy model's wheel, without spaCy."""

import io
import json
import zipfile

import numpy as np
import pytest

from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.similarity import PairTable
from mmdpo.benchmarks.word_vectors import WordVectors, hash_word
from mmdpo.evaluation.sources import SOURCES
from mmdpo.evaluation.unpacking import unpack_similar_pairs

WORDS = {"dog": [1, 0], "puppy": [0.9, 0.1], "wolf": [0.8, 0.6], "air": [0, 1], "conditioning": [0, 2], "-": [0, 3]}
"""Vectors: dog and puppy are alike, dog and wolf are at 0.8 exactly, which is not above it."""


def pack(number):
    """A whole number in msgpack, in its shortest form."""
    if number < 128:
        return bytes([number])
    code, size = next((code, size) for code, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)) if number < 256**size)
    return bytes([code]) + number.to_bytes(size, "big")


def key2row(words):
    pairs = b"".join(pack(hash_word(word)) + pack(row) for row, word in enumerate(words))
    return b"\xdf" + len(words).to_bytes(4, "big") + pairs


def vectors(words):
    content = io.BytesIO()
    np.save(content, np.array(list(words.values()), dtype=np.float32))
    return content.getvalue()


@pytest.fixture
def wheel(tmp_path):
    """Writes a wheel as spaCy's are laid out, beside AMBER's list of words; files may be replaced, or left out."""

    def write(name="core_web_lg", **files):
        (tmp_path / "data").mkdir(exist_ok=True)
        associated = {"dog": ["puppy"], "wolf": [], "air-conditioning": ["air"], "unheard": []}
        (tmp_path / "data" / "relation.json").write_text(json.dumps(associated))
        meta = json.dumps({"lang": "en", "name": name, "version": "3.8.0"}).encode()
        inside = {"vocab/vectors": vectors(WORDS), "vocab/key2row": key2row(WORDS), "meta.json": meta}
        inside |= {"vocab/vectors": files["vectors"]} if "vectors" in files else {}
        inside |= {"vocab/key2row": files["rows"]} if "rows" in files else {}
        with zipfile.ZipFile(tmp_path / "model.whl", "w") as archive:
            archive.writestr("en_core_web_lg/meta.json", meta)
            for path, content in inside.items():
                if content is not None:
                    archive.writestr(f"en_core_web_lg/en_core_web_lg-3.8.0/{path}", content)
        return tmp_path / "model.whl"

    return write


def test_words_are_kept_under_spacys_keys():
    """The first is known from spaCy's documentation; the others have every length of a last block."""
    assert hash_word("apple") == 8566208034543834098
    assert len({hash_word("a" * length) for length in range(20)}) == 20
    assert all(0 <= hash_word(word) < 2**64 for word in ("", "é", "日本語", "x" * 100))


def test_the_pairs_above_the_threshold_are_written(wheel, tmp_path):
    ((name, content),) = unpack_similar_pairs(wheel())
    assert name == "similar_pairs.json"
    table = json.loads(content)
    pairs = {(first, second): cosine for first, second, cosine in table["pairs"]}
    # air-conditioning is three tokens, whose mean points where "air" does
    assert set(pairs) == {("dog", "puppy"), ("puppy", "wolf"), ("air", "air-conditioning")}
    assert pairs["dog", "puppy"] == round(0.9 / 0.82**0.5, 4)
    (tmp_path / name).write_bytes(content)
    assert PairTable.read(tmp_path / name).name == "pair table of spaCy en_core_web_lg 3.8.0"


def test_a_word_without_a_vector_is_like_nothing():
    model = WordVectors.read(vectors(WORDS), key2row(WORDS), "m")
    assert model.cosine("unheard", "dog") == model.cosine("unheard", "unheard") == model.cosine("", "dog") == 0
    assert model.cosine("dog", "wolf") == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vectors": b"no array"}, "no word vectors of en_core_web_lg can be read"),
        ({"vectors": None}, "no word vectors"),
        ({"rows": b""}, "no map of words to rows"),
        ({"rows": b"\xdf\0\0\0\2\1\1\2"}, "breaks off"),
        ({"rows": key2row(WORDS)[:-4]}, "breaks off"),
        ({"rows": key2row(WORDS) + b"\1"}, "goes on after its end"),
        ({"rows": b"\xdf\0\0\0\1\1\xc0"}, "no whole number"),
        ({"rows": b"\xdf\0\0\0\1\1\x09"}, "do not fit together"),
        ({"name": "core_web_md"}, "it is en_core_web_md, not en_core_web_lg"),
    ],
)
def test_another_wheel_is_refused(wheel, files, message):
    with pytest.raises(EvaluationError, match=message):
        list(unpack_similar_pairs(wheel(**files)))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page.whl").write_text("<html>")
    with pytest.raises(EvaluationError, match="no zip archive"):
        list(unpack_similar_pairs(tmp_path / "page.whl"))


def test_the_download_of_amber_makes_the_table_even_without_images():
    archive = next(archive for archive in SOURCES["amber"].archives if archive.unpack is unpack_similar_pairs)
    assert not archive.only_images
    assert any("MIT" in licence for licence in SOURCES["amber"].licences)
