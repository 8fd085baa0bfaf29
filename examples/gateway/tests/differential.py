"""Compares what the provider's own client makes of each of `odd_answers`, directly and through the gateway.

usage: differential.py PATH_OF_THE_GATEWAY [PART_OF_A_NAME]

Each case runs through a gateway without tools and through one that injects some. Needs `pip install openai anthropic`; the
tested versions are in `.ci/run`.
"""

import sys

import anthropic
import openai

import odd_answers
from scripted import Gateway, Handler, Mcp, serve

KEY = "sk-of-the-operator"


class Provider(Handler):
    """Answers with the case that the prompt names."""

    def do_POST(self):
        case = self.cases[prompt(self.read())]
        self.answer(case.status, case.content_type, case.frames(), case.cut, case.headers)


def prompt(request):
    """The user's text, wherever the API has it."""
    words = request.get("messages") or request["input"]
    if isinstance(words, list):
        words = words[0]["content"]
    return words if isinstance(words, str) else words[0]["text"]


def plain(value):
    """The data that the client made of an answer."""
    return value.model_dump(mode="python", warnings=False) if hasattr(value, "model_dump") else value


def without_ids(value):
    """Chat's answers have the gateway's id."""
    return {name: member for name, member in value.items() if name != "id"} if isinstance(value, dict) else value


def made(ask, case):
    """The client's result of a case: answers or events, and the error at the end."""
    seen = []
    try:
        answer = ask(case)
        if case.stream:
            seen.extend(plain(event) for event in answer)
        else:
            seen.append(plain(answer))
    except Exception as error:  # whatever a client raises is compared
        body = getattr(error, "body", None)
        return seen, (type(error).__name__, getattr(error, "status_code", None), body if body is not None else str(error)[:60])
    return seen, None


def chat(address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60)
    return lambda case: client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": case.name}], stream=case.stream
    )


def responses(address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60)
    return lambda case: client.responses.create(model="demo", input=case.name, stream=case.stream)


def messages(address):
    client = anthropic.Anthropic(base_url=address, api_key=KEY, max_retries=0, timeout=60)
    return lambda case: client.messages.create(
        model="demo", max_tokens=9, messages=[{"role": "user", "content": case.name}], stream=case.stream
    )


def compare(case, direct, relayed):
    """The difference, if there is one."""
    directly, through = made(direct, case), made(relayed, case)
    if case.differs:
        return None if through[1] else f"should be an error: {case.differs}\n  gateway: {str(through)[:600]}"
    if [without_ids(one) for one in directly[0]] == [without_ids(one) for one in through[0]] and directly[1] == through[1]:
        return None
    return f"\n  directly: {str(directly)[:900]}\n  gateway:  {str(through)[:900]}"


def main():
    path, part = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    mcp = f"clock={serve(Mcp)}/mcp"
    failures = []
    for name, ask, api, option in [
        ("chat completions", chat, odd_answers.CHAT, "--upstream"),
        ("responses", responses, odd_answers.RESPONSES, "--upstream"),
        ("messages", messages, odd_answers.MESSAGES, "--anthropic-upstream"),
    ]:
        cases = [case for case in api.cases.values() if part in case.name]
        upstream = serve(type("Scripted", (Provider,), {"cases": api.cases}))
        keys = [option.replace("upstream", "key"), KEY]
        for tools in ([], ["--mcp", mcp]):
            with Gateway(path, option, upstream, *keys, *tools) as gateway:
                direct, relayed = ask(upstream), ask(gateway.address)
                for case in (case for case in cases if case.with_tools or not tools):
                    if wrong := compare(case, direct, relayed):
                        failures.append(f"{name}, {'with' if tools else 'without'} tools: {case.name}: {wrong}")
        print(f"{'ok' if not failures else 'failed'}: {len(cases)} answers of {name}")
    if failures:
        sys.exit("\n".join(failures))


main()
