// Talking to the server. Addresses are relative, so that a prefix in front of the page works.

import { getItem } from "./store.js";

/** What the server or the way to it answered instead of a result. `status` 0: no answer at all. */
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let sessionKey = null;

/** Uses an API key until the page is closed; `store.js` may keep it longer. */
export function setKey(key) {
  sessionKey = key;
}

async function call(path, init = {}) {
  const key = sessionKey ?? getItem("key", null);
  const headers = { ...init.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let message = `The server answered ${response.status} ${response.statusText}`.trim();
  try {
    const { error } = await response.json();
    if (typeof error?.message === "string") message = error.message;
    else if (typeof error === "string") message = error;
  } catch {
    // Not ours: a proxy's page.
  }
  const seconds = parseFloat(response.headers.get("retry-after"));
  return new ApiError(message, response.status, Number.isFinite(seconds) ? seconds : null);
}

export async function getJson(path) {
  return (await call(path)).json();
}

/** Chunks of a streamed answer. Throws `ApiError`; an aborted signal throws an AbortError. */
export async function* streamChat(body, signal) {
  const init = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  const response = await call("v1/chat/completions", init);
  let complete = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server failed", chunk.error.code ?? 500);
      complete ||= chunk.choices?.some((choice) => choice.finish_reason) ?? false;
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(error instanceof SyntaxError ? "The server sent something that is not JSON" : "The connection broke");
  }
  if (!complete) throw new ApiError("The connection ended before the answer did");
}

/** The data of each server-sent event. Comments, which keep a silent stream alive, are skipped. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // Whoever stops listening also stops the server.
    reader.cancel().catch(() => {});
  }
}
