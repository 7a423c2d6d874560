// Settings: kept in the browser, sent with each request where they are set. What is empty is the server's affair.

import { $, el, openDialog, toast, wireDialog } from "./dom.js";
import { server } from "./server.js";
import { getItem, setItem } from "./store.js";

const NUMBERS = [
  { key: "temperature", label: "Temperature", hint: "0 always takes the likeliest token", min: 0, max: 5, step: 0.05 },
  { key: "top_p", label: "Top-p", hint: "Likeliest tokens up to this share", min: 0, max: 1, step: 0.01 },
  { key: "top_k", label: "Top-k", hint: "Only this many; 0 is all", min: 0, max: 1000, step: 1 },
  { key: "min_p", label: "Min-p", hint: "At least this share of the likeliest", min: 0, max: 1, step: 0.01 },
  { key: "max_tokens", label: "Most tokens", hint: "Of one answer", min: 1, max: 1_000_000, step: 1 },
  { key: "seed", label: "Seed", hint: "Equal seeds, equal answers", min: 0, max: 4_294_967_295, step: 1 },
];
const THINKING = { auto: "Model\u2019s choice", on: "On", off: "Off" };
const THEMES = { system: "System", light: "Light", dark: "Dark" };

let values = {};
let listener = () => {};

/** Reads what is kept and builds the sheet. `onChange` hears of changes, `data` holds what the data buttons do. */
export function initSettings(onChange, data) {
  const kept = getItem("settings", {});
  values = typeof kept === "object" && kept !== null ? kept : {};
  listener = onChange;
  wireDialog($("settings"));
  $("settings-open").addEventListener("click", () => {
    build(data);
    openDialog($("settings"));
  });
  $("thinking").addEventListener("click", () => {
    const names = Object.keys(THINKING);
    save("thinking", names[(names.indexOf(thinking()) + 1) % names.length]);
  });
  showThinking();
}

function thinking() {
  return THINKING[values.thinking] ? values.thinking : "auto";
}

function showThinking() {
  const state = thinking();
  const chip = $("thinking");
  chip.dataset.state = state;
  const text = { auto: "Thinking: auto", on: "Thinking: on", off: "Thinking: off" }[state];
  chip.lastElementChild.textContent = text;
  chip.title = state === "auto" ? "The model decides whether it thinks first" : "";
}

function save(key, value) {
  if (value === "" || value === null) delete values[key];
  else values[key] = value;
  setItem("settings", values);
  showThinking();
  listener();
}

/** `system`: the system prompt; `fields`: what goes into the request beside messages. Throws if tools are not JSON. */
export function requestSettings() {
  const fields = {};
  for (const { key, min, max } of NUMBERS) {
    const value = values[key];
    if (Number.isFinite(value) && value >= min && value <= max) fields[key] = value;
  }
  if (thinking() !== "auto") fields.chat_template_kwargs = { enable_thinking: thinking() === "on" };
  const tools = toolsOf(values.tools ?? "");
  if (tools.length) fields.tools = tools;
  return { system: typeof values.system === "string" ? values.system : "", fields };
}

function toolsOf(text) {
  if (!text.trim()) return [];
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("Tools must be a JSON array");
  // A bare function is what people paste.
  return tools.map((tool) => (tool?.type ? tool : { type: "function", function: tool }));
}

function numberField(field) {
  const id = `set-${field.key}`;
  const fallback = server.defaults[field.key === "max_tokens" ? "n_predict" : field.key];
  const known = Number.isFinite(fallback) && fallback >= 0 && fallback < 4_294_967_295;
  const input = el("input", {
    id,
    type: "number",
    inputmode: "decimal",
    min: field.min,
    max: field.max,
    step: field.step === 1 ? 1 : "any",
    placeholder: known ? Number(fallback.toFixed(4)) : "server\u2019s",
    "aria-describedby": `${id}-hint`,
    on: { input: () => (input.checkValidity() ? save(field.key, input.value === "" ? null : Number(input.value)) : null) },
  });
  input.value = values[field.key] ?? "";
  return el("div", { class: "field" }, el("label", { for: id, text: field.label }), input, el("small", { id: `${id}-hint`, text: field.hint }));
}

function choice(name, legend, options, current, pick) {
  const inputs = Object.entries(options).map(([value, text]) => {
    const input = el("input", { type: "radio", name, value, on: { change: () => pick(value) } });
    input.checked = value === current;
    return el("label", {}, input, el("span", { text }));
  });
  return el("fieldset", { class: "choice" }, el("legend", { text: legend }), el("div", { class: "segments" }, ...inputs));
}

function textField(key, label, hint, rows, check = null) {
  const id = `set-${key}`;
  const note = el("small", { id: `${id}-hint`, text: hint });
  const area = el("textarea", { id, rows, spellcheck: check ? "false" : null, class: check ? "mono" : null, "aria-describedby": `${id}-hint` });
  area.value = values[key] ?? "";
  area.addEventListener("input", () => {
    const wrong = check?.(area.value) ?? "";
    area.setAttribute("aria-invalid", wrong !== "");
    note.textContent = wrong || hint;
    save(key, area.value);
  });
  return el("div", { class: "field wide" }, el("label", { for: id, text: label }), area, note);
}

function checkTools(text) {
  try {
    toolsOf(text);
    return "";
  } catch (error) {
    return error.message;
  }
}

function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

function setTheme(value) {
  setItem("theme", value === "system" ? null : value);
  if (value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
}

function build(data) {
  const button = (text, act, kind = "") => el("button", { type: "button", class: kind, text, on: { click: act } });
  const reset = () => {
    for (const { key } of NUMBERS) save(key, null);
    build(data);
    toast("The server\u2019s sampling is used again");
  };
  const then = (act) => () => {
    $("settings").close();
    act();
  };
  const tools = textField("tools", "Functions as JSON", "An array of names, descriptions and parameters. You give the results in the conversation.", 5, checkTools);
  $("settings-body").replaceChildren(
    textField("system", "System prompt", "Stands before every conversation.", 4),
    choice("think", "Thinking", THINKING, thinking(), (value) => save("thinking", value)),
    el("section", {}, el("h3", { text: "Sampling" }), el("div", { class: "grid" }, ...NUMBERS.map(numberField)), button("Use the server\u2019s values", reset, "small")),
    el("details", { class: "more" }, el("summary", { text: "Tools" }), tools),
    choice("theme", "Appearance", THEMES, theme(), setTheme),
    el(
      "section",
      {},
      el("h3", { text: "Conversations" }),
      el("p", { text: data.note() }),
      el("div", { class: "buttons start" }, button("Export all", data.exportAll, "small"), button("Import\u2026", data.importFile, "small"), button("Delete all\u2026", then(data.deleteAll), "small danger")),
    ),
    el("section", {}, el("h3", { text: "API key" }), el("div", { class: "buttons start" }, button("Enter key\u2026", then(data.enterKey), "small"), button("Forget key", data.forgetKey, "small"))),
  );
}
