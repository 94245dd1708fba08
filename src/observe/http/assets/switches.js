// Switches: what an event tells of one, how it is marked, and in plain words why it took so long.

import { $, bytes, clock, el, micros, percent, plural, show, span, svg, table } from "/basics.js";

// A switch that took longer, or had to read, is a slow one.
const SLOW_US = 1000;

export const PHASES = [
  ["queue", "waiting to be taken up"], ["plan", "planning, making room"], ["read", "reading"],
  ["verify", "verifying"], ["publish", "publishing"],
];

// What a switch found: its words and its mark, told by shape as well as by colour.
export const OUTCOMES = {
  ALREADY_ACTIVE: ["was active already", "queue", "ring"],
  RESIDENT: ["all of it was there", "resident", "disc"],
  PARTLY_PREFETCHED: ["part was loaded ahead", "partly", "diamond"],
  LOADED: ["had to be read", "loaded", "square"],
  FAILED: ["failed", "failed", "cross"],
};

// The mark of an outcome around a place, as a path for canvas and SVG alike.
export function mark(shape, x, y, r) {
  switch (shape) {
    case "square": return `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`;
    case "diamond": return `M${x} ${y - r * 1.35}l${r * 1.35} ${r * 1.35}l${-r * 1.35} ${r * 1.35}l${-r * 1.35} ${-r * 1.35}z`;
    case "cross": return `M${x - r} ${y - r}l${2 * r} ${2 * r}M${x + r} ${y - r}l${-2 * r} ${2 * r}`;
    default: return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  }
}

const NOTHING = { blocks: 0, bytes: 0 };

// A switch as an event tells it; nothing if it tells of something else.
export function switchOf(event) {
  const { switched, switch_failed: failed, sequence, time_us, model, session } = event;
  const common = { sequence, at: time_us, model, session };
  if (failed) return { ...common, ...failed, outcome: "FAILED", total: null, phases: [] };
  if (!switched) return null;
  const { from, task, result, request_id, trace_id } = switched;
  const timing = result?.timing ?? {};
  const amount = (name) => result?.[name] ?? NOTHING;
  return {
    ...common, from, task, request_id, trace_id,
    outcome: (result?.outcome ?? "").replace("SWITCH_OUTCOME_", ""),
    total: timing.total_us ?? 0,
    phases: PHASES.map(([name]) => timing[`${name}_us`] ?? 0),
    needed: amount("needed"), reused: amount("reused"), prefetched: amount("prefetched"),
    read: amount("read"), evicted: amount("evicted"),
    foresight: result?.foresight, inPlace: result?.in_place, generation: result?.generation,
  };
}

const isSlow = (it) => it.outcome === "FAILED" || it.read.blocks > 0 || it.total >= SLOW_US;
export const name = (it) => (it.from && it.from !== it.task ? `${it.from} → ${it.task}` : it.task);
export const outcome = (it) => OUTCOMES[it.outcome] ?? [it.outcome, "queue", "ring"];

// ---- Why it took so long

const place = (rank) => (rank === 1 ? "the likeliest of all" : `number ${rank} of the likely ones`);

function reading(it, [, , us]) {
  const speed = us > 0 ? ` at ${bytes((it.read.bytes / us) * 1e6)}/s` : "";
  const there = it.reused.bytes ? `; of the ${bytes(it.needed.bytes)} that the task needs, ${bytes(it.reused.bytes)} were there already` : "; nothing of the task was there";
  const ahead = it.prefetched.bytes ? `, ${bytes(it.prefetched.bytes)} of them loaded ahead` : "";
  return `Reading took ${micros(us)} of ${micros(it.total)}: ${bytes(it.read.bytes)} (${plural(it.read.blocks, "block")}) came from storage${speed}${there}${ahead}.`;
}

// What took the most time besides reading, if it took a fair share.
function elsewhere(it) {
  const [most] = it.phases.map((us, i) => [us, i]).filter(([, i]) => i !== 2).sort(([a], [b]) => b - a);
  if (!most || most[0] < it.total / 4) return null;
  const said = [
    "before it was taken up: the daemon was busy, or the machine was",
    "for planning and making room: leases on older tasks or running reads held it",
    "", "for comparing what was read with its checksums", "for publishing",
  ];
  return `${micros(most[0])} went by ${said[most[1]]}.`;
}

function foreseen({ foresight }) {
  if (!foresight) return "Nothing had been foreseen: the task was not among those held likely.";
  const { probability, rank, lead_us } = foresight;
  return `The task had been held ${percent(probability)} likely, ${place(rank)}, for ${span(lead_us / 1000)} before.`;
}

function advice(it) {
  if (!it.read.blocks) return null;
  if (!it.foresight) return "A preparation (PrepareTask) would have spared the wait or, where prefetch is on, a hint ahead of the switch (HintTasks).";
  if (it.foresight.probability < 0.1) return "It was held too unlikely to be loaded ahead: a hint (HintTasks) would have told better.";
  if (it.foresight.lead_us < 2 * it.phases[2]) return "It was foreseen too late to be read: an earlier hint would help.";
  return "It was foreseen in time, but not loaded: a larger pool or a larger budget for reading ahead would help.";
}

// Sentences that tell why a switch took as long as it did.
export function explain(it) {
  if (it.outcome === "FAILED") {
    const kept = it.from ? `The session keeps ${it.from}.` : "The session has no task.";
    return [`${it.message} (${it.reason})`, kept];
  }
  const room = it.evicted.blocks ? `To make room, ${bytes(it.evicted.bytes)} of other tasks left the pool.` : null;
  const place = it.inPlace ? "The session gave up its task first, as it had been told to (in place)." : null;
  const read = it.read.blocks ? reading(it, it.phases) : `All ${bytes(it.needed.bytes)} of it were in the pool.`;
  return [read, elsewhere(it), foreseen(it), room, place, advice(it)].filter(Boolean);
}

function shares(it) {
  if (!it.total) return [];
  const parts = it.phases.map((us, i) => [PHASES[i], us]).filter(([, us]) => us > 0);
  const bar = el("div", { class: "share", "aria-hidden": "true" },
    ...parts.map(([[id], us]) => el("i", { fill: `var(--${id})`, grow: Math.max(us, it.total / 100) })));
  const item = ([[id], us]) =>
    el("li", {}, el("i", { class: "chip", fill: `var(--${id})` }), id, el("b", { text: micros(us) }));
  return [bar, el("ul", { class: "legend" }, ...parts.map(item))];
}

function none(switches, older) {
  if (switches.length) return `None: each of the last ${switches.length} found its task in the pool.`;
  return older ? "None that is known: older switches are not kept." : "No switch was seen yet.";
}

// Shows one switch in words: the one that is chosen, or else the last slow one. `older` says that there
// were events that are not kept.
export function showWhy({ switches, chosen, older }, unchoose) {
  const it = chosen ?? switches.findLast(isSlow);
  $("why-title").textContent = chosen ? "The chosen switch" : "The last slow switch";
  $("why-note").textContent = chosen ? "" : `it failed, had to read, or took ${micros(SLOW_US)} or more`;
  show($("why"), [it ?? null, Boolean(chosen), it ? null : none(switches, older)], () => {
    if (!it) return [el("p", { class: "note", text: none(switches, older) })];
    const took = it.outcome === "FAILED" ? "failed" : `took ${micros(it.total)}`;
    const ids = [["session", it.session], ["request", it.request_id], ["trace", it.trace_id]];
    const note = [clock(it.at), ...ids.filter(([, id]) => id).map(([word, id]) => `${word} ${id}`)].join(" · ");
    return [
      el("p", { class: "headline", text: `${name(it)} ${took}` }), el("p", { class: "note", text: note }), ...shares(it),
      ...explain(it).map((text) => el("p", { text })),
      chosen ? el("button", { type: "button", text: "Back to the last slow one", onclick: unchoose }) : null,
    ];
  });
}

// ---- Legends and table

export function showLegends() {
  const outcomes = Object.values(OUTCOMES).map(([words, colour, shape]) => {
    const open = shape === "cross" || shape === "ring";
    const paint = { fill: open ? "none" : `var(--${colour})`, stroke: open ? `var(--${colour})` : "none", "stroke-width": 2 };
    const icon = svg("svg", { width: 13, height: 13, "aria-hidden": "true" }, svg("path", { d: mark(shape, 6.5, 6.5, 4), ...paint }));
    return el("li", {}, icon, words);
  });
  $("outcomes").replaceChildren(...outcomes);
  const phases = PHASES.map(([id, words]) => el("li", {}, el("i", { class: "chip", fill: `var(--${id})` }), words));
  $("phases").replaceChildren(el("li", { text: "stems show how the time divides:" }), ...phases);
}

export function showTable(switches) {
  const latest = switches.slice(-50).reverse();
  show($("switches-table"), latest.map(({ sequence, at }) => [sequence, at]), () => [
    table(["time", "switch", "session", "found", "total ", "queue ", "plan ", "read ", "verify ", "publish ", "bytes read "],
      latest.map((it) => [clock(it.at), name(it), it.session, outcome(it)[0], it.total === null ? "–" : micros(it.total),
        ...PHASES.map((_, i) => (it.phases.length ? micros(it.phases[i]) : "–")), it.read ? bytes(it.read.bytes) : "–"])),
  ]);
}
