"""A real browser, driven by the W3C WebDriver protocol that Chromium's own driver speaks."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import servers

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, driver: httpx.Client, session: str) -> None:
        self._driver, self._path = driver, f"/session/{session}"

    def call(self, method: str, path: str, **body: Any) -> Any:
        more = {"json": body} if method == "POST" else {}
        answer = self._driver.request(method, self._path + path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        """Load a page in a window whose inside has that size."""
        self.call("POST", "/window/rect", width=width, height=height)
        self.call("POST", "/url", url=url)

    def resize(self, width: int, height: int) -> None:
        """Have the inside of the window that size, also where no real window is so narrow."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        command = "Emulation.setDeviceMetricsOverride"
        self.call("POST", "/goog/cdp/execute", cmd=command, params=size)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body returns in the page."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def find(self, css: str) -> str:
        return self.call("POST", "/element", using="css selector", value=css)[_ELEMENT]

    def type(self, css: str, text: str) -> None:
        self.call("POST", f"/element/{self.find(css)}/value", text=text)

    def click(self, css: str) -> None:
        self.call("POST", f"/element/{self.find(css)}/click")

    def text(self, css: str) -> str:
        return self.call("GET", f"/element/{self.find(css)}/text")

    def waited(self, css: str, right: Any, seconds: float = 30) -> str:
        """The text of an element once `right` is true of it."""
        end = time.monotonic() + seconds
        while not right(found := self.text(css)):
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """What the browser has complained of, refused scripts and styles among it, but for
        answers of 400 and above."""
        found = self.call("POST", "/se/log", type="browser")
        return [
            entry["message"]
            for entry in found
            if entry["level"] == "SEVERE" and entry["source"] != "network"
        ]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@contextmanager
def browser() -> Iterator[Browser]:
    port = servers.free_port()
    driver = servers.Server(port, ["chromedriver", f"--port={port}", "--log-level=OFF"])
    arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    with (
        servers.running(driver),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        made = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        assert made.status_code == 200, made.text
        session = made.json()["value"]["sessionId"]
        try:
            yield Browser(client, session)
        finally:
            client.delete(f"/session/{session}")
