// Servers: a card each, with what is known of its models and what can be done to it.
import { at, h, put, seconds, short, sync } from "./dom.js";
import { copies } from "./panels.js";
import { ask } from "./stream.js";
import { WORDS as W } from "./words.js";

const MOST_MODELS = 12;

// do(path, body, question): asks where it matters, acts, tells what came of it.
export function servers(upstreams, act) {
  sync(at("upstreams"), upstreams, (u) => u.name, (u) => JSON.stringify(facts(u)), (u) => card(u, act), () => h("div", { class: "card none" }, W.noServers));
}

function state(u) {
  if (u.breaker.state === "open") return ["bad", W.open];
  if (u.breaker.state === "half_open") return ["warn", W.halfOpen];
  const kind = { ok: "good", cloud: "good", unreachable: "bad" }[u.state] ?? "warn";
  return [kind, W.state[u.state] ?? u.state];
}

// What the card shows and nothing that merely ticks: a card is built again only when one of these is different.
function facts(u) {
  const c = u.concurrency, first = u.models.find((m) => m.context?.prefix);
  return {
    name: u.name, url: u.url, kind: u.kind, badge: state(u), flags: ["paused", "drained", "bypass"].filter((name) => u[name]),
    load: W.load(c), waits: c.queued + c.held ? `· ${W.waits(c)}` : "", speed: u.health?.ttft_ms == null ? "" : seconds(u.health.ttft_ms / 1000),
    breaker: u.breaker.state === "closed" ? "" : W.breaker({ why: u.breaker.why }), error: u.error, version: u.server_version,
    findings: (u.health?.findings ?? []).map((f) => f.detail), prefix: first ? W.prefix(first.context.prefix) : "",
    limit: c.limit ? W.limitIs(c) : "", moved: c.moved ? W.moved(c.moved.why) : "", found: W.foundBy[u.found_by] ?? "",
    guard: first?.context.prefix.last_break ? W.guard(first.context.prefix) : first?.context.prefix.reuse_is_impossible ? W.noReuse : "",
    own: u.supervised ? W.own(u.supervised) : "", gaveUp: u.supervised?.state === "given_up",
    models: u.models.slice(0, MOST_MODELS).map((m) => [m.id, W.window(m), W.windowFrom[m.window_source] ?? "", m.slots, m.loaded]), more: Math.max(0, u.models.length - MOST_MODELS),
  };
}

function card(u, act) {
  const f = facts(u), name = u.name;
  const button = (label, run, kind = "") => h("button", { class: kind, "data-k": `${name}:${label}`, "aria-label": `${label}: ${name}`, onclick: run }, label);
  const post = (path, more = {}, question) => () => act(path, { upstream: name, ...more }, question);
  const stopped = u.paused || u.drained;
  const one = (label, value, extra) => value && h("div", {}, h("dt", {}, label), h("dd", {}, value, extra && h("span", { class: "soft" }, ` ${extra}`)));
  const unloads = u.verdict === "local" && ["ollama", "lmstudio"].includes(u.kind) ? u.models.filter((m) => m.loaded).slice(0, 4) : [];
  return h("article", { class: "card server" },
    h("header", {}, h("h3", {}, name), h("span", { class: `tag ${f.badge[0]}` }, f.badge[1]), f.flags.map((flag) => h("span", { class: "tag warn" }, W[flag]))),
    h("p", { class: "soft" }, [W.kind[u.kind] ?? u.kind ?? u.verdict, f.version, u.url, f.found].filter(Boolean).join(" · ")),
    f.error && h("p", { class: "trouble" }, f.error), f.breaker && h("p", { class: "trouble" }, f.breaker), f.findings.map((text) => h("p", { class: "trouble" }, text)), f.own && h("p", { class: f.gaveUp ? "trouble" : "soft" }, f.own),
    h("dl", { class: "stats" }, one(W.fact.load, f.load, f.waits), one(W.fact.limit, f.limit), one(W.fact.speed, f.speed), one(W.fact.prefix, f.prefix), one(W.fact.breaker, W.breakerIs[u.breaker.state])),
    f.moved && h("p", { class: "soft small" }, f.moved), f.guard && h("p", { class: "soft small" }, f.guard),
    u.models.length ? h("ul", { class: "models" }, f.models.map(([id, window, source, slots, loaded]) => h("li", {}, h("span", { class: "id", title: id }, short(id)), h("span", { class: "soft" }, [window, source, slots && W.slots(slots), loaded && W.loaded].filter(Boolean).join(" · ")))), f.more ? h("li", { class: "soft" }, `+ ${f.more}`) : "") : "",
    h("div", { class: "bar" }, f.gaveUp ? button(W.startAgain, post("resume"), "main") : "", stopped ? button(W.resume, post("resume"), "main") : button(W.pause, post("pause")),
      button(W.probe, () => act(`probe?upstream=${encodeURIComponent(name)}`, {})),
      h("details", { class: "menu", "data-k": `menu:${name}` }, h("summary", { "data-k": `more:${name}`, "aria-label": `${W.more}: ${name}` }, W.more),
        h("div", { class: "bar" }, button(u.bypass ? W.bypassOff : W.bypassOn, post("bypass", { on: !u.bypass })), button(W.drain, post("drain", { wait: false }, W.sureDrain(name))),
          unloads.map((m) => button(W.unload(short(m.id)), post("unload", { model: m.id }, W.sureUnload(m.id, name)))),
          button(W.forget, () => act("upstreams/forget", { name }, W.sureForget(name)), "risk")))));
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
