// Puts the page together: listens to the daemon, keeps what it told, has all parts show it.

import { $, onTheme } from "/basics.js";
import { drawGraph, updateGraph } from "/graph.js";
import { showForesight, showHealth, showLog, showModels, showSessions, words } from "/panels.js";
import { drawPool, forgetPool, updatePool } from "/pool.js";
import { showLegends, showTable, showWhy, switchOf } from "/switches.js";
import { drawTimeline, onChosen, showSpans, unchoose, updateTimeline } from "/timeline.js";

// What is kept of each kind.
const KEPT = 2000;
// A daemon that says nothing for so long is gone, in milliseconds.
const SILENCE = 4000;
// What tasks need before it was told.
const UNKNOWN = new Map();
// How long to wait before listening again where the browser does not by itself.
const AGAIN = 2000;

const told = {
  instance: null, place: null, status: null, pictures: {}, needed: new Map(),
  switches: [], log: [], moments: [], stalls: 0, lost: 0,
  // The daemon's time of day when it was told last, and when that was here.
  now_us: 0, heard: -Infinity,
};
let model = null, chosen = null, source = null;

// ---- Listening

function listen() {
  source?.close();
  source = new EventSource(told.place ? `/api/events?after=${encodeURIComponent(told.place)}` : "/api/events");
  const on = (name, take) => source.addEventListener(name, (message) => {
    told.heard = performance.now();
    take(JSON.parse(message.data), message);
    showSoon();
  });
  on("status", takeStatus);
  on("picture", (pictures) => (told.pictures = pictures));
  on("events", takeEvents);
  source.addEventListener("error", () => {
    told.heard = -Infinity;
    showLink();
    // Where there was an answer that was no stream, the browser has given up.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  });
}

function takeStatus({ instance, now_us, status }) {
  if (told.instance !== instance) {
    told.instance = instance;
    [told.stalls, told.lost] = [0, 0];
    forgetPool();
    askModels();
  }
  Object.assign(told, { status, now_us });
  if (!status.models.some(({ name }) => name === model)) model = status.models[0]?.name ?? null;
}

// What each task needs, which does not change while a daemon runs.
async function askModels() {
  const response = await fetch("/api/models").catch(() => null);
  if (!response?.ok) return;
  const { models } = await response.json();
  told.needed = new Map(models.map(({ name, tasks }) => [name, new Map(tasks.map((task) => [task.name, task.needed?.blocks ?? 0]))]));
  showSoon();
}

function takeEvents({ events }, { lastEventId }) {
  told.place = lastEventId;
  for (const event of events) {
    const it = switchOf(event);
    if (it) told.switches.push(it);
    if (event.lost) told.lost += event.lost.count;
    if (event.storage_stalled) told.stalls += 1;
    const [level, text] = words(event) ?? [];
    if (text) told.log.push({ at: event.time_us, model: event.model, level, text });
    const begun = event.daemon_changed?.state === "DAEMON_STATE_SERVING";
    if (begun || event.storage_stalled) {
      told.moments.push({ at: event.time_us, model: event.model, text: begun ? "started" : "stalled", bad: !begun });
    }
    told.now_us = Math.max(told.now_us, event.time_us);
    if (event.switched) activate(event);
  }
  for (const list of [told.switches, told.log, told.moments]) list.splice(0, list.length - KEPT);
}

// A switch is seen at once, and not with the next state.
function activate({ model, session, switched }) {
  const sessions = told.status?.models.find(({ name }) => name === model)?.sessions ?? [];
  const it = sessions.find((it) => it.session === session);
  if (it && switched.result?.generation > it.generation) {
    Object.assign(it, { task: switched.task, generation: switched.result.generation, pending_task: "", likely: [] });
  }
}

// ---- Showing

let due = false;

// However much is told at once, it is shown once a frame.
function showSoon() {
  if (due) return;
  due = true;
  // A page that is not seen is not drawn: a timer comes in any case.
  const then = () => due && ((due = false), showAll());
  requestAnimationFrame(then);
  setTimeout(then, 250);
}

function showAll() {
  showLink();
  const { status } = told;
  const it = status?.models.find(({ name }) => name === model);
  if (!it) return;
  document.body.classList.remove("starting");
  $("version").textContent = status.version;
  document.title = `${it.sessions.find(({ task }) => task)?.task ?? "no task"} · ${model} · Synchromesh`;
  showModels(status.models.map(({ name }) => name), model, choose);
  showHealth(status, it, told);
  const picture = told.pictures[model];
  showSessions(it, picture?.tasks ?? []);
  showForesight(it);
  const ours = (list) => list.filter((thing) => !thing.model || thing.model === model);
  const switches = ours(told.switches);
  updateTimeline({ switches, moments: ours(told.moments), now_us: told.now_us });
  showWhy(switches, chosen, backToLatest);
  showTable(switches);
  showLog(ours(told.log));
  updatePool(picture, it, told.needed.get(model) ?? UNKNOWN);
  updateGraph(picture, it.sessions);
}

function choose(name) {
  [model, chosen] = [name, null];
  unchoose();
  showAll();
}

function backToLatest() {
  chosen = null;
  unchoose();
  showSoon();
}

// Whether the daemon is there; if it is not, what is shown is what was.
function showLink() {
  const silent = performance.now() - told.heard > SILENCE;
  const { classList } = document.body;
  if (classList.contains("gone") === silent && classList.contains("live") === !silent) return;
  classList.toggle("gone", silent);
  classList.toggle("live", !silent);
  const seen = new Date().toLocaleTimeString("en-GB");
  const words = !silent ? "live" : told.status ? `the daemon does not answer; this is how it was at ${seen}` : "the daemon does not answer";
  $("link").lastElementChild.textContent = words;
}

showLegends();
showSpans();
onChosen((it) => {
  chosen = it;
  showSoon();
});
const redraw = () => requestAnimationFrame(() => {
  drawPool();
  drawTimeline();
  drawGraph();
});
new ResizeObserver(redraw).observe($("pool").parentElement);
onTheme(showAll);
onTheme(redraw);
setInterval(showLink, 1000);
listen();
