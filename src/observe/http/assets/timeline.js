// How long switches took, by time: height is the whole of a switch on a logarithmic scale, the mark
// tells what it found, and its stem is divided as its time was.

import { $, clock, el, micros, palette, plural, prepare, touches } from "/basics.js";
import { PHASES, mark, name, outcome } from "/switches.js";

const canvas = $("timeline");
const SPANS = [["1 min", 60], ["5 min", 300], ["30 min", 1800]];
const EDGE = { left: 58, right: 14, top: 26, bottom: 24 };
// How near a pointer must be, in pixels.
const NEAR = 14;

let switches = [], moments = [], now_us = 0;
// Since when switches are known, if earlier ones are not kept.
let since_us = null;
// Colours, while it is drawn.
let named = palette();
let span = 300, under = null, chosen = null, drawn = [];
let onChoose = () => {};

export function onChosen(then) {
  onChoose = then;
}

export function updateTimeline(told) {
  ({ switches, moments, now_us, since_us } = told);
  drawTimeline();
}

export function unchoose() {
  chosen = null;
  drawTimeline();
}

export function showSpans() {
  $("spans").replaceChildren(...SPANS.map(([text, seconds]) =>
    el("button", { type: "button", text, "aria-pressed": String(span === seconds), onclick: () => {
      span = seconds;
      [...$("spans").children].forEach((button, i) => button.setAttribute("aria-pressed", String(SPANS[i][1] === span)));
      drawTimeline();
    } })));
}

// Powers of ten, in microseconds, that hold all of these.
function decades(totals) {
  const low = Math.floor(Math.log10(Math.max(1, Math.min(100, ...totals))));
  const high = Math.ceil(Math.log10(Math.max(10_000, ...totals) * 1.05));
  return [low, Math.max(low + 2, high)];
}

const WORDS = ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s", "1000 s"];

export function drawTimeline() {
  const { context, wide, high } = prepare(canvas);
  named = palette();
  const seen = switches.filter(({ at }) => at > now_us - span * 1e6);
  const [low, decade] = decades(seen.flatMap(({ total }) => total ?? []));
  const base = high - EDGE.bottom;
  const x = (at) => EDGE.left + (wide - EDGE.left - EDGE.right) * (1 - (now_us - Math.min(at, now_us)) / (span * 1e6));
  const y = (us) => base - ((Math.log10(Math.max(us, 10 ** low)) - low) / (decade - low)) * (base - EDGE.top);
  const gap = since_us !== null && since_us > now_us - span * 1e6 ? x(since_us) - EDGE.left : 0;
  if (gap > 0) notKept(context, gap, base);
  canvas.dataset.unknown = Math.round(gap);
  axes(context, { wide, base, low, decade, x, y });
  for (const { at, text, bad } of moments.filter(({ at }) => at > now_us - span * 1e6)) moment(context, x(at), { base, wide, words: text, bad });
  const slim = seen.length > 120;
  drawn = seen.map((it) => ({ it, x: x(it.at), y: it.total === null ? EDGE.top - 12 : y(it.total) }));
  for (const point of drawn) stem(context, point, base, slim);
  for (const point of drawn) dot(context, point, slim ? 3 : 4.2);
  canvas.dataset.points = drawn.length;
  const failed = seen.filter(({ total }) => total === null).length;
  $("switches-note").textContent = `${plural(seen.length, "switch", "switches")}${failed ? `, ${failed} failed` : ""}`;
  if (!seen.length) {
    text(context, "No switch in this time", wide / 2 + EDGE.left / 2, (EDGE.top + base) / 2, "center");
  }
  readout();
}

function text(context, words, x, y, align, colour = "soft") {
  context.font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif";
  context.textAlign = align;
  context.textBaseline = "middle";
  context.fillStyle = named(colour);
  context.fillText(words, x, y);
}

function axes(context, { wide, base, low, decade, x, y }) {
  context.strokeStyle = named("line");
  context.lineWidth = 1;
  for (let power = low; power <= decade; power++) {
    const at = Math.round(y(10 ** power)) + 0.5;
    context.beginPath();
    context.moveTo(EDGE.left, at);
    context.lineTo(wide - EDGE.right, at);
    context.stroke();
    text(context, WORDS[power] ?? "", EDGE.left - 9, at, "right");
  }
  const steps = wide < 420 ? 3 : span === 60 ? 6 : 5;
  for (let step = 0; step <= steps; step++) {
    const ago = (span * step) / steps;
    const words = ago === 0 ? "now" : span === 60 ? `−${Math.round(ago)} s` : `−${+(ago / 60).toFixed(1)} min`;
    text(context, words, x(now_us - ago * 1e6), base + 14, step === 0 ? "right" : step === steps ? "left" : "center");
  }
}

// The time of which nothing is known any more.
function notKept(context, width, base) {
  context.fillStyle = named("free");
  context.fillRect(EDGE.left, EDGE.top, width, base - EDGE.top);
  if (width > 60) text(context, "not kept", EDGE.left + width / 2, base - 12, "center");
}

// Something that happened to all: a line from top to bottom.
function moment(context, at, { base, wide, words, bad }) {
  context.strokeStyle = named(bad ? "bad" : "strong");
  context.setLineDash([3, 3]);
  context.beginPath();
  context.moveTo(Math.round(at) + 0.5, EDGE.top - 6);
  context.lineTo(Math.round(at) + 0.5, base);
  context.stroke();
  context.setLineDash([]);
  const late = at > wide - 80;
  text(context, words, at + (late ? -5 : 5), EDGE.top - 13, late ? "right" : "left", bad ? "bad" : "soft");
}

function stem(context, { it, x, y }, base, slim) {
  const wide = slim ? 1.5 : 3;
  if (it.total === null) {
    context.strokeStyle = named("failed");
    context.globalAlpha = 0.5;
    context.setLineDash([2, 4]);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x, base);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
    return;
  }
  const sum = it.phases.reduce((sum, us) => sum + us, 0) || 1;
  let from = base;
  context.globalAlpha = slim ? 0.55 : 0.8;
  it.phases.forEach((us, i) => {
    const to = from - (us / sum) * (base - y);
    context.fillStyle = named(PHASES[i][0]);
    context.fillRect(x - wide / 2, to, wide, from - to);
    from = to;
  });
  context.globalAlpha = 1;
}

function dot(context, { it, x, y }, r) {
  const [, colour, shape] = outcome(it);
  const path = new Path2D(mark(shape, x, y, r));
  context.strokeStyle = named("card");
  context.lineWidth = 3;
  context.stroke(path);
  if (shape === "ring" || shape === "cross") {
    context.lineWidth = 2;
    context.strokeStyle = named(colour);
    context.stroke(path);
  } else {
    context.fillStyle = named(colour);
    context.fill(path);
  }
  if (it === under || it === chosen) {
    context.strokeStyle = named("ink");
    context.lineWidth = 1.5;
    context.stroke(new Path2D(mark("ring", x, y, r + 4)));
  }
}

function readout() {
  const it = under ?? chosen;
  const line = $("timeline-switch");
  if (!it) {
    line.textContent = touches.matches ? "Touch a switch to read why it took so long."
      : "Point at a switch to see what it was; choose it to read why it took so long.";
    return;
  }
  const parts = it.phases.flatMap((us, i) => (us * 20 >= it.total ? `${PHASES[i][0]} ${micros(us)}` : []));
  const took = it.total === null ? it.reason : micros(it.total);
  const words = [took, outcome(it)[0], ...(it.total ? parts : []), clock(it.at)].join(" · ");
  line.replaceChildren(el("b", { text: name(it) }), ` · ${words}`);
}

function nearest(event) {
  const box = canvas.getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  let [best, least] = [null, NEAR * NEAR];
  for (const { it, x, y } of drawn) {
    // Stems count, too.
    const down = py > y ? Math.min(py - y, NEAR / 2) : y - py;
    const distance = (px - x) ** 2 + down ** 2;
    if (distance < least) [best, least] = [it, distance];
  }
  return best;
}

function point(it) {
  if (it === under) return;
  under = it;
  canvas.style.cursor = it ? "pointer" : "";
  drawTimeline();
}

function choose(it) {
  chosen = it;
  drawTimeline();
  onChoose(it);
}

// A finger chooses; it does not point.
canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(nearest(event)));
canvas.addEventListener("pointerleave", () => point(null));
canvas.addEventListener("click", (event) => choose(nearest(event)));
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") choose(null);
  if (!step || !drawn.length) return;
  event.preventDefault();
  const at = drawn.findIndex(({ it }) => it === chosen);
  const next = at < 0 ? drawn.length - 1 : Math.min(drawn.length - 1, Math.max(0, at + step));
  choose(drawn[next].it);
});
