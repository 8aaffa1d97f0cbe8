"""Samples and what is said of them: interleaved rounds, medians, ratios. Pure but for the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

Samples = dict[str, list[float]]


def interleave(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Let the contenders take turns, A B A B, so that what else the machine does meets all alike."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, sample in contenders.items():
            results[name].append(sample())
    return results


def clock(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def median(samples: list[float]) -> float:
    """The middle one; of an even number the mean of the two in the middle."""
    return statistics.median(samples)


def spread(samples: list[float]) -> float:
    """Largest less smallest, as a part of the median: how far the figure can be trusted."""
    middle = median(samples)
    return (max(samples) - min(samples)) / middle if middle else 0.0
