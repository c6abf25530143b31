// @ts-check
// Listen: any route, read as a browser would read it, with everything that a browser hides.

import { byId, element, setText } from "./dom.js";
import { EventLog } from "./event-log.js";
import { Refused, read } from "./event-stream.js";
import { bytes, count, delay, rate } from "./figures.js";
import { curl, javascript, tail } from "./lines.js";
import { Plot } from "./plot.js";
import { Parser, utf8 } from "./sidecar.js";

/** @typedef {import("./overview.js").RouteStatus} RouteStatus */
/** @typedef {{url: string, headers: Record<string, string>}} Asked */

const RETRY = 3000; // milliseconds, where the server asks for nothing

/** A wait that ends early, with an AbortError, where the signal says so. @param {number} milliseconds @param {AbortSignal} signal */
function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    const abort = () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    };
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
  });
}

export class ListenView {
  constructor() {
    this.log = new EventLog(byId("listen-events"), byId("listen-sampled"));
    /** @type {RouteStatus[]} */
    this.routes = [];
    /** @type {string[]} */
    this.addresses = [];
    /** @type {AbortController | null} */
    this.stop = null;
    /** @type {AbortController | null} */
    this.cut = null;
    this.away = 0; // seconds to stay away after a cut that was asked for
    this.lastEventId = "";
    this.total = 0;
    this.second = { events: 0, bytes: 0 };
    /** @type {Set<string>} */
    this.types = new Set();
    this.plots = {
      rate: new Plot(byId("listen-plot-rate"), "Events a second", rate),
      delay: new Plot(byId("listen-plot-delay"), "Delay", delay),
    };
    setInterval(() => this.tick(), 1000);
    this.listenToTheForm();
  }

  listenToTheForm() {
    byId("listen-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      if (this.stop) this.stop.abort();
      else this.start();
    });
    for (const kind of ["input", "change"]) byId("listen-form").addEventListener(kind, () => this.describe());
    byId("listen-route").addEventListener("change", () => this.changeRoute());
    byId("listen-away").addEventListener("click", () => this.comeBackLater());
    byId("listen-filter").addEventListener("input", (/** @type {any} */ event) => (this.log.filter = event.target.value));
    byId("listen-clear").addEventListener("click", () => this.log.clear());
    byId("listen-pause").addEventListener("click", () => this.pause());
  }

  /** The routes there are now. @param {RouteStatus[]} routes @param {string[]} addresses */
  offer(routes, addresses) {
    this.routes = routes;
    this.addresses = addresses;
    const select = byId("listen-route");
    const chosen = select.value;
    select.replaceChildren(...routes.map(({ path }) => element("option", { value: path }, path)));
    if (routes.some(({ path }) => path === chosen)) {
      select.value = chosen;
      this.describe();
    } else this.askParameters();
  }

  /** Choose a route; another one than now ends the stream of that. @param {string} path */
  pick(path) {
    if (byId("listen-route").value !== path) {
      byId("listen-route").value = path;
      this.changeRoute();
    }
    const first = byId("listen-parameters").querySelector("input") ?? byId("listen-connect");
    byId("workbench").scrollIntoView({ block: "nearest" });
    first.focus({ preventScroll: true });
  }

  get route() {
    return this.routes.find(({ path }) => path === byId("listen-route").value);
  }

  changeRoute() {
    this.stop?.abort();
    byId("listen-last-id").value = ""; // it means nothing on another route
    this.askParameters();
  }

  askParameters() {
    const kept = new Map(this.parameters().filter(([, value]) => value));
    const fields = (this.route?.parameters ?? []).map((name) =>
      element(
        "label",
        { className: "field" },
        element("span", {}, name.replace("query.", "?")),
        element("input", { name, value: kept.get(name) ?? "", required: true, spellcheck: false, className: "mono" }),
      ),
    );
    byId("listen-parameters").replaceChildren(...fields);
    byId("listen-more").open ||= Boolean(this.route?.access.length);
    this.describe();
  }

  /** @returns {[string, string][]} */
  parameters() {
    return [...byId("listen-parameters").querySelectorAll("input")].map((input) => [input.name, input.value]);
  }

  /** The path to ask for, with its query; without a token. */
  path() {
    const given = new Map(this.parameters());
    const path = (this.route?.path ?? "/").replaceAll(/\{([^}]+)\}/g, (whole, name) =>
      given.get(name) ? encodeURIComponent(/** @type {string} */ (given.get(name))) : whole,
    );
    const query = [...given].filter(([name]) => name.startsWith("query."));
    const fields = query.map(([name, value]) => `${encodeURIComponent(name.slice(6))}=${encodeURIComponent(value)}`);
    return fields.length ? `${path}?${fields.join("&")}` : path;
  }

  describe() {
    const inQuery = byId("listen-token-in").value === "query";
    byId("listen-token-name-field").hidden = !inQuery;
    setText(byId("listen-path"), this.path());
    /** @type {import("./lines.js").Wish} */
    const wish = {
      path: this.path(),
      token: byId("listen-token").value ? byId("listen-token-in").value : "",
      tokenName: byId("listen-token-name").value,
      lastEventId: byId("listen-last-id").value,
      types: [...this.types],
    };
    setText(byId("line-curl"), curl(wish, this.addresses));
    setText(byId("line-tail"), tail(wish, this.addresses));
    setText(byId("line-javascript"), javascript(wish, this.addresses));
  }

  /** The request that the form asks for: its address on this listener, and its header fields. @returns {Asked} */
  asked() {
    const token = byId("listen-token").value;
    const path = this.path();
    if (!token) return { url: `/listen${path}`, headers: {} };
    if (byId("listen-token-in").value === "header") return { url: `/listen${path}`, headers: { Authorization: `Bearer ${utf8(token)}` } };
    const field = `${encodeURIComponent(byId("listen-token-name").value)}=${encodeURIComponent(token)}`;
    return { url: `/listen${path}${path.includes("?") ? "&" : "?"}${field}`, headers: {} };
  }

  // ------------------------------------------------------------------ listening

  async start() {
    this.stop = new AbortController();
    this.lastEventId = byId("listen-last-id").value.trim();
    [this.total, this.types] = [0, new Set()];
    byId("listen-connect").textContent = "Stop";
    this.log.mark(`Listening to ${this.path()}`);
    try {
      const asked = this.asked(); // kept for as long as it listens, whatever is typed meanwhile
      while (!this.stop.signal.aborted) await this.listenOnce(asked, this.stop.signal);
    } catch (error) {
      if (error instanceof Refused) this.refused(error);
      else if (/** @type {any} */ (error).name !== "AbortError") throw error;
    } finally {
      this.ended();
    }
  }

  /** One connection, and the wait before the next. @param {Asked} asked @param {AbortSignal} stop */
  async listenOnce(asked, stop) {
    const parser = new Parser(this.lastEventId);
    this.cut = new AbortController();
    const signal = AbortSignal.any([stop, this.cut.signal]);
    const why = await this.connect(asked, parser, signal);
    this.lastEventId = parser.lastEventId;
    stop.throwIfAborted();
    byId("listen-away").disabled = true;
    const wait = this.away ? this.away * 1000 : (parser.retry ?? RETRY);
    const text = this.away ? `Disconnected on purpose for ${this.away} s` : `${why}; again in ${(wait / 1000).toFixed(1)} s`;
    this.away = 0;
    this.status("waiting", text);
    this.log.mark(text, "gone");
    await sleep(wait, stop);
    this.log.mark(this.lastEventId ? `Coming back with Last-Event-ID ${this.lastEventId}` : "Coming back without an id", "back");
  }

  /** Read until it ends; returns why, in words. @param {Asked} asked @param {Parser} parser @param {AbortSignal} signal */
  async connect({ url, headers: fields }, parser, signal) {
    this.status("waiting", "Connecting …");
    const id = this.lastEventId;
    const headers = id ? { ...fields, "Last-Event-ID": utf8(id) } : fields;
    const onOpen = () => {
      this.status("open", "Connected");
      byId("listen-away").disabled = false;
      if (id) this.countReturn();
    };
    try {
      await read(url, { headers, parser, signal, onOpen, onEvents: (events, size) => this.hear(events, size) });
      return "The server has ended the stream";
    } catch (error) {
      if (error instanceof Refused) throw error;
      return "The connection broke";
    }
  }

  /** Say how much came at once: what a replay has brought. */
  countReturn() {
    const [before, connected] = [this.total, this.cut];
    setTimeout(() => {
      if (this.cut !== connected) return;
      const came = this.total - before;
      this.log.mark(`${count(came)} event${came === 1 ? "" : "s"} in the first second`, "back");
    }, 1000);
  }

  /** @param {import("./sidecar.js").ServerEvent[]} events @param {number} size */
  hear(events, size) {
    this.total += events.length;
    this.second.events += events.length;
    this.second.bytes += size;
    for (const { type } of events) {
      if (type !== "sidecar.reset" && type !== "sidecar.heartbeat" && this.types.size < 5 && !this.types.has(type)) {
        this.types.add(type);
        this.describe();
      }
    }
    this.log.take(events);
  }

  comeBackLater() {
    this.away = Number(byId("listen-away-for").value);
    this.cut?.abort();
  }

  /** @param {Refused} error */
  refused(error) {
    const text = `Refused with ${error.status}: ${error.message}`;
    this.log.mark(text, "bad");
    this.status("bad", text);
  }

  ended() {
    this.stop = this.cut = null;
    byId("listen-connect").textContent = "Listen";
    byId("listen-away").disabled = true;
    if (byId("listen-status").dataset.state !== "bad") {
      this.status("idle", "Not listening");
      this.log.mark(this.lastEventId ? `Stopped; the last id was ${this.lastEventId}` : "Stopped");
    }
  }

  // ------------------------------------------------------------------ what is shown

  /** @param {string} state @param {string} text */
  status(state, text) {
    const status = byId("listen-status");
    status.dataset.state = state;
    setText(status, text);
  }

  pause() {
    this.log.paused = !this.log.paused;
    this.log.missed = 0;
    const button = byId("listen-pause");
    button.setAttribute("aria-pressed", String(this.log.paused));
    button.textContent = this.log.paused ? "Go on" : "Pause";
    this.log.second();
  }

  tick() {
    const late = this.log.second();
    const { events, bytes: size } = this.second;
    this.second = { events: 0, bytes: 0 };
    setText(byId("listen-count"), count(this.total));
    setText(byId("listen-rate"), rate(events));
    setText(byId("listen-bytes"), bytes(size));
    setText(byId("listen-delay"), delay(late));
    this.plots.rate.push(events);
    this.plots.delay.push(late);
  }
}
