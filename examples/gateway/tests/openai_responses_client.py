"""The gateway's Responses seen by OpenAI's own Python client, which has the strictest stream decoder.

usage: openai_responses_client.py PATH_OF_THE_GATEWAY

The gateway runs between a scripted provider and a scripted MCP server, both in this process. Needs `pip install openai`;
the tested version is in `.ci/run`.
"""

import json
import sys

import openai

from scripted import Gateway, Handler, Mcp, raises, serve

INJECTED = "bmcp_clock_now"
MINE = {"type": "function", "name": "mine", "parameters": {"type": "object", "properties": {}}, "strict": False}


def message(number, words):
    part = {"type": "output_text", "text": words, "annotations": []}
    return {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def reasoning(number):
    summary = [{"type": "summary_text", "text": "hm"}]
    return {"id": f"rs_{number}", "type": "reasoning", "summary": summary, "encrypted_content": f"gAAA{number}"}


def call(number, name):
    ids = {"id": f"fc_{number}", "call_id": f"call_{number}"}
    return {**ids, "type": "function_call", "status": "completed", "name": name, "arguments": "{}"}


# The output of each round, by prompt.
TURNS = {
    "hello": [[reasoning(1), message(1, "Hello")]],
    "hidden": [[reasoning(1), call(1, INJECTED)], [reasoning(2), message(2, "It is noon")]],
    "visible": [[message(1, "Let me see. "), call(1, INJECTED)], [call(2, INJECTED)], [message(3, "It is noon")]],
    "mixed": [[call(1, INJECTED), call(2, "mine")], [reasoning(2), call(3, "mine")]],
    "mine": [[reasoning(1), call(1, "mine"), reasoning(2), call(2, INJECTED)]],
}


class Provider(Handler):
    """Answers by the prompt; keeps the requests."""

    asked = []

    def do_GET(self):
        Provider.asked.append(self.path)
        self.json(200, {**self.response("completed", []), "id": self.path.rsplit("/", 1)[1]})

    def do_POST(self):
        request = self.read()
        Provider.asked.append(request)
        items = request["input"] if isinstance(request["input"], list) else [{"role": "user", "content": request["input"]}]
        prompt = next(item["content"] for item in items if item.get("role") == "user")
        if not isinstance(prompt, str):
            prompt = prompt[0]["text"]
        self.request_tools = request.get("tools", [])
        self.round = 1 + sum(1 for item in items if item.get("type") == "function_call_output" and item["output"] == "12:00")
        if prompt == "refuse":
            error = {"message": "no such thing", "type": "invalid_request_error", "param": "input", "code": "nope"}
            return self.json(400, {"error": error})
        if prompt == "limit":
            events = list(self.events([]))[:2]
            flat = {"code": "rate_limit_exceeded", "message": "too fast", "param": None}
            return self.stream([*events, ("error", flat)])
        if prompt in ("break", "cut"):
            events = list(self.events([message(1, "Hel")]))[:-1]
            flat = {"code": "server_error", "message": "oops", "param": None}
            return self.stream([*events, ("error", flat)]) if prompt == "break" else self.stream(events, cut=True)
        items = TURNS[prompt][self.round - 1]
        if request.get("stream"):
            return self.stream(self.events(items))
        self.json(200, self.response("completed", items))

    def response(self, status, output):
        total = 100 * getattr(self, "round", 1)
        usage = {
            "input_tokens": total - 10,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 10,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": total,
        }
        return {
            "id": f"resp_{getattr(self, 'round', 1)}",
            "object": "response",
            "created_at": 1,
            "model": "demo",
            "status": status,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "temperature": 1.0,
            "top_p": 1.0,
            "tool_choice": "auto",
            "tools": getattr(self, "request_tools", []),
            "usage": usage if status == "completed" else None,
        }

    def events(self, items):
        for kind in ("created", "in_progress"):
            yield f"response.{kind}", {"response": self.response("in_progress", [])}
        for index, item in enumerate(items):
            place = {"output_index": index}
            begun = {**item, **({"status": "in_progress"} if "status" in item else {})}
            if item["type"] == "message":
                text = item["content"][0]["text"]
                part = {"item_id": item["id"], **place, "content_index": 0}
                empty = {"type": "output_text", "text": "", "annotations": []}
                yield "response.output_item.added", {**place, "item": {**begun, "content": []}}
                yield "response.content_part.added", {**part, "part": empty}
                yield "response.output_text.delta", {**part, "delta": text, "logprobs": []}
                yield "response.output_text.done", {**part, "text": text, "logprobs": []}
                yield "response.content_part.done", {**part, "part": item["content"][0]}
            elif item["type"] == "function_call":
                yield "response.output_item.added", {**place, "item": {**begun, "arguments": ""}}
                yield "response.function_call_arguments.delta", {"item_id": item["id"], **place, "delta": "{}"}
                whole = {"item_id": item["id"], **place, "name": item["name"], "arguments": "{}"}
                yield "response.function_call_arguments.done", whole
            else:
                part = {"item_id": item["id"], **place, "summary_index": 0}
                yield "response.output_item.added", {**place, "item": {**begun, "summary": []}}
                yield "response.reasoning_summary_part.added", {**part, "part": {"type": "summary_text", "text": ""}}
                yield "response.reasoning_summary_text.delta", {**part, "delta": "hm"}
                yield "response.reasoning_summary_text.done", {**part, "text": "hm"}
                yield "response.reasoning_summary_part.done", {**part, "part": item["summary"][0]}
            yield "response.output_item.done", {**place, "item": item}
        yield "response.completed", {"response": self.response("completed", items)}

    def stream(self, events, cut=False):
        frames = []
        for number, (kind, members) in enumerate(events):
            data = {"type": kind, "sequence_number": number, **members}
            frames.append(f"event: {kind}\ndata: {json.dumps(data)}\n\n")
        self.answer(200, "text/event-stream", frames, cut)


def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="sk-of-the-caller", max_retries=0, timeout=60)


def streamed(client, prompt, **options):
    """The final response; the client has checked each event against the ones before."""
    with client.responses.stream(model="demo", input=prompt, **options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds.count("response.created") == 1, kinds
    assert kinds[-1] == "response.completed" and kinds.count("response.completed") == 1, kinds
    assert INJECTED not in final.to_json(), "nothing of ours is shown"
    return final


def outline(response):
    return [item.id for item in response.output]


def rounds(client):
    for prompt, shown in [
        ("hello", ["rs_1", "msg_1"]),
        ("hidden", ["rs_2", "msg_2"]),
        ("visible", ["msg_1", "msg_3"]),
        ("mixed", ["rs_2", "fc_3"]),
        ("mine", ["rs_1", "fc_1"]),
    ]:
        tools = {"tools": [MINE]} if prompt in ("mixed", "mine") else {}
        whole = client.responses.create(model="demo", input=prompt, **tools)
        stream = streamed(client, prompt, **tools)
        assert outline(whole) == outline(stream) == shown, (prompt, outline(whole), outline(stream))
        assert whole.output_text == stream.output_text
        assert whole.usage == stream.usage and stream.usage.total_tokens == 100 * len(TURNS[prompt]), stream.usage
        assert [tool.name for tool in stream.tools] == (["mine"] if tools else []), stream.tools
        print(f"ok: {prompt}, whole and streamed")


def ids(client):
    stream = streamed(client, "visible")
    assert stream.id == "resp_1", "the first round that was seen"
    assert client.responses.retrieve(stream.id).id == "resp_3"
    assert Provider.asked[-1].endswith("/responses/resp_3"), Provider.asked[-1]
    client.responses.create(model="demo", input="hello", previous_response_id=stream.id)
    assert Provider.asked[-1]["previous_response_id"] == "resp_3", "the last round, which has the whole conversation"
    print("ok: the shown id stands for the last round's")


def errors(client):
    for options in ({}, {"stream": True}):
        error = raises(openai.BadRequestError, lambda: client.responses.create(model="demo", input="refuse", **options))
        assert (error.code, error.param) == ("nope", "input"), error
    # The provider's own event is relayed in its own form, which this client hands on as an event.
    seen = list(client.responses.create(model="demo", input="break", stream=True))
    assert [event.type for event in seen[-2:]] == ["error", "response.failed"], seen
    assert (seen[-2].message, seen[-1].response.error.code) == ("oops", "server_error"), seen
    error = raises(openai.APIError, lambda: list(client.responses.create(model="demo", input="cut", stream=True)))
    assert "provider" in str(error), error
    # The last one, since it rests the only key.
    raises(openai.RateLimitError, lambda: client.responses.create(model="demo", input="limit", stream=True))
    print("ok: errors, before the stream and in it")


def main():
    upstream, mcp = serve(Provider), serve(Mcp)
    arguments = ["--upstream", upstream, "--key", "sk-of-the-operator", "--mcp", f"clock={mcp}/mcp"]
    with Gateway(sys.argv[1], *arguments, client=client) as gateway:
        rounds(gateway.client)
        ids(gateway.client)
        errors(gateway.client)


main()
