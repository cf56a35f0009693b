// The page: the event stream in, at most some drawings a second out. Lists are bounded; text is only ever set as text.
import { activity } from "./activity.js";
import { tryIt } from "./chat.js";
import { conversations } from "./conversations.js";
import { at, h, put, sync } from "./dom.js";
import * as logs from "./log.js";
import * as panels from "./panels.js";
import { live, recent } from "./requests.js";
import { adding, firstRun, servers } from "./servers.js";
import { ask, follow, useKey } from "./stream.js";
import { more, restart, trends } from "./trends.js";
import { WORDS as W } from "./words.js";

const MOST_RECENT = 50, MOST_ACTS = 100, PAUSE_MS = 200;
let status = null, drawnAt = 0, planned = false, trouble = "", view = "overview";

function soon() {
  if (planned) return;
  planned = true;
  setTimeout(() => requestAnimationFrame(() => { planned = false; drawnAt = performance.now(); draw(); }), Math.max(0, PAUSE_MS - (performance.now() - drawnAt)));
}

function say(text) {
  at("message").hidden = !text;
  at("message").replaceChildren(...(text ? [h("p", {}, text), h("button", { onclick: () => say("") }, W.close)] : []));
}

const why = (error) => (error.code === "admin_token_required" ? W.readOnly : error.code === "unauthorized" ? W.needsKey : error.status ? [error.message, error.hint].filter(Boolean).join(" ") : W.away);

// Whether it was done; what went wrong stands at the top.
async function act(path, body, question) {
  if (question && !(await sure(question))) return false;
  try {
    const answer = await ask(`/penstock/${path}`, body);
    await answer.body?.cancel();
    say("");
    return true;
  } catch (error) {
    say(why(error));
    return false;
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

function draw() {
  const word = trouble ? "away" : !status ? "" : status.state === "ok" ? status.overall : status.state;
  at("overall").dataset.is = word;
  put(at("overall"), trouble || (word === "error" && !status.upstreams.length ? W.overall.none : W.overall[word] ?? word));
  if (!status) return;
  const { in_flight: running, recent: ended } = status.requests;
  document.title = running.length ? `(${running.length}) Penstock` : "Penstock";
  const notices = Object.values(status.notices);
  at("notices").hidden = !notices.length;
  sync(at("notices"), notices, (text) => text, () => "", (text) => h("li", {}, text));
  panels.foot(status);
  more(soon);
  if (view === "overview") {
    firstRun(status);
    trends(status);
    servers(status.upstreams, act);
    live(running);
    conversations([...running, ...ended]);
    recent(ended);
    all.hidden = !status.upstreams.length;
    put(at("all"), status.switched.paused === "all" ? W.resumeAll : W.pauseAll);
    put(at("all-bypass"), status.switched.bypass === "all" ? W.bypassAllOff : W.bypassAll);
  } else if (view === "activity") activity(status);
  else if (view === "try") tryIt(status, showKey);
  else if (view === "connect") panels.connect(status);
  else if (view === "log") logs.log(status);
}

// Views by the address's fragment.
function turn() {
  const wanted = location.hash.slice(1);
  view = Object.hasOwn(W.views, wanted) ? wanted : "overview";
  for (const name of Object.keys(W.views)) at(`v-${name}`).hidden = name !== view;
  for (const link of at("nav").children) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (view !== "log") logs.leave();
  if (view === "settings") panels.settings(act, (error) => say(why(error)));
  scrollTo(0, 0);
  draw();
}

for (const [id, text] of [["h-over", W.views.overview], ["h-up", W.upstreams], ["h-live", W.live], ["h-conv", W.conversations], ["h-recent", W.recent], ["h-acts", W.acts], ["h-err", W.errors]]) at(id).textContent = text;
at("nav").setAttribute("aria-label", W.viewsOf);
at("nav").append(...Object.entries(W.views).map(([name, text]) => h("a", { href: `#${name}` }, text)));
const add = adding(act, why);
const all = h("span", { class: "bar" }, h("button", { id: "all-bypass", onclick: () => act("bypass", { on: status?.switched.bypass !== "all" }) }, W.bypassAll),
  h("button", { id: "all", onclick: () => act(status?.switched.paused === "all" ? "resume" : "pause", {}) }, W.pauseAll));
at("h-up").after(h("div", { class: "bar side" }, all, h("button", { onclick: add.turn }, W.add)), add.node);
addEventListener("hashchange", turn);
document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });

function showKey() {
  if (!at("key").hidden) return;
  at("key").hidden = false;
  at("key").replaceChildren(h("p", {}, W.needsKey), h("div", { class: "bar" }, h("input", { id: "key-value", type: "password", required: true, autocomplete: "off", "aria-label": W.key, placeholder: W.key }), h("button", { class: "main" }, W.show)));
}
at("key").addEventListener("submit", (event) => { event.preventDefault(); useKey(at("key-value").value.trim()); at("key").hidden = true; restart(); again(); });

const again = follow((name, data) => {
  trouble = "";
  if (name === "snapshot") {
    if (view !== "try") at("key").hidden = true;
    const same = status?.instance === data.instance;
    if (!same) restart();
    const known = same ? status.requests.recent : [];
    const fresh = new Set(data.requests.recent.map((r) => r.id));
    data.requests.recent = [...data.requests.recent, ...known.filter((r) => !fresh.has(r.id))].slice(0, MOST_RECENT);
    status = data;
  } else if (name === "request" && status) {
    const ended = data.request, { requests } = status;
    requests.in_flight = requests.in_flight.filter((r) => r.id !== ended.id);
    requests.recent = [ended, ...requests.recent.filter((r) => r.id !== ended.id)].slice(0, MOST_RECENT);
  } else if (name === "act" && status) status.acts = [...status.acts, data].slice(-MOST_ACTS);
  soon();
}, (gone) => {
  if (gone.status === 401 || gone.status === 403) { trouble = W.needsKey; showKey(); } else if (gone.status || gone.error) trouble = W.away;
  soon();
});
turn();
