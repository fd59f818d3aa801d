"""Training on a stream: every pair once, resumed exactly, faulty rows met on the way, live references, and errors."""

import json
import os

import datasets
import pytest
import torch
from peft import LoraConfig
from PIL import Image

import small_trainer
from mmdpo import MDPOTrainer
from mmdpo.data.read import read_stream
from mmdpo.data.stream import PreferenceStream
from mmdpo.models.weights import CheckpointError
from mmdpo.records import RowError
from mmdpo.scoring.reference import AdapterOff, FrozenModel
from mmdpo.training.recipe import RecipeError
from mmdpo.training.run import train
from mmdpo.training.streams import SkippedRows, StreamPositionError
from mmdpo.world.pairs import make_pairs

SIZES = (5, 2, 4, 1)
ODD = (2, 1)
"""Shard and place of the row whose picture is damaged in some tests: beyond the rows that are tried before training."""


class Recorder(MDPOTrainer):
    """A trainer that notes the places of the rows which it is given."""

    seen: list[int]

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.model.training:
            self.seen = [*getattr(self, "seen", []), *inputs["index"].tolist()]
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.fixture(scope="module")
def rows():
    return make_pairs(sum(SIZES), seed=5)


def write_shards(folder, rows, damaged=()):
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Dataset.from_list(rows).features
    start = 0
    for shard, size in enumerate(SIZES):
        encoded = datasets.Dataset.from_list(rows[start : start + size], features=features).with_format("arrow")
        content = encoded[:].to_pylist()
        for place in range(size):
            if (shard, place) in damaged:
                content[place]["images"][0]["bytes"] = content[place]["images"][0]["bytes"][:60]
        datasets.Dataset.from_list(content, features=features).to_parquet(folder / f"pairs-{shard}.parquet")
        start += size
    return folder / "pairs-*.parquet"


@pytest.fixture(scope="module")
def shards(tmp_path_factory, rows):
    return write_shards(tmp_path_factory.mktemp("shards"), rows)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, rows):
    return write_shards(tmp_path_factory.mktemp("damaged"), rows, [ODD])


def build_trainer(folder, data, *, with_adapter=True, **changes):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 6}
    options |= {"shuffle_buffer_size": 5, "lr_scheduler_type": "cosine", "freeze_projector": False, **changes}
    dataset = read_stream(data) if isinstance(data, os.PathLike) else data
    adapter = LoraConfig(r=2, lora_alpha=16) if with_adapter else None
    return small_trainer.build_trainer(folder, dataset, kind=Recorder, peft_config=adapter, **options)


def losses_of(trainer):
    return [(e["step"], e["epoch"], e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e]


def listed(folder):
    return [json.loads(line) for line in (folder / "run" / "skipped_rows.jsonl").read_text().splitlines()]


class TestReading:
    @pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow), 3])
    def test_the_first_pass_gives_every_pair_once(self, tmp_path, shards, workers):
        """Three readers do not come to the end of their shares together, and begin anew when they do."""
        trainer = build_trainer(tmp_path, shards, dataloader_num_workers=workers, max_steps=8)
        trainer.train()
        assert len(trainer.seen) == 32
        everything = {(shard << 32) + place for shard, size in enumerate(SIZES) for place in range(size)}
        assert set(trainer.seen) == everything
        if workers == 0:
            assert sorted(trainer.seen[:12]) == sorted(everything) == sorted(trainer.seen[12:24])
            assert trainer.seen[:12] != trainer.seen[12:24], "the second pass is shuffled anew"

    def test_images_are_decoded_in_workers(self, tmp_path, shards, monkeypatch):
        trainer = build_trainer(tmp_path, shards, dataloader_num_workers=1, max_steps=2)
        main, opened = os.getpid(), Image.open
        monkeypatch.setattr(
            Image, "open", lambda *args: pytest.fail("in the main process") if os.getpid() == main else opened(*args)
        )
        trainer.train()
        assert trainer.state.global_step == 2

    @pytest.mark.slow
    def test_a_stream_of_the_datasets_library(self, tmp_path, shards):
        loaded = datasets.load_dataset("parquet", data_files=str(shards), split="train", streaming=True)
        trainer = build_trainer(tmp_path, loaded)
        trainer.train()
        same = build_trainer(tmp_path / "same", shards)
        same.train()
        assert losses_of(trainer) == losses_of(same)


class TestResuming:
    @pytest.mark.parametrize(
        ("workers", "steps", "changes"),
        [
            (0, (4,), {"corruption": "random_image"}),
            (2, (2, 4), {"corruption_per_epoch": True}),
            (3, (2,), {"shuffle_buffer_size": 40}),
        ],
        ids=["none", "two", "three"],
    )
    @pytest.mark.slow
    def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(self, tmp_path, damaged, workers, steps, changes):
        """The damaged row is met in every pass: it must move nothing, neither before nor behind the checkpoint."""

        def run(folder, resume=None):
            options = {
                "on_bad_row": "skip",
                "save_strategy": "steps",
                "save_steps": 2,
                "dataloader_num_workers": workers,
            }
            trainer = build_trainer(folder, damaged, **{**options, **changes})
            trainer.train(resume_from_checkpoint=resume)
            return trainer

        whole = run(tmp_path / "whole")
        skipped = {fault["source"].rpartition("/")[2] for fault in listed(tmp_path / "whole")}
        assert "pairs-2.parquet, row 2" in skipped
        assert len(skipped) == 1 or "corruption" in changes, "only who was to show its picture is skipped with it"
        for step in steps:
            resumed = run(tmp_path / f"from-{step}", str(tmp_path / "whole" / "run" / f"checkpoint-{step}"))
            assert losses_of(resumed) == losses_of(whole)
            assert resumed.seen == whole.seen[4 * step :]
        for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_nothing_before_the_block_at_hand_is_read_again(self, tmp_path, shards, monkeypatch):
        options = {"save_strategy": "steps", "save_steps": 4, "shuffle_buffer_size": 2}
        first = build_trainer(tmp_path / "a", shards, max_steps=4, **options)
        first.train()
        resumed = build_trainer(tmp_path / "b", shards, max_steps=5, **options)
        read, whole = [], PreferenceStream.read
        monkeypatch.setattr(PreferenceStream, "read", lambda self, *place: read.append(place) or whole(self, *place))
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "run" / "checkpoint-4"))
        assert read[0] != (first.seen[12] >> 32, 0), "the second pass was read from its beginning"
        assert len(read) <= 4

    @pytest.mark.slow
    def test_a_run_that_has_ended_takes_no_step_more(self, tmp_path, shards):
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
        build_trainer(tmp_path, shards, **options).train()
        again = build_trainer(tmp_path, shards, **options)
        again.train(resume_from_checkpoint=True)
        assert (again.state.global_step, getattr(again, "seen", [])) == (2, [])

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory, shards):
        folder = tmp_path_factory.mktemp("saved")
        build_trainer(folder, shards, max_steps=1, save_strategy="steps", save_steps=1).train()
        return folder / "run" / "checkpoint-1"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dataloader_num_workers": 2}, "saved with dataloader_num_workers: 0 and this run has 2"),
            ({"shuffle_buffer_size": 6}, "shuffle_buffer_size: 5 there, 6 now"),
            ({"data": "pairs-[012].parquet"}, r"saved with shards and first rows: \w+ and this run has"),
        ],
        ids=["workers", "buffer", "data"],
    )
    def test_what_would_not_go_on_exactly_is_refused(self, tmp_path, shards, checkpoint, changes, message):
        data = shards.parent / changes.get("data", shards.name)
        options = {key: value for key, value in changes.items() if key != "data"}
        trainer = build_trainer(tmp_path, data, max_steps=2, **options)
        with pytest.raises((StreamPositionError, CheckpointError), match=message):
            trainer.train(resume_from_checkpoint=str(checkpoint))

    def test_a_checkpoint_without_a_position_is_refused(self, tmp_path, shards):
        with pytest.raises(StreamPositionError, match=r"holds no stream_position_0\.json"):
            build_trainer(tmp_path, shards, max_steps=2).get_train_dataloader().load(tmp_path)


class TestFaults:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_faulty_row_stops_the_run_and_is_named(self, tmp_path, damaged, workers):
        trainer = build_trainer(tmp_path, damaged, dataloader_num_workers=workers)
        with pytest.raises(
            RowError, match=r"^\S+pairs-2\.parquet, row 2: the embedded image .* cannot be read"
        ) as error:
            trainer.train()
        assert "Traceback" not in str(error.value)

    def test_the_first_rows_are_tried_before_training(self, tmp_path, rows):
        data = write_shards(tmp_path / "data", rows, [(0, 0), (0, 4)])
        with pytest.raises(RowError, match=r"(?s)2 of 5 rows .*pairs-0\.parquet, row 1: .*pairs-0\.parquet, row 5: "):
            build_trainer(tmp_path, data)
        assert build_trainer(tmp_path, data, on_bad_row="skip")

    def test_where_no_row_is_good_it_does_not_look_for_ever(self, tmp_path, rows, shards, monkeypatch):
        everything = [(shard, place) for shard, size in enumerate(SIZES) for place in range(size)]
        data = write_shards(tmp_path / "data", rows, everything)
        with pytest.raises(ValueError, match="every row of the first 5 rows of train is faulty"):
            build_trainer(tmp_path, data, on_bad_row="skip")

        def refuse(items):
            raise ZeroDivisionError("odd")

        monkeypatch.setattr("mmdpo.training.streams._MOST_FAULTS", 30)
        trainer = build_trainer(tmp_path, shards, on_bad_row="skip", dataloader_num_workers=1)
        trainer.data_collator = refuse
        with pytest.raises(RowError, match=r"pairs-\d\.parquet, row \d: 30 faulty rows .* ZeroDivisionError: odd"):
            trainer.train()

    def test_rows_are_listed_once_by_all_processes(self, tmp_path, shards):
        items = build_trainer(tmp_path, shards).train_dataset
        (item, _), (other, _) = (next(items.read(reader, 2)) for reader in (0, 1))
        one, two = items.blame(item, "odd"), items.blame(other, "odder")
        path = tmp_path / "run" / "skipped_rows.jsonl"
        log = SkippedRows(path)
        log.add([one])
        log.add([one])
        SkippedRows(path).add([one, two])
        assert [(fault["row"], fault["problem"]) for fault in listed(tmp_path)] == [
            (one.row, "odd"),
            (two.row, "odder"),
        ]


class TestReference:
    @pytest.mark.parametrize(("with_adapter", "kind"), [(True, AdapterOff), (False, FrozenModel)], ids=["lora", "full"])
    def test_it_is_asked_live(self, tmp_path, shards, rows, with_adapter, kind):
        trainer = build_trainer(tmp_path, shards, with_adapter=with_adapter, eval_dataset=rows[:4], max_steps=2)
        assert isinstance(trainer.reference, kind)
        trainer.train()
        first = trainer.state.log_history[0]
        assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert trainer.evaluate()["eval_rewards/chosen"] != 0


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"max_steps": -1}, "a stream has no length: give max_steps"),
            ({"precompute_ref_log_probs": True}, "precompute_ref_log_probs: true scores all rows before training"),
            ({"train_sampling_strategy": "group_by_length"}, "group_by_length needs to know all rows"),
            ({"train_sampling_strategy": "batch_rebalance"}, "batch_rebalance needs to know all rows"),
            ({"dataloader_in_order": False}, "dataloader_in_order: false does not go with a stream"),
            ({"accelerator_config": {"split_batches": True}}, "split_batches does not go with a stream"),
            ({"corruption": "random_image", "shuffle_buffer_size": 1}, "shuffle_buffer_size must be at least 2"),
            ({"shuffle_buffer_size": 0}, "shuffle_buffer_size must be a whole number of at least 1"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_options_that_a_stream_cannot_follow(self, tmp_path, shards, changes, message):
        with pytest.raises(ValueError, match=message):
            build_trainer(tmp_path, shards, **changes)

    def test_what_is_no_stream_has_no_buffer(self, tmp_path, rows):
        with pytest.raises(ValueError, match="shuffle_buffer_size is for streams"):
            build_trainer(tmp_path, rows)


@pytest.mark.usefixtures("one_panel_on_a_card")
class TestRecipe:
    def arguments(self, tmp_path, name, **changes):
        options = {
            "model_name_or_path": "world",
            "dataset_name": name,
            "dataset_streaming": "true",
            "output_dir": tmp_path / "run",
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": "true",
            "probe": "false",
            "disable_tqdm": "true",
            **changes,
        }
        return [f"--{key}={value}" for key, value in options.items()]

    def test_one_key_makes_a_stream(self, tmp_path, shards):
        trainer = train(self.arguments(tmp_path, shards, logging_steps=1))
        assert len(losses_of(trainer)) == 3
        results = json.loads((tmp_path / "run" / "train_results.json").read_text())
        assert results["train_samples"] == 6
        assert "dataset_streaming: true" in (tmp_path / "run" / "recipe.yaml").read_text()
        assert "precompute_ref_log_probs: false" in (tmp_path / "run" / "recipe.yaml").read_text()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"test_split_size": 0.5}, "test_split_size needs to know all rows"),
            ({"eval_strategy": "steps"}, "has one split: set eval_dataset_name"),
            ({"dataset_name": "world"}, "leave dataset_streaming out"),
        ],
        ids=["split", "evaluation", "world"],
    )
    def test_what_a_stream_has_not(self, tmp_path, shards, changes, message):
        with pytest.raises(RecipeError, match=message):
            train(self.arguments(tmp_path, shards, **changes))

    @pytest.mark.slow
    def test_evaluation_reads_another_dataset_whole(self, tmp_path, shards):
        held_out = shards.parent / "pairs-3.parquet"
        arguments = self.arguments(tmp_path, shards, eval_strategy="steps", eval_steps=2, eval_dataset_name=held_out)
        trainer = train(arguments)
        assert len(trainer.eval_dataset) == 1


class TestEvaluatingOnAStream:
    def test_its_first_rows_are_evaluated_up_to_a_limit(self, tmp_path):
        rows = make_pairs(6, seed=9)

        def give():
            yield from rows

        def evaluate(data, **options):
            trainer = small_trainer.build_trainer(tmp_path, rows, eval_dataset=data, **options)
            return len(trainer.eval_dataset), trainer.evaluate()["eval_logps/chosen"]

        stream = datasets.IterableDataset.from_generator(give)
        assert evaluate(stream, eval_stream_rows=4) == evaluate(rows[:4])
        assert evaluate(stream) == evaluate(rows)
