// @ts-check
// One response by fetch instead of EventSource: for header fields, and to see the bytes.

/** @typedef {import("./sidecar.js").ServerEvent} ServerEvent */
/** @typedef {import("./sidecar.js").Parser} Parser */

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
 * @param {() => void} options.onOpen
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
  onOpen();
  const decoder = new TextDecoder("utf-8");
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    onEvents(parser.feed(decoder.decode(part.value, { stream: true })), part.value.length);
  }
}
