// The pool as a picture: one cell for each slot, where it lies.
// Hue tells the task, grey what several tasks share; strength tells what is in use from what is kept;
// patterns without hue tell what is on its way. So nothing depends on hue alone.

import { $, calm, count, bytes, el, named, percent, plural, prepare, sharedColour, show, taskColour } from "/basics.js";

const canvas = $("pool");
const LARGEST = 30, SMALLEST = 3, FLASH_MS = 900;

// What a look is called, and an example of it for the legend.
const KINDS = [
  ["used", "in use", { state: "resident", tasks: [0], pinned: true }],
  ["kept", "kept for later", { state: "resident", tasks: [0] }],
  ["ahead", "loaded ahead", { state: "resident", tasks: [0], ahead: true }],
  ["filling", "being read", { state: "filling", tasks: [] }],
  ["verifying", "being verified", { state: "verifying", tasks: [] }],
  ["free", "free", { state: "free", tasks: [] }],
  ["lost", "lost", { state: "lost", tasks: [] }],
];

function kind({ state, pinned, ahead }) {
  if (state !== "resident") return state;
  return pinned ? "used" : ahead ? "ahead" : "kept";
}

let picture, needed, model;
let cells = [], looks = new Map();
let chosen = null, under = null, flash = { cells: [], since: 0 };
let columns = 1, size = SMALLEST;

// Takes what the pool looks like now.
export function updatePool(next, status, tasks) {
  if (model !== status.name) [model, chosen, under, cells] = [status.name, null, null, []];
  head(status.pool);
  if (!next || (next === picture && tasks === needed)) return;
  needed = tasks;
  picture = next;
  const keys = next.looks.map((look) => JSON.stringify(look));
  looks = new Map(keys.map((key, i) => [key, next.looks[i]]));
  const before = cells;
  cells = next.runs.flatMap(([length, look]) => Array(length).fill(keys[look]));
  const changed = before.length === cells.length ? cells.flatMap((key, i) => (key === before[i] ? [] : [i])) : [];
  flash = { cells: calm.matches ? [] : changed, since: performance.now() };
  canvas.dataset.cells = cells.length;
  legend();
  drawPool();
  readout();
}

export function forgetPool() {
  [picture, cells] = [undefined, []];
}

function head({ slots, slot_bytes, base_bytes }) {
  const group = picture?.slots_per_cell > 1 ? ` · a cell shows the first of ${picture.slots_per_cell} slots` : "";
  $("pool-note").textContent =
    `${plural(slots, "slot")} of ${bytes(slot_bytes)} = ${bytes(slots * slot_bytes)}, and ${bytes(base_bytes)} that every task needs${group}`;
}

// ---- Drawing

function colours({ tasks, pinned }) {
  if (tasks.length === 1) return [taskColour(tasks[0], !pinned), taskColour(tasks[0])];
  const share = picture && picture.tasks.length ? tasks.length / picture.tasks.length : 1;
  return [sharedColour(share, !pinned), sharedColour(share)];
}

// Paints one cell of a look into a square at the origin.
function paint(context, look, side) {
  const inset = Math.max(1, side / 5);
  const line = Math.max(1, side / 9);
  context.lineWidth = line;
  context.fillStyle = context.strokeStyle = named("ink");
  const stroke = (...points) => {
    context.beginPath();
    points.forEach(([x, y], i) => (i % 2 ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  };
  const frame = () => context.strokeRect(line / 2, line / 2, side - line, side - line);
  switch (kind(look)) {
    case "free":
      context.fillStyle = named("free");
      context.fillRect(0, 0, side, side);
      break;
    case "lost":
      context.fillStyle = named("bad-ground");
      context.fillRect(0, 0, side, side);
      context.strokeStyle = named("bad");
      stroke([0, 0], [side, side], [side, 0], [0, side]);
      break;
    case "filling":
      stroke([0, side / 2], [side / 2, 0], [0, side], [side, 0], [side / 2, side], [side, side / 2]);
      frame();
      break;
    case "verifying":
      frame();
      context.fillRect(side * 0.3, side * 0.3, side * 0.4, side * 0.4);
      break;
    default: {
      const [ground, strong] = colours(look);
      context.fillStyle = ground;
      context.fillRect(0, 0, side, side);
      if (!look.ahead || look.pinned) break;
      context.fillStyle = strong;
      context.beginPath();
      context.arc(side / 2, side / 2, Math.max(0.8, side / 2 - inset * 1.2), 0, 7);
      context.fill();
    }
  }
}

function stamp(look, side) {
  const ratio = window.devicePixelRatio || 1;
  const image = el("canvas", { width: Math.ceil(side * ratio), height: Math.ceil(side * ratio) });
  const context = image.getContext("2d");
  context.scale(ratio, ratio);
  paint(context, look, side);
  return image;
}

// The largest cells that leave the picture no taller than it should be.
function arrange(wide) {
  const crowd = cells.length > 8192;
  const most = Math.min(crowd ? 490 : 400, Math.max(220, wide * (crowd ? 0.56 : 0.42)));
  for (size = LARGEST; size > SMALLEST; size--) {
    columns = Math.max(1, Math.floor(wide / size));
    if (Math.ceil(cells.length / columns) * size <= most) break;
  }
  columns = Math.max(1, Math.floor(wide / size));
}

export function drawPool() {
  if (!picture) return;
  arrange(canvas.clientWidth);
  const { context } = prepare(canvas, Math.ceil(cells.length / columns) * size);
  const gap = size >= 10 ? 2 : size >= 4 ? 1 : 0.5;
  const side = size - gap;
  const stamps = new Map([...looks].map(([key, look]) => [key, stamp(look, side)]));
  const at = (i) => [(i % columns) * size, Math.floor(i / columns) * size];
  cells.forEach((key, i) => {
    context.globalAlpha = chosen === null || looks.get(key).tasks.includes(chosen) ? 1 : 0.13;
    context.drawImage(stamps.get(key), ...at(i), side, side);
  });
  context.globalAlpha = 1;
  context.strokeStyle = named("ink");
  const age = (performance.now() - flash.since) / FLASH_MS;
  if (flash.cells.length && age < 1) {
    context.globalAlpha = 0.85 * (1 - age);
    context.lineWidth = Math.max(1, size / 10);
    for (const i of flash.cells) {
      const [x, y] = at(i);
      context.strokeRect(x, y, side, side);
    }
    context.globalAlpha = 1;
    requestAnimationFrame(drawPool);
  }
  if (under !== null && under < cells.length) {
    const [x, y] = at(under);
    context.lineWidth = 2;
    context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
  }
}

// ---- What is told in words

const sum = (chooses) => {
  let sum = 0;
  for (const key of cells) if (chooses(looks.get(key))) sum++;
  return sum * picture.slots_per_cell;
};

function legend() {
  const numbers = new Map(KINDS.map(([name]) => [name, sum((look) => kind(look) === name)]));
  show($("pool-states"), [model, [...numbers], named("ink")], () => {
    const item = ([name, label, example]) => {
      if (name === "lost" && !numbers.get(name)) return null;
      return el("li", {}, stamp(example, 14), label, el("b", { text: count(numbers.get(name)) }));
    };
    const shared = { state: "resident", tasks: picture.tasks.map((_, i) => i), pinned: true };
    const grey = picture.tasks.length > 1 ? el("li", {}, stamp(shared, 14), "grey: several tasks need it") : null;
    return [...KINDS.map(item), grey].filter(Boolean);
  });
  const there = picture.tasks.map((name, i) => {
    const blocks = sum(({ state, tasks }) => state === "resident" && tasks.includes(i));
    return [name, needed.has(name) ? percent(Math.min(1, blocks / Math.max(1, needed.get(name)))) : "–"];
  });
  const group = $("pool-tasks");
  if (group.contains(document.activeElement) && group.childElementCount === there.length) {
    // Whoever is at the keyboard stays where they are.
    [...group.children].forEach((button, i) => (button.lastChild.textContent = there[i][1]));
    return;
  }
  show(group, [there, named("ink")], () =>
    there.map(([name, share], i) =>
      el("button", { type: "button", "aria-pressed": String(chosen === i), onclick: () => choose(i) },
        el("i", { class: "chip", fill: taskColour(i) }), name, el("span", { text: share }))));
}

function choose(task) {
  chosen = chosen === task ? null : task;
  [...$("pool-tasks").children].forEach((button, i) => button.setAttribute("aria-pressed", String(chosen === i)));
  drawPool();
}

const WORDS = {
  used: "in use", kept: "kept in case it is needed again", ahead: "loaded ahead, waits to be used",
  filling: "being read", verifying: "being verified", free: "free", lost: "out of use until a restart",
};

function names(tasks) {
  const all = tasks.map((task) => picture.tasks[task]);
  if (all.length > 1 && all.length === picture.tasks.length) return "every task";
  return all.length > 5 ? `${all.slice(0, 4).join(", ")} and ${all.length - 4} more` : all.join(", ");
}

function readout() {
  const look = under === null ? undefined : looks.get(cells[under]);
  if (!look) {
    $("pool-cell").textContent = "Point at a slot to see what it holds.";
    return;
  }
  const needs = look.tasks.length ? ` · needed by ${names(look.tasks)}` : "";
  const slot = el("b", { text: `Slot ${count(under * picture.slots_per_cell)}` });
  $("pool-cell").replaceChildren(slot, ` · ${WORDS[kind(look)]}${needs}`);
}

function point(index) {
  if (index === under) return;
  under = index;
  readout();
  drawPool();
}

function pointed(event) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / size);
  const index = Math.floor((event.clientY - box.top) / size) * columns + column;
  point(column < columns && index >= 0 && index < cells.length ? index : null);
}

canvas.addEventListener("pointermove", pointed);
canvas.addEventListener("pointerdown", pointed);
// A finger that is lifted has not looked away.
canvas.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && point(null));
canvas.addEventListener("blur", () => point(null));
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const step = steps[event.key];
  if (!step || !cells.length) return;
  event.preventDefault();
  const next = under === null ? 0 : under + step;
  if (next >= 0 && next < cells.length) point(next);
});
