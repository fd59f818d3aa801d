"""What a trained run, or a model with and without the picture, makes of answers: for judges that ask nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmdpo.generation import CheckpointOptions
from mmdpo.pairs.judging import JudgeChoice
from mmdpo.pairs.prompts import Prompt
from mmdpo.records import CHOSEN, NO_IMAGE, ORIGINAL, Cell, PreferenceExample

BATCH_SIZE = 16


def make_rewards(choice: JudgeChoice, options: CheckpointOptions) -> Callable[[Prompt, Sequence[str]], list[float]]:
    """Returns what gives answers to a prompt their rewards, in nats; its models are loaded when it is first called.

    Of the judge `reward`: log π under the run less that under what it was trained from. Of `image_gain`: log π with the
    picture less that without it, under the model that `run` names.
    """
    assert choice.run is not None
    return _ImageGain(choice.run, options) if choice.judge == "image_gain" else _Reward(choice.run, options)


class _Scored:
    """A model, and log π of answers under it."""

    cells: tuple[Cell, ...] = (Cell(ORIGINAL, CHOSEN),)

    def __init__(self, run: str, options: CheckpointOptions) -> None:
        self.run = run
        self.options = replace(options, adapter=None, revision="main")  # those are of the model that answers

    @cached_property
    def checkpoint(self) -> Any:
        from mmdpo.generation.checkpoint import Checkpoint

        return Checkpoint(self.run, self.options)

    @cached_property
    def model(self) -> Any:
        from mmdpo.models.load import load_model

        return load_model(self.checkpoint.start).eval()

    @cached_property
    def collator(self) -> Any:
        from mmdpo.data.collate import Collator
        from mmdpo.data.prepare import Preparer
        from mmdpo.training.assembly import find_context_length

        config = self.checkpoint.start.config
        prepare = Preparer(self.checkpoint.load_renderer(), self.cells, {}, 0, comparisons=())
        return Collator(prepare, None, (), find_context_length(config))

    def describe(self) -> dict[str, Any]:
        """Returns the digests of the weights, or the hub's commit; raises what opening the model raises."""
        found = self.checkpoint.describe()
        return {name: found[name] for name in ("weights", "adapter_weights")}

    def score(self, model: Any, prompt: Prompt, texts: Sequence[str]) -> Any:
        """Returns log π of each cell, of every answer."""
        from mmdpo.diagnosis.pair_scores import score_pairs

        examples = [
            PreferenceExample(
                id=f"{prompt.id}/{number}",
                prompt=prompt.turns,
                responses={CHOSEN: ({"role": "assistant", "content": [{"type": "text", "text": text}]},)},
                images=prompt.images,
                source=prompt.source,
            )
            for number, text in enumerate(texts)
        ]
        found = score_pairs(model, self.collator, examples, batch_size=BATCH_SIZE, try_first=False)
        return [found.by_cell[cell] for cell in self.cells]


class _Reward(_Scored):
    @cached_property
    def reference(self) -> Any:
        """What the run was trained from; None for an adapter on a model, which is taken off instead."""
        from mmdpo.checkpoints.card import find_base, find_start_adapter
        from mmdpo.generation.checkpoint import Checkpoint
        from mmdpo.models.load import load_model

        base, adapter = find_base(Path(self.run)), find_start_adapter(Path(self.run))
        if adapter is None and hasattr(self.model, "disable_adapter"):
            return None
        if base is None:
            raise ValueError(
                f"{self.run}: its recipe does not say what it was trained from; name a folder of mmdpo train"
            )
        return load_model(Checkpoint(base, replace(self.options, adapter=adapter)).start).eval()

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        (trained,) = self.score(self.model, prompt, texts)
        reference = self.reference
        with self.model.disable_adapter() if reference is None else nullcontext():
            (before,) = self.score(self.model if reference is None else reference, prompt, texts)
        return [float(value) for value in trained - before]


class _ImageGain(_Scored):
    cells = (Cell(ORIGINAL, CHOSEN), Cell(NO_IMAGE, CHOSEN))

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        seen, unseen = self.score(self.model, prompt, texts)
        return [float(value) for value in seen - unseen]
