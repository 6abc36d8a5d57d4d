"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this? None of them needs a server.

Every wanted value, and what each mistake would give, is computed here, never by the functions under test.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable

import mistakes as wrong
from broken_variants import HITS, broken_hits
from capacity import StepModel
from load import open_loop, percentile
from onepiece.checks import exercise, expect
from onepiece.course.text import Text
from onepiece.serving.load import run
from onepiece.serving.streaming import Reply
from prefix_cache import predicted_hits
from retrying import BASE_SECONDS, LONGEST_SECONDS, retry_delay, succeeded
from server_metrics import parse
from streaming_client import EventParser

CLOSE = 1e-9  # absolute
ON_TIME = 0.12  # seconds: what a busy machine may be late, and less than what a mistake changes


@exercise(
    1,
    title=Text("Events from bytes", "把位元組變成事件"),
    minutes=20,
    level="core",
    hint=Text(
        "Which bytes say that an event is complete, and what do you do with what comes after the last of them? At which moment may bytes "
        "become text, if the network can cut a character in two?",
        "哪些位元組表示一個事件完整了？最後一個之後剩下的該怎麼辦？網路可能把一個字元切成兩半，那麼位元組什麼時候才能變成文字？",
    ),
)
def check_exercise_1() -> None:
    sent = b'data: {"a": 1}\n\ndata:b\n\n: still here\n\ndata: x\ndata: y\n\ndata: [DONE]\n\n'
    whole = EventParser().feed(sent)
    want = ['{"a": 1}', "b", "x\ny", "[DONE]"]
    expect(
        whole, want, what=Text(f"the events of {sent!r}", f"{sent!r} 裡的事件"),
        mistakes={
            wrong.FIRST_ONLY: want[:1],
            wrong.PREFIX_KEPT: ['data: {"a": 1}', "data:b", "data: x\ndata: y", "data: [DONE]"],
            wrong.SPACE_KEPT: [' {"a": 1}', "b", " x\n y", " [DONE]"],
            wrong.LINE_BY_LINE: ['{"a": 1}', "b", "x", "y", "[DONE]"],
            wrong.COMMENT_COUNTED: ['{"a": 1}', "b", "", "x\ny", "[DONE]"],
        },
    )  # fmt: skip
    expect(
        EventParser().feed(b"data: 1\r\n\r\ndata: 2\r\n\r\n"), ["1", "2"],
        what=Text(r"the events of b'data: 1\r\n\r\ndata: 2\r\n\r\n'", r"b'data: 1\r\n\r\ndata: 2\r\n\r\n' 裡的事件"),
        mistakes={wrong.CRLF_MISSED: []},
    )  # fmt: skip
    expect(
        one_byte_at_a_time("data: 貓\r\n\r\ndata: b\n\n"), ["貓", "b"],
        what=Text(r"the events of 'data: 貓\r\n\r\ndata: b\n\n', byte by byte", r"'data: 貓\r\n\r\ndata: b\n\n' 一次給一個位元組時的事件"),
        mistakes={wrong.CUT_LOST: [], wrong.DECODED_TOO_EARLY: ["UnicodeDecodeError"], wrong.CRLF_MISSED: ["b"]},
    )  # fmt: skip


def one_byte_at_a_time(text: str) -> list[str]:
    """The events of a parser that is fed slowly; the name of the error, if it stumbles over half a character."""
    parser, events = EventParser(), []
    try:
        for byte in text.encode():
            events += parser.feed(bytes([byte]))
    except UnicodeDecodeError:
        return ["UnicodeDecodeError"]
    return events


@exercise(
    2,
    title=Text("The format of Prometheus", "Prometheus 的格式"),
    minutes=15,
    level="core",
    hint=Text(
        "Which space of a line separates the value, if labels may hold spaces too: the first one or the last? What stands before the "
        "first brace? And how do two series with the same labels in another order become the same key?",
        "標籤裡也可能有空格，那麼把值分開的是哪一個空格：第一個還是最後一個？第一個大括號前面是什麼？"
        "標籤相同、順序不同的兩個序列，怎樣才會變成同一個鍵？",
    ),
)
def check_exercise_2() -> None:
    text = '# TYPE a counter\nup 1.0\na_total{path="/v1",code="200"} 3\na_bucket{le="+Inf"} 1e+06\n\nb{text="x y, {z}"} +Inf\n'
    want = {
        ("up", ()): 1.0,
        ("a_total", (("code", "200"), ("path", "/v1"))): 3.0,
        ("a_bucket", (("le", "+Inf"),)): 1e6,
        ("b", (("text", "x y, {z}"),)): math.inf,
    }
    expect(
        parse(text), want, what=Text("the samples of a page", "一頁的樣本"),
        mistakes={
            wrong.LABELS_IN_NAME: {
                ("up", ()): 1.0, ('a_total{path="/v1",code="200"}', ()): 3.0, ('a_bucket{le="+Inf"}', ()): 1e6,
                ('b{text="x y, {z}"}', ()): math.inf,
            },
            wrong.NO_LABELS: {(name, ()): value for (name, _), value in want.items()},
            wrong.UNSORTED_LABELS: {
                (name, tuple(reversed(labels))): value for (name, labels), value in want.items()
            },
        },
    )  # fmt: skip


@exercise(
    3,
    title=Text("Percentiles that were measured", "真的量到過的百分位數"),
    minutes=10,
    level="core",
    hint=Text(
        "How many of n values must not be larger, if they are to be at least `percent` percent? That number, rounded up, is a place: "
        "counted from one, while a list counts from zero. And what does rounding up make of 0.55 * 100?",
        "n 個值裡，要有幾個不超過它，才至少是 `percent` %？這個數無條件進位後就是名次：名次從一開始，串列從零開始。"
        "還有，0.55 * 100 進位之後會變成什麼？",
    ),
)
def check_exercise_3() -> None:
    values = [50.0, 10.0, 40.0, 20.0, 30.0]
    asked = (20, 50, 90, 100)
    expect(
        [percentile(values, percent) for percent in asked], [10.0, 30.0, 50.0, 50.0],
        what=Text("p20, p50, p90, p100 of 50, 10, 40, 20, 30", "50、10、40、20、30 的 p20、p50、p90、p100"),
        mistakes={
            wrong.NOT_SORTED: [50.0, 40.0, 30.0, 30.0],
            wrong.ONE_TOO_HIGH: [20.0, 40.0, 50.0, 50.0],
            wrong.ONE_TOO_LOW: [10.0, 20.0, 40.0, 50.0],
            wrong.INTERPOLATED: [18.0, 30.0, 46.0, 50.0],
        },
    )  # fmt: skip
    expect(
        percentile(range(1, 101), 55), 55, what=Text("p55 of 1 to 100", "1 到 100 的 p55"), mistakes={wrong.ROUNDING: 56},
    )  # fmt: skip
    expect(raises(lambda: percentile([], 50)), "ValueError", what=Text("what no values raise", "沒有值時引發的例外"))


def raises(function: Callable[[], object]) -> str | None:
    """The name of the error; an exercise that is still open stays open."""
    try:
        function()
    except NotImplementedError:
        raise
    except Exception as error:
        return type(error).__name__
    return None


@exercise(
    4,
    title=Text("The open loop", "開迴路"),
    minutes=20,
    level="core",
    hint=Text(
        "Who waits for whom in an open loop? If every request has its own coroutine, what is the first thing that it does, and until "
        "which moment? And what does `ask` have to be told, so that a client that was held up cannot hide it?",
        "在開迴路裡，誰等誰？如果每個請求各有自己的 coroutine，它首先要做什麼？做到哪一刻為止？"
        "還有，要告訴 `ask` 什麼，被耽擱的用戶端才瞞不住？",
    ),
)
def check_exercise_4() -> None:
    arrivals = [0.0, 0.2, 0.4, 0.6]
    sent: dict[int, float] = {}

    async def slow(number: int, _: float) -> int:
        sent[number] = time.perf_counter() - began
        await asyncio.sleep(0.9 - 0.3 * number)  # later ones end earlier
        return number

    began = time.perf_counter()
    order = run(open_loop(slow, arrivals))
    expect(
        [sent.get(number, math.inf) for number in range(4)], arrivals, atol=ON_TIME,
        what=Text("when four requests were sent (s)", "四個請求送出的時間（秒）"),
        mistakes={wrong.CLOSED: [0.0, 0.9, 1.5, 1.8], wrong.AT_ONCE: [0.0] * 4, wrong.GAPS: [0.0, 0.2, 0.6, 1.2]},
    )  # fmt: skip
    expect(
        order, [0, 1, 2, 3], what=Text("the order of the replies", "回覆的順序"), mistakes={wrong.FINISHING_ORDER: [3, 2, 1, 0]},
    )  # fmt: skip

    async def busy(number: int, intended: float) -> float:
        if number == 0:
            time.sleep(0.5)  # the client itself stands still, with all of its requests
        return intended - began

    began = time.perf_counter()
    expect(
        run(open_loop(busy, arrivals[:2])), arrivals[:2], atol=ON_TIME,
        what=Text("when two requests should have been sent, if the client is held up", "用戶端被耽擱時，兩個請求應該送出的時間"),
        mistakes={wrong.ACTUAL_TIME: [0.0, 0.5]},
    )  # fmt: skip


@exercise(
    5,
    title=Text("What the prefix cache must find", "前綴快取一定會找到什麼"),
    minutes=20,
    level="core",
    hint=Text(
        "Keys and values of a block depend on every token before it and on who computed them: what identifies a block, then? From which "
        "end do you count, and at which block do you stop? And what has a server still to compute if it finds the whole prompt?",
        "一個區塊的 key 與 value，取決於它之前的每一個 token，也取決於是誰算的：那麼，用什麼才能識別一個區塊？要從哪一端開始數，"
        "數到哪個區塊為止？還有，就算整個提示都找得到，伺服器還有什麼非算不可？",
    ),
)
def check_exercise_5() -> None:
    long = list(range(10, 24))  # 14 tokens: three full blocks of 4, and two more
    prompts = [long, long[:11], long[:8], [*long[:5], 99, *long[6:]], [99, *long[1:]], long, long]
    adapters = ["base"] * 5 + ["relabel", "base"]
    expect(
        predicted_hits(prompts, 4, adapters=adapters), broken_hits(prompts, 4, adapters, None),
        what=Text("the hits of seven prompts, blocks of 4 tokens", "七個提示的命中，區塊大小 4"),
        mistakes={wrong.HITS[name]: broken_hits(prompts, 4, adapters, name) for name in HITS},
    )  # fmt: skip
    expect(predicted_hits(prompts[:2], 4), [0, 8], what=Text("the hits without adapters", "沒有 adapter 時的命中"))
    two_blocks = long[:8]
    expect(
        predicted_hits([two_blocks, long, [*two_blocks, 99]], 4), [0, 8, 8],
        what=Text("the hits of 8 tokens (exactly two blocks), then of 14 and of 9", "8 個 token（剛好兩個區塊），接著 14 個與 9 個的命中"),
        mistakes={wrong.LAST_FULL: [0, 4, 8], wrong.ONE_IS_ENOUGH: [0, 8, 4]},
    )  # fmt: skip


def a_reply(status: int, done: bool, finish_reason: str | None) -> Reply:
    """A reply of one token."""
    event = {"choices": [{"text": "a", "finish_reason": finish_reason}]}
    return Reply(0.0, 0.0, 1.0, status, 200 if status == 503 else status, (event,), (0.5,), done)


@exercise(
    6,
    title=Text("What is an answer?", "什麼才算回答？"),
    minutes=10,
    level="core",
    hint=Text(
        "What does each of the three say, and what can it not know: the status, which is sent before the first token; the end of the "
        "stream; and the finish_reason, of which there are several? Which of these reasons did the client ask for?",
        "這三樣各說明了什麼，又不可能知道什麼：第一個 token 之前就送出的狀態碼、串流的結束，以及有好幾種的 finish_reason？"
        "哪幾種原因是用戶端自己要求的？",
    ),
)
def check_exercise_6() -> None:
    cases = [
        (200, True, "stop"), (200, True, "length"), (200, True, "abort"), (200, True, None),
        (200, False, None), (200, False, "length"), (503, True, None), (0, False, None),
    ]  # fmt: skip
    names = [f"{status}, {'ended' if done else 'cut off'}, finish_reason {reason}" for status, done, reason in cases]
    want = dict(zip(names, [True, True, False, False, False, False, False, False], strict=True))
    rules = {
        "status": [status == 200 for status, _, _ in cases],
        "done": [status == 200 and done for status, done, _ in cases],
        "finish": [status == 200 and done and reason is not None for status, done, reason in cases],
        "stop_only": [status == 200 and done and reason == "stop" for status, done, reason in cases],
        "no_done": [status == 200 and reason in ("stop", "length") for status, _, reason in cases],
    }
    expect(
        {name: succeeded(a_reply(*case)) for name, case in zip(names, cases, strict=True)}, want,
        what=Text("which of eight replies are answers (those that differ)", "八個回覆中，哪些是回答（只列出不同的）"),
        mistakes={wrong.SUCCESS[name]: dict(zip(names, values, strict=True)) for name, values in rules.items()},
    )  # fmt: skip


@exercise(
    7,
    title=Text("When to come back", "什麼時候再來"),
    minutes=15,
    level="core",
    hint=Text(
        "For which replies can coming back help at all (one that broke off after its 200 too)? How fast should the longest wait grow "
        "from attempt to attempt, and where does it end? And how do a hundred clients that were refused together not come back together?",
        "對哪些回覆來說，再來一次才有用（在 200 之後中斷的也算嗎）？最長的等待時間，該隨嘗試次數怎麼增加？到哪裡為止？"
        "還有，一百個同時被拒絕的用戶端，怎樣才不會又同時回來？",
    ),
)
def check_exercise_7() -> None:
    attempts = (0, 1, 3, 10)
    draws = [random.Random(attempt).random() for attempt in attempts]

    def waits(longest: Callable[[int], float]) -> list[float]:
        return [longest(attempt) * draw for attempt, draw in zip(attempts, draws, strict=True)]

    def right(attempt: int) -> float:
        return min(LONGEST_SECONDS, BASE_SECONDS * 2**attempt)

    got = [retry_delay(attempt, 503, random.Random(attempt)) for attempt in attempts]
    expect(
        got, waits(right), atol=CLOSE,
        what=Text("the waits after attempts 0, 1, 3 and 10 (s)", "第 0、1、3、10 次之後的等待（秒）"),
        mistakes={
            wrong.DELAY["no_jitter"]: [right(attempt) for attempt in attempts],
            wrong.DELAY["no_cap"]: waits(lambda attempt: BASE_SECONDS * 2**attempt),
            wrong.DELAY["early"]: waits(lambda attempt: right(attempt + 1)),
            wrong.DELAY["linear"]: waits(lambda attempt: min(LONGEST_SECONDS, BASE_SECONDS * (attempt + 1))),
            wrong.DELAY["not_from_zero"]: [right(attempt) * (1 + draw) / 2 for attempt, draw in zip(attempts, draws, strict=True)],
        },
    )  # fmt: skip
    statuses = (0, 200, 400, 401, 404, 429, 503)
    want = [True, True, False, False, False, True, True]
    expect(
        [retry_delay(0, status, random.Random(0)) is not None for status in statuses], want,
        what=Text("whether to come back after 0, 200, 400, 401, 404, 429, 503", "遇到 0、200、400、401、404、429、503 時要不要再來"),
        mistakes={
            wrong.RETRIES_ALL: [True] * 7,
            wrong.BROKEN_IS_FINAL: [True, False, *want[2:]],
            wrong.CONNECTION_IS_FINAL: [False, *want[1:]],
        },
    )  # fmt: skip


@exercise(
    8,
    title=Text("Little's law", "Little 定律"),
    minutes=20,
    level="core",
    hint=Text(
        "How many steps does a request stay, if a step may bring more than one token? Little's law gives L from the time W that this "
        "takes, and W depends on L, because every step serves all of them: what comes out if you write both down and solve for L? "
        "And what does the queue do from the rate on at which the denominator reaches zero?",
        "如果一步可能帶來不只一個 token，一個請求會停留幾步？Little 定律由它花的時間 W 得到 L；而 W 又取決於 L，"
        "因為每一步都要服務所有的請求：把兩個式子寫下來，解出 L，會得到什麼？到了某個速率，分母會變成零：從那裡開始，佇列會怎麼樣？",
    ),
)
def check_exercise_8() -> None:
    fixed, each, rate, tokens = 0.003, 0.0005, 20.0, 48.0
    model, busy = StepModel(fixed, each), rate * tokens * each
    expect(
        model.at_once(rate, tokens), rate * tokens * fixed / (1 - busy), atol=CLOSE,
        what=Text("requests under way at 20 per second, 48 tokens each", "每秒 20 個、每個 48 個 token 時，進行中的請求"),
        mistakes={
            wrong.ALONE: rate * tokens * (fixed + each),
            wrong.NOT_SOLVED: rate * tokens * fixed,
            wrong.PER_TOKEN: rate * fixed / (1 - rate * each),
        },
    )  # fmt: skip
    too_much = 100.0 * tokens * each
    expect(
        model.at_once(100.0, tokens), math.inf, what=Text("the same at 100 per second", "每秒 100 個的時候"),
        mistakes={wrong.NEGATIVE: 100.0 * tokens * fixed / (1 - too_much)},
    )  # fmt: skip
    speculating = StepModel(fixed, each, tokens_per_step=2.0)
    expect(
        speculating.at_once(rate, tokens), rate * (tokens / 2) * fixed / (1 - busy / 2), atol=CLOSE,
        what=Text("the same where a step brings 2 tokens", "一步帶來 2 個 token 的時候"),
        mistakes={
            wrong.ONE_PER_STEP: rate * tokens * fixed / (1 - busy),
            wrong.STEPS_ABOVE_ONLY: rate * (tokens / 2) * fixed / (1 - busy),
            wrong.STEPS_BELOW_ONLY: rate * tokens * fixed / (1 - busy / 2),
        },
    )  # fmt: skip
    half = StepModel(fixed, 0.5)  # so that busy is exactly 1 and 1.5 below
    expect(
        [raises(lambda: half.at_once(1.0, 2.0)) or half.at_once(1.0, 2.0), half.at_once(1.0, 3.0)], [math.inf, math.inf],
        what=Text("the same where busy is exactly 1, and where it is 1.5", "busy 剛好是 1，以及 1.5 的時候"),
        mistakes={
            wrong.EXACTLY_FULL: ["ZeroDivisionError", math.inf],
            wrong.NEGATIVE: ["ZeroDivisionError", 1.0 * 3.0 * fixed / (1 - 1.5)],
        },
    )  # fmt: skip
