// Block Markdown: a text becomes a list of blocks. No DOM here.
//
// Blocks: {t: "p"|"h", c} (h: n) | {t: "code", lang, v} | {t: "math", v} | {t: "quote", b} | {t: "hr"}
// | {t: "list", ordered, first, tight, items: [{task, b}]} | {t: "table", align, head, rows}. Top-level blocks also
// have `start`, the offset of their first line. HTML is text, and so are images: nothing is fetched.

import { parseInline } from "./inline.js";

const MAX_NESTING = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const TASK = /^\[([ xX])\] +/;
const DELIMITER_CELL = /^:?-+:?$/;
const MATH = [["$$", "$$"], ["\\[", "\\]"]];
const MAX_MATH_LINES = 60;

/** Blocks of a text. */
export function parse(text) {
  const lines = text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n");
  const starts = [];
  let offset = 0;
  // Offsets are those of the original text, whatever its tabs and line ends.
  for (const line of text.split("\n")) {
    starts.push(offset);
    offset += line.length + 1;
  }
  return blocks(lines, 0, starts);
}

function blocks(lines, depth, starts) {
  const out = [];
  const readers = depth < MAX_NESTING ? [fence, heading, rule, math, quote, list, table, paragraph] : [fence, paragraph];
  for (let at = 0; at < lines.length; ) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    for (const read of readers) {
      const found = read(lines, at, depth);
      if (!found) continue;
      if (starts) found.block.start = starts[at];
      out.push(found.block);
      at = found.next;
      break;
    }
  }
  return out;
}

function fence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open || (open[1][0] === "`" && open[2].includes("`"))) return null;
  const indent = lines[at].indexOf(open[1][0]);
  const close = new RegExp(`^ {0,3}\\${open[1][0]}{${open[1].length},} *$`);
  const body = [];
  let next = at + 1;
  while (next < lines.length && !close.test(lines[next])) {
    const line = lines[next];
    body.push(line.slice(Math.min(indent, line.length - line.trimStart().length)));
    next += 1;
  }
  const lang = open[2].trim().split(/[\s,{]/)[0].slice(0, 40);
  return { block: { t: "code", lang, v: body.join("\n") }, next: next + 1 };
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  return match && { block: { t: "h", n: match[1].length, c: parseInline(match[2] ?? "") }, next: at + 1 };
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { block: { t: "hr" }, next: at + 1 } : null;
}

function math(lines, at) {
  for (const [open, close] of MATH) {
    const first = lines[at].trim();
    if (!first.startsWith(open)) continue;
    if (first.length >= open.length + close.length && first.endsWith(close)) {
      return { block: { t: "math", v: first.slice(open.length, -close.length).trim() }, next: at + 1 };
    }
    if (first !== open) continue;
    const body = lines.slice(at + 1, at + MAX_MATH_LINES);
    const end = body.findIndex((line) => line.trim() === close);
    const whole = end >= 0 && body.slice(0, end).every((line) => line.trim() !== "");
    if (whole) return { block: { t: "math", v: body.slice(0, end).join("\n").trim() }, next: at + end + 2 };
  }
  return null;
}

function quote(lines, at, depth) {
  if (!QUOTE.test(lines[at])) return null;
  let next = at;
  const body = [];
  while (next < lines.length && QUOTE.test(lines[next])) body.push(lines[next++].replace(QUOTE, ""));
  return { block: { t: "quote", b: blocks(body, depth + 1) }, next };
}

function marker(line) {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return null;
  const width = match[1].length + match[2].length;
  const gap = match[3]?.length ?? 1;
  // Five spaces after a marker would be code in the item; models mean one.
  const content = width + (gap > 4 ? 1 : gap);
  return { indent: match[1].length, ordered: match[2].length > 1, number: parseInt(match[2], 10), content, rest: match[4] ?? "" };
}

function list(lines, at, depth) {
  const first = marker(lines[at]);
  if (!first || first.indent > 3) return null;
  const block = { t: "list", ordered: first.ordered, first: first.number || (first.number === 0 ? 0 : 1), tight: true, items: [] };
  let next = at;
  while (next < lines.length) {
    const head = marker(lines[next]);
    if (!head || head.ordered !== first.ordered || Math.abs(head.indent - first.indent) > 1) break;
    const item = itemLines(lines, next, head);
    next = item.next;
    const more = next < lines.length && marker(lines[next])?.ordered === first.ordered;
    const inner = item.body.findLastIndex((line) => line.trim() !== "") + 1;
    if ((more && inner < item.body.length) || looseInside(item.body.slice(0, inner))) block.tight = false;
    const task = TASK.exec(item.body[0]);
    if (task) item.body[0] = item.body[0].slice(task[0].length);
    block.items.push({ task: task ? task[1] !== " " : null, b: blocks(item.body.slice(0, inner), depth + 1) });
  }
  return { block, next };
}

/** Lines of one item without their indent. Two columns of indent suffice, whatever the width of the marker. */
function itemLines(lines, at, head) {
  const need = Math.min(head.content, head.indent + 2);
  const body = [head.rest];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const blank = line.trim() === "";
    const indent = line.length - line.trimStart().length;
    if (blank) body.push("");
    else if (indent >= need) body.push(line.slice(Math.min(indent, head.content)));
    else if (lines[next - 1].trim() !== "" && !marker(line) && !interrupts(lines, next)) body.push(line.trimStart());
    else break;
  }
  return { body, next };
}

function looseInside(body) {
  let fenced = false;
  for (let i = 0; i < body.length; i += 1) {
    if (FENCE.test(body[i])) fenced = !fenced;
    // A blank line before a nested list or code does not make its parent airy.
    if (!fenced && body[i].trim() === "" && i + 1 < body.length && body[i + 1].trim() !== "") {
      if (!marker(body[i + 1]) && !FENCE.test(body[i + 1])) return true;
    }
  }
  return false;
}

function cells(line) {
  const out = [];
  let cell = "";
  let code = false;
  const row = line.trim().replace(/^\|/, "");
  for (let i = 0; i < row.length; i += 1) {
    if (row[i] === "\\" && row[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (row[i] === "|" && !(code && row.indexOf("`", i) > 0)) {
      out.push(cell.trim());
      cell = "";
    } else {
      if (row[i] === "`") code = !code;
      cell += row[i];
    }
  }
  if (cell.trim() !== "") out.push(cell.trim());
  return out;
}

function tableHead(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !/^[ |:-]+$/.test(lines[at + 1])) return null;
  const rule = cells(lines[at + 1]);
  const head = cells(lines[at]);
  if (rule.length !== head.length || !rule.every((cell) => DELIMITER_CELL.test(cell))) return null;
  return { head, rule };
}

function table(lines, at) {
  const found = tableHead(lines, at);
  if (!found) return null;
  const align = found.rule.map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return left && right ? "center" : right ? "right" : null;
  });
  const rows = [];
  let next = at + 2;
  while (next < lines.length && lines[next].trim() !== "" && lines[next].includes("|")) {
    const row = cells(lines[next++]);
    rows.push(found.head.map((_, column) => parseInline(row[column] ?? "")));
  }
  return { block: { t: "table", align, head: found.head.map(parseInline), rows }, next };
}

/** Whether a line ends the paragraph before it. */
function interrupts(lines, at) {
  const line = lines[at];
  const head = marker(line);
  if (head && head.rest !== "" && (!head.ordered || head.number === 1)) return true;
  return [FENCE, HEADING, RULE, QUOTE].some((r) => r.test(line)) || math(lines, at) !== null || tableHead(lines, at) !== null;
}

function paragraph(lines, at, depth) {
  let next = at + 1;
  const deep = depth >= MAX_NESTING;
  while (next < lines.length && lines[next].trim() !== "" && (deep || !interrupts(lines, next))) next += 1;
  const text = lines.slice(at, next).map((line) => line.trimStart()).join("\n").trimEnd();
  return { block: { t: "p", c: parseInline(text) }, next };
}
