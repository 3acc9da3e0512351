"""What a remembered candidate is told apart by."""

from types import SimpleNamespace

import pytest

from edgecomp.budget import Budget
from edgecomp.candidates import Target
from edgecomp.lab import Lab
from edgecomp.means import digest
from edgecomp.profile import load_profile
from edgecomp.recipe import make_recipe
from edgecomp.results import CandidateResult
from edgecomp.training.settings import TrainingSettings


def key_of(stand_in: str, technique: str) -> str:
    means = SimpleNamespace(
        stand_in=lambda _profile: load_profile(stand_in), key=digest, settings=TrainingSettings(), unlabelled=None
    )
    target = Target(load_profile("stm32l4r5"), Budget(), "int8")
    base = CandidateResult(name="INT8", status="rejected", reason="")
    return Lab(means, target, base, None, lambda result: result)._key(make_recipe([technique], {}), "full")


@pytest.mark.parametrize(("technique", "differs"), [("structured_prune", True), ("cluster", False)])
def test_another_stand_in_is_another_candidate_where_the_technique_looks_at_it(technique, differs):
    """The reference kernels take any channel count, CMSIS-NN multiples of 4; a codebook is the same for both."""
    assert (key_of("stm32l4r5", technique) != key_of("stm32l4r5-cmsis-nn", technique)) is differs
