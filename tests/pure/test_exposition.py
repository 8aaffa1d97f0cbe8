"""Prometheus text as its own parser reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cafs.core.exposition import Histogram, Labels, MetricsText

_VALUES = st.one_of(st.integers(0, 2**53), st.floats(0, 1e12))
_LABELS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20).map(
    lambda text: (("source", text),)
)


@given(st.dictionaries(_LABELS, _VALUES, max_size=5), _VALUES)
def test_every_value_and_label_is_read_back(samples: dict[Labels, float], plain: float) -> None:
    text = MetricsText("cafs_test")
    text.counter("bytes_total", "Bytes.", samples)
    text.gauge("layers", "Layers.", plain)
    counter, gauge = text_string_to_metric_families(text.render().decode())
    assert (counter.name, counter.type, counter.documentation) == ("cafs_test_bytes", "counter", "Bytes.")
    assert {sample.labels["source"]: sample.value for sample in counter.samples} == {
        labels[0][1]: value for labels, value in samples.items()
    }
    assert [(sample.name, sample.value) for sample in gauge.samples] == [("cafs_test_layers", plain)]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_what_is_up_to_each_bound(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.note(value)
    text = MetricsText("cafs_test")
    text.histogram("read_seconds", "Reads.", {(("kind", "a"),): histogram.copy()})
    (family,) = text_string_to_metric_families(text.render().decode())
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets == {
        "+Inf": len(values),
        **{bound: sum(value <= float(bound) for value in values) for bound in ("0.1", "1.0", "10.0")},
    }
    (total,) = [s.value for s in family.samples if s.name.endswith("_sum")]
    assert abs(total - sum(values)) < 1e-6
    assert [s.value for s in family.samples if s.name.endswith("_count")] == [len(values)]


def test_several_at_once() -> None:
    histogram = Histogram((1.0,))
    histogram.note(0.5, 3)
    assert (histogram.counts, histogram.total) == ([3, 0], 1.5)
