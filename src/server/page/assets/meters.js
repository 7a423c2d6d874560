// Figures: how fast, how full.

import { $, el } from "./dom.js";
import { server } from "./server.js";
import { pathTo } from "./tree.js";

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const brief = (n) => (n < 100_000 ? count(n) : compact.format(n));
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (n) => whole.format(n);
const rate = (n) => `${short.format(n)} t/s`;
const plural = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;

export function duration(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${short.format(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

export function bytes(n) {
  return n < 1024 ? `${n} B` : n < 1 << 20 ? `${short.format(n / 1024)} KiB` : n < 2 ** 30 ? `${short.format(n / (1 << 20))} MiB` : `${short.format(n / 2 ** 30)} GiB`;
}

/** Tokens in context after a message. */
function used(t) {
  return (t.cache_n ?? 0) + (t.prompt_n ?? 0) + (t.predicted_n ?? 0);
}

/** The meter at the top: how much of the context the branch shown uses. */
export function showContext(conv) {
  const last = conv && pathTo(conv).findLast((m) => m.timings);
  const box = $("context");
  box.hidden = !last || !server.nCtx;
  if (box.hidden) return;
  const n = used(last.timings);
  const share = Math.min(1, n / server.nCtx);
  const meter = $("context-meter");
  meter.setAttribute("aria-valuemax", server.nCtx);
  meter.setAttribute("aria-valuenow", Math.min(n, server.nCtx));
  meter.setAttribute("aria-valuetext", `${count(n)} of ${count(server.nCtx)} tokens`);
  meter.classList.toggle("full", share > 0.9);
  meter.firstElementChild.style.width = `${Math.max(1, share * 100)}%`;
  $("context-text").replaceChildren(el("b", { text: brief(n) }), ` of ${brief(server.nCtx)}`);
  box.title = `${count(n)} of ${count(server.nCtx)} tokens of context used`;
}

/** What a run is doing, beside the send button. */
export function showStatus(run) {
  const meter = $("status-meter");
  const progress = run?.phase === "reading" ? run.progress : null;
  meter.hidden = !progress;
  let text = "";
  if (progress) {
    const { total = 0, cache = 0, processed = 0, time_ms: ms = 0 } = progress;
    meter.firstElementChild.style.width = `${total ? (100 * processed) / total : 0}%`;
    const speed = ms > 0 && processed > cache ? `, ${rate(((processed - cache) / ms) * 1000)}` : "";
    text = `Reading ${count(processed)} of ${plural(total, "token")}${speed}`;
  } else if (run?.phase === "writing") {
    const t = run.message.timings;
    text = t?.predicted_per_second ? rate(t.predicted_per_second) : "Writing\u2026";
  } else if (run) {
    text = run.note || "Waiting\u2026";
  }
  $("status-text").textContent = text;
}

const ENDS = { stop: "at the model's end", length: "at a limit of tokens", stopped: "by you", tool_calls: "to call a tool", error: "by an error" };

/** A summary that unfolds into all figures of an answer, or nothing where there are none. */
export function statistics(message) {
  const t = message.timings;
  if (!t?.predicted_n) return null;
  const speed = t.predicted_per_second > 0 ? ` \u00b7 ${rate(t.predicted_per_second)}` : "";
  const rows = [["Model", message.model], ["Prompt", promptText(t)], ["Answer", answerText(t)]];
  if (t.draft_n > 0) {
    const share = Math.round((100 * (t.draft_n_accepted ?? 0)) / t.draft_n);
    rows.push(["Guesses", `${count(t.draft_n_accepted ?? 0)} of ${count(t.draft_n)} right (${share} %)`]);
  }
  rows.push(["Context", server.nCtx ? `${count(used(t))} of ${plural(server.nCtx, "token")}` : plural(used(t), "token")]);
  if (ENDS[message.finish]) rows.push(["Ended", ENDS[message.finish]]);
  const list = rows.filter(([, v]) => v).flatMap(([k, v]) => [el("dt", { text: k }), el("dd", { text: v })]);
  return el("details", { class: "stats" }, el("summary", { title: "All figures" }, plural(t.predicted_n, "token") + speed), el("dl", {}, ...list));
}

function promptText(t) {
  const all = (t.prompt_n ?? 0) + (t.cache_n ?? 0);
  const cached = t.cache_n > 0 ? `, ${count(t.cache_n)} of them from cache` : "";
  const speed = t.prompt_n > 0 && t.prompt_ms > 0 ? `; ${count(t.prompt_n)} read in ${duration(t.prompt_ms)}, ${rate(t.prompt_per_second)}` : "";
  return `${plural(all, "token")}${cached}${speed}`;
}

function answerText(t) {
  return `${plural(t.predicted_n, "token")}${t.predicted_ms > 0 ? ` in ${duration(t.predicted_ms)}` : ""}`;
}

/** The name plate of an empty conversation. */
export function showFacts() {
  $("welcome-title").textContent = server.model || "oxling";
  const { n_params: params, size, n_ctx_train: trained } = server.meta;
  const rows = [
    ["Parameters", params && compact.format(params)],
    ["Size", size && bytes(size)],
    ["Context", server.nCtx && `${count(server.nCtx)}`],
    ["Trained for", trained && trained !== server.nCtx && count(trained)],
    ["Slots", server.slots && count(server.slots)],
  ];
  const shown = rows.filter(([, value]) => value);
  $("facts").replaceChildren(...shown.map(([k, v]) => el("div", {}, el("dt", { text: k }), el("dd", { text: v }))));
}
