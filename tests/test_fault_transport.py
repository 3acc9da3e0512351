"""The transport that fails on purpose does: what it claims to do to a run happens, and to no other."""

import pytest

from edgecomp.errors import CommandTimeoutError, TransportError
from edgecomp.transports import connect
from tests.fault_transport import HOSTILE_LINES, Cut, Exit, FaultTransport, Garbage, HugeLine, Stall
from tests.test_transports import has_ended

COUNT = ["sh", "-c", "echo $$; echo 2; echo 3"]
ENDLESS = ["sh", "-c", "echo $$; echo 2; exec cat"]


def hear(transport, argv=COUNT, **options):
    """(result or error, lines that arrived)."""
    lines = []
    try:
        return transport.run(argv, timeout_s=20, on_line=lines.append, **options), lines
    except TransportError as error:
        return error, lines


def test_cut_ends_the_command_and_the_connection(tmp_path):
    with FaultTransport(connect("local"), Cut(after_lines=1)) as transport:
        error, lines = hear(transport, ENDLESS, hold_stdin=True)
        assert "was lost" in error.message
        assert len(lines) == 1
        assert has_ended(int(lines[0]))
        for call in (lambda: transport.get("/dev/null"), lambda: transport.put(b"", str(tmp_path / "x"))):
            with pytest.raises(TransportError, match="was lost"):
                call()


def test_stall_ends_with_the_time_limit():
    with FaultTransport(connect("local"), Stall(after_lines=1)) as transport:
        error, lines = hear(transport, ENDLESS, hold_stdin=True)
        assert isinstance(error, CommandTimeoutError)
        assert len(lines) == 1


def test_exit_loses_the_rest():
    with FaultTransport(connect("local"), Exit(after_lines=2, stderr=b"Killed\n")) as transport:
        result, lines = hear(transport)
        assert (result.exit_code, result.stderr) == (137, b"Killed\n")
        assert result.stdout.decode().splitlines() == lines
        assert len(lines) == 2


def test_garbage_comes_in_between():
    with FaultTransport(connect("local"), Garbage(after_lines=1)) as transport:
        result, lines = hear(transport)
        assert lines[1:] == [*HOSTILE_LINES, "2", "3"]
        assert result.exit_code == 0


def test_huge_line_comes_whole():
    with FaultTransport(connect("local"), HugeLine(chars=5_000_000)) as transport:
        assert len(hear(transport)[1][0]) == 5_000_000


def test_only_so_many_runs_are_spoiled():
    """Two of three: what is retried finds the third in order."""
    with FaultTransport(connect("local"), Stall(), times=2) as transport:
        kinds = [type(hear(transport)[0]).__name__ for _ in range(3)]
        assert kinds == ["CommandTimeoutError", "CommandTimeoutError", "CommandResult"]
        assert transport.runs == 3


def test_a_run_that_says_less_is_not_spoiled():
    with FaultTransport(connect("local"), Cut(after_lines=10)) as transport:
        assert hear(transport)[0].exit_code == 0
