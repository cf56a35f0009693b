// Servers: a card each, with what is known of its models and what can be done to it.
import { at, h, put, seconds, short, sync } from "./dom.js";
import { copies } from "./panels.js";
import { ask } from "./stream.js";
import { WORDS as W } from "./words.js";

const MOST_MODELS = 12;

// do(path, body, question): asks where it matters, acts, tells what came of it.
export function servers(upstreams, act) {
  sync(at("upstreams"), upstreams, (u) => u.name, (u) => JSON.stringify(facts(u)), (u) => card(u, act), () => h("div", { class: "card none" }, W.noServers));
  const now = new Set(upstreams.map((u) => u.name));
  for (const name of cards.keys()) if (!now.has(name)) cards.delete(name);
  for (const u of upstreams) tick(u);
}

// {server: {what ticks: [where it stands, what is hidden without it]}}
const cards = new Map();

function tick(u) {
  const texts = ticking(u);
  for (const [name, [node, whole]] of Object.entries(cards.get(u.name))) { put(node, texts[name]); whole.hidden = !texts[name]; }
}

// Texts that change under load: their nodes stay, or a click that meets a new card would be lost.
function ticking(u) {
  const c = u.concurrency, prefix = u.models.find((m) => m.context?.prefix)?.context.prefix;
  return {
    load: W.load(c), waits: c.queued + c.held ? `· ${W.waits(c)}` : "", speed: u.health?.ttft_ms == null ? "" : seconds(u.health.ttft_ms / 1000),
    limit: c.limit ? W.limitIs(c) : "", moved: c.moved ? W.moved(c.moved.why) : "", prefix: prefix ? W.prefix(prefix) : "",
    guard: prefix?.last_break ? W.guard(prefix) : prefix?.reuse_is_impossible ? W.noReuse : "", error: u.error ?? "",
    breaker: u.breaker.state === "closed" ? "" : W.breaker({ why: u.breaker.why }), findings: (u.health?.findings ?? []).map((f) => f.detail).join(" "),
  };
}

function state(u) {
  if (u.breaker.state === "open") return ["bad", W.open];
  if (u.breaker.state === "half_open") return ["warn", W.halfOpen];
  const kind = { ok: "good", cloud: "good", unreachable: "bad" }[u.state] ?? "warn";
  return [kind, W.state[u.state] ?? u.state];
}

// What the card is made of and nothing that merely ticks: a card is built again only when one of these is different.
function facts(u) {
  return {
    name: u.name, url: u.url, kind: u.kind, badge: state(u), flags: ["paused", "drained", "bypass"].filter((name) => u[name]),
    version: u.server_version, found: W.foundBy[u.found_by] ?? "", unloads: u.unloads,
    own: u.supervised ? W.own(u.supervised) : "", gaveUp: u.supervised?.state === "given_up",
    models: u.models.slice(0, MOST_MODELS).map((m) => [m.id, W.window(m), W.windowFrom[m.window_source] ?? "", m.slots, m.loaded]), more: Math.max(0, u.models.length - MOST_MODELS),
  };
}

function card(u, act) {
  const f = facts(u), name = u.name;
  // Keyed by what it does to what: "Pause" keeps the focus when it becomes "Resume".
  const button = (key, label, run, kind = "") => h("button", { class: kind, "data-k": `${key}:${name}`, "aria-label": `${label}: ${name}`, onclick: run }, label);
  const post = (path, more = {}, question) => () => act(path, { upstream: name, ...more }, question);
  const stopped = u.paused || u.drained;
  const one = (label, ...value) => h("div", {}, h("dt", {}, label), h("dd", {}, ...value));
  const live = {};
  const text = (key, node, whole = node) => { live[key] = [node, whole]; return whole; };
  const told = (key, label) => { const node = h("span"); return text(key, node, one(label, node)); };
  const load = h("span"), waits = h("span", { class: "soft" });
  text("load", load); text("waits", waits);
  cards.set(name, live);
  const unloads = u.unloads ? u.models.slice(0, MOST_MODELS).filter((m) => m.loaded) : [];
  return h("article", { class: "card server" },
    h("header", {}, h("h3", {}, name), h("span", { class: `tag ${f.badge[0]}` }, f.badge[1]), f.flags.map((flag) => h("span", { class: "tag warn" }, W[flag]))),
    h("p", { class: "soft" }, [W.kind[u.kind] ?? u.kind ?? u.verdict, f.version, u.url, f.found].filter(Boolean).join(" · ")),
    ["error", "breaker", "findings"].map((key) => text(key, h("p", { class: "trouble" }))), f.own && h("p", { class: f.gaveUp ? "trouble" : "soft" }, f.own),
    h("dl", { class: "stats" }, one(W.fact.load, load, " ", waits), told("limit", W.fact.limit), told("speed", W.fact.speed), told("prefix", W.fact.prefix), one(W.fact.breaker, W.breakerIs[u.breaker.state])),
    ["moved", "guard"].map((key) => text(key, h("p", { class: "soft small" }))),
    u.models.length ? h("ul", { class: "models" }, f.models.map(([id, window, source, slots, loaded]) => h("li", {}, h("span", { class: "id", title: id }, short(id)), h("span", { class: "soft" }, [window, source, slots && W.slots(slots), loaded && W.loaded].filter(Boolean).join(" · ")))), f.more ? h("li", { class: "soft" }, `+ ${f.more}`) : "") : "",
    h("div", { class: "bar" }, f.gaveUp ? button("start", W.startAgain, post("resume"), "main") : "", stopped ? button("stop", W.resume, post("resume"), "main") : button("stop", W.pause, post("pause")),
      button("look", W.probe, () => act(`probe?upstream=${encodeURIComponent(name)}`, {})),
      h("details", { class: "menu", "data-k": `menu:${name}` }, h("summary", { "data-k": `more:${name}`, "aria-label": `${W.more}: ${name}` }, W.more),
        h("div", { class: "bar" }, button("bypass", u.bypass ? W.bypassOff : W.bypassOn, post("bypass", { on: !u.bypass })), button("drain", W.drain, post("drain", { wait: false }, W.sureDrain(name))),
          unloads.map((m) => button(`unload ${m.id}`, W.unload(short(m.id)), post("unload", { model: m.id }, W.sureUnload(m.id, name)))),
          button("forget", W.forget, () => act("upstreams/forget", { name }, W.sureForget(name)), "risk")))));
}

// The form that adds a server, by its address or of those found on this machine: { node, turn }.
export function adding(act, why) {
  const url = h("input", { type: "url", id: "add-url", required: true, placeholder: "http://192.168.1.20:8080", "aria-label": W.address });
  const found = h("ul", { class: "found" }), said = h("p", { class: "soft small", role: "status" });
  const form = h("form", { class: "bar" }, url, h("button", { class: "main" }, W.addThis));
  const node = h("div", { id: "add", class: "card", hidden: true }, form, said, found);
  const add = async (address) => { if (await act("upstreams/add", { url: address })) { url.value = ""; node.hidden = true; } };
  form.addEventListener("submit", (event) => { event.preventDefault(); add(url.value); });
  const search = async () => {
    put(said, W.searching);
    found.replaceChildren();
    try {
      const got = await (await ask("/penstock/detect", {})).json();
      put(said, got.found.length ? W.found : W.foundNone(got.looked_at));
      found.append(...got.found.map((one) => h("li", {}, h("span", {}, `${W.kind[one.kind] ?? one.kind} · ${one.url}`), h("button", { type: "button", "aria-label": `${W.addThis}: ${one.url}`, onclick: () => add(one.url) }, W.addThis))));
    } catch (error) { put(said, why(error)); }
  };
  return { node, turn: () => { node.hidden = !node.hidden; if (!node.hidden) { url.focus(); search(); } } };
}

// Until the first request: what was found, and how a client gets here.
export function firstRun(status) {
  const node = at("first"), used = status.requests.recent.length || status.requests.in_flight.length || status.errors.length;
  const able = status.upstreams.filter((u) => u.state === "ok" || u.state === "cloud"), models = able.flatMap((u) => u.models).length;
  node.hidden = Boolean(status.upstreams.length && (used || !able.length));
  const mark = JSON.stringify([status.url, able.map((u) => u.name), models]);
  if (node.hidden || node.dataset.of === mark) return;
  node.dataset.of = mark;
  node.replaceChildren(h("div", { class: "card welcome" }, h("h2", {}, able.length ? W.welcome(able.length, models) : W.welcomeNone), h("p", { class: "soft" }, able.length ? W.welcomeNext : W.noUpstreams),
    able.length ? h("div", { class: "commands" }, copies("penstock connect claude"), copies(`${status.url}/v1`)) : "", able.length ? h("p", {}, h("a", { href: "#connect" }, W.otherClients), " · ", h("a", { href: "#try" }, W.tryLink)) : ""));
}
