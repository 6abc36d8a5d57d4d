"""Every zh-TW text says what a reader in Taiwan expects: the glossary's words, and no simplified characters.

Looked at: zh-TW pages and READMEs, quizzes and manifests, the Chinese in the labs' sources and in the messages of
`onepiece`. The words to avoid are in docs/glossary.toml, with the longer words that may contain them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.toml"
TERMS = tomllib.loads(GLOSSARY.read_text(encoding="utf-8"))["terms"]
IDEOGRAPH = re.compile(r"[\u4e00-\u9fff]")
QUOTE = "glossary: quote"  # on a line that must show such a word
GENERATED = {"_build", "node_modules", "results", "__pycache__", "figures"}

# word to avoid -> what we write instead, and the words that may contain it
AVOID = {word: (term["zh-TW"], term.get("unless", [])) for term in TERMS for word in term.get("avoid", [])}


def texts() -> list[Path]:
    """Files that hold zh-TW text for readers; the glossary itself names the words to avoid."""
    patterns = (
        ("*.zh-TW.md", ""), ("**/*.zh-TW.md", "docs"), ("**/*.toml", "docs"), ("**/*.zh-TW.md", "labs"), ("**/*.toml", "labs"),
        ("**/*.py", "labs"), ("onepiece/**/*.py", "shared"), ("onepiece/**/*.in", "shared"),
    )  # fmt: skip
    found = {path for pattern, room in patterns for path in (ROOT / room).glob(pattern)}
    return sorted(path for path in found - {GLOSSARY} if not GENERATED & set(path.relative_to(ROOT).parts))


def complaints(text: str) -> Iterator[str]:
    """What is wrong with a text, one line each: the place, what was found and what we write instead."""
    for number, line in enumerate(text.splitlines(), 1):
        if QUOTE in line or not IDEOGRAPH.search(line):
            continue
        for word, (instead, unless) in AVOID.items():
            rest = line
            for allowed in unless:
                rest = rest.replace(allowed, " " * len(allowed))
            if word in rest:
                yield f"line {number}: {word} -> {instead}"
        simplified = sorted({sign for sign in IDEOGRAPH.findall(line) if not in_big5(sign)})
        if simplified:
            yield f"line {number}: not used in Taiwan: {' '.join(simplified)}"


def in_big5(sign: str) -> bool:
    """Big5 holds what Taiwan writes; simplified characters are not in it, apart from those that are old words too."""
    try:
        sign.encode("big5")
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_keeps_to_the_glossary(path: Path) -> None:
    found = list(complaints(path.read_text(encoding="utf-8")))
    assert not found, "\n".join([f"{path.relative_to(ROOT)}:", *found])


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("這段代碼處理數據", ["程式碼", "資料"]),
        ("默認支持網絡緩存", ["預設", "支援", "網路", "快取"]),
        ("內存不足的進程和線程", ["記憶體", "行程", "執行緒"]),
        ("調用這個接口，返回字符串", ["呼叫", "介面", "字串", "字串"]),
        ("模型質量取決於激活值", ["品質", "激勵值"]),
        ("这个参数", ["not used in Taiwan: 个 参 数 这"]),
        ("優化器", ["最佳化"]),
    ],
)
def test_what_does_not_belong_is_found(line: str, instead: list[str]) -> None:
    found = list(complaints(line))
    assert len(found) == len(instead)
    assert all(any(complaint.endswith(word) for complaint in found) for word in instead)


@pytest.mark.parametrize(
    "line",
    [
        "通過關卡，透過測試學習",
        "視頻率而定，先進程式語言的離線程式",
        "錯誤代碼與語言代碼",
        "在一個行程內存放兩份權重",
        "機率質量的總和是一",
        "工程序列長度",
        "最佳化器更新參數，據此調整變形參數",
        "用戶端的中文檔名，品質量測時延長頻帶寬度，LoRA 與全參數微調用同樣的步數",
        "這裡故意引用優化 <!-- glossary: quote -->",
        "裡面、著名、台灣、只、后羿、了解、於是、群組",
    ],
)
def test_what_belongs_is_left_alone(line: str) -> None:
    assert list(complaints(line)) == []


def test_the_glossary_is_sound() -> None:
    keys = {"term", "zh-TW", "note", "avoid", "unless"}
    assert len(TERMS) >= 60
    assert all({"term", "zh-TW"} <= set(term) <= keys for term in TERMS)
    assert all(set(term["note"]) == {"en", "zh-TW"} and all(term["note"].values()) for term in TERMS if "note" in term)
    names = [term["term"] for term in TERMS]
    assert len(names) == len(set(names))
    # What we recommend must pass: a glossary that forbids its own words would be no help.
    assert [complaint for term in TERMS for complaint in complaints(term["zh-TW"])] == []
    for term in TERMS:
        assert all(any(word in allowed for word in term["avoid"]) for allowed in term.get("unless", []))


def test_there_is_something_to_read() -> None:
    rooms = {path.relative_to(ROOT).parts[0] for path in texts()}
    assert {"README.zh-TW.md", "docs", "labs", "shared"} <= rooms
