// @ts-check
// A small plot of the last two minutes: one or two lines, drawn anew with every point.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TOP] = [240, 40, 4];

export class Plot {
  /**
   * @param {SVGElement} svg
   * @param {string} meaning for who cannot see it
   * @param {(value: number) => string} format
   * @param {number} [points] how many fit; one is a second
   */
  constructor(svg, meaning, format, points = 120) {
    this.svg = svg;
    this.meaning = meaning;
    this.format = format;
    this.points = points;
    /** @type {(number | null)[][]} */
    this.series = [];
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    this.paths = ["area", "line", "line second"].map((name) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
      return path;
    });
    this.draw();
  }

  /**
   * One more point in time: a value for each line; null where there is none.
   * @param {...(number | null)} values
   */
  push(...values) {
    this.series.push(values);
    if (this.series.length > this.points) this.series.shift();
    this.draw();
  }

  draw() {
    const [area, ...lines] = this.paths;
    const top = Math.max(1e-9, ...this.series.flat().map((value) => value ?? 0));
    lines.forEach((line, index) => line.setAttribute("d", this.line(index, top)));
    area.setAttribute("d", this.filled(top));
    const last = this.series.at(-1)?.[0] ?? 0;
    const now = `${this.meaning}, the last two minutes: ${this.format(last)} now, ${this.format(top < 1e-8 ? 0 : top)} at most`;
    this.svg.setAttribute("aria-label", now);
  }

  /** @param {number} index @param {number} top */
  place(index, top) {
    const missing = this.points - this.series.length;
    return this.series.map((values, time) => {
      const value = values[index];
      if (value === null || value === undefined) return null;
      const x = ((missing + time) * WIDTH) / (this.points - 1);
      return [x.toFixed(1), (HEIGHT - 1 - (value / top) * (HEIGHT - 1 - TOP)).toFixed(1)];
    });
  }

  /** @param {number} index @param {number} top */
  line(index, top) {
    let drawing = false;
    return this.place(index, top)
      .map((point) => {
        const step = point ? `${drawing ? "L" : "M"}${point[0]} ${point[1]}` : "";
        drawing = point !== null;
        return step;
      })
      .join("");
  }

  /** @param {number} top */
  filled(top) {
    const points = this.place(0, top).filter((point) => point !== null);
    if (points.length < 2) return "";
    const line = points.map((point) => `L${point[0]} ${point[1]}`).join("");
    return `M${points[0][0]} ${HEIGHT}${line}L${/** @type {any} */ (points.at(-1))[0]} ${HEIGHT}Z`;
  }
}
