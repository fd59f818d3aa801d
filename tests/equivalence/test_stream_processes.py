"""Two processes on a stream: each reads a part of its own, together they read all, and a resumed run sees the same."""

import json

import datasets
import pytest

import forked
from mmdpo.world.pairs import make_pairs

SIZES = (9, 2, 7)
"""Three shards for two processes of two workers each: one is shared by two readers, and none is as long as another."""

SCRIPT = """
import json, sys
from pathlib import Path
from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.data.read import read_stream
from mmdpo.training.distributed import DisagreementError

class Recorder(MDPOTrainer):
    seen = ()
    def compute_loss(self, model, inputs, *args, **kwargs):
        self.seen = (*self.seen, *inputs["index"].tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)

data, folder, resume = sys.argv[1], Path(sys.argv[2]), sys.argv[3] or None
def build(pattern):
    args = MDPOConfig(
        output_dir=str(folder / "run"), per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=12,
        learning_rate=1e-3, lr_scheduler_type="constant", warmup_steps=0, gradient_checkpointing=False, seed=1,
        freeze_projector=False, logging_steps=1, save_strategy="steps", save_steps=5, report_to="none", use_cpu=True,
        disable_tqdm=True, dataloader_num_workers=2, shuffle_buffer_size=4, corruption_per_epoch=True,
    )
    return Recorder("world", args=args, train_dataset=read_stream(f"{data}/{pattern}"))

trainer = build("pairs-*.parquet")
trainer.train(resume_from_checkpoint=resume)
rank = trainer.args.process_index
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
error = ""
try:
    build("pairs-*.parquet" if rank == 0 else "pairs-[12].parquet").get_train_dataloader()
except DisagreementError as raised:
    error = str(raised)
(folder / f"{rank}.json").write_text(json.dumps({"seen": trainer.seen, "losses": losses, "error": error}))
"""


def run(folder, data, resume=""):
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    forked.run_ranks(folder / "script.py", data, folder, resume)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_share_out_a_stream_and_go_on_exactly(tmp_path):
    (tmp_path / "data").mkdir()
    rows = datasets.Dataset.from_list(make_pairs(sum(SIZES), seed=5))
    starts = [sum(SIZES[:shard]) for shard in range(3)]
    for shard, (start, size) in enumerate(zip(starts, SIZES, strict=True)):
        rows.select(range(start, start + size)).to_parquet(tmp_path / "data" / f"pairs-{shard}.parquet")

    whole = run(tmp_path / "whole", tmp_path / "data")
    seen = [rank["seen"] for rank in whole]
    assert [len(each) for each in seen] == [24, 24], "processes with unequal shares take the same steps"
    assert set(seen[0][:4]).isdisjoint(seen[1][:4])
    assert {*seen[0], *seen[1]} == {(shard << 32) + place for shard, size in enumerate(SIZES) for place in range(size)}
    assert whole[0]["losses"] == whole[1]["losses"]
    assert len(whole[0]["losses"]) == 12

    resumed = run(tmp_path / "resumed", tmp_path / "data", tmp_path / "whole" / "run" / "checkpoint-5")
    for one, other in zip(whole, resumed, strict=True):
        assert other["losses"] == one["losses"]
        assert other["seen"] == one["seen"][10:]
        assert "shards and first rows is" in one["error"]
        assert "leave dividing and shuffling the stream to the trainer" in one["error"]
