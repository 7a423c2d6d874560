// The box where messages are written: text, files, keys.

import { $, announce, el, icon, iconButton, toast } from "./dom.js";
import { bytes } from "./meters.js";
import { getItem, setItem } from "./store.js";

const MAX_FILE = 2 << 20;
const MAX_FILES = 20;
const TOUCH = matchMedia("(pointer: coarse)");

let files = [];
let busy = false;
let actions = null;

/** `actions`: send(text, files) gives true if it was taken, stop(), editLast(). */
export function initComposer(given) {
  actions = given;
  const input = $("input");
  input.value = getItem("draft", "");
  input.addEventListener("input", changed);
  input.addEventListener("keydown", key);
  input.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) add(pasted, event);
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) actions.stop();
    else send();
  });
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    add([...$("file").files]);
    $("file").value = "";
  });
  dropping();
  changed();
}

function key(event) {
  const input = $("input");
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !TOUCH.matches) {
    event.preventDefault();
    if (!busy) send();
  } else if (event.key === "ArrowUp" && input.value === "" && !event.shiftKey) {
    if (actions.editLast()) event.preventDefault();
  }
}

/** Fits the box to its text and the button to what it can do. */
function changed() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, innerHeight * 0.4)}px`;
  setItem("draft", input.value || null);
  button();
}

function button() {
  const send = $("send");
  const name = busy ? "Stop" : "Send";
  if (send.getAttribute("aria-label") !== name) {
    send.replaceChildren(icon(busy ? "stop" : "send"));
    send.setAttribute("aria-label", name);
    send.title = busy ? "Stop (Esc)" : name;
  }
  // It stays focusable: a disabled button would drop the focus of who has just pressed it.
  send.setAttribute("aria-disabled", !busy && !$("input").value.trim() && !files.length);
}

function send() {
  const input = $("input");
  const text = input.value.trim();
  if (!text && !files.length) return;
  if (!actions.send(text, files)) return;
  input.value = "";
  files = [];
  showFiles();
  changed();
}

/** Puts a text into the box, where nothing else is. */
export function fill(text) {
  $("input").value = text;
  changed();
  $("input").focus();
}

/** Whether an answer is being written here. */
export function setBusy(value) {
  busy = value;
  button();
}

async function add(chosen, event) {
  event?.preventDefault();
  for (const file of chosen) {
    if (files.length >= MAX_FILES) return toast(`At most ${MAX_FILES} files`);
    if (file.size > MAX_FILE) toast(`${file.name} is larger than ${bytes(MAX_FILE)}`);
    else {
      const text = await readText(file);
      if (text === null) toast(`${file.name} is not a text file`);
      else files.push({ name: file.name, text });
    }
  }
  showFiles();
  announce(`${files.length} attached`);
}

/** The text of a file, null if it is none. */
async function readText(file) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

function showFiles() {
  const items = files.map((file) => {
    const remove = iconButton("close", `Remove ${file.name}`, () => {
      files = files.filter((f) => f !== file);
      showFiles();
      $("input").focus();
    });
    const size = bytes(new Blob([file.text]).size);
    return el("li", {}, icon("clip"), el("span", { class: "name", text: file.name }), el("span", { class: "size", text: size }), remove);
  });
  $("files").replaceChildren(...items);
  $("files").hidden = items.length === 0;
  button();
}

function dropping() {
  const stage = $("stage");
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    stage.classList.add("dropping");
  };
  stage.addEventListener("dragenter", over);
  stage.addEventListener("dragover", over);
  stage.addEventListener("dragleave", (event) => {
    if (!stage.contains(event.relatedTarget)) stage.classList.remove("dropping");
  });
  stage.addEventListener("drop", (event) => {
    stage.classList.remove("dropping");
    if (event.dataTransfer?.files.length) add([...event.dataTransfer.files], event);
  });
}
