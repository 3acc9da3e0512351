"""The verdict on a timing, from reports made by hand: every threshold just inside and just outside, and the order."""

import dataclasses

import pytest

from edgecomp.agent.reports import Conditions, DeviceFacts, GoldenCheck, ProcessReport, Steady
from edgecomp.bench.statistics import TimingStatistics, timing_statistics
from edgecomp.bench.verdict import conditions_notes, judge, profile_mismatches
from edgecomp.profile import load_profile

FACTS = DeviceFacts(
    machine="aarch64", architecture="aarch64", cpu_part_ids=("0xd08",), cpu_model="Raspberry Pi 4 Model B", cores=4,
    system="Linux", kernel="6.1", python="3.11.2", numpy="1.26.4", runtime="ai-edge-litert", runtime_version="2.3.0",
    kernel_family="LITERT_XNNPACK", tried=(),
)  # fmt: skip
QUIET = TimingStatistics(
    p50_ms=10.0, low_ms=9.9, high_ms=10.1, mean_ms=10.1, p90_ms=10.3, p99_ms=11.0, min_ms=9.8, mad_ms=0.05,
    half_width_ratio=0.01, between_ratio=0.004, drift_ratio=0.0, num_samples=300, num_outliers=3, num_processes=3,
)  # fmt: skip
ZONE = "thermal_zone0:cpu-thermal"
FULL = {"0": 1_500_000, "1": 1_500_000}
STEADY = Steady(cores=(0, 1), max_khz=FULL, passive_trips_c={})


def moment(khz=FULL, governors=("ondemand",), **temperatures_c):
    """A moment; zones other than the processor's by keyword, the processor's as `c`."""
    zones = {ZONE if name == "c" else name: value for name, value in temperatures_c.items()}
    return Conditions(
        t_s=1.0, clock_s=2.0, khz=khz, governors=governors, temperatures_c=zones or {ZONE: 50.0}, load_1m=0.1,
        available_bytes=3 << 30,
    )  # fmt: skip


def process(*during, before=None, after=None, **more):
    """A process in which nothing is wrong, but for what is said."""
    values = {
        "runs": 100, "before": before or moment(), "during": during or (moment(), moment()), "after": after or moment(),
        "elapsed_s": 1.0, "others_ratio": 0.01, "stolen_ratio": 0.0, "quota_periods": 0, "throttled_before": 0,
        "throttled_after": 0, "clock_jump_s": 0.0, "involuntary_switches": 3,
    }  # fmt: skip
    return ProcessReport(**values | more)


def judged(*processes, statistics=QUIET, steady=STEADY, **more):
    return judge(
        statistics, FACTS, precision_ratio=0.02, processes=processes or (process(),) * 3, steady=steady, **more
    )


def with_figures(**changes):
    return judged(statistics=dataclasses.replace(QUIET, **changes))


VALID = ("valid", ())


def golden(**changes):
    values = {
        "ok": True, "rule": "exact", "equal": True, "max_difference_lsb": 0.0, "tolerance_lsb": 0.0,
        "argmax_agreement": 1.0, "samples": 8, "message": None,
    }  # fmt: skip
    return GoldenCheck(**values | changes)


class TestNothingWrong:
    def test_quiet_board(self):
        assert judged(golden=golden()) == VALID

    def test_what_is_not_told_speaks_against_nothing(self):
        """No cpufreq, no thermal zone, no counters, as on many a virtual machine."""
        silent = {"khz": {}, "governors": ()}
        bare = Conditions(t_s=1, clock_s=1, temperatures_c={}, load_1m=None, available_bytes=None, **silent)
        nothing = dict.fromkeys(
            ("others_ratio", "stolen_ratio", "quota_periods", "throttled_before", "throttled_after",
             "involuntary_switches")
        )  # fmt: skip
        unknown = process(bare, before=bare, after=bare, **nothing)
        assert judged(unknown, steady=Steady(cores=(), max_khz={}, passive_trips_c={})) == VALID

    def test_board_without_a_system(self):
        assert judge(QUIET, FACTS, precision_ratio=0.02) == VALID

    def test_one_process_of_one_inference(self):
        """Nothing is known of drift and spread; its interval is of no width, and that is not this rule's to judge."""
        assert judge(timing_statistics([[1000.0]]), FACTS, precision_ratio=0.02) == VALID


class TestOutputsAndDevice:
    def test_wrong_outputs(self):
        found = judged(golden=golden(ok=False, equal=False, message="Output 0 differs by 3 LSB."))
        assert found == ("wrong_output", ("Output 0 differs by 3 LSB",))

    def test_wrong_outputs_without_a_word(self):
        """`ok` decides: a message that was lost on the way makes nothing right."""
        assert judged(golden=golden(ok=False)) == ("wrong_output", ("The outputs are not the golden ones",))

    def test_tolerance_is_no_finding(self):
        assert judged(golden=golden(rule="tolerance", equal=False, max_difference_lsb=12.0)) == VALID

    def test_other_machine(self):
        x86 = FACTS.model_copy(update={"architecture": "x86_64", "cpu_part_ids": ()})
        (mismatch,) = profile_mismatches(load_profile("rpi4"), x86)
        found = judge(QUIET, x86, precision_ratio=0.02, mismatches=(mismatch,))
        assert found == ("wrong_device", ("not the profile's device: x86_64, profile says aarch64",))

    def test_emulator(self):
        facts = FACTS.model_copy(update={"emulator_signs": ("qemu in /proc/self/maps", "TCG")})
        found = judge(QUIET, facts, precision_ratio=0.02)
        assert found == ("wrong_device", ("an emulator, whose times are no latencies: qemu in /proc/self/maps",))


class TestFirmware:
    """`vcgencmd get_throttled`: bits 0 to 3 now, 16 to 19 at some time since the last boot."""

    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [
            (0x0, 0x0, None),
            (0x1, 0x0, "under-voltage"),  # When it began, and that is part of the time.
            (0x0, 0x1, "under-voltage"),
            (0x0, 0x2, "frequency capped"),
            (0x0, 0x4, "throttled"),
            (0x0, 0x8, "soft temperature limit"),
            (0x50000, 0x50000, None),  # Yesterday.
            (0x50000, 0x0, None),
            (0x0, 0x10000, "under-voltage"),  # In between: over at the end, but it was not there before.
            (0x0, 0x20000, "frequency capped"),
            (0x0, 0x40000, "throttled"),
            (0x0, 0x80000, "soft temperature limit"),
            (0x10000, 0x50005, "under-voltage, throttled"),
            (0xF0000, 0xF000F, "under-voltage, frequency capped, throttled, soft temperature limit"),
            (0x0, 0x10, None),  # Bits that mean nothing.
            (None, 0x1, None),  # One of the two was not told.
        ],
    )
    def test_bits(self, before, after, said):
        found = judged(process(), process(throttled_before=before, throttled_after=after))
        assert found == (VALID if said is None else ("throttled", (f"the firmware says {said}",)))

    def test_each_is_said_once(self):
        found = judged(process(throttled_after=0x4), process(throttled_before=0x4, throttled_after=0x6))
        assert found == ("throttled", ("the firmware says throttled, frequency capped",))


class TestFrequency:
    def test_drop(self):
        found = judged(process(moment(), moment({"0": 600_000, "1": 600_000})))
        assert found == ("throttled", ("core 0 ran at 600 MHz, at another time at 1500",))

    def test_from_one_process_to_the_next(self):
        slow = moment({"0": 1_000_000, "1": 1_000_000})
        assert judged(process(), process(slow, slow))[0] == "throttled"

    @pytest.mark.parametrize(("khz", "verdict"), [(1_425_000, "valid"), (1_424_000, "throttled")])
    def test_drop_of_more_than_5_percent(self, khz, verdict):
        """1425 is 95 % of 1500."""
        assert judged(process(moment(), moment({"0": khz, "1": khz})))[0] == verdict

    def test_powersave_at_half_speed(self):
        """Never slower than before, always slower than it could be: the governor is why."""
        slow = moment({"0": 750_000, "1": 750_000}, ("powersave",))
        found = judged(process(slow, slow, before=slow, after=slow))
        assert found == ("throttled", ("core 0 ran at 750 of 1500 MHz (governor powersave)",))

    @pytest.mark.parametrize(("khz", "verdict"), [(1_425_000, "valid"), (1_424_000, "throttled")])
    def test_full_speed_is_95_percent(self, khz, verdict):
        slow = moment({"0": khz, "1": khz})
        assert judged(process(slow, slow))[0] == verdict

    def test_without_a_governor(self):
        slow = moment({"0": 750_000}, ())
        found = judged(process(slow, before=moment(governors=()), after=moment(governors=())))
        assert found == ("throttled", ("core 0 ran at 750 of 1500 MHz",))

    def test_idle_clock_before_and_after(self):
        """An ondemand governor lets a board rest at 600 MHz until it is asked for something."""
        idle = moment({"0": 600_000, "1": 600_000})
        assert judged(process(before=idle, after=idle)) == VALID

    def test_cores_that_rest(self):
        """One thread on cores with clocks of their own: whichever it is on is fast, the others idle."""
        first, second = moment({"0": 1_500_000, "1": 600_000}), moment({"0": 600_000, "1": 1_500_000})
        assert judged(process(first, second)) == VALID
        found = judged(process(first, second), num_threads=2)
        assert found == ("throttled", ("core 0 ran at 600 MHz, at another time at 1500",))

    def test_cores_with_another_highest_frequency(self):
        """A prime core of 2.8 GHz beside one of 2.4: each at its own full speed."""
        steady = Steady(cores=(4, 7), max_khz={"4": 2_400_000, "7": 2_800_000}, passive_trips_c={})
        fast = moment({"4": 2_400_000, "7": 2_800_000})
        assert judged(process(fast, fast), steady=steady, num_threads=2) == VALID
        slow = moment({"4": 2_400_000, "7": 2_400_000})  # 86 % of 2.8 GHz.
        found = judged(process(fast, slow), steady=steady, num_threads=2)
        assert found == ("throttled", ("core 7 ran at 2400 MHz, at another time at 2800",))

    def test_highest_frequency_that_is_not_told(self):
        slow = moment({"0": 600_000})
        for highest in ({}, {"0": 0}):
            assert judged(process(slow), steady=Steady(cores=(0,), max_khz=highest, passive_trips_c={})) == VALID


class TestTemperature:
    @pytest.mark.parametrize(("celsius", "verdict"), [(79.9, "valid"), (80.0, "throttled"), (85.0, "throttled")])
    def test_a_raspberry_pi_slows_down_from_80(self, celsius, verdict):
        hot = moment(c=celsius)
        found = judged(process(hot, before=hot, after=hot))
        assert found[0] == verdict
        if verdict != "valid":
            assert found[1] == (f"{ZONE} reached {celsius:.0f} °C, and it slows down from 80 °C",)

    @pytest.mark.parametrize(
        ("trip_c", "celsius", "verdict"),
        [(70.0, 69.9, "valid"), (70.0, 70.0, "throttled"), (97.0, 85.0, "valid"), (97.0, 97.0, "throttled")],
    )
    def test_trip_point_of_the_zone(self, trip_c, celsius, verdict):
        """Where the kernel says when it slows down it is right, above 80 °C too."""
        hot, steady = moment(c=celsius), Steady(cores=(0,), max_khz={}, passive_trips_c={ZONE: trip_c})
        found = judged(process(hot, before=hot, after=hot), steady=steady)
        assert found[0] == verdict
        if verdict != "valid":
            assert found[1] == (f"{ZONE} reached {celsius:.0f} °C, and it slows down from {trip_c:.0f} °C",)

    def test_trip_point_of_another_zone(self):
        """A phone's skin has its trip point at 40 °C: it says nothing of a processor at 60."""
        steady = Steady(cores=(0,), max_khz={}, passive_trips_c={"thermal_zone1:skin": 40.0})
        warm = moment(**{ZONE: 60.0, "thermal_zone1:skin": 35.0})
        assert judged(process(warm, before=warm, after=warm), steady=steady) == VALID
        hot = moment(**{ZONE: 60.0, "thermal_zone1:skin": 41.0})
        found = judged(process(hot, before=hot, after=hot), steady=steady)
        assert found == ("throttled", ("thermal_zone1:skin reached 41 °C, and it slows down from 40 °C",))

    def test_power_chip_of_a_jetson(self):
        """NVIDIA's PMIC-Die says 100 °C at any time, and means nothing."""
        cool = moment(**{ZONE: 45.0, "thermal_zone4:PMIC-Die": 100.0})
        assert judged(process(cool, before=cool, after=cool)) == VALID

    def test_the_worst_zone_is_said(self):
        hot = moment(**{ZONE: 81.0, "thermal_zone1:gpu": 84.0})
        found = judged(process(hot, before=hot, after=hot))
        assert found == ("throttled", ("thermal_zone1:gpu reached 84 °C, and it slows down from 80 °C",))

    def test_hot_at_any_time(self):
        peak = moment(c=80.0)
        for item in (process(moment(c=75.0), peak, before=moment(c=75.0), after=moment(c=75.0)),
                     process(moment(c=75.0), before=moment(c=75.0), after=peak)):  # fmt: skip
            assert judged(item) == ("throttled", (f"{ZONE} reached 80 °C, and it slows down from 80 °C",))

    @pytest.mark.parametrize(("last_c", "verdict"), [(60.0, "valid"), (60.1, "noisy")])
    def test_warming_by_more_than_10_degrees(self, last_c, verdict):
        found = judged(process(before=moment(c=50.0)), process(after=moment(c=last_c)))
        assert found[0] == verdict
        if verdict == "noisy":
            assert found[1] == (f"{ZONE} went from 50 to 60 °C: measure --sustained, or let it cool",)

    def test_warming_until_the_fan_starts(self):
        found = judged(process(moment(c=65.0), before=moment(c=50.0)), process(after=moment(c=52.0)))
        assert found == ("noisy", (f"{ZONE} went from 50 to 65 °C: measure --sustained, or let it cool",))

    def test_cooling_is_no_finding(self):
        assert judged(process(before=moment(c=75.0)), process(after=moment(c=50.0))) == VALID


class TestQuota:
    def test_periods_are_added_up(self):
        found = judged(process(quota_periods=3), process(quota_periods=0), process(quota_periods=4))
        assert found == ("throttled", ("the CPU quota of its control group was used up in 7 periods",))

    def test_one_period_is_enough(self):
        assert judged(process(quota_periods=1))[0] == "throttled"

    def test_also_where_nothing_else_is_told(self):
        assert judged(process(quota_periods=1), steady=None)[0] == "throttled"


class TestContention:
    @pytest.mark.parametrize(
        ("others", "verdict"),
        [((0.05,), "valid"), ((0.0, 0.0, 0.149), "valid"), ((0.05, 0.05, 0.06), "contended")],
    )
    def test_other_processes(self, others, verdict):
        """5 % of the measured cores, on average over the processes."""
        assert judged(*(process(others_ratio=share) for share in others))[0] == verdict

    def test_the_share_is_said(self):
        found = judged(*(process(others_ratio=share) for share in (0.2, None, 0.3)))
        assert found == ("contended", ("other processes used 25% of the measured cores (allowed: 5%)",))

    @pytest.mark.parametrize(("stolen", "verdict"), [(0.02, "valid"), (0.021, "contended")])
    def test_hypervisor(self, stolen, verdict):
        assert judged(process(stolen_ratio=stolen))[0] == verdict

    def test_both(self):
        verdict, reasons = judged(process(others_ratio=0.5, stolen_ratio=0.1))
        assert verdict == "contended"
        assert reasons == (
            "other processes used 50% of the measured cores (allowed: 5%)",
            "the hypervisor's other guests used 10% of the measured cores (allowed: 2%)",
        )


class TestNoise:
    @pytest.mark.parametrize(("half", "verdict"), [(0.02, "valid"), (0.0201, "noisy")])
    def test_interval(self, half, verdict):
        assert with_figures(half_width_ratio=half)[0] == verdict

    def test_interval_is_said(self):
        found = with_figures(half_width_ratio=0.034, num_processes=5)
        assert found == ("noisy", ("the median is known to ±3.4% after 5 processes (wanted: ±2.0%)",))

    @pytest.mark.parametrize(("p99_ms", "verdict"), [(30.0, "valid"), (30.1, "noisy")])
    def test_tail(self, p99_ms, verdict):
        """Three times a median of 10 ms."""
        assert with_figures(p99_ms=p99_ms)[0] == verdict

    def test_tail_is_said(self):
        found = with_figures(p99_ms=85.0)
        assert found == ("noisy", ("1 in 100 inferences takes 8.5 times the median or more",))

    @pytest.mark.parametrize(("outliers", "verdict"), [(30, "valid"), (31, "noisy")])
    def test_outliers(self, outliers, verdict):
        """A tenth of 300 samples."""
        assert with_figures(num_outliers=outliers)[0] == verdict

    def test_outliers_are_said_beside_the_tail(self):
        found = with_figures(num_outliers=60, p99_ms=40.0)
        assert found[1] == (
            "1 in 100 inferences takes 4.0 times the median or more",
            "20% of the inferences are far from the median",
        )

    @pytest.mark.parametrize(("mean_ms", "verdict"), [(12.5, "valid"), (12.6, "noisy")])
    def test_stalls(self, mean_ms, verdict):
        assert with_figures(mean_ms=mean_ms)[0] == verdict

    def test_stalls_that_no_percentile_shows(self):
        """25 ms of every 100 ms, by inferences of 10 us: 1 in 2500 takes 75 ms, and three quarters of the time."""
        stopped = [10.0] * 2499 + [75_000.0]
        found = timing_statistics([stopped * 4] * 3)
        assert (found.p50_ms, found.p99_ms) == (0.01, 0.01)  # Both as if nothing had been.
        assert found.mean_ms == pytest.approx(0.04, abs=1e-5)
        verdict, reasons = judge(found, FACTS, precision_ratio=0.02)
        assert (verdict, reasons) == ("noisy", ("an inference takes 4.0 times the median on average",))

    @pytest.mark.parametrize(
        ("drift", "said"),
        [
            (None, None), (0.05, None), (-0.05, None),
            (0.06, "inferences became 6% slower within a process: measure --sustained"),
            (-0.2, "inferences became 20% faster within a process: measure --sustained"),
        ],
    )  # fmt: skip
    def test_drift(self, drift, said):
        """A clock that sinks on a board that tells neither frequency nor temperature."""
        assert with_figures(drift_ratio=drift) == (VALID if said is None else ("noisy", (said,)))

    def test_governor_that_changes(self):
        found = judged(process(), process(after=moment(governors=("performance",))))
        assert found == ("noisy", ("the governor changed meanwhile (ondemand, performance)",))

    def test_cores_with_governors_of_their_own(self):
        both = moment(governors=("ondemand", "performance"))
        assert judged(process(both, before=both, after=both)) == VALID


class TestOrder:
    """The gravest is the verdict; everything is said, the gravest first."""

    def test_all_at_once(self):
        x86 = FACTS.model_copy(update={"architecture": "x86_64", "emulator_signs": ("TCG",)})
        bad = process(
            moment({"0": 600_000}, ("powersave",), c=90.0), others_ratio=0.5, stolen_ratio=0.5, quota_periods=9,
            throttled_after=0x4,
        )  # fmt: skip
        verdict, reasons = judge(
            dataclasses.replace(
                QUIET, half_width_ratio=0.5, p99_ms=99.0, mean_ms=20.0, num_outliers=99, drift_ratio=0.4
            ),
            x86, precision_ratio=0.02, golden=golden(ok=False, message="All wrong."), mismatches=("x86_64",),
            processes=(bad,), steady=STEADY,
        )  # fmt: skip
        assert verdict == "wrong_output"
        assert [reason.split()[0] for reason in reasons] == [
            "All",  # wrong_output
            "an", "not",  # wrong_device
            "the", "the", "core", ZONE,  # throttled
            "other", "the",  # contended
            "the", "1", "an", "33%", "inferences", "the", ZONE,  # noisy
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("changes", "verdict"),
        [
            ({}, "noisy"),
            ({"others_ratio": 0.5}, "contended"),
            ({"others_ratio": 0.5, "quota_periods": 1}, "throttled"),
        ],
    )
    def test_of_the_conditions(self, changes, verdict):
        noisy = dataclasses.replace(QUIET, half_width_ratio=0.5)
        assert judged(process(**changes), statistics=noisy)[0] == verdict

    def test_another_device_is_worse_than_a_hot_one(self):
        assert judged(process(quota_periods=1), mismatches=("x86_64",))[0] == "wrong_device"

    def test_wrong_outputs_are_worse_than_another_device(self):
        assert judged(mismatches=("x86_64",), golden=golden(ok=False, message="Wrong."))[0] == "wrong_output"


class TestNotes:
    @pytest.mark.parametrize(
        ("jump_s", "said"),
        [
            (0.0, ()), (1.0, ()), (-1.0, ()),
            (3600.2, ("The wall clock was moved by +3600 s meanwhile; times are of a clock that nobody moves.",)),
            (-86_400.0, ("The wall clock was moved by -86400 s meanwhile; times are of a clock that nobody moves.",)),
        ],
    )  # fmt: skip
    def test_clock_that_jumps(self, jump_s, said):
        """Times are of a monotonic clock: worth knowing, and speaks against nothing."""
        processes = (process(), process(clock_jump_s=jump_s))
        assert conditions_notes(processes) == said
        assert judged(*processes) == VALID
