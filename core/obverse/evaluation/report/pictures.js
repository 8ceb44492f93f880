// Two versions of a picture behind one divider, and maps of their differences.

const ORIGINAL = "original";

/** Names a codec and quality in a list of choices. */
function keyOf(picture) {
  return JSON.stringify([picture.codec, picture.quality]);
}

async function pixelsOf(url, width, height) {
  const image = element("img", { src: url });
  await image.decode();
  const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Writes gain times the absolute difference of two pictures into the first. */
function subtract(a, b, gain) {
  for (let i = 0; i < a.data.length; i++) a.data[i] = i % 4 === 3 ? 255 : gain * Math.abs(a.data[i] - b.data[i]);
  return a;
}

function choices(pictures, text) {
  const groups = distinct(pictures.map((picture) => picture.codec)).map((codec) => {
    const own = pictures.filter((picture) => picture.codec === codec);
    return element("optgroup", { label: codec }, ...own.map((picture) => option(keyOf(picture), text(picture))));
  });
  return [option(ORIGINAL, ORIGINAL), ...groups];
}

class Card {
  /** @param image an image of the page's data: its own data, its size and its decoded pictures */
  constructor(image) {
    this.image = image;
    this.gain = null;
    const { filename, width, height } = image;
    this.left = element("img", { alt: "" });
    this.right = element("img", { alt: "" });
    this.map = element("canvas", { width, height, hidden: "" });
    this.divider = element("div", { class: "divider" });
    this.slider = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
    this.slider.setAttribute("aria-label", `Divider of ${filename}, from left to right`);
    this.sides = { left: this.#side("left"), right: this.#side("right") };
    this.stage = element("div", { class: "stage" }, this.left, this.right, this.map, this.divider, this.slider);
    this.stage.append(this.sides.left.label, this.sides.right.label);
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.wide = element("button", { type: "button", "aria-pressed": false }, "enlarge");
    const name = element("div", { class: "name" }, element("span", {}, filename), this.wide);
    const sides = element("div", { class: "sides" }, this.sides.left.choice, this.sides.right.choice);
    this.node = element("figure", { class: "card" }, this.stage, element("figcaption", {}, name, sides));
    this.slider.addEventListener("input", () => this.#divide());
    this.wide.addEventListener("click", () => this.#enlarge());
    this.#divide();
  }

  #side(name) {
    const text = ({ codec, quality, bpp }) => `${codec} ${quality} — ${bpp.toFixed(4)} bpp`;
    const list = element("select", { "aria-label": `${name} of ${this.image.filename}` }, ...choices(this.image.pictures, text));
    const values = element("p", { class: "values" });
    list.addEventListener("change", () => this.#show());
    return { list, values, choice: element("div", {}, list, values), label: element("span", { class: `side ${name}-side` }) };
  }

  /** Chooses sides by their keys; what this image does not have changes nothing. */
  choose({ left, right }) {
    for (const [name, key] of Object.entries({ left, right })) {
      if (key === ORIGINAL || this.image.pictures.some((picture) => keyOf(picture) === key)) this.sides[name].list.value = key;
    }
    this.#show();
  }

  /** Shows differences times a number on the right, or none where it is null. */
  showDifference(gain) {
    this.gain = gain;
    this.#show();
  }

  #chosen(name) {
    return this.image.pictures.find((picture) => keyOf(picture) === this.sides[name].list.value) ?? null;
  }

  #show() {
    for (const name of ["left", "right"]) {
      const picture = this.#chosen(name);
      const words = picture ? pointName(picture.codec, picture.quality) : ORIGINAL;
      this[name].src = (picture ?? this.image).data;
      this[name].alt = `${this.image.filename}, ${words}`;
      this.sides[name].label.textContent = words;
      this.sides[name].values.replaceChildren(...this.#values(picture));
    }
    this.map.hidden = this.gain === null;
    if (this.gain !== null) {
      this.sides.right.label.textContent = `difference × ${this.gain}`;
      this.#drawMap(this.gain);
    }
  }

  #values(picture) {
    if (!picture) return [element("b", {}, "24 bpp"), element("span", {}, "uncompressed")];
    const metrics = Object.entries(picture.metrics).filter(([, value]) => value !== null);
    return [
      element("b", {}, `${picture.bpp.toFixed(4)} bpp`),
      ...metrics.map(([name, value]) => element("span", {}, `${name} ${short(value)}`)),
    ];
  }

  async #drawMap(gain) {
    const { width, height } = this.image;
    const urls = [this.left.src, this.right.src];
    const [left, right] = await Promise.all(urls.map((url) => pixelsOf(url, width, height)));
    const current = this.left.src === urls[0] && this.right.src === urls[1] && this.gain === gain;
    if (current) this.map.getContext("2d").putImageData(subtract(left, right, gain), 0, 0); // else another is on its way
  }

  #divide() {
    const share = `${this.slider.value}%`;
    this.right.style.clipPath = this.map.style.clipPath = `inset(0 0 0 ${share})`;
    this.divider.style.left = share;
    this.slider.setAttribute("aria-valuetext", `${Math.round(this.slider.value)} percent left`);
  }

  #enlarge() {
    const wide = this.node.classList.toggle("wide");
    this.wide.setAttribute("aria-pressed", wide);
    this.wide.textContent = wide ? "make small" : "enlarge";
  }
}
