// @ts-check
// Numbers for people: few digits, the same width, a unit that fits.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0, useGrouping: true });

/** @param {number} value */
export const count = (value) => whole.format(value).replaceAll(",", "\u202f");

/** A rate: one decimal while it is small. @param {number} value */
export const rate = (value) => (value === 0 ? "0" : value < 9.95 ? value.toFixed(1) : count(value));

/** @param {number} value */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 || value >= 100 ? count(value) : value.toFixed(1)}\u202f${units[unit]}`;
}

/** Seconds, with the unit that fits. @param {number | null} value */
export function delay(value) {
  if (value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size < 0.001) return `${count(value * 1e6)}\u202fµs`;
  if (size < 1) return `${(value * 1e3).toFixed(size < 0.0995 ? 1 : 0)}\u202fms`;
  return size < 100 ? `${value.toFixed(1)}\u202fs` : duration(value);
}

/** How long something lasted. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)}\u202fs`;
  if (seconds < 120) return `${Math.round(seconds)}\u202fs`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}\u202fmin`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)}\u202fh` : `${Math.round(seconds / 86400)}\u202fd`;
}

const pad = (/** @type {number} */ value, width = 2) => String(value).padStart(width, "0");

/** The time of the day. @param {Date} date @param {boolean} [milliseconds] */
export function clock(date, milliseconds = false) {
  const text = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return milliseconds ? `${text}.${pad(date.getMilliseconds(), 3)}` : text;
}

/**
 * The value below which a share of what was counted in buckets lies, by straight lines inside of a bucket.
 * @param {number[]} bounds the buckets' upper bounds; the last bucket has none
 * @param {number[]} counts
 * @param {number} share between 0 and 1
 * @returns {number | null} null where nothing was counted
 */
export function quantile(bounds, counts, share) {
  const total = counts.reduce((sum, each) => sum + each, 0);
  if (total === 0) return null;
  let wanted = share * total;
  for (let index = 0; index < bounds.length; index += 1) {
    const low = index ? bounds[index - 1] : 0;
    if (counts[index] >= wanted) return low + ((bounds[index] - low) * wanted) / counts[index];
    wanted -= counts[index];
  }
  return bounds[bounds.length - 1];
}
