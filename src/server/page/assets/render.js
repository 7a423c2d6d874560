// Markdown blocks become elements. Text goes into text nodes, addresses have passed `safeHref`; there is no other way in.

import { copyButton, el } from "./dom.js";
import { highlight } from "./highlight.js";
import { parse } from "./markdown.js";

const INLINE = {
  text: (node) => document.createTextNode(node.v),
  code: (node) => el("code", { text: node.v }),
  br: () => el("br"),
  em: (node) => el("em", {}, ...inline(node.c)),
  strong: (node) => el("strong", {}, ...inline(node.c)),
  del: (node) => el("del", {}, ...inline(node.c)),
  link: (node) => el("a", { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow", title: node.href }, ...inline(node.c)),
};

const BLOCK = {
  p: (block) => el("p", {}, ...inline(block.c)),
  // The page's own headings are above those of an answer.
  h: (block) => el(`h${Math.min(block.n + 2, 6)}`, { class: `h${block.n}` }, ...inline(block.c)),
  hr: () => el("hr"),
  quote: (block) => el("blockquote", {}, ...block.b.map(renderBlock)),
  math: (block) => el("pre", { class: "math", tabindex: "0", role: "group", "aria-label": "Formula" }, el("code", { text: block.v })),
  code,
  list,
  table,
};

function inline(nodes) {
  return nodes.map((node) => INLINE[node.t](node));
}

/** The element of a block. */
export function renderBlock(block) {
  return BLOCK[block.t](block);
}

function code(block) {
  const pieces = highlight(block.v, block.lang).map(([kind, text]) => (kind ? el("span", { class: kind, text }) : text));
  return el(
    "figure",
    { class: "code" },
    el("figcaption", {}, el("span", { text: block.lang || "text" }), copyButton("Copy code", () => block.v)),
    el("pre", { tabindex: "0", role: "group", "aria-label": block.lang ? `Code, ${block.lang}` : "Code" }, el("code", {}, ...pieces)),
  );
}

function list(block) {
  const items = block.items.map((item) => {
    const tight = block.tight ? item.b.flatMap((b) => (b.t === "p" ? inline(b.c) : [renderBlock(b)])) : item.b.map(renderBlock);
    if (item.task === null) return el("li", {}, ...tight);
    const box = el("input", { type: "checkbox", disabled: true, checked: item.task, "aria-label": item.task ? "done" : "to do" });
    return el("li", { class: "task" }, box, " ", ...tight);
  });
  return block.ordered ? el("ol", { start: block.first === 1 ? null : block.first }, ...items) : el("ul", {}, ...items);
}

function table(block) {
  const cell = (tag) => (nodes, column) => {
    const align = block.align[column];
    return el(tag, { class: align && `align-${align}`, scope: tag === "th" ? "col" : null }, ...inline(nodes));
  };
  const body = block.rows.map((row) => el("tr", {}, ...row.map(cell("td"))));
  const grid = el("table", {}, el("thead", {}, el("tr", {}, ...block.head.map(cell("th")))), el("tbody", {}, ...body));
  return el("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, grid);
}

/**
 * A text that grows. Only its last two blocks are parsed and built again, since what follows can change no earlier one;
 * so a long answer costs no more per token than a short one, and what is selected stays selected.
 */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.text = "";
    /** Offsets in the text of the blocks that are built. */
    this.starts = [];
  }

  set(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text)) this.#keep(0);
    else this.#keep(Math.max(0, this.starts.length - 2));
    this.text = text;
    const from = this.starts.length ? this.tail : 0;
    const blocks = parse(text.slice(from));
    for (const block of blocks) {
      this.starts.push(from + block.start);
      this.root.append(renderBlock(block));
    }
  }

  /** Keeps the first `n` blocks; `tail` is where the text of the others begins. */
  #keep(n) {
    this.tail = this.starts[n] ?? 0;
    this.starts.length = n;
    while (this.root.childNodes.length > n) this.root.lastChild.remove();
  }
}
