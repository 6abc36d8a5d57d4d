"""Diagnosing checks of the exercises: is it right, and if not, which mistake gives exactly this?

No server is started. Configurations are read with Triton's own schema.
"""

from __future__ import annotations

import hashlib
from typing import Any
from unittest import mock

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

import outside_the_server  # noqa: F401 -- before the modules of the server
from diagnosis import Request, diagnose_request
from language_model import join_requests, split_rows
from load_generator import most_at_once
from model_repository import Tensor, tensor_text
from onepiece.checks import exercise, expect
from onepiece.course.text import Text
from pipeline import Step, step_text
from server_metrics import parse_metrics
from tab_model import add_to_tab
from versions import Policy, choose_version, served_versions


def as_config(text: str) -> ModelConfig | list[str]:
    """The text as Triton's schema reads it, or why it cannot be read (without the place)."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        return ["unreadable", str(error).rpartition("': ")[2]]


def one_tensor(tensor: Tensor) -> list[Any]:
    """[name, type, dims, optional] of what `tensor_text` writes."""
    read = as_config(f"input [ {tensor_text(tensor)} ]")
    if isinstance(read, list):
        return read
    return [[entry.name, DataType.Name(entry.data_type), list(entry.dims), entry.optional] for entry in read.input]


def no_such_type(name: str) -> list[str]:
    """What the schema says to a type that it does not have."""
    read = as_config(f"input [ {{ data_type: {name} }} ]")
    assert isinstance(read, list)
    return read


@exercise(
    1,
    title=Text("An entry of config.pbtxt", "config.pbtxt 的一個項目"),
    minutes=10,
    level="core",
    hint=Text(
        "Which word does config.pbtxt put before every type, and which type of a request has another name there? And in an f-string, how "
        "is a brace written that belongs to the text? Compare with what `config_text` prints in notebook 1.",
        "config.pbtxt 在每個型別前面加上哪個字？請求裡的哪個型別，在那裡叫別的名稱？還有，f-string 裡屬於文字的大括號要怎麼寫？"
        "跟第 1 本筆記本裡 `config_text` 印出來的比一比。",
    ),
)
def check_exercise_1() -> None:
    expect(
        one_tensor(Tensor("features", "FP32", (4,))),
        [["features", "TYPE_FP32", [4], False]],
        what=Text("the entry of an FP32 tensor with 4 numbers", "含 4 個數的 FP32 張量的項目"),
        mistakes={
            Text("the type lacks its prefix TYPE_", "型別漏了前綴 TYPE_"): no_such_type("FP32"),
            Text("only those inputs that are optional say so", "只有 optional 的輸入才要寫 optional"): [
                ["features", "TYPE_FP32", [4], True]
            ],
            Text("dims are missing", "漏了 dims"): [["features", "TYPE_FP32", [], False]],
        },
    )
    expect(
        one_tensor(Tensor("text", "BYTES", (1,))),
        [["text", "TYPE_STRING", [1], False]],
        what=Text("the entry of a text", "文字張量的項目"),
        mistakes={Text("config.pbtxt calls BYTES TYPE_STRING", "BYTES 在 config.pbtxt 裡叫 TYPE_STRING"): no_such_type("TYPE_BYTES")},
    )
    expect(
        one_tensor(Tensor("image", "INT64", (-1, 3))),
        [["image", "TYPE_INT64", [-1, 3], False]],
        what=Text("the entry of a tensor with dims -1 and 3", "dims 為 -1 與 3 的項目"),
        mistakes={Text("only the first of the dims is there", "dims 只寫了第一個"): [["image", "TYPE_INT64", [-1], False]]},
    )
    expect(
        one_tensor(Tensor("mask", "BOOL", (1,), optional=True)),
        [["mask", "TYPE_BOOL", [1], True]],
        what=Text("the entry of an optional input", "optional 輸入的項目"),
        mistakes={Text("optional: true is missing", "漏了 optional: true"): [["mask", "TYPE_BOOL", [1], False]]},
    )


TWO_INPUTS = """
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "note" data_type: TYPE_STRING dims: [ -1 ] optional: true } ]
"""
BATCH_MISTAKE = Text(
    "with max_batch_size above 0 the first dimension is the batch, and dims speaks of the others",
    "max_batch_size 大於 0 時，第一個維度是批次，dims 說的是其他維度",
)


def requests(x: np.ndarray) -> list[tuple[Text, dict[str, np.ndarray], str, dict[Text, str]]]:
    """What is sent, the inputs, the verdict, and which mistakes give which other one; `x` has two rows of four numbers."""
    note = np.array([[b"a"], [b"b"]], dtype=object)
    return [
        (
            Text("two rows of four numbers", "兩列、每列四個數"),
            {"x": x},
            "",
            {
                Text("an optional input may be missing", "optional 的輸入可以不送"): "input missing",
                BATCH_MISTAKE: "wrong shape",
            },
        ),
        (
            Text("with the optional text", "加上 optional 的文字"),
            {"x": x, "note": note},
            "",
            {
                Text(
                    "text is BYTES in a request and TYPE_STRING in the configuration", "文字在請求裡是 BYTES，在設定裡是 TYPE_STRING"
                ): "wrong type",
                Text("-1 in dims fits any size", "dims 裡的 -1 符合任何大小"): "wrong shape",
            },
        ),
        (
            Text("an input called y", "名叫 y 的輸入"),
            {"y": x},
            "unknown input",
            {
                Text("the server looks for unknown names first", "伺服器先看有沒有不認得的名稱"): "input missing",
            },
        ),
        (Text("no x", "沒有 x"), {"note": note}, "input missing", {Text("nobody looks for what is missing", "沒有檢查少了什麼"): ""}),
        (
            Text("nine rows", "九列"),
            {"x": np.ones((9, 4), np.float32)},
            "batch too large",
            {Text("max_batch_size is the most rows", "max_batch_size 是列數上限"): ""},
        ),
        (
            Text("eight rows", "八列"),
            {"x": np.ones((8, 4), np.float32)},
            "",
            {Text("max_batch_size itself is allowed", "剛好等於 max_batch_size 是可以的"): "batch too large"},
        ),
        (Text("float64", "float64"), {"x": x.astype(np.float64)}, "wrong type", {Text("types are not compared", "沒有比對型別"): ""}),
        (
            Text("rows of three numbers", "每列三個數"),
            {"x": x[:, :3]},
            "wrong shape",
            {Text("shapes are not compared", "沒有比對形狀"): ""},
        ),
        (
            Text("four numbers without a batch", "四個數、沒有批次"),
            {"x": x[0]},
            "wrong shape",
            {
                Text("the number of dimensions counts too", "維度的個數也要比"): "",
            },
        ),
        (
            Text("rows of three numbers in float64", "每列三個數、float64"),
            {"x": x[:, :3].astype(np.float64)},
            "wrong type",
            {
                Text("the server looks at the type before the shape", "伺服器先看型別，再看形狀"): "wrong shape",
            },
        ),
    ]


@exercise(
    2,
    title=Text("The verdict on a request", "對請求的判定"),
    minutes=25,
    level="core",
    hint=Text(
        "What can the server say before it has looked at a single number? Take the questions in the order of the docstring: names, then "
        "rows, then the type, then the shape. Which part of a shape does `dims` not speak of, and when is there no such part?",
        "伺服器還沒看任何一個數之前，能先判斷什麼？照 docstring 的順序問：名稱、列數、型別、形狀。"
        "形狀的哪一部分是 `dims` 沒有說的？什麼時候又沒有這一部分？",
    ),
)
def check_exercise_2() -> None:
    config, x = text_format.Parse(TWO_INPUTS, ModelConfig()), np.ones((2, 4), np.float32)
    for what, inputs, want, mistakes in requests(x):
        expect(diagnose_request(config, Request(inputs)), want, what=what, mistakes=mistakes)
    config.max_batch_size = 0
    expect(
        [diagnose_request(config, Request({"x": array})) for array in (x[0], x)],
        ["", "wrong shape"],
        what=Text("four numbers, and two rows of four, with max_batch_size: 0", "max_batch_size: 0 時，四個數，以及兩列四個數"),
        mistakes={
            Text("with max_batch_size: 0 there is no batch: dims is the whole shape", "max_batch_size: 0 時沒有批次：dims 就是整個形狀"): [
                "wrong shape",
                "",
            ],
            Text("with max_batch_size: 0 there is no batch to be too large", "max_batch_size: 0 時沒有批次，也就沒有太大的問題"): [
                "batch too large",
                "batch too large",
            ],
        },
    )
    config.max_batch_size = 1
    expect(
        [diagnose_request(config, Request({"x": array})) for array in (x[:1], x)],
        ["", "batch too large"],
        what=Text("one row of four, and two rows, with max_batch_size: 1", "max_batch_size: 1 時，一列四個數，以及兩列"),
        mistakes={
            Text(
                "max_batch_size: 1 is a batch too: only 0 means that there is none", "max_batch_size: 1 也有批次維度：只有 0 才表示沒有批次"
            ): ["wrong shape", "wrong shape"],
        },
    )


@exercise(
    3,
    title=Text("Join a batch, and split it", "合併批次，再拆開"),
    minutes=10,
    level="core",
    hint=Text(
        "Along which dimension do requests differ in size? And to cut the rows apart again: request i has counts[i] of them, so where does "
        "its last one stand? A running sum says so.",
        "各個請求在哪一個維度上大小不同？要再拆開的話：請求 i 有 counts[i] 列，那麼它的最後一列在哪裡？累加起來就知道。",
    ),
)
def check_exercise_3() -> None:
    first, second, third = (np.arange(start, start + 3 * rows).reshape(rows, 3) for start, rows in ((0, 1), (10, 2), (30, 1)))
    expect(
        np.asarray(join_requests([first, second, third])).tolist(),
        [*first.tolist(), *second.tolist(), *third.tolist()],
        what=Text("three requests with 1, 2 and 1 rows, joined", "三個請求（1、2、1 列）合併的結果"),
        mistakes={
            Text("only the first request is there", "只有第一個請求"): first.tolist(),
            Text("only the first row of each request is there", "每個請求只拿了第一列"): [
                *first.tolist(),
                *second[:1].tolist(),
                *third.tolist(),
            ],
        },
    )
    rows = np.arange(8).reshape(4, 2)
    expect(
        [np.asarray(part).tolist() for part in split_rows(rows, [1, 2, 1])],
        [rows[:1].tolist(), rows[1:3].tolist(), rows[3:].tolist()],
        what=Text("four rows for requests with 1, 2 and 1", "四列分給 1、2、1 列的請求"),
        mistakes={
            Text("one row each: a request may have several", "每個請求只分一列：請求可以有好幾列"): [
                row[None].tolist() for row in rows[:3]
            ],
            Text("every request begins at row 0: add up the counts", "每個請求都從第 0 列開始：要把列數累加"): [
                rows[:1].tolist(),
                rows[:2].tolist(),
                rows[:1].tolist(),
            ],
            Text("the counts are taken for the places where rows end: add them up", "把列數當成結束的位置了：要先累加"): [
                rows[:1].tolist(),
                rows[1:2].tolist(),
                rows[2:1].tolist(),
            ],
        },
    )


def one_step(step: Step) -> list[Any]:
    """[model, version, inputs, outputs] of what `step_text` writes."""
    read = as_config(f"ensemble_scheduling {{ step [ {step_text(step)} ] }}")
    if isinstance(read, list):
        return read
    return [
        [entry.model_name, entry.model_version, dict(entry.input_map), dict(entry.output_map)] for entry in read.ensemble_scheduling.step
    ]


@exercise(
    4,
    title=Text("A step of an ensemble", "ensemble 的一個步驟"),
    minutes=15,
    level="core",
    hint=Text(
        "Who owns which name: what does the model itself call a tensor, and what does the ensemble call it? One of them is the key of a "
        "map, the other its value. How many maps does a step with two inputs and one output need? And which version does -1 stand for?",
        "哪個名稱是誰的：模型自己怎麼叫一個張量？ensemble 又怎麼叫它？其中一個是 map 的 key，另一個是 value。"
        "有兩個輸入、一個輸出的步驟需要幾個 map？-1 代表哪一個版本？",
    ),
)
def check_exercise_4() -> None:
    inputs, outputs = {"input_ids": "ids", "max_tokens": "limit"}, {"output_ids": "new"}
    swapped = [{value: key for key, value in names.items()} for names in (inputs, outputs)]
    expect(
        one_step(Step("tiny", inputs, outputs)),
        [["tiny", -1, inputs, outputs]],
        what=Text("a step with two inputs and one output", "有兩個輸入、一個輸出的步驟"),
        mistakes={
            Text("key and value are exchanged: the key is the model's own name", "key 與 value 對調了：key 是模型自己的名稱"): [
                ["tiny", -1, *swapped]
            ],
            Text("model_version: -1 is missing: 0 is no version", "漏了 model_version: -1：沒有第 0 版"): [["tiny", 0, inputs, outputs]],
            Text("outputs have a map of their own, output_map", "輸出有自己的 output_map"): [["tiny", -1, inputs | outputs, {}]],
            Text("only the first input is there: one input_map for each", "只寫了第一個輸入：每個輸入要一個 input_map"): [
                ["tiny", -1, {"input_ids": "ids"}, outputs]
            ],
        },
    )


@exercise(
    5,
    title=Text("Which versions are served", "提供哪些版本"),
    minutes=10,
    level="core",
    hint=Text(
        "In which order do the three kinds of policy have to be asked? What is done with a number in `specific` that has no directory? "
        "And which end of the versions is the latest, once they are in rising order, as numbers?",
        "三種政策要依什麼順序問？`specific` 裡有號碼、卻沒有目錄的，該怎麼辦？版本當成數字由小到大排好之後，最新的在哪一頭？",
    ),
)
def check_exercise_5() -> None:
    available = (1, 10, 3, 2)
    rising = Text("in rising order, please", "要由小到大")
    unsorted = Text("available comes in any order: sort it", "available 沒有一定的順序：要先排序")
    as_text = Text("versions are numbers: as text, 3 would come after 10", "版本是數字：當成文字排序，3 會排在 10 後面")
    expect(
        list(served_versions(Policy(latest=1), available)),
        [10],
        what=Text("the latest one of 1, 10, 3 and 2", "1、10、3、2 之中最新的一個"),
        mistakes={as_text: [3], unsorted: [2], Text("that is the lowest number", "這是最小的號碼"): [1]},
    )
    expect(
        list(served_versions(Policy(latest=2), available)),
        [3, 10],
        what=Text("the latest two of 1, 10, 3 and 2", "1、10、3、2 之中最新的兩個"),
        mistakes={rising: [10, 3], Text("only one: the policy says how many", "只有一個：要幾個由政策決定"): [10]},
    )
    expect(
        list(served_versions(Policy(specific=(99, 3, 1)), available)),
        [1, 3],
        what=Text("specific versions 99, 3 and 1, of which 99 does not exist", "指定 99、3、1，其中 99 不存在"),
        mistakes={
            Text("what has no directory cannot be served", "沒有目錄的版本無法提供"): [1, 3, 99],
            rising: [3, 1],
        },
    )
    expect(
        list(served_versions(Policy(all=True), available)),
        [1, 2, 3, 10],
        what=Text("all versions", "全部版本"),
        mistakes={rising: [1, 10, 3, 2], Text("`all` goes before `latest`, which has a default", "`all` 優先於有預設值的 `latest`"): [10]},
    )


@exercise(
    6,
    title=Text("A user's version", "使用者的版本"),
    minutes=15,
    level="core",
    hint=Text(
        "Picture the share 0 to 1 as a ruler, cut into pieces as long as the weights. If the weights do not sum to 1, how do you bring "
        "the user's point onto a ruler of their length? Then walk along it: where does each piece end?",
        "把 0 到 1 的比例想成一把尺，切成與權重等長的幾段。權重的總和不是 1 的話，怎麼把使用者的那一點對應到這麼長的尺上？"
        "然後沿著尺走：每一段在哪裡結束？",
    ),
)
def check_exercise_6() -> None:
    users, weights = [f"user-{number}" for number in range(400)], {1: 2.0, 2: 1.0, 7: 1.0}
    shares = [int.from_bytes(hashlib.sha256(f"spring:{user}".encode()).digest()[:8], "big") / 2**64 for user in users]
    other = [int.from_bytes(hashlib.sha256(f":{user}".encode()).digest()[:8], "big") / 2**64 for user in users]

    def cut(values: list[float], pieces: list[tuple[int, float]]) -> list[int]:
        """The version in whose piece each value falls; (version, where its piece ends)."""
        return [next((version for version, end in pieces if value < end), pieces[-1][0]) for value in values]

    expect(
        [choose_version(user, weights, "spring") for user in users],
        cut(shares, [(1, 0.5), (2, 0.75), (7, 1.0)]),
        what=Text("the versions of 400 users for weights 2, 1 and 1", "權重 2、1、1 時，400 個使用者的版本"),
        mistakes={
            Text("weights need not sum to 1: divide by their sum", "權重的總和不一定是 1：要除以總和"): cut(shares, [(1, 2.0)]),
            Text("the pieces lie in the order of the weights, from 0 on", "各段依權重的順序從 0 排起"): cut(
                shares, [(7, 0.25), (2, 0.5), (1, 1.0)]
            ),
            Text("every version has the same share: use the weights", "每個版本的比例都一樣：要用到權重"): cut(
                shares, [(1, 1 / 3), (2, 2 / 3), (7, 1.0)]
            ),
            Text("add the weights up: each piece begins where the one before ends", "權重要累加：每一段從前一段的結尾開始"): cut(
                shares, [(1, 0.5), (2, 0.25), (7, 0.25)]
            ),
            Text("the experiment belongs in the hash", "雜湊裡要有 experiment"): cut(other, [(1, 0.5), (2, 0.75), (7, 1.0)]),
            Text("always the first version", "永遠是第一個版本"): [1] * len(users),
        },
    )
    user, share = next((user, share) for user, share in zip(users, shares, strict=True) if share >= 0.5)  # where 1 - share is exact
    expect(
        choose_version(user, {1: share, 2: 1 - share}, "spring"),
        2,
        what=Text("the version of a user who is exactly where the first piece ends", "剛好落在第一段結尾的使用者，拿到的版本"),
        mistakes={Text("a piece ends before its last point: that one begins the next piece", "一段不含結尾那一點：那是下一段的開頭"): 1},
    )
    with mock.patch("versions.hashed_share", return_value=1.0):  # no user can be found for it: one hash in 2**54
        last = choose_version("", weights, "spring")
    expect(
        last,
        7,
        what=Text("the version of a user whose share is 1.0", "比例值等於 1.0 的使用者，拿到的版本"),
        mistakes={
            Text("nobody may go away without a version: the last piece includes its end", "不能有人拿不到版本：最後一段包含結尾"): None
        },
    )


@exercise(
    7,
    title=Text("State of a sequence", "序列的狀態"),
    minutes=10,
    level="core",
    hint=Text(
        "What was the total before this order, if it is the first of the sequence, and if it is not? Who needs the new one later, and "
        "what must not be left once the last guest has paid?",
        "這次點菜之前的累計是多少：如果是序列的第一次呢？不是第一次呢？之後誰還需要新的累計？最後一位客人付完帳之後，什麼不能留下來？",
    ),
)
def check_exercise_7() -> None:
    tabs: dict[int, float] = {}
    calls = [(1, 5.0, True, False), (2, 7.0, True, False), (1, 1.0, False, False), (2, 2.0, False, True), (1, 3.0, False, True)]
    totals = [add_to_tab(tabs, table, amount, start=start, end=end) for table, amount, start, end in calls]
    expect(
        totals,
        [5.0, 7.0, 6.0, 9.0, 9.0],
        atol=1e-9,
        what=Text("the totals of two tables that take turns", "兩桌輪流點菜的累計"),
        mistakes={
            Text("both tables share one tab", "兩桌共用一張帳單"): [5.0, 12.0, 13.0, 15.0, 18.0],
            Text("nothing is remembered", "什麼都沒記住"): [5.0, 7.0, 1.0, 2.0, 3.0],
            Text("the total before the amount is returned", "回傳的是加上之前的累計"): [0.0, 0.0, 5.0, 7.0, 6.0],
        },
    )
    expect(
        tabs,
        {},
        what=Text("what stays behind when all have left", "大家都離開之後還留著什麼"),
        mistakes={
            Text("at the end the tab must be deleted, or memory grows for ever", "結束時要刪掉，否則記憶體會一直成長"): {1: 9.0, 2: 9.0}
        },
    )
    tabs = {4: 50.0}
    expect(
        add_to_tab(tabs, 4, 2.0, start=True, end=False),
        2.0,
        atol=1e-9,
        what=Text("the first order of new guests, where others left without an end", "前一組客人沒有結帳就離開，新客人點的第一道"),
        mistakes={Text("start means: forget what was there", "start 的意思是：忘掉之前的"): 52.0},
    )


@exercise(
    8,
    title=Text("How much at once", "同時有多少"),
    minutes=15,
    level="stretch",
    hint=Text(
        "Turn each span into two changes, (begin, +1) and (end, -1), sort them, and add up; at the same moment -1 sorts before +1.",
        "把每一段變成兩個變化：(begin, +1) 與 (end, -1)，排序後依序累加；同一時刻，-1 會排在 +1 前面。",
    ),
)
def check_exercise_8() -> None:
    expect(
        most_at_once([(0.0, 4.0), (1.0, 2.0), (3.0, 6.0), (3.5, 3.6), (7.0, 9.0)]),
        3,
        what=Text("five spans, three of which overlap", "五段，其中三段重疊"),
        mistakes={
            Text("that is how many there are", "這是總共有幾段"): 5,
            Text("pairs are not enough: count all that are open", "只看兩兩重疊不夠：要數所有還沒結束的"): 2,
        },
    )
    expect(
        most_at_once([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]),
        1,
        what=Text("three spans, one directly after the other", "三段首尾相接"),
        mistakes={
            Text(
                "where one ends and another begins they do not overlap: handle ends first",
                "一段結束、另一段開始，不算重疊：同一時刻先處理結束",
            ): 2
        },
    )
    expect(most_at_once([]), 0, what=Text("no spans", "沒有任何一段"))


METRICS = """# HELP nv_inference_count Number of inferences
# TYPE nv_inference_count counter
nv_inference_count{version="1",model="tiny"} 12
nv_inference_count{model="linear",version="2"} 1.5e+06

nv_cpu_utilization 0.25
"""


@exercise(
    9,
    title=Text("Read the metrics", "讀取指標"),
    minutes=15,
    level="core",
    hint=Text(
        'Skip empty lines and those with "#". re.fullmatch(r"(\\w+)(?:\\{(.*)\\})?\\s+(\\S+)", line) gives name, labels and value; '
        're.findall(r\'(\\w+)="([^"]*)"\', labels) gives the pairs.',
        '跳過空行與 "#" 開頭的行。re.fullmatch(r"(\\w+)(?:\\{(.*)\\})?\\s+(\\S+)", line) 給出名稱、標籤與數值；'
        're.findall(r\'(\\w+)="([^"]*)"\', labels) 給出一對對標籤。',
    ),
)
def check_exercise_9() -> None:
    name = "nv_inference_count"
    tiny, linear = (("model", "tiny"), ("version", "1")), (("model", "linear"), ("version", "2"))
    want = {(name, tiny): 12.0, (name, linear): 1.5e6, ("nv_cpu_utilization", ()): 0.25}
    expect(
        parse_metrics(METRICS),
        want,
        atol=1e-9,
        what=Text("three metrics, one without labels, and comments between them", "三個指標，其中一個沒有標籤，中間夾著註解"),
        mistakes={
            Text("sort the pairs of labels: their order on the line means nothing", "標籤要排序：在那一行的順序沒有意義"): {
                (name, tuple(reversed(tiny))): 12.0,
                (name, linear): 1.5e6,
                ("nv_cpu_utilization", ()): 0.25,
            },
            Text("the metric without labels is missing", "漏了沒有標籤的指標"): {(name, tiny): 12.0, (name, linear): 1.5e6},
            Text("values are numbers: float(...)", "數值要轉成數字：float(...)"): {
                (name, tiny): "12",
                (name, linear): "1.5e+06",
                ("nv_cpu_utilization", ()): "0.25",
            },
            Text("the labels belong to the key: two models have this metric", "標籤也是鍵的一部分：有兩個模型都有這個指標"): {
                (name, ()): 1.5e6,
                ("nv_cpu_utilization", ()): 0.25,
            },
        },
    )
