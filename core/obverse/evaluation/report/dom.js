// Short ways to make elements. Text always goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function byId(id) {
  return document.getElementById(id);
}

function append(node, children) {
  node.append(...children.filter((child) => child !== null));
  return node;
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return append(node, children);
}

function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return append(node, children);
}

/** Four significant digits, without an exponent for ordinary sizes. */
function short(value) {
  if (value === null || value === undefined) return "—";
  const text = value.toPrecision(4);
  return text.includes("e") ? String(Number(text)) : text;
}

function distinct(values) {
  return [...new Set(values)];
}

function option(value, text) {
  return element("option", { value }, text);
}

/** A codec at one of its qualities, in words. */
function pointName(codec, quality) {
  return quality === null || quality === undefined ? codec : `${codec}, quality ${quality}`;
}
