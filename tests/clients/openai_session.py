"""OpenAI's Python client in a session with the demo model. Started by scripts/server-clients."""
import json
import os
import time
import urllib.request

import openai

URL = os.environ["OXLING_URL"]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ["OXLING_KEY"], max_retries=0)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False},
    },
}
MODEL = client.models.list().data[0].id


def ask(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "max_tokens": 48, "temperature": 0, **more})


def step(name):
    print(f"  {name}", flush=True)


step("models")
assert client.models.retrieve(MODEL).id == MODEL

step("a whole answer and a streamed one are the same")
whole = ask()
assert "Paris" in whole.choices[0].message.content, whole
assert whole.choices[0].finish_reason == "stop"
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
streamed, usage = "", None
for chunk in ask(stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        streamed += choice.delta.content or ""
assert streamed == whole.choices[0].message.content, streamed
assert usage.completion_tokens == whole.usage.completion_tokens
assert usage.prompt_tokens_details.cached_tokens > 0, "the second time it is known"

step("the helper that gathers a stream")
with client.chat.completions.stream(model=MODEL, messages=QUESTION, max_tokens=48, temperature=0) as stream:
    kinds = {event.type for event in stream}
    final = stream.get_final_completion()
assert "content.delta" in kinds and final.choices[0].message.content == streamed

step("choices, stops, seeds")
several = ask(n=2, temperature=1.0, seed=7, max_tokens=8)
assert [c.index for c in several.choices] == [0, 1]
again = ask(n=2, temperature=1.0, seed=7, max_tokens=8)
assert [c.message.content for c in several.choices] == [c.message.content for c in again.choices]
stopped = ask(stop=[" is"])
assert " is" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"
assert ask(max_tokens=2).choices[0].finish_reason == "length"

step("log probabilities")
probs = ask(logprobs=True, top_logprobs=4).choices[0].logprobs.content
assert probs and all(len(p.top_logprobs) == 4 and p.logprob <= 0 for p in probs)
assert probs[0].token == probs[0].top_logprobs[0].token, "greedy takes the likeliest"

step("tools: a named one, a required one, streamed")
for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
    called = ask(tools=[TOOL], tool_choice=choice, max_tokens=600)
    assert called.choices[0].finish_reason == "tool_calls", called
    call = called.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather" and call.id
    assert isinstance(json.loads(call.function.arguments)["city"], str)
name, arguments = None, ""
for chunk in ask(tools=[TOOL], tool_choice="required", max_tokens=600, stream=True):
    for choice in chunk.choices:
        for piece in choice.delta.tool_calls or []:
            name = piece.function.name or name
            arguments += piece.function.arguments or ""
assert name == "get_weather" and "city" in json.loads(arguments)
answered = ask(
    tools=[TOOL],
    messages=[
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ],
    max_tokens=8,
)
assert answered.choices[0].message.role == "assistant"

step("JSON by a schema, and any JSON")
schema = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 12}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
made = ask(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}, max_tokens=400)
value = json.loads(made.choices[0].message.content)
assert set(value) == {"answer", "sure"} and isinstance(value["sure"], bool)
made = ask(response_format={"type": "json_object"}, max_tokens=300)
if made.choices[0].finish_reason == "stop":
    assert isinstance(json.loads(made.choices[0].message.content), dict)

step("completions")
text = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=2, echo=True)
assert text.choices[0].text.startswith("The capital of France is")
assert len(text.choices[0].logprobs.tokens) == text.usage.completion_tokens
pieces = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0, stream=True)
assert "The capital of France is" + "".join(p.choices[0].text for p in pieces) == text.choices[0].text

step("responses")
response = client.responses.create(model=MODEL, input="What is the capital of France?", max_output_tokens=48, temperature=0)
assert response.status == "completed" and response.output_text == streamed, response
with client.responses.stream(model=MODEL, input="What is the capital of France?", max_output_tokens=48, temperature=0) as stream:
    for _ in stream:
        pass
    final = stream.get_final_response()
assert final.output_text == streamed
called = client.responses.create(model=MODEL, input="Weather in Paris?", tools=[{"type": "function", **TOOL["function"]}], tool_choice="required", max_output_tokens=600)
call = [item for item in called.output if item.type == "function_call"][0]
assert call.name == "get_weather" and "city" in json.loads(call.arguments)
cut = client.responses.create(model=MODEL, input="Hi", max_output_tokens=1)
assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"

step("embeddings")
vectors = client.embeddings.create(model=MODEL, input=["one", "two"])
assert len(vectors.data) == 2 and abs(sum(v * v for v in vectors.data[0].embedding) - 1) < 1e-4

step("errors")
for wrong, kind in [
    (dict(messages=[]), openai.BadRequestError),
    (dict(temperature="hot"), openai.BadRequestError),
    (dict(messages=[{"role": "user", "content": "x y " * 9000}]), openai.BadRequestError),
    (dict(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}), openai.BadRequestError),
]:
    try:
        ask(**wrong)
        raise SystemExit(f"{wrong} was taken")
    except kind as e:
        assert e.status_code == 400 and e.body["message"], e
    try:
        ask(**wrong, stream=True)
        raise SystemExit(f"{wrong} was taken as a stream")
    except kind as e:
        assert e.status_code == 400
try:
    openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0).models.list()
    raise SystemExit("a wrong key was taken")
except openai.AuthenticationError as e:
    assert e.status_code == 401
try:
    client.models.retrieve("other")
    raise SystemExit("there is no such model")
except openai.NotFoundError:
    pass

step("cancellation frees the slot")

def busy():
    request = urllib.request.Request(f"{URL}/slots", headers={"x-api-key": os.environ["OXLING_KEY"]})
    with urllib.request.urlopen(request) as reply:
        slots = json.load(reply)
    return sum(slot["is_processing"] for slot in slots)


stream = ask(stream=True, max_tokens=4000, messages=[{"role": "user", "content": "Tell me a story."}], extra_body={"ignore_eos": True})
for _ in zip(range(5), stream):
    pass
assert busy() == 1
stream.close()
began = time.monotonic()
while busy() and time.monotonic() < began + 2:
    time.sleep(0.02)
assert busy() == 0, "a client has left, and its slot still computes"
try:
    openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ["OXLING_KEY"], max_retries=0, timeout=0.3).chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=4000, extra_body={"ignore_eos": True}
    )
except openai.APITimeoutError:
    pass
began = time.monotonic()
while busy() and time.monotonic() < began + 2:
    time.sleep(0.02)
assert busy() == 0
