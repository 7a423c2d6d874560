// What a model, a file or a server says must never become more than text.

import assert from "node:assert/strict";

const VECTORS = [
  "<script>pwned(1)</script>",
  "<img src=x onerror=pwned(2)>",
  "<svg onload=pwned(3)><script>pwned(3)</script></svg>",
  "<iframe srcdoc='<script>parent.pwned(4)</script>'></iframe>",
  "<a href='javascript:pwned(5)'>x</a>",
  "[x](javascript:pwned(6))",
  "[x](JaVaScRiPt&#58;pwned(7))",
  "[x](java&#10;script:pwned(8))",
  "[x](<javascript:pwned(9)>)",
  "[x](data:text/html;base64,PHNjcmlwdD5wd25lZCgxMCk8L3NjcmlwdD4=)",
  "[x](vbscript:pwned(11))",
  "![x](https://tracker.example/pixel.png)",
  "![x](x\"onerror=\"pwned(12))",
  "![x](data:image/svg+xml,<svg onload=pwned(13)>)",
  "<javascript:pwned(14)>",
  "<https://evil.example/\"onmouseover=\"pwned(15)>",
  "https://evil.example/'onmouseover='pwned(16)",
  "`<img src=x onerror=pwned(17)>`",
  "```html\n<script>pwned(18)</script>\n```",
  "```\"><img src=x onerror=pwned(19)>\nx\n```",
  "```</code></pre><script>pwned(20)</script>\nx\n```",
  "| <img src=x onerror=pwned(21)> | b |\n|---|---|\n| <script>pwned(22)</script> | [c](javascript:pwned(23)) |",
  "# <img src=x onerror=pwned(24)>",
  "> <img src=x onerror=pwned(25)>",
  "- <img src=x onerror=pwned(26)>",
  "&lt;script&gt;pwned(27)&lt;/script&gt;",
  "<style>@import 'https://evil.example/x.css'; * { background: url(https://evil.example/y) }</style>",
  "<link rel=stylesheet href=https://evil.example/z.css>",
  "<form action=https://evil.example><button>go</button></form>",
  "<meta http-equiv=refresh content='0;url=https://evil.example'>",
  "<base href=https://evil.example/>",
  "<object data=https://evil.example></object><embed src=https://evil.example>",
  "<details open ontoggle=pwned(28)>x</details>",
  "<div id=thread></div><form id=composer></form>",
  "$$\n<img src=x onerror=pwned(29)>\n$$",
  "[a](https://x.y \"\"onclick=pwned(30) x=\"\")",
  "\u202e<img src=x onerror=pwned(31)>",
  "[x](https://bank.example@evil.example)",
];

/** Elements that no answer may bring, attributes that none may have. */
async function assertClean(s, root) {
  const found = await s.page.$$eval(root, (roots) => {
    const bad = [];
    for (const node of roots.flatMap((r) => [...r.querySelectorAll("*")])) {
      const allowed = "A ARTICLE B BLOCKQUOTE BR BUTTON CODE DD DEL DETAILS DIV DL DT EM FIGCAPTION FIGURE FOOTER H2 H3 H4 H5 H6 HEADER HR INPUT LI OL P PRE SECTION SPAN STRONG SUMMARY TABLE TBODY TD TEXTAREA TH THEAD TR UL svg use";
      if (!allowed.split(" ").includes(node.tagName)) bad.push(node.outerHTML);
      for (const { name, value } of node.attributes) {
        if (name.startsWith("on") || name === "style" || name === "src" || name === "srcdoc") bad.push(node.outerHTML);
        if (name === "href" && node.tagName === "A" && !/^(https?|mailto):/.test(value)) bad.push(node.outerHTML);
      }
      if (node.tagName === "A" && !/noopener/.test(node.rel)) bad.push(node.outerHTML);
    }
    return bad;
  });
  assert.deepEqual(found, []);
}

export const tests = {
  "answers are never more than text": async (s, mock) => {
    mock.delay = 0;
    await s.open();
    const all = VECTORS.join("\n\n");
    mock.answer = () => ({ content: all, reasoning: all });
    await s.ask(VECTORS[0]);
    await s.page.$$eval("details", (nodes) => nodes.forEach((node) => (node.open = true)));
    await assertClean(s, "#thread");
    const shown = await s.text(".assistant .body > .prose");
    for (const part of ["<script>pwned(1)</script>", "<img src=x onerror=pwned(2)>", "<script>pwned(18)</script>", "<script>pwned(27)</script>"]) {
      assert.ok(shown.includes(part), part);
    }
    for (const link of await s.page.$$(".prose a")) assert.match(await link.evaluate((a) => a.protocol), /^(https?|mailto):$/);
    assert.equal(await s.text(".user .bubble"), VECTORS[0]);
    await s.page.reload();
    await s.until(() => document.querySelector(".assistant .prose")?.textContent.length > 100);
    await assertClean(s, "#thread");
  },
  "names of tools, errors, models and titles are text too": async (s, mock) => {
    const html = "<img src=x onerror=pwned(50)>";
    mock.answer = () => ({ calls: [{ name: html, args: JSON.stringify({ x: html }) }] });
    await s.open();
    await s.ask(html);
    assert.equal(await s.text(".call b"), html);
    assert.equal(await s.text("#title"), html);
    assert.equal(await s.text("#list a span"), html);
    mock.failWith = { status: 400, message: html };
    await s.page.focus("#input");
    await s.ask("again");
    assert.ok((await s.text(".error p")).includes(html));
    await assertClean(s, "#thread");
    await assertClean(s, "#list section ul li button");
  },
  "a file that lies is refused": async (s) => {
    await s.open();
    const give = async (value) => {
      const input = await s.page.$("#import");
      await s.page.evaluate(
        (text) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([text], "x.json"));
          const input = document.querySelector("#import");
          input.files = transfer.files;
          document.querySelector("#toast").hidden = true;
          input.dispatchEvent(new Event("change"));
        },
        typeof value === "string" ? value : JSON.stringify(value),
      );
      await s.until(() => !document.querySelector("#toast").hidden);
      await input.dispose();
      return s.text("#toast");
    };
    const wrap = (...conversations) => ({ format: "oxling-conversations", version: 1, conversations });
    const message = (more) => ({ id: "a", parent: null, role: "user", content: "x", ...more });
    const bad = [
      "not json",
      [],
      wrap({}),
      wrap({ messages: { a: message({ role: "root" }) } }),
      wrap({ messages: { a: message({ content: { x: 1 } }) } }),
      wrap({ messages: { a: message({ parent: "b" }), b: message({ id: "b", parent: "a" }) } }),
      wrap({ messages: { a: message({ parent: "nowhere" }) } }),
    ];
    for (const value of bad) assert.match(await give(value), /^Not imported/, JSON.stringify(value));
    assert.equal(await s.count("#list li"), 0);
    const evil = JSON.parse('{"messages": {"x": {"id": "__proto__", "parent": null, "role": "assistant", "content": "<img src=x onerror=pwned(60)>"}}, "title": "<b>t</b>"}');
    await give(wrap(evil));
    assert.equal(await s.page.evaluate(() => ({}).content), undefined);
    const good = wrap({ title: "<b>t</b>", head: "b", messages: { a: message(), b: message({ id: "b", parent: "a", role: "assistant", content: "<script>pwned(61)</script>", timings: { predicted_n: 3, evil: "<b>" } }) } });
    assert.match(await give(good), /^Imported 1 /);
    await s.until(() => document.querySelector(".assistant"));
    assert.equal(await s.text(".assistant .prose"), "<script>pwned(61)</script>");
    await assertClean(s, "#thread");
  },
};
