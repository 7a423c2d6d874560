// Tests of the server's web page in a headless Chromium. Run by scripts/page-tests, which says what is needed.
//
//     node tests/page/page.mjs [--shots FOLDER] [--server URL] [--only TEXT] [--firefox]

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startMock } from "./mock.mjs";

const { values: options } = parseArgs({ options: { shots: { type: "string" }, server: { type: "string" }, only: { type: "string" }, firefox: { type: "boolean" } } });
// Packages live outside the repository.
const require = createRequire(join(process.env.PAGE_TEST_PACKAGES ?? process.cwd(), "x.js"));
const puppeteer = require("puppeteer-core");
const AXE = require.resolve("axe-core/axe.min.js");

const PATIENCE_MS = 10_000;

export class Session {
  constructor(browser, mock) {
    this.browser = browser;
    this.mock = mock;
    this.problems = [];
    this.outside = [];
  }

  /** A fresh profile with one page; `ready` waits until the model's name is shown. */
  async open({ ready = true, path = "" } = {}) {
    this.context ??= await this.browser.createBrowserContext();
    const page = await this.context.newPage();
    this.page = page;
    page.setDefaultTimeout(PATIENCE_MS);
    await page.setViewport({ width: 1280, height: 832 });
    await page.evaluateOnNewDocument(() => {
      globalThis.violations = [];
      addEventListener("securitypolicyviolation", (e) => violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
      globalThis.alert = globalThis.pwned = (x) => violations.push(`script ran: ${x}`);
    });
    page.on("pageerror", (error) => this.problems.push(`${error.stack ?? error}`));
    page.on("console", (message) => {
      if (/Content Security Policy|Refused/.test(message.text())) this.problems.push(message.text());
    });
    page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(this.mock.url) && !/^(data|blob|about|chrome-extension):/.test(url)) this.outside.push(url);
    });
    page.on("popup", () => this.problems.push("a window opened"));
    await page.goto(this.mock.url + path);
    if (ready) await this.until(() => document.querySelector("#welcome-title").textContent.length > 1 && document.querySelector("#banner").hidden);
    return page;
  }

  async until(check, ...args) {
    await this.page.waitForFunction(check, { timeout: PATIENCE_MS }, ...args);
  }

  /** Writes a message and sends it with the keyboard. */
  async send(text) {
    await this.page.focus("#input");
    await this.page.keyboard.type(text);
    // On a touch screen Enter is a new line.
    if (this.touch) await this.page.tap("#send");
    else await this.page.keyboard.press("Enter");
  }

  async idle() {
    await this.until(() => document.querySelector("#send").getAttribute("aria-label") === "Send");
  }

  async ask(text) {
    const answers = await this.count(".assistant");
    await this.send(text);
    await this.until((n) => document.querySelectorAll(".assistant").length > n, answers);
    await this.idle();
  }

  count(selector) {
    return this.page.$$eval(selector, (nodes) => nodes.length);
  }

  text(selector) {
    return this.page.$$eval(selector, (nodes) => nodes.at(-1)?.innerText ?? null);
  }

  texts(selector) {
    return this.page.$$eval(selector, (nodes) => nodes.map((node) => node.innerText));
  }

  /** Presses the last button of that name. */
  async press(name, root = "body") {
    const done = await this.page.$$eval(
      `${root} button`,
      (buttons, name) => {
        const named = (b) => (b.getAttribute("aria-label") ?? b.textContent.trim()) === name;
        const found = buttons.filter((b) => named(b) && !b.disabled && b.checkVisibility()).at(-1);
        found?.click();
        return Boolean(found);
      },
      name,
    );
    assert.ok(done, `a button ${name}`);
  }

  requests() {
    return this.mock.requests;
  }

  /** What must hold at the end of every test. */
  async close() {
    if (this.page && !this.page.isClosed()) this.problems.push(...(await this.page.evaluate(() => globalThis.violations ?? [])));
    await this.context?.close();
    assert.deepEqual(this.problems, [], "no errors, no violations of the policy, no script of others");
    assert.deepEqual(this.outside, [], "no requests to other hosts");
  }

  /** Serious findings of axe. */
  async axe() {
    // The policy forbids inline scripts, so axe comes in beside it.
    const source = require("node:fs").readFileSync(AXE, "utf8");
    await this.page.evaluate(source);
    const results = await this.page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    return results.violations.filter((v) => ["serious", "critical", "moderate"].includes(v.impact)).map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(" | ")}`);
  }
}

const browser = await puppeteer.launch(
  options.firefox
    ? { browser: "firefox", executablePath: process.env.FIREFOX }
    : { executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage", "--font-render-hinting=none"] },
);

let failures = 0;
let ran = 0;

async function runTests({ tests, emulated = [] }, makeMock) {
  for (const [name, test] of Object.entries(tests)) {
    if (options.only && !name.includes(options.only)) continue;
    if (options.firefox && emulated.includes(name)) {
      console.log(`skip  ${name} (the driver of Firefox cannot emulate it)`);
      continue;
    }
    const mock = await makeMock();
    const session = new Session(browser, mock);
    const began = performance.now();
    ran += 1;
    try {
      await test(session, mock);
      await session.close();
      console.log(`ok    ${name} (${Math.round(performance.now() - began)} ms)`);
    } catch (error) {
      failures += 1;
      console.log(`FAIL  ${name}\n${error.stack}\n${session.problems.join("\n")}`);
      await session.context?.close().catch(() => {});
    }
    mock.close();
  }
}

try {
  if (options.server) {
    await runTests(await import("./real.mjs"), async () => ({ url: options.server, requests: [], close() {} }));
  } else if (options.shots) {
    mkdirSync(options.shots, { recursive: true });
    const { shots } = await import("./shots.mjs");
    await runTests({ tests: shots(options.shots) }, startMock);
  } else {
    for (const file of ["markdown", "chat", "safety", "access"]) await runTests(await import(`./${file}.mjs`), startMock);
  }
} finally {
  await browser.close();
}
console.log(`${ran - failures} of ${ran} passed`);
process.exitCode = failures || !ran ? 1 : 0;
