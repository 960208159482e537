import pytest

from bench.soak.memory import growth, parse_high_water
from bench.support.figures import percentile, ratio, slope, spread
from bench.support.report import command_line, replace_section, table


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 50.0), (99, 99.0), (99.1, 100.0), (100, 100.0)])
def test_percentile_is_a_value_that_occurred(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_percentile_of_one_value() -> None:
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_spread_is_half_the_range_over_the_median() -> None:
    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.15)
    assert spread([5.0]) == 0.0
    assert spread([0.0, 0.0]) == 0.0


def test_slope() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)
    assert slope([(3, 5), (3, 9)]) == 0.0
    assert slope([(0, 1)]) == 0.0


def test_ratio_needs_a_base() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(3.0, None) is None
    assert ratio(3.0, 0.0) is None


def test_growth_ignores_the_warm_up() -> None:
    flat = growth([(float(t), min(t, 20) * 1000) for t in range(101)])
    assert flat.grown_bytes == pytest.approx(0)
    leak = growth([(float(t), t * 1000) for t in range(101)])
    assert leak.slope_bytes_per_s == pytest.approx(1000)
    assert leak.grown_bytes == pytest.approx(75_000)


def test_high_water_mark() -> None:
    assert parse_high_water("Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  300 kB\nVmRSS:\t 200 kB\n") == 300 * 1024


def test_table_aligns_and_escapes() -> None:
    text = table(["name", "value"], [["a|b", "1"], ["c", "1,000"]])
    assert text.splitlines() == [
        "| name | value |",
        "| ---- | ----: |",
        "| a\\|b |     1 |",
        "| c    | 1,000 |",
    ]


def test_sections_are_replaced_in_place() -> None:
    text = replace_section("", "load", "old load")
    assert text.startswith("# Benchmark results")
    text = replace_section(text, "scale", "the scale")
    changed = replace_section(text, "load", "new load\n")
    assert "old load" not in changed
    assert changed.index("new load") < changed.index("the scale")
    assert replace_section(changed, "load", "new load") == changed


def test_command_line_names_no_folder() -> None:
    line = command_line("bench.load", ["--quick", "--peers-dir", "/home/me/bin", "--json=/home/me/raw.json", "a b"])
    assert line == "python -m bench.load --quick --peers-dir bin --json=raw.json 'a b'"
    assert command_line("bench.load", []) == "python -m bench.load"
