"""Calibration: models in the real interpreter, fits of made-up times whose truth is known, cost files, corrections."""

import json
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from benchmarks.calibration import time_files
from edgecomp.calibration.calibrate import calibrate
from edgecomp.calibration.correct import Observation, corrected, observe
from edgecomp.calibration.fit import Fit, Timing, fit, left_out_errors, timing
from edgecomp.calibration.layers import Layers
from edgecomp.calibration.models import CHAINS, DTYPES, NETWORKS, calibration_models
from edgecomp.cost import predict
from edgecomp.cost_families import CostFamily, load_family
from edgecomp.cost_measured import INFERENCE, LEFT, OPERATOR, PARTITION, Groups, counts, rounded_up
from edgecomp.cost_work import operator_work
from edgecomp.errors import BenchmarkError, ProfileError, UsageError
from edgecomp.graph import read_graph
from edgecomp.profile import DeviceProfile, load_profile, read_profile, validate_profile
from edgecomp.profile_files import Layer, dump_toml

FILES = calibration_models()
WORK = {name: operator_work(read_graph(data, name)) for name, data in FILES.items()}
LINUX = load_profile("linux-x86-64")


def network(dtype="int8"):
    """A model that is none of the calibration models: stem, separable block, pool, dense layer, softmax."""
    made = Layers(dtype, (36, 36, 3), float_io=True).conv(20, 3, 2).depthwise().conv(36)
    return read_graph(made.pool("MAX_POOL_2D", (3, 3)).mean().dense(9).softmax().build())


class TestModels:
    def test_they_are_the_same_every_time_and_few_and_small(self):
        assert calibration_models() == FILES
        # Three processes of a second each: 56 models take about three minutes.
        assert len(FILES) == 2 * (len(CHAINS) + len(NETWORKS)) == 56
        assert sum(map(len, FILES.values())) < 8e6

    @pytest.mark.parametrize("name", FILES)
    def test_the_interpreter_runs_it_and_xnnpack_takes_what_is_counted(self, name):
        interpreter = Interpreter(model_content=FILES[name], num_threads=1)
        interpreter.allocate_tensors()
        random = np.random.default_rng(0)
        for detail in interpreter.get_input_details():
            low, high = (-100, 100) if detail["dtype"] == np.int8 else (-1, 1)
            values = random.uniform(low, high, detail["shape"]).astype(detail["dtype"])
            interpreter.set_tensor(detail["index"], values)
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert np.isfinite(output).all()
        if name.endswith("float32"):
            # Denormal numbers take a hundred times as long on some processors.
            assert not ((output != 0) & (np.abs(output) < np.finfo(np.float32).tiny)).any()
        delegates = sum(detail["op_name"] == "DELEGATE" for detail in interpreter._get_ops_details())
        groups = {dtype: Groups() for dtype in DTYPES}
        assert sum(count.get(PARTITION, 0) for count in counts(WORK[name], groups, "xnnpack")) == delegates

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_kind_is_in_several(self, dtype):
        kinds = [{item.kind for item in work if item.dtype == dtype} for work in WORK.values()]
        for kind in ("pointwise", "convolution", "depthwise", "dense", "elementwise"):
            assert sum(kind in found for found in kinds) >= 4
        assert not any("unknown" in found for found in kinds)

    def test_a_chain_is_one_kind(self):
        work = WORK["depthwise 3x3 on 4x4x24, int8"]
        assert [(item.code, item.macs) for item in work] == [("DEPTHWISE_CONV_2D", 4 * 4 * 24 * 9)] * 24

    def test_a_dense_layer_has_one_scale_as_older_runtimes_want_it(self):
        graph = read_graph(FILES["dense 32, int8"])
        weights = [tensor for tensor in graph.main.tensors if tensor.is_constant and tensor.type == "INT8"]
        assert {len(tensor.scales) for tensor in weights} == {1}


class TestCounts:
    def test_channels_are_rounded_up_at_each_position_of_the_kernel(self):
        item = WORK["convolution 5x5 on 40x40x1, int8"][0]  # 16 filters, 1 channel, 25 positions.
        assert rounded_up(item, Groups(1, 1)) == (40 * 40 * 16 * 25, 40 * 40 * 16)
        assert rounded_up(item, Groups(32, 8)) == (40 * 40 * 32 * 25 * 8, 40 * 40 * 32)

    def test_depthwise_adds_nothing_up_over_channels(self):
        item = WORK["depthwise 3x3 on 4x4x24, int8"][0]
        assert rounded_up(item, Groups(16, 8)) == (4 * 4 * 32 * 9, 4 * 4 * 32)

    def test_what_comes_once_is_with_the_first_operator_and_runs_of_the_delegate_are_counted(self):
        # INT8: QUANTIZE .. FULLY_CONNECTED are taken, SOFTMAX is not, DEQUANTIZE is.
        found = counts(operator_work(network()), {"float32": Groups(), "int8": Groups()}, "xnnpack")
        assert [count.get(INFERENCE, 0) for count in found] == [1] + [0] * (len(found) - 1)
        assert [number for number, count in enumerate(found) if PARTITION in count] == [0, len(found) - 1]
        assert [number for number, count in enumerate(found) if LEFT in count] == [len(found) - 2]

    def test_without_a_delegate_everything_is_left(self):
        found = counts(operator_work(network()), {"float32": Groups(), "int8": Groups()}, None)
        assert not any(PARTITION in count or OPERATOR in count for count in found)


TRUTH = Fit(
    {"float32": Groups(16, 1), "int8": Groups(8, 8)},
    {INFERENCE: 3.0, PARTITION: 0.8, OPERATOR: 0.2, LEFT: 0.5}
    | {
        (dtype, what, kind): value * speed
        for dtype, speed in (("float32", 1.0), ("int8", 0.4))
        for what, values in (("mac", (1e-4, 1.1e-4, 3e-4, 2e-4)), ("output", (1e-3, 2e-3, 1e-3, 3e-3)))
        for kind, value in zip(("pointwise", "convolution", "depthwise", "dense"), values, strict=True)
    }
    | {(dtype, "tap"): 4e-4 for dtype in DTYPES}
    | {
        (dtype, "element", code): 6e-4
        for dtype in DTYPES
        for code in ("ADD", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "QUANTIZE", "SOFTMAX", "other")
    }
    | {(dtype, "result", "AVERAGE_POOL_2D"): 5e-3 for dtype in DTYPES},
    "xnnpack",
)  # fmt: skip


def true_times(scatter=0.0, seed=0):
    random = np.random.default_rng(seed)
    return {name: TRUTH.predicted_us(work) * math.exp(random.normal(0, scatter)) for name, work in WORK.items()}


def timings(scatter=0.0, seed=0):
    return [Timing(name, tuple(WORK[name]), time_us) for name, time_us in true_times(scatter, seed).items()]


@pytest.fixture(scope="module")
def exact():
    """Calibrated with times without any scatter."""
    return calibrate(measured(), LINUX)


@dataclass(frozen=True)
class Benchmarked:
    """As a benchmark gives times back."""

    processes_us: tuple[tuple[float, ...], ...]


def measured(scatter=0.0, spread=0.01, seed=0):
    """A `measure` that answers with true times: three processes, the first the fastest, inferences `spread` apart."""

    def answer(files):
        times = true_times(scatter, seed)
        steps = np.linspace(1 - spread, 1 + spread, 31)
        return {name: [(steps * times[name] * slower).tolist() for slower in (1.0, 1.3, 1.7)] for name in files}

    return answer


class TestFit:
    def test_it_finds_constants_that_are_known(self):
        found = fit(timings(), DTYPES, "xnnpack")
        assert found.groups == TRUTH.groups
        for key, value in TRUTH.constants_us.items():
            # QUANTIZE of float32 models: there is none, so it has no constant.
            if key != ("float32", "element", "QUANTIZE"):
                assert found.constants_us[key] == pytest.approx(value, rel=1e-3), key

    def test_it_predicts_a_model_that_it_has_not_seen_through_noise(self):
        # Times are off by 5 % (one sd): predictions of a network rest on dozens of them.
        for seed in range(3):
            found = fit(timings(0.05, seed), DTYPES, "xnnpack")
            for dtype in DTYPES:
                work = operator_work(network(dtype))
                assert found.predicted_us(work) == pytest.approx(TRUTH.predicted_us(work), rel=0.10)

    @pytest.mark.parametrize("seed", range(3))
    def test_no_constant_is_negative_whatever_the_times(self, seed):
        random = np.random.default_rng(seed)
        nonsense = [replace(item, time_us=float(random.uniform(1, 1000))) for item in timings()]
        assert min(fit(nonsense, DTYPES, "xnnpack").constants_us.values()) >= 0

    def test_a_noisy_model_counts_for_less(self):
        name = "separable network, int8"
        wrong = [replace(item, time_us=item.time_us * 2) if item.name == name else item for item in timings()]
        noisy = [replace(item, noise=0.7) if item.name == name else item for item in wrong]
        work = operator_work(network())
        true = TRUTH.predicted_us(work)
        errors = [abs(fit(items, DTYPES, "xnnpack").predicted_us(work) / true - 1) for items in (wrong, noisy)]
        assert errors[1] < errors[0] / 3  # 0.14 and 0.56

    def test_an_error_is_that_of_a_fit_without_the_model(self):
        name = "separable network, int8"
        wrong = [replace(item, time_us=item.time_us * 1.5) if item.name == name else item for item in timings()]
        errors = left_out_errors(wrong, [name], DTYPES, "xnnpack")
        assert errors == {name: pytest.approx(-math.log(1.5), abs=1e-3)}

    def test_too_few_models(self):
        with pytest.raises(BenchmarkError, match="1 models are too few"):
            fit(timings()[:1], DTYPES, "xnnpack")


class TestTiming:
    def test_it_is_the_median_of_the_fastest_process(self):
        found = timing("m", [], [[30.0, 31.0, 32.0], [20.0, 20.5, 21.0, 50.0, 22.0], [25.0]])
        assert found.time_us == 21.0
        assert found.noise == pytest.approx(math.log(21.0 / 20.2))  # Tenth percentile of five values.

    @pytest.mark.parametrize("processes", [[], [[]], [[1.0], []]])
    def test_nothing_was_timed(self, processes):
        with pytest.raises(BenchmarkError, match="m was not timed: every process needs at least one inference"):
            timing("m", [], processes)

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
    def test_a_time_that_is_none(self, value):
        with pytest.raises(BenchmarkError, match=f"m has a time that is none: {value:g} us"):
            timing("m", [], [[1.0, value, 2.0]])


class TestCalibrate:
    def test_estimates_are_what_the_board_takes(self, exact):
        result = exact
        profile = LINUX.with_constants(result.family)
        for dtype in DTYPES:
            graph = network(dtype)
            found, why = predict(graph, profile)
            assert why is None
            assert found.value_ms * 1000 == pytest.approx(TRUTH.predicted_us(operator_work(graph)), rel=0.01)
            assert sum(ms for _, _, ms in found.per_operator) == pytest.approx(found.value_ms)
            assert (found.family, found.notes) == ("linux-x86-64-calibrated", ())
            # No errors at all: the least that is stated, and 0.01 within a process.
            assert found.high_ms / found.value_ms == pytest.approx(math.exp(1.645 * math.hypot(0.05, 0.01)), rel=1e-3)
        assert result.num_models == 56
        assert len(result.errors) == 14
        assert result.median_error < 0.001
        assert result.notes == ()

    def test_the_interval_is_as_wide_as_networks_left_out_are_off(self):
        result = calibrate(measured(scatter=0.1), LINUX)
        for dtype, table in result.family.measured.items():
            errors = [math.log1p(error) for name, error in result.errors.items() if name.endswith(dtype)]
            seen = math.sqrt(sum(error**2 for error in errors) / 7)
            assert table.sd == pytest.approx(seen * math.sqrt(8 / 6), rel=1e-3)
            assert 0.05 < table.sd < 0.3

    def test_a_benchmark_may_give_its_own_objects(self, exact):
        def answer(files):
            lists = measured()(files)
            return {name: Benchmarked(tuple(map(tuple, rows))) for name, rows in lists.items()}

        assert calibrate(answer, LINUX).family == exact.family

    def test_the_constants_scale_with_the_clock(self, exact):
        slower = LINUX.model_copy(update={"cpu": LINUX.cpu.model_copy(update={"clock_hz": LINUX.cpu.clock_hz / 2})})
        family = exact.family
        whole, half = (predict(network(), profile.with_constants(family))[0] for profile in (LINUX, slower))
        assert half.value_ms == pytest.approx(2 * whole.value_ms)

    def test_what_is_not_timed_comes_from_the_family_before(self, exact):
        family, base = exact.family, load_family("x86-64-xnnpack")
        assert (family.derived, family.missing) == (base.derived, base.missing)
        assert family.parallel_loss == base.parallel_loss
        assert (family.output_multiple, family.reduction_multiple) == (8, 8)  # INT8's: channels are pruned by them.

    def test_threads_share_the_work_and_not_the_calls(self, exact):
        profile = LINUX.with_constants(exact.family)
        one, two = (predict(network(), profile, threads)[0] for threads in (1, 2))
        # Half the work at a loss of 2 %; calls, about 6 us, as before.
        calls_ms = (3.0 + 2 * 0.8 + 8 * 0.2 + 0.5) / 1000
        assert two.value_ms == pytest.approx((one.value_ms - calls_ms) / (2 / 1.02068) + calls_ms, rel=0.01)
        assert two.high_ms / two.value_ms > one.high_ms / one.value_ms

    def test_noise_is_said_and_widens_the_interval(self, exact):
        quiet, loud = exact, calibrate(measured(spread=0.08), LINUX)
        assert loud.notes == (
            "Inferences within a process lay 7% apart (a quiet device: 1 to 2 %); the interval is wider for it.",
        )
        first, second = (predict(network(), LINUX.with_constants(item.family))[0] for item in (quiet, loud))
        assert second.high_ms / second.value_ms > 1.05 * first.high_ms / first.value_ms

    def test_too_much_noise_is_refused(self):
        with pytest.raises(BenchmarkError, match=r"took 19% longer than the fastest tenth.*at most 11% is accepted"):
            calibrate(measured(spread=0.2), LINUX)

    def test_times_that_nothing_explains_are_refused(self):
        with pytest.raises(BenchmarkError, match="networks that the fit had not seen are off by a factor of"):
            calibrate(measured(scatter=1.5), LINUX)

    def test_a_model_that_was_not_timed(self):
        def answer(files):
            return dict(list(measured()(files).items())[3:])

        with pytest.raises(BenchmarkError, match=r"'pointwise 14x14, 64 and 112, float32' and 2 more was not timed"):
            calibrate(answer, LINUX)

    def test_a_microcontroller_is_refused_before_anything_is_timed(self):
        with pytest.raises(UsageError, match="stm32l4r5 cannot be calibrated: its runtime is tflm"):
            calibrate(lambda files: pytest.fail("timed"), load_profile("stm32l4r5"))

    def test_a_profile_without_a_family_is_calibrated_all_the_same(self):
        profile = LINUX.model_copy(update={"cost": None})
        assert calibrate(measured(), profile).family.parallel_loss == load_family("x86-64-xnnpack").parallel_loss

    def test_its_report_is_plain(self, exact):
        report = json.loads(json.dumps(exact.to_json()))
        assert (report["num_models"], len(report["left_out"]), len(report["fitted"])) == (56, 14, 56)

    def test_real_processes(self):
        files = {name: FILES[name] for name in ("softmax 40, int8", "dense 32, float32")}
        taken = time_files(files, processes=2, seconds=0.0)
        for name, processes in taken.items():
            assert [len(process) >= 30 for process in processes] == [True, True]
            assert 0 < timing(name, WORK[name], processes).time_us < 1e5  # Microseconds: it took less than 0.1 s.


@pytest.fixture(scope="module")
def calibrated():
    return calibrate(measured(scatter=0.05), LINUX)


def written(folder, calibrated, profile=None, text=None):
    """A profile that extends linux-x86-64, with its cost file beside it."""
    (folder / "box.cost.toml").write_text(calibrated.file_text() if text is None else text)
    table = {"schema_version": 1, "name": "box", "extends": "linux-x86-64"}
    table |= (
        {"cost": {"file": "box.cost.toml"}, "sources": {"cost.file": "edgecomp probe"}} if profile is None else profile
    )
    (folder / "box.toml").write_text(dump_toml(table))
    return folder / "box.toml"


class TestCostFile:
    def test_it_is_read_and_used(self, tmp_path, calibrated):
        profile = load_profile(str(written(tmp_path, calibrated)))
        assert profile.cost.constants == calibrated.family
        assert profile.cost.family is None  # What it extends names one.
        assert profile.source_of("cost.constants") == "edgecomp probe"
        found, _ = predict(network(), profile)
        assert found == predict(network(), LINUX.with_constants(calibrated.family))[0]

    def test_the_text_needs_no_file(self, tmp_path, calibrated):
        """Workers and bundles have the text alone."""
        profile = load_profile(str(written(tmp_path, calibrated)))
        assert "box.cost.toml" in profile.text.splitlines()[0]
        elsewhere = tmp_path / "bundle" / "profile.toml"
        elsewhere.parent.mkdir()
        elsewhere.write_text(profile.text)
        again = read_profile(elsewhere)
        assert again.model_dump() == profile.model_dump()
        assert again.text == profile.text

    def test_devices_show_names_them(self, tmp_path, calibrated, run_cli):
        path = written(tmp_path, calibrated)
        lines = [line for line in run_cli("devices", "show", path).stdout.splitlines() if line.startswith("cost.")]
        assert [line.split() for line in lines] == [
            ["cost.constants.name", "linux-x86-64-calibrated", "edgecomp", "probe"]
        ]
        assert "[cost.constants.measured.int8]" in run_cli("devices", "show", path, "--toml").stdout

    def test_a_profile_given_constants_says_so_in_its_text(self, calibrated):
        profile = LINUX.with_constants(calibrated.family)
        again = DeviceProfile.model_validate(tomllib.loads(profile.text))
        assert again.cost.constants == calibrated.family

    def test_it_is_found_from_another_folder_and_through_extends(self, tmp_path, calibrated):
        path = written(tmp_path, calibrated)
        child = tmp_path / "more" / "child.toml"
        child.parent.mkdir()
        child.write_text(f'schema_version = 1\nname = "child"\nextends = "../{path.name}"\n')
        profile = read_profile(child)
        assert profile.cost.constants == calibrated.family
        assert profile.text.startswith("# child, with all that it needs (box, linux-x86-64, box.cost.toml).")

    def test_a_family_takes_the_place_of_a_file_that_is_extended(self, tmp_path, calibrated):
        written(tmp_path, calibrated)
        child = tmp_path / "child.toml"
        cost = {"cost": {"family": "x86-64-xnnpack"}}
        child.write_text(dump_toml({"schema_version": 1, "name": "child", "extends": "./box.toml"} | cost))
        profile = read_profile(child)
        assert (profile.cost.family, profile.cost.constants) == ("x86-64-xnnpack", None)
        assert "box.cost.toml" not in profile.text
        assert profile.source_of("cost.constants") is None

    def refused(self, folder, calibrated, **more):
        with pytest.raises(ProfileError) as caught:
            read_profile(written(folder, calibrated, **more))
        return caught.value.message

    def test_an_unknown_key_is_named_with_its_file(self, tmp_path, calibrated):
        message = self.refused(tmp_path, calibrated, text="speed = 3\n" + calibrated.file_text())
        assert f"unknown key cost.constants.speed (in {tmp_path / 'box.cost.toml'})" in message

    def test_a_wrong_value_is_named_with_its_file(self, tmp_path, calibrated):
        table = tomllib.loads(calibrated.file_text())
        table["measured"]["int8"]["cycles_per_tap"] = -1.0
        message = self.refused(tmp_path, calibrated, text=dump_toml(table))
        assert "cost.constants.measured.int8.cycles_per_tap" in message
        assert "greater than or equal to 0, got -1.0 (in " in message

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda table: table.pop("calls"), "calls and measured go together"),
            (lambda table: table["measured"].pop("int8"), "measured must have every dtype of x86-64-v3, without int8"),
            (
                lambda table: table["measured"]["int8"]["cycles_per_element"].pop("other"),
                'cycles_per_element must have "other"',
            ),
        ],
    )
    def test_tables_that_do_not_fit_together(self, tmp_path, calibrated, change, expected):
        table = tomllib.loads(calibrated.file_text())
        change(table)
        assert expected in self.refused(tmp_path, calibrated, text=dump_toml(table))

    def test_text_that_is_no_toml(self, tmp_path, calibrated):
        assert "box.cost.toml: not valid TOML" in self.refused(tmp_path, calibrated, text="family = = 3")

    def test_a_file_that_is_not_there(self, tmp_path, calibrated):
        profile = {"cost": {"file": "gone.cost.toml"}}
        assert "cost.file names 'gone.cost.toml', which does not exist" in self.refused(
            tmp_path, calibrated, profile=profile
        )

    @pytest.mark.parametrize("name", [3, ""])
    def test_a_name_that_is_none(self, tmp_path, calibrated, name):
        assert "cost.file must be a path like" in self.refused(tmp_path, calibrated, profile={"cost": {"file": name}})

    def test_two_of_them(self, tmp_path, calibrated):
        cost = {"cost": {"file": "box.cost.toml", "family": "x86-64-xnnpack"}}
        message = self.refused(tmp_path, calibrated, profile=cost)
        assert "cost must have one of family, file and constants, got file, family" in message

    def test_none_of_them(self):
        layer = Layer(Path("linux.toml"), "", tomllib.loads(LINUX.text) | {"cost": {}})
        with pytest.raises(ProfileError, match="cost must have one of family, file and constants, got none of them"):
            validate_profile(layer)


def observation(ratio, sd=0.2, dtype="int8", value_ms=10.0):
    """Estimated with this standard deviation of ln, measured at `ratio` times the estimate."""
    spread = math.exp(1.645 * sd)
    return Observation(value_ms * ratio, value_ms, value_ms / spread, value_ms * spread, dtype)


class TestCorrect:
    def test_one_measurement_moves_estimates_half_of_the_way(self, calibrated):
        found = corrected(calibrated.family, [observation(1.21)]).corrections["int8"]
        assert found.factor == pytest.approx(1.1)  # Half of the variance is shared: sqrt(1.21).
        # Half of the shared half is known, and it was within what was expected: 0.5 + 0.5 * 0.5 of the variance.
        assert found.width == pytest.approx(math.sqrt(0.75))
        assert found.num_models == 1

    def test_three_that_agree_move_them_further(self, calibrated):
        found = corrected(calibrated.family, [observation(1.2)] * 3).corrections["int8"]
        assert found.factor == pytest.approx(1.2**0.75)
        assert found.width == pytest.approx(math.sqrt(0.5 + 0.125))

    def test_what_scatters_more_than_was_said_widens_the_interval(self, calibrated):
        found = corrected(calibrated.family, [observation(ratio, sd=0.05) for ratio in (0.7, 1 / 0.7)])
        assert found.corrections["int8"].factor == pytest.approx(1.0)
        # ln(0.7) = -0.357 = 7.1 sd.
        assert found.corrections["int8"].width == pytest.approx(math.sqrt((0.3567 / 0.05) ** 2 + 1 / 6), rel=1e-3)

    def test_a_sure_estimate_counts_for_more_than_a_vague_one(self, calibrated):
        sure, vague = observation(1.0, sd=0.05), observation(2.0, sd=0.5)
        assert 1.0 < corrected(calibrated.family, [sure, vague]).corrections["int8"].factor < 1.02

    def test_estimates_follow(self, calibrated):
        before, _ = predict(network(), LINUX.with_constants(calibrated.family))
        seen = observe(network(), before, 1.3 * before.value_ms)
        assert seen.dtype == "int8"  # QUANTIZE computes in float32, but takes next to no time.
        after, _ = predict(network(), LINUX.with_constants(corrected(calibrated.family, [seen])))
        assert after.value_ms == pytest.approx(math.sqrt(1.3) * before.value_ms)
        assert math.log(after.high_ms / after.low_ms) == pytest.approx(
            math.sqrt(max(0.5, (math.log(1.3) / 2) ** 2 / variance(before)) + 0.25)
            * math.log(before.high_ms / before.low_ms),
            rel=0.02,
        )
        assert sum(ms for _, _, ms in after.per_operator) == pytest.approx(after.value_ms)
        assert after.notes == ("int8: times 1.14, by 1 measured model.",)

    def test_a_shipped_family_can_be_corrected(self):
        family = corrected(load_family("arm-a-xnnpack"), [observation(1.2)] * 2)
        profile = load_profile("rpi4")
        before, after = (predict(network(), each)[0] for each in (profile, profile.with_constants(family)))
        assert after.value_ms == pytest.approx(1.2 ** (2 / 3) * before.value_ms)
        assert after.high_ms / after.value_ms < before.high_ms / before.value_ms

    def test_the_other_dtype_stays(self, calibrated):
        family = corrected(calibrated.family, [observation(1.5)])
        before, after = (
            predict(network("float32"), LINUX.with_constants(each))[0] for each in (calibrated.family, family)
        )
        assert replace(after, notes=()) == before
        assert corrected(calibrated.family, []) == calibrated.family

    def test_twice_is_further(self, calibrated):
        once = corrected(calibrated.family, [observation(1.21)])
        # Now 10 % are left of the 21 %.
        twice = corrected(once, [observation(1.1)]).corrections["int8"]
        assert twice.factor == pytest.approx(1.1 * math.sqrt(1.1))
        assert (twice.width, twice.num_models) == (pytest.approx(0.75), 2)

    def test_it_is_kept_in_a_file(self, calibrated):
        family = corrected(calibrated.family, [observation(1.21)])
        table = tomllib.loads(replace(calibrated, family=family).file_text())
        assert CostFamily.model_validate(table) == family

    @pytest.mark.parametrize("measured_ms", [0.0, -1.0, math.nan, math.inf])
    def test_a_time_that_is_none(self, calibrated, measured_ms):
        with pytest.raises(UsageError, match="does not correct an estimate"):
            corrected(calibrated.family, [replace(observation(1.0), measured_ms=measured_ms)])

    def test_an_estimate_outside_of_its_interval(self, calibrated):
        with pytest.raises(UsageError, match="an estimate in its interval"):
            corrected(calibrated.family, [replace(observation(1.0), low_ms=11.0)])

    @pytest.mark.parametrize("count", [1, 3])
    def test_intervals_still_hold_nine_times_in_ten(self, calibrated, count):
        """On made-up devices where half of the variance is the device's: 0.90 +- 0.02 over 3,000 of them."""
        random, sd, inside = np.random.default_rng(count), 0.2, 0
        for _ in range(3000):
            device = random.normal(0, sd * math.sqrt(0.5))
            misses = device + random.normal(0, sd * math.sqrt(0.5), count + 1)
            found = corrected(calibrated.family, [observation(math.exp(miss)) for miss in misses[1:]])
            correction = found.corrections["int8"]
            inside += abs(misses[0] - math.log(correction.factor)) <= 1.645 * sd * correction.width
        assert 0.88 <= inside / 3000 <= 0.93


def variance(estimate):
    """Of ln(latency), from the interval."""
    return (math.log(estimate.high_ms / estimate.low_ms) / 2 / 1.645) ** 2
