// The page: the event stream in, at most some drawings a second out. Lists are bounded; text is only ever set as text.
import { chart, bar } from "./charts.js";
import { at, bytes, h, number, put, seconds, sync } from "./dom.js";
import * as panels from "./panels.js";
import { live, recent } from "./requests.js";
import { servers } from "./servers.js";
import { ask, follow, useKey } from "./stream.js";
import { WORDS as W } from "./words.js";

const MOST_RECENT = 50, PAUSE_MS = 200, LEAST_SAMPLES = 60;
let status = null, drawnAt = 0, planned = false, trouble = "", view = "overview";
let samples = [], everyS = 5, mostSamples = 360;

function soon() {
  if (planned) return;
  planned = true;
  setTimeout(() => requestAnimationFrame(() => { planned = false; drawnAt = performance.now(); draw(); }), Math.max(0, PAUSE_MS - (performance.now() - drawnAt)));
}

function say(text, ...more) {
  at("message").hidden = !text;
  at("message").replaceChildren(...(text ? [h("p", {}, text), ...more, h("button", { onclick: () => say("") }, W.close)] : []));
}

async function act(path, body, question) {
  if (question && !(await sure(question))) return;
  try {
    const answer = await ask(`/penstock/${path}`, body);
    await answer.body?.cancel();
    say("");
  } catch (error) {
    say(error.code === "admin_token_required" ? W.readOnly : error.code === "unauthorized" ? W.needsKey : error.status ? error.message : W.away);
  }
}

function sure(question) {
  return new Promise((done) => {
    const dialog = h("dialog", { "aria-labelledby": "sure" }, h("form", { method: "dialog" }, h("p", { id: "sure" }, question), h("div", { class: "bar" }, h("button", { value: "" }, W.cancel), h("button", { value: "yes", class: "main" }, question.split(" ")[0]))));
    dialog.addEventListener("close", () => { done(dialog.returnValue === "yes"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Charts and tiles.
const ago = (span) => W.ago(span);
const requestsChart = chart(W.chartRequests, [["area", W.running], ["wait", W.queued], ["limit", W.limit]], ago);
const speedChart = chart(W.speed, [["area speed", W.speedNote]], ago);
const memory = h("div", { class: "card chart" }, h("h3", {}, W.machine), h("div"));
at("charts").append(requestsChart.node, speedChart.node, memory);

function take(from) {
  samples.push(from);
  if (samples.length > mostSamples) samples.shift();
}

let piecesBefore = null, endedPieces = 0;
function sampleNow() {
  const now = Date.now() / 1000, last = samples.at(-1);
  const pieces = endedPieces + status.requests.in_flight.reduce((sum, r) => sum + r.chunks, 0);
  if (piecesBefore === null) { piecesBefore = pieces; return; }
  if (last && now - last.at < everyS) return;
  const upstreams = Object.fromEntries(status.upstreams.map((u) => [u.name, [u.concurrency.in_flight, u.concurrency.queued + u.concurrency.held, u.concurrency.limit]]));
  take({ at: now, pieces_per_s: Math.max(0, pieces - piecesBefore) / Math.max(1, now - (last?.at ?? now - everyS)), upstreams });
  piecesBefore = pieces;
}

function drawCharts() {
  const sums = samples.map((one) => Object.values(one.upstreams).reduce(([a, b, c], [x, y, z]) => [a + x, b + y, c + (z ?? 0)], [0, 0, 0]));
  const missing = Math.max(0, LEAST_SAMPLES - samples.length), pad = (values) => [...Array(missing).fill(null), ...values];
  const span = (samples.length + missing - 1) * everyS;
  const count = (name) => status.upstreams.reduce((sum, u) => sum + (u.concurrency[name] ?? 0), 0);
  const running = count("in_flight"), waiting = count("queued") + count("held"), limit = count("limit");
  requestsChart.draw([pad(sums.map((v) => v[0])), pad(sums.map((v, i) => (v[1] || sums[i - 1]?.[1] || sums[i + 1]?.[1] ? v[1] : null))), pad(sums.map((v) => v[2]))], `${number(running)}${waiting ? ` + ${number(waiting)}` : ""}`, span, 2);
  const speed = samples.map((one) => one.pieces_per_s);
  const rate = status.requests.in_flight.reduce((sum, r) => sum + (r.stage === "streaming" && r.answering_s > 0.3 ? r.chunks / r.answering_s : 0), 0);
  speedChart.draw([pad(speed)], rate ? rate.toFixed(1) : "0", span, 10);
  const firsts = status.requests.recent.map((r) => r.ttft_s).filter((v) => v != null).sort((a, b) => a - b);
  const failed = status.errors.reduce((sum, e) => sum + e.count, 0);
  const tiles = [[W.tile.running, number(running), W.ofLimit(limit)], [W.tile.waiting, number(waiting), ""], [W.tile.speed, rate ? rate.toFixed(1) : "0", ""],
    [W.tile.first, firsts.length ? seconds(firsts[firsts.length >> 1]) : "–", W.median], [W.tile.failed, number(failed), W.failedOf]];
  sync(at("tiles"), tiles, ([name]) => name, (one) => one.join("|"), ([name, value, note]) => h("div", { class: "tile" }, h("span", { class: "soft" }, name), h("strong", {}, value), h("span", { class: "soft small" }, note)));
  const m = status.memory, meters = [];
  if (m) {
    const total = m.limit_bytes ? Math.min(m.limit_bytes, m.total_bytes) : m.total_bytes;
    meters.push([W.memory, m.used_share, W.used(bytes(m.used_share * total), bytes(total)), W.calm[m.pressure], m.pressure]);
    for (const g of m.gpus) meters.push([g.name || W.gpu, 1 - g.free_bytes / g.total_bytes, W.used(bytes(g.total_bytes - g.free_bytes), bytes(g.total_bytes)), g.utilisation == null ? "" : `${Math.round(g.utilisation * (g.utilisation <= 1 ? 100 : 1))} %`, "calm"]);
  }
  sync(memory.lastChild, meters, ([name]) => name, (one) => `${one[1].toFixed(2)}${one[3]}${one[2]}`, ([name, share, used, note, kind]) => h("div", { class: "meter" }, h("p", {}, h("span", {}, name), h("span", { class: "num" }, `${Math.round(share * 100)} %`)), bar([[`m-${kind}`, share]], `${name}: ${used}`), h("p", { class: "soft small" }, h("span", {}, used), h("span", {}, note))),
    () => h("p", { class: "soft" }, W.noMemory));
}

function draw() {
  const word = trouble ? "away" : !status ? "" : status.state === "ok" ? status.overall : status.state;
  at("overall").className = word;
  put(at("overall"), trouble || (W.overall[word] ?? word));
  if (!status) return;
  document.title = status.requests.in_flight.length ? `(${status.requests.in_flight.length}) Penstock` : "Penstock";
  const notices = Object.values(status.notices);
  at("notices").hidden = !notices.length;
  sync(at("notices"), notices, (text) => text, () => "", (text) => h("li", {}, text));
  panels.foot(status);
  if (view === "overview") {
    drawCharts();
    servers(status.upstreams, act);
    live(status.requests.in_flight);
    recent(status.requests.recent);
    put(at("all"), status.switched.paused === "all" ? W.resumeAll : W.pauseAll);
  } else if (view === "activity") panels.activity(status);
  else if (view === "try") panels.tryIt(status, showKey);
  else if (view === "connect") panels.connect(status);
}

// Views by the address's fragment.
function turn() {
  const wanted = location.hash.slice(1);
  view = wanted in W.views ? wanted : "overview";
  for (const name of Object.keys(W.views)) at(`v-${name}`).hidden = name !== view;
  for (const link of at("nav").children) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (view === "settings") panels.settings(act).catch((error) => say(error.code === "unauthorized" ? W.needsKey : error.message));
  scrollTo(0, 0);
  draw();
}

for (const [id, text] of [["h-over", W.views.overview], ["h-up", W.upstreams], ["h-live", W.live], ["h-recent", W.recent], ["h-acts", W.acts], ["h-err", W.errors]]) at(id).textContent = text;
at("nav").append(...Object.entries(W.views).map(([name, text]) => h("a", { href: `#${name}` }, text)));
const adding = h("form", { id: "add", hidden: true, class: "bar" }, h("input", { type: "url", id: "add-url", required: true, placeholder: "http://192.168.1.20:8080", "aria-label": W.address }), h("button", { class: "main" }, W.add));
adding.addEventListener("submit", (event) => { event.preventDefault(); act("upstreams/add", { url: at("add-url").value }).then(() => { if (at("message").hidden) { adding.reset(); adding.hidden = true; } }); });
at("h-up").after(h("div", { class: "bar side" }, h("button", { id: "all", onclick: () => act(status?.switched.paused === "all" ? "resume" : "pause", {}) }, W.pauseAll), h("button", { onclick: () => { adding.hidden = !adding.hidden; if (!adding.hidden) at("add-url").focus(); } }, W.add)), adding);
addEventListener("hashchange", turn);

function showKey() {
  if (!at("key").hidden) return;
  at("key").hidden = false;
  at("key").replaceChildren(h("p", {}, W.needsKey), h("div", { class: "bar" }, h("input", { id: "key-value", type: "password", required: true, autocomplete: "off", "aria-label": W.key, placeholder: W.key }), h("button", { class: "main" }, W.show)));
}
at("key").addEventListener("submit", (event) => { event.preventDefault(); useKey(at("key-value").value.trim()); at("key").hidden = true; again(); });

async function past() {
  const got = await (await ask("/penstock/history")).json();
  samples = got.samples; everyS = got.every_s;
}

const again = follow((name, data) => {
  trouble = "";
  at("key").hidden = true;
  if (name === "snapshot") {
    if (!status || status.instance !== data.instance) { piecesBefore = null; endedPieces = 0; past().then(soon, () => {}); }
    const known = status?.instance === data.instance ? status.requests.recent : [];
    const fresh = new Set(data.requests.recent.map((r) => r.id));
    data.requests.recent = [...data.requests.recent, ...known.filter((r) => !fresh.has(r.id))].slice(0, MOST_RECENT);
    status = data;
    sampleNow();
  } else if (name === "request" && status) {
    const ended = data.request, { requests } = status;
    endedPieces += ended.chunks;
    requests.in_flight = requests.in_flight.filter((r) => r.id !== ended.id);
    requests.recent = [ended, ...requests.recent.filter((r) => r.id !== ended.id)].slice(0, MOST_RECENT);
  } else if (name === "act" && status) status.acts = [...status.acts, data].slice(-100);
  soon();
}, (why) => {
  if (why.status === 401 || why.status === 403) { trouble = W.needsKey; showKey(); } else if (why.status || why.error) trouble = W.away;
  soon();
});
turn();
