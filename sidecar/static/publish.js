// @ts-check
// Publish: one message to the broker, by the admin listener's own endpoint.

import { byId, element, setText } from "./dom.js";
import { delay } from "./figures.js";
import { publishing } from "./lines.js";

/** @typedef {import("./overview.js").RouteStatus} RouteStatus */

export class PublishView {
  constructor() {
    const form = byId("publish-form");
    form.addEventListener("input", () => this.describe());
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.send();
    });
    form.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    this.describe();
  }

  /** @param {RouteStatus[]} routes @param {boolean} allowed */
  offer(routes, allowed) {
    byId("publish-off").hidden = allowed;
    byId("publish-send").disabled = !allowed;
    const exchanges = new Set(routes.flatMap(({ source }) => (source.exchange ? [source.exchange] : [])));
    byId("exchanges").replaceChildren(...[...exchanges].map((value) => element("option", { value })));
    if (!byId("publish-exchange").value && routes[0]) this.fill(routes[0], new Map());
  }

  /**
   * Fill in what would reach a route's readers.
   * @param {RouteStatus} route
   * @param {Map<string, string>} parameters
   */
  fill(route, parameters) {
    if (!route.source.exchange) return;
    byId("publish-exchange").value = route.source.exchange;
    const key = route.binding_keys[0].replaceAll(/\{([^}]+)\}/g, (_, name) => parameters.get(name) || "1");
    byId("publish-key").value = key === "#" ? "" : key.replaceAll(/[*#]/g, "test");
    this.describe();
  }

  /** Path and query of the request. */
  target() {
    const field = (/** @type {string} */ id) => byId(id).value;
    const query = new URLSearchParams();
    if (field("publish-type")) query.set("type", field("publish-type"));
    if (field("publish-id")) query.set("message_id", field("publish-id"));
    for (const line of field("publish-headers").split("\n").filter((/** @type {string} */ text) => text.includes("="))) {
      query.set(`header.${line.slice(0, line.indexOf("=")).trim()}`, line.slice(line.indexOf("=") + 1).trim());
    }
    const path = ["publish-exchange", "publish-key"].map((id) => encodeURIComponent(field(id))).join("/");
    return `/publish/${path}${query.size ? `?${query}` : ""}`;
  }

  describe() {
    setText(byId("line-publish"), publishing(this.target(), byId("publish-content-type").value, byId("publish-body").value));
  }

  async send() {
    const began = performance.now();
    const type = byId("publish-content-type").value;
    this.tell("waiting", "…");
    try {
      const response = await fetch(this.target(), {
        method: "POST",
        headers: type ? { "Content-Type": type } : {},
        body: new TextEncoder().encode(byId("publish-body").value),
      });
      const seconds = (performance.now() - began) / 1000;
      if (response.ok) this.tell("good", `Confirmed by the broker after ${delay(seconds)}`);
      else this.tell("bad", `${response.status}: ${(await response.text()).trim()}`);
    } catch {
      this.tell("bad", "The sidecar does not answer");
    }
  }

  /** @param {string} state @param {string} text */
  tell(state, text) {
    byId("publish-result").dataset.state = state;
    setText(byId("publish-result"), text);
  }
}
