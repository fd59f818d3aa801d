"""Streams: every row once in an epoch whoever reads, the exact place to go on, nothing decoded, and clear errors."""

import io
import json
import tarfile
from itertools import islice, takewhile

import datasets
import numpy as np
import pytest
from PIL import Image

from mmdpo.data.faults import Fault
from mmdpo.data.items import Item
from mmdpo.data.read import read_stream
from mmdpo.data.stream import PreferenceStream
from mmdpo.data.stream_items import Position, StreamItems
from mmdpo.records import RowError

SIZES = (7, 3, 5, 9, 2)
FEATURES = datasets.Features(
    {
        **{name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")},
        "images": datasets.List(datasets.Image()),
    }
)


def jpeg(seed=0):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def rows_of(shard, size):
    return [
        {
            "prompt": f"<image>{shard}-{row}?",
            "chosen": "A cup.",
            "rejected": "A car.",
            "images": [{"bytes": jpeg(100 * shard + row), "path": None}],
        }
        for row in range(size)
    ]


def write_parquet(folder, sizes=SIZES):
    folder.mkdir(exist_ok=True)
    for shard, size in enumerate(sizes):
        rows = datasets.Dataset.from_list(rows_of(shard, size), features=FEATURES)
        rows.to_parquet(folder / f"pairs-{shard}.parquet", batch_size=4)
    return folder


def write_tar(path, samples):
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for ending, content in members.items():
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return read_stream(write_parquet(tmp_path_factory.mktemp("shards")) / "pairs-*.parquet")


def make_items(stream, **changes):
    return StreamItems(stream, **{"seed": 3, "order_seed": 5, "block_size": 4, "per_epoch": True, **changes})


def first_epoch(items, reader, readers):
    read = (item for item, _ in items.read(reader, readers))
    return [item.example.prompt for item in takewhile(lambda item: item.epoch == 0, read)]


ALL = sorted(row["prompt"] for shard, size in enumerate(SIZES) for row in rows_of(shard, size))


class TestOrder:
    @pytest.mark.parametrize("readers", [1, 2, 4, 5, 6, 11])
    def test_the_readers_share_out_an_epoch_whether_there_are_more_shards_or_more_readers(self, stream, readers):
        items = make_items(stream)
        assert sorted(prompt for reader in range(readers) for prompt in first_epoch(items, reader, readers)) == ALL

    def test_the_epochs_follow_each_other_whole_and_each_in_its_own_order(self, stream):
        read = list(islice((item for item, _ in make_items(stream, block_size=10).read(0, 1)), 3 * len(ALL)))
        epochs = [[i.example.prompt for i in read if i.epoch == epoch] for epoch in range(3)]
        assert [item.epoch for item in read] == sorted(item.epoch for item in read)
        assert [sorted(epoch) for epoch in epochs] == [ALL] * 3
        shards = [list(dict.fromkeys(prompt.split("-")[0] for prompt in epoch)) for epoch in epochs]
        assert len({tuple(order) for order in shards}) == 3, "shards come in one order"

    def test_rows_are_shuffled_within_blocks_by_the_seed(self, stream):
        one, same, other, plain = (
            first_epoch(make_items(stream, order_seed=seed, block_size=size), 0, 1)
            for seed, size in [(5, 9), (5, 9), (6, 9), (5, 1)]
        )
        assert one == same != other
        assert plain != one
        for block in range(0, len(ALL), 9):
            assert sorted(one[block : block + 9]) == sorted(plain[block : block + 9])
        assert one[:9] != plain[:9]


class TestPosition:
    @pytest.mark.parametrize(("readers", "block_size"), [(1, 4), (2, 1), (2, 40), (8, 4)])
    def test_from_every_position_the_stream_goes_on_as_it_would_have(self, stream, readers, block_size):
        """40 rows are more than a reader's epoch, so that one block holds the ends of several."""
        items = make_items(stream, block_size=block_size, draw_others=block_size > 1)
        whole = list(islice(items.read(readers - 1, readers), 70))
        for stop in (0, 2, 3, 4, 11, 24, 25, 26, 27, 39, 40, 63):
            resumed = list(islice(items.read(readers - 1, readers, whole[stop][1]), 4))
            assert resumed == whole[stop + 1 : stop + 5], stop

    def test_a_position_is_not_far_from_where_the_reader_stands(self, stream):
        """Nothing but the block at hand is read again; to go on must not mean to begin."""
        for item, position in islice(make_items(stream, block_size=4).read(0, 1), 60):
            assert position.taken < 4
            assert position.epoch >= item.epoch - 1


class TestRows:
    def test_nothing_is_decoded(self, stream, monkeypatch):
        monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("an image was opened"))
        items = [item for item, _ in islice(make_items(stream).read(0, 1), 30)]
        assert all(isinstance(item.example.images[0], bytes) for item in items)

    def test_a_row_is_known_by_its_shard_and_number(self, stream):
        items = make_items(stream)
        for item, _ in islice(items.read(0, 1), 26):
            shard, row = map(int, item.example.prompt.removeprefix("<image>").strip("?").split("-"))
            assert item.example.id == f"{shard}/{row + 1}"
            assert item.example.source == items.source_of(item.index)
            assert item.example.source.endswith(f"pairs-{shard}.parquet, row {row + 1}")
            assert items.blame(item, "odd") == Fault(row + 1, item.example.source, "odd")

    def test_ids_of_the_rows_win(self):
        rows = [
            {"id": f"a{k}", "prompt": "<image>?", "chosen": "x", "rejected": "y", "images": ["a.jpg"]} for k in "12"
        ]
        stream = PreferenceStream.from_rows(datasets.Dataset.from_list(rows).to_iterable_dataset(), image_root="pics")
        (one, _), (two, _) = islice(make_items(stream).read(0, 1), 2)
        assert {one.example.id, two.example.id} == {"a1", "a2"}
        assert str(one.example.images[0]) == "pics/a.jpg"

    def test_the_other_picture_is_another_one_of_the_block(self, stream):
        items = make_items(stream, draw_others=True)
        read = [item for item, _ in islice(items.read(0, 1), 26)]
        for start in range(0, 24, 4):
            block = read[start : start + 4]
            pictures = {item.example.images for item in block}
            assert all(item.other_images in pictures - {item.example.images} for item in block)
        assert len({item.other_images for item in read}) > 10

    def test_where_there_is_no_other_picture_the_row_is_faulty(self, stream):
        fault, _ = next(make_items(stream, block_size=1, draw_others=True).read(0, 1))
        assert "raise shuffle_buffer_size" in fault.problem
        assert fault.source.endswith(f"row {fault.row}")

    def test_an_odd_row_is_a_fault_and_the_stream_goes_on(self):
        rows = [
            {"prompt": "<image>?", "chosen": "x", "rejected": "y", "images": image} for image in ("a", "s3://a", "b")
        ]
        stream = PreferenceStream.from_rows(datasets.Dataset.from_list(rows).to_iterable_dataset(), name="pairs")
        kinds = {type(item): item for item, _ in islice(make_items(stream).read(0, 1), 3)}
        assert kinds.keys() == {Item, Fault}
        assert (kinds[Fault].source, kinds[Fault].row) == ("pairs, shard 1, row 2", 2)

    def test_the_fingerprint_tells_data_apart(self, stream, tmp_path):
        again = read_stream(write_parquet(tmp_path / "a") / "pairs-*.parquet")
        fewer = read_stream(write_parquet(tmp_path / "b", SIZES[:-1]) / "pairs-*.parquet")
        rows = datasets.Dataset.from_list(rows_of(0, 30), features=FEATURES)
        shuffled = [
            PreferenceStream.from_rows(rows.to_iterable_dataset(5).shuffle(seed=seed)).fingerprint for seed in (1, 2)
        ]
        assert stream.fingerprint == again.fingerprint
        assert len({stream.fingerprint, fewer.fingerprint, *shuffled}) == 4


class TestErrors:
    def test_a_damaged_shard_is_named(self, tmp_path):
        folder = write_parquet(tmp_path)
        whole = (folder / "pairs-3.parquet").read_bytes()
        (folder / "pairs-3.parquet").write_bytes(whole[:200] + b"\0" * 400 + whole[600:])
        items = make_items(read_stream(folder))
        with pytest.raises(RowError, match=r"pairs-3\.parquet: cannot be read after row \d+ \(.+fetch it again"):
            list(islice(items.read(0, 1), 60))

    def test_a_truncated_archive_is_named(self, tmp_path):
        row = {"prompt": "<image>?", "chosen": "x", "rejected": "y"}
        path = write_tar(tmp_path / "a.tar", {f"{k:03}": {"jpg": jpeg(k), "json": row} for k in range(90)})
        path.write_bytes(path.read_bytes()[: 85 * 2 * 1024 + 700])
        with pytest.raises(
            RowError, match=r"a\.tar: cannot be read after row 64 \(ReadError: unexpected end of data\)"
        ):
            list(islice(make_items(read_stream(path)).read(0, 1), 300))

    def test_a_reader_without_a_row(self, tmp_path):
        stream = read_stream(write_parquet(tmp_path, (1,)) / "pairs-0.parquet")
        with pytest.raises(RowError, match=r"reader 2 of 2 finds no row in 10 passes.*lower dataloader_num_workers"):
            next(make_items(stream).read(1, 2))

    def test_what_cannot_be_streamed(self, tmp_path):
        (tmp_path / "rows.json").write_text("[]")
        for name in ("none.parquet", "./none-*.tar", str(tmp_path / "none")):
            with pytest.raises(FileNotFoundError, match="there is no such file"):
                read_stream(name)
        with pytest.raises(ValueError, match=r"files ending in \.json are not read as shards: give \.parquet or \.tar"):
            read_stream(tmp_path / "rows.json")
        with pytest.raises(ValueError, match="cannot be read as a dataset"):
            read_stream(write_parquet(tmp_path / "folder"), split="nowhere")
        with pytest.raises(ValueError, match="train: there are no rows"):
            PreferenceStream.from_rows(datasets.IterableDataset.from_generator(lambda: iter(())))
        odd = datasets.Dataset.from_list([{"question": "?"}]).to_iterable_dataset()
        with pytest.raises(ValueError, match="in no known format"):
            PreferenceStream.from_rows(odd)


class TestKinds:
    def test_folder_pattern_and_file_of_parquet(self, tmp_path):
        folder = write_parquet(tmp_path)
        for path, shards in ((folder, 5), (folder / "pairs-[12].parquet", 2), (folder / "pairs-4.parquet", 1)):
            stream = read_stream(path)
            assert (stream.num_shards, stream.head.format.name) == (shards, "trl")
            assert first_epoch(make_items(stream), 0, 1)

    def test_splits_of_a_folder(self, tmp_path):
        folder = write_parquet(tmp_path, (3, 2))
        (folder / "pairs-0.parquet").rename(folder / "train-0.parquet")
        (folder / "pairs-1.parquet").rename(folder / "test-0.parquet")
        assert len(first_epoch(make_items(read_stream(folder)), 0, 1)) == 3
        assert len(first_epoch(make_items(read_stream(folder, split="test")), 0, 1)) == 2

    @pytest.mark.parametrize("place", [0, 9], ids=["at once", "late"])
    def test_webdataset_with_members_that_only_some_rows_have(self, tmp_path, place):
        samples = {
            f"{k:02}": {
                "2.png": jpeg(k),
                "10.png": jpeg(k + 20),
                "json": {"prompt": f"<image><image>{k}?", "chosen": "x", "rejected": "y"},
            }
            for k in range(10)
        }
        samples[f"{place:02}"]["json"]["clarity"] = 0.5
        stream = read_stream(write_tar(tmp_path / "a.tar", samples))
        assert stream.head.format.name == "webdataset"
        read = {item.example.prompt: item.example for item, _ in islice(make_items(stream).read(0, 1), 10)}
        assert read[f"<image><image>{place}?"].images == (jpeg(place), jpeg(place + 20)), "ten comes behind two"
        weights = {prompt: dict(example.weights) for prompt, example in read.items() if example.weights}
        assert weights == ({"<image><image>0?": {"clarity": 0.5}} if place == 0 else {}), "the first five rows decide"

    def test_a_stream_of_decoded_images_or_of_another_format_is_read_as_it_is_stored(self, tmp_path):
        loaded = datasets.load_dataset("parquet", data_files=str(write_parquet(tmp_path) / "*.parquet"), streaming=True)
        stream = PreferenceStream.from_rows(loaded["train"].with_format("numpy"), name="mine")
        item, _ = next(make_items(stream).read(0, 1))
        assert isinstance(item.example.images[0], bytes)
        assert item.example.source.startswith("mine, shard ")

    def test_a_stream_that_was_mapped_and_shuffled_before_goes_on_exactly_as_well(self):
        rows = datasets.Dataset.from_list(
            [row for shard, size in enumerate(SIZES) for row in rows_of(shard, size)], features=FEATURES
        )
        mapped = rows.to_iterable_dataset(5).map(lambda row: {**row, "chosen": row["chosen"].upper()})
        items = make_items(PreferenceStream.from_rows(mapped.shuffle(seed=1, buffer_size=3)))
        whole = list(islice(items.read(0, 1), 40))
        assert whole[0][0].example.responses["chosen"] == "A CUP."
        assert sorted(first_epoch(items, 0, 1)) == ALL
        for stop in range(0, 35, 5):
            resumed = [item.example.prompt for item, _ in islice(items.read(0, 1, whole[stop][1]), 4)]
            assert resumed == [item.example.prompt for item, _ in whole[stop + 1 : stop + 5]]


def test_the_position_is_plain(stream):
    *_, (_, position) = islice(make_items(stream).read(0, 1), 33)
    assert Position(**json.loads(json.dumps(position.__dict__))) == position
