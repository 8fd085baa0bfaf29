"""The operator's page in a real browser: it fills, survives a restart, restores a key, and shows hostile text as text.

usage: page_browser.py PATH_OF_THE_GATEWAY FOLDER_FOR_SCREENSHOTS

Needs chromium, chromedriver and `pip install selenium`; the tested version is in `.ci/run`.
"""

import contextlib
import datetime
import http.server
import json
import os
import pathlib
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid

from selenium import webdriver
from selenium.webdriver.common.by import By

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
KEYS = ["sk-expired-0123456789abcdef", "sk-research-0123456789abcdef", "sk-sales-0123456789abcdefxyz"]
TOKEN = "an-operators-token-0123456789"
PATIENCE = 60

class Provider(http.server.BaseHTTPRequestHandler):
    """Refuses the first key, limits the second for one model, and holds back requests that ask for it."""

    protocol_version = "HTTP/1.1"
    released = threading.Event()

    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/mcp":
            return self.tools(request)
        key = self.headers["authorization"].removeprefix("Bearer ")
        if key == KEYS[0]:
            return self.refuse(401, "invalid_api_key", {})
        if key == KEYS[1] and request["model"] == "gpt-4o":
            return self.refuse(429, "rate_limit_exceeded", {"retry-after": "300", "openai-organization": "research"})
        last = request["messages"][-1]
        prompt = last["content"]
        if prompt == "wait":
            self.released.wait(PATIENCE)
        if prompt == "fail":
            return self.refuse(500, "server_error", {})
        message = {"role": "assistant", "content": "Done."}
        wanted = {"call search": "search_pages", "call read": "read_page"}.get(prompt if last["role"] == "user" else "")
        if wanted:
            name = next(tool["function"]["name"] for tool in request["tools"] if tool["function"]["name"].endswith(wanted))
            call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        count = 900 + len(prompt) * 11
        usage = {"prompt_tokens": count, "completion_tokens": count // 7, "total_tokens": count + count // 7,
                 "prompt_tokens_details": {"cached_tokens": count // 2}}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if wanted else "stop"}
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"],
                  "choices": [choice], "usage": usage}
        self.answer(200, answer, {"openai-organization": "sales" if key == KEYS[2] else "research"})

    def do_GET(self):
        self.refuse(405, "method_not_allowed", {})  # The tool server sends nothing by itself.

    def tools(self, message):
        """An MCP server with a hostile tool, over streamable HTTP."""
        if "id" not in message:
            return self.answer(202, None, {})
        results = {
            "initialize": lambda: {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                                   "serverInfo": {"name": "wiki", "version": "1"}},
            "tools/list": lambda: {"tools": [{"name": name, "inputSchema": {"type": "object"}}
                                             for name in ("search_pages", "read_page", HOSTILE)]},
            "tools/call": lambda: {"content": [{"type": "text", "text": HOSTILE}],
                                   "isError": message["params"]["name"] == "read_page"},
        }
        result = results.get(message["method"], dict)()
        self.answer(200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, {})

    def refuse(self, status, code, headers):
        error = {"message": "refused", "type": "error", "param": None, "code": code}
        self.answer(status, {"error": error}, headers)

    def answer(self, status, body, headers):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Gateway:
    """A running gateway. Its ports are chosen here, so that a restart has the same ones."""

    def __init__(self, path, *arguments, env=None, ports=None):
        self.port, self.admin_port = ports or (free_port(), free_port())
        self.start_again = lambda: Gateway(path, *arguments, env=env, ports=(self.port, self.admin_port))
        command = [path, "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}", "--drain", "1"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={"PATH": "/usr/bin:/bin", **(env or {})})
        said = self.process.stdout.readline()
        if not said.startswith("listening on http://"):
            self.log.seek(0)
            raise RuntimeError(said + self.log.read().decode())
        self.page = f"http://127.0.0.1:{self.admin_port}/"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()

    def cpu_of_page(self):
        """Seconds of CPU time of the thread that serves the page."""
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == "admin":
                times = (task / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
                return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        raise RuntimeError("no thread serves the page")

    def ask(self, prompt, model="demo", actor=None, agent=None):
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]}).encode()
        headers = {"content-type": "application/json", **({"x-user-id": actor} if actor else {}),
                   **({"user-agent": agent} if agent else {})}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/chat/completions", body, headers)
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=PATIENCE).read()


class Page:
    """The page in a browser with a new profile."""

    def __init__(self):
        self.profile = tempfile.mkdtemp()
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                     "disable-background-networking", "disable-component-update", "disable-sync",
                     "disable-dev-shm-usage", "hide-scrollbars", f"user-data-dir={self.profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.size(1280, 900)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)

    def size(self, width, height, dark=False):
        """A window may not be narrower than 500 pixels; a device's screen may."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def text(self, selector="body"):
        """None while a page that is being loaded has no such element."""
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerText", selector)

    def has(self, text, selector="main"):
        """Waits until the text is on the page."""
        until(lambda: text in (self.text(selector) or ""), lambda: f"{text!r} is not in {self.text(selector)}")

    def lacks(self, text, selector="main"):
        def is_gone():
            found = self.text(selector)
            return found is not None and text not in found

        until(is_gone, lambda: f"{text!r} is in {self.text(selector)}")

    def press(self, selector, text):
        """The button with this text; the page may draw it anew while it is looked for."""
        script = """const button = [...document.querySelectorAll(arguments[0])].find((one) => one.innerText === arguments[1]);
                    if (button) button.click(); return Boolean(button);"""
        until(lambda: self.driver.execute_script(script, selector, text), lambda: f"no button {text!r} in {selector}")

    def is_untouched(self):
        """No text of callers, models or tools became markup, and nothing was blocked or failed."""
        assert "hacked" not in self.driver.title, self.driver.title
        found = self.driver.execute_script("return document.querySelectorAll('img, main script, b b, [onerror]').length")
        assert found == 0, f"{found} elements of callers"
        log = [line["message"] for line in self.driver.get_log("browser")]
        log = [line for line in log if "ERR_CONNECTION_REFUSED" not in line and "ERR_INCOMPLETE_CHUNKED" not in line]
        assert not log, log

    def picture(self, path, width, height, dark=False, whole=True, before=""):
        self.size(width, height, dark)
        time.sleep(0.6)  # The pictures wait for the end of a resize.
        if whole:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            self.size(width, height, dark)
            time.sleep(0.6)
        self.driver.execute_script(before)
        wide = self.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} pixels wide on a screen of {width}"
        self.driver.save_screenshot(str(path))
        self.size(1280, 900)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(holds, complain):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(complain())
        time.sleep(0.1)


def demo(gateway_path, page):
    """The page fills while requests run, restores a key, and comes back after a restart."""
    with Gateway(gateway_path) as gateway:
        page.driver.get(gateway.page)
        page.has("live", "header")
        page.has("No request yet.")
        gateway.ask("What time is it?", actor="ada")
        page.has("ada", "#ended")
        page.has("completed", "#ended")
        page.has("1 tool", "#ended")
        page.has("current_time", "#servers")
        page.has("1 call ", "#servers")
        # The demo provider limits the first key; its rest counts down.
        page.has("demo...ited")
        rest = lambda: page.driver.execute_script(
            "return [...document.querySelectorAll('#keys [data-until]')].map((one) => one.innerText)")
        until(rest, lambda: f"no key rests: {page.text('#keys')}")
        first = rest()
        until(lambda: rest() and rest() != first, lambda: f"{first} does not count down")
        page.press("#keys button", "Restore")
        page.has("demo...ited of openai is usable again.", "#said")
        until(lambda: not rest(), lambda: f"it still rests: {page.text('#keys')}")
        page.has("1", "#tiles")
        # The demo model has no price, and the page says so.
        page.has("unpriced", "#ended")
        gateway.end()
        page.has("connection lost", "header")
        with gateway.start_again() as gateway:
            page.has("live", "header")
            page.has("No request yet.")
            gateway.ask("hello", actor="grace")
            page.has("grace", "#ended")
            page.lacks("ada", "#ended")
            # The page is cheap for the gateway, here even without optimisation.
            before, start = gateway.cpu_of_page(), time.monotonic()
            for _ in range(50):
                gateway.ask("hello", actor="grace")
                time.sleep(0.1)
            share = (gateway.cpu_of_page() - before) / (time.monotonic() - start)
            assert share < 0.02, f"an open page costs {share:.1%} of a core"
    page.is_untouched()


def hostile_and_handsome(gateway_path, page, folder, work):
    """Text of others stays text; a running request is visible; prompts come on demand; then screenshots."""
    provider = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    database = work / "records.db"
    keys = [argument for key in KEYS for argument in ("--key", key)]
    address = f"http://127.0.0.1:{provider.server_port}"
    arguments = ["--upstream", address, *keys, "--record", f"sqlite:{database}",
                 "--mcp", f"wiki={address}/mcp", "--mcp", "mail=http://127.0.0.1:9/mcp"]
    with Gateway(gateway_path, *arguments):
        pass
    fill(database)
    with Gateway(gateway_path, *arguments) as gateway:
        page.driver.get(gateway.page)
        page.has("From the database of the records.")
        page.has("claude-sonnet-4-5", "#legend")
        page.press("#by button", "By actor")
        page.has("ada@example.org", "#legend")
        page.press("#by button", "By model")
        page.press("#what button", "Cost")
        page.has("$", "#legend")
        page.press("#range button", "30 days")
        page.has("by day", "#c-sums")
        page.press("#range button", "48 hours")
        page.press("#what button", "Tokens")

        gateway.ask("hostile " + HOSTILE, model=HOSTILE, actor=HOSTILE, agent=HOSTILE)
        page.has(HOSTILE, "#ended")
        page.has(HOSTILE, "#servers")
        page.has("sk-e...cdef", "#keys")
        page.has("revoked", "#keys")
        # A prompt is fetched only when it is asked for.
        assert "hostile " not in page.driver.page_source
        until(lambda: count(database, "SELECT count(*) FROM prompts WHERE prompt LIKE 'hostile %'"), lambda: "no prompt")
        page.press("#ended button", "Prompt")
        page.has("hostile " + HOSTILE, "#prompt")
        page.is_untouched()
        page.press("#prompt button", "Close")

        people = ["ada@example.org", "grace@example.org", "alan@example.org", None]
        agents = ["codex_cli_rs/0.60", "claude-cli/2.0.1 (external, cli)", "OpenAI/Python 2.8.1"]
        for number, prompt in enumerate(["hello there", "call search", "call read", "fail", "summarise the minutes of May"] * 2):
            model = ["gpt-4o", "gpt-4o-mini", "gpt-4.1"][number % 3]
            gateway.ask(prompt, model, people[number % 4], agents[number % 3])
        page.has("provider 500", "#ended")
        page.has("2 failed", "#servers")
        page.has("rests", "#keys")
        waiting = [threading.Thread(target=gateway.ask, args=("wait", model, actor, agents[0]))
                   for model, actor in (("gpt-4.1", "ada@example.org"), ("gpt-4o", "grace@example.org"))]
        for thread in waiting:
            thread.start()
        page.has("ada@example.org", "#running")
        page.has("running", "#running")
        # The hostile row goes out of the pictures that people look at.
        hide = "for (const made of [...document.querySelectorAll('tr, li')]) if (made.innerText.includes('onerror')) made.remove()"
        page.driver.execute_script("state.past = {}; state.pastAt = {}; refreshPast()")
        page.has("gpt-4.1", "#legend")
        page.picture(folder / "page-hostile.png", 1280, 900)
        for name, width, dark in (("wide-light", 1280, False), ("wide-dark", 1280, True), ("narrow-light", 390, False), ("narrow-dark", 390, True)):
            page.picture(folder / f"page-{name}.png", width, 900, dark, before=hide)
        page.picture(folder / "page.png", 1280, 1520, whole=False, before=hide)
        Provider.released.set()
        for thread in waiting:
            thread.join()
        page.lacks("running", "#requests")
        page.is_untouched()
    provider.shutdown()


def login(gateway_path, page, folder):
    """With a token, the page is behind a form, and stays open by its session alone."""
    with Gateway(gateway_path, env={"ADMIN_TOKEN": TOKEN}) as gateway:
        page.driver.get(gateway.page)
        page.has("Log in", "form")
        page.picture(folder / "login.png", 390, 600)
        page.driver.find_element(By.ID, "token").send_keys("not-the-token")
        page.press("form button", "Log in")
        page.has("That is not the token.", "body")
        page.driver.find_element(By.ID, "token").send_keys(TOKEN)
        page.press("form button", "Log in")
        page.has("live", "header")
        page.has("No request yet.")
        cookie = page.driver.get_cookie("gateway_session")
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and TOKEN not in cookie["value"], cookie
        gateway.ask("hello", actor="ada")
        page.has("demo...ited", "#keys")
        page.press("#keys button", "Restore")
        page.has("usable again", "#said")
        page.picture(folder / "logged-in.png", 390, 600)
        # A logout ends the session of a page that is open elsewhere, too.
        first = page.driver.current_window_handle
        page.driver.switch_to.new_window("tab")
        page.driver.get(gateway.page)
        page.has("live", "header")
        page.press("header button", "Log out")
        page.has("Log in", "form")
        page.driver.close()
        page.driver.switch_to.window(first)
        page.has("Log in", "form")
        page.driver.find_element(By.ID, "token").send_keys(TOKEN)
        page.press("form button", "Log in")
        page.has("live", "header")
        # Sessions end with the process: the page asks for the token again.
        gateway.end()
        with gateway.start_again():
            page.has("Log in", "body")


def count(database, query):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchone()[0]


def fill(database):
    """Two days of requests, so that the page has a past to draw."""
    dice = random.Random(7)
    now = datetime.datetime.now(datetime.timezone.utc)
    models = [("claude-sonnet-4-5", 3.0), ("gpt-4o", 2.5), ("gpt-4.1", 2.0), ("claude-haiku-4-5", 1.0), ("gpt-4o-mini", 0.15)]
    rows = []
    for hour in range(24 * 12):
        at = now - datetime.timedelta(hours=hour)
        for _ in range(int((2 + 14 * max(0, 1 - abs(at.hour - 14) / 9)) * (0.3 if at.weekday() > 4 else 1))):
            model, price = dice.choices(models, (9, 6, 4, 3, 2))[0]
            size = int(dice.lognormvariate(8.6, 0.7))
            output, read = size // 9, int(size * dice.uniform(0.2, 0.9))
            outcome = dice.choices(["completed", "upstream_error", "cancelled"], (94, 3, 3))[0]
            cost = (size - read + read * 0.1 + output * 4) * price / 1e6
            first = int(dice.lognormvariate(6.4, 0.5))
            actor = dice.choices(["ada@example.org", "grace@example.org", "alan@example.org", "ci"], (5, 4, 2, 1))[0]
            start = at - datetime.timedelta(minutes=dice.uniform(0, 50))
            rows.append((str(uuid.UUID(int=dice.getrandbits(128), version=4)), start.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "openai", "chat_completions",
                         model, actor, outcome, size - read, output, read, 0, f"{cost:.9f}", "USD",
                         first + int(dice.lognormvariate(8.4, 0.8)), first))
    names = ("id, at, provider, dialect, model, initiator_id, outcome, input, output, cache_read_input_tokens, "
             "cache_write_input_tokens, cost, cost_currency, duration_ms, time_to_first_token_ms")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(f"INSERT INTO interceptions ({names}) VALUES ({', '.join('?' * 15)})", rows)


def main():
    gateway_path, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with Page() as page, tempfile.TemporaryDirectory() as work:
        demo(gateway_path, page)
        hostile_and_handsome(gateway_path, page, folder, pathlib.Path(work))
        login(gateway_path, page, folder)
    print("the page fills, restores, comes back, and shows hostile text as text; screenshots are in", folder)


if __name__ == "__main__":
    main()
