"""What the planner is worth: the same recipes searched by it, by an exhaustive grid, and by Optuna from scratch.

For each model three budgets: flash limits of 0.8, 0.6 and 0.4 times the plain INT8 file for TFLM, accuracy within the
given drop, latency as small as possible. The grid trains every recipe of the planner's families in full, with and
without quantization-aware training at its end, once; for each budget the best of them is looked up. The planner begins
every budget with an empty store. Optuna may train as many recipes as the planner did in full. Scores are those on
validation, which all three choose by: the best of so many noisy candidates flatters the grid. So the planner is held
against what the grid would choose if it had to keep 0.3 pp from the limit; what it finds at the limit is told, too.
ResNet8 learns from half of its 4,000 images and is validated on the other half: a grid of five families takes an hour.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.figures import DATA, Figure, SkippedError, Target, run, say
from edgecomp.budget import Values
from edgecomp.candidates import Target as Device
from edgecomp.candidates import evaluate, make_candidate
from edgecomp.data import DataOptions
from edgecomp.device_fit import resolved
from edgecomp.executors.local import silent
from edgecomp.inference import KernelFamily
from edgecomp.lab import Lab
from edgecomp.objective import Objective, is_better, value_of
from edgecomp.pipeline import FitRequest, prepare
from edgecomp.plan import Step
from edgecomp.planner.families import Family, families_for, with_qat
from edgecomp.planner.ladder import Ladder, Trial
from edgecomp.planner.thorough import explore
from edgecomp.profile import Precision, load_profile
from edgecomp.request import budget_of
from edgecomp.store import Store
from edgecomp.training.settings import TrainingSettings
from edgecomp.units import Drop

_DEVICE = "stm32l4r5"
_SHARES = {"loose": 0.8, "middle": 0.6, "tight": 0.4}
_SAME = 0.003  # Scores within 0.3 pp count as the same, latencies within 1 %.
_NO_LIMITS = dict.fromkeys(("min_accuracy", "max_flips", "max_model_size", "max_ram", "max_latency", "max_energy"))


@dataclass(frozen=True)
class Subject:
    """A model with its data, the drop that it may have, and how it is fine-tuned.

    Attributes:
        images: So many training and as many validation samples of the data; None: all, as the data says.
    """

    model: str
    data: DataOptions
    drop: Drop
    epochs: int
    images: int | None = None


SUBJECTS = {
    "resnet8": Subject(
        "resnet8-cifar10/pretrainedResnet.h5",
        DataOptions(str(DATA / "resnet8-cifar10" / "cifar10_lossless_4k_1k.npz")),
        Drop(0.04),
        10,
        images=2000,
    ),
    "fsdd": Subject(
        "fsdd/fsdd_dscnn.keras",
        DataOptions(str(DATA / "fsdd" / "fsdd_logmel.npz"), mean=(-8.0,), std=(4.0,)),
        Drop(0.02),
        10,
    ),
    "har": Subject(
        "har-spsw/har_cnn1d.keras",
        DataOptions(
            str(DATA / "har-spsw" / "har_spsw_w64.npz"),
            mean=(-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314),
            std=(5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536),
            group_key="subject",
        ),
        Drop(0.01),
        6,
    ),
}


def part_of(data: DataOptions, images: int, path: Path) -> DataOptions:
    """The same data with fewer training samples, and as many of the others to validate on, written to a file."""
    with np.load(data.source) as stored:
        arrays = dict(stored)
    order = np.random.default_rng(0).permutation(len(arrays["x_train"]))
    taken = {"train": order[:images], "val": order[images : 2 * images]}
    arrays |= {f"{axis}_{split}": arrays[f"{axis}_train"][places] for split, places in taken.items() for axis in "xy"}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return replace(data, source=str(path))


@contextmanager
def opened(subject: Subject, epochs: int, store: Path) -> Iterator[Lab]:
    """A lab for the device, without a flash limit, whose base is the plain INT8 candidate."""
    data = subject.data if subject.images is None else part_of(subject.data, subject.images, store / "part.npz")
    profile = load_profile(_DEVICE)
    budget = budget_of(profile, {**_NO_LIMITS, "max_accuracy_drop": subject.drop})
    request = FitRequest(
        model=DATA / subject.model,
        data=data,
        targets=(Device(profile, budget, profile.precisions.io),),
        out=store / "bundles",
        effort="standard",
        settings=TrainingSettings(epochs=epochs),
        store=store,
    )
    with ExitStack() as stack:
        kept = stack.enter_context(Store.open(store))
        journal = kept.begin_run({"model": subject.model, "devices": [_DEVICE]}, "benchmark", "benchmark")
        means = prepare(request, stack, kept, journal, silent)
        target = resolved(request, means.imported)[0]
        base = make_candidate(means.shop, target, Step(Precision.INT8))
        score = evaluate(means.shop, means.imported.bench.float_model, KernelFamily.LITERT_XNNPACK, "validation").score
        yield Lab(means, target, base, None if score is None else score.value, lambda result: result)
        journal.finish("done", None)


def limited(lab: Lab, share: float) -> Lab:
    """The same lab with a limit on the file."""
    allowed = int(share * (lab.base.model_bytes or 0))
    target = replace(lab.target, budget=replace(lab.target.budget, max_model_bytes=allowed))
    return Lab(lab.means, target, lab.base, lab.float_score, lab.finish)


def wanted_families(lab: Lab) -> list[Family]:
    """Those that lower the size of the file or the latency."""
    return families_for(lab.target.profile, Precision.INT8, (Objective.SIZE, Objective.LATENCY))[0]


def epochs_of(trials: list[Trial]) -> int:
    """Trained, over all trials; the steps that recipes share count once a stage."""
    seen: dict[tuple[str, str], int] = {}
    for trial in trials:
        report = None if trial.result is None else trial.result.recipe
        if report is None or trial.stage not in ("short", "full"):
            continue
        full = int(report.settings["epochs"])
        for number, step in enumerate(trial.recipe.steps):
            prefix = " + ".join(map(str, trial.recipe.steps[: number + 1]))
            seen[trial.stage, prefix] = max(1, round(full / 4)) if step.technique == "qat" else full
    return sum(seen.values())


def seconds_of(trials: list[Trial]) -> float:
    """Wall time that the trials took when they were made, previews included."""
    return sum(trial.result.seconds or 0.0 for trial in trials if trial.result is not None)


def search(lab: Lab, by_optuna: int | None = None) -> Ladder:
    """The planner's search, or so many proposals of Optuna alone."""
    ladder = Ladder(lab.target.budget, Objective.LATENCY, lab, use_short=by_optuna is None)
    if by_optuna is None:
        ladder.climb(wanted_families(lab))
    else:
        with tempfile.TemporaryDirectory() as folder:
            explore(ladder, wanted_families(lab), Path(folder) / "study.db", seed=0, proposals=by_optuna)
    return ladder


def grid(lab: Lab) -> list[Trial]:
    """Every recipe of every family in full, with and without quantization-aware training at its end."""
    trials = []
    for family in wanted_families(lab):
        for recipe in family.recipes:
            for asked in (recipe, with_qat(recipe)):
                if asked is not None:
                    trials.append(lab.train(asked, short=False))
        say(f"   grid: {family.name} done, {epochs_of(trials)} epochs so far")
    return trials


def best_of_grid(lab: Lab, made: list[Trial], spare: float) -> Values | None:
    """What the grid would choose under this lab's budget, for which its files are packed and judged once more.

    Args:
        lab: With the budget.
        made: By `grid`.
        spare: So much better than its limit of the drop must a candidate be.
    """
    budget = lab.target.budget
    allowed = budget.max_accuracy_drop
    if allowed is None or allowed.is_relative:
        raise ValueError("the budget has no drop in percentage points")
    budget = replace(budget, max_accuracy_drop=Drop(allowed.amount - spare))
    best: Values | None = None
    for trial in made:
        again = None if trial.values is None else lab.train(trial.recipe, short=False).values
        if again is None or budget.violations(again):
            continue
        if best is None or is_better(again, best, Objective.LATENCY):
            best = again
    return best


@dataclass(frozen=True)
class Row:
    """One budget: what the planner and the grid found, and what it took the planner."""

    budget: str
    share: float
    ladder: Ladder
    grid: Values | None
    grid_at_limit: Values | None

    @property
    def trained(self) -> int:
        """Recipes that the planner trained in full: Optuna may train as many, one at least."""
        return max(1, sum(trial.stage == "full" for trial in self.ladder.trials))

    def told(self) -> str:
        """In one line."""
        trials = self.ladder.trials
        return (
            f"planner {_told(self.ladder.best)}, {epochs_of(trials)} epochs, {seconds_of(trials):.0f} s; "
            f"grid {_told(self.grid)}, at the limit {_told(self.grid_at_limit)}"
        )


def measure(options: argparse.Namespace) -> list[Figure]:
    """Epochs and seconds of the planner over those of the alternatives, and what they found."""
    figures: list[Figure] = []
    for name in options.models or tuple(SUBJECTS):
        subject = SUBJECTS[name]
        if not (DATA / subject.model).exists():
            raise SkippedError(f"there is no {subject.model} in {DATA}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if options.store is None else options.store
            figures += _compared(name, subject, options.epochs or subject.epochs, folder / name)
    return figures


def _compared(name: str, subject: Subject, epochs: int, folder: Path) -> list[Figure]:
    rows = []
    with opened(subject, epochs, folder / "grid") as lab:
        made = grid(lab)
        found = {
            budget: [best_of_grid(limited(lab, share), made, spare) for spare in (_SAME, 0.0)]
            for budget, share in _SHARES.items()
        }
    for budget, share in _SHARES.items():
        with opened(subject, epochs, folder / f"planner-{budget}") as lab:
            ladder = search(limited(lab, share))
        rows.append(Row(budget, share, ladder, *found[budget]))
        say(f"   {name}, {budget}: {rows[-1].told()}")
    for row in rows:
        with opened(subject, epochs, folder / f"optuna-{row.budget}") as lab:
            scratch = search(limited(lab, row.share), by_optuna=row.trained)
        say(
            f"   {name}, {row.budget}: Optuna {_told(scratch.best)}, {epochs_of(scratch.trials)} epochs, "
            f"{seconds_of(scratch.trials):.0f} s"
        )
    total, seconds = epochs_of(made), seconds_of(made)
    figures = [
        Figure(f"{name}: epochs, planner / grid ({total})", "times",
               tuple(epochs_of(row.ladder.trials) / total for row in rows), Target("at most", 0.2, "max")),
        Figure(f"{name}: seconds, planner / grid ({seconds:.0f} s)", "times",
               tuple(seconds_of(row.ladder.trials) / seconds for row in rows)),
    ]  # fmt: skip
    for row in rows:
        if row.grid is None:
            continue
        if row.ladder.best is None:
            figures.append(
                Figure(f"{name}, {row.budget}: found by the grid alone", "count", (1.0,), Target("at most", 0))
            )
            continue
        figures.append(
            Figure(f"{name}, {row.budget}: latency, planner / grid", "times",
                   (_latency(row.ladder.best) / _latency(row.grid),), Target("at most", 1.01))
        )  # fmt: skip
    return figures


def _latency(values: Values) -> float:
    found = value_of(values, Objective.LATENCY)
    if found is None:
        raise ValueError("a candidate without a latency")
    return found


def _told(values: Values | None) -> str:
    if values is None:
        return "nothing"
    return f"{values.latency_ms:.4g} ms, {values.model_bytes} B, {values.score:.4f}"


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--epochs", type=int, help="in place of each model's own")
    parser.add_argument(
        "--store", type=Path, help="keep what is made here, and go on from it (default: nothing is kept)"
    )
    return run("planner", measure, parser)


if __name__ == "__main__":
    sys.exit(main())
