"""Tests of a report's page in Chromium, opened from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import write_run
from tests.report.html.chromium import DESKTOP, LACKING, PHONE, Browser
from tests.report.html.pages import (
    made,
    write_calibration,
    write_explanation,
    write_film,
    write_runs,
)

pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")

HOSTILE = "<img src=x onerror=document.title='hacked'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    runs = write_runs(folder / "runs")
    write_run(runs / HOSTILE, 9, policy={"name": "tt"}, more={"method": HOSTILE})
    write_calibration(runs / "dt-0")
    write_explanation(runs / "dt-1")
    write_film(runs / "dt-0" / "films" / f"{HOSTILE}.gif")
    path = folder / "report.html"
    path.write_text(made(runs), encoding="utf-8")
    return path


def test_it_opens_from_disk_without_network_or_faults(browser: Browser, page: Path) -> None:
    browser.open(page)
    for part in browser.driver.find_elements("css selector", "details"):
        browser.run("arguments[0].open = true", part)
    assert browser.requests() == [page.as_uri()]
    assert browser.driver.get_log("browser") == []
    assert browser.run("return [...document.images].every((i) => i.complete && i.naturalWidth)")


def test_its_policy_stops_what_would_load_or_run(browser: Browser, page: Path) -> None:
    """So that a name that is not escaped would still do nothing."""
    browser.open(page)
    code = "document.body.insertAdjacentHTML('beforeend', arguments[0])"
    browser.run(code, f"{HOSTILE}<img src='http://127.0.0.1:9/x.png'>")
    browser.run("return document.fonts.ready")
    faults = [entry["message"] for entry in browser.driver.get_log("browser")]
    assert faults
    assert all("Content Security Policy" in fault for fault in faults)
    assert browser.driver.title != "hacked"


def test_a_name_like_markup_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.driver.title == "3 methods on 2 datasets"
    assert browser.run("return document.querySelectorAll('[onerror]').length") == 0
    assert HOSTILE in browser.find("#runs").text
    browser.run("document.getElementById('filter-text').value = arguments[0]", HOSTILE)
    browser.run("document.getElementById('filters').dispatchEvent(new Event('input'))")
    (row,) = visible(browser, "#runs")
    assert row.text.startswith(HOSTILE)


def visible(browser: Browser, table: str) -> list[Any]:
    rows = browser.driver.find_elements("css selector", f"{table} tbody tr")
    return [row for row in rows if row.is_displayed()]


def column(browser: Browser, table: str, number: int) -> list[str]:
    code = (
        "return [...document.querySelectorAll(arguments[0])].map((c) => c.firstChild.textContent)"
    )
    return browser.run(code, f"{table} tbody tr > :nth-child({number})")


def test_tables_are_sorted_by_click_and_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    score, name = (f"#runs th:nth-child({number})" for number in (5, 1))
    assert browser.find(score).get_attribute("aria-sort") is None
    browser.click(f"{score} button")
    assert browser.find(score).get_attribute("aria-sort") == "descending"
    found = [float(text.removesuffix(" raw")) for text in column(browser, "#runs", 5)]
    assert found == sorted(found, reverse=True)
    assert len(found) == 8
    button = browser.find(f"{score} button")
    button.send_keys("\ue007")  # Enter
    assert browser.find(score).get_attribute("aria-sort") == "ascending"
    found = [float(text.removesuffix(" raw")) for text in column(browser, "#runs", 5)]
    assert found == sorted(found)
    assert browser.driver.switch_to.active_element == button
    browser.find(f"{name} button").send_keys(" ")
    assert browser.find(name).get_attribute("aria-sort") == "ascending"
    assert browser.find(score).get_attribute("aria-sort") is None
    names = column(browser, "#runs", 1)
    assert names[:4] == [HOSTILE, "bc-0", "bc-1", "bc-2"]
    # What has no number comes last, up and down.
    browser.click("#overview th:nth-child(3) button")
    assert column(browser, "#overview", 3)[-1] == "-"
    browser.click("#overview th:nth-child(3) button")
    assert column(browser, "#overview", 3)[-1] == "-"


def test_filters(browser: Browser, page: Path) -> None:
    browser.open(page)
    whole = len(visible(browser, "#runs"))
    box = browser.find("#filter-text")
    box.send_keys("BC-1")
    assert [row.text.split()[0] for row in visible(browser, "#runs")] == ["bc-1"]
    assert " of " in browser.find("#filter-count").text
    browser.click("#filters [type=reset]")
    assert browser.run("return document.querySelectorAll('[hidden]').length") <= 1  # the tip
    assert len(visible(browser, "#runs")) == whole
    assert browser.find("#filter-count").text == ""

    option = "#filter-{} option:nth-child({})".format
    browser.click(option("d", 2))
    chosen = browser.find(option("d", 2)).text
    assert all(chosen in row.text for row in visible(browser, "#runs"))
    shown = browser.driver.find_elements("css selector", "#learning figure.panel")
    assert sum(figure.is_displayed() for figure in shown) == 1
    browser.click("#filters [type=reset]")

    browser.click(option("m", 3))
    chosen = browser.find(option("m", 3)).text
    assert chosen == "cloning"
    assert {row.text[:2] for row in visible(browser, "#runs")} == {"bc"}
    drawn = browser.driver.find_elements("css selector", "#learning .by-updates g.series")
    assert {g.get_attribute("data-name") for g in drawn if g.is_displayed()} == {"cloning"}
    heads = [
        head.text for head in browser.driver.find_elements("css selector", "#overview thead th")
    ]
    assert [head for head in heads if head] == ["dataset", "target", "cloning"]
    browser.click("#filters [type=reset]")


def test_the_theme_follows_the_system_and_the_button(browser: Browser, page: Path) -> None:
    def paper() -> str:
        return browser.run("return getComputedStyle(document.body).backgroundColor")

    browser.open(page, prefers_color_scheme="light")
    light, button = paper(), browser.find("#theme")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    dark = paper()
    assert (light, button.get_attribute("aria-pressed")) == ("rgb(255, 255, 255)", "true")
    assert dark != light
    browser.open(page, prefers_color_scheme="dark")
    assert paper() == dark
    browser.click("#theme")
    assert paper() == light


CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const paper = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const faults = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || element.closest("script, [hidden], title, desc, option")) continue;
  const style = getComputedStyle(element);
  const ink = parse(element.localName === "text" ? style.fill : style.color);
  const [a, b] = [luminance(ink), luminance(paper(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) faults.push([element.localName, element.textContent.slice(0, 30), ratio]);
}
return faults;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, prefers_color_scheme=scheme)
    assert browser.run(CONTRAST) == []


NAMES = """
const name = (e) => (e.getAttribute("aria-label") ?? "") || e.textContent.trim()
  || [...(e.labels ?? [])].map((l) => l.textContent.trim()).join("")
  || (e.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean)
       .map((id) => document.getElementById(id)?.textContent ?? "").join("");
return [...document.querySelectorAll(
  "a, button, input, select, summary, output, fieldset, form, nav, section, table, [tabindex]")]
  .filter((e) => e.localName !== "output" && !name(e))
  .map((e) => e.outerHTML.slice(0, 80));
"""


def test_what_can_be_used_has_a_name_and_shows_its_focus(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run(NAMES) == []
    seen = []
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys("\ue004")  # Tab
        focused = browser.driver.switch_to.active_element
        outline = browser.run("return getComputedStyle(arguments[0]).outlineStyle", focused)
        seen.append((focused.tag_name, outline))
    assert seen[0][0] == "a"  # to skip the contents
    assert {tag for tag, _ in seen} >= {"a", "button"}
    assert all(outline != "none" for _, outline in seen)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_only_tables_scroll_sideways(browser: Browser, page: Path, size: tuple[int, int]) -> None:
    browser.open(page, size)
    browser.run("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    assert browser.run("return innerWidth") == size[0]
    small = "return Math.min(...[...document.querySelectorAll('.chart text')]"
    small += ".filter((t) => t.checkVisibility()).map((t) => t.getBoundingClientRect().height))"
    assert browser.run(small) > 9


def test_values_are_shown_under_the_pointer(browser: Browser, page: Path) -> None:
    from selenium.webdriver import ActionChains

    browser.open(page)
    drawing = browser.find("#learning .by-updates .chart svg")
    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", drawing)
    ActionChains(browser.driver).move_to_element(drawing).perform()
    shown = browser.find("#tip").text.splitlines()
    assert shown[0] in ("25 updates", "50 updates", "75 updates")
    assert shown[1].startswith(("returns: ", "cloning: ", HOSTILE))
    ActionChains(browser.driver).move_to_element(browser.find("#learning h2")).perform()
    assert not browser.find("#tip").is_displayed()


def test_the_axis_is_chosen_and_links_open_what_is_closed(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.find(".charts.by-updates").is_displayed()
    browser.click("#by-seconds")
    assert not browser.find(".charts.by-updates").is_displayed()
    assert browser.find(".charts.by-seconds").is_displayed()
    browser.click("#runs tbody a")
    target = browser.find(browser.run("return location.hash"))
    assert target.get_attribute("open") is not None


def test_it_can_be_read_without_scripts(browser: Browser, page: Path) -> None:
    browser.script(allowed=False)
    try:
        browser.open(page)
        for selector in ("#runs", "#overview", "#learning .by-updates .chart svg", "#theme + *"):
            found = browser.driver.find_elements("css selector", selector)
            assert not found or found[0].is_displayed()
        assert not browser.find("#filters").is_displayed()
        assert not browser.find("#theme").is_displayed()
        assert browser.driver.find_elements("css selector", "thead button") == []
        browser.click("#by-seconds")  # the style sheet chooses
        assert browser.find(".charts.by-seconds").is_displayed()
    finally:
        browser.script(allowed=True)


def test_in_print_all_is_open_and_black_on_white(browser: Browser, page: Path) -> None:
    browser.open(page, media="print", prefers_color_scheme="dark")
    assert browser.run("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    for selector in ("#filters", "#theme", "nav", ".switch"):
        assert not browser.find(selector).is_displayed()
    closed = "return [...document.querySelectorAll('details > :not(summary)')]"
    assert browser.run(f"{closed}.every((e) => e.checkVisibility())")
    boxes = (
        "return [...document.querySelectorAll('.box')].map((b) => getComputedStyle(b).maxHeight)"
    )
    assert set(browser.run(boxes)) == {"none"}
    for axis in ("updates", "seconds"):
        assert browser.find(f".charts.by-{axis}").is_displayed()
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {})
    assert len(printed["data"]) > 10_000
