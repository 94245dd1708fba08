// The pool as a picture: one cell for each slot, where it lies.
// Hue tells the task, grey what several tasks share; strength tells what is in use from what is kept;
// patterns without hue tell what is on its way. So nothing depends on hue alone.

import { $, calm, count, bytes, el, isDark, palette, percent, plural, prepare, sharedColour, show, taskColour, touches } from "/basics.js";

const canvas = $("pool");
const LARGEST = 30, SMALLEST = 3, FLASH_MS = 900;

// More tasks than these are not all shown at once.
const FEW = 16;

// What a look is called, and an example of it for the legend.
const KINDS = [
  ["used", "in use", { kind: "used", number: 1, one: 0 }],
  ["kept", "kept for later", { kind: "kept", number: 1, one: 0 }],
  ["ahead", "loaded ahead", { kind: "ahead", number: 1, one: 0 }],
  ["filling", "being read", { kind: "filling" }],
  ["verifying", "being verified", { kind: "verifying" }],
  ["free", "free", { kind: "free" }],
  ["lost", "lost", { kind: "lost" }],
];

// A look as it is told: state, a mask of tasks in hexadecimal digits, whether it is pinned and ahead.
// A mask has 64 bits, more than a number holds exactly: it is kept as two halves.
function lookOf(told) {
  const [state, mask, pinned, ahead] = told;
  const [high, low] = [parseInt(mask.slice(-16, -8) || "0", 16), parseInt(mask.slice(-8), 16)];
  const look = { key: told.join(), kind: state, high, low };
  if (state === "resident") look.kind = pinned ? "used" : ahead ? "ahead" : "kept";
  const tasks = tasksOf(look);
  [look.number, look.one] = [tasks.length, tasks[0]];
  return look;
}

const holds = ({ high, low }, task) => ((task < 32 ? low >>> task : high >>> (task - 32)) & 1) === 1;
const tasksOf = (look) => Array.from({ length: 64 }, (_, task) => task).filter((task) => holds(look, task));

let picture, needed, model, sessions = [];
// The look of each cell.
let cells = [];
let chosen = null, under = null, flash = { cells: [], since: 0 };
let columns = 1, size = SMALLEST;

// Takes what the pool looks like now.
export function updatePool(next, status, tasks) {
  if (model !== status.name) [model, chosen, under, cells] = [status.name, null, null, []];
  head(status.pool);
  if (!next) return;
  const same = next === picture && tasks === needed;
  [picture, needed, sessions] = [next, tasks, status.sessions];
  if (!same) {
    const looks = next.looks.map(lookOf);
    const before = cells;
    cells = next.runs.flatMap(([length, look]) => Array(length).fill(looks[look]));
    const changed = before.length === cells.length ? cells.flatMap(({ key }, i) => (key === before[i].key ? [] : [i])) : [];
    flash = { cells: calm.matches ? [] : changed, since: performance.now() };
    canvas.dataset.cells = cells.length;
    drawPool();
    readout();
  }
  legend();
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

function colours({ kind, number, one }) {
  const pale = kind !== "used";
  if (number === 1) return [taskColour(one, pale), taskColour(one)];
  const share = picture?.tasks.length ? number / picture.tasks.length : 1;
  return [sharedColour(share, pale), sharedColour(share)];
}

// Paints one cell of a look into a square at the origin.
function paint(context, look, side) {
  const named = palette();
  const inset = Math.max(1, side / 5);
  const line = Math.max(1, side / 9);
  context.lineWidth = line;
  context.fillStyle = context.strokeStyle = named("ink");
  const stroke = (...points) => {
    context.beginPath();
    points.forEach(([x, y], i) => (i % 2 ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  };
  const frame = (line) => context.strokeRect(line / 2, line / 2, side - line, side - line);
  switch (look.kind) {
    case "free":
      // Hollow, as nothing is in it: what is kept is filled, however pale.
      context.strokeStyle = named("strong");
      context.lineWidth = Math.max(0.5, side / 14);
      frame(context.lineWidth);
      break;
    case "lost":
      context.fillStyle = named("bad-ground");
      context.fillRect(0, 0, side, side);
      context.strokeStyle = named("bad");
      stroke([0, 0], [side, side], [side, 0], [0, side]);
      break;
    case "filling":
      stroke([0, side / 2], [side / 2, 0], [0, side], [side, 0], [side / 2, side], [side, side / 2]);
      frame(line);
      break;
    case "verifying":
      frame(line);
      context.fillRect(side * 0.3, side * 0.3, side * 0.4, side * 0.4);
      break;
    default: {
      const [ground, strong] = colours(look);
      context.fillStyle = ground;
      context.fillRect(0, 0, side, side);
      if (look.kind !== "ahead") break;
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

// Stamps, and what they depend on besides what they show.
let stamps = new Map(), stampsFor = "";

// There are as many looks as sets of tasks, but few that can be told apart.
function stampOf(look, side) {
  const key = `${look.kind} ${look.number === 1 ? look.one : -look.number}`;
  if (!stamps.has(key)) stamps.set(key, stamp(look, side));
  return stamps.get(key);
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

const at = (i) => [(i % columns) * size, Math.floor(i / columns) * size];

// The pool without what passes, and what it was drawn from.
const base = el("canvas");
let baseOf = [];

function drawBase(side) {
  const key = [side, window.devicePixelRatio || 1, isDark(), picture.tasks.length].join();
  if (key !== stampsFor) [stamps, stampsFor] = [new Map(), key];
  const of = [cells, chosen, key, canvas.width, canvas.height];
  if (of.every((value, i) => value === baseOf[i])) return;
  baseOf = of;
  // This clears it, too.
  [base.width, base.height] = [canvas.width, canvas.height];
  const context = base.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  context.scale(ratio, ratio);
  cells.forEach((look, i) => {
    context.globalAlpha = chosen === null || holds(look, chosen) ? 1 : 0.13;
    context.drawImage(stampOf(look, side), ...at(i), side, side);
  });
}

export function drawPool() {
  if (!picture) return;
  arrange(canvas.clientWidth);
  const { context, wide, high } = prepare(canvas, Math.ceil(cells.length / columns) * size);
  if (!canvas.width || !canvas.height) return;
  const gap = size >= 10 ? 2 : size >= 4 ? 1 : 0.5;
  const side = size - gap;
  drawBase(side);
  context.drawImage(base, 0, 0, wide, high);
  context.strokeStyle = palette()("ink");
  const age = (performance.now() - flash.since) / FLASH_MS;
  if (flash.cells.length && age < 1) {
    context.globalAlpha = 0.85 * (1 - age);
    context.lineWidth = Math.max(1, size / 10);
    for (const i of flash.cells) {
      const [x, y] = at(i);
      context.strokeRect(x, y, side, side);
    }
    context.globalAlpha = 1;
    drawSoon();
  }
  if (under !== null && under < cells.length) {
    const [x, y] = at(under);
    context.lineWidth = 2;
    context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
  }
}

let due = false;

// However many want it drawn, it is drawn once a frame.
function drawSoon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    drawPool();
  });
}

// ---- What is told in words

// How many slots are of each kind, and hold something that each task needs.
function tally() {
  const kinds = new Map(KINDS.map(([name]) => [name, 0]));
  const tasks = picture.tasks.map(() => 0);
  const looks = new Map();
  for (const look of cells) looks.set(look, (looks.get(look) ?? 0) + picture.slots_per_cell);
  for (const [look, slots] of looks) {
    kinds.set(look.kind, (kinds.get(look.kind) ?? 0) + slots);
    if (["used", "kept", "ahead"].includes(look.kind)) for (const task of tasksOf(look)) tasks[task] += slots;
  }
  return { kinds, tasks };
}

let tallied = {}, talliedOf = null;

function legend() {
  if (talliedOf !== cells) [tallied, talliedOf] = [tally(), cells];
  const { kinds, tasks } = tallied;
  show($("pool-states"), [model, [...kinds], isDark()], () => {
    const item = ([name, label, example]) => {
      if (name === "lost" && !kinds.get(name)) return null;
      return el("li", {}, stamp(example, 14), label, el("b", { text: count(kinds.get(name)) }));
    };
    const shared = { kind: "used", number: picture.tasks.length };
    const grey = picture.tasks.length > 1 ? el("li", {}, stamp(shared, 14), "grey: several tasks need it") : null;
    return [...KINDS.map(item), grey].filter(Boolean);
  });
  const share = (name, i) => (needed.has(name) ? percent(Math.min(1, tasks[i] / Math.max(1, needed.get(name)))) : "–");
  buttons(picture.tasks.map(share));
}

// Places of the tasks that are shown at once, and of the others: few all, of many the active ones, what
// is likely next, and the chosen one.
function divide() {
  const all = picture.tasks.map((_, i) => i);
  if (all.length <= FEW) return [all, []];
  const wanted = [...sessions.map(({ task }) => task), ...sessions.flatMap(({ likely }) => likely.map(({ task }) => task))];
  const places = wanted.map((task) => picture.tasks.indexOf(task)).filter((place) => place >= 0);
  const first = [...new Set([...(chosen === null ? [] : [chosen]), ...places, ...all])].slice(0, FEW - 4).sort((a, b) => a - b);
  return [first, all.filter((place) => !first.includes(place))];
}

function buttons(shares) {
  const [groups, more] = [[$("pool-tasks"), $("pool-others")], $("pool-more")];
  const there = [...groups[0].children, ...groups[1].children];
  if (there.length === shares.length && groups.some((group) => group.contains(document.activeElement))) {
    // Whoever is at the keyboard stays where they are.
    for (const button of there) button.lastChild.textContent = shares[button.dataset.task];
    return;
  }
  const button = (i) =>
    el("button", { type: "button", "data-task": String(i), "aria-pressed": String(chosen === i), onclick: () => choose(i) },
      el("i", { class: "chip", fill: taskColour(i) }), picture.tasks[i], el("span", { text: shares[i] }));
  const [, others] = divide().map((places, g) => {
    show(groups[g], [places.map((i) => [picture.tasks[i], shares[i], chosen === i]), isDark()], () => places.map(button));
    return places;
  });
  more.hidden = others.length === 0;
  more.firstElementChild.textContent = `${plural(others.length, "other task")}`;
}

function choose(task) {
  chosen = chosen === task ? null : task;
  for (const button of document.querySelectorAll("[data-task]")) button.setAttribute("aria-pressed", String(chosen === Number(button.dataset.task)));
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
  const look = under === null ? undefined : cells[under];
  if (!look) {
    $("pool-cell").textContent = `${touches.matches ? "Touch" : "Point at"} a slot to see what it holds.`;
    return;
  }
  const needs = look.number ? ` · needed by ${names(tasksOf(look))}` : "";
  const slot = el("b", { text: `Slot ${count(under * picture.slots_per_cell)}` });
  $("pool-cell").replaceChildren(slot, ` · ${WORDS[look.kind] ?? look.kind}${needs}`);
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
