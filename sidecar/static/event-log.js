// @ts-check
// The list of events: the newest first, at most so many, and no more a second than a person or a browser can take.

import { copyFrom, element } from "./dom.js";
import { bytes, clock, count, delay } from "./figures.js";
import { preview, tree } from "./json-view.js";

/** @typedef {import("./sidecar.js").ServerEvent} ServerEvent */

const ROWS = 200; // in the list
const TICK = 150; // milliseconds between two looks at what has come
const BURST = 100; // events shown of what comes at once, like a replay; more are sampled
const A_SECOND = 40; // events shown of what comes for long
const TIMES = ["timestamp", "time", "ts", "at", "sent_at"]; // keys of a JSON object that may say when it was made

/** An event, and what can be said of it. */
class Seen {
  /** @param {ServerEvent} event @param {number} arrived milliseconds since 1970 */
  constructor(event, arrived) {
    this.event = event;
    this.arrived = arrived;
    const [value, isJson] = parsed(event.data);
    /** @type {unknown} */
    this.value = value;
    this.isJson = isJson;
    this.delay = delayOf(this.value, arrived);
  }
}

/** @param {string} text @returns {[unknown, boolean]} */
function parsed(text) {
  if (!/^\s*[{["\d-]|^\s*(true|false|null)\s*$/.test(text)) return [null, false];
  try {
    return [JSON.parse(text), true];
  } catch {
    return [null, false];
  }
}

/** Seconds from the time an event's data names to its arrival; null where it names none. @param {any} value @param {number} arrived */
function delayOf(value, arrived) {
  if (value === null || typeof value !== "object") return null;
  for (const name of TIMES) {
    const at = milliseconds(value[name]);
    if (at !== null) return (arrived - at) / 1000;
  }
  return null;
}

/** @param {unknown} time */
function milliseconds(time) {
  if (typeof time === "number") return time > 1e11 && time < 1e14 ? time : time > 1e8 && time < 1e11 ? time * 1000 : null;
  if (typeof time !== "string" || !/^\d{4}-\d\d-\d\d/.test(time)) return null;
  const at = Date.parse(time);
  return Number.isNaN(at) ? null : at;
}

export class EventLog {
  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} notice where it says that it samples
   */
  constructor(list, notice) {
    this.list = list;
    this.notice = notice;
    this.wanted = "";
    /** @type {WeakMap<Element, string>} */
    this.texts = new WeakMap(); // of the rows, for the filter
    this.paused = false;
    this.missed = 0; // while paused
    this.room = BURST;
    /** @type {Seen[]} */
    this.waiting = [];
    this.matched = 0; // since the last look
    this.lately = { matched: 0, shown: 0 }; // since the last second
    /** @type {number[]} */
    this.delays = [];
    setInterval(() => this.show(), TICK);
  }

  /** Show only events that contain this text: of those that are in the list, and of those that come. */
  set filter(/** @type {string} */ text) {
    this.wanted = text.toLowerCase();
    for (const row of this.list.children) {
      const known = this.texts.get(row);
      if (known !== undefined) /** @type {any} */ (row).hidden = !known.includes(this.wanted);
    }
  }

  /** Take events; all of them are counted, a fair sample is kept to be shown. @param {ServerEvent[]} events */
  take(events) {
    const now = Date.now();
    for (const event of events) {
      if (this.wanted && !event.raw.toLowerCase().includes(this.wanted)) continue;
      this.matched += 1;
      if (event.type === "sidecar.reset") this.waiting.push(new Seen(event, now));
      else this.sample(event, now);
    }
  }

  /** Reservoir sampling: each event has the same chance, whatever comes after it. @param {ServerEvent} event @param {number} now */
  sample(event, now) {
    if (this.paused) {
      this.missed += 1;
    } else if (this.waiting.length < this.room) {
      this.waiting.push(new Seen(event, now));
    } else {
      const place = Math.floor(Math.random() * this.matched);
      if (place < this.waiting.length) {
        this.waiting.splice(place, 1);
        this.waiting.push(new Seen(event, now));
      }
    }
  }

  show() {
    this.lately.matched += this.matched;
    this.lately.shown += this.waiting.length;
    this.matched = 0;
    for (const seen of this.waiting) if (seen.delay !== null) this.delays.push(seen.delay);
    if (this.waiting.length) this.prepend(this.waiting.reverse().map((seen) => this.row(seen)));
    this.room = Math.min(BURST, this.room - this.waiting.length + (A_SECOND * TICK) / 1000);
    this.waiting = [];
  }

  /** @param {Seen} seen */
  row(seen) {
    const made = row(seen);
    const text = seen.event.raw.toLowerCase();
    this.texts.set(made, text);
    made.hidden = !text.includes(this.wanted); // it may have come before the filter
    return made;
  }

  /** A line between events. @param {string} text @param {string} [kind] */
  mark(text, kind = "plain") {
    this.show();
    const time = element("time", {}, clock(new Date(), true));
    this.prepend([element("p", { className: "mark", dataset: { kind } }, time, " ", text)]);
  }

  /** @param {HTMLElement[]} rows */
  prepend(rows) {
    this.list.prepend(...rows);
    for (const name of ["delay", "id"]) {
      if (rows.some((row) => row.querySelector(`summary > .${name}`)?.textContent)) this.list.classList.add(`has-${name}`);
    }
    let spare = this.list.children.length - ROWS;
    for (let last = this.list.lastElementChild; last && spare > 0; spare -= 1) {
      const before = last.previousElementSibling;
      if (!(/** @type {any} */ (last).open)) last.remove(); // somebody reads it
      last = before;
    }
  }

  clear() {
    this.list.replaceChildren();
    this.list.classList.remove("has-delay", "has-id");
    this.missed = 0;
  }

  /** Call it once a second: says whether and how much is sampled; returns the median delay of what was shown. */
  second() {
    this.show();
    const { matched, shown } = this.lately;
    this.lately = { matched: 0, shown: 0 };
    const missed = `${count(this.missed)} ${this.wanted ? "matching " : ""}event${this.missed === 1 ? " has" : "s have"}`;
    this.notice.textContent = this.paused
      ? `Paused. ${missed} come since, not kept.`
      : matched > shown && shown > 0
        ? `Sampled: ${count(matched)} events a second; about 1 in ${count(Math.round(matched / shown))} is shown.`
        : "";
    const sorted = this.delays.sort((one, other) => one - other);
    this.delays = [];
    return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
  }
}

/** @param {Seen} seen */
function row(seen) {
  const { event } = seen;
  const summary = element(
    "summary",
    {},
    element("time", {}, clock(new Date(seen.arrived), true)),
    element("span", { className: "type" }, event.type),
    element("span", { className: "delay" }, seen.delay === null ? "" : delay(seen.delay)),
    preview(event.data, seen.isJson),
    element("span", { className: "id", title: event.id }, event.hasId ? event.id : ""),
  );
  const details = element("details", { className: "event", dataset: { type: event.type } }, summary);
  details.addEventListener("toggle", () => details.children.length === 1 && details.append(whole(seen)));
  return details;
}

/** Everything about an event; made when somebody opens it. @param {Seen} seen */
function whole({ event, value, isJson, delay: late }) {
  const size = bytes(new TextEncoder().encode(event.raw).length);
  const facts = [["type", event.type], ["id", event.id || "none"], ["delay", delay(late)], ["size", size]];
  const data = element("button", { type: "button" }, "Copy data");
  const raw = element("button", { type: "button" }, "Copy raw");
  data.addEventListener("click", () => copyFrom(data, event.data));
  raw.addEventListener("click", () => copyFrom(raw, event.raw));
  return element(
    "div",
    { className: "whole" },
    element("dl", {}, ...facts.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)))),
    isJson ? element("div", { className: "tree" }, tree(value)) : element("pre", {}, event.data),
    element("h4", {}, "Raw"),
    element("pre", { className: "raw" }, ...visible(event.raw)),
    element("div", { className: "actions" }, data, raw),
  );
}

/** A text whose line ends can be seen. @param {string} raw */
function visible(raw) {
  return raw.split(/(\r\n|\n|\r)/).flatMap((part, index) => {
    const end = () => part.replace("\r", "\\r").replace("\n", "\\n");
    return index % 2 ? [element("span", { className: "line-end" }, end()), "\n"] : [part];
  });
}
