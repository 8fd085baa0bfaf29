"""The operator's page over PostgreSQL: the past and the prompts come from the database of the records.

usage: page_postgres.py PATH_OF_THE_GATEWAY URL_OF_AN_EMPTY_DATABASE
"""

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

HOSTILE = "'; DROP TABLE prompts; --\u2028<img src=x>"


def ask(url, body=None, headers=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def feed(page):
    """The first message of the feed."""
    with urllib.request.urlopen(page + "/api/events", timeout=60) as lines:
        for line in lines:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))


def main():
    path, database = sys.argv[1:]
    command = [path, "--listen", "127.0.0.1:0", "--record", database]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = gateway.stdout.readline().removeprefix("listening on ").strip()
        page = gateway.stdout.readline().removeprefix("operator's page on ").strip()
        for number in range(30):
            model = HOSTILE if number == 0 else ["gpt-4o", f"model-{number}"][number % 2]
            body = {"model": model, "messages": [{"role": "user", "content": f"say {HOSTILE}"}]}
            ask(f"{address}/v1/chat/completions", body, {"x-user-id": f"actor-{number % 3}"})
        # Written within moments; the page may reuse an answer for 20 seconds.
        past = {"times": []}
        end = time.monotonic() + 90
        while sum(hour["requests"] for hour in past["times"]) < 30 and time.monotonic() < end:
            time.sleep(1)
            # The tables exist from the first record on.
            with contextlib.suppress(urllib.error.HTTPError):
                past = json.loads(ask(f"{page}/api/history/hours"))
        days = json.loads(ask(f"{page}/api/history/days"))
        for pictures in (past, days):
            assert pictures["source"] == "database", pictures
            assert sum(step["requests"] for step in pictures["times"]) == 30, pictures["times"]
            assert sum(pictures["duration"]) == 30 and sum(pictures["first_token"]) <= 30, pictures
            assert len(pictures["models"]) == 12 and pictures["models"][-1]["name"] == "other", pictures["models"]
            assert pictures["models"][0]["name"] == "gpt-4o" and pictures["models"][0]["points"][0]["costs"], pictures
            assert {one["name"] for one in pictures["actors"]} == {"actor-0", "actor-1", "actor-2"}, pictures["actors"]
            tokens = {by: sum(point["input"] + point["output"] for one in pictures[by] for point in one["points"])
                      for by in ("models", "actors")}
            assert tokens["models"] == tokens["actors"] > 0, tokens
        first = feed(page)["ended"][0]
        assert json.loads(ask(f"{page}/api/prompt/{first['id']}")) == {"prompts": [f"say {HOSTILE}"]}
    finally:
        gateway.terminate()
        assert gateway.wait(60) == 0
    print("the past and the prompts come from PostgreSQL")


if __name__ == "__main__":
    main()
