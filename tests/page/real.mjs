// The page on `oxling serve` with a real model. Small models say little of sense, so what they say is not looked at.

import assert from "node:assert/strict";

const PATIENCE_MS = 60_000;

async function say(s, text) {
  const answers = await s.count(".assistant");
  await s.send(text);
  await s.until((n) => document.querySelectorAll(".assistant").length > n, answers);
  await s.page.waitForFunction(() => document.querySelector("#send").getAttribute("aria-label") === "Send", { timeout: PATIENCE_MS });
  assert.deepEqual(await s.texts(".error p"), []);
}

async function settings(s, values) {
  await s.press("Settings");
  for (const [id, value] of Object.entries(values)) await s.page.type(`#set-${id}`, `${value}`);
  await s.page.keyboard.press("Escape");
}

/** The figures of the last answer as a table of texts. */
async function figures(s) {
  await s.page.$$eval(".stats", (nodes) => (nodes.at(-1).open = true));
  return s.page.$$eval(".stats", (nodes) => {
    const [names, values] = ["dt", "dd"].map((tag) => [...nodes.at(-1).querySelectorAll(tag)].map((node) => node.textContent));
    return Object.fromEntries(names.map((name, at) => [name, values[at]]));
  });
}

async function busySlots(s) {
  const slots = await s.page.evaluate(async () => (await fetch("slots")).json());
  return slots.filter((slot) => slot.is_processing).length;
}

export const tests = {
  "the page comes with its policy and is not sent twice": async (s, { url }) => {
    const page = await fetch(url);
    assert.match(page.headers.get("content-security-policy"), /^default-src 'none'; script-src 'self';/);
    assert.equal(page.headers.get("x-content-type-options"), "nosniff");
    const etag = page.headers.get("etag");
    const again = await fetch(url, { headers: { "If-None-Match": etag } });
    assert.equal(again.status, 304);
    assert.equal((await fetch(`${url}page/../../Cargo.toml`)).status, 404);
    await s.open();
  },
  "model and context are shown; an answer streams and is measured": async (s) => {
    await s.open();
    assert.match(await s.text("#facts"), /Context\s+[\d,]+/);
    await settings(s, { max_tokens: 40, seed: 1 });
    await say(s, "The capital of France is");
    const all = await figures(s);
    assert.match(all.Answer, /^\d+ tokens? in /);
    assert.match(all.Prompt, /^\d+ tokens/);
    assert.match(all.Context, /^\d+ of [\d,]+ tokens$/);
    assert.ok(["at a limit of tokens", "at the model's end"].includes(all.Ended));
  },
  "one seed, one answer": async (s) => {
    await s.open();
    await settings(s, { max_tokens: 24, seed: 7, temperature: 0.9 });
    await say(s, "Tell me about goats.");
    const first = await s.page.$eval(".assistant .body", (node) => node.textContent);
    await s.press("Answer again");
    await s.until(() => document.querySelector(".branches")?.innerText === "2/2");
    await s.idle();
    const body = (text) => text.replace(/Thought for [\d.]+ m?s/, "");
    assert.equal(body(await s.page.$eval(".assistant .body", (node) => node.textContent)), body(first));
  },
  "a second turn reads only what is new": async (s) => {
    await s.open();
    await settings(s, { max_tokens: 16, seed: 3 });
    await say(s, `Here is a long text. ${"All work and no play makes a dull ox. ".repeat(12)}`);
    await say(s, "And?");
    const { Prompt } = await figures(s);
    const [, all, cached] = /^([\d,]+) tokens, ([\d,]+) of them from cache/.exec(Prompt) ?? [];
    assert.ok(cached, Prompt);
    const n = (text) => Number(text.replaceAll(",", ""));
    assert.ok(n(all) - n(cached) < n(all) / 2, Prompt);
  },
  "stopping frees the slot": async (s) => {
    await s.open();
    await say(s, "Hi");
    await s.send("Count to one thousand, in words.");
    await s.until(() => [...document.querySelectorAll(".assistant")].at(-1).querySelector(".prose").textContent.length > 0 || document.querySelector("#send").getAttribute("aria-label") === "Send");
    await s.page.keyboard.press("Escape");
    await s.idle();
    for (let i = 0; i < 40 && (await busySlots(s)); i += 1) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(await busySlots(s), 0);
  },
  "an answer cut short goes on": async (s) => {
    await s.open();
    await settings(s, { max_tokens: 6, temperature: 0 });
    await say(s, "Tell me a story about an ox.");
    const first = await s.page.$eval(".assistant .body > .prose", (node) => node.textContent);
    if (/at a limit/.test((await figures(s)).Ended)) {
      await s.press("Continue");
      await s.until((n) => document.querySelector(".assistant .body > .prose").textContent.length > n, first.length);
      await s.idle();
      assert.deepEqual(await s.texts(".error p"), []);
      assert.ok((await s.page.$eval(".assistant .body > .prose", (node) => node.textContent)).startsWith(first.trimEnd()));
    }
    assert.equal(await s.count(".assistant"), 1);
  },
  "a reload keeps the conversation; the page is well formed for all": async (s) => {
    await s.open();
    await settings(s, { max_tokens: 12 });
    await say(s, "Good morning");
    await s.page.reload();
    await s.until(() => document.querySelector(".bubble")?.textContent === "Good morning" && document.querySelector(".assistant"));
    assert.deepEqual(await s.axe(), []);
  },
  "what the server refuses is said in its words": async (s) => {
    await s.open();
    await s.page.evaluate(() => {
      const input = document.querySelector("#input");
      input.value = "ox ".repeat(200_000);
      input.dispatchEvent(new Event("input"));
      document.querySelector("#send").click();
    });
    await s.page.waitForFunction(() => document.querySelector(".error p"), { timeout: PATIENCE_MS });
    assert.match(await s.text(".error p"), /context|too|large|limit/i);
  },
};
