// @ts-check
// Lines to paste elsewhere: what this page does, in a shell or in a page.

/**
 * @typedef {object} Wish what to listen to
 * @property {string} path with its query, percent-encoded, without a token
 * @property {"" | "header" | "query"} token how one is sent; it is never in the lines itself
 * @property {string} tokenName
 * @property {string} lastEventId
 * @property {string[]} types the event types seen so far
 */

/** For a POSIX shell. @param {string} text */
const quoted = (text) => (/^[\w@%+=:,./~-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/**
 * The public address to write, and a socket where it is one.
 * @param {string[]} addresses
 * @returns {{origin: string, socket: string}}
 */
export function reachable(addresses) {
  const found = addresses.find((each) => each.startsWith("http")) ?? addresses[0] ?? location.origin;
  if (found.startsWith("unix:")) return { origin: "http://localhost", socket: found.slice(5) };
  const url = new URL(found);
  if (["0.0.0.0", "[::]"].includes(url.hostname)) url.hostname = location.hostname;
  return { origin: url.origin, socket: "" };
}

/** @param {Wish} wish @param {string} origin */
function address({ path, token, tokenName }, origin) {
  return token === "query" ? `${origin}${path}${path.includes("?") ? "&" : "?"}${tokenName}=` : origin + path;
}

/** A word with $TOKEN in it, which the shell fills in. @param {string} text */
const withToken = (text) => `"${text.replaceAll(/["\\`$]/g, "\\$&")}$TOKEN"`;

/** @param {Wish} wish @param {string} origin */
function target(wish, origin) {
  const url = address(wish, origin);
  return wish.token === "query" ? withToken(url) : quoted(url);
}

/** @param {Wish} wish @param {string[]} addresses */
export function curl(wish, addresses) {
  const { origin, socket } = reachable(addresses);
  const parts = ["curl -N", ...(socket ? ["--unix-socket", quoted(socket)] : [])];
  if (wish.token === "header") parts.push("-H", withToken("Authorization: Bearer "));
  if (wish.lastEventId) parts.push("-H", quoted(`Last-Event-ID: ${wish.lastEventId}`));
  return [...parts, target(wish, origin)].join(" ");
}

/** @param {Wish} wish @param {string[]} addresses */
export function tail(wish, addresses) {
  const parts = ["sidecar tail"];
  if (wish.token === "header") parts.push("-H", withToken("Authorization: Bearer "));
  if (wish.lastEventId) parts.push("--last-event-id", quoted(wish.lastEventId));
  return [...parts, target(wish, reachable(addresses).origin)].join(" ");
}

/** @param {Wish} wish @param {string[]} addresses */
export function javascript(wish, addresses) {
  let url = JSON.stringify(address(wish, reachable(addresses).origin));
  if (wish.token === "query") url += " + token";
  const lines = [`const events = new EventSource(${url});`];
  if (wish.token === "header") lines.unshift("// EventSource sends no Authorization: use a cookie, or a token in the query.");
  const types = (wish.types.length ? wish.types : ["message"]).map((type) => JSON.stringify(type));
  lines.push(`for (const type of [${types.join(", ")}])`);
  lines.push("  events.addEventListener(type, event => console.log(event.data));");
  lines.push('events.addEventListener("sidecar.reset", () => location.reload());');
  return lines.join("\n");
}

/**
 * @param {string} target path and query of the publishing request
 * @param {string} contentType
 * @param {string} body
 */
export function publishing(target, contentType, body) {
  const type = contentType ? ["-H", quoted(`Content-Type: ${contentType}`)] : [];
  return ["curl", ...type, "--data-binary", quoted(body), quoted(location.origin + target)].join(" ");
}
