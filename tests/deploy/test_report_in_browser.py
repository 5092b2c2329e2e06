"""The page of a run in a headless Chromium: pictures are drawn, tables sort and filter, no name runs as a script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.report import report
from tests.deploy.run_stand_ins import write_run, write_sweep

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser, directory: Path):
    page = directory / "page.html"
    page.write_text(report(directory))
    browser.get_log("browser")
    browser.get(page.as_uri())
    return browser


def column(browser, table: int, index: int) -> list[str]:
    """What stands in a column of the n-th sortable table, hidden rows left out."""
    script = (
        "return [...document.querySelectorAll('table.sortable')[arguments[0]].tBodies[0].rows]"
        ".filter((row) => !row.hidden).map((row) => row.cells[arguments[1]].textContent)"
    )
    return browser.execute_script(script, table, index)


def click(browser, table: int, index: int) -> None:
    browser.execute_script(
        "document.querySelectorAll('table.sortable')[arguments[0]].tHead.rows[0].cells[arguments[1]]"
        ".querySelector('button').click()",
        table,
        index,
    )


def test_pictures_are_drawn_tables_sort_and_nothing_hostile_runs(browser, tmp_path: Path) -> None:
    opened(browser, write_run(tmp_path / "run"))
    assert browser.title == "Run run"
    sizes = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert sizes == [90, 90]
    click(browser, 0, 3)  # parameters: numbers from the largest
    assert column(browser, 0, 3) == ["12,000", "7,000", "900", "80", "70"]
    click(browser, 0, 3)
    assert column(browser, 0, 3) == ["70", "80", "900", "7,000", "12,000"]
    click(browser, 0, 2)  # kinds: names from the first
    assert column(browser, 0, 2)[0] == "assembly"
    heads = browser.execute_script(
        "return [...document.querySelectorAll('th')].map((h) => h.getAttribute('aria-sort'))"
    )
    assert [head for head in heads if head] == ["ascending"]
    field = browser.find_element("css selector", "input.filter")
    field.send_keys("network")
    assert column(browser, 0, 1) == ["b[0:4]"]
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [address for address in asked if not address.startswith("data:")] == []


def test_a_script_that_got_into_the_page_would_not_run(browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(report(write_run(tmp_path / "run")).replace("<h1>", "<script>document.title = 'run'</script><h1>"))
    browser.get(page.as_uri())
    assert browser.title == "Run run"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_the_jobs_of_a_sweep_sort_with_missing_values_last(browser, tmp_path: Path) -> None:
    opened(browser, write_sweep(tmp_path / "sweep"))
    click(browser, 1, 4)
    assert column(browser, 1, 4) == ["0.9", "0.8", "0.7", "0.7", "0.7", ""]
    click(browser, 1, 4)
    assert column(browser, 1, 4) == ["0.7", "0.7", "0.7", "0.8", "0.9", ""]
    assert browser.title == "Sweep sweep"
