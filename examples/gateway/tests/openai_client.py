"""The gateway seen by OpenAI's own Python client: streams, an injected round, a client's tool call, an error.

usage: openai_client.py PATH_OF_THE_GATEWAY

Needs `pip install openai`; the tested version is in `.ci/run`.
"""

import json
import sys

import openai

from scripted import Gateway, Handler, raises, serve

TOOL = {"type": "function", "function": {"name": "mine", "parameters": {"type": "object", "properties": {}}}}


class Provider(Handler):
    """Answers by the prompt."""

    def do_POST(self):
        request = self.read()
        prompt = request["messages"][-1]["content"]
        if prompt == "refuse":
            error = {"message": "no such thing", "type": "invalid_request_error", "param": "messages", "code": "nope"}
            return self.json(400, {"error": error})
        if prompt == "break":
            error = {"message": "oops", "type": "server_error", "param": None, "code": "server_error"}
            return self.answer(200, "text/event-stream", [delta(content="Hel"), event({"error": error})])
        if prompt == "call":
            begin = {"index": 0, "id": "call_9", "type": "function", "function": {"name": "mine", "arguments": ""}}
            pieces = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"q"', ": 1}")]
            deltas = [delta(role="assistant", content=None)] + [delta(tool_calls=[call]) for call in [begin, *pieces]]
            return self.answer(200, "text/event-stream", [*deltas, delta(finish="tool_calls"), "data: [DONE]\n\n"])
        self.json(500, {})


def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="sk-of-the-caller", max_retries=0, timeout=60)


def stream(gateway, prompt, **options):
    messages = [{"role": "user", "content": prompt}]
    return gateway.client.chat.completions.create(model="demo", stream=True, messages=messages, **options)


def event(data):
    return f"data: {json.dumps(data)}\n\n"


def delta(finish=None, **members):
    choice = {"index": 0, "delta": members, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "demo", "choices": [choice]})


def read(chunks):
    """The text, and the parts that must occur once."""
    chunks = list(chunks)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert len({chunk.id for chunk in chunks}) == 1, "one id"
    assert len([choice for choice in choices if choice.delta.role]) == 1, "one role"
    assert not any(choice.delta.tool_calls for choice in choices), "no call is shown"
    finish = [choice.finish_reason for choice in choices if choice.finish_reason]
    usage = [chunk.usage for chunk in chunks if chunk.usage]
    return "".join(choice.delta.content or "" for choice in choices), finish, usage


def demo(gateway):
    assert read(stream(gateway, "hello")) == ("You said: hello", ["stop"], [])
    text, finish, usage = read(stream(gateway, "hello", stream_options={"include_usage": True}))
    assert (text, finish) == ("You said: hello", ["stop"])
    assert [one.total_tokens for one in usage] == [4]
    print("ok: plain stream")

    text, finish, usage = read(stream(gateway, "what time is it?", stream_options={"include_usage": True}))
    assert text.startswith("The clock says 20") and finish == ["stop"], text
    assert len(usage) == 1 and usage[0].prompt_tokens > 4, "the sum of both rounds"
    print("ok: stream with an injected round")


def scripted(gateway):
    with gateway.client.chat.completions.stream(
        model="demo", messages=[{"role": "user", "content": "call"}], tools=[TOOL]
    ) as events:
        for _ in events:
            pass
        message = events.get_final_completion().choices[0].message
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls]
    assert calls == [("call_9", "mine", '{"q": 1}')], calls
    print("ok: the client's own tool call")

    error = raises(openai.BadRequestError, lambda: stream(gateway, "refuse"))
    assert (error.code, error.param) == ("nope", "messages"), error
    error = raises(openai.APIError, lambda: list(stream(gateway, "break")))
    assert "oops" in str(error), error
    print("ok: errors, before the stream and in it")


def main():
    path = sys.argv[1]
    with Gateway(path, client=client) as gateway:
        demo(gateway)
    with Gateway(path, "--upstream", serve(Provider), "--key", "sk-of-the-operator", client=client) as gateway:
        scripted(gateway)


main()
