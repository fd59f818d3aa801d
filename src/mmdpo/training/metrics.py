"""What a run reports: TRL's metric names where TRL has one, and the same pattern beyond them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmdpo.models.devices import send
from mmdpo.objective import CellScore, Objective, ObjectiveLosses, Rank, Scores, name_cell
from mmdpo.registry import name_nearest


def describe_batch(
    objective: Objective, scores: Scores, losses: ObjectiveLosses, beta: float
) -> dict[str, Float[Tensor, "B"]]:
    """Returns every metric of a batch, per example, detached.

    `loss/<term>`; `logps/<cell>` in nats; `rewards/<cell>`; and for each ranked pair its margin and how often it is
    right: `rewards/margins`, `rewards/accuracies` for responses (TRL's names), `rewards/image_margins`,
    `rewards/image_accuracies` for images.
    """
    metrics = {f"loss/{label}": value for label, value in losses.by_term.items()}
    rewards = {}
    for cell, score in scores.items():
        metrics[f"logps/{name_cell(cell)}"] = score.logprob
        if score.ref_logprob is not None:
            rewards[cell] = beta * score.logratio
            metrics[f"rewards/{name_cell(cell)}"] = rewards[cell]
    for term in objective.terms:
        if isinstance(term, Rank) and len(term.ranked) == 2:
            margin = rewards[term.ranked[0]] - rewards[term.ranked[1]]
            kind = term.label.replace("rank_", "", 1) + "_"
            kind = "" if kind == "response_" else kind
            metrics[f"rewards/{kind}margins"] = margin
            metrics[f"rewards/{kind}accuracies"] = (margin > 0).float()
    return {name: value.detach() for name, value in metrics.items()}


def list_image_metrics(objective: Objective) -> frozenset[str]:
    """Returns the metrics of `describe_batch` that say nothing of an example without images."""
    others = tuple(term for term in objective.terms if not term.needs_image)
    return frozenset(metric_names(objective)).difference(metric_names(Objective(others)) if others else ())


def metric_names(objective: Objective) -> tuple[str, ...]:
    """Returns the names that `describe_batch` gives for an objective, without a batch."""
    one = torch.ones(1)
    scores = {cell: CellScore(one, one.long(), one) for cell in objective.cells}
    losses = objective.losses(scores, beta=1.0, weights=dict.fromkeys(objective.weight_columns, one))
    return tuple(describe_batch(objective, scores, losses, 1.0))


def check_best_metric(name: str | None, objective: Objective, eval_sets: Iterable[str]) -> None:
    """Raises ValueError, with the nearest name, for a `metric_for_best_model` that no evaluation will give.

    `eval_sets` are the names of several evaluation datasets, and empty where there is one.
    """
    if name is None:
        return
    own = ("loss", *metric_names(objective), "runtime", "samples_per_second", "steps_per_second")
    prefixes = [f"eval_{dataset}_" for dataset in eval_sets] or ["eval_"]
    known = [f"{prefix}{metric}" for prefix in prefixes for metric in own]
    if f"eval_{name.removeprefix('eval_')}" in known:
        return
    nearest = name_nearest(f"eval_{name.removeprefix('eval_')}", known)
    raise ValueError(f"metric_for_best_model: no evaluation gives {name!r}{nearest} There are {', '.join(known)}")


class RunningMean:
    """Mean over all examples of training so far, on all processes, kept on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._total = torch.zeros(2)
        """Sum and count."""

    def update(self, values: Float[Tensor, "B"], counts: Bool[Tensor, "B"], accelerator: Any) -> Float[Tensor, ""]:
        """Adds the examples of a batch that count, of every process, and returns the mean. Every process calls it."""
        part = torch.stack([torch.where(counts, values, 0.0).sum().float(), counts.sum().float()])
        if accelerator.num_processes > 1:
            part = accelerator.reduce(part, reduction="sum")
        self._total = send(self._total, part.device) + part
        return self.value

    @property
    def value(self) -> Float[Tensor, ""]:
        """The mean, 0 before the first example."""
        return self._total[0] / self._total[1].clamp(min=1)

    def state(self) -> list[float]:
        """Returns sum and count, for a checkpoint: the same on every process."""
        return self._total.tolist()

    def restore(self, state: Sequence[float]) -> None:
        """Goes on from the sum and count of a checkpoint."""
        self._total = torch.tensor(state)


class LossWatch:
    """Remembers the first losses that are not finite, on the device: whoever asks for them waits for it."""

    NAMED = 5
    """Rows of that micro-batch that are kept."""

    def __init__(self) -> None:
        self._found: Int[Tensor, "6"] | None = None
        """The step, then rows; −1 where there is none."""

    def add(self, losses: Float[Tensor, "B"], index: Int[Tensor, "B"], step: int) -> None:
        """Looks at the losses of a micro-batch, whose rows are `index`."""
        rows = torch.where(torch.isfinite(losses.detach()), -1, index)
        rows = torch.cat([rows.topk(min(self.NAMED, len(rows))).values, rows.new_full((self.NAMED,), -1)])[: self.NAMED]
        found = torch.cat([torch.where(rows[:1] >= 0, step, -1), rows])
        self._found = found if self._found is None else torch.where(self._found[:1] >= 0, self._found, found)

    def find(self) -> tuple[int, list[int]] | None:
        """Returns the step and the rows, up to `NAMED`; None where all losses were finite."""
        if self._found is None:
            return None
        step, *rows = self._found.tolist()
        return None if step < 0 else (step, sorted(row for row in rows if row >= 0))


class MetricSums:
    """Sums and counts per metric on the device, so that a step waits for nothing and a mean is one over examples."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Any]] = defaultdict(lambda: [0.0, 0])

    def add(self, metrics: Mapping[str, Float[Tensor, "B"]], counts: Bool[Tensor, "B"] | None = None) -> None:
        """Adds the examples of a batch, without those that do not count."""
        for name, values in metrics.items():
            entry = self._sums[name]
            entry[0] = entry[0] + (values.sum() if counts is None else torch.where(counts, values, 0.0).sum())
            entry[1] = entry[1] + (len(values) if counts is None else counts.sum())

    def state(self) -> dict[str, list[Any]]:
        """Returns the sums and counts of this process, for a checkpoint."""
        return {name: list(entry) for name, entry in self._sums.items()}

    def restore(self, state: Mapping[str, list[Any]]) -> None:
        """Goes on from the sums and counts of a checkpoint."""
        self._sums.clear()
        self._sums.update({name: list(entry) for name, entry in state.items()})

    def flush(self, accelerator: Any) -> dict[str, float]:
        """Returns the means over all processes and forgets the sums; what no example counts for is left out.

        Every process must call it.
        """
        if not self._sums:
            return {}
        names = list(self._sums)
        # One transfer for all: each of them waits until the device has done what it was asked for.
        entries = [torch.as_tensor(entry, device=accelerator.device) for pair in self._sums.values() for entry in pair]
        table = torch.stack([entry.float() for entry in entries]).cpu().double().view(-1, 2)
        self._sums.clear()
        if accelerator.num_processes > 1:
            table = accelerator.reduce(table.to(accelerator.device), reduction="sum")
        return {name: total / count for name, (total, count) in zip(names, table.tolist(), strict=True) if count}
