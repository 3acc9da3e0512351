"""The store as fits meet it: several processes at once, kills at any moment, full disks, damage, and collection."""

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from edgecomp.errors import StoreError
from edgecomp.files import sha256_of
from edgecomp.store import Store
from edgecomp.store_journal import SCHEMA_VERSION
from edgecomp.store_process import is_alive, process_start
from tests.conftest import missing
from tests.store_processes import HEAD, REQUEST, Waiting, ended, keep, killed, python

NEVER = sha256_of(b"never put")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(folder):
    with Store.open(folder) as opened:
        yield opened


def ended_run(store, label="net"):
    run = store.begin_run(REQUEST, "request", label)
    run.finish("done", {})
    return run


def age(path, days=1.0):
    then = time.time() - days * 86400
    os.utime(path, (then, then))


class TestResults:
    def test_a_result_comes_back_with_its_artifacts(self, store):
        value = {"name": "INT8", "drop": None, "bytes": 0, "list": [1.5, "x"]}
        sha256 = store.put(b"model")
        store.remember("c-1", "candidate", value, [sha256], 0.5)
        assert store.recall("c-1") == value
        assert store.path_of(sha256).read_bytes() == b"model"
        assert store.recall("c-2") is None
        assert store.path_of(NEVER) is None

    def test_outlives_the_process(self, folder):
        sha256 = ended(
            python("""
                with Store.open(folder) as store:
                    sha256 = store.put(b"model")
                    store.remember("c-1", "candidate", {"n": 1}, [sha256], 0.5)
                print(sha256)
            """, folder)
        ).strip()  # fmt: skip
        with Store.open(folder) as store:
            assert store.recall("c-1") == {"n": 1}
            assert store.path_of(sha256) is not None

    def test_the_first_result_of_a_key_stays(self, store):
        store.remember("c-1", "candidate", {"n": 1}, [], 0.5)
        store.remember("c-1", "candidate", {"n": 2}, [store.put(b"other")], 0.5)
        assert store.recall("c-1") == {"n": 1}

    def test_the_same_content_is_kept_once(self, store, folder):
        assert store.put(b"model") == store.put(b"model") == sha256_of(b"model")
        assert len(list(folder.glob("artifacts/??/*"))) == 1

    @pytest.mark.parametrize("damage", ["other bytes", "cut", "empty", "gone"])
    def test_a_damaged_artifact_is_not_returned(self, store, damage):
        path = store.path_of(keep(store, "c-1", b"model"))
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes({"other bytes": b"mOdel", "cut": b"mod", "empty": b""}[damage])
        assert store.recall("c-1") is None
        assert not path.exists()
        # Made anew, it is remembered anew.
        keep(store, "c-1", b"model")
        assert store.recall("c-1") == {"key": "c-1"}

    def test_putting_mends_a_damaged_artifact(self, store):
        sha256 = keep(store, "c-1", b"model")
        store.path_of(sha256).write_bytes(b"mOdel")
        assert store.put(b"model") == sha256
        assert store.recall("c-1") == {"key": "c-1"}

    def test_a_result_cannot_name_what_is_not_there(self, store):
        with pytest.raises(StoreError, match=f"names the artifact {NEVER}, which is not in"):
            store.remember("c-1", "candidate", {}, [NEVER], 0.5)
        assert store.recall("c-1") is None

    @pytest.mark.parametrize("key", ["", "..", "../x", "a/b", "/etc/passwd", "A", "a.b", "a\n", "a\0b", "x" * 81, "é"])
    def test_a_key_that_is_no_plain_name_is_refused(self, store, key):
        calls = [
            lambda: store.recall(key),
            lambda: store.remember(key, "candidate", {}, [], 0.5),
            lambda: store.step_folder(key),
            lambda: store.lock(key).__enter__(),
            lambda: store.begin_run({}, key, "net"),
            lambda: store.unfinished_run(key),
            lambda: store.path_of(key),
        ]
        for call in calls:
            with pytest.raises(StoreError, match=r"cannot be a key of the store|is not a sha256"):
                call()
        assert store.runs() == []
        assert list((store.folder / "steps").iterdir()) == []


class TestRuns:
    def test_what_was_recorded_comes_back_in_order(self, store):
        run = store.begin_run(REQUEST, "request", "ResNet 8/é")
        stamp, label, digits = run.name[:15], run.name[16:-5], run.name[-4:]
        assert time.strptime(stamp, "%Y%m%d-%H%M%S")
        assert label == "resnet-8"
        assert int(digits, 16) >= 0
        for number in range(3):
            run.record("candidate", {"n": number})
        run.record("note", {})
        assert [(event.number, event.value) for event in run.events("candidate")] == [
            (1, {"n": 0}), (2, {"n": 1}), (3, {"n": 2}),
        ]  # fmt: skip
        assert [event.kind for event in run.events()] == ["candidate"] * 3 + ["note"]
        assert run.result() is None
        run.finish("done", {"status": "fits"})
        assert run.result() == {"status": "fits"}
        details = store.load_run(run.name)
        assert details.summary.request == REQUEST
        assert details.summary.status == "done"
        assert details.result == {"status": "fits"}
        assert len(details.events) == 4

    def test_two_runs_of_one_second_have_names_of_their_own(self, store):
        assert len({store.begin_run({}, "r", "net").name for _ in range(50)}) == 50

    def test_a_run_of_a_killed_process_goes_on(self, store, folder):
        begun = """
            store = Store.open(folder)
            run = store.begin_run({"model": "net.keras"}, "request", "net")
            run.record("candidate", {"n": 1})
            print(run.name, flush=True)
        """
        process = python(textwrap.dedent(begun) + "sys.stdin.read()", folder, stdin=subprocess.PIPE)
        name = process.stdout.readline().strip()
        assert store.unfinished_run("request") is None, "its process is alive"
        assert store.load_run(name).summary.status == "running"
        killed(process)
        assert store.load_run(name).summary.status == "interrupted"
        run = store.unfinished_run("request")
        assert run.name == name
        assert store.unfinished_run("another") is None
        run.resume()
        assert store.load_run(name).summary.status == "running"
        assert store.unfinished_run("request") is None
        run.record("candidate", {"n": 2})
        assert [event.number for event in run.events()] == [1, 2]
        run.finish("done", None)
        assert store.unfinished_run("request") is None

    def test_only_one_of_two_processes_takes_a_run_up(self, store, folder):
        store.begin_run(REQUEST, "request", "net").finish("interrupted", None)
        mine = store.unfinished_run("request")
        with Waiting("run = Store.open(folder).unfinished_run('request'); run.resume()", folder):
            assert store.unfinished_run("request") is None
            with pytest.raises(StoreError, match=r"Process [0-9]+ works on the run"):
                mine.resume()
        mine.resume()

    def test_of_many_processes_at_once_one_takes_a_run_up(self, store, folder):
        store.begin_run(REQUEST, "request", "net").finish("interrupted", None)
        script = """
            from edgecomp.errors import StoreError
            run = Store.open(folder).unfinished_run("request")
            print("ready", flush=True)
            sys.stdin.readline()
            try:
                run.resume()
                print("mine", flush=True)
            except StoreError as error:
                print(error.message, flush=True)
            sys.stdin.read()
        """
        processes = [python(script, folder, stdin=subprocess.PIPE) for _ in range(4)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in processes]
        for process in processes:
            killed(process)
        assert said.count("mine") == 1
        assert sum("works on the run" in line for line in said) == 3

    def test_an_interrupted_run_can_go_on_in_the_same_process(self, store):
        run = store.begin_run(REQUEST, "request", "net")
        run.finish("interrupted", None)
        again = store.unfinished_run("request")
        assert again.name == run.name
        again.resume()
        again.finish("done", None)
        with pytest.raises(StoreError, match="is done: there is nothing to go on with"):
            again.resume()

    def test_the_newest_unfinished_run_is_found_and_no_failed_one(self, store):
        names = []
        for status in ("interrupted", "interrupted", "failed", "done"):
            run = store.begin_run(REQUEST, "request", "net")
            run.finish(status, None)
            names.append(run.name)
        assert store.unfinished_run("request").name == names[1]
        assert [summary.name for summary in store.runs()] == names[::-1]

    def test_elapsed_counts_the_parts_and_not_the_time_between(self, store, monkeypatch):
        now = 1000.0
        monkeypatch.setattr("edgecomp.store_runs.time.monotonic", lambda: now)
        run = store.begin_run(REQUEST, "request", "net")
        now += 10
        run.record("candidate", {})
        now += 20
        assert run.elapsed_s() == 30
        run.finish("interrupted", None)
        now += 3600
        assert run.elapsed_s() == 30
        again = store.unfinished_run("request")
        assert again.elapsed_s() == 30
        again.resume()
        now += 4
        again.use("c-1")
        assert store.runs()[0].elapsed_s == 34
        now += 4.5
        again.beat()
        assert store.runs()[0].elapsed_s == 34  # 4.5 s after the last sign of life: too soon for another
        now += 1
        again.beat()
        assert store.runs()[0].elapsed_s == 39.5

    def test_a_number_that_another_process_got_is_no_sign_of_life(self):
        start = process_start(os.getpid())
        assert is_alive(os.getpid(), start)
        assert is_alive(os.getpid(), None)
        assert not is_alive(None, None)
        if start is not None:
            assert not is_alive(os.getpid(), f"{start}0")

    def test_a_process_that_nobody_has_waited_for_is_dead(self):
        process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        start = process_start(process.pid)
        assert is_alive(process.pid, start)
        process.kill()
        if start is not None:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert not is_alive(process.pid, start)
        process.communicate()
        assert not is_alive(process.pid, start)

    def test_a_unique_beginning_names_a_run(self, store):
        names = [ended_run(store, label).name for label in ("alpha", "beta")]
        assert store.load_run(names[0]).summary.name == names[0]
        assert store.load_run(names[0][:-2]).summary.name == names[0]
        with pytest.raises(StoreError, match="2 runs begin with '2'") as caught:
            store.load_run("2")
        assert all(name in caught.value.message for name in names)
        with pytest.raises(StoreError, match="There is no run 'beta'") as caught:
            store.load_run("beta")
        assert names[1] in caught.value.hint
        assert names[0] not in caught.value.hint
        with pytest.raises(StoreError, match="names all 2"):
            store.load_run("")

    def test_no_run_in_an_empty_store(self, store):
        with pytest.raises(StoreError, match="There is no run 'x': the store holds none"):
            store.load_run("x")


class TestLocks:
    def test_one_process_at_a_time_and_a_dead_one_holds_nothing(self, store, folder):
        waited = []
        script = "store = Store.open(folder); lock = store.lock('s-1'); lock.__enter__()"
        with Waiting(script, folder) as process:
            threading.Timer(0.3, process.kill).start()
            with store.lock("s-2", lambda: waited.append("another key")):
                pass
            with store.lock("s-1", lambda: waited.append("s-1")):
                assert waited == ["s-1"]
                assert process.wait() == -signal.SIGKILL
        with store.lock("s-1", lambda: waited.append("free by now")):
            assert waited == ["s-1"]

    def test_counts_are_exact_under_the_lock(self, store, folder, tmp_path):
        script = """
            store = Store.open(folder)
            path = Path(sys.argv[2])
            for _ in range(100):
                with store.lock("count"):
                    path.write_text(str(int(path.read_text()) + 1))
                store.gc(0)
        """
        counter = tmp_path / "counter"
        counter.write_text("0")
        for process in [python(script, folder, counter) for _ in range(3)]:
            ended(process)
        assert counter.read_text() == "300"  # 3 x 100, although `gc` removes free locks all the time


WRITER = """
    store = Store.open(folder)
    name = sys.argv[2]
    run = store.begin_run({"model": name}, "request", name)
    for number in range(int(sys.argv[3])):
        key = f"{name}-{number}"
        sha256s = [store.put(f"{key} {part}".encode() * 200) for part in range(2)]
        shared = store.put(b"shared %d" % number)
        store.remember(key, "candidate", {"n": number}, [*sha256s, shared], 0.1)
        store.remember(f"shared-{number}", "candidate", {"by": name}, [shared], 0.1)
        run.record("candidate", {"n": number})
        run.use(key)
    run.finish("done", {"n": number})
    store.close()
"""


def test_processes_that_write_at_the_same_time_lose_nothing(folder):
    names, count = ("a", "b", "c"), 200
    for process in [python(WRITER, folder, name, count) for name in names]:
        ended(process)
    with Store.open(folder) as store:
        for number in range(count):
            assert store.recall(f"shared-{number}")["by"] in names
            assert all(store.recall(f"{name}-{number}") == {"n": number} for name in names)
        details = [store.load_run(summary.name) for summary in store.runs()]
    assert sorted(item.summary.label for item in details) == sorted(names)
    for item in details:
        assert [event.number for event in item.events] == list(range(1, count + 1))
        assert len(item.used) == count
        assert item.result == {"n": count - 1}


def test_many_processes_open_a_new_store_at_the_same_time(folder):
    for process in [python("Store.open(folder).remember(sys.argv[2], 'x', {}, [], 0)", folder, n) for n in range(8)]:
        ended(process)
    with Store.open(folder) as store:
        assert [store.recall(str(number)) for number in range(8)] == [{}] * 8


def test_collection_while_others_write_takes_nothing_of_theirs(folder):
    writers = [python(WRITER, folder, name, 60) for name in ("a", "b")]
    with Store.open(folder) as store:
        while any(writer.poll() is None for writer in writers):
            store.gc(50)
            time.sleep(0.01)
        for writer in writers:
            ended(writer)
        store.gc(50)
        # `use` is what keeps a result: nobody has used the shared ones.
        for number in range(60):
            assert [store.recall(f"{name}-{number}") for name in ("a", "b")] == [{"n": number}] * 2
            assert store.recall(f"shared-{number}") is None


def test_threads_share_a_store(store):
    run = store.begin_run(REQUEST, "request", "net")

    def write(name):
        for number in range(30):
            keep(store, f"{name}-{number}", f"{name} {number}".encode(), run)
            run.record("candidate", {})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.number for event in run.events()] == list(range(1, 91))
    assert all(store.recall(f"{name}-{number}") for name in "abc" for number in range(30))


def assert_sound(folder):
    """The journal is whole, and so is every artifact of every remembered result; returns the keys."""
    with sqlite3.connect(folder / "store.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        keys = [key for (key,) in database.execute("SELECT key FROM result")]
        named = [sha256 for (sha256,) in database.execute("SELECT sha256 FROM artifact")]
    database.close()
    for sha256 in named:
        assert sha256_of((folder / "artifacts" / sha256[:2] / sha256).read_bytes()) == sha256
    with Store.open(folder) as store:
        for key in keys:
            assert store.recall(key) is not None, key
        for summary in store.runs():
            assert [event.number for event in store.load_run(summary.name).events]
    return set(keys)


def test_a_kill_at_any_moment_leaves_a_sound_store(folder):
    chance = random.Random(0)
    known, told = set(), 0
    endless = textwrap.dedent(WRITER).replace("run.use(key)", "run.use(key)\n    print(key, flush=True)")
    for number in range(20):
        process = python(endless, folder, f"w{number}", 100_000)
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        out, _ = process.communicate(timeout=60)
        # What the writer had been promised is there, and what was there before.
        promised = set(out.split("\n")[:-1])
        told += len(promised)
        found = assert_sound(folder)
        assert known | promised <= found
        known = found
    assert told > 20
    with Store.open(folder) as store:
        assert {summary.status for summary in store.runs()} == {"interrupted"}
        collected = store.gc(0)
        assert len(collected.runs) == 20
    assert list(folder.glob("artifacts/??/*")) == [], "half-written files go too"


def test_a_kill_while_collecting_leaves_a_sound_store(folder):
    chance = random.Random(1)
    for number in range(5):
        ended(python(WRITER, folder, f"w{number}", 30))
        with Store.open(folder) as store:
            step = store.step_folder(f"step-{number}")
        for part in range(300):
            (step / f"{part}.npz").write_bytes(b"x")
        collecting = python("store = Store.open(folder)\nprint(flush=True)\nstore.gc(0)", folder)
        collecting.stdout.readline()
        time.sleep(chance.uniform(0, 0.02))
        killed(collecting)
        with sqlite3.connect(folder / "store.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()
        # Half a step would be taken for a finished one.
        assert all(len(list(path.iterdir())) == 300 for path in (folder / "steps").iterdir() if path.name[0] != ".")
    with Store.open(folder) as store:
        store.gc(0)
        assert store.runs() == []
    assert list((folder / "steps").iterdir()) == []
    assert list(folder.glob("artifacts/??/*")) == []


FULL = """
    from edgecomp.errors import StoreError
    store = Store.open(folder)
    run = store.begin_run({}, "request", "net")
    sha256 = store.put(b"small")
    store.remember("before", "candidate", {"n": 1}, [sha256], 0.1)
    run.record("candidate", {"n": 1})
    LIMIT
    try:
        for number in range(2000):
            WRITE
    except StoreError as error:
        print(error)
    else:
        print("never full")
    assert store.recall("before") == {"n": 1}
    assert [event.number for event in run.events()] [0] == 1
"""
WRITES = {
    "file": "store.put(os.urandom(1 << 20))",
    "result": "store.remember(str(number), 'candidate', {'x': 'x' * 100_000}, [], 0.1)",
    "event": "run.record('candidate', {'x': 'x' * 100_000})",
}
FILL = WRITES | {"file": "store.put(os.urandom(1 << 14))"}  # Down to the last pages.
NO_SPACE = "There is no space left to write the store {}; what was recorded before stays. Free some"


@pytest.mark.parametrize("what", WRITES)
def test_a_limit_on_the_size_of_files(folder, what):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))"
    out = ended(python(FULL.replace("LIMIT", limit).replace("WRITE", WRITES[what]), folder))
    # To SQLite it is an error of the disk like others.
    refused = f"The store {folder} cannot be read or written: disk I/O error; what was recorded before stays."
    assert out.strip().startswith(NO_SPACE.format(folder) if what == "file" else refused), out
    assert_sound_after_refusal(folder)


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk(tmp_path, what):
    folder = tmp_path / "disk"
    folder.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = 'mount -t tmpfs -o size=16m none "$1"'
    tried = shutil.which("unshare") and subprocess.run([*unshare, mount, "sh", folder], capture_output=True).returncode
    if tried != 0:
        missing("no tmpfs can be mounted in a user namespace here")
    # The disk lives as long as the shell: a second process meets it full.
    again = """
        with Store.open(folder) as store:
            assert store.recall("before") == {"n": 1}
            (run,) = store.runs()
            assert store.load_run(run.name).events[0].value == {"n": 1}
            if sys.argv[2] != "file":
                # The journal alone fills the disk, so that a collection has nothing to make room with.
                (folder / "ballast").unlink()
            print(store.gc(0).freed_bytes, store.runs())
            store.remember("after", "candidate", {}, [store.put(b"x" * 50_000)], 0.1)
            assert store.recall("after") == {}
    """
    fill = FULL.replace("WRITE", FILL[what]).replace("LIMIT", "(folder / 'ballast').write_bytes(bytes(5 << 20))")
    scripts = [HEAD + textwrap.dedent(script) for script in (fill, again)]
    both = '"$2" -c "$3" "$1"; "$2" -c "$4" "$1" "$5"'
    done = subprocess.run(
        [*unshare, f"{mount}; {both}", "sh", folder, sys.executable, *scripts, what],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    full, collected = done.stdout.splitlines()
    assert full.startswith(NO_SPACE.format(folder))
    assert collected.endswith("[]")


def assert_sound_after_refusal(folder):
    assert "before" in assert_sound(folder)
    assert list(folder.glob("artifacts/??/.*")) == []
    with Store.open(folder) as store:
        (summary,) = store.runs()
        assert store.load_run(summary.name).events[0].value == {"n": 1}
        # With room again everything works.
        keep(store, "after", os.urandom(1 << 20))
        assert store.recall("after") == {"key": "after"}


def test_no_space_while_syncing_a_file(store, folder, monkeypatch):
    keep(store, "before", b"model")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError) as caught:
            store.put(b"another")
    assert str(caught.value).startswith(NO_SPACE.format(folder))
    assert store.recall("before") == {"key": "before"}
    assert store.path_of(sha256_of(b"another")) is None
    assert len(list(folder.glob("artifacts/??/*"))) == 1, "nothing half-written stays"


class TestOpening:
    @pytest.mark.parametrize("damage", ["text", "zeros inside", "cut"])
    def test_a_damaged_journal_gets_one_sentence_and_what_to_do(self, folder, damage):
        with Store.open(folder) as store:
            run = store.begin_run(REQUEST, "request", "net")
            for number in range(100):
                run.record("candidate", {"n": number, "x": "x" * 500})
            keep(store, "c-1", b"model")
        path = folder / "store.db"
        data = path.read_bytes()
        middle = len(data) // 2 // 4096 * 4096
        path.write_bytes(
            {
                "text": b"no journal at all " * 1000,
                "zeros inside": data[:middle] + bytes(8192) + data[middle + 8192 :],
                "cut": data[:middle],
            }[damage]
        )
        with pytest.raises(StoreError) as caught:
            Store.open(folder)
        assert caught.value.message == f"{path} is damaged."
        assert f"Move store.db, store.db-wal and store.db-shm out of {folder}" in caught.value.hint
        # And that helps.
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            (folder / name).unlink(missing_ok=True)
        with Store.open(folder) as store:
            assert store.recall("c-1") is None
            assert store.path_of(sha256_of(b"model")) is not None

    def test_a_journal_that_is_damaged_while_it_is_open(self, store, folder):
        keep(store, "c-1", b"model")
        with store._journal.writing() as database:
            database.execute("UPDATE result SET value = '{cut'")
        with pytest.raises(StoreError, match="holds text that is not JSON"):
            store.recall("c-1")

    def test_a_store_of_a_newer_version(self, folder):
        Store.open(folder).close()
        with sqlite3.connect(folder / "store.db") as database:
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        database.close()
        before = (folder / "store.db").read_bytes()
        sentence = (
            f"newer edgecomp: its schema is version {SCHEMA_VERSION + 1}, this edgecomp reads up to {SCHEMA_VERSION}"
        )
        with pytest.raises(StoreError, match=sentence):
            Store.open(folder)
        assert (folder / "store.db").read_bytes() == before

    def test_a_database_of_something_else(self, folder):
        folder.mkdir()
        with sqlite3.connect(folder / "store.db") as database:
            database.execute("CREATE TABLE theirs (x)")
        database.close()
        with pytest.raises(StoreError, match="holds tables of something else"):
            Store.open(folder)

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=f"The store {tmp_path}/file/store cannot be read or written: Not a dir"):
            Store.open(tmp_path / "file" / "store")

    def test_a_store_that_is_not_there_is_not_made_by_looking(self, folder):
        assert Store.open_existing(folder) is None
        assert not folder.exists()

    def test_imports_nothing_heavy(self, folder):
        script = "print({'numpy', 'pydantic', 'rich', 'click', 'tensorflow'} & set(sys.modules))"
        assert ended(python(script, folder)).strip() == "set()"


class TestCollection:
    def test_old_runs_go_with_what_no_other_run_uses(self, store):
        old = store.begin_run(REQUEST, "request", "old")
        gone = keep(store, "old-only", b"12345", old)
        both = keep(store, "both", b"123", old)
        nobody = keep(store, "nobody", b"1")
        old_step, both_step = store.step_folder("old-step"), store.step_folder("both-step")
        for step in (old_step, both_step):
            (step / "0-prune").mkdir()
            (step / "0-prune" / "model.h5").write_bytes(b"12")
            old.use(step.name)
        old.finish("done", {})
        new = store.begin_run(REQUEST, "request", "new")
        for key in ("both", "both-step"):
            new.use(key)
        new.finish("done", {})

        planned = store.gc(1, dry_run=True)
        assert planned.is_dry_run
        assert len(store.runs()) == 2
        assert store.recall("old-only") is not None
        assert old_step.exists()

        collected = store.gc(1)
        assert collected.runs == planned.runs == (old.name,)
        assert collected.results == planned.results == ("old-only", "nobody")
        assert sorted(collected.artifacts) == sorted(planned.artifacts) == sorted([gone, nobody])
        assert collected.steps == planned.steps == ("old-step",)
        assert collected.freed_bytes == planned.freed_bytes == 5 + 1 + 2
        assert [summary.name for summary in store.runs()] == [new.name]
        assert store.recall("old-only") is None
        assert store.recall("both") is not None
        assert store.path_of(both) is not None
        assert not old_step.exists()
        assert (both_step / "0-prune" / "model.h5").read_bytes() == b"12"
        assert store.gc(1).freed_bytes == 0

    def test_an_artifact_of_two_results_stays_for_the_one_that_stays(self, store):
        keep(store, "unused", b"model")
        run = store.begin_run(REQUEST, "request", "net")
        keep(store, "used", b"model", run)
        run.finish("done", {})
        age(store.path_of(sha256_of(b"model")))
        collected = store.gc(1)
        assert collected.results == ("unused",)
        assert collected.artifacts == ()
        assert store.recall("used") == {"key": "used"}

    def test_of_the_runs_beyond_keep_only_old_ones_go(self, store):
        names = [ended_run(store).name for _ in range(4)]
        with store._journal.writing() as database:
            for name, days in zip(names, (40, 31, 29, 40), strict=True):
                database.execute("UPDATE run SET updated_at = updated_at - ? WHERE name = ?", (days * 86400, name))
        assert store.gc(2, 30, dry_run=True).runs == (names[1], names[0])
        assert store.gc(1, 30, dry_run=True).runs == (names[1], names[0])
        assert store.gc(0, 30, dry_run=True).runs == (names[3], names[1], names[0])
        assert store.gc(0, None, dry_run=True).runs == tuple(names[::-1])
        assert store.gc(4, 0, dry_run=True).runs == ()

    def test_nothing_of_a_live_run_goes(self, store, folder):
        sha256 = keep(store, "made-before", b"1")
        age(store.path_of(sha256))
        step = store.step_folder("step-before")
        age(step)
        script = """
store = Store.open(folder)
run = store.begin_run({}, "request", "live")
for key in ("made-before", "step-before"):
    run.use(key)
# Made, and not yet said to be used.
store.remember("just-made", "candidate", {}, [store.put(b"2")], 0.1)
store.put(b"3")
store.step_folder("just-begun")
"""
        unused = keep(store, "unused", b"4")
        unused_step = store.step_folder("unused-step")
        with store._journal.writing() as database:
            database.execute("UPDATE result SET made_at = made_at - 86400")
        age(store._artifacts.path(sha256))
        age(store._artifacts.path(unused))
        age(step)
        age(unused_step)
        with Waiting(script, folder):
            collected = store.gc(0)
            assert collected.runs == ()
            assert (collected.results, collected.artifacts, collected.steps) == (
                ("unused",), (unused,), ("unused-step",),
            )  # fmt: skip
            assert store.recall("made-before") is not None
            assert store.recall("just-made") is not None
        collected = store.gc(0)
        assert len(collected.runs) == 1
        assert len(collected.artifacts) == 3
        assert sorted(collected.steps) == ["just-begun", "step-before"]

    def test_a_locked_step_stays(self, store, folder):
        store.step_folder("s-1")
        with Waiting("store = Store.open(folder); lock = store.lock('s-1'); lock.__enter__()", folder):
            assert store.gc(0).steps == ()
            assert (folder / "steps" / "s-1").exists()
        assert store.gc(0).steps == ("s-1",)
        assert sorted(path.name for path in (folder / "locks").iterdir()) == [".files", ".opening"]

    def test_a_full_disk_can_be_collected(self, store, monkeypatch):
        # Files go before the journal is written, so that it has their room.
        run = store.begin_run(REQUEST, "request", "net")
        sha256 = keep(store, "c-1", b"model", run)
        run.finish("done", {})
        path = store.path_of(sha256)
        seen = []
        remove = type(path).unlink
        monkeypatch.setattr(type(path), "unlink", lambda *args, **options: (seen.append("file"), remove(*args))[1])
        store._journal._connection.set_trace_callback(lambda text: text.startswith("DELETE") and seen.append("journal"))
        store.gc(0)
        assert seen[:2] == ["file", "journal"]

    @pytest.mark.parametrize(("keep_runs", "days"), [(-1, None), (0, -1), (0, float("nan")), (0, float("inf"))])
    def test_numbers_that_mean_nothing(self, store, keep_runs, days):
        with pytest.raises(StoreError, match="must be at least 0"):
            store.gc(keep_runs, days)
