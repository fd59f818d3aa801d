import pytest

from mmdpo.files import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cup,\n\tred — 图 ☕", "a cup,\n\tred — 图 ☕"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("one\rtwo\x00\x7f\x9b2J", "one\\rtwo\\x00\\x7f\\x9b2J"),
        ("half \ud83d of a pair", "half \\ud83d of a pair"),
    ],
)
def test_what_would_steer_a_terminal_or_cannot_be_encoded_is_written_out(text, shown):
    assert printable(text) == shown
    shown.encode()
