"""Answers of providers, whole and streamed, plain and odd, as data: each row is a kind of answer that real providers send.

A row is a `Case`. The client must make the same of it directly and through the gateway, except for chat's `id`. Where the
gateway differs by its contract, `differs` says why.
"""

import json
from dataclasses import dataclass, field

SSE = "text/event-stream"
JSON = "application/json"
DONE = "data: [DONE]\n\n"
NO_END = "a stream that ends before the model finished is an error"
STRICT = "JSON knows no such value, and other clients than Python's refuse it"
NO_ANSWER = "there is no answer in it"
IN_BAND = "an error inside a success has the status that it stands for"


@dataclass
class Case:
    name: str
    body: str | bytes | list
    stream: bool = False
    content_type: str | None = JSON
    status: int = 200
    cut: bool = False
    headers: tuple = ()
    differs: str = ""
    # Whether it is compared through a gateway that injects tools, too: that one counts the events of Responses anew, and
    # holds a call until its name is known.
    with_tools: bool = True

    def frames(self):
        return self.body if isinstance(self.body, list) else [self.body]


@dataclass
class Api:
    """The cases of one API by name."""

    cases: dict = field(default_factory=dict)

    def whole(self, name, body, **options):
        self.add(Case(name, body if isinstance(body, (str, bytes)) else json.dumps(body), **options))

    def stream(self, name, body, **options):
        self.add(Case(f"{name} (stream)", body, stream=True, **{"content_type": SSE, **options}))

    def add(self, case):
        assert case.name not in self.cases, case.name
        self.cases[case.name] = case


# === Chat completions ===

CHAT = Api()


def reply(message, finish="stop", **members):
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "p", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **members}


def said(content, **members):
    return {"role": "assistant", "content": content, **members}


def called(call, **members):
    return reply({**said(None), "tool_calls": call, **members}, "tool_calls")


def call(name="f", arguments="{}", **members):
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}, **members}


def raw(data, **members):
    text = data if isinstance(data, str) else json.dumps(data)
    head = "".join(f"{name}: {value}\n" for name, value in members.items())
    return f"{head}data: {text}\n\n"


def chunk(delta=None, finish=None, choices=None, **members):
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if choices is None else choices
    return {"id": "p", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **members}


def stream(*chunks, done=DONE):
    return "".join(raw(data) for data in chunks) + done


BEGIN = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "Hello"})
STOP = chunk({}, "stop")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
PLAIN = stream(BEGIN, HELLO, STOP)


def whole_replies(api):
    hello = reply(said("Hello"), usage=USAGE)
    text = json.dumps(hello)
    api.whole("plain", hello)
    # What tool calls look like.
    api.whole("arguments are an object", called([call(arguments={"city": "Oslo"})]))
    api.whole("arguments are null", called([call(arguments=None)]))
    api.whole("arguments are missing", called([{"id": "c", "type": "function", "function": {"name": "f"}}]))
    api.whole("arguments are no JSON", called([call(arguments='{"city": ')]))
    api.whole("a call without an id", called([{**call(), "id": None}]))
    api.whole("a function that is null", called([{"id": "c", "type": "function", "function": None}]))
    api.whole("a name that is null", called([call(name=None)]))
    api.whole("a custom call", called([{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]))
    api.whole("a custom call that is null", called([{"id": "c", "type": "custom", "custom": None}]))
    api.whole("calls of unknown types", called([{"id": "c", "type": "new"}, 1, None, "x", []]))
    api.whole("calls are null", called(None))
    api.whole("calls are an object", called({"0": call()}))
    api.whole("calls are empty", called([]))
    api.whole("a signature beside the function", called([call(extra_content={"google": {"thought_signature": "c2ln"}})]))
    api.whole("a legacy function call", reply(said(None, function_call={"name": "f", "arguments": "{}"}), "function_call"))
    # Messages and choices.
    api.whole("content in parts", reply(said([{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}])))
    api.whole("no content", reply({"role": "assistant"}))
    api.whole("no role", reply({"content": "Hello"}))
    api.whole("a message that is null", reply(None))
    api.whole("no message", {**hello, "choices": [{"index": 0, "finish_reason": "stop"}]})
    api.whole("a choice that is null", {**hello, "choices": [None]})
    api.whole("no choice", {**hello, "choices": []})
    api.whole("choices are null", {**hello, "choices": None}, differs=NO_ANSWER)
    api.whole("two choices", {**hello, "choices": [{**hello["choices"][0], "index": index} for index in (1, 0)]})
    api.whole("reasoning", reply(said("Hi", reasoning_content="Hm", reasoning="Hm", reasoning_details=[{"type": "x"}])))
    api.whole("an image", reply(said("", images=[{"type": "image_url", "image_url": {"url": "data:," + "x" * 100_000}}])))
    api.whole("audio, refusal and annotations", reply(said(None, audio={"id": "a"}, refusal="no", annotations=[{}])))
    api.whole("a finish reason of its own", reply(said("Hello"), "eos", stop_reason=128001))
    api.whole("no finish reason", reply(said("Hello"), None))
    api.whole("cut off", reply(said("Hello"), "length"))
    # Members beside the choices.
    api.whole("no id, no model", {"choices": hello["choices"]})
    api.whole("an id that is a number", {**hello, "id": 7})
    api.whole("an id that is null", {**hello, "id": None})
    api.whole("usage is null", reply(said("Hello"), usage=None))
    api.whole("usage is a string", reply(said("Hello"), usage="none"))
    api.whole("usage with odd counts", reply(said("Hello"), usage={"prompt_tokens": "3", "completion_tokens": -1.5, "x": {}}))
    api.whole("members nobody knows", reply(said("Hello", x=[{"y": [[]]}]), timings={"predicted_ms": 1.25}, x={"": None}))
    api.whole("error is null", {**hello, "error": None})
    api.whole("an error beside the choices", {**hello, "error": {"message": "slow", "code": 1}})
    api.whole("an error in place of an answer", {"error": {"message": "no", "type": "invalid_request_error"}}, differs=IN_BAND)
    # The JSON itself.
    api.whole("a byte order mark", b"\xef\xbb\xbf" + text.encode())
    api.whole("blank lines before", "\n\n \r\n\t" + text)
    api.whole("blank lines behind", text + "\n\n\n")
    api.whole("white space everywhere", json.dumps(hello, indent=3))
    api.whole("a name twice", text.replace("{", '{"model": "first", "choices": [], ', 1))
    api.whole("half a character", text.replace("Hello", r"\ud83d"))
    api.whole("all escapes", text.replace("Hello", r"\/\b\f\n\r\t\"\\\u0000\u2028\ud83d\ude00"))
    api.whole("names with escapes", text.replace('"content"', r'"c\u006fntent"'))
    api.whole("numbers of all kinds", text.replace("Hello", "Hi").replace('"m"', '"m", "n": [-0, 1E5, 1e-400, 0.1, 12345678901234567890123]'))
    api.whole("deep", text.replace('"m"', '"m", "x": ' + "[" * 100 + "]" * 100))
    api.whole("too deep", text.replace('"m"', '"m", "x": ' + "[" * 200 + "]" * 200), differs="nested more than 127 times")
    api.whole("NaN", text.replace('"m"', '"m", "x": NaN'), differs=STRICT)
    api.whole("no UTF-8", text.encode().replace(b"Hello", b"\xff"), differs="JSON is UTF-8")
    api.whole("cut", text[:60], differs="it is no JSON")
    # Heads.
    api.whole("no content type", hello, content_type=None)
    api.whole("a charset", hello, content_type="Application/JSON; charset=utf-8")
    api.whole("labelled as text", hello, content_type="text/plain")
    api.whole("labelled as a stream", hello, content_type=SSE)
    api.whole("created", hello, status=201)
    api.whole("a stream in place of a reply", PLAIN, content_type=SSE, differs=NO_ANSWER)
    api.add(Case("in many pieces", list(text)))
    api.whole("a page in place of an answer", "<html>", content_type="text/html", differs=NO_ANSWER)
    # Errors.
    error = {"error": {"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "nope"}}
    api.whole("bad request", error, status=400)
    api.whole("not found, without a body", "", status=404)
    api.whole("unprocessable, as FastAPI says it", {"detail": [{"loc": ["body"], "msg": "no"}]}, status=422)
    api.whole("a page in place of an error", "<html>oops</html>", content_type="text/html", status=500)
    api.whole("overloaded", error, status=529)
    api.whole("an error with a list", [error], status=400)


def streamed_chunks(api):
    # Ends.
    api.stream("plain", PLAIN)
    api.stream("no [DONE]", stream(BEGIN, HELLO, STOP, done=""))
    api.stream("no blank line at the end", PLAIN[:-1])
    api.stream("no line end at the end", PLAIN[:-2])
    api.stream("a space behind [DONE]", stream(BEGIN, HELLO, STOP, done="data: [DONE] \n\n"))
    api.stream("something behind [DONE]", PLAIN + raw(HELLO))
    api.stream("no finish reason", stream(BEGIN, HELLO))
    api.stream("an end without a finish", stream(BEGIN, HELLO, done=""), differs=NO_END)
    api.stream("cut", stream(BEGIN, HELLO, done=""), cut=True, differs=NO_END)
    api.stream("cut within an event", stream(BEGIN, HELLO, done="")[:-20], cut=True, differs=NO_END)
    api.stream("empty", "", differs=NO_ANSWER)
    api.stream("nothing but [DONE]", DONE, differs=NO_ANSWER)
    api.stream("nothing but comments", ": hello\n\n", differs=NO_ANSWER)
    # Frames and lines.
    for name, kind in [("no", None), ("a text", "text/plain"), ("any", "application/octet-stream"), ("two", f"{JSON}, {SSE}")]:
        api.stream(f"{name} content type", PLAIN, content_type=kind)
    api.stream("CR LF", PLAIN.replace("\n", "\r\n"))
    api.stream("CR", PLAIN.replace("\n", "\r"))
    api.stream("a byte order mark", b"\xef\xbb\xbf" + PLAIN.encode())
    api.stream("no space behind the colon", PLAIN.replace("data: ", "data:"))
    api.stream("two spaces behind the colon", PLAIN.replace("data: ", "data:  "))
    api.stream("data in several lines", PLAIN.replace(', "object"', ',\ndata: "object"'))
    api.stream("other fields", PLAIN.replace("data: {", "event: chunk\nid: 1\nretry: 9\nx\ny: z\ndata: {"))
    api.stream("blank lines", "\n\n" + PLAIN.replace("\n\n", "\n\n\n\n"))
    api.stream("comments", ": OPENROUTER PROCESSING\n\n: x\n" + PLAIN.replace("data: {", ": y\ndata: {"))
    api.stream("one byte a frame", list(PLAIN))
    api.stream("pretty JSON", "".join(raw(json.dumps(data, indent=1).replace("\n", "\ndata: ")) for data in (BEGIN, HELLO, STOP)) + DONE)
    api.stream("a large event", stream(BEGIN, chunk({"images": ["x" * (9 << 20)]}), STOP))
    # Chunks.
    api.stream("content filters first", stream(chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}]), BEGIN, HELLO, STOP))
    api.stream("content filters last", stream(BEGIN, HELLO, STOP, chunk(choices=[{"index": 0, "finish_reason": None, "content_filter_offsets": {}}])))
    api.stream("choices are null", stream(BEGIN, chunk(choices=[]) | {"choices": None}, HELLO, STOP))
    api.stream("a delta that is null", stream(BEGIN, HELLO, chunk(None, "stop")))
    api.stream("no delta", stream(BEGIN, HELLO, chunk(choices=[{"index": 0, "finish_reason": "stop"}])))
    api.stream("an empty finish reason", stream(chunk({"role": "assistant"}, ""), chunk({"content": "Hi"}, ""), STOP))
    api.stream("all in one", stream(chunk(said("Hello"), "stop")))
    api.stream("a finish beside the last words", stream(BEGIN, chunk({"content": "Hello"}, "stop")))
    api.stream("two finishes", stream(BEGIN, HELLO, STOP, STOP))
    api.stream("words behind the finish", stream(BEGIN, STOP, HELLO))
    api.stream("cut off", stream(BEGIN, HELLO, chunk({}, "length")))
    api.stream("a role in each chunk", stream(BEGIN, chunk({"role": "assistant", "content": "a"}), chunk({"role": "assistant", "content": "b"}), STOP))
    api.stream("no role", stream(HELLO, STOP))
    api.stream("ids that change", stream(BEGIN, {**HELLO, "id": "q"}, {**STOP, "id": None}))
    api.stream("no id", stream(*[{name: value for name, value in data.items() if name != "id"} for data in (BEGIN, HELLO, STOP)]))
    api.stream("nothing but the choices", stream(*[{"choices": data["choices"]} for data in (BEGIN, HELLO, STOP)]))
    api.stream("an object without members", stream(BEGIN, {}, HELLO, STOP))
    api.stream("two choices", stream(*[chunk(choices=[{**data["choices"][0], "index": index}]) for data in (BEGIN, HELLO, STOP) for index in (1, 0)]))
    api.stream("half a character each", stream(BEGIN, HELLO, STOP).replace("Hello", r"\ud83d"))
    api.stream("reasoning", stream(BEGIN, chunk({"reasoning_content": "Hm", "reasoning": "Hm", "reasoning_details": [{"index": 0}]}), HELLO, STOP))
    api.stream("content in parts", stream(BEGIN, chunk({"content": [{"type": "thinking", "thinking": []}]}), HELLO, STOP))
    api.stream("timings", stream(BEGIN, HELLO, {**STOP, "timings": {"predicted_ms": 1.25}}))
    api.stream("a name twice", stream(BEGIN, HELLO, STOP).replace('"choices"', '"choices": [], "choices"'))
    # Usage.
    api.stream("usage is null", stream(*[{**data, "usage": None} for data in (BEGIN, HELLO, STOP)]))
    api.stream("usage beside the finish", stream(BEGIN, HELLO, {**STOP, "usage": USAGE}))
    api.stream("usage in each chunk", stream(*[{**data, "usage": USAGE} for data in (BEGIN, HELLO, STOP)]))
    # Calls.
    piece = {"index": 0, **call(name="f", arguments="")}
    more = {"index": 0, "function": {"arguments": "{}"}}

    def calls(*pieces):
        return stream(BEGIN, *[chunk({"tool_calls": [piece]}) for piece in pieces], chunk({}, "tool_calls"))

    api.stream("a call", calls(piece, more))
    api.stream("a call in one piece", calls({"index": 0, **call()}))
    api.stream("a call with arguments that are an object", calls({"index": 0, **call(arguments={"city": "Oslo"})}))
    api.stream("a call with null everywhere", calls({**piece, "type": None}, {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": "{}"}}))
    api.stream("calls with one index and no ids", calls({"index": 0, "id": "", **call(), "id": ""}, {"index": 0, **call(name="g"), "id": ""}))
    api.stream("calls without an index", calls(call(), {**call(name="g"), "id": "d"}))
    api.stream("a call with an index that is null", calls({**call(), "index": None}))
    api.stream("a call without a name", calls({"index": 0, "id": "c", "type": "function", "function": {"arguments": "{}"}}), with_tools=False)
    api.stream("a call that is cut off", stream(BEGIN, chunk({"tool_calls": [piece]}), chunk({}, "length")))
    api.stream("a call and its finish in one", stream(chunk({"tool_calls": [{"index": 0, **call()}]}, "tool_calls")))
    api.stream("calls are null", stream(BEGIN, chunk({"content": "Hello", "tool_calls": None}), STOP))
    api.stream("calls are empty", stream(BEGIN, chunk({"content": "Hello", "tool_calls": []}), STOP))
    api.stream("a legacy function call", stream(BEGIN, chunk({"function_call": {"name": "f", "arguments": "{}"}}), chunk({}, "function_call")))
    # Errors, and answers that are not streams.
    error = {"error": {"message": "oops", "type": "server_error", "param": None, "code": "server_error"}}
    api.stream("an error after the first words", stream(BEGIN, HELLO, error, done=""))
    api.stream("an error with [DONE] behind it", stream(BEGIN, HELLO, error))
    api.stream("an error beside choices", stream(BEGIN, {**chunk({"content": ""}, "error"), **error}, done=""))
    api.stream("an error at once", stream(error), differs=IN_BAND)
    api.stream("an event that is no JSON", stream(BEGIN, done="data: oops\n\n"), differs="no client reads it")
    api.stream("NaN", stream(BEGIN, STOP).replace('"m"', "NaN"), differs=STRICT)
    api.stream("a reply in place of a stream", json.dumps(reply(said("Hello"))), content_type=JSON)
    api.stream("a reply labelled as a stream", json.dumps(reply(said("Hello"))))
    api.stream("bad request", json.dumps({"error": {"message": "no", "code": "nope"}}), content_type=JSON, status=400)


# === Messages ===

MESSAGES = Api()


def message(*blocks, stop="end_turn", **members):
    usage = {"input_tokens": 3, "output_tokens": 7}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": list(blocks),
            "stop_reason": stop, "stop_sequence": None, "usage": usage, **members}


def text_block(words):
    return {"type": "text", "text": words}


def event(kind, **members):
    return raw({"type": kind, **members}, event=kind)


def block(index, start, *deltas):
    yield event("content_block_start", index=index, content_block=start)
    for delta in deltas:
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)


def events(*blocks, stop="end_turn", last=True):
    start = event("message_start", message=message(stop=None))
    delta = event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 7})
    middle = "".join("".join(block) for block in blocks)
    return start + middle + delta + (event("message_stop") if last else "")


def messages(api):
    tool = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"q": 1}}
    thinking = {"type": "thinking", "thinking": "", "signature": "c2ln"}
    plain = message(text_block("Hello"))
    api.whole("plain", plain)
    api.whole("a call", message(thinking, text_block(""), tool, stop="tool_use"))
    api.whole("input of every type", message(*[{**tool, "input": value} for value in (None, [], "x", 1)], stop="tool_use"))
    api.whole("blocks of unknown types", message({"type": "new", "x": [1.0]}, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}))
    api.whole("no content", message())
    api.whole("usage with odd members", message(text_block("a"), usage={"input_tokens": None, "x": {"y": "z"}}))
    api.whole("cut off within a call", message(tool, stop="max_tokens"))
    api.whole("a reason of its own", message(text_block("a"), stop="new_reason", stop_details={"x": None}))
    api.whole("a byte order mark", b"\xef\xbb\xbf" + json.dumps(plain).encode())
    api.whole("blank lines before", "\n\n" + json.dumps(plain))
    api.whole("labelled as a stream", plain, content_type=SSE)
    api.whole("bad request", {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, status=400)
    api.whole("overloaded", {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, status=529)
    api.whole("a page in place of an error", "<html>", content_type="text/html", status=500)

    hello = list(block(0, text_block(""), {"type": "text_delta", "text": "Hel"}, {"type": "text_delta", "text": "lo"}))
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", '{"q"', ": 1}")]
    called = list(block(1, {**tool, "input": {}}, *deltas))
    plain = events(hello)
    api.stream("plain", plain)
    api.stream("a call", events(hello, called, stop="tool_use"))
    api.stream("thinking", events(block(0, thinking, {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "c2ln"})))
    api.stream("unknown deltas", events(block(0, {"type": "new"}, {"type": "new_delta", "x": 1})))
    api.stream("a ping", plain.replace(hello[0], event("ping") + hello[0]))
    api.stream("an unknown event", plain.replace(hello[1], event("new", x=1) + hello[1]))
    api.stream("comments", plain.replace(hello[1], ": x\n\n" + hello[1]))
    api.stream("CR LF", plain.replace("\n", "\r\n"))
    api.stream("no space behind the colon", plain.replace(": {", ":{", 1).replace("data: ", "data:"))
    api.stream("one byte a frame", list(plain))
    api.stream("any content type", plain, content_type="application/octet-stream")
    api.stream("cut off within a call", events(block(0, {**tool, "input": {}}, *deltas[:2]), stop="max_tokens"))
    api.stream("an error after the first words", event("message_start", message=message(stop=None)) + "".join(hello) + event("error", error={"type": "overloaded_error", "message": "no"}))
    api.stream("cut", events(hello)[:-120], cut=True, differs=NO_END)
    api.stream("empty", "", differs=NO_ANSWER)
    api.stream("a reply in place of a stream", json.dumps(message(text_block("Hello"))), content_type=JSON)


# === Responses ===

RESPONSES = Api()


def response(*items, status="completed", **members):
    usage = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 7,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10}
    return {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status, "output": list(items),
            "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
            "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [], "usage": usage, **members}


def output_text(words, number=1):
    part = {"type": "output_text", "text": words, "annotations": []}
    return {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def numbered(*steps, data_only=False):
    """Events with their numbers, of pairs of a type and its members."""
    return "".join(
        raw({"type": kind, "sequence_number": number, **members}, **({} if data_only else {"event": kind}))
        for number, (kind, members) in enumerate(steps)
    )


def begun():
    return [(f"response.{kind}", {"response": response(status="in_progress", usage=None)}) for kind in ("created", "in_progress")]


def item_events(index, item, *parts):
    place = {"output_index": index}
    yield "response.output_item.added", {**place, "item": {**item, "status": "in_progress"}}
    for kind, members in parts:
        yield kind, {"item_id": item["id"], **place, **members}
    yield "response.output_item.done", {**place, "item": item}


def responses(api):
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA", "status": "completed"}
    call = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "f", "arguments": "{}"}
    plain = response(reasoning, output_text("Hello"))
    api.whole("plain", plain)
    api.whole("a call", response(reasoning, call))
    api.whole("arguments are an object", response({**call, "arguments": {"a": 1}}))
    api.whole("members of a call are null", response({**call, "arguments": None, "id": None, "status": None}))
    api.whole("items of unknown types", response({"id": "x", "type": "new", "x": [1.0]}, output_text("a")))
    api.whole("no output", response())
    api.whole("no usage", response(output_text("a"), usage=None))
    api.whole("incomplete", response(call, status="incomplete", incomplete_details={"reason": "max_output_tokens"}))
    api.whole("failed", response(status="failed", error={"code": "server_error", "message": "no"}))
    api.whole("a byte order mark", b"\xef\xbb\xbf" + json.dumps(plain).encode())
    api.whole("blank lines before", "\n\n" + json.dumps(plain))
    api.whole("labelled as a stream", plain, content_type=SSE)
    api.whole("bad request", {"error": {"message": "no", "type": "invalid_request_error", "param": "x", "code": None}}, status=400)
    api.whole("a page in place of an error", "<html>", content_type="text/html", status=500)

    delta = ("response.output_text.delta", {"content_index": 0, "delta": "Hello", "logprobs": []})
    hello = list(item_events(0, output_text("Hello"), delta))
    done = ("response.completed", {"response": response(output_text("Hello"))})
    plain = numbered(*begun(), *hello, done)
    api.stream("plain", plain)
    called = item_events(1, call, ("response.function_call_arguments.delta", {"delta": "{}"}))
    api.stream("a call", numbered(*begun(), *item_events(0, reasoning), *called, ("response.completed", {"response": response(reasoning, call)})))
    api.stream("[DONE] behind it", plain + DONE)
    api.stream("data alone", numbered(*begun(), *hello, done, data_only=True))
    api.stream("CR LF", plain.replace("\n", "\r\n"))
    api.stream("comments", ": x\n\n" + plain.replace("\n\n", "\n\n: y\n\n"))
    api.stream("one byte a frame", list(plain))
    api.stream("any content type", plain, content_type="text/plain")
    api.stream("an unknown event", numbered(*begun(), ("response.new", {"x": 1}), *hello, ("response.new", {"x": 2}), done))
    api.stream("an item of an unknown type", numbered(*begun(), *item_events(0, {"id": "x", "type": "new"}), done))
    api.stream("incomplete", numbered(*begun(), *hello, ("response.incomplete", {"response": response(output_text("Hello"), status="incomplete")})))
    api.stream("no usage", numbered(*begun(), *hello, ("response.completed", {"response": response(output_text("Hello"), usage=None)})))
    api.stream("nothing but the end", numbered(done))
    api.stream("odd numbers", plain.replace('"sequence_number": 4', '"sequence_number": 40'), with_tools=False)
    api.stream("no numbers", "".join(raw({"type": kind, **members}, event=kind) for kind, members in [*begun(), *hello, done]))
    api.stream("items that the end alone has", numbered(*begun(), *hello, ("response.completed", {"response": response(output_text("Hello"), call)})), with_tools=False)
    api.stream("an end without its response", numbered(*begun(), *hello, ("response.completed", {})), with_tools=False)
    failed = {"response": response(status="failed", error={"code": "server_error", "message": "no"}, usage=None)}
    api.stream("failed after the first words", numbered(*begun(), *hello[:2], ("response.failed", failed)))
    api.stream("cut", numbered(*begun(), *hello), cut=True, differs=NO_END)
    api.stream("an end without a finish", numbered(*begun(), *hello), differs=NO_END)
    api.stream("empty", "", differs=NO_ANSWER)
    api.stream("a reply in place of a stream", json.dumps(response(output_text("Hello"))), content_type=JSON)


whole_replies(CHAT)
streamed_chunks(CHAT)
messages(MESSAGES)
responses(RESPONSES)
