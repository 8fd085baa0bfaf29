"""The gateway's metrics read by Prometheus's own Python parser.

usage: metrics_client.py PATH_OF_THE_GATEWAY

Needs `pip install prometheus-client`; the tested version is in `.ci/run`.
"""

import json
import subprocess
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def ask(base, model):
    """One request to the demo provider, which any key of the pool may answer."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What time is it?"}]}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{base}/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def main():
    """Runs the demo, and checks what is read of it."""
    command = [sys.argv[1], "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        base = process.stdout.readline().removeprefix("listening on ").strip()
        admin = process.stdout.readline().removeprefix("operator's page on ").strip()
        for model in ["demo", 'with "quotes" and \\', "demo"]:
            ask(base, model)
        with urllib.request.urlopen(f"{admin}/metrics") as answer:
            text = answer.read().decode()
    finally:
        process.terminate()
        process.wait()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for family in families.values():
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        assert family.name.startswith(("gen_ai_", "llm_bridge_")), family
    durations = families["gen_ai_client_operation_duration_seconds"].samples
    counts = {s.labels["gen_ai_request_model"]: s.value for s in durations if s.name.endswith("_count")}
    assert counts == {"demo": 2, 'with "quotes" and \\': 1}, counts
    calls = families["llm_bridge_tool_calls"].samples
    assert [(call.labels["outcome"], call.value) for call in calls] == [("succeeded", 3)], calls
    print(f"{len(families)} metrics are read")


main()
