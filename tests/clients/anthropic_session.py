"""Anthropic's Python client in a session with the demo model. Started by scripts/server-clients."""
import os

import anthropic

URL = os.environ["OXLING_URL"]
client = anthropic.Anthropic(base_url=URL, api_key=os.environ["OXLING_KEY"], max_retries=0)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False},
}


def ask(**more):
    return client.messages.create(**{"model": "any", "max_tokens": 48, "messages": QUESTION, "extra_body": {"temperature": 0}, **more})


def step(name):
    print(f"  {name}", flush=True)


step("a whole answer and a streamed one are the same")
whole = ask()
assert whole.type == "message" and whole.role == "assistant" and whole.stop_reason == "end_turn", whole
assert "Paris" in whole.content[0].text
with client.messages.stream(model="any", max_tokens=48, messages=QUESTION, extra_body={"temperature": 0}) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == whole.content[0].text == final.content[0].text
assert final.stop_reason == "end_turn" and final.usage.output_tokens == whole.usage.output_tokens
assert final.usage.cache_read_input_tokens > 0, "the second time it is known"

step("system, stops, limits, counts")
assert ask(system="Be brief.").stop_reason
assert ask(system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]).stop_reason
stopped = ask(stop_sequences=[" is"])
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " is")
assert ask(max_tokens=2).stop_reason == "max_tokens"
counted = client.messages.count_tokens(model="any", messages=QUESTION)
assert counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens

step("tools, whole and streamed, and their results")
called = ask(tools=[TOOL], tool_choice={"type": "any"}, max_tokens=600)
assert called.stop_reason == "tool_use", called
use = [block for block in called.content if block.type == "tool_use"][0]
assert use.name == "get_weather" and isinstance(use.input["city"], str)
with client.messages.stream(
    model="any", max_tokens=600, messages=QUESTION, tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather"}
) as stream:
    final = stream.get_final_message()
streamed = [block for block in final.content if block.type == "tool_use"][0]
assert isinstance(streamed.input["city"], str)
answered = ask(
    tools=[TOOL],
    messages=[
        *QUESTION,
        {"role": "assistant", "content": [block.model_dump() for block in called.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]},
    ],
)
assert answered.stop_reason

step("thinking")
thought = ask(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000, extra_body={"n_predict": 64})
assert {block.type for block in thought.content} <= {"thinking", "text", "tool_use"}

step("errors")
for wrong in [dict(messages=[{"role": "nobody", "content": "x"}]), dict(messages=[{"role": "user", "content": "x y " * 9000}])]:
    try:
        ask(**wrong)
        raise SystemExit("it was taken")
    except anthropic.BadRequestError as e:
        assert e.body["type"] == "error" and e.body["error"]["type"] == "invalid_request_error", e.body
try:
    anthropic.Anthropic(base_url=URL, api_key="wrong", max_retries=0).messages.create(model="any", max_tokens=1, messages=QUESTION)
    raise SystemExit("a wrong key was taken")
except anthropic.AuthenticationError as e:
    assert e.body["error"]["type"] == "authentication_error"
