import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgecomp.errors import UsageError, WorkerError
from edgecomp.executors.limits import MEMORY_BYTES, machine_bytes, worker_bytes
from edgecomp.executors.local import Worker


@pytest.fixture
def worker(tmp_path):
    with Worker("test", tmp_path / "log", environment={"EDGECOMP_TEST": "yes"}) as worker:
        yield worker


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().split()[2] != "Z"


def gone_soon(pid):
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_results_come_back_and_the_process_is_reused(worker):
    first = worker.call("os:getpid")
    assert worker.call("os:getpid") == first != os.getpid()
    assert worker.call("os:getenv", key="EDGECOMP_TEST") == "yes"


def test_expected_errors_arrive_as_they_are_with_their_hint(worker):
    with pytest.raises(UsageError, match="Unknown unit 'parsec'"):
        worker.call("edgecomp.units:parse_bytes", text="1parsec")
    with pytest.raises(WorkerError, match="ZeroDivisionError: division by zero"):
        worker.call("tests.worker_functions:divide", by=0)


def test_what_a_function_prints_goes_to_the_log_only(worker, capfd):
    assert worker.call("tests.worker_functions:noisy") == "done"
    assert capfd.readouterr() == ("", "")
    text = worker.log_path.read_text()
    assert "python stdout" in text
    assert "native stdout" in text
    assert "native stderr" in text


def test_a_dead_worker_is_one_failed_call_and_the_next_one_runs(worker):
    with pytest.raises(WorkerError, match=r"test worker died .*signal SIGSEGV"):
        worker.call("tests.worker_functions:die", number=int(signal.SIGSEGV))
    with pytest.raises(WorkerError, match="signal SIGKILL, most likely for want of memory"):
        worker.call("tests.worker_functions:die", number=int(signal.SIGKILL))
    with pytest.raises(WorkerError, match="exit code 3"):
        worker.call("os:_exit", status=3)
    assert worker.call("os:getenv", key="EDGECOMP_TEST") == "yes"


def test_progress_is_forwarded(worker):
    seen = []
    worker.call("tests.worker_functions:counting", progress=lambda *step: seen.append(step), to=3)
    assert seen == [("counting", 0, 3), ("counting", 1, 3), ("counting", 2, 3)]


def test_closing_ends_the_child_and_what_it_started(tmp_path):
    worker = Worker("test", tmp_path / "log")
    grandchild = worker.call("tests.worker_functions:start_sleeper")
    child = worker.call("os:getpid")
    assert alive(child)
    assert alive(grandchild)
    worker.close()
    assert gone_soon(child)
    assert gone_soon(grandchild)


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, pathlib, time\n"
        "from edgecomp.executors.local import Worker\n"
        f"worker = Worker('orphan', pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "print(worker.call('os:getpid'), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    assert gone_soon(child)


def test_a_worker_that_wants_too_much_memory_fails_by_itself(tmp_path):
    """512 MiB are allowed: a fourth of that is there, twice as much is not, and the worker lives on."""
    with Worker("test", tmp_path / "log", environment={MEMORY_BYTES: str(2**29)}) as worker:
        assert worker.call("tests.worker_functions:take", count=2**27) == 2**27
        with pytest.raises(WorkerError, match=r"take needs more memory than the 0\.5 GiB that a worker may use"):
            worker.call("tests.worker_functions:take", count=2**30)
        assert worker.call("tests.worker_functions:take", count=10) == 10


def test_workers_share_four_fifths_of_the_memory():
    assert worker_bytes(1) == int(0.8 * machine_bytes())
    assert worker_bytes(2) == worker_bytes(1) // 2
    assert 2**28 < machine_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_threads_take_turns(worker):
    """Two calls at once on one pipe would mix their answers."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda count: worker.call("tests.worker_functions:take", count=count), range(40)))
    assert found == list(range(40))
