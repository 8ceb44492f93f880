// Rate-distortion curves of one metric, as SVG in the width that there is.

const MARGIN = { top: 30, right: 16, bottom: 46, left: 56 };
const COLOURS = 10;
const MARKS = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  (r) => `M0,${-1.3 * r}L${1.2 * r},${0.9 * r}H${-1.2 * r}Z`,
  (r) => `M0,${-1.4 * r}L${1.4 * r},0L0,${1.4 * r}L${-1.4 * r},0Z`,
];

/** Round numbers that divide an interval into about `count` parts. */
function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** 1, 2 and 5 times powers of ten in an interval; powers alone where that is many. */
function logTicks(low, high, count) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) {
      const tick = Number(`${factor}e${power}`);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  const powers = ticks.filter((tick) => Number.isInteger(Math.round(1e9 * Math.log10(tick)) / 1e9));
  return ticks.length > count && powers.length > 1 ? powers : ticks;
}

function range(values, logarithmic) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (logarithmic) return [low / 1.15, high * 1.15];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function scale([low, high], start, end, logarithmic) {
  const f = logarithmic ? Math.log : (x) => x;
  return (value) => start + ((f(value) - f(low)) / (f(high) - f(low))) * (end - start);
}

class Plot {
  /**
   * @param figure the element to draw in
   * @param curves by metric, as the page's data has them
   */
  constructor(figure, curves) {
    this.figure = figure;
    this.metrics = curves;
    const names = distinct(Object.values(curves).flatMap(({ curves }) => curves.map((curve) => curve.codec)));
    this.looks = new Map(names.map((name, i) => [name, { colour: `var(--s${i % COLOURS})`, mark: MARKS[i % MARKS.length] }]));
    this.hidden = new Set();
    this.metric = Object.keys(curves)[0];
    this.logRate = false;
    this.active = null;
    this.svg = shape("svg", { tabindex: 0, role: "img" });
    this.tip = element("div", { class: "tip", role: "status", hidden: "" });
    this.legend = element("div", { class: "legend", role: "group", "aria-label": "Curves shown" });
    figure.replaceChildren(this.svg, this.tip, this.legend);
    this.svg.addEventListener("pointermove", (event) => this.#nearest(event));
    this.svg.addEventListener("pointerdown", (event) => this.#nearest(event));
    this.svg.addEventListener("pointerleave", () => this.#activate(null));
    this.svg.addEventListener("blur", () => this.#activate(null));
    this.svg.addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(() => this.svg.clientWidth !== this.width && this.draw()).observe(this.svg);
  }

  draw() {
    const { label, direction, curves } = this.metrics[this.metric];
    const width = (this.width = this.svg.clientWidth || 640);
    const height = Math.round(Math.min(480, Math.max(300, width * 0.5)));
    const shown = curves.filter((curve) => !this.hidden.has(curve.codec));
    const rates = curves.flatMap((curve) => curve.points.map((point) => point.bpp));
    const values = (shown.length ? shown : curves).flatMap((curve) => curve.points.map((point) => point.value));
    const better = { higher: " — higher is better", lower: " — lower is better" }[direction] ?? "";
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", `${label} against bits per pixel. Arrow keys go from point to point.`);
    this.svg.replaceChildren();
    this.active = null;
    this.tip.hidden = true;
    const across = range(rates, this.logRate);
    if (!this.logRate) across[0] = 0;
    const x = scale(across, MARGIN.left, width - MARGIN.right, this.logRate);
    const y = scale(range(values, false), height - MARGIN.bottom, MARGIN.top, false);
    this.#axes({ width, height, x, y, across, down: range(values, false), title: label + better });
    this.points = shown.map((curve) => this.#curve(curve, x, y));
    this.ring = shape("circle", { r: 9, class: "ring", visibility: "hidden" });
    this.svg.append(this.ring);
    this.#drawLegend(curves);
  }

  #axes({ width, height, x, y, across, down, title }) {
    const bottom = height - MARGIN.bottom;
    const room = Math.max(4, Math.floor(width / 90));
    for (const tick of this.logRate ? logTicks(...across, room + 2) : linearTicks(...across, room)) {
      this.svg.append(
        shape("line", { x1: x(tick), x2: x(tick), y1: MARGIN.top, y2: bottom, class: "grid" }),
        shape("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, String(tick)),
      );
    }
    for (const tick of linearTicks(...down, 8)) {
      this.svg.append(
        shape("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick), class: "grid" }),
        shape("text", { x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick)),
      );
    }
    this.svg.append(
      shape("text", { x: MARGIN.left, y: 16, class: "title" }, title),
      shape("text", { x: width - MARGIN.right, y: height - 8, class: "title", "text-anchor": "end" }, "bits per pixel"),
    );
  }

  #curve(curve, x, y) {
    const { colour, mark } = this.looks.get(curve.codec);
    const paper = curve.source === "paper";
    const places = curve.points.map((point) => ({ ...point, curve, x: x(point.bpp), y: y(point.value) }));
    const line = shape("path", { d: `M${places.map((p) => `${p.x},${p.y}`).join("L")}`, class: paper ? "curve paper" : "curve" });
    line.style.stroke = colour;
    this.svg.append(line);
    for (const place of places) {
      const dot = shape("path", { d: mark(4), transform: `translate(${place.x},${place.y})`, class: "mark" });
      dot.style.stroke = colour;
      dot.style.fill = paper ? "var(--paper)" : colour;
      this.svg.append(dot);
    }
    return places;
  }

  #drawLegend(curves) {
    const focused = [...this.legend.children].indexOf(document.activeElement);
    this.legend.replaceChildren(
      ...curves.map((curve) => {
        const { colour, mark } = this.looks.get(curve.codec);
        const paper = curve.source === "paper";
        const line = shape("path", { d: "M0,6H22", class: paper ? "curve paper" : "curve" });
        const dot = shape("path", { d: mark(4), transform: "translate(11,6)" });
        line.style.stroke = colour;
        dot.style.fill = colour;
        const sample = shape("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" }, line, dot);
        const badge = paper ? element("span", { class: "badge" }, "source: paper") : null;
        const shown = !this.hidden.has(curve.codec);
        const button = element("button", { type: "button", "aria-pressed": shown }, sample, curve.codec, badge);
        button.addEventListener("click", () => {
          if (!this.hidden.delete(curve.codec)) this.hidden.add(curve.codec);
          this.draw();
        });
        return button;
      }),
    );
    this.legend.children[focused]?.focus();
  }

  #nearest(event) {
    const box = this.svg.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    const distance = (place) => Math.hypot(place.x - left, place.y - top);
    const [nearest] = this.points.flat().sort((a, b) => distance(a) - distance(b));
    this.#activate(nearest && distance(nearest) < 40 ? nearest : null);
  }

  /** Left and right follow a curve, up and down change it. */
  #step(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "Escape") this.#activate(null);
    if (!(event.key in steps) || !this.points.length) return;
    event.preventDefault();
    const [other, along] = steps[event.key];
    const row = this.points.findIndex((places) => places.includes(this.active));
    if (row < 0) return this.#activate(this.points[0][0]);
    const places = this.points[(row + other + this.points.length) % this.points.length];
    const column = this.points[row].indexOf(this.active) + along;
    this.#activate(places[Math.max(0, Math.min(places.length - 1, column))]);
  }

  #activate(place) {
    if (place === this.active) return;
    this.active = place;
    this.tip.hidden = place === null;
    this.ring.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    this.ring.setAttribute("cx", place.x);
    this.ring.setAttribute("cy", place.y);
    const { label } = this.metrics[this.metric];
    const source = place.curve.source === "paper" ? "\nsource: paper" : "";
    this.tip.textContent = `${pointName(place.curve.codec, place.quality)}\n${short(place.bpp)} bpp\n${label}: ${short(place.value)}${source}`;
    this.#placeTip(place);
  }

  #placeTip(place) {
    const frame = this.figure.getBoundingClientRect();
    const box = this.svg.getBoundingClientRect();
    const left = box.left - frame.left + place.x;
    const top = box.top - frame.top + place.y;
    const right = left + 14;
    const room = frame.width - this.tip.offsetWidth - 8;
    this.tip.style.left = `${Math.max(8, right <= room ? right : left - 14 - this.tip.offsetWidth)}px`;
    this.tip.style.top = `${Math.max(8, top - this.tip.offsetHeight - 6)}px`;
  }
}
