// The messages of a conversation as they are shown. What happens on a button is the caller's affair (`actions`).

import { announce, copyButton, el, icon, iconButton } from "./dom.js";
import { bytes, count, duration, statistics } from "./meters.js";
import { MarkdownView } from "./render.js";
import { pathTo, siblings } from "./tree.js";

/** Shows one conversation and keeps what did not change. */
export class Thread {
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    this.views = [];
    this.conv = null;
  }

  /** Shows the current branch. `busy`: an answer is being written, so only its view is alive. */
  show(conv, busy) {
    const path = conv ? pathTo(conv) : [];
    let same = 0;
    if (conv === this.conv) while (same < this.views.length && this.views[same].message === path[same]) same += 1;
    this.conv = conv;
    for (const view of this.views.splice(same)) view.node.remove();
    for (const message of path.slice(same)) {
      const view = new (message.role === "assistant" ? AnswerView : TextView)(message, this.actions);
      this.views.push(view);
      this.root.append(view.node);
    }
    this.views.forEach((view, at) => view.update({ conv, busy, last: at === this.views.length - 1 }));
  }

  /** Shows what was added to the last message. */
  grow(message) {
    const view = this.views.at(-1);
    if (view?.message === message) view.grow();
  }

  view(message) {
    return this.views.find((view) => view.message === message);
  }
}

class View {
  constructor(message, actions, title) {
    this.message = message;
    this.actions = actions;
    this.body = el("div", { class: "body" });
    this.foot = el("footer");
    this.node = el("article", { class: `message ${message.role}`, "data-id": message.id }, el("h2", { class: "sr-only", text: title }), this.body, this.foot);
  }

  branches(conv) {
    const all = siblings(conv, this.message);
    if (all.length < 2) return null;
    const at = all.indexOf(this.message);
    const step = (name, label, to) => iconButton(name, label, () => this.actions.branch(all[to]), { disabled: !all[to] });
    return el(
      "span",
      { class: "branches", role: "group", "aria-label": "Versions" },
      step("left", "Earlier version", at - 1),
      el("span", { text: `${at + 1}/${all.length}` }),
      step("right", "Later version", at + 1),
    );
  }
}

/** A message of the user or the result of a tool: plain text. */
class TextView extends View {
  constructor(message, actions) {
    super(message, actions, message.role === "tool" ? "Result of a tool" : "You");
    this.#fill();
  }

  #fill() {
    const { message } = this;
    const files = message.files?.length ? el("div", { class: "files" }, ...message.files.map(fileCard)) : null;
    const bubble = message.content ? el("div", { class: "bubble", text: message.content }) : null;
    this.body.replaceChildren(...[files, bubble].filter(Boolean));
    this.editing = false;
  }

  update({ conv, busy }) {
    if (this.editing) return;
    const edit = this.message.role === "user" ? iconButton("pen", "Edit", () => this.edit(), { disabled: busy, "data-action": "edit" }) : null;
    this.foot.replaceChildren(...[this.branches(conv), copyButton("Copy message", () => this.message.content), edit].filter(Boolean));
  }

  /** A box in place of the text. Saving makes a new branch. */
  edit() {
    this.editing = true;
    const box = el("textarea", { class: "edit", "aria-label": "Edit message", rows: "2" });
    box.value = this.message.content;
    const close = () => {
      this.#fill();
      this.actions.refresh();
      this.foot.querySelector("[data-action=edit]")?.focus();
    };
    const save = () => {
      if (!box.value.trim() && !this.message.files?.length) return;
      close();
      this.actions.edited(this.message, box.value);
    };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const cancel = el("button", { type: "button", class: "small", text: "Cancel", on: { click: close } });
    const send = el("button", { type: "button", class: "small primary", text: "Send", on: { click: save } });
    this.body.replaceChildren(el("div", { class: "editor" }, box, el("div", { class: "buttons" }, cancel, send)));
    this.foot.replaceChildren();
    box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight / 2)}px`;
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
}

function fileCard({ name, text }) {
  const size = bytes(new Blob([text]).size);
  const summary = el("summary", {}, icon("clip"), el("span", { class: "name", text: name }), el("span", { class: "size", text: size }));
  return el("details", { class: "file" }, summary, el("pre", { tabindex: "0", text }));
}

/** A message of the model: thoughts, Markdown, calls of tools, figures. */
class AnswerView extends View {
  constructor(message, actions) {
    super(message, actions, "Answer");
    this.prose = el("div", { class: "prose" });
    this.markdown = new MarkdownView(this.prose);
    this.notes = el("div", { class: "notes" });
    this.body.append(this.prose, this.notes);
  }

  update({ conv, busy, last }) {
    this.live = busy && last;
    this.node.setAttribute("aria-busy", this.live);
    this.node.classList.toggle("live", this.live);
    this.grow();
    this.#notes(last && !busy);
    if (this.live) return this.foot.replaceChildren();
    const { message, actions } = this;
    const unfinished = ["length", "stopped", "error"].includes(message.finish ?? "stopped");
    const more = last && unfinished && (message.content || message.reasoning) && !message.calls?.length;
    const parts = [
      this.branches(conv),
      copyButton("Copy answer", () => message.content),
      iconButton("redo", "Answer again", () => actions.again(message), { disabled: busy }),
      more && iconButton("forward", "Continue", () => actions.more(message), { disabled: busy }),
      statistics(message),
    ];
    this.foot.replaceChildren(...parts.filter(Boolean));
  }

  /** Takes over text that was added. */
  grow() {
    const { message } = this;
    if (message.reasoning) this.#thoughts();
    this.markdown.set(message.content);
    this.node.classList.toggle("silent", this.live && !message.content && !message.reasoning && !message.calls?.length);
    if (this.live && message.calls?.length) this.#notes(false);
  }

  #thoughts() {
    if (!this.think) {
      const prose = el("div", { class: "prose" });
      this.thoughts = new MarkdownView(prose);
      this.thinkTitle = el("span");
      this.think = el("details", { class: "think" }, el("summary", {}, this.thinkTitle), prose);
      this.body.prepend(this.think);
    }
    const thinking = this.live && !this.message.content && !this.message.calls?.length;
    const { thinkMs } = this.message;
    this.thinkTitle.textContent = thinking ? "Thinking\u2026" : thinkMs !== undefined ? `Thought for ${duration(thinkMs)}` : "Thoughts";
    this.think.classList.toggle("busy", thinking);
    this.thoughts.set(this.message.reasoning);
  }

  /** Calls of tools, and what went wrong. */
  #notes(answerable) {
    const { message } = this;
    const wanted = answerable && message.calls?.length > 0;
    const calls = (message.calls ?? []).map((call) => callCard(call, wanted));
    const form = wanted ? this.#results(calls) : null;
    const error = message.error ? this.#error() : null;
    const none = !this.live && !message.error && !message.content && !message.reasoning && !calls.length;
    const nothing = none ? el("p", { class: "nothing", text: message.finish === "stop" ? "The answer is empty." : "Stopped before the first word." }) : null;
    this.notes.replaceChildren(...calls, ...[form, error, nothing].filter(Boolean));
  }

  #results(cards) {
    const send = () => {
      const results = cards.map((card) => card.querySelector("textarea").value);
      this.actions.results(this.message, results);
    };
    return el("div", { class: "buttons" }, el("button", { type: "button", class: "small primary", text: "Send results", on: { click: send } }));
  }

  #error() {
    const again = el("button", { type: "button", class: "small", text: "Try again", on: { click: () => this.actions.again(this.message) } });
    return el("div", { class: "error" }, el("p", { text: this.message.error }), again);
  }

  /** Reads the finished answer out. */
  speak() {
    const { finish, error, content, calls } = this.message;
    if (error) announce(`The answer failed: ${error}`);
    else if (calls?.length) announce(`The model calls ${calls.map((c) => c.name).join(", ")}`);
    else announce(`${finish === "stopped" ? "Stopped." : "Answer:"} ${content ? this.prose.textContent : ""}`);
  }
}

function callCard(call, wanted) {
  let text = call.arguments;
  try {
    text = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // Not whole yet, or not JSON: shown as it is.
  }
  const head = el("header", {}, icon("tool"), el("b", { text: call.name || "\u2026" }), el("span", { text: "tool call" }));
  const label = `Result of ${call.name}`;
  const result = wanted ? el("textarea", { rows: "2", "aria-label": label, placeholder: label }) : null;
  return el("section", { class: "call", "aria-label": `Call of ${call.name}` }, head, el("pre", { tabindex: "0", text }), result);
}

/** Title of a conversation for people. */
export function titleOf(head) {
  return head.title || "Untitled";
}

export function describe(heads) {
  return `${count(heads.length)} conversation${heads.length === 1 ? "" : "s"}`;
}
