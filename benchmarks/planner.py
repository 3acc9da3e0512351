"""What the planner is worth: the same recipes searched by it, by an exhaustive grid, and by Optuna from scratch.

For each model three budgets: flash limits of 0.8, 0.6 and 0.4 times the plain INT8 file for TFLM, accuracy within the
given drop, latency as small as possible. The grid trains every recipe of the planner's families in full, with and
without quantization-aware training at its end, once; for each budget the best of them is looked up. Optuna may train as
many recipes as the planner did in full. Scores are those on validation, which all three choose by.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

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
_SAME = 0.003  # Scores within 0.3 pp count as the same.
_NO_LIMITS = dict.fromkeys(("min_accuracy", "max_flips", "max_model_size", "max_ram", "max_latency", "max_energy"))


@dataclass(frozen=True)
class Subject:
    """A model with its data, the drop that it may have, and how it is fine-tuned."""

    model: str
    data: DataOptions
    drop: Drop
    epochs: int


SUBJECTS = {
    "resnet8": Subject(
        "resnet8-cifar10/pretrainedResnet.h5",
        DataOptions(str(DATA / "resnet8-cifar10" / "cifar10_lossless_4k_1k.npz")),
        Drop(0.04),
        10,
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


@contextmanager
def opened(subject: Subject, epochs: int, store: Path) -> Iterator[Lab]:
    """A lab for the device, without a flash limit, whose base is the plain INT8 candidate."""
    profile = load_profile(_DEVICE)
    budget = budget_of(profile, {**_NO_LIMITS, "max_accuracy_drop": subject.drop})
    request = FitRequest(
        model=DATA / subject.model,
        data=subject.data,
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


def search(lab: Lab, *, by_optuna: int | None = None) -> Ladder:
    """The planner's search, or so many proposals of Optuna alone."""
    ladder = Ladder(lab.target.budget, Objective.LATENCY, lab, use_short=by_optuna is None)
    if by_optuna is None:
        ladder.climb(wanted_families(lab))
    else:
        with tempfile.TemporaryDirectory() as folder:
            explore(ladder, wanted_families(lab), Path(folder) / "study.db", seed=0, proposals=by_optuna)
    return ladder


def grid(lab: Lab) -> list[Trial]:
    """Every recipe of every family in full, with and without quantization-aware training."""
    trials = []
    for family in wanted_families(lab):
        for recipe in family.recipes:
            for asked in (recipe, with_qat(recipe)):
                if asked is not None:
                    trials.append(lab.train(asked, short=False))
        say(f"   grid: {family.name} done")
    return trials


def best_of_grid(lab: Lab, made: list[Trial]) -> Values | None:
    """What the grid would choose under this lab's budget: its files are coded only where the limit needs it."""
    best: Values | None = None
    for trial in made:
        if trial.values is None or lab.target.budget.violations(lab.preview(trial.recipe).values or Values()):
            broken = [item for item in lab.target.budget.violations(trial.values or Values()) if item.is_resource]
            if trial.values is None or broken:
                continue
        again = lab.train(trial.recipe, short=False).values
        if again is None or lab.target.budget.violations(again):
            continue
        if best is None or is_better(again, best, Objective.LATENCY):
            best = again
    return best


def measure(options: argparse.Namespace) -> list[Figure]:
    """Epochs and seconds of the planner over those of the alternatives, and what they found."""
    names = options.models or ("fsdd", "har")
    figures: list[Figure] = []
    for name in names:
        subject = SUBJECTS[name]
        if not (DATA / subject.model).exists():
            raise SkippedError(f"there is no {subject.model} in {DATA}")
        figures += _compared(name, subject, options.epochs or subject.epochs)
    return figures


def _compared(name: str, subject: Subject, epochs: int) -> list[Figure]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with opened(subject, epochs, Path(folder) / "planner") as lab:
            for budget, share in _SHARES.items():
                started = time.monotonic()
                own = limited(lab, share)
                ladder = search(own)
                seconds = time.monotonic() - started
                trained = sum(trial.stage == "full" for trial in ladder.trials)
                rows.append((budget, share, ladder.best, epochs_of(ladder.trials), seconds, trained))
                say(f"   {name}, {budget}: planner {_told(ladder.best)}, {rows[-1][3]} epochs, {seconds:.0f} s")
        scratch = []
        with opened(subject, epochs, Path(folder) / "optuna") as lab:
            for budget, share, _, _, _, trained in rows:
                ladder = search(limited(lab, share), by_optuna=max(trained, 1))
                scratch.append(ladder.best)
                say(f"   {name}, {budget}: Optuna {_told(ladder.best)} with {max(trained, 1)} proposals")
        with opened(subject, epochs, Path(folder) / "grid") as lab:
            started = time.monotonic()
            made = grid(lab)
            grid_epochs, grid_seconds = epochs_of(made), time.monotonic() - started
            grids = [best_of_grid(limited(lab, share), made) for _, share, *_ in rows]
    figures = [
        Figure(f"{name}: epochs, planner / grid ({grid_epochs})", "times",
               tuple(row[3] / grid_epochs for row in rows), Target("at most", 0.2, "max")),
        Figure(f"{name}: wall time, planner / grid ({grid_seconds:.0f} s)", "times",
               tuple(row[4] / grid_seconds for row in rows)),
    ]  # fmt: skip
    for row, other, theirs in zip(rows, grids, scratch, strict=True):
        say(f"   {name}, {row[0]}: planner {_told(row[2])}; grid {_told(other)}; Optuna {_told(theirs)}")
        if row[2] is not None and other is not None:
            figures.append(
                Figure(f"{name}, {row[0]}: latency, planner / grid", "times",
                       (_latency(row[2]) / _latency(other),), Target("at most", 1.01))
            )  # fmt: skip
        elif other is not None:
            figures.append(Figure(f"{name}, {row[0]}: found by the grid alone", "count", (1.0,), Target("at most", 0)))
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
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(SUBJECTS)} (default: fsdd har)")
    parser.add_argument("--epochs", type=int, help="in place of each model's own")
    return run("planner", measure, parser)


if __name__ == "__main__":
    sys.exit(main())
