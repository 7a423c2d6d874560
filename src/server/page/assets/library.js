// Conversations as files: rename, delete, export, import.

import { $, ask, download, toast } from "./dom.js";
import { describe, titleOf } from "./messages.js";
import { deleteConversations, listHeads, loadConversation, saveConversation } from "./store.js";
import { checked } from "./tree.js";

const FORMAT = "oxling-conversations";
const MAX_IMPORT = 200 << 20;

/** `changed(ids)` hears which conversations are gone or new. */
export function library(changed) {
  return {
    async rename(head) {
      const title = await ask({ title: "Rename conversation", value: titleOf(head), action: "Rename" });
      const conv = title?.trim() && (await loadConversation(head.id));
      if (!conv) return;
      conv.title = title.trim();
      await saveConversation(conv);
      changed({ renamed: conv });
    },
    async remove(head) {
      const text = `\u201c${titleOf(head)}\u201d will be gone from this browser.`;
      if ((await ask({ title: "Delete conversation?", text, action: "Delete", danger: true })) === null) return;
      await deleteConversations([head.id]);
      changed({ removed: [head.id] });
    },
    async exportOne(head) {
      save([await loadConversation(head.id)], fileName(titleOf(head)));
    },
    async exportAll() {
      const heads = await listHeads();
      if (!heads.length) return toast("There are no conversations yet");
      save(await Promise.all(heads.map((head) => loadConversation(head.id))), "conversations");
    },
    async deleteAll() {
      const heads = await listHeads();
      if (!heads.length) return toast("There are no conversations yet");
      const text = `${describe(heads)} will be gone from this browser.`;
      if ((await ask({ title: "Delete all conversations?", text, action: "Delete all", danger: true })) === null) return;
      await deleteConversations(heads.map((head) => head.id));
      changed({ removed: heads.map((head) => head.id) });
    },
    importFile: () => $("import").click(),
  };
}

/** Wires the hidden file input behind "Import". */
export function initImport(changed) {
  $("import").addEventListener("change", async () => {
    const [file] = $("import").files;
    $("import").value = "";
    if (!file) return;
    try {
      if (file.size > MAX_IMPORT) throw new Error("The file is too large");
      const added = read(JSON.parse(await file.text()));
      for (const conv of added) await saveConversation(conv);
      changed({ added });
      toast(`Imported ${describe(added)}`);
    } catch (error) {
      toast(`Not imported: ${error instanceof SyntaxError ? "the file is not JSON" : error.message}`);
    }
  });
}

function read(value) {
  if (value?.format !== FORMAT || !Array.isArray(value.conversations)) throw new Error("the file holds no conversations of this page");
  return value.conversations.map(checked);
}

function save(conversations, name) {
  const value = { format: FORMAT, version: 1, conversations: conversations.filter(Boolean) };
  download(`${name}.json`, JSON.stringify(value, null, 1));
}

function fileName(title) {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 50) || "conversation";
}
