// @ts-check
// An event stream by fetch instead of EventSource (WHATWG HTML §9.2.6): for header fields, and to see the bytes.

/**
 * @typedef {object} ServerEvent
 * @property {string} type
 * @property {string} data
 * @property {string} id the last event id at that moment
 * @property {boolean} hasId whether the event itself brought that id
 * @property {string} raw the block as it came, its line ends included
 */

const LINE_END = /\r\n|\n|\r/g;

/** Turns the text of one response into events. A new connection needs a new one, with the old one's last id. */
export class Parser {
  /** @param {string} [lastEventId] */
  constructor(lastEventId = "") {
    this.lastEventId = lastEventId;
    /** @type {number | null} what the server asked for, in milliseconds */
    this.retry = null;
    this.comments = 0;
    this.rest = "";
    this.afterCr = false;
    this.begin();
  }

  begin() {
    this.raw = "";
    this.type = "";
    this.id = this.lastEventId;
    this.hasId = false;
    /** @type {string[]} */
    this.data = [];
  }

  /**
   * Take the next text; returns the events it completes.
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  feed(text) {
    if (this.afterCr && text.startsWith("\n")) {
      this.raw += "\n";
      text = text.slice(1);
    }
    this.afterCr = text === "" ? this.afterCr : text.endsWith("\r"); // a CR ends its line at once
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
    else if (name === "") this.comments += 1;
  }

  /** @returns {ServerEvent | null} */
  dispatch() {
    const { type, data, id, hasId, raw } = this;
    this.lastEventId = id;
    this.begin();
    return data.length ? { type: type || "message", data: data.join("\n"), id, hasId, raw } : null;
  }
}

/** A status or a content type that an EventSource would give up at; `message` is what the server said. */
export class Refused extends Error {
  /** @param {number} status @param {string} text */
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/**
 * Read one response to its end. Throws `Refused`, an AbortError where `signal` says so, a TypeError where the
 * connection breaks.
 * @param {string} url
 * @param {object} options
 * @param {Record<string, string>} options.headers
 * @param {Parser} options.parser
 * @param {AbortSignal} options.signal
 * @param {(response: Response) => void} options.onOpen
 * @param {(events: ServerEvent[], bytes: number) => void} options.onEvents
 */
export async function read(url, { headers, parser, signal, onOpen, onEvents }) {
  const response = await fetch(url, {
    headers: { Accept: "text/event-stream", ...headers },
    cache: "no-store",
    credentials: "same-origin",
    signal,
  });
  const type = response.headers.get("Content-Type") ?? "";
  if (response.status !== 200 || !type.startsWith("text/event-stream") || !response.body) {
    throw new Refused(response.status, (await response.text()).trim() || response.statusText);
  }
  onOpen(response);
  const decoder = new TextDecoder("utf-8");
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    onEvents(parser.feed(decoder.decode(part.value, { stream: true })), part.value.length);
  }
}
