// A conversation is a tree of messages: an edited question or a second answer is another branch. No DOM, no storage.
//
// Conversation: {id, title, created, updated, head, messages: {id: message}}; `head` is the last message shown.
// Message: {id, parent, role: "user"|"assistant"|"tool", content, created} and, as they apply: files [{name, text}],
// reasoning, thinkMs, calls [{id, name, arguments}], call (a tool message's call id), timings, finish, error, model.

const ROLES = ["user", "assistant", "tool"];
const TITLE_LENGTH = 80;

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (b) => b.toString(36).padStart(2, "0")).join("");
}

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, head: null, messages: {} };
}

/** Adds a message below `parent` and shows it. */
export function append(conv, parent, fields) {
  const message = { id: newId(), parent, created: Date.now(), content: "", ...fields };
  conv.messages[message.id] = message;
  conv.head = message.id;
  conv.updated = message.created;
  if (!conv.title && message.role === "user") conv.title = titleOf(message);
  return message;
}

function titleOf(message) {
  const line = (message.content || message.files?.[0]?.name || "").trim().split("\n")[0];
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH).trimEnd()}\u2026` : line;
}

/** Messages from the first to `last`, by default the one shown last. */
export function pathTo(conv, last = conv.head) {
  const path = [];
  for (let m = conv.messages[last]; m; m = conv.messages[m.parent]) path.push(m);
  return path.reverse();
}

/** Messages with the same parent, oldest first. */
export function siblings(conv, message) {
  return childrenOf(conv, message.parent);
}

function childrenOf(conv, parent) {
  return Object.values(conv.messages).filter((m) => m.parent === parent).sort((a, b) => a.created - b.created);
}

/** Shows the branch of a message, down to its newest end. */
export function showBranch(conv, message) {
  let last = message;
  for (let next = [last]; next.length; next = childrenOf(conv, last.id)) last = next.at(-1);
  conv.head = last.id;
}

/** A text file as the model sees it: its name, then its text in a fence longer than any inside. */
function fileText({ name, text }) {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), (m) => m[0].length));
  const fence = "`".repeat(longest + 1);
  return `${name}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}\n\n`;
}

/** What the API gets for a path. */
export function toApi(path, system) {
  const out = system.trim() ? [{ role: "system", content: system }] : [];
  for (const m of path) {
    if (m.role === "user") out.push({ role: "user", content: (m.files ?? []).map(fileText).join("") + m.content });
    else if (m.role === "tool") out.push({ role: "tool", tool_call_id: m.call, content: m.content });
    else out.push(assistantToApi(m));
  }
  return out;
}

function assistantToApi(m) {
  const message = { role: "assistant", content: m.content };
  if (m.reasoning) message.reasoning_content = m.reasoning;
  if (m.calls?.length) {
    const call = (c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } });
    message.tool_calls = m.calls.map(call);
  }
  return message;
}

const text = (value, most = 50_000_000) => typeof value === "string" && value.length <= most;
const time = (value) => (Number.isFinite(value) ? value : Date.now());

/** A conversation of an imported file, with an id of its own; throws if it is none. */
export function checked(value) {
  if (typeof value !== "object" || value === null || typeof value.messages !== "object" || value.messages === null) {
    throw new Error("A conversation in the file has no messages");
  }
  const conv = newConversation();
  conv.title = text(value.title, 1000) ? value.title : "";
  conv.created = time(value.created);
  conv.updated = time(value.updated);
  // A prototype-free table: names such as "__proto__" are names.
  const messages = Object.create(null);
  for (const m of Object.values(value.messages)) {
    const known = text(m?.id, 100) && ROLES.includes(m.role) && text(m.content) && (m.parent === null || text(m.parent, 100));
    if (!known) throw new Error("A message in the file lacks its id, parent, role or text");
    messages[m.id] = cleanMessage(m);
  }
  for (const m of Object.values(messages)) {
    const seen = new Set();
    for (let at = m; at; at = at.parent === null ? null : messages[at.parent]) {
      if (seen.has(at.id) || (at.parent !== null && !messages[at.parent])) throw new Error("The messages in the file form no tree");
      seen.add(at.id);
    }
  }
  conv.messages = { ...messages };
  conv.head = messages[value.head] ? value.head : (Object.keys(messages).at(-1) ?? null);
  return conv;
}

function cleanMessage(m) {
  const out = { id: m.id, parent: m.parent, role: m.role, content: m.content, created: time(m.created) };
  for (const name of ["reasoning", "finish", "error", "model", "call"]) if (text(m[name])) out[name] = m[name];
  if (Number.isFinite(m.thinkMs)) out.thinkMs = m.thinkMs;
  if (Array.isArray(m.files)) out.files = m.files.filter((f) => text(f?.name, 1000) && text(f.text)).map(({ name, text }) => ({ name, text }));
  if (Array.isArray(m.calls)) {
    const calls = m.calls.filter((c) => text(c?.id, 1000) && text(c.name, 1000) && text(c.arguments));
    out.calls = calls.map(({ id, name, arguments: a }) => ({ id, name, arguments: a }));
  }
  if (typeof m.timings === "object" && m.timings !== null) {
    out.timings = Object.fromEntries(Object.entries(m.timings).filter(([, v]) => Number.isFinite(v)));
  }
  return out;
}
