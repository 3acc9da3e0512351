import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecomp.errors import UsageError
from edgecomp.units import Drop, format_bytes, parse_bytes, parse_drop, parse_ms


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("98496", 98_496),
        ("512KiB", 524_288),  # 512 * 1024
        ("1.5MB", 1_500_000),  # MB is 1e6
        ("1.5 MiB", 1_572_864),
        ("1_000 kB", 1_000_000),
        ("2gib", 2_147_483_648),
        ("0", 0),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1KiB", "1.5", "1e3", "12 parsecs", "0.3KiB", "1KiB2", "nan", "inf"])
def test_bad_sizes_say_what_they_got(text):
    with pytest.raises(UsageError, match=repr(text)[1:-1].replace("(", r"\(") or "got ''"):
        parse_bytes(text)


@given(st.integers(0, 2**45), st.sampled_from(["B", "KiB", "MiB", "kB", "MB"]))
def test_whole_numbers_of_any_unit_come_back(number, unit):
    factor = {"B": 1, "KiB": 1024, "MiB": 1024**2, "kB": 1000, "MB": 10**6}[unit]
    # Numbers beyond 2**53 are not exact as floats; no device has so many bytes.
    if number * factor < 2**53:
        assert parse_bytes(f"{number}{unit}") == number * factor


@given(st.integers(0, 2**45))
def test_a_printed_size_is_within_its_last_digit(size):
    text = format_bytes(size)
    number, unit = text.split()
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert abs(float(number) * factor - size) <= 0.0501 * factor


def test_printed_sizes():
    assert format_bytes(1023) == "1023 B"
    assert format_bytes(98_496) == "96.2 KiB"
    assert format_bytes(2 * 2**20) == "2.0 MiB"


@pytest.mark.parametrize(("text", "ms"), [("20ms", 20.0), ("1.5s", 1500.0), ("800us", 0.8), ("800µs", 0.8)])
def test_times(text, ms):
    assert parse_ms(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["20", "0ms", "-3ms", "20 m", "fast"])
def test_a_time_needs_a_unit_and_a_size(text):
    with pytest.raises(UsageError, match=text):
        parse_ms(text)


@pytest.mark.parametrize(
    ("text", "drop"), [("1pp", Drop(0.01)), ("0.5 pp", Drop(0.005)), ("2%", Drop(0.02, is_relative=True))]
)
def test_drops(text, drop):
    assert parse_drop(text) == drop


@pytest.mark.parametrize("text", ["1", "101pp", "1 point", "-1pp"])
def test_bad_drops(text):
    with pytest.raises(UsageError, match=text):
        parse_drop(text)
