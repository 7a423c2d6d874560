// What the browser keeps: conversations in IndexedDB, settings in localStorage. Without them all works, until a reload.

const DATABASE = "oxling";
const HEADS = "heads";
const BODIES = "bodies";

let database = null;
const memory = { heads: new Map(), bodies: new Map() };
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("oxling") : null;

/** Opens the store. False if this browser keeps nothing here. */
export async function openStore() {
  try {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      for (const name of [HEADS, BODIES]) request.result.createObjectStore(name, { keyPath: "id" });
    };
    database = await done(request);
    database.onversionchange = () => database.close();
    return true;
  } catch {
    return false;
  }
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error ?? new Error("the database is in use"));
  });
}

function write(act) {
  const transaction = database.transaction([HEADS, BODIES], "readwrite");
  act(transaction.objectStore(HEADS), transaction.objectStore(BODIES));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

function read(name) {
  return database.transaction(name).objectStore(name);
}

/** Id, title and times of every conversation, latest first. */
export async function listHeads() {
  const heads = database ? await done(read(HEADS).getAll()) : [...memory.heads.values()];
  return heads.sort((a, b) => b.updated - a.updated);
}

export async function loadConversation(id) {
  return (database ? await done(read(BODIES).get(id)) : structuredClone(memory.bodies.get(id))) ?? null;
}

export async function saveConversation(conv) {
  const head = { id: conv.id, title: conv.title, created: conv.created, updated: conv.updated };
  if (database) {
    await write((heads, bodies) => {
      heads.put(head);
      bodies.put(conv);
    });
  } else {
    memory.heads.set(conv.id, head);
    memory.bodies.set(conv.id, structuredClone(conv));
  }
  channel?.postMessage("changed");
}

export async function deleteConversations(ids) {
  if (database) {
    await write((heads, bodies) => ids.forEach((id) => [heads, bodies].forEach((s) => s.delete(id))));
  } else {
    ids.forEach((id) => [memory.heads, memory.bodies].forEach((m) => m.delete(id)));
  }
  channel?.postMessage("changed");
}

/** Calls back when another tab changed a conversation. */
export function onOtherTab(listener) {
  channel?.addEventListener("message", listener);
}

const unsaved = new Map();

/** A value kept under a name, else `fallback`. */
export function getItem(name, fallback) {
  try {
    const text = localStorage.getItem(`oxling.${name}`);
    return text === null ? (unsaved.get(name) ?? fallback) : JSON.parse(text);
  } catch {
    return unsaved.get(name) ?? fallback;
  }
}

export function setItem(name, value) {
  unsaved.set(name, value);
  try {
    if (value === null) localStorage.removeItem(`oxling.${name}`);
    else localStorage.setItem(`oxling.${name}`, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the value lives until a reload.
  }
}
