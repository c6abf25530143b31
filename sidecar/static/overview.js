// @ts-check
// The upper part of the page: the state of the process, told by its own event stream once a second.

import { byId, element, setText } from "./dom.js";
import { bytes, clock, count, delay, duration, quantile, rate } from "./figures.js";
import { Plot } from "./plot.js";

/**
 * @typedef {object} RouteStatus see sidecar/http/status.py
 * @property {string} path
 * @property {Record<string, string>} source
 * @property {string[]} binding_keys
 * @property {string[]} parameters
 * @property {string | null} replay
 * @property {string[]} access
 * @property {number} subscribers
 * @property {number} subscriptions
 * @property {number} received
 * @property {number} sent
 * @property {number} replayed
 * @property {number} backlog_bytes
 * @property {number[]} delivery
 */

/**
 * @typedef {object} Overview
 * @property {number} clock seconds that never jump
 * @property {boolean} connected
 * @property {string | null} not_ready
 * @property {string} version
 * @property {boolean} publish
 * @property {string[]} addresses
 * @property {number[]} bounds
 * @property {{closed: Record<string, string>, resets: Record<string, string>}} reasons
 * @property {RouteStatus[]} routes
 */

const KEEP = 100; // lines in the lists of what happened

/** What a route's counts did since the last snapshot. */
class Pace {
  /** @param {RouteStatus} before @param {RouteStatus} now @param {number} seconds */
  constructor(before, now, seconds) {
    const gone = Math.max(seconds, 0.001);
    this.received = Math.max(0, now.received - before.received) / gone;
    this.sent = Math.max(0, now.sent - before.sent) / gone;
    this.delivery = now.delivery.map((counted, index) => Math.max(0, counted - before.delivery[index]));
  }
}

class Row {
  /** @param {(path: string) => void} onPick @param {RouteStatus} route */
  constructor(route, onPick) {
    const pick = element("button", { type: "button", className: "route", title: `Listen to ${route.path}` }, route.path);
    pick.addEventListener("click", () => onPick(route.path));
    const [[kind, name]] = Object.entries(route.source);
    const about = [`${kind} ${name}`, ...(route.replay ? [`replay: ${route.replay}`] : []), ...route.access];
    const number = (wide = "") => element("td", { className: `number ${wide}` }, "–");
    this.cells = [number(), number("wide"), number(), number("wide"), number("wide")];
    const head = element("th", { scope: "row" }, pick, element("small", {}, about.join(" · ")));
    this.node = element("tr", {}, head, ...this.cells);
  }

  /** @param {RouteStatus} route @param {Pace | null} pace @param {number[]} bounds */
  show(route, pace, bounds) {
    const median = pace ? quantile(bounds, pace.delivery, 0.5) : null;
    const texts = [
      count(route.subscribers),
      pace ? rate(pace.received) : "–",
      pace ? rate(pace.sent) : "–",
      delay(median),
      route.backlog_bytes ? bytes(route.backlog_bytes) : "0",
    ];
    texts.forEach((text, index) => setText(this.cells[index], text));
    this.node.classList.toggle("quiet", route.subscribers === 0);
  }
}

class Tile {
  /** @param {string} id @param {string} meaning @param {(value: number) => string} format */
  constructor(id, meaning, format) {
    const node = byId(id);
    this.figure = node.querySelector(".figure");
    this.note = node.querySelector(".note");
    this.plot = new Plot(node.querySelector("svg"), meaning, format);
  }

  /** @param {string} figure @param {string} note @param {...(number | null)} points */
  show(figure, note, ...points) {
    setText(this.figure, figure);
    setText(this.note, note);
    this.plot.push(...points);
  }
}

export class OverviewView {
  /**
   * @param {object} ears
   * @param {(path: string) => void} ears.onPick a route was chosen
   * @param {(overview: Overview) => void} ears.onOverview routes or settings are new
   */
  constructor({ onPick, onOverview }) {
    this.onPick = onPick;
    this.onOverview = onOverview;
    /** @type {Map<string, RouteStatus>} */
    this.routes = new Map();
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    this.clock = 0;
    /** @type {number[]} */
    this.bounds = [];
    this.reasons = { closed: {}, resets: {} };
    this.tiles = {
      streams: new Tile("tile-streams", "Streams open", count),
      events: new Tile("tile-events", "Events sent a second", rate),
      delay: new Tile("tile-delay", "Delay: median and 99th percentile", delay),
      backlog: new Tile("tile-backlog", "Bytes that wait", bytes),
    };
  }

  open() {
    const source = new EventSource("/overview/stream");
    /** @param {string} type @param {(data: any) => void} hear */
    const on = (type, hear) => source.addEventListener(type, (event) => hear(JSON.parse(event.data)));
    on("overview", (data) => this.begin(data));
    on("change", (data) => this.change(data));
    on("closed", (data) => this.tell("closed", data.map((/** @type {any} */ each) => this.closedLine(each))));
    on("resets", (data) => this.tellResets(data));
    source.addEventListener("open", () => (byId("page-state").hidden = true));
    source.addEventListener("error", () => {
      byId("page-state").hidden = false;
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.open(), 2000);
    });
  }

  /** @param {Overview} data */
  begin(data) {
    this.bounds = data.bounds;
    this.reasons = data.reasons;
    setText(byId("version"), data.version);
    this.rows = new Map(data.routes.map((route) => [route.path, new Row(route, this.onPick)]));
    byId("routes").replaceChildren(...[...this.rows.values()].map((row) => row.node));
    byId("no-routes").hidden = data.routes.length > 0;
    setText(byId("routes-count"), count(data.routes.length));
    if (data.clock < this.clock) this.restarted();
    for (const path of this.routes.keys()) if (!this.rows.has(path)) this.routes.delete(path);
    this.change(data);
    this.onOverview(data);
  }

  /** Another process answers now: its numbers begin anew. */
  restarted() {
    this.routes.clear();
    for (const id of ["closed", "resets"]) byId(id).replaceChildren();
  }

  /** @param {Overview} data */
  change(data) {
    this.state(data);
    const [seconds, first] = [data.clock - this.clock, this.routes.size === 0];
    this.clock = data.clock;
    const changed = new Map(data.routes.map((route) => [route.path, route]));
    const paces = [];
    for (const [path, row] of this.rows) {
      const before = this.routes.get(path);
      const now = changed.get(path) ?? before;
      if (!now) continue;
      const pace = before ? new Pace(before, now, seconds) : null;
      if (pace) paces.push(pace);
      this.routes.set(path, now);
      row.show(now, pace, this.bounds);
    }
    this.total(first ? null : paces);
  }

  /** @param {Overview} data */
  state(data) {
    const broker = byId("broker");
    broker.dataset.state = data.connected ? "good" : "bad";
    setText(broker, data.connected ? "Broker connected" : "Broker away");
    const ready = byId("ready");
    ready.dataset.state = data.not_ready === null ? "good" : "bad";
    setText(ready, data.not_ready === null ? "Ready" : `Not ready: ${data.not_ready}`);
  }

  /** @param {Pace[] | null} paces */
  total(paces) {
    const routes = [...this.routes.values()];
    const sum = (/** @type {number[]} */ numbers) => numbers.reduce((all, each) => all + each, 0);
    const streams = sum(routes.map((route) => route.subscribers));
    const shared = sum(routes.map((route) => route.subscriptions));
    this.tiles.streams.show(count(streams), `on ${count(shared)} subscription${shared === 1 ? "" : "s"}`, streams);
    const waiting = sum(routes.map((route) => route.backlog_bytes));
    this.tiles.backlog.show(waiting ? bytes(waiting) : "0", waiting ? "for slow readers" : "everybody keeps up", waiting);
    if (!paces) return;
    const sent = sum(paces.map((pace) => pace.sent));
    const received = sum(paces.map((pace) => pace.received));
    this.tiles.events.show(rate(sent), `${rate(received)} messages/s in`, sent);
    const delivery = this.bounds.map((_, index) => sum(paces.map((pace) => pace.delivery[index])));
    delivery.push(sum(paces.map((pace) => pace.delivery[this.bounds.length])));
    const [median, most] = [0.5, 0.99].map((share) => quantile(this.bounds, delivery, share));
    const note = most === null ? "nothing was sent" : `99 % within ${delay(most)}`;
    this.tiles.delay.show(delay(median), note, median, most);
  }

  /** @param {any} record */
  closedLine(record) {
    const about = `${duration(record.seconds)}, ${count(record.events)} event${record.events === 1 ? "" : "s"}`;
    return this.line(record, this.reasons.closed, `${about}, ${record.client}`);
  }

  /** @param {any[]} records */
  tellResets(records) {
    for (const grown of records) byId("resets").querySelector(`[data-at="${grown.at}"]`)?.remove();
    const lines = records.map((each) => this.line(each, this.reasons.resets, `${count(each.count)} stream${each.count === 1 ? "" : "s"}`));
    this.tell("resets", lines);
  }

  /** @param {any} record @param {Record<string, string>} meanings @param {string} about */
  line(record, meanings, about) {
    const when = new Date(record.at * 1000);
    return element(
      "li",
      { dataset: { at: String(record.at) } },
      element("time", { dateTime: when.toISOString() }, clock(when)),
      element("span", { className: "reason", dataset: { reason: record.reason }, title: meanings[record.reason] ?? "" }, record.reason),
      element("code", {}, record.route),
      element("span", { className: "about" }, about),
    );
  }

  /** @param {"closed" | "resets"} id @param {HTMLElement[]} lines the newest first */
  tell(id, lines) {
    const list = byId(id);
    list.prepend(...lines);
    while (list.children.length > KEEP) list.lastElementChild.remove();
    byId(`no-${id}`).hidden = list.children.length > 0;
  }
}
