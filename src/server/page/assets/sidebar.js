// The list of conversations.

import { $, el, iconButton } from "./dom.js";
import { titleOf } from "./messages.js";

const DAY = 86_400_000;
const PHONE = matchMedia("(max-width: 52rem)");

/** Wires the bar beside the page. `actions`: rename, exportOne, remove; each takes an entry of the list. `go` follows a link. */
export function initSidebar(actions, go) {
  const root = document.documentElement;
  const show = (open) => {
    root.dataset.nav = open ? "open" : "closed";
    $("sidebar").inert = !open;
    $("stage").inert = open && PHONE.matches;
    $("nav-open").setAttribute("aria-expanded", open);
  };
  show(!PHONE.matches);
  PHONE.addEventListener("change", () => show(!PHONE.matches));
  $("nav-open").addEventListener("click", () => {
    show(true);
    $("nav-close").focus();
  });
  $("nav-close").addEventListener("click", () => {
    show(false);
    $("nav-open").focus();
  });
  $("scrim").addEventListener("click", () => show(false));
  $("sidebar").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && PHONE.matches) $("nav-close").click();
  });
  $("sidebar").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (PHONE.matches) show(false);
    go(link.getAttribute("href"));
  });
  $("filter").addEventListener("input", draw);
  $("menu").addEventListener("keydown", moveInMenu);
  state.actions = actions;
}

const state = { heads: [], current: null, running: new Set(), actions: null };

/** Shows the list; `running` holds ids of conversations where an answer is being written. */
export function showList(heads, current, running) {
  Object.assign(state, { heads, current, running: new Set(running) });
  draw();
}

function draw() {
  const filter = $("filter");
  filter.hidden = state.heads.length < 8 && !filter.value;
  const wanted = filter.value.trim().toLowerCase();
  const groups = new Map();
  for (const head of state.heads) {
    if (!titleOf(head).toLowerCase().includes(wanted)) continue;
    const name = age(head.updated);
    groups.set(name, [...(groups.get(name) ?? []), entry(head)]);
  }
  const parts = [...groups].map(([name, items]) => el("section", {}, el("h2", { text: name }), el("ul", {}, ...items)));
  if (!parts.length && wanted) parts.push(el("p", { class: "none", text: "No title has these words" }));
  const focused = document.activeElement?.closest("#list a")?.hash;
  $("list").replaceChildren(...parts);
  if (focused) [...$("list").querySelectorAll("a")].find((a) => a.hash === focused)?.focus();
}

function age(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  if (time >= today - 6 * DAY) return "This week";
  return new Intl.DateTimeFormat("en", { month: "long", year: "numeric" }).format(time);
}

function entry(head) {
  const title = titleOf(head);
  const link = el("a", { href: `#/c/${head.id}`, title, "aria-current": head.id === state.current ? "page" : null }, el("span", { text: title }));
  if (state.running.has(head.id)) link.append(el("i", { class: "pulse", role: "img", "aria-label": "answer in progress" }));
  const more = iconButton("more", `More for ${title}`, () => openMenu(more, head), { "aria-haspopup": "true" });
  return el("li", {}, link, more);
}

function openMenu(button, head) {
  const menu = $("menu");
  const item = (text, act, kind = "") => {
    const run = () => {
      menu.hidePopover();
      act(head);
    };
    return el("button", { type: "button", class: kind, text, on: { click: run } });
  };
  const { rename, exportOne, remove } = state.actions;
  menu.replaceChildren(item("Rename\u2026", rename), item("Export", exportOne), item("Delete\u2026", remove, "danger"));
  menu.showPopover();
  const at = button.getBoundingClientRect();
  const box = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
  menu.style.top = `${at.bottom + box.height + 8 > innerHeight ? at.top - box.height - 4 : at.bottom + 4}px`;
  menu.firstElementChild.focus();
}

function moveInMenu(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const items = [...$("menu").children];
  items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
}
