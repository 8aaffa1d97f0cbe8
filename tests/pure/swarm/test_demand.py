"""What readers want of a task, and what they wait for."""

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.demand import AHEAD, Demand, rate_of, urgent, wanted
from cafs.core.swarm.layout import Bitmap, Layout

MIB = 1 << 20
demands = st.lists(
    st.builds(
        Demand,
        st.integers(0, 12 * MIB),
        st.none() | st.integers(0, 12 * MIB),
        at_byte=st.integers(0, 12 * MIB),
        waits=st.booleans(),
    ),
    max_size=4,
)


@given(demands, st.integers(0, 11 * MIB), st.integers(0, 2047).map(Bitmap))
def test_nothing_is_wanted_that_nobody_wants(given_demands: list[Demand], size: int, have: Bitmap) -> None:
    layout = Layout(size, MIB)
    count = layout.count
    assert count is not None
    all_wanted = wanted(given_demands, layout)
    for number in range(count + 2):
        first, last = number * MIB, min((number + 1) * MIB, size) - 1
        anybody = any(
            d.first_byte <= last
            and (d.last_byte is None or (d.last_byte >= first and d.last_byte >= d.first_byte))
            for d in given_demands
        )
        assert (number in all_wanted) == (anybody and number < count)
    waited_for = urgent(given_demands, layout, have)
    assert len(waited_for) == len(set(waited_for)) <= AHEAD * len(given_demands)
    assert all(number in all_wanted and number not in have for number in waited_for)


def test_what_a_reader_waits_for_comes_before_what_another_will_want_next() -> None:
    layout = Layout(20 * MIB, MIB)
    two = [Demand(at_byte=2 * MIB), Demand(10 * MIB, at_byte=0)]
    assert urgent(two, layout, Bitmap())[:2] == [2, 10]
    assert urgent(two, layout, Bitmap.of([2]))[0] == 10
    assert not urgent([Demand(waits=False)], layout, Bitmap())


def test_a_length_that_is_not_known() -> None:
    layout = Layout(None, MIB)
    assert not len(wanted([Demand()], layout))
    assert list(wanted([Demand(MIB, 3 * MIB)], layout)) == [1, 2, 3]
    assert Demand().is_whole()
    assert not Demand(0, 5).is_whole()


def test_it_comes_as_fast_as_the_fastest_wants_it() -> None:
    slow, slower, fast = Demand(bytes_per_s=20), Demand(bytes_per_s=10), Demand()
    assert rate_of([slower, slow]) == 20
    assert rate_of([slower, fast, slow]) == 0
    assert rate_of([]) == 0
