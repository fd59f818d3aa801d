"""Any dataset as one Parquet file, with its images inside."""

import io
import resource
from typing import ClassVar

import datasets
import numpy as np
import pytest
from PIL import Image

from mmdpo.data import formats
from mmdpo.data.convert import convert_dataset, normalise_weights, write_examples
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import digest_image
from mmdpo.data.read import read_dataset, read_stream
from mmdpo.files import UnusableFileError
from mmdpo.records import RowError


def png(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def pairs(count=4, **columns):
    return [
        {"id": f"p{n}", "prompt": f"<image>What is {n}?", "chosen": "A cup.", "rejected": "A car.", "images": [png(n)]}
        | columns
        for n in range(count)
    ]


def convert(tmp_path, rows, format="auto", **options):
    out = tmp_path / "out.parquet"
    return convert_dataset(PreferenceDataset.from_rows(rows, format=format, image_root=tmp_path), out, **options), out


def content(example):
    """What a run reads of an example, with images by what they show."""
    return (
        example.id,
        example.prompt,
        dict(example.responses),
        [digest_image(image) for image in example.images],
        [digest_image(image) for image in example.rejected_images],
        example.weights,
    )


def embed(value):
    """A picture in place of bytes that begin like one."""
    if isinstance(value, bytes):
        return png(sum(value))
    return {key: embed(entry) for key, entry in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", formats.names())
def test_every_format_comes_out_as_it_would_have_been_read(tmp_path, name):
    row = dict(formats.load(name).examples[-1])
    for file in ("cup.jpg", "cup-cropped.jpg", "images/cup.jpg", "images/car.jpg", "llava-1.jpg", "short/cup.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(png(len(file)))
    row = {key: embed(value) for key, value in row.items()}
    before = PreferenceDataset.from_rows([row], format=name, image_root=tmp_path)[0]
    conversion, out = convert(tmp_path, [row], name)
    assert (conversion.rows, conversion.written, conversion.faults) == (1, 1, ())
    assert content(read_dataset(out)[0]) == content(before)


def test_it_streams_and_shows_its_images(tmp_path):
    _, out = convert(tmp_path, pairs())
    stream = read_stream(out)
    assert [stream.parse(row, 0, place).id for place, row in enumerate(stream.read(0))] == ["p0", "p1", "p2", "p3"]
    loaded = datasets.load_dataset("parquet", data_files=str(out), split="train", cache_dir=tmp_path / "cache")
    assert loaded[2]["images"][0].size == (8, 8)


def test_what_is_the_same_is_written_once(tmp_path):
    rows = [*pairs(3), {**pairs(1)[0], "id": "again"}]
    (tmp_path / "copy.png").write_bytes(png(1))
    rows.append({**rows[1], "id": "by path", "images": ["copy.png"]})
    conversion, out = convert(tmp_path, rows)
    assert (conversion.rows, conversion.pairs, conversion.repeats, conversion.written) == (5, 5, 2, 3)
    assert [example.id for example in read_dataset(out)] == ["p0", "p1", "p2"]


def test_faulty_rows_stop_it_or_are_left_out(tmp_path):
    rows = pairs(3)
    rows[1]["images"] = ["missing.png"]
    with pytest.raises(RowError, match=r"^train, row 2: image file .*missing\.png.*--on_bad_row skip leaves them out"):
        convert(tmp_path, rows)
    assert not list(tmp_path.iterdir())
    conversion, out = convert(tmp_path, rows, skip=True)
    assert [(fault.row, conversion.written) for fault in conversion.faults] == [(2, 2)]
    assert len(read_dataset(out)) == 2


def test_what_the_file_would_lose_is_refused(tmp_path):
    thoughtful = {"role": "assistant", "content": "A cup.", "reasoning_content": "Round."}
    row = {
        "prompt": [{"role": "user", "content": "What?"}],
        "chosen": [thoughtful],
        "rejected": [{"role": "assistant", "content": "A car."}],
        "images": [png(0)],
    }
    with pytest.raises(RowError, match="reasoning_content beside role and content, which the file would lose"):
        convert(tmp_path, [row])


def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    out.write_bytes(b"before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        convert(tmp_path, pairs())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.parquet", b"before")]


class TestVLFeedback:
    ROW: ClassVar = dict(formats.load("vlfeedback").examples[0], img_path="a.png")

    def rows(self, ratings):
        completions = [
            {"response": f"answer {n}", "annotations": {"Helpfulness": {"Rating": str(rating)}}}
            for n, rating in enumerate(ratings)
        ]
        return [{**self.ROW, "completions": completions, "id": f"v{number}"} for number in range(2)]

    @pytest.fixture(autouse=True)
    def picture(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(0))

    def test_all_pairs_of_different_ratings(self, tmp_path):
        conversion, out = convert(tmp_path, self.rows([5, 3, 3])[:1], pairs="all")
        assert conversion.written == 2
        assert [example.id for example in read_dataset(out)] == ["v0-1", "v0-2"]

    def test_a_sample_is_drawn_by_the_seed_alone(self, tmp_path):
        rows = self.rows([1, 2, 3, 4, 5])
        rows[1]["prompt"] = "And this?"

        def draw(seed):
            conversion, out = convert(tmp_path, rows, pairs="all", sample=7, seed=seed)
            assert (conversion.pairs, conversion.written) == (20, 7)
            return [example.id for example in read_dataset(out)]

        assert draw(0) == draw(0) != draw(1)
        with pytest.raises(ValueError, match="21 of 20 pairs cannot be drawn"):
            convert(tmp_path, rows, pairs="all", sample=21)


class TestWeights:
    def test_by_hand(self):
        # Mean 2, standard deviation 1: 1 ± √0.1 is beyond the bounds.
        assert normalise_weights([1.0, 3.0]) == [0.75, 1.25]
        assert normalise_weights([0.0, 2.0, 2.0, 2.0, 4.0])[1] == 1.0
        scores = normalise_weights([0.0, 1.0, 2.0, 3.0, 4.0])
        assert scores[3] == pytest.approx(1 + 0.1**0.5 / 2**0.5)
        assert normalise_weights([3.0, 3.0]) == [1.0, 1.0]

    def test_they_become_the_column_weight(self, tmp_path):
        rows = [row | {"score": float(number)} for number, row in enumerate(pairs(3))]
        _, out = convert(tmp_path, rows, normalise="score")
        assert [example.weights for example in read_dataset(out)] == [
            {"score": 0.0, "weight": 0.75},
            {"score": 1.0, "weight": 1.0},
            {"score": 2.0, "weight": 1.25},
        ]
        with pytest.raises(RowError, match=r"row 1: there is no numeric column 'rating' to normalise, only score"):
            convert(tmp_path, rows, normalise="rating")


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"boxes": [[0, 1, 2, 3]]}, {"regions": (((0.0, 1.0, 2.0, 3.0),),)}),
        ({"masks": [png(9)]}, {"regions": (png(9),)}),
        ({"rejected_noised": 1}, {"is_corrupted": True}),
        ({"rejected_noised": 0}, {"is_corrupted": False}),
    ],
)
def test_marks_of_rows_are_kept(tmp_path, columns, kept):
    _, out = convert(tmp_path, pairs(2, **columns))
    assert [{name: getattr(example, name) for name in kept} for example in read_dataset(out)] == [kept] * 2


def test_rows_of_two_kinds_are_not_mixed(tmp_path):
    rows = [*pairs(1), {**pairs(1)[0], "prompt": [{"role": "user", "content": "What?"}]}]
    for name in ("chosen", "rejected"):
        rows[1][name] = [{"role": "assistant", "content": rows[1][name]}]
    with pytest.raises(RowError, match="some prompts are plain text and others chat turns"):
        convert(tmp_path, rows)


def test_examples_can_be_written_without_a_dataset(tmp_path):
    examples = list(PreferenceDataset.from_rows(pairs(2)))
    assert write_examples(examples, tmp_path / "two.parquet") == 2
    assert [content(e) for e in read_dataset(tmp_path / "two.parquet")] == [content(e) for e in examples]


@pytest.mark.parametrize("most", [2, 900, 100_000], ids=["head", "end", "rows"])
def test_a_disk_that_fills_leaves_what_was_there_and_is_told_by_the_file_s_name(most, tmp_path):
    """The library writes the head of a file as it opens it, rows as they come, and an index at the end."""
    count = 4 if most < 1_000 else 600
    _, out = convert(tmp_path, pairs(2))
    before, limits = out.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(UnusableFileError, match=r"out\.parquet: cannot be written \(File too large\); make room"):
            convert(tmp_path, pairs(count))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
