// Markdown without a browser: what becomes what, and that no text takes long.

import assert from "node:assert/strict";
import { highlight } from "../../src/server/page/assets/highlight.js";
import { parseInline, safeHref } from "../../src/server/page/assets/inline.js";
import { parse } from "../../src/server/page/assets/markdown.js";

/** Long hostile texts may take this long; honest ones take a few milliseconds. */
const MOST_MS = 4000;

/** A short form of nodes and blocks, to compare by eye. */
function brief(node) {
  if (Array.isArray(node)) return node.map(brief).join("");
  const { t } = node;
  if (t === "text") return node.v;
  if (t === "br") return "<br>";
  if (t === "hr") return "<hr>";
  if (t === "code" || t === "math") return `<${t}${node.lang ? `:${node.lang}` : ""}>${node.v}</>`;
  if (t === "link") return `<a ${node.href}>${brief(node.c)}</>`;
  if (t === "list") return `<${node.ordered ? `ol${node.first}` : "ul"}${node.tight ? "" : " loose"}>${node.items.map((i) => `<li${i.task === null ? "" : i.task ? " x" : " o"}>${brief(i.b)}</>`).join("")}</>`;
  if (t === "table") return `<table ${node.align.map((a) => a ?? "-")}>${[node.head, ...node.rows].map((r) => r.map(brief).join("|")).join("/")}</>`;
  return `<${t}${node.n ?? ""}>${brief(node.c ?? node.b)}</>`;
}

const INLINE = [
  ["plain", "plain"],
  ["**a** *b* ***c*** __d__ _e_", "<strong>a</> <em>b</> <em><strong>c</></> <strong>d</> <em>e</>"],
  ["**a *b* c**", "<strong>a <em>b</> c</>"],
  ["snake_case_name 2*3*4 a ** b", "snake_case_name 2<em>3</>4 a ** b"],
  ["**open and *open", "**open and *open"],
  ["`a**b**` ``x`y`` `open", "<code>a**b**</> <code>x`y</> `open"],
  ["~~gone~~ ~not~", "<del>gone</> ~not~"],
  ["a  \nb\nc\\\nd<br>e", "a<br>b\nc<br>d<br>e"],
  ["\\*a\\* \\q", "*a* \\q"],
  ["&lt;b&gt; &amp; &#65; &#x1F402; &#0; &nope;", "<b> & A \u{1F402} &#0; &nope;"],
  ["[t](https://a.b/c \"x\") [u](<https://a.b/d e>)", "<a https://a.b/c>t</> u (https://a.b/d e)"],
  ["[a](https://x.y/z(1)) [*b*](mailto:m@x.y)", "<a https://x.y/z(1)>a</> <a mailto:m@x.y><em>b</></>"],
  ["[t](javascript:alert(1)) [t](/etc) [t](data:text/html,x)", "t (javascript:alert(1)) t (/etc) t (data:text/html,x)"],
  ["![pic](https://a.b/i.png) ![](https://a.b/j.png)", "<a https://a.b/i.png>pic</> <a https://a.b/j.png>image</>"],
  ["see https://a.b/c?d=e. (https://a.b/f) <https://a.b/>", "see <a https://a.b/c?d=e>https://a.b/c?d=e</>. (<a https://a.b/f>https://a.b/f</>) <a https://a.b/>https://a.b/</>"],
  ["[a [b](https://x.y/) c](https://z.y/)", "[a <a https://x.y/>b</> c](<a https://z.y/>https://z.y/</>)"],
  ["<img src=x onerror=alert(1)> <b>x</b>", "<img src=x onerror=alert(1)> <b>x</b>"],
];

const BLOCKS = [
  ["# A\n## B ##\n####### no", "<h1>A</><h2>B</><p>####### no</>"],
  ["a\nb\n\nc", "<p>a\nb</><p>c</>"],
  ["```js\nlet a;\n\n**x**\n```\nafter", "<code:js>let a;\n\n**x**</><p>after</>"],
  ["````md\n```\nx\n```\n````", "<code:md>```\nx\n```</>"],
  ["~~~\nopen to the end\n", "<code>open to the end\n</>"],
  ["- a\n- b\n  - c\n- d", "<ul><li><p>a</></><li><p>b</><ul><li><p>c</></></></><li><p>d</></></>"],
  ["1. a\n   ```\n   x\n   ```\n2. b", "<ol1><li><p>a</><code>x</></><li><p>b</></></>"],
  ["1. a\n  - b\n2. c", "<ol1><li><p>a</><ul><li><p>b</></></></><li><p>c</></></>"],
  ["3) x\n4) y", "<ol3><li><p>x</></><li><p>y</></></>"],
  ["- a\n\n- b", "<ul loose><li><p>a</></><li><p>b</></></>"],
  ["- [x] a\n- [ ] b", "<ul><li x><p>a</></><li o><p>b</></></>"],
  ["text\n- a", "<p>text</><ul><li><p>a</></></>"],
  ["In 1999. it\n1999. was", "<p>In 1999. it\n1999. was</>"],
  ["> a\n> > b\n\nc", "<quote><p>a</><quote><p>b</></></><p>c</>"],
  ["a\n---\nb\n***", "<p>a</><hr><p>b</><hr>"],
  ["| a | b |\n|:-:|--:|\n| 1 | `x|y` |\n| 2 \\| 3 |\nend", "<table center,right>a|b/1|<code>x|y</>/2 | 3|</><p>end</>"],
  ["a | b\nno | table", "<p>a | b\nno | table</>"],
  ["$$\nx^2\n$$\n\\[ y \\]", "<math>x^2</><math>y</>"],
  ["<script>alert(1)</script>", "<p><script>alert(1)</script></>"],
  ["a\r\n\r\nb", "<p>a</><p>b</>"],
];

const HREFS = [
  "javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\nscript:alert(1)", "\u0001javascript:alert(1)", "vbscript:x", "data:text/html,x",
  "file:///etc/passwd", "//evil.example", "/relative", "https:evil", "http://", "blob:http://x/y", "ht\ttps://x.y", "about:blank", "https://bank.example@evil.example/", "",
];

const HOSTILE = [
  "[", "]", "*a", "**a ", "_a_", "~~a", "```a`", "`a``b```c", "> ", "- ", "* a\n  ", "1. \n", "| ", "|a|b|\n|-|-|\n", "<", "&", "&#", "(", "![", "a](",
  " [a](b", "[a](((((", "$$\n", "\\[\n", "http://a", "https://a)))", "#", "\\", "  \n", "<br", ">>- 1. ",
];

/** All kinds of blocks, one after another. */
const MIXED = BLOCKS.map(([text]) => text).filter((text) => !text.startsWith("~~~")).join("\n\n");

export const tests = {
  "inline Markdown": () => {
    for (const [text, wanted] of INLINE) assert.equal(brief(parseInline(text)), wanted, text);
  },
  "blocks of Markdown": () => {
    for (const [text, wanted] of BLOCKS) assert.equal(brief(parse(text)), wanted, text);
  },
  "only honest addresses are links": () => {
    for (const href of HREFS) assert.equal(safeHref(href), null, href);
    assert.equal(safeHref("https://x.y/\u00e4"), "https://x.y/%C3%A4");
  },
  "no text takes long or nests without end": () => {
    for (const piece of HOSTILE) {
      const began = performance.now();
      const blocks = parse(piece.repeat(20_000));
      const took = performance.now() - began;
      assert.ok(took < MOST_MS, `${JSON.stringify(piece)}: ${took} ms`);
      assert.ok(JSON.stringify(blocks).length > 0);
    }
  },
  "a growing text gives what the whole gives": async (s) => {
    await s.open();
    const wrong = await s.page.evaluate(async (text) => {
      const { MarkdownView } = await import(new URL("page/render.js", location.href));
      const shown = (...texts) => {
        const view = new MarkdownView(document.createElement("div"));
        for (const t of texts) view.set(t);
        return view.root.innerHTML;
      };
      for (const step of [1, 3, 50]) {
        const grown = new MarkdownView(document.createElement("div"));
        for (let end = step; end < text.length + step; end += step) {
          grown.set(text.slice(0, end));
          if (grown.root.innerHTML !== shown(text.slice(0, end))) return `step ${step}, at ${end}`;
        }
      }
      // Another text is not a longer one.
      return shown(text, "x") === shown("x") ? null : "another text";
    }, MIXED);
    assert.equal(wrong, null);
  },
  "colours lose no character": () => {
    const code = 'fn main<\'a>() { let x = "a\\"b"; // c\n /* d */ 0xff_u8 \'x\' `t` } # e -- f <a b="c"> @@ \n+g\n-h';
    for (const language of ["rust", "js", "python", "bash", "sql", "html", "diff", "json", "nothing"]) {
      const pieces = highlight(code, language);
      assert.equal(pieces.map(([, text]) => text).join(""), code, language);
      assert.equal(pieces.some(([kind]) => kind), language !== "nothing", language);
    }
  },
};
