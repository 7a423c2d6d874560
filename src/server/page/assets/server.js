// What is known of the server: whether it answers, which model it has, how much it can hold.

import { ApiError, getJson } from "./api.js";

const RETRY_MS = 1500;

/** `state`: "connecting", "loading", "ready", "locked" (a key is wanted), "offline". */
export const server = { state: "connecting", detail: "", model: "", nCtx: 0, slots: 0, meta: {}, defaults: {} };
const listeners = new Set();
let looking = null;

export function onServer(listener) {
  listeners.add(listener);
}

function set(changes) {
  Object.assign(server, changes);
  listeners.forEach((listener) => listener(server));
}

/** Looks at the server until it is ready or wants a key. One look at a time; all callers get the same promise. */
export function connect() {
  looking ??= look().finally(() => (looking = null));
  return looking;
}

async function look() {
  for (;;) {
    try {
      const [props, models] = await Promise.all([getJson("props"), getJson("v1/models")]);
      const defaults = props.default_generation_settings ?? {};
      const model = models.data?.[0] ?? {};
      set({
        state: "ready",
        detail: "",
        model: String(model.id ?? props.model_alias ?? props.model_path ?? "model").split("/").pop(),
        nCtx: Number(defaults.n_ctx) || 0,
        slots: Number(props.total_slots) || 0,
        meta: model.meta ?? {},
        defaults: defaults.params ?? defaults,
      });
      return true;
    } catch (error) {
      if (failed(error)) return false;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Notes an error that says something about the server. True if looking again would not help. */
function failed(error) {
  const status = error instanceof ApiError ? error.status : 0;
  if (status === 401 || status === 403) set({ state: "locked", detail: error.message });
  else if (status === 503) set({ state: "loading", detail: error.message });
  else set({ state: "offline", detail: error.message });
  return server.state === "locked";
}

export { failed as noteFailure };
