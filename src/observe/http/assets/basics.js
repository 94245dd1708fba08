// What all parts of the page use: elements, figures as people read them, colours.
// Text from the daemon becomes text and nothing else: nothing here takes markup.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "fill" && !(node instanceof SVGElement)) node.style.background = value;
    else if (name === "width%") node.style.width = `${value}%`;
    else if (name === "grow") node.style.flexGrow = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

const shown = new WeakMap();

// Builds what is in a node anew, but only if what it shows has changed: else focus and selection
// would be lost once a second.
export function show(node, what, build) {
  const key = JSON.stringify(what);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  node.replaceChildren(...build().filter((child) => child !== null));
}

// A table with a heading a column; columns whose heading ends in a space hold figures.
export function table(headings, rows) {
  const kind = (column) => ({ class: headings[column].endsWith(" ") ? "num" : undefined });
  const head = headings.map((text, i) => el("th", { ...kind(i), scope: "col", text: text.trim() }));
  const line = (row) => el("tr", {}, ...row.map((text, i) => el("td", { ...kind(i), text })));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows.map(line)));
}

// ---- Figures

const digits = (value) => (value >= 100 ? 0 : value >= 10 ? 1 : 2);
const trim = (value) => value.toFixed(digits(value)).replace(/\.0+$/, "");

export const count = (value) => Math.round(value).toLocaleString("en-US");

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) (value /= 1024), unit++;
  return `${trim(value)} ${units[unit]}`;
}

export function micros(value) {
  if (value < 1000) return `${Math.round(value)} µs`;
  return value < 1e6 ? `${trim(value / 1e3)} ms` : `${trim(value / 1e6)} s`;
}

export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 1) return "<1 %";
  return `${value > 99 && value < 100 ? 99 : Math.round(value)} %`;
}

export function span(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const clock = (time_us) => new Date(time_us / 1000).toLocaleTimeString("en-GB");

export const plural = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

// ---- Colours

const darkness = matchMedia("(prefers-color-scheme: dark)");
export const calm = matchMedia("(prefers-reduced-motion: reduce)");
// How one points here.
export const touches = matchMedia("(pointer: coarse)");
export const isDark = () => darkness.matches;
export const onTheme = (change) => darkness.addEventListener("change", change);

// The colours that the style sheet names, as they are now. Styles are asked for once, which takes long:
// whatever draws much keeps what this gives while it draws.
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const known = new Map();
  return (name) => {
    if (!known.has(name)) known.set(name, style.getPropertyValue(`--${name}`).trim());
    return known.get(name);
  };
}

// From lightness, chroma and hue (OKLCH), in which equal numbers look equally strong.
function oklch(lightness, chroma, hue) {
  const angle = (hue * Math.PI) / 180;
  const [a, b] = [chroma * Math.cos(angle), chroma * Math.sin(angle)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const channel = (linear) => {
    const value = linear <= 0.0031308 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(1, Math.max(0, value)));
  };
  const red = channel(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s);
  const green = channel(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s);
  const blue = channel(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s);
  return `rgb(${red} ${green} ${blue})`;
}

// Hues of the first tasks, with lightness that tells neighbours apart without any hue at all.
const HUES = [[245, 0.56], [62, 0.7], [160, 0.6], [330, 0.6], [100, 0.78], [205, 0.7], [25, 0.58], [290, 0.52]];

// The colour of a task by its place in the list; `pale` for what only waits in the pool.
export function taskColour(place, pale = false) {
  const [hue, light] = HUES[place] ?? [(place * 137.5) % 360, 0.54 + 0.08 * (place % 4)];
  if (isDark()) return pale ? oklch(0.3 + light * 0.12, 0.055, hue) : oklch(light + 0.1, 0.115, hue);
  return pale ? oklch(0.83 + light * 0.1, 0.05, hue) : oklch(light, 0.125, hue);
}

// The colour of what several tasks share: the more do, the stronger.
export function sharedColour(share, pale = false) {
  if (isDark()) return pale ? oklch(0.31 + 0.05 * share, 0.012, 230) : oklch(0.5 + 0.16 * share, 0.02, 230);
  return pale ? oklch(0.91 - 0.05 * share, 0.008, 230) : oklch(0.68 - 0.2 * share, 0.025, 230);
}

// Fits a canvas to its place and gives a context that counts in CSS pixels.
export function prepare(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  if (height) canvas.style.height = `${height}px`;
  const { clientWidth: wide, clientHeight: high } = canvas;
  const [width, depth] = [Math.round(wide * ratio), Math.round(high * ratio)];
  if (canvas.width !== width || canvas.height !== depth) {
    canvas.width = width;
    canvas.height = depth;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, wide, high);
  return { context, wide, high };
}
