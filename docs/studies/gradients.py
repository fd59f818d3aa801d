"""What each term of mDPO does while it trains: `python docs/studies/gradients.py [SEED]` writes gradients.json, .png.

At every step, on its batch:

by cell   the derivative of each term's mean loss by the log-probability of each cell, times the number of pairs: what
          one pair's answer is pushed by, in units of β; negative pushes the probability up
norm      the norm of each term's gradient by all trained parameters
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from mmdpo import MDPOTrainer
from mmdpo.objective.objective import Objective
from mmdpo.report.figures import write_figure
from mmdpo.study.quickstart import RATES, QuickstartPlan
from mmdpo.study.variants import make_world_pairs, training_options

HERE = Path(__file__).parent
PLAN = QuickstartPlan()
CELLS = {"original/chosen": "chosen, own image", "original/rejected": "rejected", "corrupted/chosen": "chosen, crop"}
COLOURS = ("#0072b2", "#d55e00", "#009e73")


class WatchingTrainer(MDPOTrainer):
    """Notes the gradient of every term before each step."""

    watched: list[dict[str, Any]]

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        """Takes the loss apart first, where a step follows."""
        if model.training:
            self.watched.append(self.take_apart(model, inputs))
        return super().compute_loss(model, inputs, *arguments, **keywords)

    def take_apart(self, model: Any, inputs: Any) -> dict[str, Any]:
        """Returns derivatives by cell and norms of gradients, by term."""
        scores = self.score(model, inputs)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found: dict[str, Any] = {}
        for term in self.objective.terms:
            loss = Objective((term,)).losses(scores, beta=self.args.beta).total.mean()
            cells = [scores[cell].logprob for cell in term.cells]
            by_cell = torch.autograd.grad(loss, cells, retain_graph=True)
            by_weight = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
            norm = torch.stack([part.norm() for part in by_weight if part is not None]).norm()
            found[term.label] = {
                "by_cell": {
                    f"{cell.image}/{cell.response}": float(part.sum() / self.args.beta)
                    for cell, part in zip(term.cells, by_cell, strict=True)
                },
                "norm": float(norm),
            }
        return found


def watch(seed: int) -> list[dict[str, Any]]:
    """Trains mDPO as the quickstart does and returns what was noted, step by step."""
    with tempfile.TemporaryDirectory() as folder:
        args = training_options("mdpo", folder, seed=seed, epochs=PLAN.epochs, learning_rate=RATES["mdpo"])
        trainer = WatchingTrainer("world", args=args, train_dataset=make_world_pairs(PLAN.pairs, seed))
        trainer.watched = []
        trainer.train()
        return trainer.watched


def draw(watched: list[dict[str, Any]]) -> Figure:
    """Draws a panel of derivatives by cell for each term, and one of norms."""
    terms = list(watched[0])
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    steps = range(1, len(watched) + 1)
    panels: list[Any] = [figure.add_subplot(1, len(terms) + 1, place + 1) for place in range(len(terms) + 1)]
    for axes, term in zip(panels, terms, strict=False):
        for colour, (cell, label) in zip(COLOURS, CELLS.items(), strict=True):
            if cell in watched[0][term]["by_cell"]:
                axes.plot(steps, [-step[term]["by_cell"][cell] for step in watched], color=colour, label=label)
        axes.set_ylim(-0.6, 0.6)
        axes.axhline(0, color="#888888", linewidth=0.6)
        axes.set_title(f"{term}: push on each cell / β", loc="left", size=9)
        axes.legend(fontsize=7, frameon=False)
    for colour, term in zip(COLOURS, terms, strict=True):
        panels[-1].plot(steps, [step[term]["norm"] for step in watched], color=colour, label=term)
    panels[-1].set_title("norm of the gradient", loc="left", size=9)
    panels[-1].set_ylim(bottom=0)
    panels[-1].legend(fontsize=7, frameon=False)
    for axes in panels:
        axes.set_xlabel("step", size=8)
    return figure


if __name__ == "__main__":
    watched = watch(int(sys.argv[1]) if len(sys.argv) > 1 else PLAN.seed)
    (HERE / "gradients.json").write_text(json.dumps(watched, indent=1) + "\n", encoding="utf-8")
    write_figure(lambda: draw(watched), HERE / "gradients.png")
