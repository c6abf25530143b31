// @ts-check
/**
 * One event stream for all tabs of an origin: over HTTP/1.1 a browser opens six connections to an origin and no more,
 * however many tabs there are, and each stream takes one for good.
 *
 *     import { share } from "./sidecar.js";
 *
 *     const events = share("/events/orders", { onReset: () => location.reload() });
 *     events.addEventListener("paid", (event) => show(JSON.parse(event.data)));
 *
 * Strategy: one connection lives in a SharedWorker, which is this very file; where there is none, the tab that holds a
 * Web Lock connects and tells the others by a BroadcastChannel; where there is neither, each tab connects for itself.
 * The connection is a fetch, not an EventSource: so it can notice that nothing comes any more, not even a heartbeat,
 * comes back with Last-Event-ID after any kind of end, and may send header fields.
 *
 * No dependencies; one file. Browsers since 2022.
 * @module
 */

/**
 * @typedef {object} Options
 * @property {(reason: string) => void} [onReset] Called where events may have been missed: load the state anew. The
 *   reasons are the sidecar's (`slow`, `truncated`, …), and `asleep` for a page that was frozen by the browser.
 * @property {number} [quiet] Seconds without a byte after which the connection is dead; 45, three heartbeats of 15 s.
 * @property {Record<string, string>} [headers] Fields to send, such as Authorization. Tabs share a connection only
 *   where all of these are the same.
 * @property {RequestCredentials} [credentials] As of `fetch`; "include" sends cookies to another origin.
 * @property {string} [lastEventId] Where to begin: after this event, where the route replays.
 * @property {string | URL} [module] Where this file can be loaded from, if a bundler has moved it.
 * @property {"worker" | "tabs" | "alone"} [way] How to share; by default the first that the browser has.
 */

/**
 * @typedef {object} ServerEvent
 * @property {string} type
 * @property {string} data
 * @property {string} id the last event id at that moment
 * @property {boolean} hasId whether the event itself brought that id
 * @property {string} raw the block as it came, its line ends included
 */

/** @typedef {{url: string, headers: Record<string, string>, credentials: RequestCredentials, quiet: number}} Wish */
/** @typedef {{type: string, data: string, id: string}} Told */
/** @typedef {{state: "connecting" | "open" | "closed", problem: string}} State */

const RETRY = 3000; // milliseconds, where the server asks for nothing
const LONGEST = 60_000; // milliseconds between two tries
const SHORT = 5000; // milliseconds: a stream that ended sooner counts as a failure
const PASSING = [408, 425, 429, 500, 502, 503, 504]; // statuses that may be others later

// ------------------------------------------------------------------ the format (WHATWG HTML §9.2.6)

const LINE_END = /\r\n|\n|\r/g;

/** Turns the text of one response into events. A new connection needs a new one, with the old one's last id. */
export class Parser {
  raw = "";
  type = "";
  id = "";
  hasId = false;
  /** @type {string[]} */
  data = [];

  /** @param {string} [lastEventId] */
  constructor(lastEventId = "") {
    this.lastEventId = lastEventId;
    /** @type {number | null} what the server asked for, in milliseconds */
    this.retry = null;
    this.rest = "";
    this.afterCr = false;
    this.begin();
  }

  begin() {
    this.raw = "";
    this.type = "";
    this.id = this.lastEventId;
    this.hasId = false;
    this.data = [];
  }

  /**
   * Take the next text; returns the events it completes.
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  feed(text) {
    if (this.afterCr && text.startsWith("\n")) text = text.slice(1);
    else if (text === "") return [];
    this.afterCr = text.endsWith("\r"); // a CR ends its line at once
    const events = [];
    const all = this.rest + text;
    let start = 0;
    LINE_END.lastIndex = this.rest.length;
    for (let end = LINE_END.exec(all); end !== null; end = LINE_END.exec(all)) {
      const line = all.slice(start, end.index);
      this.raw += line + end[0];
      start = LINE_END.lastIndex;
      if (line !== "") this.field(line);
      else {
        const event = this.dispatch();
        if (event) events.push(event);
      }
    }
    this.rest = all.slice(start);
    return events;
  }

  /** @param {string} line */
  field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.data.push(value);
    else if (name === "event") this.type = value;
    else if (name === "id" && !value.includes("\0")) [this.id, this.hasId] = [value, true];
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  /** @returns {ServerEvent | null} */
  dispatch() {
    const { type, data, id, hasId, raw } = this;
    this.lastEventId = id;
    this.begin();
    return data.length ? { type: type || "message", data: data.join("\n"), id, hasId, raw } : null;
  }
}

/** A header field's value as UTF-8, which is how browsers send Last-Event-ID. @param {string} text */
export const utf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text));

// ------------------------------------------------------------------ one connection, kept up

/** The server will not serve this, now or later. */
class RefusedError extends Error {}

/** Keeps up one stream until it is closed, or refused for good. */
class Connection {
  /**
   * @param {Wish} wish
   * @param {string} lastEventId
   * @param {(event: Told) => void} onEvent
   * @param {(state: State) => void} onState
   */
  constructor(wish, lastEventId, onEvent, onState) {
    this.wish = wish;
    this.lastEventId = lastEventId;
    this.onEvent = onEvent;
    this.onState = onState;
    this.retry = RETRY;
    this.failures = 0;
    this.open = true;
    this.cut = new AbortController();
    /** @type {() => void} */
    this.wake = () => {};
    this.wakeNow = () => this.wake();
    globalThis.addEventListener?.("online", this.wakeNow);
    this.ended = this.run();
  }

  close() {
    this.open = false;
    globalThis.removeEventListener?.("online", this.wakeNow);
    this.cut.abort();
    this.wake();
  }

  async run() {
    while (this.open) {
      const began = Date.now();
      const problem = await this.attempt();
      if (!this.open) break;
      this.failures = Date.now() - began > SHORT ? 0 : this.failures + 1;
      this.onState({ state: "connecting", problem });
      await this.pause();
    }
  }

  /** One response, from the request to its end; returns why it ended. */
  async attempt() {
    this.cut = new AbortController();
    try {
      await this.read(this.cut);
      return "the server has ended the stream";
    } catch (error) {
      if (error instanceof RefusedError) {
        this.close();
        this.onState({ state: "closed", problem: error.message });
      }
      return String(this.cut.signal.reason?.message ?? /** @type {Error} */ (error).message);
    }
  }

  /** @param {AbortController} cut */
  async read(cut) {
    const { url, credentials, headers, quiet } = this.wish;
    /** @type {Record<string, string>} */
    const id = this.lastEventId ? { "Last-Event-ID": utf8(this.lastEventId) } : {};
    const silence = () => cut.abort(new Error(`nothing was heard for ${quiet} s`));
    let watch = setTimeout(silence, quiet * 1000);
    try {
      const fields = { Accept: "text/event-stream", ...headers, ...id };
      const response = await fetch(url, { headers: fields, credentials, cache: "no-store", signal: cut.signal });
      const body = await accepted(response);
      this.onState({ state: "open", problem: "" });
      const [parser, decoder, reader] = [new Parser(this.lastEventId), new TextDecoder(), body.getReader()];
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(watch);
        watch = setTimeout(silence, quiet * 1000);
        for (const event of parser.feed(decoder.decode(part.value, { stream: true }))) this.hear(event);
        this.lastEventId = parser.lastEventId;
        this.retry = parser.retry ?? this.retry;
      }
    } finally {
      clearTimeout(watch);
    }
  }

  /** @param {ServerEvent} event */
  hear({ type, data, id }) {
    if (type !== "sidecar.heartbeat") this.onEvent({ type, data, id });
  }

  /** Wait for what the server asked for; after failures twice as long each time, and never everybody at once. */
  pause() {
    const longer = Math.min(LONGEST, this.retry * 2 ** Math.max(0, this.failures - 1));
    const wait = this.failures > 1 ? longer * (0.5 + Math.random() / 2) : longer;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
    });
  }
}

/**
 * The body of a response that is an event stream. Throws `RefusedError` for what will not pass by itself.
 * @param {Response} response
 */
async function accepted(response) {
  const { status, body } = response;
  if (status === 200 && body && response.headers.get("Content-Type")?.startsWith("text/event-stream")) return body;
  const text = (await response.text()).trim().slice(0, 500);
  const problem = `${status}${text ? `: ${text}` : ""}`;
  throw PASSING.includes(status) ? new Error(problem) : new RefusedError(problem);
}

// ------------------------------------------------------------------ three ways to share it

/**
 * What each way does for a `SharedStream`.
 * @typedef {object} Way
 * @property {() => void} leave
 */

/** @typedef {{event?: Told, state?: State}} News */

/**
 * A connection of this tab's own.
 * @param {Wish} wish
 * @param {string} lastEventId
 * @param {(news: News) => void} hear
 * @returns {Way}
 */
function alone(wish, lastEventId, hear) {
  const connection = new Connection(wish, lastEventId, (event) => hear({ event }), (state) => hear({ state }));
  return { leave: () => connection.close() };
}

/**
 * The tab that holds the lock connects and tells the others; when it goes, the next one goes on after the last event
 * that it has heard itself.
 * @param {Wish} wish
 * @param {string} lastEventId
 * @param {(news: News) => void} hear
 * @returns {Way}
 */
function amongTabs(wish, lastEventId, hear) {
  const name = `sidecar:${key(wish)}`;
  const channel = new BroadcastChannel(name);
  const waiting = new AbortController();
  /** @type {State} */
  let state = { state: "connecting", problem: "" };
  /** @type {Connection | null} */
  let connection = null;
  const tell = (/** @type {News} */ news) => {
    if (news.state) state = news.state;
    channel.postMessage(news);
    hear(news);
  };
  channel.onmessage = ({ data }) => {
    if (data.hello) {
      if (connection) channel.postMessage({ state });
      return;
    }
    if (data.event) lastEventId = data.event.id;
    hear(data);
  };
  channel.postMessage({ hello: true });
  const lead = () => {
    connection = new Connection(wish, lastEventId, (event) => tell({ event }), (news) => tell({ state: news }));
    return connection.ended;
  };
  navigator.locks.request(name, { signal: waiting.signal }, lead).catch(() => {});
  return {
    leave() {
      waiting.abort();
      connection?.close();
      channel.close();
    },
  };
}

/**
 * The connection is the SharedWorker's.
 * @param {string | URL} module
 * @param {Wish} wish
 * @param {string} lastEventId
 * @param {(news: News) => void} hear
 * @param {() => void} onMissing called where the browser cannot run this file as a worker
 * @returns {Way}
 */
function byWorker(module, wish, lastEventId, hear, onMissing) {
  const worker = new SharedWorker(module, { type: "module", name: "sidecar" });
  worker.onerror = onMissing;
  worker.port.onmessage = ({ data }) => {
    worker.onerror = null;
    hear(data);
  };
  /** @type {() => void} */
  let release = () => {};
  const gone = new Promise((resolve) => (release = () => resolve(undefined)));
  const life = `sidecar:life:${Math.random()}`;
  // The worker asks for the same lock: it gets it when this tab is gone, however it went.
  const open = () => {
    worker.port.postMessage({ open: wish, lastEventId, life });
    return gone;
  };
  if (navigator.locks) navigator.locks.request(life, open);
  else open();
  return {
    leave() {
      worker.port.postMessage({ close: true });
      worker.port.close();
      release();
    },
  };
}

/** Tabs with the same key share a connection. @param {Wish} wish */
const key = (wish) => JSON.stringify([wish.url, Object.entries(wish.headers).sort(), wish.credentials]);

// ------------------------------------------------------------------ in the worker

/** One connection and the ports that hear it. */
class Shared {
  /** @param {Wish} wish @param {string} lastEventId */
  constructor(wish, lastEventId) {
    /** @type {Set<MessagePort>} */
    this.ports = new Set();
    /** @type {State} */
    this.state = { state: "connecting", problem: "" };
    this.connection = new Connection(wish, lastEventId, (event) => this.tell({ event }), (state) => this.change(state));
  }

  /** @param {News} news */
  tell(news) {
    for (const port of this.ports) port.postMessage(news);
  }

  /** @param {State} state */
  change(state) {
    this.state = state;
    this.tell({ state });
  }
}

/** @type {Map<string, Shared>} */
const shared = new Map();

/** @param {MessagePort} port @param {Wish} wish @param {string} lastEventId */
function join(port, wish, lastEventId) {
  const name = key(wish);
  const found = shared.get(name);
  const one = found && found.state.state !== "closed" ? found : new Shared(wish, lastEventId);
  shared.set(name, one);
  one.ports.add(port);
  port.postMessage({ state: one.state });
  return () => {
    one.ports.delete(port);
    if (one.ports.size > 0) return;
    one.connection.close();
    if (shared.get(name) === one) shared.delete(name);
  };
}

if ("SharedWorkerGlobalScope" in globalThis) {
  /** @type {any} */ (globalThis).onconnect = (/** @type {MessageEvent} */ { ports: [port] }) => {
    let leave = () => {};
    port.onmessage = (/** @type {MessageEvent} */ { data }) => {
      if (data.close) leave();
      if (!data.open) return;
      leave = join(port, data.open, data.lastEventId);
      navigator.locks?.request(data.life, () => leave());
    };
  };
}

// ------------------------------------------------------------------ in the page

/**
 * What `share` returns. Dispatches the server's events by their types, with `data` and `lastEventId` as an EventSource
 * does; besides, `open` when the stream (again) delivers, and `error` with the problem in words as its `data` when it
 * has broken (it comes back by itself) or was refused for good (`readyState` is 2 then).
 */
export class SharedStream extends EventTarget {
  /** @param {string | URL} url @param {Options} options */
  constructor(url, options) {
    super();
    this.options = options;
    this.wish = {
      url: new URL(url, globalThis.location?.href).href,
      headers: options.headers ?? {},
      credentials: options.credentials ?? "same-origin",
      quiet: options.quiet ?? 45,
    };
    this.url = this.wish.url;
    /** 0 connecting, 1 open, 2 closed */
    this.readyState = 0;
    this.lastEventId = options.lastEventId ?? "";
    /** How the connection is shared: "worker", "tabs" or "alone". */
    this.way = options.way ?? best();
    this.asleep = () => this.leave();
    this.awake = (/** @type {PageTransitionEvent} */ { persisted }) => persisted && this.wakeUp();
    globalThis.addEventListener("pagehide", this.asleep);
    globalThis.addEventListener("pageshow", this.awake);
    /** @type {Way | null} */
    this.joined = this.join();
  }

  /** @returns {Way} */
  join() {
    const hear = (/** @type {News} */ news) => this.hear(news);
    if (this.way === "worker") {
      const module = this.options.module ?? import.meta.url;
      return byWorker(module, this.wish, this.lastEventId, hear, () => this.goOn(hasLocks() ? "tabs" : "alone"));
    }
    return (this.way === "tabs" ? amongTabs : alone)(this.wish, this.lastEventId, hear);
  }

  /** Another way. @param {"tabs" | "alone"} way */
  goOn(way) {
    this.leave();
    this.way = way;
    this.joined = this.join();
  }

  /** Hear no more. The connection ends with its last tab. */
  close() {
    this.readyState = 2;
    globalThis.removeEventListener("pagehide", this.asleep);
    globalThis.removeEventListener("pageshow", this.awake);
    this.leave();
  }

  leave() {
    this.joined?.leave();
    this.joined = null;
  }

  /** The browser had put the page away, and shows it again. */
  wakeUp() {
    this.joined = this.join();
    this.reset("asleep", JSON.stringify({ reason: "asleep" }));
  }

  /** @param {News} news */
  hear({ event, state }) {
    if (this.readyState === 2) return;
    if (state) this.change(state);
    if (!event) return;
    this.lastEventId = event.id;
    if (event.type === "sidecar.reset") this.reset(reasonOf(event.data), event.data);
    else this.tell(event.type, event.data);
  }

  /** @param {State} state */
  change({ state, problem }) {
    const before = this.readyState;
    this.readyState = { connecting: 0, open: 1, closed: 2 }[state];
    if (state === "closed") this.close();
    if (state === "open" && before !== 1) this.tell("open", "");
    else if (problem) this.tell("error", problem);
  }

  /** @param {string} reason @param {string} data */
  reset(reason, data) {
    this.tell("sidecar.reset", data);
    this.options.onReset?.(reason);
  }

  /** @param {string} type @param {string} data */
  tell(type, data) {
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId: this.lastEventId, origin: new URL(this.url).origin }));
  }
}

const hasLocks = () => Boolean(globalThis.navigator?.locks && globalThis.BroadcastChannel);

/** @returns {"worker" | "tabs" | "alone"} */
const best = () => ("SharedWorker" in globalThis ? "worker" : hasLocks() ? "tabs" : "alone");

/** @param {string} data */
function reasonOf(data) {
  try {
    return String(JSON.parse(data).reason);
  } catch {
    return "unknown";
  }
}

/**
 * Listen to an event stream together with all other tabs of this origin.
 * @param {string | URL} url
 * @param {Options} [options]
 */
export const share = (url, options = {}) => new SharedStream(url, options);
