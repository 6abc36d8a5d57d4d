"""The reader of Prometheus' text: pages as servers write them, and waiting for what they say."""

from __future__ import annotations

import asyncio
import math
import urllib.error
from collections.abc import Callable
from itertools import chain, count, repeat

import httpx2
import pytest
from small_server import Question, serving

from onepiece.serving import metrics
from onepiece.serving.metrics import Samples, changes, label, parse, read, read_idle, read_with, total
from onepiece.serving.waiting import unchanged, until

VLLM = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 19205.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79646689e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="base"} 2.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="base"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.01",model_name="base"} 7.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="base"} 9.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="base"} 9.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="base"} 0.08
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="32",cache_dtype="auto",sliding_window="None"} 1.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="base"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="base"} 4.0
"""
TRITON = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tiny",version="1"} 12
nv_inference_request_success{model="linear",version="1"} 30
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.2512562814070352
"""


def samples_of(*lines: str) -> Samples:
    return parse("\n".join(lines))


# --- the format ---------------------------------------------------------------------------------------------


def test_a_page_of_vllm_is_read() -> None:
    samples = parse(VLLM)
    assert len(samples) == 12
    assert samples["process_start_time_seconds", ()] == 1.79646689e9
    assert samples["vllm:request_success_total", (("engine", "0"), ("finished_reason", "stop"), ("model_name", "base"))] == 5.0
    assert total(samples, "vllm:request_success_total") == 9.0
    assert total(samples, "vllm:request_success_total", finished_reason="length") == 4.0
    assert total(samples, "vllm:request_success_total", finished_reason="abort") == 0.0
    assert label(samples, "vllm:cache_config_info", "block_size") == "32"
    for name, wanted in (("vllm:cache_config_info", "no_such_label"), ("vllm:cache_config_info", "engine"), ("no_such_name", "engine")):
        with pytest.raises(KeyError, match=wanted):
            label(samples, name, wanted)


def test_a_page_of_triton_is_read() -> None:
    samples = parse(TRITON)
    assert samples["nv_cpu_utilization", ()] == pytest.approx(0.25125628)
    assert total(samples, "nv_inference_request_success") == 42.0
    assert total(samples, "nv_inference_request_success", model="tiny", version="1") == 12.0


def test_the_last_bucket_has_no_bound_and_buckets_are_kept_apart() -> None:
    buckets = {dict(labels)["le"]: value for (name, labels), value in parse(VLLM).items() if name.endswith("_bucket")}
    assert {float(bound): value for bound, value in buckets.items()} == {0.001: 0.0, 0.01: 7.0, math.inf: 9.0}


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("up 1", (), 1.0),
        ("up\t 1 ", (), 1.0),
        ("up{} 1", (), 1.0),
        ("up +Inf", (), math.inf),
        ("up -Inf", (), -math.inf),
        ("up 1e+06", (), 1e6),
        ("up 3 1395066363000", (), 3.0),  # the time of the sample
        ('up{b="2",a="1"} 3', (("a", "1"), ("b", "2")), 3.0),  # sorted: their order on the line means nothing
        ('up{a="1",} 3', (("a", "1"),), 3.0),
        ('up { a = "1" , b = "2" } 3 -1', (("a", "1"), ("b", "2")), 3.0),
        ('up{a=""} 3', (("a", ""),), 3.0),
        ('up{a="x y, {z}=\'} 4 #"} 3', (("a", "x y, {z}='} 4 #"),), 3.0),
        (r'up{a="say \"no\"",b="2"} 3', (("a", 'say "no"'), ("b", "2")), 3.0),
        (r'up{a="C:\\new"} 3', (("a", r"C:\new"),), 3.0),  # an escaped backslash and an n, not a line break
        (r'up{a="two\nlines"} 3', (("a", "two\nlines"),), 3.0),
        (r'up{a="ends with \\"} 3', (("a", "ends with \\"),), 3.0),
        ('up{a="張\u2028\x0b"} 3', (("a", "張\u2028\x0b"),), 3.0),  # characters at which `splitlines` would cut
    ],
)
def test_a_line_in_every_form_is_read(line: str, labels: metrics.Labels, value: float) -> None:
    assert samples_of("# TYPE up gauge", "", line, "") == {("up", labels): value}


def test_not_a_number_is_a_value_too() -> None:
    assert math.isnan(samples_of("up NaN")["up", ()])


@pytest.mark.parametrize(
    "line", ["up", "up one", "up 1 2 3", "up{a=1} 3", 'up{a="1" b="2"} 3', 'up{a="1} 3', 'up{a="1"', "<html>", '{"detail":"Not Found"}']
)
def test_what_is_no_sample_is_an_error_and_not_left_out(line: str) -> None:
    with pytest.raises(ValueError, match=r"line 2 is no sample|could not convert"):
        samples_of("up 1", line)


# --- counters between two readings --------------------------------------------------------------------------


def test_a_counter_has_grown_by_the_difference_and_a_new_one_began_at_zero() -> None:
    before = samples_of('a_total{code="200"} 5', "b_total 7")
    after = samples_of('a_total{code="200"} 8', "b_total 7", 'a_total{code="500"} 2')
    grown = changes(before, after)
    assert total(grown, "a_total") == 5.0
    assert total(grown, "a_total", code="200") == 3.0
    assert total(grown, "b_total") == 0.0


def test_a_counter_that_fell_was_started_again_and_has_grown_by_what_it_is() -> None:
    before = samples_of("a_total 100", 'h_bucket{le="+Inf"} 40', "h_sum 8.5")
    after = samples_of("a_total 4", 'h_bucket{le="+Inf"} 3', "h_sum 0.25")
    assert changes(before, after) == after


# --- reading a server ---------------------------------------------------------------------------------------


def pages(*texts: str) -> Callable[[Question], None]:
    """One page for each request, the last one again and again."""
    left = chain(texts, repeat(texts[-1]))
    return lambda question: question.answer(next(left).encode())


def busy(running: float, waiting: float) -> str:
    return f'{metrics.RUNNING}{{model_name="base"}} {running}\n{metrics.WAITING}{{model_name="base"}} {waiting}\n'


def test_a_server_is_read_at_its_path_and_never_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(pages(TRITON)) as server:
        assert read(server.url) == parse(TRITON)
        assert [question.path for question in server.questions] == ["/metrics"]


def test_another_parser_is_used() -> None:
    with serving(pages("anything")) as server:
        assert read(server.url, parse=lambda text: {(text, ()): 1.0}) == {("anything", ()): 1.0}


def test_an_error_of_the_server_is_an_error() -> None:
    with serving(lambda question: question.answer(b"up 1", status=503)) as server, pytest.raises(urllib.error.HTTPError, match="503"):
        read(server.url)


def test_the_metrics_are_read_by_a_client_that_is_there_already() -> None:
    async def work(url: str) -> Samples:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            return await read_with(client)

    with serving(pages(VLLM)) as server:
        assert asyncio.run(work(server.url)) == parse(VLLM)
    with serving(lambda question: question.answer(b"up 1", status=404)) as server, pytest.raises(httpx2.HTTPStatusError, match="404"):
        asyncio.run(work(server.url))


def test_an_idle_server_is_waited_for_and_the_queue_counts_too() -> None:
    with serving(pages(busy(1, 1), busy(1, 0), busy(0, 1), busy(0, 0) + "done_total 3\n")) as server:
        assert total(read_idle(server.url), "done_total") == 3.0
        assert len(server.questions) == 4


def test_a_server_that_stays_busy_is_an_error_in_time() -> None:
    with serving(pages(busy(1, 0))) as server, pytest.raises(TimeoutError, match=r"not within 0.2 s: http.* is idle"):
        read_idle(server.url, seconds=0.2)


def test_a_server_that_says_nothing_of_its_requests_is_not_idle() -> None:
    with serving(pages(TRITON)) as server, pytest.raises(ValueError, match="not vLLM's metrics"):
        read_idle(server.url)


# --- waiting ------------------------------------------------------------------------------------------------


def test_until_returns_the_first_that_holds_and_looks_no_further() -> None:
    numbers = count()
    assert until(lambda: next(numbers), lambda number: number >= 3, seconds=10, what="three", pause=0.001) == 3
    assert next(numbers) == 4
    assert until(lambda: "there", seconds=0, what="it is there already") == "there"


def test_until_names_what_never_came() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0.05 s: a miracle"):
        until(lambda: False, seconds=0.05, what="a miracle", pause=0.01)


def test_there_is_a_pause_between_two_looks() -> None:
    looks: list[int] = []
    with pytest.raises(TimeoutError):
        until(lambda: looks.append(0), seconds=0.2, what="nothing", pause=0.1)
    assert len(looks) <= 4
    with pytest.raises(TimeoutError):
        unchanged(lambda: looks.append(0) or len(looks), seconds=0.2, what="nothing", pause=0.1)
    assert len(looks) <= 8


def test_unchanged_returns_what_two_looks_in_a_row_saw() -> None:
    numbers = iter([1, 2, 3, 3, 4])
    assert unchanged(lambda: next(numbers), seconds=10, what="still", pause=0.001) == 3
    assert next(numbers) == 4
    counting = count()
    with pytest.raises(TimeoutError, match=r"not within 0.05 s: still"):
        unchanged(lambda: next(counting), seconds=0.05, what="still", pause=0.01)
