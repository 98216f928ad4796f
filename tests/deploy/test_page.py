"""The endpoint's page, in a real browser."""

from __future__ import annotations

import sys
from pathlib import Path

import http_servers
import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import browser

from ray_pipeline.job import Serve


@pytest.fixture(scope="module")
def window():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def port(classifier):
    with http_servers.running(http_servers.endpoint(classifier.bundle, Serve())) as port:
        yield port


@pytest.fixture
def page(window, port):
    window.open(f"http://127.0.0.1:{port}/model/")
    return window


def test_a_row_is_predicted_as_by_the_api(page, port, classifier):
    page.type("#key", http_servers.KEY)
    page.click("#form button")
    label = page.waited("#headline", bool)
    described = httpx.get(f"http://127.0.0.1:{port}/model/openapi.json").json()
    request = described["paths"]["/model/predict"]["post"]["requestBody"]["content"]
    answer = httpx.post(
        f"http://127.0.0.1:{port}/model/predict",
        json=request["application/json"]["example"],
        headers={"X-API-Key": http_servers.KEY},
    )
    assert label == answer.json()["predictions"][0]["label"]
    assert classifier.bundle.manifest.version in page.text("#took")
    assert page.complaints() == []


def test_what_is_wrong_is_shown_beside_its_field(page):
    page.type("#key", http_servers.KEY)
    page.run("document.querySelector('[data-name=age] input').value = 'abc'")
    page.click("#form button")
    page.waited("#headline", lambda text: "422" in text)
    assert "expected integer" in page.text("[data-name=age] small")
    assert "wrong" in page.run("return document.querySelector('[data-name=age]').className")


def test_without_a_key_it_says_so(page):
    page.click("#form button")
    assert "401" in page.waited("#headline", bool)
    assert "needs an API key" in page.text("#detail")


def test_it_shows_how_the_replica_does(page):
    before = int(page.waited("#health [data-of=requests]", str.isdigit))
    page.type("#key", http_servers.KEY)
    page.click("#form button")
    page.waited("#health [data-of=requests]", lambda text: text == str(before + 1))
    assert page.text("#health [data-of=p99_ms]").endswith(" ms")
    assert page.text("#health [data-of=failed]") == "0"


@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("path", ["", "docs"])
def test_it_fits_wide_and_narrow_windows(window, port, width, path, tmp_path):
    window.open(f"http://127.0.0.1:{port}/model/{path}", width=width)
    wide, inside = window.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inside
    window.picture(tmp_path / "page.png")
    assert window.complaints() == []


def test_nothing_that_is_written_into_the_page_runs(page):
    """The policy lets in the page's own script, by its hash, and no other."""
    page.run(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s);"
    )
    assert page.run("return window.ran") is None
    assert any("Content Security Policy" in told for told in page.complaints())
