"""Chromium, driven by selenium, with what its page says and asks for."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
LACKING = [
    name
    for name, there in (
        *(("chromium", CHROMIUM), ("chromedriver", DRIVER)),
        ("the package selenium", importlib.util.find_spec("selenium")),
    )
    if not there
]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """A browser, with what its page said and asked for."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def open(self, page: Path, size: tuple[int, int] = DESKTOP, **emulated: str) -> None:
        """Open a page at a size; emulated: media features, and `media` for the type."""
        self.emulate(size, **emulated)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(page.as_uri())

    def emulate(self, size: tuple[int, int] = DESKTOP, media: str = "", **features: str) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        named = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        arguments = {"media": media, "features": named}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", arguments)

    def script(self, allowed: bool) -> None:
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    def run(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        """Click an element in the middle of the screen, where nothing lies over it."""
        place = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        element = self.find(selector)
        self.run(place, element)
        element.click()

    def requests(self) -> list[str]:
        """What the page asked for, without what is in its own text."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        addresses = [found["request"]["url"] for found in sent]
        return [address for address in addresses if not address.startswith("data:")]
