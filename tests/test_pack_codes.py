"""Codes of weights against decoders written here from the published format, and against TFLM's own examples."""

import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecomp.pack._codes import huffman, lut_by_channel, lut_shared, pack_indices, prune, value_counts
from edgecomp.pack._huffman import HuffmanCode, coded_bits
from edgecomp.pack.size import huffman_bits

HEADER = 16


def bits_of(data):
    return "".join(f"{byte:08b}" for byte in data)


def decode_lut(code, shape, axis, channels):
    """Type 0 as decode_state_lut.cc reads it: the table moves on by the stride at each channel."""
    assert code.ancillary[:2] == bytes([0, 1])
    assert code.ancillary[4] == 1
    bits, stride = code.ancillary[5] & 7, code.ancillary[6]
    stream = bits_of(code.encoded)
    values = np.empty(shape, np.int8)
    for number, where in enumerate(np.ndindex(shape)):
        index = int(stream[number * bits : (number + 1) * bits], 2)
        channel = where[axis] if channels > 1 else 0
        values[where] = np.int8(np.uint8(code.ancillary[HEADER + channel * stride + index]).view(np.int8))
    return values


def decode_huffman(code, count):
    """Type 1 as decode_state_huffman.cc reads it, in 16-bit entries; an error where it would read past the stream."""
    assert code.ancillary[:2] == bytes([1, 1])
    assert code.ancillary[5] & 1 == 0  # Entries of 16 bits.
    entries = [entry for (entry,) in struct.iter_unpack("<H", code.ancillary[HEADER:])]
    stream, position, values = bits_of(code.encoded), 0, []
    for _ in range(count):
        width = (code.ancillary[5] >> 4) + 1
        place = 0
        while True:
            assert position + width <= len(stream)
            place += int(stream[position : position + width], 2)
            position += width
            entry = entries[place]
            if entry & 0x8000:
                break
            width = ((entry & 0x7800) >> 11) + 1
            place += entry & 0x07FF
        position -= width - ((entry & 0x7800) >> 11)
        values.append(np.uint8(entry & 0xFF).view(np.int8))
    return np.array(values, np.int8)


def decode_prune(code, count):
    """Type 2: a bit for each value, set where it is the next of those listed; else it is zero."""
    assert code.ancillary[:2] == bytes([2, 1])
    rest = iter(np.frombuffer(code.ancillary[HEADER:], np.int8))
    return np.array([next(rest) if bit == "1" else 0 for bit in bits_of(code.encoded)[:count]], np.int8)


weights = st.integers(1, 128).flatmap(
    lambda levels: st.lists(st.integers(-64, levels - 65), min_size=1, max_size=200).map(
        lambda items: np.array(items, np.int8)
    )
)


def test_indices_lie_as_in_the_documentation():
    """tflite-micro, docs/compression.md: 7, 0, 3, 2 in 3 bits are 1110000110100000."""
    assert pack_indices(np.array([7, 0, 3, 2]), 3) == bytes([0b11100001, 0b10100000])
    # And 1 3 3 2 4 5 0 2 1 3 in 3 bits, 30 of 32.
    stream = pack_indices(np.array([1, 3, 3, 2, 4, 5, 0, 2, 1, 3]), 3)
    assert bits_of(stream)[:30] == "001011011010100101000010001011"


def test_header_of_a_lut():
    """Type, version, two reserved, version of the kind, axis and bits, values of a table, nine reserved; the tables."""
    values = np.array([[1, 2, 3], [9, 9, 7]], np.int8)
    code = lut_by_channel(values, 0)
    assert code.ancillary[:16] == bytes([0, 1, 0, 0, 1, 0 << 4 | 2, 3]) + bytes(9)
    # Channel 1 has two values: its table is the last, so nothing fills it up.
    assert code.ancillary[16:] == bytes([1, 2, 3, 7, 9])
    assert code.encoded == bytes([0b00_01_10_01, 0b01_00_0000])
    assert (code.bits, code.tables) == (2, 2)


def test_a_shared_table_never_moves_on():
    """The decoder steps by the stride at each channel; 15 in place of an axis says one table."""
    values = np.array([[5, -5], [-5, 5]], np.int8)
    assert lut_shared(values, channels=2).ancillary[5:7] == bytes([15 << 4 | 1, 0])
    assert lut_shared(values, channels=1).ancillary[5:7] == bytes([15 << 4 | 1, 2])


@pytest.mark.parametrize("axis", [0, 3], ids=["first", "last"])
@pytest.mark.parametrize("levels", [1, 2, 3, 8, 9, 16, 100, 128])
def test_lut_comes_back(axis, levels):
    rng = np.random.default_rng(levels)
    shape = (5, 3, 2, 40) if axis == 0 else (1, 40, 7, 5)
    values = rng.integers(-levels // 2, (levels + 1) // 2, shape).astype(np.int8)
    channels = shape[axis]
    by_channel, shared = lut_by_channel(values, axis), lut_shared(values, channels)
    assert np.array_equal(decode_lut(by_channel, shape, axis, channels), values)
    assert np.array_equal(decode_lut(shared, shape, axis, channels), values)
    assert len(shared.encoded) == -(-values.size * max(int(np.ceil(np.log2(levels))), 1) // 8)


def test_more_than_128_values_are_no_lut():
    values = np.arange(129, dtype=np.int16).astype(np.int8).reshape(1, 129)
    assert lut_by_channel(values, 0) is None
    assert lut_shared(values, 1) is None
    assert lut_by_channel(values[:, :128], 0).bits == 7


@settings(max_examples=60, deadline=None)
@given(weights)
def test_any_tensor_comes_back_from_any_code(values):
    assert np.array_equal(decode_prune(prune(values), len(values)), values)
    assert np.array_equal(decode_huffman(huffman([values])[0], len(values)), values)
    assert np.array_equal(decode_lut(lut_shared(values, 1), values.shape, 0, 1), values)


def test_huffman_of_words_longer_than_a_lookup():
    """Counts like Fibonacci's numbers make the deepest trees: words of more than 15 bits, lookups of at most 15."""
    counts = [1, 1]
    while len(counts) < 20:
        counts.append(counts[-1] + counts[-2])
    values = np.repeat(np.arange(20, dtype=np.int8), counts)
    code = huffman([values])[0]
    assert max(len(word) for word, _ in HuffmanCode(value_counts(values))._words.values()) == 19
    assert code.ancillary[5] >> 4 <= 14
    assert np.array_equal(decode_huffman(code, len(values)), values)


@pytest.mark.parametrize("deviation", [0.4, 2, 5, 20, 60])
def test_huffman_is_within_its_bound(deviation):
    """Shannon: entropy <= average length < entropy + 1; all 256 values at most with the widest."""
    values = np.clip(np.round(np.random.default_rng(0).normal(0, deviation, 20_000)), -128, 127).astype(np.int8)
    counts = value_counts(values)
    share = np.array(list(counts.values())) / values.size
    entropy = -(share * np.log2(share)).sum()
    code = huffman([values])[0]
    assert entropy <= huffman_bits(counts) < entropy + 1
    # The stream ends in a whole word of 32 bits, and may need one more for the last lookup.
    assert 0 <= len(code.encoded) - coded_bits(counts) / 8 <= 8
    assert np.array_equal(decode_huffman(code, values.size), values)


def test_lookup_tables_are_the_smallest():
    """Eight values of equal count: one table of 3 bits has 8 entries, three levels of single bits would have 14."""
    code = HuffmanCode(Counter(dict.fromkeys(range(8), 10)))
    assert (code.first_lookup_bits, len(code.tables())) == (3, 16)
    # A chain of three branches: 2 entries for each, or 4 and 2 with two bits first.
    chain = HuffmanCode(Counter({0: 8, 1: 4, 2: 2, 3: 1}))
    assert len(chain.tables()) == 2 * 6


def test_common_table_for_several_tensors():
    left, right = np.array([1, 1, 2, 3], np.int8), np.array([3, 3, 3, 1, 2, 2], np.int8)
    codes = huffman([left, right])
    assert codes[0].ancillary == codes[1].ancillary
    for code, values in zip(codes, (left, right), strict=True):
        assert np.array_equal(decode_huffman(code, values.size), values)


def test_same_values_same_code():
    values = np.array([3, -1, -1, 7, 7, 0, 0, 0], np.int8)
    assert huffman([values]) == huffman([values.copy()])
