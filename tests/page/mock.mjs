// A server that speaks the API as `oxling serve` does, with answers and failures on demand. The page's files are served
// from the source tree under the policy that stands in the Rust source.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "../../src/server/page");
const SOURCE = readFileSync(join(ROOT, "mod.rs"), "utf8");
const TYPES = { html: "text/html; charset=utf-8", css: "text/css", js: "text/javascript", svg: "image/svg+xml" };

/** The policy, read from the Rust constant: a string with line continuations. */
export const POLICY = /CONTENT_SECURITY_POLICY: &str = "([^"]*)"/.exec(SOURCE)[1].replace(/\\\n\s*/g, "");

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Starts a mock on a free port. `state` may be changed while it runs:
 * `answer(body)` gives {reasoning, content, calls, finish}; `delay` ms between tokens; `key` wanted; `loading`; `offline`;
 * `busy` requests answered with 429 first; `failWith` {status, message}; `breakAfter` tokens, how: "error" | "close".
 */
export async function startMock() {
  const state = { answer: () => ({ content: "Hello." }), delay: 1, prefill: 2, key: null, loading: false, busy: 0, requests: [], aborted: 0, paths: [] };
  const server = createServer((request, response) => handle(state, request, response).catch(() => response.destroy()));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.url = `http://127.0.0.1:${server.address().port}/`;
  state.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return state;
}

async function handle(state, request, response) {
  const path = new URL(request.url, "http://x").pathname;
  state.paths.push(path);
  if (state.offline && !isAsset(path)) return response.destroy();
  if (isAsset(path)) return asset(path, response);
  if (state.loading) return fail(response, 503, "Loading model: 40 %", "unavailable_error");
  if (state.key && request.headers.authorization !== `Bearer ${state.key}`) return fail(response, 401, "Invalid API key", "authentication_error");
  if (path === "/props") {
    const params = { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, n_predict: -1, seed: 4294967295 };
    return json(response, { default_generation_settings: { n_ctx: 8192, params }, total_slots: 4, model_alias: "tiny-ling" });
  }
  if (path === "/v1/models") {
    const meta = { n_params: 19_300_000, size: 11_534_336, n_ctx_train: 32768 };
    return json(response, { object: "list", data: [{ id: "Ling-2.6-flash-IQ4_NL", object: "model", meta: { ...meta, ...state.meta } }] });
  }
  if (path === "/v1/chat/completions" && request.method === "POST") return chat(state, request, response);
  return fail(response, 404, "File Not Found", "not_found_error");
}

const isAsset = (path) => path === "/" || path.startsWith("/page/");

function asset(path, response) {
  const name = path === "/" ? "index.html" : path.slice("/page/".length);
  if (!/^[\w.-]+$/.test(name)) return fail(response, 404, "File Not Found", "not_found_error");
  const body = readFileSync(join(ROOT, "assets", name));
  response.writeHead(200, { "Content-Type": TYPES[name.split(".").pop()], "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff" });
  response.end(body);
}

function json(response, value, status = 200, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(JSON.stringify(value));
}

function fail(response, code, message, type, headers) {
  json(response, { error: { code, message, type } }, code, headers);
}

async function chat(state, request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = JSON.parse(Buffer.concat(chunks));
  state.requests.push(body);
  if (state.busy > 0) {
    state.busy -= 1;
    return fail(response, 429, "4 requests wait already", "unavailable_error", { "Retry-After": "0.1" });
  }
  if (state.failWith) return fail(response, state.failWith.status, state.failWith.message, "invalid_request_error");
  let gone = false;
  response.on("close", () => {
    if (!response.writableEnded) {
      gone = true;
      state.aborted += 1;
    }
  });
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  await stream(state, body, response, () => gone);
}

async function stream(state, body, response, gone) {
  const send = (value) => response.write(`data: ${JSON.stringify({ id: "chatcmpl-1", object: "chat.completion.chunk", ...value })}\n\n`);
  const choice = (delta, finish_reason = null) => ({ choices: [{ index: 0, delta, finish_reason }] });
  const answer = state.answer(body);
  const total = Math.ceil(JSON.stringify(body.messages).length / 4);
  const cached = Math.floor(total * (answer.cached ?? 0.5));
  response.write(":\n\n");
  for (let i = 0; i <= state.prefill && body.return_progress; i += 1) {
    const processed = cached + Math.round(((total - cached) * i) / state.prefill);
    send({ choices: [], prompt_progress: { total, cache: cached, processed, time_ms: 20 * i } });
    await sleep(state.delay);
  }
  send(choice({ role: "assistant", content: null }));
  let n = 0;
  const timings = () => ({
    ...{ cache_n: cached, prompt_n: total - cached, prompt_ms: (total - cached) * 2, prompt_per_second: 500 },
    ...{ predicted_n: n, predicted_ms: n * 26, predicted_per_second: n > 1 ? 38.4 : 0 },
    ...(answer.drafts ? { draft_n: n, draft_n_accepted: Math.floor(n * 0.8) } : {}),
  });
  const parts = [...pieces(answer.reasoning).map((v) => ({ reasoning_content: v })), ...pieces(answer.content).map((v) => ({ content: v })), ...calls(answer.calls)];
  for (const delta of parts) {
    if (gone()) return;
    n += 1;
    if (state.breakAfter === n) {
      if (state.how === "error") send({ error: { code: 500, message: "The computation failed", type: "server_error" } });
      return response.end();
    }
    send({ ...choice(delta), ...(body.timings_per_token ? { timings: timings() } : {}) });
    if (state.delay) await sleep(state.delay);
    // Fast, but not all at once: the page must have frames between.
    else if (n % 50 === 0) await sleep(1);
  }
  send(choice({}, answer.finish ?? (answer.calls ? "tool_calls" : "stop")));
  const usage = { prompt_tokens: total, completion_tokens: n, total_tokens: total + n, prompt_tokens_details: { cached_tokens: cached } };
  if (body.stream_options?.include_usage) send({ choices: [], usage, timings: timings() });
  response.end("data: [DONE]\n\n");
}

/** A text as a model would send it: a few characters each. */
function pieces(text = "") {
  return text.match(/[^]{1,4}/gu) ?? [];
}

function calls(list = []) {
  return list.flatMap(({ name, args }, index) => [
    { tool_calls: [{ index, id: `call_${index}`, type: "function", function: { name, arguments: "" } }] },
    ...pieces(args).map((v) => ({ tool_calls: [{ index, function: { arguments: v } }] })),
  ]);
}
