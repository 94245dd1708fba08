// The parts that are words and figures: health, sessions, foresight, events, the choice of a model.

import { $, bytes, clock, count, el, percent, plural, show, span, table, taskColour } from "/basics.js";

// ---- Health

// Each tile: its label, value, remark and level.
function health(status, model, counted) {
  const serving = status.state === "DAEMON_STATE_SERVING";
  const { pool, storage } = model;
  const all = pool.slots * pool.slot_bytes + pool.base_bytes;
  const failed = storage?.failed_reads ?? 0;
  const direct = model.direct_io ? "past the page cache" : "through the page cache";
  return [
    ["State", serving ? "serving" : "draining", null, serving ? "" : "warn"],
    ["Up for", span(status.uptime_ms)],
    ["Storage", storage?.backend || "–", storage?.fallback_reason || direct, storage?.fallback_reason ? "warn" : ""],
    ["Huge pages", percent(all ? pool.huge_bytes / all : 0), `of ${bytes(all)}`],
    ["Memory", pool.locked ? "locked" : "not locked", pool.locked ? null : "may be paged out", pool.locked ? "" : "warn"],
    ["Quarantined", count(model.quarantined_blocks), "blocks", model.quarantined_blocks ? "bad" : ""],
    ["Failed reads", count(failed), `${count(model.blocks_mismatched)} did not match`, failed + model.blocks_mismatched ? "warn" : ""],
    ["Stalls", count(counted.stalls), "of the device", counted.stalls ? "bad" : ""],
    ["Events lost", count(counted.lost), counted.lost ? "this page lacks them" : null, counted.lost ? "warn" : ""],
  ];
}

export function showHealth(status, model, counted) {
  const tiles = health(status, model, counted);
  const host = $("health");
  show(host, tiles.length, () => tiles.map(() => el("div")));
  tiles.forEach(([label, value, small, level], i) => {
    host.children[i].className = level ?? "";
    show(host.children[i], [label, value, small], () =>
      [el("dt", { text: label }), el("dd", { text: value }, small ? el("small", { text: small }) : null)]);
  });
}

// ---- Sessions

function likely(list, colour) {
  const shown = list.filter(({ probability }) => probability >= 0.01).slice(0, 6);
  if (!shown.length) return [];
  const row = ({ task, probability, expected_ms }) => [
    el("span", { text: task }),
    el("div", { class: "bar" }, el("i", { fill: colour(task), "width%": 100 * probability })),
    el("span", { class: "num", text: percent(probability) }),
    el("span", { class: "num", text: expected_ms ? `in ${span(expected_ms)}` : "now" }),
  ];
  return [el("h3", { text: "Likely next" }), el("div", { class: "bars" }, ...shown.flatMap(row))];
}

function leases(list) {
  if (!list.length) return [];
  const row = ({ pid, uid, task, kept, superseded_ms, revoked }) =>
    [String(pid), String(uid), task, bytes(kept?.bytes ?? 0), span(superseded_ms), revoked ? "revoked" : "waited for"];
  return [
    el("h3", { text: "Reading older generations" }),
    el("div", { class: "scroll" }, table(["process ", "user ", "task", "keeps ", "since ", ""], list.map(row))),
  ];
}

function session(it, colour) {
  const { clients, draining_generations: old } = it;
  const facts = [`generation ${count(it.generation)}`, plural(clients, "client"), old ? plural(old, "older generation") + " in use" : null];
  const loading = it.pending_task ? el("small", { text: `loading ${it.pending_task} …` }) : null;
  const active = it.task
    ? [el("i", { class: "chip", fill: colour(it.task) }), el("span", { text: it.task }), loading]
    : [el("small", { text: "no task" }), loading];
  return el("div", { class: "session" },
    el("div", { class: "name" }, el("span", { text: it.session }), el("span", { text: facts.filter(Boolean).join(" · ") })),
    el("p", { class: "active" }, ...active), ...likely(it.likely, colour), ...leases(it.leases));
}

export function showSessions(model, tasks) {
  const colour = (task) => taskColour(Math.max(0, tasks.indexOf(task)));
  const { sessions } = model;
  $("sessions-note").textContent = plural(sessions.length, "session");
  show($("sessions"), [sessions, tasks, colour("")], () => sessions.map((it) => session(it, colour)));
}

// ---- Foresight

export function showForesight({ prefetch: it, pool }) {
  if (!it) return;
  // Nothing is gained by more than the pool takes.
  const budget = Math.min(it.budget_bytes, pool.slots * pool.slot_bytes);
  show($("foresight"), [it, budget], () => {
    const { loaded, used, wasted, late, waiting, read } = it;
    const parts = [["resident", used], ["partly", waiting], ["queue", wasted]];
    const bar = loaded.bytes
      ? el("div", { class: "share", "aria-hidden": "true" }, ...parts.map(([id, { bytes }]) => el("i", { fill: `var(--${id})`, grow: bytes })))
      : null;
    const chip = (id) => (loaded.bytes ? el("i", { class: "chip", fill: `var(--${id})` }) : null);
    const row = (label, value, id) => [el("dt", {}, id ? chip(id) : null, label), el("dd", { text: value })];
    return [
      el("p", { class: "headline", text: it.switches ? `${percent(it.hits / it.switches)} found all of their task` : "No switch yet" }),
      el("p", { class: "note", text: `${count(it.hits)} of ${plural(it.switches, "switch", "switches")}` }),
      bar,
      el("dl", { class: "figures" },
        ...row("Loaded ahead", bytes(loaded.bytes)), ...row("used by switches", bytes(used.bytes), "resident"),
        ...row("waiting to be used", bytes(waiting.bytes), "partly"), ...row("gone before use", bytes(wasted.bytes), "queue"),
        ...row("Still on its way when asked for", bytes(late.bytes)), ...row("Read by switches", bytes(read.bytes)),
        ...row("May be loaded ahead now", bytes(budget)), ...row("Prepared or held", plural(it.prepared, "task")),
        ...row("Hints ignored", count(it.ignored_hints))),
    ];
  });
}

// ---- Events

// Words for an event, and how grave it is; nothing for what is shown elsewhere.
export function words(event) {
  const { lost, given_up, prepared, lease_revoked: revoked, client_attached: came, client_detached: went, attachment_ended: ended, daemon_changed: daemon } = event;
  const where = event.session ? ` (session ${event.session})` : "";
  if (lost) return ["warn", `${plural(lost.count, "event")} not kept`];
  if (given_up) return ["", `${given_up.task} given up to make room${where}`];
  if (prepared) return prepared.reason ? ["warn", `${prepared.task} not prepared: ${prepared.reason}`] : ["", `${prepared.task} prepared`];
  if (event.session_opened) return ["", `session ${event.session} opened`];
  if (event.session_closed) return ["", `session ${event.session} closed`];
  if (came) return ["", `process ${came.pid} attached${where}`];
  if (went) return ["", `process ${went.pid} gone${where}`];
  if (ended) return ["warn", `attachment of process ${ended.pid} ended by ${ended.caller ? `process ${ended.caller.pid}` : "a call"}${where}`];
  if (revoked) return ["warn", `lease of process ${revoked.pid} on ${revoked.task} revoked${where}`];
  if (event.block_quarantined) return ["bad", `block ${event.block_quarantined.block} quarantined: it cannot be read as it should be`];
  if (event.storage_stalled) return ["bad", `storage stalled; ${plural(event.storage_stalled.switches, "switch", "switches")} ended`];
  if (event.storage_recovered) return ["", `storage answers again after ${event.storage_recovered.stalled_ms} ms`];
  if (daemon) return ["", `daemon ${daemon.state === "DAEMON_STATE_SERVING" ? "serves" : "stops"}${daemon.remark ? `: ${daemon.remark}` : ""}`];
  if (event.config_reloaded) {
    const { error } = event.config_reloaded;
    return error ? ["bad", `configuration not taken: ${error}`] : ["", "configuration read again"];
  }
  return null;
}

export function showLog(log) {
  const latest = log.slice(-12).reverse();
  show($("log"), latest, () => {
    if (!latest.length) return [el("li", {}, el("time", {}), el("span", { class: "note", text: "nothing yet" }))];
    return latest.map(({ at, level, text }) => el("li", {}, el("time", { text: clock(at) }), el("span", { class: level, text })));
  });
}

// ---- Models

export function showModels(names, chosen, choose) {
  show($("models"), [names, chosen], () =>
    names.length === 1
      ? [el("span", { text: names[0] })]
      : names.map((text) => el("button", { type: "button", text, "aria-pressed": String(text === chosen), onclick: () => choose(text) })));
}
