"""Outputs of a device against golden ones, by hand-made arrays."""

import json

import numpy as np
import pytest

from edgecomp.agent.on_device.golden import compare_golden


class TestGoldenRule:
    """DESIGN decision 11: exact within one kernel family and version, else a tolerance in LSB and argmax agreement."""

    GOLDEN = np.array([[-128, 0, 127], [100, -20, 5]] * 10, np.int8)

    def compare(self, expected, actual, *, quantized=True, is_float=False, is_exact=False, tolerance_lsb=32.0):
        pairs = [(expected, actual, quantized)]
        return compare_golden(np, pairs, is_float, is_exact, tolerance_lsb)

    def moved(self, by):
        actual = self.GOLDEN.copy()
        actual[0, 1] += by
        return actual

    def test_equal_is_right_under_both_rules(self):
        for is_exact in (True, False):
            result = self.compare(self.GOLDEN, self.GOLDEN.copy(), is_exact=is_exact)
            assert (result["ok"], result["equal"], result["max_difference_lsb"]) == (True, True, 0.0)

    def test_one_lsb_is_wrong_under_the_exact_rule(self):
        result = self.compare(self.GOLDEN, self.moved(1), is_exact=True)
        assert (result["ok"], result["rule"], result["max_difference_lsb"]) == (False, "exact", 1.0)
        assert result["message"] == (
            "Output 0 is not the golden one: 1 of 20 samples differ by more than 0 LSB, at most by 1."
        )

    @pytest.mark.parametrize(("by", "ok"), [(32, True), (33, False)])
    def test_tolerance_is_32_lsb(self, by, ok):
        result = self.compare(self.GOLDEN[:1], self.moved(by)[:1])
        assert (result["ok"], result["max_difference_lsb"], result["argmax_agreement"]) == (ok, float(by), 1.0)

    @pytest.mark.parametrize(
        ("samples", "beyond", "ok"), [(8, 1, True), (8, 2, False), (100, 5, True), (100, 6, False), (2, 1, True)]
    )
    def test_tolerance_holds_for_95_percent_or_all_but_one(self, samples, beyond, ok):
        expected = np.tile(np.array([[0, 127]], np.int8), (samples, 1))
        actual = expected.copy()
        actual[:beyond, 0] = 57
        result = self.compare(expected, actual)
        assert (result["ok"], result["max_difference_lsb"], result["argmax_agreement"]) == (ok, 57.0, 1.0)
        if not ok:
            assert f"{beyond} of {samples} samples differ by more than 32 LSB, at most by 57" in result["message"]

    def test_a_single_sample_is_no_exception(self):
        expected = np.array([[0, 20]], np.int8)
        assert not self.compare(expected, np.array([[30, 20]], np.int8))["ok"]

    def test_difference_does_not_wrap_around(self):
        """-128 against 127 is 255 in int8, not 1."""
        result = self.compare(np.array([[-128, 127]], np.int8), np.array([[127, -128]], np.int8))
        assert result["max_difference_lsb"] == 255.0

    @pytest.mark.parametrize(
        ("samples", "flipped", "ok"),
        [(20, 1, True), (20, 2, False), (4, 1, True), (4, 2, False), (100, 5, True), (100, 6, False)],
    )
    def test_argmax_agrees_for_95_percent_or_all_but_one(self, samples, flipped, ok):
        expected = np.tile(np.array([[0, 10]], np.int8), (samples, 1))
        actual = expected.copy()
        actual[:flipped] = [10, 0]
        result = self.compare(expected, actual)
        assert (result["ok"], result["argmax_agreement"]) == (ok, (samples - flipped) / samples)

    def test_ties_agree(self):
        """Two saturated classes: whichever comes first is as right as the other."""
        expected = np.array([[127, 127, 0]] * 10, np.int8)
        actual = np.array([[120, 127, 0]] * 10, np.int8)
        assert self.compare(expected, actual)["argmax_agreement"] == 1.0

    def test_single_value_has_no_argmax(self):
        values = np.array([[3], [4]], np.int8)
        assert self.compare(values, values.copy())["argmax_agreement"] is None

    @pytest.mark.parametrize(
        ("is_float", "difference", "ok"),
        [(True, 0.0019, True), (True, 0.0021, False), (False, 0.24, True), (False, 0.26, False)],
    )
    def test_float_outputs_are_held_to_their_range(self, is_float, difference, ok):
        """Range 2: a float model may be off by 1/1000 of it, an int8 model's float output by 32/256."""
        expected = np.array([[0.0, 2.0, 1.0]], np.float32)
        actual = expected + np.array([[0, 0, difference]], np.float32)
        result = self.compare(expected, actual, quantized=False, is_float=is_float)
        assert result["ok"] is ok
        assert result["max_difference_lsb"] == pytest.approx(difference * 128, rel=1e-3)

    @pytest.mark.parametrize(("difference", "ok"), [(1e-6, True), (1e-4, False)])
    def test_exact_rule_leaves_the_rounding_of_floats_to_the_cpu(self, difference, ok):
        expected = np.array([[0.0, 1.0]], np.float32)
        actual = expected + np.array([[0, difference]], np.float32)
        result = self.compare(expected, actual, quantized=False, is_float=True, is_exact=True)
        assert (result["ok"], result["equal"]) == (ok, False)

    def test_output_that_is_not_a_number(self):
        expected = np.array([[0.0, 1.0]], np.float32)
        result = self.compare(expected, np.full((1, 2), np.nan, np.float32), quantized=False, is_float=True)
        assert (result["ok"], result["max_difference_lsb"]) == (False, None)
        json.dumps(result, allow_nan=False)

    def test_labels_have_no_distance(self):
        """An int64 output without a scale is a class: 7 is not nearer to 8 than to 1."""
        expected = np.arange(20, dtype=np.int64)
        actual = expected.copy()
        actual[0] = 1000
        result = self.compare(expected, actual, quantized=False)
        assert (result["ok"], result["max_difference_lsb"], result["argmax_agreement"]) == (True, None, 0.95)
        actual[1] = 1000
        assert self.compare(expected, actual, quantized=False)["message"] == (
            "Output 0 is not the golden one: only 18 of 20 values agree."
        )
        assert not self.compare(expected, actual, quantized=False, is_exact=True)["ok"]

    def test_second_output_counts_too(self):
        right = (self.GOLDEN, self.GOLDEN.copy(), True)
        wrong = (self.GOLDEN, self.moved(50), True)
        result = compare_golden(np, [right, wrong], False, True, 32.0)
        assert result["message"].startswith("Output 1 is not the golden one: 1 of 20 samples differ")
        assert result["max_difference_lsb"] == 50.0
