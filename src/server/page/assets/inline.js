// Inline Markdown: a text becomes a list of nodes. No DOM here, so that it can be tested alone.
//
// Nodes: {t: "text", v} | {t: "code", v} | {t: "br"} | {t: "em"|"strong"|"del", c: [nodes]} | {t: "link", href, c: [nodes]}.
// Every step looks at a character a bounded number of times: an answer can be long and malicious.

const MAX_NESTING = 16;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const SPACE = /\s/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const BARE_URL = /https?:\/\/[^\s<>"'`|\\^{}]{1,2000}/y;
const ANGLE_URL = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y;
const LINE_BREAK = /<br ?\/?>/iy;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));/y;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** The address if a link may lead there, else null: absolute http, https and mailto only. */
export function safeHref(raw) {
  const href = raw.trim();
  // URL parsers drop tabs and line ends inside a scheme; nothing honest has them.
  if (/[\u0000-\u0020\u007f]/.test(href) || !/^(?:https?:\/\/|mailto:)/i.test(href)) return null;
  try {
    const url = new URL(href);
    // A user name in front of a host only serves to look like another host.
    return ["http:", "https:", "mailto:"].includes(url.protocol) && !url.username && !url.password ? url.href : null;
  } catch {
    return null;
  }
}

/** Nodes of a text. */
export function parseInline(text) {
  const scan = { text, at: 0, out: [], brackets: [], noCloser: new Map(), plain: "" };
  while (scan.at < text.length) step(scan);
  flush(scan);
  return merge(emphasis(scan.out));
}

function step(scan) {
  const { text, at } = scan;
  const c = text[at];
  const read = READERS[c];
  if (read?.(scan)) return;
  if (c === "h" && bareUrl(scan)) return;
  scan.plain += c;
  scan.at = at + 1;
}

const READERS = {
  "\\": escape,
  "`": codeSpan,
  "*": delimiters,
  _: delimiters,
  "~": delimiters,
  "!": openBracket,
  "[": openBracket,
  "]": closeBracket,
  "<": angle,
  "&": entity,
  "\n": lineEnd,
};

function flush(scan) {
  if (scan.plain) scan.out.push({ t: "text", v: scan.plain });
  scan.plain = "";
}

function push(scan, node, length) {
  flush(scan);
  scan.out.push(node);
  scan.at += length;
  return true;
}

function escape(scan) {
  const next = scan.text[scan.at + 1];
  if (next === "\n") return push(scan, { t: "br" }, 2);
  if (next === undefined || !ESCAPABLE.test(next)) return false;
  scan.plain += next;
  scan.at += 2;
  return true;
}

function lineEnd(scan) {
  const hard = scan.plain.endsWith("  ");
  scan.plain = scan.plain.trimEnd();
  if (hard) return push(scan, { t: "br" }, 1);
  scan.plain += "\n";
  scan.at += 1;
  return true;
}

function run(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

function codeSpan(scan) {
  const { text, at } = scan;
  const length = run(text, at);
  let from = at + length;
  // A length once seen to have no closer has none further on.
  if (!scan.noCloser.has(length)) {
    for (let next = text.indexOf("`", from); next >= 0; next = text.indexOf("`", from)) {
      const n = run(text, next);
      if (n === length) {
        let v = text.slice(at + length, next).replaceAll("\n", " ");
        if (/^ .*[^ ].* $/.test(v)) v = v.slice(1, -1);
        return push(scan, { t: "code", v }, next + n - at);
      }
      from = next + n;
    }
    scan.noCloser.set(length, true);
  }
  scan.plain += text.slice(at, at + length);
  scan.at += length;
  return true;
}

function delimiters(scan) {
  const { text, at } = scan;
  const c = text[at];
  const n = run(text, at);
  const before = at === 0 ? " " : text[at - 1];
  const after = text[at + n] ?? " ";
  const left = !SPACE.test(after) && (!PUNCTUATION.test(after) || SPACE.test(before) || PUNCTUATION.test(before));
  const right = !SPACE.test(before) && (!PUNCTUATION.test(before) || SPACE.test(after) || PUNCTUATION.test(after));
  if (c === "~" && n !== 2) {
    scan.plain += text.slice(at, at + n);
    scan.at += n;
    return true;
  }
  // Underscores inside a word are part of it.
  const open = left && (c !== "_" || !right || PUNCTUATION.test(before));
  const close = right && (c !== "_" || !left || PUNCTUATION.test(after));
  return push(scan, { d: c, n, open, close }, n);
}

function openBracket(scan) {
  const { text, at } = scan;
  const image = text[at] === "!";
  if (image && text[at + 1] !== "[") return false;
  flush(scan);
  scan.brackets.push({ index: scan.out.length, image });
  return push(scan, { t: "text", v: image ? "![" : "[" }, image ? 2 : 1);
}

function closeBracket(scan) {
  const opener = scan.brackets.pop();
  const target = opener && destination(scan.text, scan.at + 1);
  if (!target) return false;
  flush(scan);
  const children = emphasis(scan.out.splice(opener.index).slice(1));
  const href = safeHref(target.href);
  const label = opener.image && children.length === 0 ? [{ t: "text", v: "image" }] : children;
  if (href) nest(scan.out, "link", label, { href });
  else scan.out.push(...label, { t: "text", v: ` (${target.href})` });
  // Links hold no links.
  if (!opener.image) scan.brackets = scan.brackets.filter((b) => b.image);
  scan.at = target.end;
  return true;
}

const DESTINATION = /\(\s{0,9}(?:<([^<>\n]{0,2000})>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.){0,500}\)){0,2000}))(?:\s{1,9}(?:"[^"]{0,500}"|'[^']{0,500}'))?\s{0,9}\)/y;

function destination(text, at) {
  DESTINATION.lastIndex = at;
  const match = DESTINATION.exec(text);
  if (!match) return null;
  return { href: (match[1] ?? match[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"), end: DESTINATION.lastIndex };
}

function angle(scan) {
  ANGLE_URL.lastIndex = LINE_BREAK.lastIndex = scan.at;
  if (LINE_BREAK.test(scan.text)) return push(scan, { t: "br" }, LINE_BREAK.lastIndex - scan.at);
  const match = ANGLE_URL.exec(scan.text);
  const href = match && safeHref(match[1]);
  return href ? push(scan, { t: "link", href, c: [{ t: "text", v: match[1] }] }, match[0].length) : false;
}

function entity(scan) {
  ENTITY.lastIndex = scan.at;
  const match = ENTITY.exec(scan.text);
  if (!match) return false;
  const code = match[1] ? Number(match[1]) : match[2] ? parseInt(match[2], 16) : 0;
  if (!match[3] && (code === 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))) return false;
  scan.plain += match[3] ? NAMED[match[3]] : String.fromCodePoint(code);
  scan.at = ENTITY.lastIndex;
  return true;
}

function bareUrl(scan) {
  const { text, at } = scan;
  if (/\w/.test(text[at - 1] ?? " ")) return false;
  BARE_URL.lastIndex = at;
  const match = BARE_URL.exec(text);
  if (!match) return false;
  let url = match[0];
  // The end of a sentence, emphasis or a bracket around it is not part of it.
  for (;;) {
    const last = url[url.length - 1];
    const unbalanced = (last === ")" && count(url, ")") > count(url, "(")) || last === "]";
    if (!unbalanced && !/[.,;:!?*_~]/.test(last)) break;
    url = url.slice(0, -1);
  }
  const href = safeHref(url);
  return href ? push(scan, { t: "link", href, c: [{ t: "text", v: url }] }, url.length) : false;
}

function count(text, c) {
  return text.split(c).length - 1;
}

/** Adds a node with children, or the children alone where it would lie too deep. */
function nest(out, t, c, more = {}) {
  const depth = 1 + c.reduce((most, node) => Math.max(most, node.depth ?? 0), 0);
  if (depth > MAX_NESTING) out.push(...c);
  else out.push({ t, c, depth, ...more });
}

/** Pairs runs of `*`, `_` and `~~`; what finds no partner is text. */
function emphasis(items) {
  const out = [];
  const openers = { "*": [], _: [], "~": [] };
  for (const item of items) {
    if (!item.d) {
      out.push(item);
      continue;
    }
    const same = openers[item.d];
    while (item.close && item.n > 0 && same.length > 0) {
      const at = same[same.length - 1];
      const opener = out[at];
      const used = opener.n >= 2 && item.n >= 2 ? 2 : 1;
      const children = out.splice(at + 1).map(literal);
      for (const stack of Object.values(openers)) while (stack.at(-1) > at) stack.pop();
      opener.n -= used;
      item.n -= used;
      if (opener.n === 0) {
        out.pop();
        same.pop();
      }
      nest(out, item.d === "~" ? "del" : used === 2 ? "strong" : "em", merge(children));
    }
    if (item.n === 0) continue;
    if (item.open) same.push(out.length);
    out.push(item.open ? item : literal(item));
  }
  return out.map(literal);
}

function literal(item) {
  return item.d ? { t: "text", v: item.d.repeat(item.n) } : item;
}

function merge(nodes) {
  const out = [];
  for (const node of nodes) {
    const last = out.at(-1);
    if (node.t === "text" && last?.t === "text") out[out.length - 1] = { t: "text", v: last.v + node.v };
    else out.push(node);
  }
  return out;
}
