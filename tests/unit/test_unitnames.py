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


@pytest.mark.parametrize(
    ("outer", "inner", "all_of_it"),
    [
        ("a*.service", "ab*.service", True),
        ("a*.service", "a?.service", True),
        ("a-[!x]*.service", "a-*.service", False),
        ("a-*.service", "a-[!x]*.service", True),
        ("a-?.service", "a-*.service", False),
        ("*b*.service", "a*b.service", True),
        ("*b*.service", "a*.service", False),
        ("a[bc]*.service", "a[b-d].service", False),
        ("a[b-d]*.service", "a[bc].service", True),
        ("*-*.service", "a*-b*.service", True),
        ("ab.service", "a?.service", False),
    ],
)
def test_a_pattern_in_another(outer: str, inner: str, all_of_it: bool) -> None:
    assert unitnames.matches(outer, inner) is all_of_it
