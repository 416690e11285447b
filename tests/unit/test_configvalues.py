"""Values: time spans as systemd.time(7) has them."""

from __future__ import annotations

import pytest

from quantum_ess import configvalues


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("10 s", 10),
        ("500ms", 0.5),
        ("2min 30s", 150),
        ("2min30", 150),
        ("1h1m", 3660),
        ("3us", 3e-6),
        ("1M", 2629800),
    ],
)
def test_time_spans(text: str, seconds: float) -> None:
    assert configvalues.seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1x", "s", "1 2x", "infinity", "nan", "1e3", "\u0661"])
def test_not_time_spans(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time span"):
        configvalues.seconds_of(text)
