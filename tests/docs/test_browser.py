"""Pages in a real headless Chromium: search, quiz, language, dark mode, keyboard, phone; and nothing asked of anyone else."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser, Page
from built_site import Built

CHAPTER = "chapters/1.3-optimisation-and-alignment/index.html"
LAB = "labs/lab-1.5-flashattention"
PAGES = (
    "index.html",
    CHAPTER,
    f"{LAB}/index.html",
    f"{LAB}/02-flashattention-demo.html",
    "guides/troubleshooting.html",
    "paths.html",
    "glossary.html",
    "peft-family.html",
    "chapters/1.1-parameter-efficient-fine-tuning/index.html",
)


def search(page: Page, wanted: str) -> list[str]:
    """Titles of what the search finds."""
    page.press("k", 75, control=True)
    page.wait("document.getElementById('site-search').open && document.activeElement.type === 'search'")
    page.type(wanted)
    page.wait("document.querySelector('.search-status').textContent !== ''")
    return list(page.value("[...document.querySelectorAll('.search-results strong')].map(found => found.textContent)"))


@pytest.mark.parametrize("language", ["en", "zh-TW"])
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_complains_of_nothing_fits_and_asks_nobody_else(
    chromium: Browser, address: str, built: Built, language: str, name: str, width: int
) -> None:
    page = chromium.open(f"{address}{language}/{name}", width=width)
    chromium.collect(0.2)
    assert page.complaints() == []
    assert [request for request in page.requests() if not request.startswith((address, "data:"))] == []
    assert page.value("document.documentElement.scrollWidth") <= width, "the page itself does not scroll sideways"
    assert page.value("document.querySelectorAll('h1').length") == 1


@pytest.mark.parametrize(
    ("language", "wanted", "in_title"),
    [
        ("zh-TW", "參數高效微調", ""),
        ("zh-TW", "記憶體", ""),
        ("en", "online softmax", "Optimisation"),
        ("en", "flashattention", "FlashAttention"),
    ],
)
def test_search_finds(chromium: Browser, address: str, language: str, wanted: str, in_title: str) -> None:
    page = chromium.open(f"{address}{language}/index.html")
    titles = search(page, wanted)
    assert titles, page.value("document.querySelector('.search-status').textContent")
    assert any(in_title in title for title in titles)
    first = page.value("document.querySelector('.search-results').textContent").replace(" ", "")
    assert wanted.replace(" ", "").lower() in first.lower()
    page.press("Enter", 13, text="\r")
    page.wait("document.readyState === 'complete' && !location.pathname.endsWith('/index.html') || location.pathname.split('/').length > 3")
    assert page.complaints() == []
    assert all(request.startswith((address, "data:")) for request in page.requests())


def test_search_says_when_there_is_nothing(chromium: Browser, address: str) -> None:
    page = chromium.open(f"{address}zh-TW/index.html")
    assert search(page, "參數龘高效") == []
    assert page.value("document.querySelector('.search-status').textContent") == "找不到結果。"


def test_a_quiz_can_be_answered_by_keyboard_and_explains(chromium: Browser, address: str) -> None:
    page = chromium.open(f"{address}en/{CHAPTER}")
    question = "document.querySelector('.quiz-question[data-kind=single]')"
    wrong = page.value(f"[...{question}.querySelectorAll('.quiz-answer li')].findIndex(item => item.dataset.right !== 'true')")
    page.value(f"{question}.querySelector('input[value=\"{wrong}\"]').focus()")
    page.press(" ", 32, text=" ")
    page.press("Enter", 13, text="\r")
    page.wait(f"{question}.classList.contains('answered-wrong')")
    assert page.value(f"{question}.querySelector('.quiz-status').textContent").startswith("Not yet")
    assert page.value(f"{question}.querySelectorAll('.quiz-choices .quiz-why').length") == 1, (
        "the chosen one is explained, the others stay open"
    )
    right = page.value(f"[...{question}.querySelectorAll('.quiz-answer li')].findIndex(item => item.dataset.right === 'true')")
    page.value(f"{question}.querySelector('input[value=\"{right}\"]').focus()")
    page.press(" ", 32, text=" ")
    page.press("Enter", 13, text="\r")
    page.wait(f"{question}.classList.contains('answered-right')")
    choices = page.value(f"{question}.querySelectorAll('.quiz-choices > li').length")
    assert page.value(f"{question}.querySelectorAll('.quiz-choices .quiz-why').length") == choices, "now every choice is explained"
    assert page.value("document.querySelector('.quiz-score').textContent").startswith("1 of")
    assert page.complaints() == []


def test_every_question_of_a_quiz_accepts_its_own_answer(chromium: Browser, address: str) -> None:
    page = chromium.open(f"{address}zh-TW/{CHAPTER}")
    answer_all = """[...document.querySelectorAll('.quiz-question')].forEach(form => {
        const number = form.querySelector('[data-answer]');
        if (number) form.querySelector('input').value = number.dataset.answer;
        form.querySelectorAll('.quiz-choices input').forEach(input => {
            input.checked = form.querySelector(`.quiz-answer [data-choice="${input.value}"]`).dataset.right === 'true'; });
        if (form.dataset.kind === 'order') {
            const list = form.querySelector('.quiz-choices');
            for (let round = 0; round < list.children.length; round++)
                for (const item of [...list.children])
                    while (item.previousElementSibling && Number(item.previousElementSibling.dataset.choice) > Number(item.dataset.choice))
                        item.querySelector('.quiz-move').click();
        }
        form.requestSubmit(); })"""
    page.value(answer_all)
    state = page.value("[...document.querySelectorAll('.quiz-question')].map(form => [form.id, form.classList.contains('answered-right')])")
    assert state
    assert [name for name, right in state if not right] == []
    assert page.complaints() == []


def test_an_order_is_wrong_before_it_is_sorted(chromium: Browser, address: str, built: Built) -> None:
    page = chromium.open(f"{address}en/{CHAPTER}")
    if not page.value("document.querySelectorAll('.quiz-question[data-kind=order]').length"):
        pytest.skip("no question of this kind")
    page.value("document.querySelectorAll('.quiz-question[data-kind=order]').forEach(form => form.requestSubmit())")
    assert page.value(
        "[...document.querySelectorAll('.quiz-question[data-kind=order]')].every(form => form.classList.contains('answered-wrong'))"
    )


def test_without_scripts_a_quiz_can_still_be_read(chromium: Browser, address: str) -> None:
    page = chromium.open(f"{address}en/{CHAPTER}", scripts=False)
    page.call("DOM.enable")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    folded = page.call("DOM.querySelectorAll", nodeId=root, selector=".quiz-question details.quiz-answer summary")["nodeIds"]
    forms = page.call("DOM.querySelectorAll", nodeId=root, selector=".quiz-question")["nodeIds"]
    assert len(folded) == len(forms) > 0
    assert page.call("DOM.querySelectorAll", nodeId=root, selector=".quiz-check")["nodeIds"] == [], "no button that would do nothing"


@pytest.mark.parametrize(("language", "other"), [("en", "zh-TW"), ("zh-TW", "en")])
def test_the_language_switch_keeps_the_page(chromium: Browser, address: str, language: str, other: str) -> None:
    page = chromium.open(f"{address}{language}/{LAB}/index.html")
    page.value("document.querySelector('a.language-switch').click()")
    page.wait(f"document.readyState === 'complete' && document.documentElement.lang === '{other}'")
    assert page.value("location.href") == f"{address}{other}/{LAB}/index.html"


@pytest.mark.parametrize(("language", "chosen"), [("en-US", "en"), ("zh-TW", "zh-TW")])
def test_the_first_page_chooses_the_readers_language(address: str, tmp_path: Path, chromium: Browser, language: str, chosen: str) -> None:
    with Browser(tmp_path / "profile", language) as browser:
        page = browser.open(address)
        page.wait(f"location.pathname === '/{chosen}/index.html' && document.readyState === 'complete'")


def test_light_and_dark(chromium: Browser, address: str) -> None:
    brightness = """(() => { const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number); return (r + g + b) / 3; })()"""
    assert chromium.open(f"{address}en/index.html").value(brightness) > 200
    page = chromium.open(f"{address}en/index.html", dark=True)
    assert page.value(brightness) < 60
    page.value("document.querySelector('.theme-change-button[data-mode=light]').click()")
    assert page.value(brightness) > 200
    page.go(f"{address}en/{LAB}/index.html")
    assert page.value(brightness) > 200, "the choice is kept"
    page.value("localStorage.clear()")


def test_the_keyboard_reaches_the_content_first_and_then_everything(chromium: Browser, address: str) -> None:
    page = chromium.open(f"{address}en/{LAB}/index.html")
    page.press("Tab", 9)
    assert page.value("document.activeElement.getAttribute('href')") == "#main-content"
    seen = set()
    for _ in range(60):
        page.press("Tab", 9)
        seen.add(page.value("document.activeElement.className || document.activeElement.tagName"))
    assert any("site-search-open" in name for name in seen)
    assert any("language-switch" in name for name in seen)
    assert any("theme-switch-button" in name for name in seen)


def test_formulas_are_set_in_their_own_font(chromium: Browser, address: str) -> None:
    page = chromium.open(f"{address}en/{CHAPTER}")
    assert page.value(
        "document.fonts.ready.then(() => [...document.fonts].some(font => font.family.includes('STIX') && font.status === 'loaded'))"
    )
    assert page.value("document.querySelectorAll('math').length") > 50
    assert page.value("document.querySelectorAll('math merror').length") == 0
