// The page: which conversation is shown, and what happens on which button.

import { setKey } from "./api.js";
import { fill, initComposer, setBusy } from "./composer.js";
import { $, announce, openDialog, toast, wireDialog } from "./dom.js";
import { initImport, library } from "./library.js";
import { Thread, titleOf } from "./messages.js";
import { showContext, showFacts, showStatus } from "./meters.js";
import { runs, startRun, stopRun } from "./run.js";
import { connect, onServer, server } from "./server.js";
import { initSettings, requestSettings } from "./settings.js";
import { initSidebar, showList } from "./sidebar.js";
import { listHeads, loadConversation, onOtherTab, openStore, saveConversation, setItem } from "./store.js";
import { append, newConversation, showBranch } from "./tree.js";

/** The conversation shown; a new one is kept from its first message on. */
let conv = newConversation();
let persistent = true;

const thread = new Thread($("thread"), {
  refresh: () => show(),
  branch: (message) => {
    showBranch(conv, message);
    keep(conv);
    show();
  },
  edited: (message, content) => {
    const { files } = message;
    answer(append(conv, message.parent, { role: "user", content, ...(files ? { files } : {}) }));
  },
  again: (message) => answer({ id: message.parent }),
  more: (message) => start(conv, message, true),
  results: (message, results) => {
    let last = message;
    message.calls.forEach((call, at) => (last = append(conv, last.id, { role: "tool", call: call.id, content: results[at] })));
    answer(last);
  },
});

// ---- Showing -----------------------------------------------------------------------------------------------------

function show() {
  const run = runs.get(conv.id);
  thread.show(conv, Boolean(run));
  const empty = conv.head === null;
  $("welcome").hidden = !empty;
  $("thread").hidden = empty;
  const title = empty ? "New conversation" : titleOf(conv);
  $("title").textContent = title;
  $("title").classList.toggle("sr-only", empty);
  document.title = empty ? "oxling" : `${title} \u00b7 oxling`;
  setBusy(Boolean(run));
  showStatus(run);
  showContext(conv);
  follow();
}

async function showHeads() {
  showList(await listHeads(), conv.id, runs.keys());
}

/** Whether the newest text is kept in view: until the reader scrolls up. */
let following = true;

function follow() {
  const box = $("scroll");
  if (following) box.scrollTop = box.scrollHeight;
  atEnd();
}

function atEnd() {
  const box = $("scroll");
  const rest = box.scrollHeight - box.scrollTop - box.clientHeight;
  $("jump").hidden = rest < 160;
  return rest < 48;
}

let drawing = false;

/** Shows what a run has added, at most once per frame. */
function drawSoon(run) {
  if (drawing || run.conv !== conv) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (run.conv !== conv) return;
    thread.grow(run.message);
    showStatus(runs.get(conv.id));
    showContext(conv);
    follow();
  });
}

// ---- Doing -------------------------------------------------------------------------------------------------------

function keep(here) {
  return saveConversation(here).catch(() => toast("The browser could not keep this conversation"));
}

function send(content, files) {
  if (opening || runs.has(conv.id)) return false;
  const wrong = settingsError();
  if (wrong) {
    toast(wrong);
    return false;
  }
  const fresh = conv.head === null;
  const message = append(conv, conv.head, { role: "user", content, ...(files.length ? { files } : {}) });
  if (fresh) history.replaceState(null, "", `#/c/${conv.id}`);
  answer(message);
  return true;
}

function settingsError() {
  try {
    requestSettings();
    return null;
  } catch (error) {
    return `Settings, tools: ${error.message}`;
  }
}

/** A new answer below a message of the conversation shown. */
async function answer(parent) {
  const here = conv;
  await stopRun(here.id);
  start(here, append(here, parent.id, { role: "assistant" }), false);
}

function start(here, message, more) {
  let settings;
  try {
    settings = requestSettings();
  } catch {
    return toast(settingsError());
  }
  startRun(here, message, settings, (run, ended) => (ended ? finished(run) : drawSoon(run)), more);
  keep(here).then(showHeads);
  if (here !== conv) return;
  following = true;
  show();
}

function finished(run) {
  showHeads();
  if (run.conv !== conv) return;
  show();
  thread.view(run.message)?.speak();
}

/** Goes to an address of the page at once; an event of the browser would come later than the next key. */
function go(hash) {
  if (location.hash !== hash) history.pushState(null, "", hash);
  route();
}

/** Id of the conversation being opened; meanwhile nothing is sent. */
let opening = null;

/** Shows the conversation that the address names, or a new one. */
async function route() {
  const id = /^#\/c\/(\w+)$/.exec(location.hash)?.[1];
  opening = null;
  if (!id) conv = newConversation();
  else if (id !== conv.id) {
    opening = id;
    const found = runs.get(id)?.conv ?? (await loadConversation(id));
    if (opening !== id) return;
    opening = null;
    if (!found) toast("That conversation is not in this browser");
    conv = found ?? newConversation();
  }
  following = true;
  show();
  showHeads();
  if (!matchMedia("(pointer: coarse)").matches) $("input").focus();
}

function editLast() {
  const users = thread.views.filter((view) => view.message.role === "user");
  if (!users.length || runs.has(conv.id)) return false;
  users.at(-1).edit();
  users.at(-1).node.scrollIntoView({ block: "nearest" });
  return true;
}

// ---- The server --------------------------------------------------------------------------------------------------

const BANNERS = {
  connecting: "",
  loading: "The model is being loaded. You can write already.",
  offline: "The server cannot be reached. Trying again\u2026",
  locked: "The server wants an API key.",
  ready: "",
};

function showServer() {
  const text = BANNERS[server.state];
  const banner = $("banner");
  banner.hidden = text === "";
  banner.dataset.state = server.state;
  $("banner-text").textContent = server.state === "loading" && /%/.test(server.detail) ? server.detail : text;
  $("banner-action").hidden = server.state !== "locked";
  showFacts();
  showContext(conv);
}

function askKey() {
  $("key-input").value = "";
  openDialog($("key"));
}

async function useKey() {
  const key = $("key-input").value.trim();
  setKey(key);
  setItem("key", $("key-keep").checked ? key : null);
  if (await connect()) announce("Connected");
  else {
    $("key-text").textContent = "The server did not take that key.";
    askKey();
  }
}

// ---- Start -------------------------------------------------------------------------------------------------------

function changed({ renamed, removed, added }) {
  if (renamed?.id === conv.id) conv.title = renamed.title;
  removed?.forEach(stopRun);
  if (removed?.includes(conv.id)) {
    conv = newConversation();
    history.replaceState(null, "", "#/");
  }
  if (added?.length === 1) return go(`#/c/${added[0].id}`);
  show();
  showHeads();
}

function keys(event) {
  if (event.key === "Escape" && runs.has(conv.id) && !document.querySelector("dialog[open]")) {
    stopRun(conv.id);
  } else if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    go("#/");
  }
}

async function main() {
  const files = library(changed);
  initSettings(() => {}, {
    ...files,
    enterKey: askKey,
    forgetKey: () => {
      setKey("");
      setItem("key", null);
      toast("The key is forgotten");
    },
    note: () => (persistent ? "They are kept in this browser only." : "This browser keeps nothing here: they end with this page."),
  });
  initSidebar(files, go);
  initImport(changed);
  initComposer({ send, stop: () => stopRun(conv.id), editLast });
  wireDialog($("key"), useKey);
  wireDialog($("ask"));
  onServer(showServer);
  onOtherTab(showHeads);
  $("banner-action").addEventListener("click", askKey);
  $("jump").addEventListener("click", () => {
    following = true;
    follow();
    $("input").focus();
  });
  $("scroll").addEventListener("scroll", () => (following = atEnd()), { passive: true });
  addEventListener("hashchange", route);
  addEventListener("keydown", keys);
  persistent = await openStore();
  if (!persistent) toast("This browser keeps nothing here: conversations end with this page");
  await route();
  if (!(await connect())) askKey();
}

main();
