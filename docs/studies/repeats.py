"""How often captions name an object again, by learning rate: `python docs/studies/repeats.py runs/why_crop OUT`.

Reads the tries that a study tuned its variants by, writes OUT.json and draws OUT.png: mentions of an object that is
named at all, and F1 of CHAIR and Cover beside it; means over the tuning seeds.
"""

import json
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure

from mmdpo.report.figures import write_figure

MEASURES = {"world/repeat": "mentions of an object that is named", "world/f1": "F1 of CHAIR_i and Cover, %"}


def read_tries(study: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Returns by measure and variant the mean at each learning rate."""
    results = json.loads((study / "results.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for variant in (name for name in results["variants"] if (study / "tries" / name).is_dir()):
        rates = [place for place in (study / "tries" / variant).iterdir() if not place.name.startswith("seed-")]
        for rate in sorted(rates, key=lambda place: float(place.name)):
            metrics = [json.loads(file.read_text())["metrics"] for file in sorted(rate.glob("seed-*/trial.json"))]
            for measure in MEASURES:
                mean = statistics.fmean(of[measure] for of in metrics)
                found.setdefault(measure, {}).setdefault(variant, {})[rate.name] = mean
    return found


def draw(found: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Draws one panel for each measure and one line for each variant."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for place, (measure, label) in enumerate(MEASURES.items(), 1):
        axes = figure.add_subplot(1, len(MEASURES), place)
        for number, (variant, means) in enumerate(found[measure].items()):
            # The default colours repeat after ten lines: those after them are dashed.
            style = "-" if number < 10 else "--"
            axes.plot(list(means), list(means.values()), style, marker="o", markersize=4, label=variant)
        axes.set_xlabel("learning rate")
        axes.set_title(label, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize="small", loc="outside right center")
    return figure


def main(study: Path, out: Path) -> None:
    """Writes the means and the figure."""
    found = read_tries(study)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_figure(lambda: draw(found), out.with_suffix(".png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
