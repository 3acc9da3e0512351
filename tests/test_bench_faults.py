"""Everything that can go wrong between `edgecomp bench` and a device, with real processes and a real SSH server.

Each fault ends in one sentence and within a limit, leaves nothing on the device, and costs no other device anything.

| fault | test |
|---|---|
| wrong key | TestReaching; with a passphrase, damaged, none: test_ssh_login.TestKeys |
| unknown and changed host key | TestReaching; revoked, of another kind, of a jump host: test_ssh_host_keys |
| refused port | TestReaching; no such host, no SSH server: test_ssh_login.TestUnreachable |
| connection cut in mid-run, while files are copied | test_bench_ssh.TestFaults; tried again: test_fleet.TestMeasuring |
| link that stalls | TestReaching, TestLink; test_ssh_login.TestUnreachable.test_lost_connection_is_noticed |
| agent killed | TestKilled; with a governor to put back: test_agent.TestKeeper |
| host killed | test_bench_ssh.TestFaults.test_host_that_is_interrupted_or_killed |
| out of memory on the device | TestMemory, TestKilled (exit code 137) |
| device disk full | TestDisk |
| read-only home, read-only folder for temporary files | TestDisk |
| clock jump | test_clock_that_is_set_meanwhile; what is made of it: test_verdict |
| Python too old | test_agent.TestLanguage.test_an_old_python_is_told_so |
| no Python, no numpy, no runtime | test_bench_ssh.TestFaults.test_no_python, test_agent.TestRuntimes |
| numpy 2 under tflite-runtime | TestPython |
| runtime that segfaults, or is broken | test_bench_ssh.TestFaults.test_runtime_that_breaks, test_agent.TestRuntimes |
| model with an operator that the runtime lacks | TestPython |
| temperature, governor, frequency; CPU quota | test_bench_conditions |
| two processes want one device | TestTwoVisitors; test_agent.TestKeeper |
| Ctrl-C | test_ctrl_c; who waits: TestTwoVisitors; a fleet: test_fleet.TestMeasuring.test_interrupted |
| hostile output | test_bench_hostile; what a server says at login: test_ssh_login |
| late, or never an answer | test_agent.TestKeeper.test_late_measurement_is_ended, test_bench_hostile |
| other devices | TestFleet; test_fleet.TestMeasuring.test_one_fault_costs_the_others_nothing |
| boards without a shell | test_attached.TestFaults |
| benchmark_model in place of Python | test_native_bench |
| names with quotes and `$()`, secrets, what came back from a device | test_bench_security |
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecomp.bench import BenchSettings, bench_bundle
from edgecomp.errors import BenchmarkError, RuntimeRefusedError, TransportError
from edgecomp.fleet import run as fleet_run
from edgecomp.tflite_edit import pack_model, unpack_model
from edgecomp.transports import _ssh_login, connect
from tests import bench_device
from tests.bench_device import (
    DEVICE_PYTHONS,
    ENDLESS_WORDS,
    LONG,
    ONCE,
    QUICK,
    QUICK_WORDS,
    Visit,
    at_most,
    complaint,
    interpreter_of,
    parent_of,
    program,
    working_in,
)
from tests.digits_bundle import MODELS, digit_images, golden_arrays, write_digits_bundle
from tests.sshd import LOCALHOST, CuttingProxy, children_of, free_port, make_key, running_sshd, wait_until
from tests.test_agent import fake_runtime, link_numpy
from tests.test_fleet import target

pytestmark = pytest.mark.device

server = bench_device.server
device = bench_device.device
bundle = bench_device.bundle


@pytest.fixture(autouse=True)
def bounded():
    """No fault may hang, whatever limit of its own ends it."""
    with at_most(120):
        yield


class TestReaching:
    """Nothing is measured, and the device is not touched."""

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ("wrong key", "refused every key that was offered"),
            ("unknown host key", "is unknown: ssh-ed25519 SHA256:"),
            ("changed host key", "has CHANGED: it shows ssh-ed25519 SHA256:"),
            ("refused port", "refuses connections on port"),
            ("stalls before the login", "did not answer within 1 s"),
        ],
    )
    def test_one_sentence(self, device, bundle, tmp_path, run_cli, fault, said):
        target, options = device.target, []
        known = tmp_path / "known_hosts"
        with contextlib.ExitStack() as stack:
            if fault == "wrong key":
                options = ["--identity", make_key(tmp_path / "wrong")]
            elif fault == "unknown host key":
                known.touch()
                options = ["--known-hosts", known]
            elif fault == "changed host key":
                kind, key, _ = make_key(tmp_path / "other").with_suffix(".pub").read_text().split()
                known.write_text(f"[{LOCALHOST}]:{device.port} {kind} {key}\n")
                options = ["--known-hosts", known, "--accept-new-host-key"]  # A changed key is no new one.
            elif fault == "refused port":
                target = f"{LOCALHOST}:{free_port()}"
            else:
                proxy = stack.enter_context(CuttingProxy(device.port))
                proxy.go_silent()
                target, options = f"{LOCALHOST}:{proxy.port}", ["--connect-timeout", "1s"]
            result = run_cli(
                "bench", bundle, "--host", target, *options, "--result", tmp_path / "r.json", "--junit", tmp_path / "r"
            )
        assert result.exit_code == 1
        assert said in complaint(result.stderr)
        assert not (tmp_path / "r.json").exists()
        assert not (tmp_path / "r").exists()


class TestLink:
    @pytest.mark.slow
    def test_goes_silent_in_mid_measurement(self, device, bundle, monkeypatch):
        """Noticed by three keep-alives here, and by the time limit there, where nobody ever says that we are gone."""
        monkeypatch.setattr(_ssh_login, "KEEPALIVE_INTERVAL_S", 0.5)
        settings = replace(LONG, timeout_s=15)
        with CuttingProxy(device.port) as proxy:
            device.trust(proxy.port)
            with (
                connect(f"{device.user}@{LOCALHOST}:{proxy.port}") as transport,
                pytest.raises(TransportError, match=r"connection to .* was lost"),
            ):
                bench_bundle(
                    bundle, transport, settings=settings, python=sys.executable,
                    progress=lambda what, *_: proxy.go_silent() if what == "measuring" else None,
                )  # fmt: skip
            assert len(list(device.tmp.iterdir())) == 2  # Folder and lock: it measures on.
            bench_device.wait_until_clean(device)

    @pytest.mark.slow
    def test_goes_silent_while_files_are_copied(self, device, tmp_path):
        """With the real keep-alives: noticed after 9 s. The device waits for the rest until its time limit."""
        small = golden_arrays((MODELS / "digits_int8.tflite").read_bytes(), digit_images())
        made = write_digits_bundle(tmp_path, arrays={name: np.concatenate([a] * 6250) for name, a in small.items()})
        settings = BenchSettings(timeout_s=20, lock_wait_s=0)
        with CuttingProxy(device.port, silent_after_bytes=3_000_000) as proxy:
            device.trust(proxy.port)
            with (
                connect(f"{device.user}@{LOCALHOST}:{proxy.port}") as transport,
                pytest.raises(TransportError, match=r"connection to .* was lost"),
            ):
                bench_bundle(made, transport, settings=settings, python=sys.executable)
            bench_device.wait_until_clean(device)


class TestKilled:
    """By whom, nobody knows; what is left of the others tidies up."""

    @pytest.mark.parametrize(
        ("victims", "said"),
        [
            ("session", "ended early: killed by signal SIGKILL, most likely for want of memory"),
            ("pass", "ended early: killed by signal SIGKILL, most likely for want of memory, while comparing"),
            ("keeper", r"ended early \(exit code 137\), killed by signal SIGKILL, most likely for want of memory\."),
            ("keeper and session", r"ended early \(exit code 137\), killed by signal SIGKILL"),
        ],
    )
    def test_processes_of_the_agent(self, device, bundle, tmp_path, victims, said):
        """An inference that never ends does not look around: whoever is left has to end it."""
        hangs = "self.n = getattr(self, 'n', 0) + 1; time.sleep(600 if self.n > 1 else 0)"
        fake_runtime(tmp_path, "ai_edge_litert", invoking=hangs)
        python = program(tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec {sys.executable} "$@"')

        def kill(stage, *_):
            if stage == "comparing outputs":
                wait_until(lambda: len(working_in(device.tmp)) == 2, "session and pass are there")
                pids = working_in(device.tmp)
                found = {"pass" if parent_of(pid) in pids else "session": pid for pid in pids}
                found["keeper"] = parent_of(found["session"])
                for victim in victims.split(" and "):
                    os.kill(found[victim], signal.SIGKILL)

        with connect(device.target) as transport, pytest.raises(BenchmarkError, match=said):
            bench_bundle(stand_in_bundle(tmp_path), transport, settings=ONCE, python=python, progress=kill)


def stand_in_bundle(folder):
    """With samples of the shape that the stand-in for a runtime takes."""
    samples = np.arange(8, dtype=np.int8).reshape(2, 4)
    return write_digits_bundle(folder, arrays={"input_0": samples, "output_0": samples})


@contextlib.contextmanager
def memory_group(limit_bytes):
    """A control group whose members get so much memory; yields the file that takes its members."""
    # No device and no program is missing where this may not be made, but a privilege.
    for parent, limit in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        group = Path("/sys/fs/cgroup") / parent / f"edgecomp-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(limit_bytes))
                yield group / "cgroup.procs"
                wait_until(lambda: (group / "cgroup.procs").read_text() == "", "the group is empty")  # noqa: B023
                return
        except PermissionError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no control group of memory may be made here")


class TestMemory:
    def test_killer_of_the_kernel(self, device, tmp_path):
        """256 MiB for everything, a runtime that wants 1 GiB: the kernel chooses the largest, which is the pass."""
        fake_runtime(tmp_path, "ai_edge_litert", invoking="self.hoard = b'x' * 2**30")
        with memory_group(256 * 2**20) as members:
            python = program(
                tmp_path / "python", f'echo $$ >{members}; PYTHONPATH="{tmp_path}" exec {sys.executable} "$@"'
            )
            with (
                connect(device.target) as transport,
                pytest.raises(BenchmarkError, match="killed by signal SIGKILL, most likely for want of memory"),
            ):
                bench_bundle(stand_in_bundle(tmp_path), transport, **QUICK | {"python": python})

    def test_limit_of_address_space(self, device, bundle, tmp_path):
        """Python and numpy fit, what the runtime asks for does not."""
        fake_runtime(tmp_path, "ai_edge_litert", creating="self.hoard = b'x' * 2**31")
        python = program(tmp_path / "python", f'ulimit -v 1500000; PYTHONPATH="{tmp_path}" exec {sys.executable} "$@"')
        with (
            connect(device.target) as transport,
            pytest.raises(BenchmarkError, match="The device has not enough memory for this model"),
        ):
            bench_bundle(bundle, transport, **QUICK | {"python": python})


def in_own_mounts(path, mounts):
    """A Python on the device that sees other file systems than everybody else: `mounts` is shell that makes them."""
    python = program(path, f'exec unshare -m sh -c \'{mounts} && exec "$@"\' sh {sys.executable} "$@"')
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")  # A privilege is missing, no device.
    return python


class TestDisk:
    def test_limit_of_file_sizes(self, device, bundle, tmp_path):
        python = program(tmp_path / "python", f'ulimit -f 8; exec {sys.executable} "$@"')
        with connect(device.target) as transport, pytest.raises(BenchmarkError, match=r"File too large\."):
            bench_bundle(bundle, transport, **QUICK | {"python": python})

    def test_full_disk(self, device, bundle, tmp_path):
        """A temporary file system of 64 KiB: the agent alone is larger."""
        python = in_own_mounts(tmp_path / "python", 'mount -t tmpfs -o size=64k none "$TMPDIR"')
        with connect(device.target) as transport, pytest.raises(BenchmarkError) as caught:
            bench_bundle(bundle, transport, **QUICK | {"python": python})
        assert caught.value.message == f"{device.target}: No space left on device."
        assert caught.value.hint == (
            f"Free some room in {device.tmp} on the device, or set TMPDIR there to a folder that can be written."
        )

    def test_home_that_nobody_can_write(self, device, bundle, tmp_path):
        """Nothing is written there, so nothing is wrong. In /proc not even root can make a file."""
        python = program(tmp_path / "python", f'cd /proc; HOME=/proc exec {sys.executable} "$@"')
        with connect(device.target) as transport:
            assert bench_bundle(bundle, transport, **QUICK | {"python": python}).golden.ok

    def test_read_only_folders_for_temporary_files(self, device, bundle, tmp_path):
        # What is in them stays there to be read: this Python may be.
        read_only = 'mount --bind "$f" "$f" && mount -o remount,bind,ro "$f" || exit 9'
        mounts = f'for f in "$TMPDIR" /var/tmp /tmp; do {read_only}; done && cd /proc'
        python = in_own_mounts(tmp_path / "python", mounts)
        with (
            connect(device.target) as transport,
            pytest.raises(
                BenchmarkError, match=r"No usable temporary directory .*'/tmp', .* Set TMPDIR there to a folder"
            ),
        ):
            bench_bundle(bundle, transport, **QUICK | {"python": python})


class TestPython:
    def test_real_numpy_2_under_the_real_tflite_runtime(self, device, bundle, tmp_path):
        python = interpreter_of("tflite-runtime")
        link_numpy(tmp_path)
        wrapper = program(tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec {python} "$@"')
        with connect(device.target) as transport, pytest.raises(BenchmarkError) as caught:
            bench_bundle(bundle, transport, **QUICK | {"python": wrapper})
        assert caught.value.message == (
            f"{device.target}: tflite-runtime 2.14.0 needs numpy below 2, and the device has numpy {np.__version__}."
        )

    @pytest.mark.parametrize("runtime", DEVICE_PYTHONS)
    def test_operator_that_the_runtime_lacks(self, device, tmp_path, runtime):
        model = (MODELS / "digits_int8.tflite").read_bytes()
        made = write_digits_bundle(
            tmp_path, model=with_unknown_operator(model), arrays=golden_arrays(model, digit_images())
        )
        with connect(device.target) as transport, pytest.raises(RuntimeRefusedError) as caught:
            bench_bundle(made, transport, **QUICK | {"python": interpreter_of(runtime)})
        said = f"{device.target}: {runtime} does not load this model: Encountered unresolved custom op: NoSuchOperator"
        assert caught.value.message.startswith(said)


def with_unknown_operator(data):
    """The model with a custom operator in place of its last one."""
    model = unpack_model(data, "the model")
    last = model.subgraphs[0].operators[-1]
    last.builtinOptionsType, last.builtinOptions = 0, None
    code = model.operatorCodes[last.opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = 32  # CUSTOM
    code.customCode = "NoSuchOperator"
    return pack_model(model)


def keepers(server):
    """Ids of the keepers on a device: processes below its sshd that run one."""
    found, waiting = [], [server.process.pid]
    while waiting:
        pid = waiting.pop()
        waiting += children_of(pid)
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:2] == [b"-c"] and b"stdin.buffer.read" in words[2]:
                found.append(pid)
    return found


class TestTwoVisitors:
    @pytest.mark.slow
    def test_both_are_served_one_after_the_other(self, device, bundle, tmp_path):
        """Each takes some seconds at least, so whoever comes second finds the other one there."""
        words = (bundle, "--host", device.target, *QUICK_WORDS, "--processes", 4, "--max-processes", 4, "--json")
        words = (*words, "--min-seconds", 4, "--max-seconds", 20)
        with Visit(tmp_path, *words) as one, Visit(tmp_path, *words) as other:
            # The bundle is for a Raspberry Pi 4, which this machine is not.
            assert (one.exit_code(), other.exit_code()) == (4, 4)
            waited = [visit for visit in (one, other) if "waiting for another measurement (process " in visit.err]
            assert len(waited) == 1
            for visit in (one, other):
                assert json.loads(visit.out)["measurements"][0]["golden"]["ok"]

    @pytest.mark.slow
    def test_who_does_not_want_to_wait(self, device, bundle, tmp_path):
        """The first measures on, whatever the others do; who gives up waits no longer on the device either."""
        with Visit(tmp_path, bundle, "--host", device.target, *ENDLESS_WORDS) as first:
            first.wait_for("measuring")
            (holder,) = keepers(device)
            with Visit(tmp_path, bundle, "--host", device.target, *QUICK_WORDS, "--wait", "1s") as hurried:
                assert hurried.exit_code() == 1, first.err + hurried.err
                assert complaint(hurried.err) == (
                    f"Error: {device.target}: Another measurement is running there (process {holder}), and did not end "
                    "within 1 s.\nWait for it, or give it more time with --wait."
                )
            with Visit(tmp_path, bundle, "--host", device.target, *QUICK_WORDS) as second:
                second.wait_for(f"waiting for another measurement (process {holder})")
                (waiter,) = set(keepers(device)) - {holder}
                second.interrupt()
                assert second.exit_code() == 130
            wait_until(lambda: not Path(f"/proc/{waiter}").exists(), "the keeper that waited is gone")
            assert first.process.poll() is None
            first.interrupt()
            assert first.exit_code() == 130


def test_clock_that_is_set_meanwhile(device, bundle, tmp_path):
    """By an hour, as by NTP after a start without a network: it is told, and the times are as they are."""
    moved = f"import os, time\nreal = time.time\ntime.time = lambda: real() + 3600 * os.path.exists('{tmp_path}/set')\n"
    (tmp_path / "sitecustomize.py").write_text(moved)
    python = program(tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec {sys.executable} "$@"')
    settings = BenchSettings(min_seconds=1.5, max_seconds=5.0, min_processes=1, max_processes=1, passes=())
    with connect(device.target) as transport:
        measured = bench_bundle(
            bundle, transport, settings=settings, python=python,
            progress=lambda what, *_: (tmp_path / "set").touch() if what == "measuring" else None,
        )  # fmt: skip
    assert measured.notes[0] == "The wall clock was moved by +3600 s meanwhile; times are of a clock that nobody moves."
    assert max(measured.processes_us[0]) < 5e6


class TestFleet:
    @pytest.mark.slow
    def test_faults_cost_other_devices_nothing(self, bundle, tmp_path, run_cli, monkeypatch):
        """Five devices at once: one is fine, one crashes, one lies, one is cut off, one goes silent."""
        monkeypatch.setattr(_ssh_login, "KEEPALIVE_INTERVAL_S", 0.5)
        monkeypatch.setattr(fleet_run, "TRY_AGAIN_S", 0.1)
        crashes = tmp_path / "modules"
        fake_runtime(crashes, "ai_edge_litert", importing="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        pythons = {
            "crashes": program(tmp_path / "crashes", f'PYTHONPATH="{crashes}" exec {sys.executable} "$@"'),
            "lies": program(tmp_path / "lies", r"printf '\033[2J\377{\n'; exec cat"),
        }
        with contextlib.ExitStack() as stack:
            devices = {
                name: stack.enter_context(running_sshd(tmp_path / f"sshd-{name}"))
                for name in ("fine", "crashes", "lies", "cut", "silent")
            }
            ports = {name: one.port for name, one in devices.items()}
            for name, limit in (("cut", "cut_after_bytes"), ("silent", "silent_after_bytes")):
                proxy = stack.enter_context(CuttingProxy(devices[name].port, **{limit: 100_000}))
                devices[name].trust(proxy.port)
                ports[name] = proxy.port
            text = [target(name, one, pythons.get(name, sys.executable), ports[name]) for name, one in devices.items()]
            (tmp_path / "fleet.toml").write_text("".join(text))
            words = ["--fleet", tmp_path / "fleet.toml", *QUICK_WORDS, "--connect-timeout", "3s", "--json"]
            result = run_cli("bench", bundle, *words)
            devices.pop("silent")  # Which learns of the end with the line's.
            for one in devices.values():
                bench_device.wait_until_clean(one)
        assert result.exit_code == 1, result.output
        report = json.loads(result.stdout)
        (measured,) = report["measurements"]
        assert (measured["target"], measured["golden"]["ok"]) == ("fine", True)
        errors = {failed["target"]: failed["error"] for failed in report["failed"]}
        assert errors["crashes"].endswith("killed by signal SIGSEGV, while loading the model with ai-edge-litert.")
        assert "does not speak the agent's protocol: it printed" in errors["lies"]
        assert errors["cut"].endswith("(tried 3 times).")
        assert errors["silent"].endswith("(tried 3 times).")


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c(device, bundle, tmp_path, times):
    """Twice: who is impatient interrupts the tidying up, too, and then the end of the connection does it."""
    with Visit(tmp_path, bundle, "--host", device.target, *ENDLESS_WORDS, "--result", tmp_path / "r.json") as visit:
        visit.wait_for("measuring")
        assert len(list(device.tmp.glob("edgecomp-agent-*"))) == 1
        for _ in range(times):
            visit.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                visit.process.wait(timeout=0.1)
        assert visit.exit_code() == 130
        assert visit.err.endswith("Interrupted.\n")
        assert not (tmp_path / "r.json").exists()


def test_disk_that_is_full_by_the_time_that_the_agent_writes(tmp_path):
    """The agent by hand; a limit of file sizes stands in for the disk."""
    from edgecomp.agent.packing import agent_file

    name, data = agent_file()
    (tmp_path / name).write_bytes(data)
    (tmp_path / "job.json").write_text('{"configurations": [], "passes": [], "min_processes": 1, "max_processes": 1}')
    limited = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, str(tmp_path / name), "session"]
    result = subprocess.run([*limited, str(tmp_path / "job.json")], capture_output=True, check=False, timeout=60)
    assert b'"code": "device", "message": "File too large.", "hint": null' in result.stdout
    assert result.stderr == b""
