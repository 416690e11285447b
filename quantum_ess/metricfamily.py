"""Families of metrics and their samples, by prometheus_client.

What is not known has no sample: an absent file means an absent metric, never a made-up 0.
"""

from __future__ import annotations

from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

PREFIX = "quantum_ess_"
LONGEST_LABEL = 120  # characters of a reason

Labels = dict[str, str]
Samples = list[tuple[Labels, float]]
Document = dict[str, Any]


def gauge(name: str, text: str, samples: Samples) -> Metric:
    """A gauge with these samples."""
    family = GaugeMetricFamily(PREFIX + name, text)
    for labels, value in samples:
        family.add_sample(PREFIX + name, labels, float(value))
    return family


def counter(name: str, text: str, samples: Samples) -> Metric:
    """A counter with these samples; its name without `_total`."""
    family = CounterMetricFamily(PREFIX + name, text)
    for labels, value in samples:
        family.add_sample(f"{PREFIX}{name}_total", labels, float(value))
    return family


def histogram(
    name: str, text: str, bounds: tuple[float, ...], labels: Labels, values: list[float]
) -> Metric:
    """A histogram of these values."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=list(labels))
    buckets = [(str(bound), sum(v <= bound for v in values)) for bound in bounds]
    buckets.append(("+Inf", len(values)))
    family.add_metric(list(labels.values()), buckets, sum(values))
    return family


def short(text: str) -> str:
    """A text as a label: one line, and not too much of it."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def number(value: object) -> float | None:
    """That value if it is a number, also an infinite one; None if it is not."""
    return float(value) if isinstance(value, int | float) and value == value else None
