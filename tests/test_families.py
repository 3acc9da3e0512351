"""Families of recipes: which are of use where, and that every one of them gets stronger."""

import pytest

from edgecomp.compress import technique_names
from edgecomp.objective import Objective
from edgecomp.planner.families import Family, families_for, join, with_qat
from edgecomp.profile import Precision, load_profile
from edgecomp.recipe import make_recipe

EVERYTHING = frozenset(Objective)
BOARD, PHONE, NPU, TPU, MAC = "stm32l4r5", "pixel4", "ethos-u55-128", "coral-usb-rpi4", "linux-x86-64"


def found(device, precision=Precision.INT8, wanted=EVERYTHING):
    families, ruled = families_for(load_profile(device), precision, wanted)
    return {family.name: family for family in families}, {item.name: item.reason for item in ruled}


def techniques(device, precision=Precision.INT8, wanted=EVERYTHING):
    return {family.technique for family in found(device, precision, wanted)[0].values()}


@pytest.mark.parametrize("device", [BOARD, PHONE, NPU, TPU, MAC])
@pytest.mark.parametrize("wanted", [EVERYTHING, {Objective.LATENCY}, {Objective.SIZE}, {Objective.RAM}])
def test_every_technique_is_told_of(device, wanted):
    families, ruled = found(device, wanted=wanted)
    told = {family.technique for family in families.values()} | {name.split()[0] for name in ruled}
    assert told == set(technique_names())
    assert not families.keys() & ruled.keys()


class TestCluster:
    def test_for_tflm_and_int8_only(self):
        assert "cluster" in techniques(BOARD)
        for precision in (Precision.FLOAT32, Precision.INT16X8, Precision.INT4_WEIGHTS):
            assert "cluster" not in techniques(BOARD, precision)
            assert str(precision) in found(BOARD, precision)[1]["cluster"]

    @pytest.mark.parametrize("device", [PHONE, NPU, TPU, MAC])
    def test_other_runtimes_store_weights_in_full(self, device):
        assert "cluster" not in techniques(device)
        assert load_profile(device).runtime.name in found(device)[1]["cluster"]

    def test_only_where_bytes_count(self):
        for wanted in ({Objective.LATENCY}, {Objective.RAM}, {Objective.ENERGY}, {Objective.ACCURACY_DROP}):
            assert "cluster" not in techniques(BOARD, wanted=wanted)
            assert found(BOARD, wanted=wanted)[1]["cluster"].startswith("it lowers size, ")
        assert "cluster" in techniques(BOARD, wanted={Objective.SIZE})


class TestQat:
    @pytest.mark.parametrize("wanted", [{Objective.SIZE}, {Objective.LATENCY, Objective.RAM, Objective.ENERGY}])
    def test_not_where_no_accuracy_is_wanted(self, wanted):
        families, ruled = found(BOARD, wanted=wanted)
        assert "qat" not in families
        assert ruled["qat"] == "it raises the accuracy of INT8, which no limit needs"

    def test_where_accuracy_is_wanted(self):
        families, _ = found(BOARD, wanted={Objective.ACCURACY_DROP})
        assert list(families) == ["qat"]
        assert families["qat"].gains == {Objective.ACCURACY_DROP}

    def test_not_for_other_precisions(self):
        families, ruled = found(BOARD, Precision.INT16X8, {Objective.ACCURACY_DROP})
        assert families == {}
        assert "INT16X8" in ruled["qat"]


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (BOARD, "take more flash than tables of few values"),
        (NPU, "the NPU multiplies zeros too"),
        (TPU, "the Edge TPU multiplies zeros too"),
        (PHONE, "cannot be estimated: `edgecomp compress --technique prune`"),
        (MAC, "XNNPACK leaves its sparse kernels out on x86 processors"),
    ],
)
def test_prune_is_ruled_out_by_what_the_runtime_does_with_zeros(device, text):
    families, ruled = found(device)
    assert "prune" not in families
    assert text in ruled["prune"]


def test_what_is_wanted_decides():
    assert techniques(BOARD, wanted={Objective.RAM}) == {"structured_prune", "distill"}
    assert techniques(BOARD, wanted={Objective.LATENCY}) == {"structured_prune", "distill", "low_rank"}
    assert techniques(BOARD, wanted=()) == set()


@pytest.mark.parametrize("device", [BOARD, PHONE])
def test_recipes_get_stronger_step_by_step(device):
    """The one number that changes goes one way; nothing else does."""
    smaller_is_stronger = {"width", "low_rank_ratio", "mean_bits", "num_clusters"}
    for family in found(device)[0].values():
        steps = [recipe.steps[0] for recipe in family.recipes]
        assert all(len(recipe.steps) == 1 for recipe in family.recipes)
        assert {step.technique for step in steps} == {family.technique}
        if family.technique == "qat":
            assert len(family.recipes) == 1
            continue
        tables = [step.options.model_dump() for step in steps]
        (option,) = {name for step in steps for name in step.options.model_fields_set}
        values = [table.pop(option) for table in tables]
        order = sorted(values, reverse=option in smaller_is_stronger)
        assert values == order
        assert len(set(values)) == len(values) > 3
        assert all(table == tables[0] for table in tables)
        assert len({recipe.slug for recipe in family.recipes}) == len(values)
        assert len({str(recipe) for recipe in family.recipes}) == len(values)


class TestJoin:
    def test_steps_come_in_the_order_in_which_they_compose(self):
        one = make_recipe(["cluster"], {"mean_bits": 3.2})
        two = make_recipe(["structured_prune"], {"ratio": 0.5, "min_channels": 2})
        three = make_recipe(["low_rank"], {"low_rank_ratio": 0.6})
        for parts in ((one, two, three), (three, one, two), (two, three, one)):
            joined = join(*parts)
            assert [step.technique for step in joined.steps] == ["low_rank", "structured_prune", "cluster"]
            assert {str(step) for step in joined.steps} == {str(one), str(two), str(three)}

    def test_options_are_kept_and_defaults_stay_defaults(self):
        joined = join(make_recipe(["structured_prune"], {"ratio": 0.5, "min_channels": 2}), make_recipe(["qat"], {}))
        options = joined.steps[0].options
        assert (options.ratio, options.min_channels) == (0.5, 2)
        assert options.model_fields_set == {"ratio", "min_channels"}
        assert joined.steps[1].options.model_fields_set == set()

    def test_one_recipe_is_itself(self):
        recipe = make_recipe(["cluster"], {"num_clusters": 4, "codebook": "tensor"})
        assert join(recipe) == recipe

    def test_after(self):
        first = make_recipe(["structured_prune"], {"ratio": 0.5})
        family = Family(
            "cluster",
            tuple(make_recipe(["cluster"], {"num_clusters": count}) for count in (16, 8, 4)),
            frozenset({Objective.SIZE}),
        )
        after = family.after(first, frozenset({Objective.RAM}))
        assert after.gains == {Objective.SIZE, Objective.RAM}
        assert [recipe.steps[1] for recipe in after.recipes] == [recipe.steps[0] for recipe in family.recipes]
        assert all(recipe.steps[0] == first.steps[0] for recipe in after.recipes)
        assert after.name == f"{first} + cluster"


class TestWithQat:
    @pytest.mark.parametrize("device", [BOARD, PHONE])
    def test_at_the_end_of_every_recipe(self, device):
        for family in found(device)[0].values():
            for recipe in family.recipes:
                trained = with_qat(recipe)
                if family.technique == "qat":
                    assert trained is None
                    continue
                assert trained.steps[:-1] == recipe.steps
                assert trained.steps[-1].technique == "qat"
                assert with_qat(trained) is None
