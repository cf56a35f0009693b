// Servers: a card each, with what is known of its models and what can be done to it.
import { at, h, seconds, short, sync } from "./dom.js";
import { WORDS as W } from "./words.js";

const MOST_MODELS = 12;

// do(path, body, question): asks where it matters, acts, tells what came of it.
export function servers(upstreams, act) {
  sync(at("upstreams"), upstreams, (u) => u.name, (u) => JSON.stringify(facts(u)), (u) => card(u, act), () => h("div", { class: "card none" }, W.noUpstreams));
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
    h("p", { class: "soft" }, [u.kind ?? u.verdict, f.version, u.url].filter(Boolean).join(" · ")),
    f.error && h("p", { class: "trouble" }, f.error), f.breaker && h("p", { class: "trouble" }, f.breaker), f.findings.map((text) => h("p", { class: "trouble" }, text)),
    h("dl", { class: "stats" }, one(W.fact.load, f.load, f.waits), one(W.fact.speed, f.speed), one(W.fact.prefix, f.prefix)),
    u.models.length ? h("ul", { class: "models" }, f.models.map(([id, window, source, slots, loaded]) => h("li", {}, h("span", { class: "id", title: id }, short(id)), h("span", { class: "soft" }, [window, source, slots && W.slots(slots), loaded && W.loaded].filter(Boolean).join(" · ")))), f.more ? h("li", { class: "soft" }, `+ ${f.more}`) : "") : "",
    h("div", { class: "bar" }, stopped ? button(W.resume, post("resume"), "main") : button(W.pause, post("pause")),
      button(W.probe, () => act(`probe?upstream=${encodeURIComponent(name)}`, {})),
      h("details", { class: "menu", "data-k": `menu:${name}` }, h("summary", { "data-k": `more:${name}`, "aria-label": `${W.more}: ${name}` }, W.more),
        h("div", { class: "bar" }, button(u.bypass ? W.bypassOff : W.bypassOn, post("bypass", { on: !u.bypass })), button(W.drain, post("drain", { wait: false }, W.sureDrain(name))),
          unloads.map((m) => button(W.unload(short(m.id)), post("unload", { model: m.id }, W.sureUnload(m.id, name)))),
          button(W.forget, () => act("upstreams/forget", { name }, W.sureForget(name)), "risk")))));
}
