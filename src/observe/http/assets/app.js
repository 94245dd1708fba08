// Puts the page together: listens to the daemon, keeps what it told, has all parts show it.

import { $, clock, onTheme } from "/basics.js";
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
  switches: [], log: [], moments: [], counted: null, stalls: 0, lost: 0,
  // Since when events are known, if earlier ones are not kept.
  since_us: null,
  // The daemon's time of day when it was told last, and when that was here.
  now_us: 0, heard: -Infinity, refused: false,
};
let model = null, chosen = null, source = null;

// ---- Listening

function listen() {
  source?.close();
  // A page that nobody sees takes no place from one that somebody does.
  if (document.hidden) return;
  told.heard = Math.max(told.heard, performance.now() - SILENCE / 2);
  source = new EventSource(told.place ? `/api/events?after=${encodeURIComponent(told.place)}` : "/api/events");
  const on = (name, take) => source.addEventListener(name, (message) => {
    [told.heard, told.refused] = [performance.now(), false];
    take(JSON.parse(message.data), message);
    showSoon();
  });
  on("status", takeStatus);
  on("picture", (pictures) => (told.pictures = pictures));
  on("events", takeEvents);
  source.addEventListener("error", () => {
    told.heard = -Infinity;
    // Where there was an answer that was no stream, the browser has given up.
    told.refused = source.readyState === EventSource.CLOSED;
    if (told.refused) setTimeout(listen, AGAIN);
    showLink();
  });
}

function takeStatus({ instance, now_us, status }) {
  if (told.instance !== instance) {
    told.instance = instance;
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

function takeEvents({ instance, events }, { lastEventId }) {
  // What is counted is counted for one run of the daemon.
  const first = told.counted !== instance;
  if (first && events.length) begin(instance, events);
  told.place = lastEventId;
  const aged = first && events[0]?.lost ? 1 : 0;
  for (const event of events.slice(aged)) {
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
  for (const list of [told.switches, told.log, told.moments]) forget(list);
}

// The first events of a run of the daemon. What came before them has aged, and was not lost.
function begin(instance, events) {
  const isNew = told.counted === null;
  [told.counted, told.stalls, told.lost] = [instance, 0, 0];
  if (isNew && (events[0].sequence > 1 || events[0].lost)) told.since_us = (events[0].lost && events[1] ? events[1] : events[0]).time_us;
}

function forget(list) {
  const over = list.splice(0, list.length - KEPT);
  if (list === told.switches && over.length) told.since_us = list[0].at;
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
  // A browser that does not draw at the moment calls no frame.
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
  const { now_us, since_us } = told;
  updateTimeline({ switches, moments: ours(told.moments), now_us, since_us });
  showWhy({ switches, chosen, older: since_us !== null }, backToLatest);
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
  const silent = told.refused || performance.now() - told.heard > SILENCE;
  document.body.classList.toggle("gone", silent);
  document.body.classList.toggle("live", !silent && told.status !== null);
  const was = told.status ? `; this is how it was at ${clock(told.now_us)}` : "";
  const why = told.refused ? "too many pages are open; waiting for a place" : "the daemon does not answer";
  const words = silent ? why + was : told.status ? "live" : "connecting";
  const line = $("link").lastElementChild;
  // Said again, it would be read out again.
  if (line.textContent !== words) line.textContent = words;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) document.title = "Synchromesh";
  listen();
});
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
