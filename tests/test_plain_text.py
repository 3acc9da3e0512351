"""Text from a device in a message: nothing that a terminal obeys gets through."""

import unicodedata

import pytest

from edgecomp.plain_text import one_line


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, é, 漢", "plain text, é, 漢"),
        ("a\nb\r\nc\td\x0be", "a b c d e"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07seen", "seen"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[H\x1bcgone", "gone"),
        ("\x1b", ""),
        ("\x9b31mred", "31mred"),  # The same sequence as one byte: harmless without it.
        ("safe\u202egnp.exe\u2066", "safe gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero width"),
        ("bell\x07 back\x08space\x00 del\x7f", "bell back space del"),
        ("half \ud800 pair", "half pair"),
        ("line\u2028end", "line end"),
        (b"\xff\xfe caf\xc3\xa9", "\ufffd\ufffd café"),
        (b"", ""),
    ],
)
def test_what_is_shown(raw, shown):
    assert one_line(raw) == shown


def test_every_character_of_unicode_is_harmless():
    text = one_line("".join(map(chr, range(0x110000))), most_chars=0x110000)
    assert len(text) > 100_000  # It is not simply all thrown away.
    assert {unicodedata.category(char) for char in text}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})


@pytest.mark.parametrize("raw", ["x" * 10**7, b"x" * 10**7, "\x1b]0;" * 10**6])
def test_length_is_bounded(raw):
    assert len(one_line(raw)) <= 400


def test_what_was_cut_off_shows():
    assert one_line("x" * 11, most_chars=10) == "x" * 9 + "…"
    assert one_line("x" * 10, most_chars=10) == "x" * 10
