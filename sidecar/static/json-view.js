// @ts-check
// JSON to look at: one coloured line, or a tree that folds.

import { element } from "./dom.js";

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/**
 * A text as coloured JSON where it is JSON, shortened.
 * @param {string} text
 * @param {boolean} isJson
 * @param {number} [limit] characters
 */
export function preview(text, isJson, limit = 240) {
  const shown = text.length > limit ? `${text.slice(0, limit)}…` : text;
  const line = element("code", { className: "preview" });
  if (!isJson) {
    line.append(shown.replaceAll("\n", "⏎"));
    return line;
  }
  let last = 0;
  for (const token of shown.matchAll(TOKEN)) {
    line.append(shown.slice(last, token.index), element("span", { className: kindOfToken(token) }, token[1] ?? token[0]));
    if (token[2]) line.append(token[2]);
    last = token.index + token[0].length;
  }
  line.append(shown.slice(last));
  return line;
}

/** @param {RegExpMatchArray} token */
function kindOfToken(token) {
  if (token[1]) return token[2] ? "json-key" : "json-string";
  return /^[-\d]/.test(token[0]) ? "json-number" : "json-word";
}

/**
 * A tree of a value; objects and lists fold.
 * @param {unknown} value
 * @param {number} [depth]
 * @returns {any}
 */
export function tree(value, depth = 0) {
  if (value === null || typeof value !== "object") return leaf(value);
  const list = Array.isArray(value);
  const entries = Object.entries(value);
  if (entries.length === 0) return element("span", { className: "json-empty" }, list ? "[]" : "{}");
  const size = `${entries.length} ${list ? "item" : "key"}${entries.length === 1 ? "" : "s"}`;
  const summary = element("summary", {}, list ? "[…] " : "{…} ", element("small", {}, size));
  const folded = element("details", { className: "json", open: depth < 3 }, summary);
  const items = entries.slice(0, 500).map(([name, item]) => entry(list ? null : name, item, depth));
  folded.append(element("ul", {}, ...items));
  if (entries.length > 500) folded.append(element("p", { className: "json-empty" }, `${entries.length - 500} more`));
  return folded;
}

/** @param {string | null} name @param {unknown} item @param {number} depth */
function entry(name, item, depth) {
  const key = name === null ? [] : [element("span", { className: "json-key" }, name), ": "];
  return element("li", {}, ...key, tree(item, depth + 1));
}

/** @param {unknown} value */
function leaf(value) {
  const kind = typeof value === "string" ? "json-string" : typeof value === "number" ? "json-number" : "json-word";
  return element("span", { className: kind }, JSON.stringify(value));
}
