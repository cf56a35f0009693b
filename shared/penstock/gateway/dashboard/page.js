// The page: the event stream in, one drawing per animation frame out. Lists are bounded; text is only ever set as text.
import { WORDS as W } from "./words.js";

const MOST_RECENT = 50;
const shown = new Map();
let held = false; // a button is being pressed: it must not be replaced
let status = null, dirty = false, connected = true;
const at = (id) => document.getElementById(id);

function make(tag, text, ...children) {
  const node = document.createElement(tag);
  if (text !== "") node.textContent = text;
  node.append(...children);
  return node;
}
const seconds = (value) => (value == null ? "" : value < 10 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`);

function soon() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => { dirty = false; draw(); });
}

function say(text) {
  at("message").textContent = text;
  at("message").hidden = !text;
}

async function act(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (answer.ok) { say(""); await answer.body?.cancel(); return; }
  const error = (await answer.json().catch(() => ({}))).error;
  say(error?.code === "admin_token_required" ? W.readOnly : error?.message ?? `HTTP ${answer.status}`);
}

function button(label, name, key, work, question) {
  const node = make("button", label);
  node.dataset.key = `${key}:${name}`;
  node.setAttribute("aria-label", `${label}: ${name}`);
  node.addEventListener("click", () => { if (!question || confirm(question)) work().catch(() => say(W.away)); });
  return node;
}

function upstream(u) {
  const open = u.breaker.state !== "closed";
  const head = make("h3", u.name, make("span", ` ${W.state[u.state] ?? u.state}`));
  head.lastChild.className = `state ${open ? "unreachable" : u.state}`;
  const facts = [`${u.kind ?? u.verdict} · ${u.url}`, W.load(u.concurrency)];
  for (const model of u.models.slice(0, 20)) facts.push(`${model.id}: ${W.window(model)}`);
  if (open) facts.push(W.breaker(u.breaker));
  for (const one of ["paused", "drained", "bypass"]) if (u[one]) facts.push(W[one]);
  if (u.error) facts.push(u.error);
  const post = (path, more = {}) => () => act(`/penstock/${path}`, { upstream: u.name, ...more });
  const bar = make("div", "",
    u.paused || u.drained ? button(W.resume, u.name, "resume", post("resume")) : button(W.pause, u.name, "pause", post("pause")),
    button(W.drain, u.name, "drain", post("drain", { wait: false }), W.sureDrain(u.name)),
    button(u.bypass ? W.bypassOff : W.bypassOn, u.name, "bypass", post("bypass", { on: !u.bypass })),
    button(W.probe, u.name, "probe", () => act(`/penstock/probe?upstream=${encodeURIComponent(u.name)}`, {})),
    button(W.forget, u.name, "forget", () => act("/penstock/upstreams/forget", { name: u.name }), W.sureForget(u.name)));
  bar.className = "bar";
  return make("article", "", head, ...facts.map((text) => make("p", text)), bar);
}

function table(requests, label) {
  const rows = requests.map((r) => {
    const stage = r.prefill && r.stage === "prefilling" ? `prefilling ${Math.round((100 * r.prefill.processed) / r.prefill.total)} %` : r.error_code ?? (r.stage === "done" ? r.outcome ?? "done" : r.stage);
    const changes = make("td", "");
    if (r.changes.length) {
      const why = make("details", "", make("summary", String(r.changes.length)));
      for (const c of r.changes) why.append(make("p", `${c.field}: ${c.action}. ${c.detail ?? ""}`));
      why.dataset.key = `why:${r.id}`;
      why.firstChild.dataset.key = `sum:${r.id}`;
      changes.append(why);
    }
    const cells = [r.model || r.path, r.client, stage, seconds(r.duration_s ?? r.age_s), seconds(r.ttft_s), r.completion_tokens ?? ""];
    return make("tr", "", ...cells.map((text) => make("td", String(text))), changes);
  });
  const head = make("thead", "", make("tr", "", ...W.columns.map((text) => { const th = make("th", text); th.scope = "col"; return th; })));
  const all = make("div", "", make("table", "", head, make("tbody", "", ...rows)));
  all.className = "wide"; all.tabIndex = 0; all.dataset.key = `table:${label}`;
  all.setAttribute("role", "group"); all.setAttribute("aria-label", label);
  return all;
}

function fill(id, nodes, empty) {
  const all = nodes.length ? nodes : [make("p", empty)];
  const html = all.map((node) => node.outerHTML).join("");
  if (shown.get(id) === html) return;
  shown.set(id, html);
  at(id).replaceChildren(...all);
}

function draw() {
  if (!status || held) return;
  const focus = document.activeElement?.dataset?.key;
  const open = new Set([...document.querySelectorAll("details[open]")].map((node) => node.dataset.key));
  const word = status.state === "ok" ? status.overall : status.state;
  at("overall").className = word;
  const told = connected ? W.overall[word] ?? word : W.away;
  if (at("overall").textContent !== told) at("overall").textContent = told;
  const notices = Object.values(status.notices);
  at("notices").hidden = !notices.length;
  at("notices").replaceChildren(...notices.map((text) => make("li", text)));
  fill("upstreams", status.upstreams.map(upstream), W.noUpstreams);
  const { in_flight: live, recent } = status.requests;
  fill("live", live.length ? [table(live.slice(0, MOST_RECENT), W.live)] : [], W.noLive);
  fill("recent", recent.length ? [table(recent.slice(0, MOST_RECENT), W.recent)] : [], W.noRecent);
  fill("acts", status.acts.slice(-20).reverse().map((a) => make("p", `${new Date(a.at * 1000).toLocaleTimeString()} ${a.upstream} ${a.act.replaceAll("_", " ")}: ${a.why}`)), W.noActs);
  for (const node of document.querySelectorAll("details")) node.open = open.has(node.dataset.key);
  if (focus) document.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
}

for (const [id, text] of [["h-up", W.upstreams], ["h-live", W.live], ["h-recent", W.recent], ["h-acts", W.acts]]) at(id).textContent = text;
addEventListener("pointerdown", () => { held = true; });
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => setTimeout(() => { held = false; soon(); }));
function follow() {
  const stream = new EventSource("/penstock/events?every_s=1");
  stream.addEventListener("open", () => { connected = true; soon(); });
  stream.addEventListener("snapshot", (event) => { connected = true; status = JSON.parse(event.data); soon(); });
  stream.addEventListener("request", (event) => {
    if (!status) return;
    const ended = JSON.parse(event.data).request, { requests } = status;
    requests.in_flight = requests.in_flight.filter((r) => r.id !== ended.id);
    requests.recent = [ended, ...requests.recent.filter((r) => r.id !== ended.id)].slice(0, MOST_RECENT);
    soon();
  });
  stream.addEventListener("error", () => {
    connected = false;
    if (!status) at("overall").textContent = W.away;
    soon();
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
}
follow();
