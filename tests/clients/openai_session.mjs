// OpenAI's JavaScript client in a session with the demo model. Started by scripts/server-clients.
import assert from "node:assert/strict";
import OpenAI from "openai";

const url = process.env.OXLING_URL;
const apiKey = process.env.OXLING_KEY;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const model = (await client.models.list()).data[0].id;
const base = { model, messages, max_tokens: 48, temperature: 0 };
const ask = (more) => client.chat.completions.create({ ...base, ...more });
const step = (name) => console.log(`  ${name}`);

step("a whole answer and a streamed one are the same");
const whole = await ask({});
const text = whole.choices[0].message.content;
assert.match(text, /Paris/);
let streamed = "";
for await (const chunk of await ask({ stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(streamed, text);
const gathered = await client.chat.completions.stream(base).finalContent();
assert.equal(gathered, text);

step("log probabilities");
const probs = await ask({ logprobs: true, top_logprobs: 2 });
assert.equal(probs.choices[0].logprobs.content[0].top_logprobs.length, 2);

step("tools, whole and streamed");
const parameters = { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const called = await ask({ tools, tool_choice: "required", max_tokens: 600 });
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.equal(typeof JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city, "string");
const runner = client.chat.completions.stream({ ...base, tools, tool_choice: "required", max_tokens: 600 });
const call = (await runner.finalMessage()).tool_calls[0];
assert.equal(typeof JSON.parse(call.function.arguments).city, "string");

step("JSON by a schema");
const schema = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };
const made = await ask({ max_tokens: 300, response_format: { type: "json_schema", json_schema: { name: "a", schema } } });
assert.equal(typeof JSON.parse(made.choices[0].message.content).yes, "boolean");

step("responses, completions, embeddings");
const response = await client.responses.create({ model, input: messages[0].content, temperature: 0, max_output_tokens: 48 });
assert.equal(response.output_text, text);
const kinds = [];
for await (const event of await client.responses.create({ model, input: "Hi", max_output_tokens: 8, stream: true })) {
  kinds.push(event.type);
}
assert.equal(kinds[0], "response.created");
assert.match(kinds.at(-1), /^response\.(completed|incomplete)$/);
const completion = await client.completions.create({ model, prompt: "The capital of", max_tokens: 4 });
assert.ok(completion.usage.completion_tokens <= 4);
// This client asks for base64 and decodes it.
const vectors = await client.embeddings.create({ model, input: "one" });
const length = vectors.data[0].embedding.reduce((sum, v) => sum + v * v, 0);
assert.ok(Math.abs(length - 1) < 1e-4, `${length}`);

step("errors");
await assert.rejects(ask({ temperature: "hot" }), OpenAI.BadRequestError);
await assert.rejects(ask({ messages: [], stream: true }), OpenAI.BadRequestError);
const wrong = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 });
await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);

step("cancellation frees the slot");
const busy = async () => {
  const slots = await (await fetch(`${url}/slots`, { headers: { "x-api-key": apiKey } })).json();
  return slots.filter((slot) => slot.is_processing).length;
};
const stream = await ask({ stream: true, max_tokens: 4000, ignore_eos: true });
let seen = 0;
for await (const _ of stream) {
  if (++seen === 5) stream.controller.abort();
}
const began = Date.now();
while ((await busy()) && Date.now() < began + 2000) await new Promise((done) => setTimeout(done, 20));
assert.equal(await busy(), 0);
