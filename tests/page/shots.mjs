// The pictures of docs/images, taken of the page as it is.

import { join } from "node:path";

const QUESTION = "Why is Lightning attention cheap on long texts? Show one step.";
const ANSWER = `Because it keeps **one state matrix per head** instead of a row per token. Three things follow:

1. A token costs the same at position 10 and at position 100,000.
2. Rolling back needs a *copy* of the state, since nothing can be cut off.
3. A checkpoint is \`d_k × d_v\` values per head, whatever came before.

## One step

The state decays, then takes in the outer product of key and value:

\`\`\`rust
fn step(state: &mut Matrix, decay: f32, k: &[f32], v: &[f32]) {
    state.scale(decay.exp()); // fixed for each head
    state.add_outer(k, v);
}
\`\`\`

| Layer | Per token | Per sequence |
|:--|--:|--:|
| Lightning | nothing | 2 MiB |
| MLA | 1,152 bytes | grows |

The four MLA layers still see everything, exactly.`;
const THOUGHTS = "They ask for the reason and for one step. The reason is the fixed size of the state; the step is short enough for code.";
const OTHERS = ["Names for a goat", "Summarise the meeting notes", "What does MLA compress?", "A regex for ISO dates"];

/** Sets the stage: a list of conversations, the last of them open at its first answer. */
async function stage(s, mock) {
  Object.assign(mock, { delay: 0, meta: { n_params: 103_000_000_000, size: 61_200_000_000 } });
  await s.open();
  mock.answer = () => ({ content: "Done." });
  for (const title of OTHERS) {
    await s.page.click("#new");
    await s.ask(title);
  }
  await s.page.click("#new");
  Object.assign(mock, { delay: 4, answer: () => ({ reasoning: THOUGHTS, content: ANSWER, drafts: true, cached: 0.9 }) });
  await s.ask(QUESTION);
  await s.page.mouse.move(0, 0);
}

async function top(s) {
  await s.page.$eval("#scroll", (node) => (node.scrollTop = 0));
  await new Promise((resolve) => setTimeout(resolve, 300));
}

/** Tests that write a picture each into a folder. */
export function shots(folder) {
  const picture = (s, name) => s.page.screenshot({ path: join(folder, `page-${name}.png`) });
  return {
    desktop: async (s, mock) => {
      await stage(s, mock);
      await top(s);
      await picture(s, "desktop");
    },
    dark: async (s, mock) => {
      await stage(s, mock);
      await s.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
      await s.page.$eval(".think", (node) => (node.open = true));
      await s.page.$eval(".stats", (node) => (node.open = true));
      await s.page.$eval("#scroll", (node) => (node.scrollTop = node.scrollHeight));
      await new Promise((resolve) => setTimeout(resolve, 300));
      await picture(s, "dark");
    },
    phone: async (s, mock) => {
      await stage(s, mock);
      await s.page.setViewport({ width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 2 });
      await top(s);
      await picture(s, "phone");
    },
  };
}
