// The page for everybody: phones, dark rooms, keyboards, screen readers.

import assert from "node:assert/strict";

const ANSWER = "# A title\n\nText with [a link](https://x.y/) and `code`.\n\n| a | b |\n|---|--:|\n| long cell with many words in it | 2 |\n\n| 1 | 2 | 3 | 4 | 5 |\n|--|--|--|--|--|\n| columns | that | together | need-much-more | thanaphonehas |\n\n```rust\nfn a_function_with_a_long_name(first: usize, second: usize, third: usize) -> usize { first + second + third }\n```\n\n- [x] done\n- [ ] to do\n\n> quoted\n\n$$\nx^2\n$$";

/** An open conversation with all that an answer can hold. */
async function full(s, mock) {
  mock.answer = () => ({ reasoning: "Hm.", content: ANSWER, drafts: true });
  await s.ask(`Show everything ${"unbroken".repeat(20)}`);
  mock.answer = () => ({ calls: [{ name: "weather", args: "{}" }] });
  await s.ask("Call a tool");
  mock.failWith = { status: 500, message: "The computation failed" };
  await s.ask("Fail");
  mock.failWith = null;
}

async function noSideways(s) {
  const [wide, view] = await s.page.evaluate(() => [Math.max(document.documentElement.scrollWidth, document.querySelector("#scroll").scrollWidth, document.body.scrollWidth), innerWidth]);
  assert.ok(wide <= view, `${wide} of ${view} pixels`);
}

/** Tests that need a touch screen or a preference of the system, which only Chromium's driver can pretend. */
export const emulated = [
  "axe finds nothing, light and dark",
  "a phone shows all without sideways scrolling",
  "dark follows the system until the user chooses",
  "reduced motion stands still, print shows the text",
];

export const tests = {
  "axe finds nothing, light and dark": async (s, mock) => {
    await s.open();
    assert.deepEqual(await s.axe(), [], "empty");
    await full(s, mock);
    await s.page.$$eval("details", (nodes) => nodes.forEach((node) => (node.open = true)));
    assert.deepEqual(await s.axe(), [], "light");
    await s.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    assert.deepEqual(await s.axe(), [], "dark");
    await s.press("Settings");
    assert.deepEqual(await s.axe(), [], "settings");
    await s.page.keyboard.press("Escape");
    mock.key = "k";
    await s.ask("Locked");
    await s.press("Enter key");
    assert.deepEqual(await s.axe(), [], "key");
  },
  "a phone shows all without sideways scrolling": async (s, mock) => {
    const page = await s.open();
    await page.setViewport({ width: 360, height: 740, isMobile: true, hasTouch: true, deviceScaleFactor: 2 });
    await page.reload();
    await s.until(() => document.querySelector("#welcome-title").textContent.length > 1);
    await noSideways(s);
    mock.answer = () => ({ reasoning: "Hm.", content: ANSWER, drafts: true });
    await page.tap("#input");
    await page.keyboard.type("one");
    await page.keyboard.press("Enter");
    await page.keyboard.type("two");
    assert.equal(await page.$eval("#input", (node) => node.value), "one\ntwo", "Enter is a new line on a touch screen");
    await page.tap("#send");
    await s.until(() => document.querySelectorAll(".assistant").length === 1);
    await s.idle();
    s.touch = true;
    await full(s, mock);
    await noSideways(s);
    assert.equal(await page.$eval("#sidebar", (node) => getComputedStyle(node).visibility), "hidden");
    await page.tap("#nav-open");
    await s.until(() => document.querySelector("#sidebar").getBoundingClientRect().left === 0);
    assert.ok(await page.$eval("#stage", (node) => node.inert));
    assert.deepEqual(await s.axe(), []);
    await page.tap("#list a");
    await s.until(() => !document.querySelector("#stage").inert);
    for (const button of await page.$$(".icon-button, .send, .chip")) {
      const box = await button.boundingBox();
      if (box) assert.ok(box.height >= 28 && box.width >= 28, `${box.width} x ${box.height}`);
    }
  },
  "dark follows the system until the user chooses": async (s) => {
    await s.open();
    const paper = () => s.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper();
    await s.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    const dark = await paper();
    assert.notEqual(light, dark);
    await s.press("Settings");
    await s.page.evaluate(() => document.querySelector("input[name=theme][value=light]").click());
    assert.equal(await paper(), light);
    await s.page.reload();
    await s.until(() => document.querySelector("#welcome-title").textContent.length > 1);
    assert.equal(await paper(), light, "kept over a reload");
    await s.press("Settings");
    await s.page.evaluate(() => document.querySelector("input[name=theme][value=system]").click());
    assert.equal(await paper(), dark);
  },
  "everything is reached and named by keyboard": async (s, mock) => {
    const page = await s.open();
    await full(s, mock);
    await page.evaluate(() => document.querySelector(".skip").focus());
    const seen = ["Skip to the message box"];
    for (let i = 0; i < 80; i += 1) {
      await page.keyboard.press("Tab");
      const at = await page.evaluate(() => {
        const node = document.activeElement;
        const outline = getComputedStyle(node).outlineStyle;
        const own = node.matches("#input, #scroll, .edit");
        const name = node.getAttribute("aria-label") || node.labels?.[0]?.textContent || node.innerText || node.placeholder;
        return { tag: node.tagName, name: (name ?? "").trim().split("\n")[0], seen: own || outline !== "none", body: node === document.body };
      });
      if (at.body) break;
      assert.ok(at.name || at.tag === "PRE" || at.tag === "MAIN", `${JSON.stringify(at)} has no name`);
      assert.ok(at.seen, `${JSON.stringify(at)} shows no focus`);
      seen.push(at.name);
    }
    for (const name of ["Skip to the message box", "Hide conversations", "New conversation", "Settings", "Copy message", "Edit", "Thought", "Copy code", "Copy answer", "Answer again", "Try again", "Message", "Attach text files", "Send"]) {
      assert.ok(seen.some((n) => n.startsWith(name)), `${name} among ${seen.join(", ")}`);
    }
    await page.evaluate(() => document.querySelector(".skip").focus());
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "input");
    const rows = await s.count("#list li");
    await page.keyboard.down("Control");
    await page.keyboard.down("Shift");
    await page.keyboard.press("KeyO");
    await page.keyboard.up("Shift");
    await page.keyboard.up("Control");
    await s.until(() => document.querySelector("#welcome").checkVisibility());
    await page.keyboard.type("first");
    await page.keyboard.down("Shift");
    await page.keyboard.press("Enter");
    await page.keyboard.up("Shift");
    await page.keyboard.type("second");
    await page.keyboard.press("Enter");
    await s.until(() => document.querySelector(".user .bubble")?.textContent === "first\nsecond");
    await s.idle();
    assert.equal(await s.count("#list li"), rows + 1);
  },
  "a finished answer is read out once, not token by token": async (s, mock) => {
    Object.assign(mock, { delay: 5, answer: () => ({ content: "The **whole** answer, said once at its end." }) });
    await s.open();
    await s.page.evaluate(() => {
      globalThis.said = [];
      new MutationObserver(() => {
        const text = document.querySelector("#live").textContent;
        if (text) globalThis.said.push(text);
      }).observe(document.querySelector("#live"), { childList: true });
    });
    await s.ask("Speak");
    await s.until(() => globalThis.said.length > 0);
    assert.deepEqual(await s.page.evaluate(() => globalThis.said), ["Answer: The whole answer, said once at its end."]);
    const live = await s.page.$$eval("[aria-live]:not([aria-live=off]), [role=log], [role=alert]", (nodes) => nodes.map((n) => n.id));
    assert.deepEqual(live, ["live"]);
  },
  "reduced motion stands still, print shows the text": async (s, mock) => {
    await s.open();
    await s.page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: "reduce" }]);
    Object.assign(mock, { delay: 10, answer: () => ({ content: "Slow words. ".repeat(40) }) });
    await s.send("Hi");
    await s.until(() => document.querySelector(".assistant .prose p"));
    assert.equal(await s.page.evaluate(() => document.getAnimations().filter((a) => a.playState === "running").length), 0);
    await s.idle();
    await s.page.emulateMediaType("print");
    const shown = await s.page.evaluate(() => ["#sidebar", "#dock", ".message > footer", ".assistant .prose"].map((q) => document.querySelector(q).checkVisibility()));
    assert.deepEqual(shown, [false, false, false, true]);
    const pdf = await s.page.pdf();
    assert.ok(pdf.length > 1000);
  },
  "text twice as large still fits": async (s, mock) => {
    const page = await s.open();
    await full(s, mock);
    await page.setViewport({ width: 640, height: 420 });
    await page.evaluate(() => (document.documentElement.style.fontSize = "200%"));
    await noSideways(s);
    assert.ok(await page.$eval("#input", (node) => node.getBoundingClientRect().bottom <= innerHeight));
  },
};
