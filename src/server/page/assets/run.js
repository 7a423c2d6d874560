// One answer being written: the request, its stream, and what becomes of the message. Runs go on while another
// conversation is shown.

import { ApiError, streamChat } from "./api.js";
import { connect, noteFailure, server } from "./server.js";
import { saveConversation } from "./store.js";
import { pathTo, toApi } from "./tree.js";

const SAVE_EVERY_MS = 1000;
const MAX_BUSY_RETRIES = 5;
const BUSY_WAIT_S = 2;

/** Runs by conversation id. */
export const runs = new Map();

/**
 * Writes `message`, or what is missing of it if `more`. `listener(run, ended)` hears of every change. Live state:
 * `run.phase` "waiting" | "reading" | "writing", `run.progress` of the prompt, `run.note` for the user.
 */
export function startRun(conv, message, settings, listener, more = false) {
  const run = { conv, message, phase: "waiting", note: "", progress: null, abort: new AbortController(), saved: 0, started: performance.now() };
  runs.set(conv.id, run);
  run.changed = () => listener(run, false);
  run.promise = write(run, request(conv, message, settings, more)).finally(async () => {
    runs.delete(conv.id);
    conv.updated = Date.now();
    await saveConversation(conv).catch(() => {});
    listener(run, true);
  });
  return run;
}

export function stopRun(convId) {
  const run = runs.get(convId);
  run?.abort.abort();
  return run?.promise;
}

function request(conv, message, settings, more) {
  const path = pathTo(conv, more ? message.id : message.parent);
  return {
    messages: toApi(path, settings.system),
    stream: true,
    stream_options: { include_usage: true },
    timings_per_token: true,
    return_progress: true,
    ...settings.fields,
    ...(more ? { continue_final_message: true, add_generation_prompt: false } : {}),
  };
}

async function write(run, body) {
  const { message } = run;
  delete message.error;
  delete message.finish;
  message.model = server.model;
  try {
    for (let attempt = 0; ; attempt += 1) {
      try {
        for await (const chunk of streamChat(body, run.abort.signal)) take(run, chunk);
        break;
      } catch (error) {
        await retryOrThrow(run, error, attempt);
      }
    }
    message.finish ??= "stop";
  } catch (error) {
    if (run.abort.signal.aborted) message.finish = "stopped";
    else {
      message.finish = "error";
      message.error = error.message || "Something went wrong";
    }
  }
  endThinking(run);
}

/** Waits and returns where the same request may succeed later; throws otherwise. */
async function retryOrThrow(run, error, attempt) {
  const status = error instanceof ApiError ? error.status : -1;
  if (run.phase !== "waiting") throw error;
  if (status === 503) {
    noteFailure(error);
    note(run, "The model is being loaded\u2026");
    if (!(await unlessAborted(run, connect()))) throw new ApiError("The server wants an API key", 401);
  } else if (status === 429 && attempt < MAX_BUSY_RETRIES) {
    const seconds = error.retryAfter ?? BUSY_WAIT_S;
    note(run, `The server is busy; asking again in ${Math.ceil(seconds)} s`);
    await unlessAborted(run, new Promise((resolve) => setTimeout(resolve, seconds * 1000)));
  } else {
    if (status === 401 || status === 403 || status === 0) noteFailure(error);
    if (status === 0) connect();
    throw error;
  }
  note(run, "");
}

function unlessAborted(run, promise) {
  const { signal } = run.abort;
  const aborted = new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  return Promise.race([promise, aborted]);
}

function note(run, text) {
  run.note = text;
  run.changed();
}

/** Adds a chunk to the message. */
function take(run, chunk) {
  const { message } = run;
  if (chunk.prompt_progress) {
    run.phase = "reading";
    run.progress = chunk.prompt_progress;
  }
  if (chunk.timings) message.timings = chunk.timings;
  if (chunk.usage?.prompt_tokens_details) message.timings = { ...message.timings, cache_n: chunk.usage.prompt_tokens_details.cached_tokens };
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? {};
  if (delta.reasoning_content) {
    run.phase = "writing";
    run.thinkingSince ??= performance.now() - (message.thinkMs ?? 0);
    message.reasoning = (message.reasoning ?? "") + delta.reasoning_content;
  }
  if (delta.content) {
    run.phase = "writing";
    endThinking(run);
    message.content += delta.content;
  }
  for (const call of delta.tool_calls ?? []) takeCall(run, call);
  if (choice?.finish_reason) message.finish = choice.finish_reason;
  run.changed();
  save(run);
}

function takeCall(run, { index = 0, id, function: f = {} }) {
  const { message } = run;
  run.phase = "writing";
  endThinking(run);
  message.calls ??= [];
  while (message.calls.length <= index && index < 100) message.calls.push({ id: "", name: "", arguments: "" });
  const call = message.calls[index];
  if (!call) return;
  call.id ||= id ?? "";
  call.name += f.name ?? "";
  call.arguments += f.arguments ?? "";
}

function endThinking(run) {
  if (run.thinkingSince === undefined) return;
  run.message.thinkMs = performance.now() - run.thinkingSince;
  run.thinkingSince = undefined;
}

/** Now and then, so that a closed tab loses at most a second. */
function save(run) {
  const now = performance.now();
  if (now - run.saved < SAVE_EVERY_MS) return;
  run.saved = now;
  saveConversation(run.conv).catch(() => {});
}
