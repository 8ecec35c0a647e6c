#!/usr/bin/env python3
"""Opens a page of `gable look report` in headless Chromium and checks that it works there.

    python3 scripts/check_report.py PAGE.html [--shots FOLDER]

No errors in the console, no request but for the page itself, a drawn square per head, one click enlarges it, the
slider changes the probabilities, nothing is wider than a phone. With --shots, pictures in light, dark, phone width.
Needs chromedriver and chromium (Debian: chromium chromium-driver) and nothing else.
"""
import argparse
import base64
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


class Browser:
    """A headless browser, spoken to by the WebDriver protocol."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        driver = shutil.which("chromedriver")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if not driver or not chromium:
            sys.exit("check_report.py: chromedriver or chromium is missing: apt-get install chromium chromium-driver")
        self.process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        options = {
            "binary": chromium,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1000"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        for _ in range(100):
            try:
                answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        else:
            sys.exit("check_report.py: chromedriver does not answer")
        self.base += f"/session/{answer['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            sys.exit(f"check_report.py: {path}: {error.read().decode()[:600]}")

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def developer(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width, height, mobile=False):
        self.developer("Emulation.setDeviceMetricsOverride", width=width, height=height,
                       deviceScaleFactor=2 if mobile else 1, mobile=mobile)

    def shot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).scrollIntoView({ block: 'center', behavior: 'instant' })", selector)
        element = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{next(iter(element.values()))}/click", {})

    def close(self):
        self.call("DELETE", "")
        self.process.terminate()
        self.process.wait()


DRAWN = """
const blank = (c) => { const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return !c.width || !p.some((v, i) => i % 4 === 3 && v > 0); };
return [...document.querySelectorAll(arguments[0])].filter((c) => !blank(c)).length;
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    failures = []

    def check(holds, what):
        print("ok  " if holds else "FAIL", what)
        if not holds:
            failures.append(what)

    browser = Browser()
    try:
        browser.size(1280, 1000)
        address = args.page.resolve().as_uri()
        browser.call("POST", "/url", {"url": address})
        time.sleep(0.5)
        model = browser.run("return JSON.parse(document.getElementById('data').textContent).model")
        heads = model["layers"] * model["heads"]
        check(browser.run(DRAWN, "#heads canvas") == heads, f"{heads} heads are drawn")
        side = browser.run("return document.querySelector('.head').clientWidth")
        check(20 <= side <= 120, f"a square is {side} pixels wide: small multiples")
        check(browser.run("return document.querySelectorAll('.chip').length") > 0, "tokens are there")
        check(browser.run("return document.querySelectorAll('#grid tbody tr').length") == model["layers"] + 1,
              "a row per layer")

        check(not browser.run("return document.getElementById('enlarged').open"), "no head is enlarged at first")
        browser.click("#heads .head:nth-of-type(2)")
        check(browser.run("return document.getElementById('enlarged').open"), "one click enlarges a head")
        check(browser.run(DRAWN, "#big") == 1, "the enlarged head is drawn")
        browser.click("#close")

        text = "return document.getElementById('distribution').textContent + document.getElementById('entropy').textContent"
        before = browser.run(text)
        browser.run("const t = document.getElementById('t'); t.value = 60; t.dispatchEvent(new Event('input'))")
        check(browser.run(text) != before, "the slider changes the probabilities")
        browser.run("const t = document.getElementById('t'); t.value = 0; t.dispatchEvent(new Event('input'))")
        check(browser.run(text) == before, "and back")

        pictures = [("light", 1280, 1000, False), ("dark", 1280, 1000, False), ("phone", 390, 844, True)]
        for name, width, height, mobile in pictures:
            browser.size(width, height, mobile)
            theme = "dark" if name == "dark" else "light"
            browser.run("theme(arguments[0])", theme)
            check(browser.run("return document.documentElement.scrollWidth <= innerWidth"),
                  f"nothing sticks out at {width} pixels")
            if args.shots:
                args.shots.mkdir(parents=True, exist_ok=True)
                for section in ["", "tokens", "vectors", "attention", "layers", "guesses", "next"]:
                    browser.run("const e = document.getElementById(arguments[0]) || document.body;"
                                "e.scrollIntoView({ behavior: 'instant' })", section)
                    browser.shot(args.shots / f"{name}-{section or 'top'}.png")
                browser.run("opened = null; "
                            "enlarge(Math.floor(data.model.layers / 3), Math.min(6, data.model.heads - 1))")
                browser.shot(args.shots / f"{name}-head.png")
                browser.run("document.getElementById('enlarged').close()")

        errors = [e["message"] for e in browser.log("browser") if e["level"] in ("SEVERE", "WARNING")]
        check(not errors, f"the console is quiet {errors or ''}")
        events = [json.loads(e["message"])["message"] for e in browser.log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        # The first tab asks for its own empty page.
        foreign = [url for url in asked if url != address and not url.startswith(("data:", "chrome:", "about:"))]
        check(address in asked and not foreign, f"nothing but the page itself is loaded {foreign or ''}")
    finally:
        browser.close()
    sys.exit(1 if failures else 0)


main()
