"""The gateway seen by Anthropic's own Python client: whole answers, streams, an injected round, a call, counts, errors.

usage: anthropic_client.py PATH_OF_THE_GATEWAY

Needs `pip install anthropic`; the tested version is in `.ci/run`.
"""

import json
import sys

import anthropic

from scripted import Gateway, Handler, raises, serve

TOOL = {"name": "mine", "description": "Mine.", "input_schema": {"type": "object", "properties": {}}}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}


class Provider(Handler):
    """Answers by the prompt."""

    def do_POST(self):
        request = self.read()
        assert self.headers["x-api-key"] == "sk-of-the-operator" and not self.headers["authorization"]
        if self.path.startswith("/v1/messages/count_tokens"):
            return self.json(200, {"input_tokens": 7})
        prompt = request["messages"][-1]["content"]
        if prompt == "refuse":
            return self.json(400, error("invalid_request_error"))
        if prompt == "overload":
            return self.answer(200, "text/event-stream", [event(error("overloaded_error"))])
        if prompt == "break":
            return self.answer(200, "text/event-stream", [*events([text("Hel")])[:3], event(error("api_error"))])
        call = {"type": "tool_use", "id": "toolu_9", "name": "mine", "input": {"q": 1}}
        blocks = [THINKING, text("So."), call] if prompt == "call" else [text("You said: " + prompt)]
        if request.get("stream"):
            return self.answer(200, "text/event-stream", events(blocks))
        self.json(200, message(blocks))


def client(address):
    return anthropic.Anthropic(base_url=address, api_key="sk-of-the-caller", max_retries=0, timeout=60)


def ask(prompt, **options):
    return {"model": "demo", "max_tokens": 99, "messages": [{"role": "user", "content": prompt}], **options}


def stream(messages, prompt, **options):
    """The final message, as the client puts it together."""
    with messages.stream(**ask(prompt, **options)) as events:
        for _ in events:
            pass
        return events.get_final_message()


def text(words):
    return {"type": "text", "text": words}


def message(blocks):
    stop = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 7}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "content": blocks,
            "stop_reason": stop, "stop_sequence": None, "usage": usage}


def error(kind):
    return {"type": "error", "error": {"type": kind, "message": "oops"}, "request_id": "req_1"}


def event(data):
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"


def events(blocks):
    whole = message(blocks)
    yields = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            start, deltas = text(""), [{"type": "text_delta", "text": piece} for piece in block["text"]]
        elif block["type"] == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]},
                      {"type": "signature_delta", "signature": block["signature"]}]
        else:
            start = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ('{"q"', ": 1}")]
        yields.append({"type": "content_block_start", "index": index, "content_block": start})
        yields += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        yields.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yields.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}})
    yields.append({"type": "message_stop"})
    return [event(data) for data in yields]


def words(answer):
    return "".join(block.text for block in answer.content if block.type == "text")


def demo(gateway):
    answers = [gateway.client.messages.create(**ask("hello")), stream(gateway.client.messages, "hello")]
    assert {words(answer) for answer in answers} == {"You said: hello"}, answers
    print("ok: whole and streamed")

    prompt = "what time is it?"
    # Only the client's beta side puts `iterations` of a stream into the final message.
    for answer in [
        gateway.client.messages.create(**ask(prompt)),
        stream(gateway.client.beta.messages, prompt),
    ]:
        assert words(answer).startswith("The clock says 20") and answer.stop_reason == "end_turn", answer
        assert not any(block.type == "tool_use" for block in answer.content), "no call is shown"
        usage = answer.usage.model_dump()
        assert len(usage["iterations"]) == 2, usage
        assert usage["output_tokens"] == sum(one["output_tokens"] for one in usage["iterations"]), usage
    assert words(stream(gateway.client.messages, prompt)).startswith("The clock says 20")
    print("ok: an injected round, whole and streamed")


def scripted(gateway):
    for answer in [
        gateway.client.messages.create(**ask("call", tools=[TOOL])),
        stream(gateway.client.messages, "call", tools=[TOOL]),
    ]:
        thinking, so, call = answer.content
        assert (thinking.thinking, thinking.signature, so.text) == ("hm", "c2ln", "So."), answer
        assert (call.id, call.name, call.input, answer.stop_reason) == ("toolu_9", "mine", {"q": 1}, "tool_use"), answer
        assert (answer.id, answer.usage.input_tokens, answer.usage.output_tokens) == ("msg_1", 3, 7), answer
    print("ok: thinking and the client's own call, whole and streamed")

    count = gateway.client.messages.count_tokens(model="demo", messages=[{"role": "user", "content": "hi"}])
    assert count.input_tokens == 7
    print("ok: count_tokens")

    refused = raises(anthropic.BadRequestError, lambda: gateway.client.messages.create(**ask("refuse")))
    assert refused.body["error"]["message"] == "oops", refused.body
    # Before anything was shown an error in the stream has its own status.
    overloaded = raises(anthropic.InternalServerError, lambda: stream(gateway.client.messages, "overload"))
    assert overloaded.status_code == 529, overloaded
    broken = raises(anthropic.APIStatusError, lambda: stream(gateway.client.messages, "break"))
    assert broken.body["error"]["type"] == "api_error", broken.body
    ours = raises(anthropic.BadRequestError, lambda: gateway.client.post("/v1/messages", cast_to=object, body={"model": 1}))
    assert ours.body["error"]["type"] == "invalid_request_error", ours.body
    print("ok: errors, before the stream and in it")


def main():
    path = sys.argv[1]
    with Gateway(path, client=client) as gateway:
        demo(gateway)
    arguments = ["--anthropic-upstream", serve(Provider), "--anthropic-key", "sk-of-the-operator"]
    with Gateway(path, *arguments, client=client) as gateway:
        scripted(gateway)


main()
