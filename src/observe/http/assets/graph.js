// How tasks follow one another: tasks on a circle, and for each two that follow each other an arrow
// that is as thick as that is likely. One task is looked at: the active one, or that which is pointed at.

import { $, el, percent, show, span, svg, table, taskColour } from "/basics.js";

// More tasks than these are a crowd: smaller, and named only where they matter.
const CROWD = 20;
// What is less likely than that gets no words.
const NAMED_FROM = 0.04;
// Letters of a name in a crowd.
const SHORT = 14;
// The circle, in pixels, as large as its place allows.
let wide = 0, high = 0, across = 0, down = 0, disc = 11;

const isNarrow = () => wide < 440;

function measure(number) {
  disc = number > CROWD ? 6 : 11;
  wide = Math.min(720, Math.max(280, $("graph").clientWidth));
  high = Math.round(Math.min(460, Math.max(290, wide * 0.66)));
  down = high / 2 - 44;
  // Beside it there must be room for names.
  across = Math.min(wide / 2 - (isNarrow() ? 80 : 96), down * 1.35);
}

const middle = ([x, y], [u, v], share = 0.5) => [x + (u - x) * share, y + (v - y) * share];
const point = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;

function places(number) {
  return Array.from({ length: number }, (_, i) => {
    const angle = (i / number) * 2 * Math.PI - Math.PI / 2;
    return [wide / 2 + across * Math.cos(angle), high / 2 + down * Math.sin(angle)];
  });
}

// An arrow from one place to another, bent to its right so that the way back is another way, and the
// words beside it.
function arrow(from, to, probability, words) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const long = Math.hypot(dx, dy) || 1;
  const bend = Math.min(34, long * 0.16);
  const [mx, my] = middle(middle(from, to), [wide / 2, high / 2], 0.12);
  const control = [mx - (dy / long) * bend, my + (dx / long) * bend];
  const thick = 0.8 + 6 * probability;
  const tip = 5 + thick * 1.1;
  const short = (end, by) => {
    const away = Math.hypot(control[0] - end[0], control[1] - end[1]) || 1;
    return middle(end, control, by / away);
  };
  const [start, stop, head] = [short(from, disc + 4), short(to, disc + 4 + tip), short(to, disc + 4)];
  const [ax, ay] = [(head[0] - stop[0]) / tip, (head[1] - stop[1]) / tip];
  const side = (sign) => [stop[0] - sign * ay * tip * 0.55, stop[1] + sign * ax * tip * 0.55];
  const at = middle(middle(start, control, 0.62), middle(control, stop, 0.62), 0.62);
  return [
    svg("path", { class: "edge", d: `M${point(start)}Q${point(control)} ${point(stop)}`, "stroke-width": thick.toFixed(1) }),
    svg("path", { class: "tip", d: `M${point(side(1))}L${point(head)}L${point(side(-1))}z` }),
    words ? label(at, words) : null,
  ];
}

// Words on a ground of their own, as lines pass below them.
function label([x, y], words) {
  const half = words.length * 3.6 + 4;
  return svg("g", { class: "label" },
    svg("rect", { x: (x - half).toFixed(1), y: (y - 9).toFixed(1), width: 2 * half, height: 18, rx: 4 }),
    svg("text", { x: x.toFixed(1), y: y.toFixed(1), text: words }));
}

// What follows a task: what its session expects if it is active, else what was learnt.
function after(place, picture, sessions) {
  const session = sessions.find(({ task }) => task === picture.tasks[place]);
  if (session?.likely.length) {
    return session.likely.map(({ task, probability, expected_ms }) =>
      ({ to: picture.tasks.indexOf(task), probability, words: percent(probability) + (isNarrow() ? "" : ` · ${expected_ms ? span(expected_ms) : "now"}`) }));
  }
  return picture.transitions.filter(({ from }) => from === place)
    .map(({ to, probability }) => ({ to, probability, words: percent(probability) }));
}

// Draws it again where there is more or less room now.
export const drawGraph = () => redraw();

let pointed = null, redraw = () => {}, refresh = () => {};

export function updateGraph(picture, sessions) {
  if (!picture) return;
  redraw = () => updateGraph(picture, sessions);
  refresh = () => draw(picture, sessions);
  const { tasks, transitions } = picture;
  measure(tasks.length);
  const host = $("graph");
  show(host, [tasks, wide, taskColour(0)], () => [frame(tasks)]);
  draw(picture, sessions);
  show($("graph-table"), transitions, () => {
    const sorted = [...transitions].sort((a, b) => a.from - b.from || b.probability - a.probability);
    return [table(["from", "to", "how likely "], sorted.map(({ from, to, probability }) => [tasks[from], tasks[to], percent(probability)]))];
  });
}

// Names that begin alike differ at their ends.
const short = (name, tasks) =>
  tasks.length > CROWD && name.length > SHORT ? `${name.slice(0, SHORT / 2 - 1)}…${name.slice(-SHORT / 2)}` : name;

// Which of these places, the most important first, have their names shown: in a crowd, names of
// neighbours would lie on one another.
function legible(places, at) {
  const apart = (a, b) => Math.abs(at[a][1] - at[b][1]) > 15 || Math.abs(at[a][0] - at[b][0]) > 8 * SHORT;
  return places.reduce((named, place) => (named.every((other) => apart(place, other)) ? [...named, place] : named), []);
}

// Circle and names, which stay as they are while arrows change.
function frame(tasks) {
  const at = places(tasks.length);
  const node = (name, i) => {
    const [x, y] = at[i];
    const [dx, dy] = [(x - wide / 2) / across, (y - high / 2) / down];
    const anchor = dx > 0.25 ? "start" : dx < -0.25 ? "end" : "middle";
    const look = () => ((pointed = i), refresh());
    const leave = () => ((pointed = null), refresh());
    return svg("g", { class: "node", tabindex: 0, role: "button",
      "aria-label": `${name}: show what follows it`, onpointerenter: look, onpointerleave: leave, onfocus: look, onblur: leave },
      svg("circle", { class: "ring", cx: x, cy: y, r: disc + 4 }),
      svg("circle", { cx: x, cy: y, r: disc, fill: taskColour(i) }),
      svg("text", { x: x + dx * (disc + 8), y: y + dy * (disc + 11) + (Math.abs(dx) < 0.25 ? dy * 3 : 0), "text-anchor": anchor, "dominant-baseline": "central", text: short(name, tasks) }));
  };
  return svg("svg", { width: wide, height: high, class: tasks.length > CROWD ? "crowd" : undefined, role: "group", "aria-label": "Tasks and what follows them" },
    svg("g", { id: "others" }), svg("g", { id: "lit", class: "lit" }), ...tasks.map(node));
}

function draw(picture, sessions) {
  const { tasks, transitions } = picture;
  const at = places(tasks.length);
  const active = tasks.indexOf(sessions.find(({ task }) => task)?.task);
  const looked = pointed ?? (active < 0 ? null : active);
  const following = looked === null ? [] : after(looked, picture, sessions).filter(({ to }) => to >= 0 && to !== looked);
  // In a crowd only what stands out.
  const least = tasks.length > CROWD ? 0.1 : 0.03;
  const others = transitions.filter(({ from, to, probability }) => from !== looked && from !== to && probability >= least);
  const rounded = (list) => list.map(({ from, to, probability, words }) => [from, to, Math.round(probability * 100), words]);
  const host = $("graph");
  const matter = following.filter(({ probability }) => probability >= NAMED_FROM).sort((a, b) => b.probability - a.probability).map(({ to }) => to);
  const wanted = [...new Set([looked ?? [], sessions.map(({ task }) => tasks.indexOf(task)).filter((i) => i >= 0), matter].flat())];
  const named = tasks.length > CROWD ? legible(wanted, at) : wanted;
  const worded = new Set(tasks.length > CROWD ? named : matter);
  host.querySelectorAll(".node").forEach((node, i) => {
    node.classList.toggle("now", sessions.some(({ task }) => task === tasks[i]));
    node.classList.toggle("named", named.includes(i));
  });
  show(host.querySelector("#others"), rounded(others), () => others.flatMap(({ from, to, probability }) => arrow(at[from], at[to], probability)));
  show(host.querySelector("#lit"), [looked, rounded(following)], () => {
    const parts = following.map(({ to, probability, words }) => arrow(at[looked], at[to], probability, worded.has(to) ? words : ""));
    // Words lie above all arrows.
    return [...parts.flatMap((part) => part.slice(0, 2)), ...parts.map((part) => part[2])];
  });
  host.dataset.edges = others.length + following.length;
  $("graph-note").textContent = looked === null ? "thick: likely"
    : `after ${tasks[looked]}${looked === active && pointed === null ? ", which is active: how likely, and in what time" : ": how likely"}`;
}
