# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The formulas of costs against printed figures, and what must hold of all alternatives."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu import errors
from remotegpu.cost import alternatives, crossings, formulas, prices
from remotegpu.cost.alternatives import ALTERNATIVES
from remotegpu.cost.prices import Prices
from remotegpu.cost.workload import Workload

TABLE = prices.packaged()
TEXT = Path(prices.__file__).with_name("prices.toml").read_text("utf-8")
# Of the thesis: AWS printed the price of a GB-s with so many digits, and that of a millisecond at 512 MB.
THESIS_GB_SECOND, THESIS_MS_512 = 0.00001667, 0.0000000083
CENT = 0.005
# Only functions and GPUs, nothing free, no cold starts, and never more than one GPU.
PLAIN = Workload(
    cold_start_share=0, free_tier=False, gpu_seconds=1e-6, remote_seconds=1, remote_memory_mb=256, cpu_init_seconds=0
)


def with_price(name: str, value: float) -> Prices:
    """The packaged table with another number."""
    return replace(TABLE, entries={**TABLE.entries, name: replace(TABLE.entries[name], value=value)})


def annex(runs: float, seconds: float, memory_gb: float, request: float) -> float:
    """The formula as the annex of the thesis prints it."""
    return (runs * seconds * memory_gb - 400_000) * THESIS_GB_SECOND + (runs - 1_000_000) * request


def function_usd(runs: float, seconds: float, table: Prices, *, free_tier: bool = True) -> float:
    """A function of 512 MB without cold starts."""
    used = formulas.gb_seconds(runs, seconds, 512)
    return formulas.duration_usd(used, table, free_tier=free_tier) + formulas.requests_usd(
        runs, table, free_tier=free_tier
    )


@pytest.mark.parametrize(("seconds", "printed", "exact"), [(1, 18.74, 18.73), (900, 22_498.23, 22_493.78)])
def test_functions_of_the_thesis(seconds: float, printed: float, exact: float) -> None:
    assert function_usd(3e6, seconds, with_price("lambda.duration", THESIS_GB_SECOND)) == pytest.approx(
        printed, abs=CENT
    )
    assert function_usd(3e6, seconds, TABLE) == pytest.approx(exact, abs=CENT)


def test_the_formula_of_the_annex_bills_requests_a_million_times_and_goes_below_zero() -> None:
    thesis = with_price("lambda.duration", THESIS_GB_SECOND)
    assert annex(3e6, 1, 0.5, 0.20) == pytest.approx(400_018.34, abs=CENT)
    assert annex(3e6, 1, 0.5, 0.20 / 1e6) == pytest.approx(18.74, abs=CENT)
    assert annex(1e5, 1, 0.5, 0.20 / 1e6) == pytest.approx(-6.01, abs=CENT)
    assert function_usd(1e5, 1, thesis) == 0
    # One term below the free amount does not pay for the other.
    assert annex(5e5, 10, 0.5, 0.20 / 1e6) == pytest.approx(34.91, abs=CENT)
    assert function_usd(5e5, 10, thesis) == pytest.approx(35.01, abs=CENT)


@pytest.mark.parametrize(("hours", "usd"), [(24 * 30, 239.616), (730, 242.944)])
def test_machine_of_the_thesis(hours: float, usd: float) -> None:
    assert formulas.machine_usd(TABLE.machines["t3.2xlarge"], 1, hours) == pytest.approx(usd)


def test_table_1_of_the_thesis() -> None:
    """USD per million runs: on EC2 the price of an hour by the seconds of a run, in a function the price of a
    millisecond by the milliseconds. Nothing is free there, and requests are left out."""
    assert formulas.machine_usd(TABLE.machines["p2.xlarge"], 1, 1e6 * 16.58 / 3600) == pytest.approx(4145.00, abs=CENT)
    assert pytest.approx(137.61, abs=CENT) == 1e6 * 16_580 * THESIS_MS_512
    # The two other rows are billed at one rate, 0.28 % above that price and 0.12 % below the price of a GB-s.
    rates = [usd / (1e6 * seconds * 0.5) for usd, seconds in ((740.44, 88.96), (6770.82, 813.48))]
    assert rates == pytest.approx([1.66466e-5] * 2, rel=1e-5)
    # What the same runs are billed, requests included.
    for seconds, printed, corrected in ((16.58, 137.61, 138.37), (88.96, 740.44, 741.53), (813.48, 6770.82, 6779.21)):
        ours = function_usd(1e6, seconds, TABLE, free_tier=False)
        assert ours == pytest.approx(corrected, abs=CENT)
        assert ours == pytest.approx(printed, rel=0.006)


CPU_MEMORIES = (512, 1769, 3008)
CROSSINGS = {
    "g4dn.xlarge": (520_900, 150_200, 88_200),
    "g6.xlarge": (797_000, 229_700, 135_000),
    "g6f.large": (200_000, 57_700, 33_900),
    "g5.xlarge": (996_200, 287_200, 168_800),
    "p3.2xlarge": (3_030_000, 873_500, 513_400),
}


def crossing_with_gpu(gpu: str, memory: float, seconds: float) -> float:
    workload = replace(PLAIN, cpu_seconds=seconds, cpu_memory_mb=memory, gpu=gpu)
    costs = alternatives.totals(workload, TABLE)
    pair = {name: costs[name] for name in ("lambda-cpu", "lambda-gpu")}
    (found,) = crossings.crossings(pair)
    assert (found.cheaper, found.step) == ("lambda-gpu", False)
    # In closed form: what the GPU costs, by what a picture saves.
    saved = formulas.gb_seconds(1, seconds, memory) - formulas.gb_seconds(1, 1, 256)
    hours = TABLE.machines[gpu].usd_per_hour * 730
    assert found.images == pytest.approx(hours / (saved * TABLE["lambda.duration"]), rel=1e-6)
    return found.images


@pytest.mark.parametrize(
    ("gpu", "memory", "images"),
    [(gpu, memory, at) for gpu, row in CROSSINGS.items() for memory, at in zip(CPU_MEMORIES, row, strict=True)],
)
def test_crossings_of_a_slow_function(gpu: str, memory: float, images: float) -> None:
    assert crossing_with_gpu(gpu, memory, 88.96) == pytest.approx(images, rel=2e-3)


@pytest.mark.parametrize(
    ("gpu", "noted", "images"),
    [("g4dn.xlarge", 3.5e6, 3.669e6), ("g6.xlarge", 5.4e6, 5.613e6), ("g6f.large", 1.4e6, 1.409e6)],
)
def test_crossings_of_a_fast_function(gpu: str, noted: float, images: float) -> None:
    """The rounded figures that were noted before leave out what the calling function itself costs."""
    found = crossing_with_gpu(gpu, 1769, 3.78)
    assert found == pytest.approx(images, rel=1e-3)
    alone = TABLE.machines[gpu].usd_per_hour * 730 / function_picture_usd(3.78, 1769)
    assert alone == pytest.approx(noted, rel=0.04)
    assert alone < found


def function_picture_usd(seconds: float, memory: float) -> float:
    return formulas.gb_seconds(1, seconds, memory) * TABLE["lambda.duration"] + TABLE["lambda.requests"] / 1e6


def test_where_other_ways_break_even() -> None:
    busy = formulas.gb_seconds(1, 3600, 1769) * TABLE["lambda.duration"]
    task = formulas.fargate_hour_usd(1, 2, TABLE)
    assert [busy, task] == pytest.approx([0.1037, 0.0494], abs=5e-5)
    assert task / busy == pytest.approx(0.48, abs=0.005)
    on_demand, ready, running = (
        TABLE[f"lambda.{name}"] for name in ("duration", "provisioned", "provisioned_duration")
    )
    assert ready / (on_demand - running) == pytest.approx(0.60, abs=0.005)
    assert formulas.gb_seconds(1, 3600, 256) * on_demand == pytest.approx(0.015, abs=5e-5)


def test_durations_have_tiers_and_a_free_amount() -> None:
    assert formulas.duration_usd(399_999, TABLE) == 0
    assert formulas.duration_usd(400_001, TABLE) == pytest.approx(0.0000166667)
    first, second = 6e9 * 0.0000166667, 9e9 * 0.000015
    assert formulas.duration_usd(16e9, TABLE, free_tier=False) == pytest.approx(first + second + 1e9 * 0.0000133334)
    late = with_price("lambda.free_duration", 7e9)
    assert formulas.duration_usd(8e9, late) == pytest.approx(1e9 * 0.000015)


def test_init_is_billed_as_duration() -> None:
    quick = Workload(cold_start_share=0, free_tier=False)
    slow = replace(quick, cold_start_share=0.1, cpu_init_seconds=3)
    cold = alternatives.lambda_cpu(slow, TABLE).total - alternatives.lambda_cpu(quick, TABLE).total
    assert cold == pytest.approx(1e6 * 0.1 * 3 * 0.5 * 0.0000166667)
    assert alternatives.lambda_cpu(slow, TABLE).init == pytest.approx(cold)


def test_network_queue_and_bucket() -> None:
    workload = Workload(images_per_month=2e6, image_bytes=1e6)
    bills = {network: alternatives.lambda_gpu(replace(workload, network=network), TABLE) for network in ("vpc", "nat")}
    out = alternatives.lambda_gpu(replace(workload, network="internet"), TABLE)
    assert [bills["vpc"].network, out.network] == pytest.approx([0, 1_900 * 0.09])
    assert bills["nat"].network == pytest.approx(1_900 * 0.09 + 730 * 0.045 + 2_000 * 0.045)
    shared = alternatives.lambda_shared_gpu(replace(workload, network="nat"), TABLE)
    assert shared.network == pytest.approx(1_900 * 0.09 + 730 * 0.045 / 4 + 2_000 * 0.045)
    assert out.queue == pytest.approx((3 * 2 - 1) * 0.40 + 2 * 2_000 * 0.005 + 2_000 * 0.0004)


def test_gpus_are_added_when_they_are_full_and_idle_ones_are_paid() -> None:
    full = formulas.SECONDS_PER_MONTH * 0.6 / 0.23
    workload = Workload(images_per_month=full, functions=3)
    one = alternatives.lambda_gpu(workload, TABLE)
    assert [one.count, one.busy / (one.busy + one.idle)] == pytest.approx([1, 0.6])
    assert one.busy + one.idle == pytest.approx(730 * 0.8048)
    two = alternatives.lambda_gpu(replace(workload, images_per_month=full * 1.001), TABLE)
    assert [two.count, two.busy + two.idle] == pytest.approx([2, 2 * 730 * 0.8048])
    shared = alternatives.lambda_shared_gpu(workload, TABLE)
    assert [shared.count, shared.busy + shared.idle] == pytest.approx([3, 730 * 0.8048])
    assert alternatives.lambda_gpu(replace(workload, gpus=5), TABLE).count == 5


def test_spot_hours_and_surplus_credits() -> None:
    workload = Workload(spot_share=0.5)
    gpu = alternatives.lambda_gpu(workload, TABLE)
    assert gpu.busy + gpu.idle == pytest.approx(730 * (0.8048 + 0.422) / 2)
    task = alternatives.fargate(workload, TABLE)
    assert task.busy + task.idle == pytest.approx(2 * 730 * ((0.04048 + 0.01291) / 2 + 0.004445 + 0.001418))
    with pytest.raises(errors.InvalidInput, match=r"a table with machines\.t3\.medium"):
        alternatives.bills(workload, replace(TABLE, machines={"g6.xlarge": TABLE.machines["g6.xlarge"]}))
    with pytest.raises(errors.InvalidInput, match=r"no spot price for it; machines with one: g6\.xlarge"):
        alternatives.bills(replace(workload, gpu="g5.xlarge"), TABLE)
    # 3 machines × 2 processors, of which 20 % are covered, at 60 %.
    seconds = 3 * 2 * 0.6 * formulas.SECONDS_PER_MONTH
    surplus = formulas.surplus_usd(TABLE.machines["t3.medium"], 3, seconds, TABLE)
    assert surplus == pytest.approx(3 * 2 * (0.6 - 0.2) * 730 * 0.05)
    assert formulas.surplus_usd(TABLE.machines["g6.xlarge"], 1, seconds, TABLE) == 0


def test_provisioned_instances_and_their_control_plane() -> None:
    workload = Workload(images_per_month=1e6, cpu_seconds=10, cpu_memory_mb=1024, utilisation=0.5)
    bill = alternatives.lambda_provisioned(workload, TABLE)
    assert bill.count == 8  # 1e7 s of work by 2,628,000 s × 0.5
    assert bill.busy + bill.idle == pytest.approx(8 * 2_628_000 * 0.0000041667)
    assert bill.run == pytest.approx(1e7 * 0.0000097222 + 0.20)
    own = alternatives.kubernetes(workload, TABLE).total - alternatives.pods(workload, TABLE).total
    assert own == pytest.approx(73)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    def number(least: float, greatest: float) -> float:
        return draw(st.floats(least, greatest))

    return Workload(
        images_per_month=10 ** number(0, 10),
        cpu_seconds=number(0.01, 900),
        cpu_memory_mb=draw(st.integers(128, 10_240)),
        remote_seconds=number(0.01, 100),
        remote_memory_mb=draw(st.integers(128, 10_240)),
        cold_start_share=number(0, 1),
        gpu=draw(st.sampled_from([machine.name for machine in TABLE.machines.values() if machine.gpu])),
        gpus=draw(st.integers(1, 8)),
        gpu_seconds=number(0.001, 100),
        functions=draw(st.integers(1, 20)),
        utilisation=number(0.05, 1),
        image_bytes=number(0, 1e8),
        network=draw(st.sampled_from(["vpc", "nat", "internet"])),
        free_tier=draw(st.booleans()),
    )


@given(workloads(), st.floats(1, 100))
@settings(max_examples=200, deadline=None)
def test_costs_grow_with_images_and_no_part_is_negative(workload: Workload, factor: float) -> None:
    more = replace(workload, images_per_month=min(workload.images_per_month * factor, 1e10))
    for alternative in ALTERNATIVES:
        less_bill, more_bill = (alternative.bill(each, TABLE) for each in (workload, more))
        assert less_bill.total <= more_bill.total * (1 + 1e-9), alternative.name
        parts = (more_bill.run, more_bill.init, more_bill.busy, more_bill.idle, more_bill.network, more_bill.queue)
        assert min(parts) >= -1e-9 * more_bill.total, alternative.name


@given(workloads())
@settings(max_examples=100, deadline=None)
def test_sharing_gpus_never_costs_more_than_having_them(workload: Workload) -> None:
    own, shared = (bill(workload, TABLE).total for bill in (alternatives.lambda_gpu, alternatives.lambda_shared_gpu))
    assert shared <= own * (1 + 1e-9)
    alone = alternatives.lambda_shared_gpu(replace(workload, functions=1), TABLE)
    assert alone.total == pytest.approx(own)


@given(workloads())
@settings(max_examples=20, deadline=None)
def test_both_sides_are_equal_at_a_crossing_or_one_jumps(workload: Workload) -> None:
    costs = alternatives.totals(workload, TABLE)
    places = crossings.grid()[::8]
    found = crossings.crossings(costs, places)
    for each in found:
        cheaper, dearer = costs[each.cheaper], costs[each.dearer]
        assert cheaper(each.images) == each.usd
        if each.step:
            assert cheaper(each.images * (1 - 1e-9)) > dearer(each.images * (1 - 1e-9))
            assert cheaper(each.images * (1 + 1e-9)) < dearer(each.images * (1 + 1e-9))
        else:
            assert cheaper(each.images) == pytest.approx(dearer(each.images), rel=1e-8)
    for first, second in itertools.pairwise(crossings.reigns(costs, places)):
        assert costs[second.name](second.images) <= costs[first.name](second.images) * (1 + 1e-9)


@given(st.floats(0, 1e4), st.floats(1e-6, 1e-2), st.floats(1.5, 1e3), st.floats(1.01, 1e3))
@settings(max_examples=100, deadline=None)
def test_two_straight_costs_cross_where_algebra_says(fixed: float, each: float, dearer: float, more: float) -> None:
    fixed = max(fixed, each * 10)
    costs = {"line": lambda images: images * each * dearer, "flat": lambda images: fixed * more + images * each}
    at = fixed * more / (each * (dearer - 1))
    found = crossings.crossings(costs)
    if crossings.LEAST * 1.01 < at < crossings.GREATEST / 1.01:
        assert [(crossing.cheaper, crossing.step) for crossing in found] == [("flat", False)]
        assert found[0].images == pytest.approx(at, rel=1e-9)
        assert [reign.name for reign in crossings.reigns(costs)] == ["line", "flat"]


def test_equal_costs_do_not_cross() -> None:
    costs = {"one": lambda images: images + 1.0, "same": lambda images: images + 1.0}
    assert crossings.crossings(costs) == []
    assert crossings.reigns(costs) == [crossings.Reign("one", 1.0)]
    # One that is only caught up with stays the least.
    costs = {"late": lambda images: max(images, 100.0), "early": lambda images: images}
    assert crossings.reigns(costs) == [crossings.Reign("early", 1.0)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images_per_month", 0.5),
        ("cpu_seconds", 0),
        ("cpu_seconds", 901),
        ("cpu_memory_mb", 127),
        ("cpu_memory_mb", 512.5),
        ("utilisation", 0),
        ("utilisation", float("nan")),
        ("spot_share", 1.1),
        ("gpus", 0),
        ("network", "pigeon"),
    ],
)
def test_numbers_out_of_their_limits_are_refused(field: str, value: object) -> None:
    with pytest.raises(errors.InvalidInput) as raised:
        Workload(**{field: value})  # type: ignore[arg-type]
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            'unit = "USD per million requests"',
            'unit = "USD per request"',
            r"lambda\.requests\.unit must be 'USD per m",
        ),
        ("value = 0.0000166667", "value = -1", r"lambda\.duration\.value must be a number of at least 0; it is -1"),
        ("value = 0.0000166667", "value = inf", r"lambda\.duration\.value must be a number"),
        ("value = 0.0000166667", "", r"lambda\.duration\.value is missing"),
        ("as_of = 2026-09-19", 'as_of = "today"', r"lambda\.duration\.as_of must be a date"),
        ('origin = "aws"', 'origin = "hearsay"', r"origin must be one of 'aws', 'second hand', 'memory'"),
        ("[s3.gets]", "[s3.lists]", r"s3\.gets is missing"),
        ("vcpus = 4", "vcpus = 0", r"machines\.g4dn\.xlarge must have vcpus above 0"),
        ("value = 15e9", "value = 5e9", r"lambda\.third_tier_from must not be less"),
        ('region = "us-east-1"', 'region = ""', "region must be a text"),
        ("region =", "region", "is not TOML"),
    ],
)
def test_a_bad_table_is_refused_by_name(old: str, new: str, why: str) -> None:
    assert old in TEXT
    with pytest.raises(errors.ConfigurationError, match=f"^--prices: mine.toml:? .*{why}"):
        prices.parse(TEXT.replace(old, new, 1), "mine.toml")


def test_every_price_of_the_table_is_used_or_known() -> None:
    named = set(re.findall(r"^\[((?:lambda|fargate|kubernetes|ec2|network|sqs|s3)\.\w+)\]", TEXT, re.MULTILINE))
    assert named == set(prices.UNITS)
    plain = alternatives.doubtful(Workload(), TABLE)
    assert "s3.puts" in plain
    assert not {"fargate.spot_vcpu", "machines.g6.xlarge.spot", "lambda.duration"} & set(plain)
    spot = alternatives.doubtful(Workload(spot_share=0.5), TABLE)
    assert set(spot) - set(plain) == {"fargate.spot_vcpu", "fargate.spot_memory", "machines.g6.xlarge.spot"}
