// Building the page. Everything a model, a user or a server says becomes a text node; nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/**
 * An element. Properties: `class`, `text`, `on` (an object of listeners), anything else is an attribute; `true` stands for an
 * empty one, `false`, `null` and `undefined` for none. Children: nodes, strings, or nothing.
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the drawings in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with a drawing and a name that is read out and shown as a hint. */
export function iconButton(name, label, onClick, props = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click: onClick }, ...props }, icon(name));
}

/** Says something to screen readers. */
export function announce(text) {
  const live = $("live");
  // The same words twice are two announcements.
  live.textContent = "";
  requestAnimationFrame(() => (live.textContent = text));
}

let toastTimer = 0;

/** Says something to everybody, for a few seconds. */
export function toast(text) {
  const node = $("toast");
  node.textContent = text;
  node.hidden = false;
  announce(text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (node.hidden = true), 4000);
}

/** Puts a text on the clipboard. Pages served over plain HTTP from another machine have no clipboard API. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "sr-only", "aria-hidden": "true", tabindex: "-1" });
    area.value = text;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus?.();
    return done;
  }
}

/** A button that copies what `text()` gives and shows that it did. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    if (!(await copyText(text()))) return toast("The browser did not allow copying");
    button.replaceChildren(icon("check"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Hands a text to the user as a file. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Opens a dialog and closes it by Escape, a button of value "cancel" or "close", or a click beside it. */
export function openDialog(dialog) {
  if (!dialog.open) dialog.showModal();
}

export function wireDialog(dialog, onSubmit = () => {}) {
  dialog.addEventListener("click", (event) => {
    const box = dialog.getBoundingClientRect();
    const { clientX: x, clientY: y } = event;
    const beside = x < box.left || x > box.right || y < box.top || y > box.bottom;
    if (event.target === dialog && beside && (x || y)) dialog.close("cancel");
    if (event.target.closest?.("[data-close]")) dialog.close("cancel");
  });
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("ok");
    onSubmit();
  });
}

/** Asks for one line of text, or only for consent where `value` is undefined. Null if the user declined. */
export function ask({ title, text = "", value, action, danger = false }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  const input = $("ask-input");
  input.hidden = value === undefined;
  input.value = value ?? "";
  const ok = $("ask-ok");
  ok.textContent = action;
  ok.className = danger ? "fatal" : "primary";
  dialog.returnValue = "cancel";
  openDialog(dialog);
  // What cannot be undone is not the default.
  (danger ? dialog.querySelector("[data-close]") : value === undefined ? ok : input).focus();
  if (value !== undefined) input.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? input.value : null), { once: true });
  });
}
