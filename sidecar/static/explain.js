// @ts-check
// Explain: which route a path meets, by the same code as `sidecar explain`.

import { byId, element } from "./dom.js";

export class ExplainView {
  constructor() {
    byId("explain-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.ask(byId("explain-path").value.trim());
    });
  }

  /** @param {string} path */
  suggest(path) {
    byId("explain-path").value = path;
  }

  /** @param {string} path */
  async ask(path) {
    try {
      const response = await fetch(`/explain?path=${encodeURIComponent(path)}`);
      if (response.ok) this.show(await response.json());
      else this.say((await response.text()).trim());
    } catch {
      this.say("The sidecar does not answer");
    }
  }

  /** @param {string} text */
  say(text) {
    byId("explain-result").replaceChildren(element("p", { className: "notice" }, text));
  }

  /** @param {Record<string, unknown>} row */
  show(row) {
    const told = Object.entries(row).map(([name, value]) => [name.replaceAll("_", " "), words(value)]);
    const lines = told
      .filter(([, text]) => text)
      .map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)));
    byId("explain-result").replaceChildren(element("dl", { className: "explained" }, ...lines));
  }
}

/** A value, one item a line; empty where it says nothing. @param {unknown} value @returns {string} */
function words(value) {
  if (value === null) return "";
  if (Array.isArray(value)) return value.join("\n");
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, item]) => `${name}: ${item}`).join("\n");
}
