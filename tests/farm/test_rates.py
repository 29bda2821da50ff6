"""Rates are of the last seconds, and stay right where counters began anew."""

from __future__ import annotations

from orchestrator.farm.plane import Traffic
from orchestrator.farm.rates import SPACING_S, WINDOW_S, Meter, Rates, Sample


def sample(at: float, since: float, packets: int, name: str = "web") -> Sample:
    return Sample(at, since, {name: Traffic(packets, 100 * packets, packets // 10)})


def learned(*samples: Sample) -> Meter:
    meter = Meter()
    for each in samples:
        meter = meter.learn(each)
    return meter


def test_the_first_sample_counts_from_when_the_rules_came() -> None:
    assert learned(sample(2.0, 0.0, 100)).rates(["web"]) == Rates(5.0, 50.0, 5000.0)


def test_of_less_than_half_a_second_nothing_is_said() -> None:
    assert learned(sample(0.4, 0.0, 100)).rates(["web"]) is None
    assert Meter().rates(["web"]) is None


def test_what_came_long_ago_counts_no_more() -> None:
    quiet = [sample(5.0 * number, 0.0, 10_000) for number in range(1, 9)]
    assert learned(*quiet).rates(["web"]) == Rates(0.0, 0.0, 0.0)
    meter = learned(*quiet, sample(45.0, 0.0, 10_500))
    rates = meter.rates(["web"])
    assert rates is not None
    assert rates.packets == 500 / (2 * WINDOW_S)


def test_rules_that_were_put_back_count_from_there() -> None:
    # A thousand a second; then somebody took the rules away, and there is more than before since.
    meter = learned(sample(1.0, 0.0, 1000), sample(5.0, 0.0, 5000), sample(25.0, 6.0, 9500))
    rates = meter.rates(["web"])
    assert rates is not None
    assert rates.packets == 500.0
    less = learned(sample(5.0, 0.0, 5000), sample(8.0, 6.0, 20)).rates(["web"])
    assert less is not None
    assert less.packets == 10.0


def test_counters_that_somebody_else_set_to_zero_are_compared_with_nothing() -> None:
    meter = learned(sample(5.0, 0.0, 5000), sample(6.0, 0.0, 10))
    assert meter.rates(["web"]) is None
    rates = meter.learn(sample(8.0, 0.0, 30)).rates(["web"])
    assert rates is not None
    assert rates.packets == 10.0


def test_services_are_told_together_and_alone() -> None:
    both = Sample(2.0, 0.0, {"web": Traffic(100), "dns": Traffic(300)})
    meter = Meter().learn(both)
    assert [meter.rates(names) for names in (["web"], ["dns"], ["web", "dns"])] == [
        Rates(0.0, 50.0, 0.0),
        Rates(0.0, 150.0, 0.0),
        Rates(0.0, 200.0, 0.0),
    ]


def test_somebody_who_looks_all_the_time_makes_no_long_list() -> None:
    meter = Meter()
    for number in range(5000):
        meter = meter.learn(sample(number / 100, 0.0, number))
    assert len(meter.samples) <= WINDOW_S / SPACING_S + 4
    rates = meter.rates(["web"])
    assert rates is not None
    assert round(rates.packets, 6) == 100.0
