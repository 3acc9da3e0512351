"""Families of recipes: one kind of compression, from its weakest to its strongest form, and what it is good for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgecomp.objective import Objective
from edgecomp.profile import DeviceProfile, Precision
from edgecomp.recipe import Recipe, make_recipe

_WORK = frozenset({Objective.SIZE, Objective.LATENCY, Objective.ENERGY})
_ALL = _WORK | {Objective.RAM}
_BYTES = frozenset({Objective.SIZE})

# Strengths that are tried, so that devices with different limits share what was trained.
_LADDERS: tuple[tuple[str, str, str, tuple[float, ...], frozenset[Objective]], ...] = (
    ("structured_prune", "structured_prune", "ratio", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), _ALL),
    ("distill", "distill", "width", (0.875, 0.75, 0.625, 0.5, 0.375, 0.25), _ALL),
    ("low_rank", "low_rank", "low_rank_ratio", (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), _WORK),
    # The same number of values in every layer trains best; a budget of bits shared out among layers fits closest.
    ("cluster evenly", "cluster", "num_clusters", (64, 32, 16, 12, 8, 6, 4, 3), _BYTES),
    ("cluster", "cluster", "mean_bits", (6, 5, 4.5, 4.2, 4, 3.8, 3.6, 3.4, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.8), _BYTES),
)


@dataclass(frozen=True)
class Family:
    """Recipes of one kind.

    Attributes:
        recipes: From the weakest to the strongest: resources fall, and so does the accuracy.
        gains: The resources that fall with strength on this device.
    """

    name: str
    recipes: tuple[Recipe, ...]
    gains: frozenset[Objective]

    @property
    def technique(self) -> str:
        """The last one of its recipes."""
        return self.recipes[0].steps[-1].technique

    def after(self, first: Recipe, gains: frozenset[Objective]) -> Family:
        """The same strengths on top of a model that another recipe has made."""
        joined = tuple(join(first, recipe) for recipe in self.recipes)
        return Family(f"{first} + {self.name}", joined, self.gains | gains)


@dataclass(frozen=True)
class RuledOut:
    """A family that is of no use here, and why, in one clause."""

    name: str
    reason: str


def join(*recipes: Recipe) -> Recipe:
    """One recipe with all steps, in the order in which techniques compose."""
    steps = [step for recipe in recipes for step in recipe.steps]
    values = {
        name: value
        for step in steps
        for name, value in step.options.model_dump().items()
        if name in step.options.model_fields_set
    }
    return make_recipe([step.technique for step in steps], values)


def with_qat(recipe: Recipe) -> Recipe | None:
    """The recipe with quantization-aware training at its end; None where it has that already."""
    if any(step.technique == "qat" for step in recipe.steps):
        return None
    return join(recipe, make_recipe(["qat"], {}))


def families_for(
    profile: DeviceProfile, precision: Precision, wanted: Iterable[Objective]
) -> tuple[list[Family], list[RuledOut]]:
    """The families that lower any of the wanted resources on a device, and the others with the reason.

    Args:
        profile: The device.
        precision: Of the files that candidates are shipped as.
        wanted: Resources that are limited, and the one that is to be as small as possible.
    """
    needed = set(wanted)
    found: list[Family] = []
    ruled: list[RuledOut] = []
    if precision is Precision.INT8:
        if Objective.ACCURACY_DROP in needed:
            found.append(Family("qat", (make_recipe(["qat"], {}),), frozenset({Objective.ACCURACY_DROP})))
        else:
            ruled.append(RuledOut("qat", "it raises the accuracy of INT8, which no limit needs"))
    else:
        ruled.append(
            RuledOut("qat", f"it trains for the rounding of INT8, and the files for this device are {precision}")
        )
    for name, technique, option, strengths, gains in _LADDERS:
        reason = _useless(technique, profile, precision)
        if reason is None and not gains & needed:
            reason = f"it lowers {_listed(gains)}, which no broken limit and no wish asks for"
        if reason is not None:
            ruled.append(RuledOut(name, reason))
            continue
        recipes = tuple(make_recipe([technique], {option: strength}) for strength in strengths)
        found.append(Family(name, recipes, gains))
    ruled.append(RuledOut("prune", _why_not_prune(profile)))
    return found, ruled


def _useless(technique: str, profile: DeviceProfile, precision: Precision) -> str | None:
    if technique == "cluster" and profile.runtime.kernels == "vendor":
        return f"whether {profile.name} decodes tables of values is not known"
    if technique == "cluster" and profile.runtime.name != "tflm":
        return f"{profile.runtime.name} stores every weight in full: tables of values are decoded by TFLM alone"
    if technique == "cluster" and precision is not Precision.INT8:
        return f"tables hold 8-bit values, and the files for this device are {precision}"
    return None


def _why_not_prune(profile: DeviceProfile) -> str:
    from edgecomp.sparse_inference import no_sparse_kernels

    if profile.runtime.name == "tflm":
        return "zeros alone take more flash than tables of few values at the same accuracy, and nothing runs faster"
    reason = no_sparse_kernels(profile)
    if reason is None:
        return "how much faster its sparse kernels are cannot be estimated: `edgecomp compress --technique prune`"
    return f"zeros make neither file nor memory smaller, and nothing faster: {reason}"


def _listed(gains: frozenset[Objective]) -> str:
    return ", ".join(sorted(gain.replace("_", " ") for gain in gains))
