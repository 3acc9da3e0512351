"""What the agent reads of clock, temperature and load: text in, figures out; and files of a stand-in for /sys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgecomp.agent.on_device import conditions
from edgecomp.agent.on_device.conditions import (
    Conditions,
    core_speeds,
    cpu_stat_paths,
    parse_available_bytes,
    parse_quota_periods,
    parse_stat,
    parse_throttled,
    passive_trips_c,
    pick_cores,
)
from edgecomp.simulate.cores import CORES, write_cpu_files
from tests.conftest import ROOT

# USER_HZ is 100 on every Linux that this runs on; figures below are in its ticks.
STAT = """cpu  1150 20 430 90000 500 7 13 250 40 0
cpu0 1000 20 400 40000 300 5 10 200 40 0
cpu2 150 0 30 50000 200 2 3 50 0 0
intr 123456 0 0
ctxt 987654
btime 1795848000
"""


class TestStat:
    def test_busy_and_stolen_seconds(self):
        """User, nice, system and interrupts are busy, waiting for a disk is not; guests are in user. cpu1 is off."""
        found = parse_stat(STAT)
        assert found == {0: (pytest.approx(14.35), pytest.approx(2.0)), 2: (pytest.approx(1.85), pytest.approx(0.5))}

    def test_kernel_that_counts_less(self):
        """2.6.10 and older tell of nothing beyond interrupts."""
        assert parse_stat("cpu0 100 0 100 5000\n") == {0: (pytest.approx(2.0), 0.0)}

    @pytest.mark.parametrize("text", ["", "cpu  1 2 3 4\n", "cpufreq 1 2 3\n", "softirq 1 2\n\n"])
    def test_no_core(self, text):
        assert parse_stat(text) == {}

    def test_of_this_system(self):
        found = parse_stat(Path("/proc/stat").read_text())
        assert set(os.sched_getaffinity(0)) <= set(found)
        assert all(busy > 0 for busy, _ in found.values())


class TestThrottled:
    @pytest.mark.parametrize(
        ("text", "bits"),
        [
            ("throttled=0x0\n", 0),
            ("throttled=0x50005\n", 0x50005),
            ("throttled=0xE0008", 0xE0008),
            ("throttled=\n", None),
            ("throttled=0xnonsense\n", None),
            ("VCHI initialization failed\n", None),  # No access to /dev/vchiq.
            ('error=1 error_msg="Command not registered"\n', None),
            ("temp=48.3'C\n", None),
            ("", None),
        ],
    )
    def test_bits(self, text, bits):
        assert parse_throttled(text) == bits

    def test_elsewhere_there_is_no_firmware_to_ask(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert conditions.get_throttled() is None

    @pytest.mark.parametrize(("script", "bits"), [("echo throttled=0x20002", 0x20002), ("echo no; exit 255", None)])
    def test_program_of_that_name(self, monkeypatch, tmp_path, script, bits):
        program = tmp_path / "vcgencmd"
        program.write_text(f'#!/bin/sh\n[ "$*" = get_throttled ] || exit 9\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert conditions.get_throttled() == bits


class TestMemory:
    def test_available(self):
        text = "MemTotal:        3884400 kB\nMemFree:          120000 kB\nMemAvailable:    3000000 kB\n"
        assert parse_available_bytes(text) == 3_072_000_000

    @pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\nMemFree: 1 kB\n"])
    def test_kernel_that_does_not_tell(self, text):
        """Older than 3.14: free memory alone is no answer, since caches make room."""
        assert parse_available_bytes(text) is None


class TestQuota:
    @pytest.mark.parametrize(
        ("text", "periods"),
        [
            ("nr_periods 1234\nnr_throttled 56\nthrottled_time 7890\n", 56),  # Version 1.
            (
                "usage_usec 100\nuser_usec 90\nsystem_usec 10\nnr_periods 10\nnr_throttled 0\nthrottled_usec 0\n"
                "nr_bursts 0\nburst_usec 0\n",
                0,
            ),  # Version 2.
            ("usage_usec 100\nuser_usec 90\nsystem_usec 10\n", None),  # Its root, which can have no quota.
            ("", None),
        ],
    )
    def test_periods(self, text, periods):
        assert parse_quota_periods(text) == periods

    @pytest.mark.parametrize(
        ("cgroup", "paths"),
        [
            # systemd, version 2: a quota of user-1000.slice is counted there, not in the session below.
            (
                "0::/user.slice/user-1000.slice/session-3.scope\n",
                ["user.slice/user-1000.slice/session-3.scope/", "user.slice/user-1000.slice/", "user.slice/", ""],
            ),
            ("0::/\n", [""]),  # In a container with a namespace of its own.
            # Docker, version 1, without such a namespace: the path is the host's, what is mounted the container's.
            (
                "12:memory:/docker/4f\n4:cpu,cpuacct:/docker/4f\n3:cpuset:/docker/4f\n1:name=systemd:/docker/4f\n",
                ["cpu,cpuacct/docker/4f/", "cpu,cpuacct/docker/", "cpu,cpuacct/"],
            ),
            ("9:name=systemd:/\n2:cpuacct:/\n1:cpu:/\n0::/\n", ["cpu/", ""]),  # Both versions at once.
            ("0::/../outside\n", ["../outside/", "../", ""]),
            ("0::/a:b\n", ["a:b/", ""]),  # A folder may have a colon.
            ("", []),
            ("nonsense\n1:cpu\n\n", []),
        ],
    )
    def test_where_they_are_counted(self, cgroup, paths):
        assert cpu_stat_paths(cgroup) == [f"/sys/fs/cgroup/{path}cpu.stat" for path in paths]


# By core: capacity of 1024 and highest frequency in kHz, as the boards tell.
RPI4 = dict.fromkeys(range(4), (0, 1_500_000))
RK3399 = dict.fromkeys(range(4), (485, 1_416_000)) | dict.fromkeys((4, 5), (1024, 1_800_000))
UNRANKED = dict.fromkeys(range(4), (0, 1_416_000)) | dict.fromkeys((4, 5), (0, 1_800_000))
PIXEL8 = (
    dict.fromkeys(range(4), (160, 1_704_000)) | dict.fromkeys(range(4, 8), (670, 2_367_000)) | {8: (1024, 2_914_000)}
)
MUTE = dict.fromkeys(range(2), (0, 0))


class TestPickCores:
    @pytest.mark.parametrize(
        ("speeds", "big_cores", "cores"),
        [
            (RPI4, 4, [0, 1, 2, 3]),
            (RPI4, None, [0, 1, 2, 3]),
            (RPI4, 2, [0, 1]),
            (RK3399, 2, [4, 5]),
            (RK3399, None, [4, 5]),
            (RK3399, 6, [0, 1, 2, 3, 4, 5]),
            (UNRANKED, 2, [4, 5]),  # Older kernels tell the frequency only.
            (UNRANKED, None, [4, 5]),
            (PIXEL8, 1, [8]),
            (PIXEL8, None, [8]),
            (PIXEL8, 5, [4, 5, 6, 7, 8]),  # The prime core is one of the profile's big ones.
            (MUTE, 4, [0, 1]),  # The profile counts more than may be used.
            (MUTE, None, [0, 1]),
            ({3: (0, 0)}, 4, [3]),
        ],
    )
    def test_fastest(self, speeds, big_cores, cores):
        assert pick_cores(speeds, big_cores) == cores

    def test_capacity_comes_first(self):
        """A little core may have the higher clock and is slower all the same."""
        assert pick_cores({0: (400, 2_200_000), 1: (1024, 2_000_000)}, None) == [1]

    def test_only_what_may_be_used(self):
        """Cores 4 and 5 are somebody else's."""
        assert pick_cores({core: RK3399[core] for core in (0, 1, 2)}, 2) == [0, 1]


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A stand-in for a Raspberry Pi 4 below a folder."""
    monkeypatch.setattr(conditions, "ROOT", str(tmp_path))
    write_cpu_files(CORES["cortex-a72"], tmp_path / "sys")
    write_zone(tmp_path, 0, "cpu-thermal", "48312")
    return tmp_path


def write(device, path, text):
    (device / path).parent.mkdir(parents=True, exist_ok=True)
    (device / path).write_text(text)


def write_zone(device, number, kind, temp, *trips):
    folder = f"sys/class/thermal/thermal_zone{number}"
    write(device, f"{folder}/type", f"{kind}\n")
    write(device, f"{folder}/temp", f"{temp}\n")
    for index, (trip, limit) in enumerate(trips):
        write(device, f"{folder}/trip_point_{index}_type", f"{trip}\n")
        write(device, f"{folder}/trip_point_{index}_temp", f"{limit}\n")


class TestFiles:
    def test_moment(self, device):
        write(device, "proc/meminfo", "MemAvailable:    2048 kB\n")
        write(device, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "600000\n")
        write(device, "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
        found = Conditions([1, 0]).sample()
        assert found["khz"] == {"0": 1_500_000, "1": 600_000}
        assert found["governors"] == ["ondemand", "powersave"]
        assert found["temperatures_c"] == {"thermal_zone0:cpu-thermal": 48.312}
        assert found["available_bytes"] == 2 << 20
        assert found["load_1m"] == pytest.approx(os.getloadavg()[0], abs=1.0)

    def test_only_measured_cores(self, device):
        watched = Conditions([2])
        assert watched.sample()["khz"] == {"2": 1_500_000}
        assert watched.limits() == {"cores": [2], "max_khz": {"2": 1_500_000}, "passive_trips_c": {}}

    def test_it_changes_while_it_is_watched(self, device):
        watched = Conditions([0])
        write_zone(device, 0, "cpu-thermal", "85000")
        write(device, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "600000\n")
        found = watched.sample()
        assert (found["temperatures_c"], found["khz"]) == ({"thermal_zone0:cpu-thermal": 85.0}, {"0": 600_000})

    def test_trip_points_by_zone(self, device):
        """The lowest passive one of each zone: critical is when it shuts down, active when a fan starts."""
        write_zone(
            device, 0, "soc-thermal", "50000", ("active", 40000), ("passive", 75000), ("passive", 70000),
            ("critical", 115000),
        )  # fmt: skip
        write_zone(device, 1, "skin", "31000", ("passive", 39000))
        write_zone(
            device, 2, "gpu", "45000", ("critical", 110000), ("passive", 0), ("passive", -2147483), ("passive", "?")
        )
        assert passive_trips_c() == {"thermal_zone0:soc-thermal": 70.0, "thermal_zone1:skin": 39.0}

    def test_zones_that_say_nothing(self, device):
        write_zone(device, 1, "offline", "")
        write_zone(device, 2, "broken", "N/A")
        write_zone(device, 3, "frost", "-5000")
        write(device, "sys/class/thermal/thermal_zone4/temp", "41000\n")  # No type.
        (device / "sys/class/thermal/cooling_device0").mkdir()
        assert Conditions([0]).sample()["temperatures_c"] == {
            "thermal_zone0:cpu-thermal": 48.312,
            "thermal_zone3:frost": -5.0,
            "thermal_zone4:?": 41.0,
        }

    def test_speeds(self, device):
        write(device, "sys/devices/system/cpu/cpu1/cpu_capacity", "1024\n")
        (device / "sys/devices/system/cpu/cpu2/cpufreq/cpuinfo_max_freq").unlink()
        assert core_speeds([0, 1, 2, 9]) == {0: (0, 1_500_000), 1: (1024, 1_500_000), 2: (0, 0), 9: (0, 0)}

    def test_system_that_tells_nothing(self, tmp_path, monkeypatch):
        """Neither cpufreq nor zones, as on many a virtual machine."""
        monkeypatch.setattr(conditions, "ROOT", str(tmp_path))
        watched = Conditions([0])
        assert watched.limits() == {"cores": [0], "max_khz": {}, "passive_trips_c": {}}
        found = watched.sample()
        assert (found["khz"], found["governors"], found["temperatures_c"]) == ({}, [], {})
        assert found["available_bytes"] > 0  # /proc is the system's own where the stand-in has none.

    def test_counters(self, device):
        write(device, "proc/stat", STAT)
        write(device, "proc/self/cgroup", "0::/box\n")
        write(device, "sys/fs/cgroup/box/cpu.stat", "nr_throttled 5\n")
        found = Conditions([0, 1, 2]).counters()
        # Core 1 is off: it does nothing.
        assert (found["busy_s"], found["stolen_s"]) == (pytest.approx(16.2), pytest.approx(2.5))
        assert found["quota_periods"] == 5

    def test_quota_of_an_outer_group(self, device):
        """Set for all sessions of a user: the group of this one says 0, and is stopped with the others."""
        write(device, "proc/self/cgroup", "0::/user.slice/session.scope\n")
        write(device, "sys/fs/cgroup/user.slice/session.scope/cpu.stat", "nr_throttled 0\n")
        write(device, "sys/fs/cgroup/user.slice/cpu.stat", "nr_throttled 12\n")
        write(device, "sys/fs/cgroup/cpu.stat", "usage_usec 1\n")
        watched = Conditions([0])
        assert watched.counters()["quota_periods"] == 12
        write(device, "sys/fs/cgroup/user.slice/cpu.stat", "nr_throttled 14\n")
        assert watched.counters()["quota_periods"] == 14

    def test_no_quota_is_known(self, device):
        write(device, "proc/self/cgroup", "0::/box\n")
        write(device, "sys/fs/cgroup/box/cpu.stat", "usage_usec 1\n")
        assert Conditions([0]).counters()["quota_periods"] is None

    def test_cores_that_are_not_told_of(self, device):
        write(device, "proc/stat", "intr 1\n")
        found = Conditions([0]).counters()
        assert (found["busy_s"], found["stolen_s"]) == (None, None)


def test_the_folder_is_named_by_the_environment(device):
    """As for the agent on a device: a process of its own, with nothing but the variable."""
    script = (
        "from edgecomp.agent.on_device.conditions import Conditions; print(Conditions([0]).sample()['temperatures_c'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True,
        env=os.environ | {"EDGECOMP_SYSFS_ROOT": str(device)},
    )  # fmt: skip
    assert done.stdout == "{'thermal_zone0:cpu-thermal': 48.312}\n"
