// @ts-check
// The debug page: puts the parts together.

import { byId, copyFrom } from "./dom.js";
import { ExplainView } from "./explain.js";
import { ListenView } from "./listen.js";
import { OverviewView } from "./overview.js";
import { PublishView } from "./publish.js";

const listen = new ListenView();
const publish = new PublishView();
const explain = new ExplainView();

const overview = new OverviewView({
  onPick(path) {
    choose("listen");
    listen.pick(path);
  },
  onOverview(data) {
    listen.offer(data.routes, data.addresses);
    publish.offer(data.routes, data.publish);
  },
});

// ------------------------------------------------------------------ tabs (ARIA Authoring Practices: tabs)

const tabs = [...document.querySelectorAll('[role="tab"]')].map((tab) => /** @type {HTMLButtonElement} */ (tab));

/** @param {string} name of a panel */
function choose(name) {
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls") ?? "").hidden = !chosen;
  }
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => open(index));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open((to + tabs.length) % tabs.length);
  });
});

/** @param {number} index */
function open(index) {
  choose(tabs[index].getAttribute("aria-controls") ?? "");
  tabs[index].focus();
  if (tabs[index].id === "tab-publish" && listen.route) publish.fill(listen.route, new Map(listen.parameters()));
  if (tabs[index].id === "tab-explain") explain.suggest(listen.path());
}

// ------------------------------------------------------------------ colours, copying

const theme = byId("theme");
const chosen = document.documentElement.dataset.theme ?? "system";
theme.querySelector(`[value="${chosen}"]`).checked = true;
theme.addEventListener("change", (/** @type {any} */ { target }) => {
  if (target.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = target.value;
  try {
    localStorage.setItem("sidecar.theme", target.value);
  } catch {
    // It lasts as long as the page, then.
  }
});

document.addEventListener("click", ({ target }) => {
  const button = target instanceof Element ? /** @type {any} */ (target.closest("[data-copy]")) : null;
  if (button) copyFrom(button, byId(button.dataset.copy).textContent);
});

overview.open();
