"""The long search in a made-up world where techniques combine: never worse than the ladder, and reproducible."""

import builtins
import contextlib
import sqlite3
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecomp.budget import Budget, Values
from edgecomp.objective import Objective, is_better, value_of
from edgecomp.planner.families import Family, families_for
from edgecomp.planner.ladder import Ladder, Trial, furthest, nearest
from edgecomp.profile import Precision, load_profile
from edgecomp.recipe import Recipe, make_recipe
from edgecomp.units import Drop
from tests.planned_fits import DATA, MODEL, called

pytest.importorskip("optuna")

from edgecomp.planner.thorough import explore

PROPOSALS = 8


def families(wanted=frozenset({Objective.SIZE, Objective.LATENCY, Objective.RAM})):
    return families_for(load_profile("stm32l4r5"), Precision.INT8, wanted)[0]


@dataclass
class World:
    """Every step takes its part of size, arena and time, and costs accuracy; qat wins some back.

    Attributes:
        costs: Drop by technique at full strength.
        unaffordable_after: So many trainings there is time for; None: for all.
    """

    costs: dict[str, float]
    unaffordable_after: int | None = None
    trained: list[tuple[str, bool]] = field(default_factory=list)
    asked: list[Recipe] = field(default_factory=list)

    def figures(self, recipe: Recipe) -> Values:
        size, ram, latency, drop = 10_000.0, 4000.0, 100.0, 0.001
        for step in recipe.steps:
            options = step.options
            if step.technique == "qat":
                drop *= 0.6
            elif step.technique == "cluster":
                bits = options.num_clusters.bit_length() if options.mean_bits is None else options.mean_bits
                size *= bits / 8
                drop += self.costs["cluster"] * (1 - bits / 8) ** 3
            else:
                kept = {
                    "structured_prune": lambda item: 1 - item.ratio,
                    "distill": lambda item: item.width**2,
                    "low_rank": lambda item: item.low_rank_ratio,
                }[step.technique](options)
                size, latency = size * kept, latency * kept
                ram *= 1.0 if step.technique == "low_rank" else kept
                drop += self.costs[step.technique] * (1 - kept) ** 2
        return Values(drop, 0.9, round(size), round(ram), latency)

    def _known(self, recipe: Recipe, more: float | None) -> Values:
        self.asked.append(recipe)
        true = self.figures(recipe)
        return Values(
            None if more is None else true.drop + more, 0.9, true.model_bytes, true.ram_bytes, true.latency_ms
        )

    def estimate(self, recipe):
        return self._known(recipe, None)

    def preview(self, recipe):
        return Trial(recipe, "preview", self._known(recipe, 0.3))

    def train(self, recipe, *, short):
        self.trained.append((str(recipe), short))
        return Trial(recipe, "short" if short else "full", self._known(recipe, 0.005 if short else 0.0))

    def expect(self, recipes, *, short):
        pass

    def unaffordable(self, recipe, *, short):
        is_late = self.unaffordable_after is not None and len(self.trained) >= self.unaffordable_after
        return "not trained: no time is left" if is_late else None


COSTS = {"structured_prune": 0.05, "distill": 0.08, "low_rank": 0.03, "cluster": 0.04}
BUDGET = Budget(Drop(0.02), max_model_bytes=5000)


def searched(folder, *, world=None, budget=BUDGET, objective=Objective.LATENCY, seed=0, proposals=PROPOSALS, of=None):
    """The ladder, then the long search: what each has found."""
    world, of = world or World(COSTS), of or families()
    ladder = Ladder(budget, objective, world)
    ladder.climb(of)
    first, count = ladder.chosen, len(ladder.trials)
    trials = explore(ladder, of, folder / "study.db", seed, proposals)
    assert trials is ladder.trials
    return world, ladder, first, trials[count:]


def study_of(folder):
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as database:
        states = [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]
        params = database.execute(
            "SELECT number, param_name, param_value FROM trial_params JOIN trials USING (trial_id) ORDER BY 1, 2"
        ).fetchall()
    return states, params


def test_something_better_than_the_ladder_is_found(tmp_path):
    """Combinations of two techniques, which the ladder leaves alone where a single one fits."""
    world, ladder, first, _ = searched(tmp_path, proposals=25)
    assert first is not None
    assert is_better(ladder.chosen.values, first.values, Objective.LATENCY)
    assert len(ladder.chosen.recipe.steps) > 1
    assert not ladder.budget.violations(world.figures(ladder.chosen.recipe))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drop=st.integers(0, 60),
    size=st.integers(300, 9000),
    objective=st.sampled_from([Objective.LATENCY, Objective.SIZE, Objective.RAM]),
    seed=st.integers(0, 3),
    costs=st.fixed_dictionaries({name: st.integers(0, 200).map(lambda cost: cost / 1000) for name in COSTS}),
)
def test_never_worse_than_the_ladder(tmp_path, drop, size, objective, seed, costs):
    budget = Budget(Drop(drop / 1000), max_model_bytes=size)
    world, ladder, first, _ = searched(
        tmp_path, world=World(costs), budget=budget, objective=objective, seed=seed, proposals=6
    )
    if ladder.chosen is None:
        assert first is None
        return
    assert ladder.chosen.fits
    assert not budget.violations(world.figures(ladder.chosen.recipe))
    if first is not None:
        assert value_of(ladder.chosen.values, objective) <= value_of(first.values, objective)


def test_proposals_go_by_the_seed(tmp_path):
    folders = [tmp_path / name for name in ("one", "again", "other")]
    found = [searched(folder, seed=seed) for folder, seed in zip(folders, (3, 3, 4), strict=True)]
    stories = [[(str(trial.recipe), trial.stage, trial.values) for trial in new] for _, _, _, new in found]
    assert stories[0] == stories[1] != stories[2]
    studies = [study_of(folder) for folder in folders]
    assert studies[0] == studies[1] != studies[2]
    assert found[0][0].trained == found[1][0].trained


def test_only_combinations_that_are_allowed(tmp_path):
    """Techniques of the families, each at one of its strengths, at most once, in their order; qat at the end."""
    of = families(frozenset({Objective.RAM, Objective.LATENCY}))
    world, _, _, new = searched(tmp_path, of=of, budget=Budget(Drop(0.05)))
    strengths = {recipe.steps[0] for family in of for recipe in family.recipes}
    order = ["distill", "low_rank", "structured_prune", "qat"]
    assert new
    for recipe in world.asked:
        names = [step.technique for step in recipe.steps]
        assert names == sorted(set(names), key=order.index)
        assert all(step in strengths for step in recipe.steps if step.technique != "qat")
    assert any(len(trial.recipe.steps) > 1 for trial in new)


def test_without_quantization_aware_training(tmp_path):
    world = World(COSTS)
    ladder = Ladder(BUDGET, Objective.LATENCY, world, can_qat=False)
    ladder.climb(families())
    explore(ladder, families(), tmp_path / "study.db", 0, PROPOSALS)
    assert not any(step.technique == "qat" for recipe in world.asked for step in recipe.steps)
    assert {name for _, name, _ in study_of(tmp_path)[1]} <= set(COSTS)


def test_what_previews_rule_out_is_not_trained(tmp_path):
    world, ladder, _, new = searched(tmp_path, budget=Budget(Drop(0.5), max_model_bytes=2000))
    assert any(trial.broken for trial in new)
    sizes = {str(recipe): world.figures(recipe).model_bytes for recipe in world.asked}
    assert all(sizes[name] <= 2000 for name, _ in world.trained)
    assert nearest(ladder.trials, ladder.budget) == []


def test_the_study_is_sqlite_with_as_many_trials(tmp_path):
    world = World(COSTS)
    ladder = Ladder(BUDGET, Objective.LATENCY, world)
    of = families()
    ladder.climb(of)
    known = {trial.recipe for trial in furthest(ladder.trials)}
    proposable = {recipe.steps for family in of if family.name != "cluster evenly" for recipe in family.recipes}
    warm = [recipe for recipe in known if recipe.steps in proposable or (recipe.steps[:-1] in proposable)]
    explore(ladder, of, tmp_path / "deep" / "study.db", 0, PROPOSALS)
    states, params = study_of(tmp_path / "deep")
    assert len(states) == PROPOSALS + len(warm)
    assert set(states) <= {"COMPLETE", "FAIL"}
    assert {number for number, _, _ in params} == set(range(len(states)))


def test_an_older_study_is_replaced(tmp_path):
    (tmp_path / "study.db").write_bytes(b"left by a killed run")
    searched(tmp_path)
    assert study_of(tmp_path)[0]


def test_it_ends_when_the_time_does(tmp_path):
    world, ladder, _, new = searched(tmp_path, world=World(COSTS, unaffordable_after=0), proposals=100)
    assert ladder.chosen is None
    assert world.trained == []
    late = [trial for trial in new if trial.is_unaffordable]
    assert late
    assert all("no time is left" in trial.reason for trial in late)
    assert len(study_of(tmp_path)[0]) < 100


def test_one_strength_is_nothing_to_search(tmp_path):
    alone = Family("qat", (make_recipe(["qat"], {}),), frozenset({Objective.ACCURACY_DROP}))
    ladder = Ladder(Budget(Drop(0.02)), Objective.ACCURACY_DROP, World(COSTS))
    ladder.climb([alone])
    explore(ladder, [alone], tmp_path / "study.db", 0)
    assert not (tmp_path / "study.db").exists()


def test_two_families_of_one_technique(tmp_path):
    """Codebooks of even and of uneven sizes, and nothing fits: they are not put on top of each other."""
    _, ladder, _, _ = searched(tmp_path, budget=Budget(Drop(0.0), max_model_bytes=100), objective=Objective.SIZE)
    assert ladder.chosen is None
    names = [step.technique for trial in ladder.trials for step in trial.recipe.steps]
    assert "cluster" in names


def test_without_optuna_it_is_one_sentence_before_any_work(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "optuna":
            raise ImportError("No module named 'optuna'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    done = called(
        "fit", MODEL, "--data", DATA, "--device", "stm32l4r5", "--effort", "thorough", "--store", tmp_path / "store",
        "--out", tmp_path / "bundles",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "--effort thorough needs Optuna, which is not installed." in done.stderr
    assert "edgecomp[thorough]" in done.stderr
    assert list(tmp_path.iterdir()) == []
