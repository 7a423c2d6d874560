// What people do: send, stop, edit, reload; and what servers do: load, refuse, break.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const LONG = "A line of the answer. ".repeat(400);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Opens the figures of the last answer and reads them. */
async function figures(s) {
  await s.page.$$eval(".stats", (nodes) => (nodes.at(-1).open = true));
  return s.text(".stats dl");
}

export const tests = {
  "a message is sent, its answer streams and is measured": async (s, mock) => {
    mock.answer = () => ({ reasoning: "Let me *think*.", content: "# Title\n\n**Bold** and `code`.", drafts: true });
    await s.open();
    assert.equal(await s.text("#welcome-title"), "Ling-2.6-flash-IQ4_NL");
    assert.match(await s.text("#facts"), /Parameters\s+19\.3M\s+Size\s+11 MiB\s+Context\s+8,192/);
    await s.ask("Hi there");
    assert.equal(await s.text(".user .bubble"), "Hi there");
    assert.equal(await s.text(".assistant .body > .prose h3"), "Title");
    assert.equal(await s.text(".assistant strong"), "Bold");
    assert.equal(await s.page.$eval(".think", (node) => node.open), false);
    assert.match(await s.text(".think summary"), /^Thought for /);
    assert.match(await s.text(".stats summary"), /^\d+ tokens \u00b7 38\.4 t\/s$/);
    const text = await figures(s);
    for (const part of [/from cache; \d+ read in .*, 500 t\/s/, /right \(\d+ %\)/, /of 8,192 tokens/, /at the model's end/]) assert.match(text, part);
    assert.match(await s.text("#context-text"), /^\d+ of 8,192$/);
    const [body] = s.requests();
    assert.deepEqual(body.messages, [{ role: "user", content: "Hi there" }]);
    for (const name of ["stream", "timings_per_token", "return_progress"]) assert.equal(body[name], true, name);
    assert.equal(body.stream_options.include_usage, true);
    for (const name of ["temperature", "top_p", "seed", "max_tokens", "tools", "chat_template_kwargs"]) assert.equal(body[name], undefined, name);
    await s.ask("And then?");
    assert.deepEqual(s.requests()[1].messages.map((m) => m.role), ["user", "assistant", "user"]);
    assert.equal(s.requests()[1].messages[1].content, "# Title\n\n**Bold** and `code`.");
  },
  "progress of the prompt and speed are shown while it runs": async (s, mock) => {
    Object.assign(mock, { delay: 120, prefill: 4, answer: () => ({ content: LONG, cached: 0.2 }) });
    await s.open();
    await s.send("Hello");
    await s.until(() => /^Reading \d+ of \d+ tokens, [\d.]+ t\/s$/.test(document.querySelector("#status-text").textContent));
    assert.ok(await s.page.$eval("#status-meter", (node) => node.checkVisibility()));
    await s.until(() => /^38\.4 t\/s$/.test(document.querySelector("#status-text").textContent));
    await s.page.keyboard.press("Escape");
    await s.idle();
  },
  "Escape and the button stop; the server hears of it; the text stays": async (s, mock) => {
    Object.assign(mock, { delay: 10, answer: () => ({ content: LONG }) });
    await s.open();
    for (const stop of [() => s.page.keyboard.press("Escape"), () => s.page.click("#send")]) {
      const aborted = mock.aborted;
      await s.send("Talk");
      await s.until(() => [...document.querySelectorAll(".assistant .prose")].at(-1)?.textContent.length > 40);
      await stop();
      await s.idle();
      for (let i = 0; i < 50 && mock.aborted === aborted; i += 1) await wait(20);
      assert.equal(mock.aborted, aborted + 1);
    }
    assert.match(await s.text(".assistant .prose"), /^A line of the answer\./);
    assert.match(await figures(s), /by you/);
  },
  "a stopped answer is continued": async (s, mock) => {
    mock.answer = (body) => (body.continue_final_message ? { content: " second half." } : { content: "First half,", finish: "length" });
    await s.open();
    await s.ask("Go");
    await s.press("Continue");
    await s.until(() => /second half\.$/.test(document.querySelector(".assistant .prose").textContent));
    await s.idle();
    assert.equal(await s.text(".assistant .prose"), "First half, second half.");
    const body = s.requests()[1];
    assert.equal(body.add_generation_prompt, false);
    assert.deepEqual(body.messages.at(-1), { role: "assistant", content: "First half," });
    assert.equal(await s.count(".assistant"), 1);
  },
  "a reload keeps conversations, their branches and what was written so far": async (s, mock) => {
    let n = 0;
    mock.answer = () => ({ content: `Answer ${(n += 1)}.` });
    await s.open();
    await s.ask("First question");
    await s.press("Answer again");
    await s.until(() => document.querySelector(".assistant .prose")?.textContent === "Answer 2.");
    await s.idle();
    assert.equal(await s.text(".branches"), "2/2");
    Object.assign(mock, { delay: 15, answer: () => ({ content: LONG }) });
    await s.send("More");
    await wait(1600);
    await s.page.focus("#input");
    await s.page.keyboard.type("a draft");
    await s.page.reload();
    await s.until(() => document.querySelectorAll(".message").length === 4);
    assert.match(await s.text(".assistant .prose"), /^A line of the answer/);
    assert.equal(await s.page.$eval("#input", (node) => node.value), "a draft");
    assert.ok(await s.page.$("button[aria-label=Continue]"), "an answer cut off by the reload can go on");
    assert.equal(await s.text("#list a[aria-current=page]"), "First question");
    await s.press("Earlier version");
    await s.until(() => document.querySelector(".assistant .prose").textContent === "Answer 1.");
    assert.equal(await s.count(".message"), 2, "the other branch has no further turn");
    await s.page.reload();
    await s.until(() => document.querySelector(".assistant .prose")?.textContent === "Answer 1.");
  },
  "editing a question makes a branch": async (s, mock) => {
    mock.answer = (body) => ({ content: `You said: ${body.messages.at(-1).content}` });
    await s.open();
    await s.ask("one");
    await s.ask("two");
    await s.page.focus("#input");
    await s.page.keyboard.press("ArrowUp");
    await s.until(() => document.activeElement.classList.contains("edit"));
    await s.page.keyboard.press("Escape");
    await s.until(() => !document.querySelector(".edit"));
    assert.equal(await s.page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Edit");
    await s.page.keyboard.press("Enter");
    await s.until(() => document.activeElement.classList.contains("edit"));
    await s.page.keyboard.type(" and a half");
    await s.page.keyboard.press("Enter");
    await s.until(() => [...document.querySelectorAll(".assistant .prose")].at(-1)?.textContent === "You said: two and a half");
    await s.idle();
    assert.deepEqual(s.requests()[2].messages.map((m) => m.content), ["one", "You said: one", "two and a half"]);
    await s.press("Earlier version");
    assert.equal(await s.text(".assistant .prose"), "You said: two");
  },
  "settings are kept and sent, and only those": async (s) => {
    await s.open();
    await s.press("Settings");
    await s.page.type("#set-system", "Be brief.");
    assert.equal(await s.page.$eval("#set-temperature", (node) => node.placeholder), "0.8");
    for (const [id, value] of Object.entries({ temperature: "0.25", top_p: "0.5", top_k: "7", min_p: "0.1", max_tokens: "99", seed: "42" })) await s.page.type(`#set-${id}`, value);
    await s.page.keyboard.press("Escape");
    await s.page.click("#thinking");
    await s.page.reload();
    await s.ask("Hi");
    const body = s.requests()[0];
    assert.deepEqual(body.messages[0], { role: "system", content: "Be brief." });
    const { temperature, top_p, top_k, min_p, max_tokens, seed, chat_template_kwargs } = body;
    assert.deepEqual({ temperature, top_p, top_k, min_p, max_tokens, seed, chat_template_kwargs }, { temperature: 0.25, top_p: 0.5, top_k: 7, min_p: 0.1, max_tokens: 99, seed: 42, chat_template_kwargs: { enable_thinking: true } });
    await s.press("Settings");
    await s.page.$eval("#set-top_p", (node) => {
      node.value = "7";
      node.dispatchEvent(new Event("input"));
    });
    await s.press("Use the server\u2019s values");
    await s.page.keyboard.press("Escape");
    await s.page.click("#thinking");
    await s.ask("Again");
    const { temperature: none, chat_template_kwargs: off } = s.requests()[1];
    assert.deepEqual([none, off], [undefined, { enable_thinking: false }]);
  },
  "a loading server is waited for, and the message goes out by itself": async (s, mock) => {
    mock.loading = true;
    await s.open({ ready: false });
    await s.until(() => document.querySelector("#banner-text").textContent.includes("40 %"));
    await s.send("Early");
    await s.until(() => /being loaded/.test(document.querySelector("#status-text").textContent));
    mock.loading = false;
    await s.until(() => document.querySelector(".assistant .prose")?.textContent === "Hello.");
    await s.idle();
    assert.equal(await s.page.$eval("#banner", (node) => node.hidden), true);
  },
  "a key is asked for, refused, taken and kept on wish": async (s, mock) => {
    mock.key = "secret";
    await s.open({ ready: false });
    await s.until(() => document.querySelector("#key").open);
    await s.page.type("#key-input", "wrong");
    await s.page.keyboard.press("Enter");
    await s.until(() => /did not take/.test(document.querySelector("#key-text").textContent) && document.querySelector("#key").open);
    await s.page.type("#key-input", "secret");
    await s.page.click("#key-keep");
    await s.page.keyboard.press("Enter");
    await s.until(() => document.querySelector("#banner").hidden && !document.querySelector("#key").open);
    await s.ask("Hi");
    assert.equal(await s.text(".assistant .prose"), "Hello.");
    await s.page.reload();
    await s.until(() => document.querySelector("#context").checkVisibility());
    assert.equal(await s.page.$eval("#key", (node) => node.open), false);
    mock.key = "changed";
    await s.ask("Hi again");
    assert.equal(await s.text(".error p"), "Invalid API key");
    assert.ok(await s.page.$eval("#banner-action", (node) => node.checkVisibility()));
  },
  "a busy server is asked again, after its own time": async (s, mock) => {
    mock.busy = 2;
    await s.open();
    await s.ask("Hi");
    assert.equal(await s.text(".assistant .prose"), "Hello.");
    assert.equal(s.requests().length, 3);
  },
  "errors before and amid an answer are shown and can be tried again": async (s, mock) => {
    mock.failWith = { status: 400, message: "the request has 9000 tokens, but the context of a slot holds 8192" };
    await s.open();
    await s.ask("Too long");
    assert.equal(await s.page.$eval(".error p", (node) => node.textContent), mock.failWith.message);
    Object.assign(mock, { failWith: null, breakAfter: 3, how: "error", answer: () => ({ content: "One two three four." }) });
    await s.press("Try again");
    await s.until(() => document.querySelector(".error p")?.textContent === "The computation failed");
    await s.idle();
    assert.equal(await s.text(".assistant .prose"), "One two", "what came is kept");
    mock.how = "close";
    await s.press("Try again");
    await s.until(() => /ended before/.test(document.querySelector(".error p")?.textContent));
    await s.idle();
    mock.breakAfter = null;
    await s.press("Try again");
    await s.until(() => document.querySelector(".assistant .prose").textContent === "One two three four.");
    await s.idle();
    assert.equal(await s.count(".error"), 0);
  },
  "a server that is gone comes back": async (s, mock) => {
    await s.open();
    mock.offline = true;
    await s.ask("Hello?");
    assert.match(await s.text(".error p"), /cannot be reached/);
    await s.until(() => !document.querySelector("#banner").hidden);
    mock.offline = false;
    await s.until(() => document.querySelector("#banner").hidden);
    await s.press("Try again");
    await s.until(() => document.querySelector(".assistant .prose")?.textContent === "Hello.");
    await s.idle();
  },
  "text files go with the message, others do not": async (s) => {
    await s.open();
    const drop = (files) =>
      s.page.evaluate((files) => {
        const transfer = new DataTransfer();
        for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
        document.querySelector("#stage").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
      }, files);
    await drop([["notes.md", [...Buffer.from("a ``` b\n")]], ["image.png", [0x89, 0x50, 0x4e, 0x47, 0, 1]]]);
    await s.until(() => document.querySelectorAll("#files li").length === 1 && /image\.png is not a text file/.test(document.querySelector("#toast").textContent));
    await s.ask("Read it");
    assert.equal(s.requests()[0].messages[0].content, "notes.md:\n````\na ``` b\n````\n\nRead it");
    assert.match(await s.text(".file summary"), /notes\.md/);
    assert.equal(await s.count("#files li"), 0);
  },
  "tools are offered, their calls shown, their results sent": async (s, mock) => {
    mock.answer = (body) => (body.messages.at(-1).role === "tool" ? { content: "It is 21 degrees." } : { calls: [{ name: "weather", args: '{"city": "Turku"}' }, { name: "time", args: "{}" }] });
    await s.open();
    await s.press("Settings");
    await s.page.$eval("details.more", (node) => (node.open = true));
    await s.page.type("#set-tools", '[{"name": "weather"');
    assert.equal(await s.page.$eval("#set-tools", (node) => node.getAttribute("aria-invalid")), "true");
    await s.page.type("#set-tools", "}]");
    assert.equal(await s.page.$eval("#set-tools", (node) => node.getAttribute("aria-invalid")), "false");
    await s.page.keyboard.press("Escape");
    await s.ask("Weather?");
    assert.deepEqual(s.requests()[0].tools, [{ type: "function", function: { name: "weather" } }]);
    assert.deepEqual(await s.texts(".call b"), ["weather", "time"]);
    assert.equal((await s.texts(".call pre"))[0], '{\n  "city": "Turku"\n}');
    await s.page.type(".call textarea", "21");
    await s.press("Send results");
    await s.until(() => [...document.querySelectorAll(".assistant .prose")].at(-1)?.textContent === "It is 21 degrees.");
    await s.idle();
    const sent = s.requests()[1].messages.slice(1);
    assert.deepEqual(sent[0].tool_calls[0], { id: "call_0", type: "function", function: { name: "weather", arguments: '{"city": "Turku"}' } });
    assert.deepEqual(sent.slice(1), [{ role: "tool", tool_call_id: "call_0", content: "21" }, { role: "tool", tool_call_id: "call_1", content: "" }]);
  },
  "conversations are renamed, exported, imported and deleted": async (s) => {
    await s.open();
    await s.ask("Keep me");
    await s.page.evaluate(() => {
      globalThis.saved = [];
      URL.createObjectURL = (blob) => (globalThis.saved.push(blob), "blob:none");
      HTMLAnchorElement.prototype.click = function () {};
    });
    const menu = async (name) => {
      await s.press("More for " + (await s.text("#list a span")), "#list");
      await s.press(name, "#menu");
    };
    await menu("Rename\u2026");
    await s.page.keyboard.type("New <name>");
    await s.page.keyboard.press("Enter");
    await s.until(() => document.querySelector("#list a span").textContent === "New <name>");
    assert.equal(await s.text("#title"), "New <name>");
    await menu("Export");
    await s.until(() => globalThis.saved.length === 1);
    const text = await s.page.evaluate(() => globalThis.saved[0].text());
    assert.equal(JSON.parse(text).conversations[0].title, "New <name>");
    await menu("Delete\u2026");
    await s.press("Delete", "#ask");
    await s.until(() => document.querySelectorAll("#list li").length === 0 && document.querySelector("#welcome").checkVisibility());
    await s.page.evaluate((text) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([text], "x.json"));
      document.querySelector("#import").files = transfer.files;
      document.querySelector("#import").dispatchEvent(new Event("change"));
    }, text);
    await s.until(() => document.querySelector(".assistant .prose")?.textContent === "Hello.");
    await s.press("Settings");
    await s.press("Delete all\u2026", "#settings");
    await s.press("Delete all", "#ask");
    await s.until(() => document.querySelectorAll("#list li").length === 0);
    await s.page.reload();
    await s.until(() => document.querySelector("#welcome-title").textContent.length > 1);
    assert.equal(await s.count("#list li"), 0);
  },
  "an answer goes on while another conversation is read": async (s, mock) => {
    Object.assign(mock, { delay: 20, answer: (body) => ({ content: body.messages[0].content === "slow" ? LONG.slice(0, 300) : "Quick." }) });
    await s.open();
    await s.send("slow");
    await s.until(() => document.querySelector(".assistant .prose")?.textContent.length > 10);
    await s.page.click("#new");
    await s.until(() => document.querySelector("#welcome").checkVisibility());
    assert.equal(await s.count(".pulse"), 1);
    await s.ask("quick");
    assert.equal(await s.text(".assistant .prose"), "Quick.");
    await s.until(() => document.querySelectorAll(".pulse").length === 0);
    await s.page.evaluate(() => [...document.querySelectorAll("#list a")].find((a) => a.textContent === "slow").click());
    await s.until((n) => document.querySelector(".assistant .prose")?.textContent.length === n, 299);
  },
  "code is copied whole": async (s, mock) => {
    mock.answer = () => ({ content: "```rust\nfn main() {}\n// end\n```" });
    await s.open();
    await s.context.overridePermissions(mock.url, ["clipboard-read", "clipboard-sanitized-write"]).catch(() => {});
    await s.ask("Code");
    await s.page.evaluate(() => {
      globalThis.copied = null;
      Object.defineProperty(navigator, "clipboard", { value: { writeText: async (text) => (globalThis.copied = text) } });
    });
    await s.press("Copy code");
    await s.until(() => globalThis.copied === "fn main() {}\n// end");
    await s.press("Copy answer");
    await s.until(() => globalThis.copied === "```rust\nfn main() {}\n// end\n```");
  },
  "a long answer costs no more per frame than a short one": async (s, mock) => {
    const block = "Some *text* with `code` and [a link](https://x.y/).\n\n```rust\nfn main() { let x = 1; }\n```\n\n- a\n- b\n\n";
    Object.assign(mock, { delay: 0, prefill: 0, answer: () => ({ content: block.repeat(600) }) });
    await s.open();
    await s.page.evaluate(() => {
      Object.assign(globalThis, { built: 0, frames: 0 });
      const observer = new MutationObserver((records) => {
        for (const { target, addedNodes } of records) if (target.matches(".prose")) globalThis.built += addedNodes.length;
      });
      observer.observe(document.querySelector("#thread"), { childList: true, subtree: true });
      const frame = () => ((globalThis.frames += 1), requestAnimationFrame(frame));
      frame();
    });
    await s.ask("Much");
    assert.equal(await s.count(".code"), 600);
    const { built, frames } = await s.page.evaluate(() => ({ built: globalThis.built, frames: globalThis.frames }));
    // Each block once, and the last two again in each frame.
    assert.ok(frames > 5 && built <= 1800 + 3 * frames, `${built} blocks built in ${frames} frames`);
  },
  "the policy of the server's source is the one that was tested": async (s, mock) => {
    await s.open();
    const response = await s.page.goto(mock.url);
    const policy = response.headers()["content-security-policy"];
    assert.ok(readFileSync(new URL("../../src/server/page/mod.rs", import.meta.url), "utf8").includes("frame-ancestors 'none'"));
    assert.equal(policy, "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    const blocked = await s.page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "globalThis.inline = true";
      document.body.append(script);
      const ran = globalThis.inline === true;
      globalThis.violations.length = 0;
      return !ran;
    });
    assert.ok(blocked, "the policy is in force");
    await wait(50);
    await s.page.evaluate(() => (globalThis.violations.length = 0));
    s.problems.length = 0;
  },
};
