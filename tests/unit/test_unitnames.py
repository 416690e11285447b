"""Unit names and patterns."""

from __future__ import annotations

import pytest

from quantum_ess import unitnames


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a*", "*b", True),
        ("a*", "b*", False),
        ("a?", "a[!b]", True),
        ("a[bc]", "a[d-f]", False),
        ("foo@*.service", "foo@a?.service", True),
        ("a", "a", True),
        ("*", "", True),
        ("?", "", False),
    ],
)
def test_overlap(one: str, other: str, both: bool) -> None:
    assert unitnames.overlap(one, other) is both
    assert unitnames.overlap(other, one) is both
