"""`mmdpo iterate`: rounds of sampling, judging, building, training and measuring, each from where the last one ended.

rounds.json        what every round came to, and why it was kept or not
best               a link to the model of the last round that was kept
held_out.txt       the prompts that no round trains on
round-N/
  pairs.yaml, pairs/   the round's answers, verdicts and pairs, see `mmdpo pairs`
  train.yaml, run/     its training, see `mmdpo train`; training.json, by what recipe and on which pairs it was begun
  model/               adapter and base in one, where an adapter was trained
  again.yaml, again/     some of its pairs, judged again by the judges of the held-out answers, where those are others
  held_out.yaml, held_out/   what its model says to the prompts that no round trains on; in round-0 the start says it
  BENCHMARK/             its answers and scores, see `mmdpo eval`

Every step is a command of its own in a process of its own, so that its memory is free for the next one, and can be
repeated by hand. The same command goes on at the step where it was stopped, and a round whose folder was removed is
made again.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from mmdpo.benchmarks import tasks
from mmdpo.files import digest_of, printable, read_json, write_json, write_rows, write_whole
from mmdpo.folders import check_kind, hold_folder, make_folder
from mmdpo.options import parse_options, read_flags
from mmdpo.pairs.dataset import DATASET, TRAIN
from mmdpo.pairs.gate import IterateError, Measured, judge_round, measure
from mmdpo.pairs.judging import PROOF, read_verdicts
from mmdpo.pairs.options import IterateOptions, PairsOptions
from mmdpo.pairs.plan import BuildError
from mmdpo.pairs.round_prompts import HELD_OUT, find_fresh, prompts_of, split_prompts
from mmdpo.pairs.round_training import TRAINED, can_go_on, check_training, is_finished, read_recipe, read_settings
from mmdpo.pairs.run import PairsRun
from mmdpo.pairs.samples import SAMPLES, read_samples
from mmdpo.pairs.show import read_taken
from mmdpo.pairs.steps import execute
from mmdpo.records import derive_generator
from mmdpo.tables import Table, show_number

ROUNDS, BEST = "rounds.json", "best"
ADAPTER = "adapter_config.json"
JUDGED_AGAIN = 50
"""Pairs of a round that the judges of the held-out answers look at, where they are not those of the pairs."""
LEAST_YIELD = 0.1
"""Pairs for each prompt below which there is nothing left to learn from."""

Execute = Callable[[Sequence[str]], None]
"""Runs a command; raises IterateError where it fails."""
_ASKED_BY = ("max_new_tokens", "system_prompt", "chat_template", "chat_template_kwargs", "pad_to_square")
"""What the answers to held-out prompts depend on, besides the model."""


class Rounds:
    """The rounds of a folder."""

    def __init__(self, options: IterateOptions, run: Execute = execute) -> None:
        """Reads the files that the options name; raises UsageError or ValueError for what is wrong in them."""
        self.options, self.execute, self.folder = options, run, options.out
        flags = [*read_flags(PairsOptions, options.pairs, "--pairs"), f"--out={options.out}"]
        self.pairs = parse_options(PairsOptions, flags, "pairs")
        self.whole = PairsRun(self.pairs)
        if self.pairs.sampling.no_greedy:
            raise IterateError(f"{options.pairs}: no_greedy: the gate measures greedy answers; leave it out")
        if self.pairs.dry_run:
            raise IterateError(f"{options.pairs}: dry_run: rounds do what they say; leave it out")
        if self.pairs.policy_backend == "endpoint":
            raise IterateError(
                f"{options.pairs}: the policy {self.pairs.sampling.model} is behind an endpoint, and rounds train it: "
                "name its folder or hub name, without base_url (backend: vllm asks it here)"
            )
        asked = [words[0] for words in map(shlex.split, options.evaluate) if words]
        if len(set(asked)) < len(asked):
            raise IterateError(
                f"--evaluate: {max(asked, key=asked.count)} is there twice, and has one folder in a round"
            )
        for words in map(shlex.split, options.evaluate):
            if not words or words[0] not in tasks.names():
                raise IterateError(
                    f"--evaluate: {' '.join(words)!r} begins with no benchmark; give {', '.join(tasks.names())}, and "
                    "what `mmdpo eval` needs for it"
                )
        self.recipe = {} if options.train is None else read_recipe(options.train)
        adapter = self.pairs.checkpoint.adapter or self.recipe.get("adapter_name_or_path")
        if adapter:
            raise IterateError(
                f"the adapter {adapter} would be put onto the models of all rounds: name its folder as the model in "
                f"{options.pairs}, or merge it into its base first (mmdpo merge)"
            )
        self.base = self.pairs.sampling.model
        names = options.held_out_judges or self.pairs.judging.judges
        own_judges = replace(self.pairs.judging, judges=names)
        self.gate_judge = PairsRun(replace(self.pairs, judging=own_judges)).judges[0]

    def run(self) -> dict[str, Any]:
        """Runs what is left of the rounds and returns what rounds.json holds."""
        check_kind(self.folder, (ROUNDS, HELD_OUT, "round-*"), "rounds")
        make_folder(self.folder)
        with hold_folder(self.folder):
            rest = split_prompts(self.whole.prompts, self.options.held_out, self.pairs.sampling.seed, self.folder)
            state = self._read_state()
            self.whole.check_judges_needs(self._own_folder())
            # The round that ended them is decided about again: gate, guards and rule may be others now.
            last = state["rounds"].pop() if state["ended"] and state["rounds"] else {}
            state["ended"] = ""
            self._tell_plan(rest, state)
            if "start" not in state:
                state["start"] = asdict(self._measure(0, self.base))
                write_json(self.folder / ROUNDS, state)
            if not state["start"]["right"]:
                raise IterateError(
                    f"the judge {self.gate_judge.label} holds no claim of the start to be right, and gate and guards "
                    "count right claims: name one that does with --held_out_judges, such as claims, objects or exact"
                )
            state["start_benchmarks"] = self._evaluate(0, self.base)
            if "held_out" in last and Path(last["model"]).is_dir():  # else its folder was removed
                self._decide(last, state)
            for row in state["rounds"]:  # the benchmarks may be others now
                if "model" in row:
                    row["benchmarks"] = self._evaluate(row["round"], row["model"])
            while len(state["rounds"]) < self.options.rounds and not state["ended"]:
                number = len(state["rounds"]) + 1
                prompts = find_fresh(rest, number, self.folder)[: self.options.prompts_per_round]
                if not prompts:
                    state["ended"] = (
                        f"round {number} has no prompts left: rounds before it have seen all. Begin anew in another "
                        "--out with more prompts, or fewer --prompts_per_round"
                    )
                    break
                self._run_round(number, prompts, state)
                write_json(self.folder / ROUNDS, state)
            write_json(self.folder / ROUNDS, state)
        return state

    def _tell_plan(self, rest: Sequence[str], state: Mapping[str, Any]) -> None:
        """Says what is done and what is to come, and where the prompts are not enough for it."""
        done, rounds, each = len(state["rounds"]), self.options.rounds, self.options.prompts_per_round
        held_out = (self.folder / HELD_OUT).read_text(encoding="utf-8").count("\n")
        prompts = f"prompts: {held_out:,} held out, {len(rest):,} for the rounds, {each:,} each"
        print(printable(f"{self.folder}: rounds done: {done} of {rounds}; {prompts}"), flush=True)
        enough = done + math.ceil(len(find_fresh(rest, done + 1, self.folder)) / each)
        if enough < rounds:
            print(
                f"note: the prompts are enough for {enough} of {rounds} rounds: give more of them, fewer "
                "--prompts_per_round or fewer --rounds",
                flush=True,
            )

    def _tell(self, number: int, what: str) -> None:
        """Says at which step of which round it is."""
        where = f"round {number} of {self.options.rounds}" if number else "start"
        print(printable(f"{where}: {what}"), flush=True)

    def _run_round(self, number: int, prompts: Sequence[str], state: dict[str, Any]) -> None:
        """Makes the pairs of a round, trains on them and measures the model; says in `state` what it came to."""
        folder = self.folder / f"round-{number}"
        make_folder(folder)
        kept = [row for row in state["rounds"] if row["kept"]]
        policy = str(kept[-1]["model"]) if kept else self.base
        ids = prompts_of(number, self.folder)
        write_whole(ids, "".join(f"{name}\n" for name in prompts))
        own = {"model": policy, "ids": str(ids), "out": str(folder / "pairs"), "round": number}
        self._write_yaml(folder / "pairs.yaml", {**self._pairs_file(), **own})
        config = ["--config", str(folder / "pairs.yaml")]
        self._bring_proofs(folder / "pairs")
        for step, what in (("sample", f"answers to {len(prompts):,} prompts"), ("judge", "verdicts of the answers")):
            self._tell(number, what)
            self._mmdpo("pairs", step, *config)
        self._tell(number, "pairs of the answers")
        try:
            pairs = PairsRun(parse_options(PairsOptions, config, "pairs")).build()
        except BuildError as error:
            state["ended"] = f"round {number} gives no pairs: {error}"
            return
        found: dict[str, Any] = {
            "round": number,
            "policy": policy,
            "pairs": sum(pairs["pairs"].values()),
            "yield": pairs["funnel"]["yield"],
            "chosen_wrong": (pairs["errors"] or {}).get("chosen"),
            "pool_wrong": (pairs["errors"] or {}).get("pool"),
        }
        if pairs["funnel"]["yield"] < LEAST_YIELD:
            state["ended"] = (
                f"round {number} gives {found['pairs']:,} pairs of {len(prompts):,} prompts, fewer than one in ten: "
                "nothing is left to learn from"
            )
            state["rounds"].append(found | {"kept": False, "reason": state["ended"]})
            return
        found["agreed"] = self._judge_again(number, folder)
        model = self._train(number, folder, policy, found["pairs"])
        found |= {"model": model, "held_out": asdict(self._measure(number, model))}
        self._decide(found | {"benchmarks": self._evaluate(number, model)}, state)

    def _judge_again(self, number: int, folder: Path) -> float | None:
        """Returns in how many of some of a round's pairs, in per cent, the judges of the held-out answers agree.

        None where the pairs' own judges are those.
        """
        if not self.options.held_out_judges:
            return None
        taken = {name: of[0] for name, of in read_taken(folder / "pairs").items() if of[0][0] != of[0][1]}
        order = derive_generator(self.pairs.sampling.seed, str(number), "again").permutation(len(taken))[:JUDGED_AGAIN]
        drawn = {name: taken[name] for name in (list(taken)[place] for place in sorted(order.tolist()))}
        if not drawn:  # each pair is an answer and what was made of it
            return None
        own = {"ids": str(folder / "again.txt"), "out": str(folder / "again")}
        write_whole(folder / "again.txt", "".join(f"{name}\n" for name in drawn))
        make_folder(folder / "again")
        self._tell(number, f"{len(drawn)} pairs, judged again by the judges of the held-out answers")
        samples = (each for each in read_samples(folder / "pairs") if each.k in drawn.get(each.id, ()))
        write_rows(folder / "again" / SAMPLES, (each._asdict() for each in samples))
        run = self._judge_otherwise(folder / "again.yaml", own)
        verdicts = read_verdicts(run.folder, run.judges[0].label)
        found = [(verdicts[name], pair) for name, pair in drawn.items() if verdicts.get(name, {}).keys() >= set(pair)]
        agreed = sum(of[chosen].score > of[rejected].score for of, (chosen, rejected) in found)
        return 100 * agreed / len(found) if found else None

    def _decide(self, row: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Adds a round that was measured to `state`: kept, or not with the reason."""
        new, start = Measured(**row["held_out"]), Measured(**state["start"])
        kept = [each for each in state["rounds"] if each["kept"]]
        best = Measured(**kept[-1]["held_out"]) if kept else start
        reason = judge_round(new, best, start, self.options)
        state["rounds"].append({**row, "f1": new.f1(start), "kept": not reason, "reason": reason})
        if reason:
            state["ended"] = f"round {row['round']} is not kept: {reason}"
        f1s = f"F1 {new.f1(start):.1f} after {best.f1(start):.1f}"
        wrong = f"{new.wrong:.1f} % wrong claims after {best.wrong:.1f} %"
        self._tell(row["round"], f"not kept: {reason}" if reason else f"kept: {f1s}, {wrong}")
        self._link([Path(each["model"]) for each in state["rounds"] if each["kept"]])

    def _train(self, number: int, folder: Path, previous: str, pairs: int) -> str:
        """Trains a round's model and returns its folder."""
        run, done = folder / "run", folder / TRAINED
        own = read_settings(folder / "pairs" / "train.yaml")
        start = previous if self.options.start == "previous" else self.base
        recipe = {**own, **self.recipe, "model_name_or_path": start, "output_dir": str(run)}
        recipe["dataset_name"] = str(self._mix(number, folder))
        if self.options.reference == "base" and start != self.base:
            recipe["ref_model_name_or_path"] = self.base
        if not done.is_file() and is_finished(run):  # and nobody was left to say so
            write_whole(done, "")
        check_training(folder, recipe)
        self._write_yaml(folder / "train.yaml", recipe)
        if not done.is_file():
            command = ["train", "--config", str(folder / "train.yaml")]
            if can_go_on(run):
                command += ["--resume_from_checkpoint", "true"]
            launch = shlex.split(self.options.launch) or [sys.executable, "-m", "mmdpo"]
            self._tell(number, f"training on {pairs:,} pairs")
            self.execute([*launch, *command])
            write_whole(done, "")
        if not (run / ADAPTER).is_file():
            return str(run)
        merged = folder / "model"
        if not (merged / "config.json").is_file():
            self._tell(number, "its adapter is merged into the base")
            self._mmdpo("merge", str(run), str(merged))
        return str(merged)

    def _mix(self, number: int, folder: Path) -> Path:
        """Returns the pairs that a round trains on: its own, and some of the rounds before it."""
        own = folder / "pairs" / DATASET / TRAIN
        if not self.options.mix_previous or number == 1:
            return own
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import parquet

        tables = [parquet.read_table(own)]
        earlier = [self.folder / f"round-{n}" / "pairs" / DATASET / TRAIN for n in range(1, number)]
        before = pa.concat_tables([parquet.read_table(path) for path in earlier], promote_options="default")
        count = min(before.num_rows, round(self.options.mix_previous * tables[0].num_rows))
        order = derive_generator(self.pairs.sampling.seed, str(number), "mix").permutation(before.num_rows)[:count]
        mixed = folder / "mixed.parquet"
        parquet.write_table(
            pa.concat_tables([*tables, before.take(sorted(order.tolist()))], promote_options="default"), mixed
        )
        return mixed

    def _measure(self, number: int, model: str) -> Measured:
        """Lets a model answer the prompts that are held out, and returns what the answers come to."""
        folder = self.folder / f"round-{number}"
        make_folder(folder)
        self._tell(number, "answers to the prompts that are held out, and verdicts")
        own = {
            "model": model,
            "ids": str(self.folder / HELD_OUT),
            "out": str(folder / "held_out"),
            # What the greedy answer is held against by that judge is the draws.
            "num_samples": self.pairs.sampling.num_samples if self.gate_judge.judge == "consistency" else 1,
        }
        return measure(self._judge_otherwise(folder / "held_out.yaml", own, samples=True))

    def _judge_otherwise(self, config: Path, own: Mapping[str, Any], *, samples: bool = False) -> PairsRun:
        """Lets the judges of the held-out answers judge answers, which are sampled before where none are there."""
        own = {**self._pairs_file(), **own}
        if self.options.held_out_judges:
            own["judges"] = [yaml.safe_load(text) for text in self.options.held_out_judges]
        self._write_yaml(config, own)
        self._bring_proofs(Path(own["out"]))
        for step in ("sample", "judge") if samples else ("judge",):
            self._mmdpo("pairs", step, "--config", str(config))
        return PairsRun(parse_options(PairsOptions, ["--config", str(config)], "pairs"))

    def _evaluate(self, number: int, model: str) -> dict[str, float]:
        """Measures a model by the benchmarks, and returns the figures by metric. They decide nothing: who chooses a
        model by a benchmark can no longer be measured by it."""
        found: dict[str, float] = {}
        for words in map(shlex.split, self.options.evaluate):
            out, said = self.folder / f"round-{number}" / words[0], f"{shlex.join(words)}\n"
            asked = out / "asked.txt"
            before = asked.read_text(encoding="utf-8") if asked.is_file() else said
            if not (out / "result.json").is_file() or before != said:
                self._tell(number, words[0])
                try:
                    self._mmdpo("eval", *words, "--model", model, "--out", str(out))
                except IterateError as error:
                    if before == said:
                        raise
                    raise IterateError(
                        f"{error}. {out} holds answers to `{before.strip()}`: if they do not go with these words, "
                        "remove it"
                    ) from error
                write_whole(asked, said)
            metrics = read_json(out / "result.json")["metrics"]
            found |= {name: of["exact"] for name, of in metrics.items()}
        return found

    def _own_folder(self) -> Path:
        """Returns the folder of the pairs.yaml itself, where `mmdpo pairs check-judge` has left what it found."""
        return Path(str(self._pairs_file().get("out") or self.folder))

    def _bring_proofs(self, folder: Path) -> None:
        """Copies what `check-judge` has found of the judges to where they judge: some need it, and cards tell it."""
        for path in sorted(self._own_folder().glob(PROOF.format("*"))):
            make_folder(folder)
            write_whole(folder / path.name, path.read_bytes())

    def _pairs_file(self) -> dict[str, Any]:
        return {key: value for key, value in read_settings(self.options.pairs).items() if key != "limit"}

    def _read_state(self) -> dict[str, Any]:
        path = self.folder / ROUNDS
        state = read_json(path) if path.is_file() else {"rounds": [], "ended": ""}
        judge = {
            each.name: of
            for each in fields(self.gate_judge)
            if each.name != "base_url" and (of := getattr(self.gate_judge, each.name)) != each.default
        }
        own = {
            "base": self.base,
            "start_from": self.options.start,
            "reference": self.options.reference,
            "held_out_judge": judge,
        }
        own["held_out_answers"] = self._describe_asking()
        for key, value in own.items():
            was = state.setdefault(key, value)
            if was != value:
                if isinstance(was, dict) and isinstance(value, dict) and key != "held_out_judge":
                    names = [name for name in {**was, **value} if was.get(name) != value.get(name)]
                    was, value = ({name: of.get(name) for name in names} for of in (was, value))
                raise IterateError(
                    f"{path} is of rounds with {key} {was!r}, and now it is {value!r}: put it back, or choose another "
                    "--out"
                )
        return state

    def _describe_asking(self) -> dict[str, Any]:
        """Returns what the answers to held-out prompts, and their verdicts, depend on besides model and judge: those of
        all rounds are compared with those of the start."""
        options = self.pairs
        known = {**asdict(options.sampling), **asdict(options.checkpoint)}
        names = list(_ASKED_BY)
        if self.gate_judge.judge == "consistency":  # which hears the draws
            names += ["num_samples", "temperature", "top_p"]
        found = {name: known[name] for name in names if known[name]}
        words = dict(self.whole.vocabulary)
        return found | ({"vocabulary": digest_of(words)[:16]} if words else {})

    def _link(self, models: Sequence[Path]) -> None:
        """Makes `best` a link to the last of the models that were kept; without one there is none."""
        link, aside = self.folder / BEST, self.folder / f".{BEST}"
        if not models:
            link.unlink(missing_ok=True)
            return
        aside.unlink(missing_ok=True)
        aside.symlink_to(os.path.relpath(models[-1], self.folder), target_is_directory=True)
        aside.replace(link)

    def _mmdpo(self, *words: str) -> None:
        self.execute([sys.executable, "-m", "mmdpo", *words])

    @staticmethod
    def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
        write_whole(path, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def make_table(state: Mapping[str, Any]) -> Table:
    """Returns the rounds as a table; an empty cell is of something that a row has not, or did not come to."""
    start, benchmarks = Measured(**state["start"]), state.get("start_benchmarks", {})
    rows = []
    for row in ({"held_out": state["start"], "benchmarks": benchmarks}, *state["rounds"]):
        of = Measured(**row["held_out"]) if "held_out" in row else None
        cells: list[tuple[Any, int | str]] = [(None, 1)] * 5
        if of is not None:
            cells = [(of.wrong, 1), (of.right, 2), (of.f1(start), 1), (of.words, 1), (of.useless, 1)]
        share = 100 * row["yield"] if "yield" in row else None
        cells += [(row.get("pairs"), ",.0f"), (share, 0), (row.get("agreed"), 0)]
        cells += [(row.get("benchmarks", {}).get(name), 1) for name in benchmarks]
        shown = ("" if value is None else show_number(value, form) for value, form in cells)
        name = f"round {row['round']}" if "round" in row else "start"
        rows.append((name, *shown, {None: "", True: "kept", False: "not kept"}[row.get("kept")]))
    measures = ("wrong claims %", "right claims", "F1 %", "words", "useless %", "pairs", "yield %", "agreed %")
    return Table(("", *measures, *benchmarks, ""), tuple(rows), "On prompts that no round trains on")
