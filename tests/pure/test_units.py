import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cli.units import format_count, format_duration, format_rate, format_size, parse_size
from cafs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64k", 65536),
        ("1.5 MiB", 1572864),
        ("20GiB", 20 << 30),
        ("2 KB", 2000),
        ("7b", 7),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1e9", "10 pears", "1.2.3", "5i", "5Gi", "0x10", "9" * 20 + "Q"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (10235, "10.0 KiB"),
        (1 << 20, "1.00 MiB"),
        (1023 << 20, "1.00 GiB"),
        (123 << 30, "123 GiB"),
    ],
)
def test_sizes_are_written(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, 1 << 55))
def test_a_written_size_reads_back_within_its_digits(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.006, abs=0.5)


def test_rates_counts_and_durations() -> None:
    assert format_rate(1 << 20) == "1.00 MiB/s"
    assert [format_count(n, "entry", "entries") for n in (1, 5351)] == ["1 entry", "5,351 entries"]
    assert [format_duration(s) for s in (0.354, 42.4, 59.7, 187, 7509)] == [
        "0.35 s", "42 s", "1:00", "3:07", "2:05:09",
    ]  # fmt: skip
