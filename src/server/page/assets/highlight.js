// Colours for code: a small scanner for families of languages. It marks what is sure and leaves the rest alone.

const WORDS = {
  c: `abstract as async await auto bool boolean break byte case catch char class const continue crate debugger default
    defer delete do double dyn else enum export extends extern false final finally float fn for foreach from func
    function go goto if impl implements import in inline instanceof int interface internal is let long loop match mod
    move mut namespace new nil null nullptr operator override package private protected pub public range readonly ref
    return self short signed sizeof static struct super switch template this throw throws trait true try type typedef
    typeof undefined union unsafe unsigned use using val var virtual void volatile where while with yield`,
  hash: `and as assert async await begin break case class continue def del do done elif else elsif end esac except
    export False fi finally for from function global if import in is lambda local module next nil None nonlocal not or
    pass raise require rescue return self set source then True try unless until when while with yield true false null`,
  sql: `add all alter and as asc begin between by case commit constraint create cross default delete desc distinct drop
    else end exists foreign from full group having if in index inner insert into is join key left like limit not null
    offset on or order outer primary references right rollback select set table then union unique update using values
    view when where with`,
};

const NUMBER = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*`;
const WORD = String.raw`[A-Za-z_$][\w$]*`;
const DOUBLE = String.raw`"(?:\\[^]|[^"\\\n])*"?`;
const SINGLE = String.raw`'(?:\\[^]|[^'\\\n])*'?`;
const CHAR = String.raw`'(?:\\[^\n']{1,9}|[^'\\\n])'`;
const TICKS = "`(?:\\\\[^]|[^`\\\\])*`?";

function scanner(comment, strings) {
  return new RegExp(`(${comment})|(${strings.join("|")})|(${NUMBER})|(${WORD})`, "g");
}

const C_COMMENT = String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`;
const FAMILIES = {
  c: { words: "c", make: () => scanner(C_COMMENT, [DOUBLE, CHAR]) },
  js: { words: "c", make: () => scanner(C_COMMENT, [DOUBLE, SINGLE, TICKS]) },
  python: { words: "hash", make: () => scanner("#[^\\n]*", ['"""[^]*?(?:"""|$)', "'''[^]*?(?:'''|$)", DOUBLE, SINGLE]) },
  hash: { words: "hash", make: () => scanner("(?<![^\\s;])#[^\\n]*", [DOUBLE, SINGLE]) },
  sql: { words: "sql", fold: true, make: () => scanner("--[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)", [DOUBLE, SINGLE]) },
  markup: { words: null, make: () => /(<!--[^]*?(?:-->|$))|("[^"<>\n]*"|'[^'<>\n]*')|(&#?\w+;)|(<\/?[A-Za-z][\w:-]*|\/?>)/g },
};

const LANGUAGES = {
  c: "c cc cpp cxx c++ h hpp cs csharp go golang java kotlin kt rust rs scala swift zig dart glsl wgsl cuda metal proto php",
  js: "js javascript jsx mjs ts typescript tsx json jsonc json5 css scss less",
  python: "py python python3 starlark",
  hash: "sh bash zsh fish shell console ruby rb yaml yml toml ini dockerfile makefile make cmake perl r elixir nix conf",
  sql: "sql sqlite postgres postgresql mysql",
  markup: "html xml svg xhtml vue svelte",
};

const BY_NAME = new Map();
for (const [family, names] of Object.entries(LANGUAGES)) for (const name of names.split(" ")) BY_NAME.set(name, family);
const WORD_SETS = Object.fromEntries(Object.entries(WORDS).map(([k, v]) => [k, new Set(v.split(/\s+/))]));
const MAX_LENGTH = 60_000;

/** Pieces `[class or null, text]` of a code, in order; together they are the code. */
export function highlight(code, language) {
  const name = language.toLowerCase();
  if (code.length > MAX_LENGTH) return [[null, code]];
  if (name === "diff" || name === "patch") return diff(code);
  const family = FAMILIES[BY_NAME.get(name)];
  if (!family) return [[null, code]];
  const out = [];
  let at = 0;
  const scan = family.make();
  for (let match = scan.exec(code); match; match = scan.exec(code)) {
    const kind = classOf(match, family, code, scan.lastIndex);
    if (!kind) continue;
    if (match.index > at) out.push([null, code.slice(at, match.index)]);
    out.push([kind, match[0]]);
    at = scan.lastIndex;
  }
  if (at < code.length) out.push([null, code.slice(at)]);
  return out;
}

function classOf(match, family, code, end) {
  if (match[1] !== undefined) return "hl-comment";
  // Keys of objects are names, not values.
  if (match[2] !== undefined) return /^\s*:/.test(code.slice(end, end + 3)) ? "hl-name" : "hl-string";
  if (match[3] !== undefined) return "hl-number";
  const word = match[4];
  if (!family.words) return "hl-key";
  if (WORD_SETS[family.words].has(family.fold ? word.toLowerCase() : word)) return "hl-key";
  if (code[end] === "(" || code[end] === "!") return "hl-call";
  return /^[A-Z][A-Za-z\d]*[a-z]/.test(word) ? "hl-name" : null;
}

function diff(code) {
  return code.split(/(?<=\n)/).map((line) => {
    const kind = { "+": "hl-added", "-": "hl-removed", "@": "hl-comment" }[line[0]];
    return [kind ?? null, line];
  });
}
