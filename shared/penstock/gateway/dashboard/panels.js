// The other views: errors and what happened, the try-it box, how to connect, settings in force.
import { at, clock, h, number, put, seconds, short, sync } from "./dom.js";
import { ask, events, headers } from "./stream.js";
import { bar } from "./charts.js";
import { WORDS as W } from "./words.js";

export function activity(status) {
  const errors = [...status.errors].sort((a, b) => b.count - a.count).slice(0, 50);
  const most = Math.max(1, ...errors.map((e) => e.count));
  sync(at("errors"), errors, (e) => `${e.upstream} ${e.code}`, (e) => `${e.count}/${most}`,
    (e) => h("div", { class: "error" }, h("code", {}, e.code), h("span", { class: "soft" }, e.upstream === "none" ? "" : e.upstream), bar([["m-heavy", e.count / most]], `${e.code}: ${e.count}`), h("span", { class: "num" }, number(e.count))),
    () => h("p", { class: "none" }, W.noErrors));
  sync(at("acts"), [...status.acts].reverse().slice(0, 50).map((a, i, all) => ({ ...a, k: `${a.at} ${a.act} ${a.upstream} ${all.length}` })), (a) => a.k, () => "",
    (a) => h("div", { class: "act" }, h("time", { class: "soft num" }, clock(a.at)), h("strong", {}, W.act[a.act] ?? a.act), h("span", {}, a.upstream), h("span", { class: "soft" }, a.why)),
    () => h("p", { class: "none" }, W.noActs));
}

const CLIENTS = ["claude", "codex", "opencode", "qwen", "aider", "continue", "cline", "zed", "open-webui", "litellm", "env"];
const copies = (text) => {
  const button = h("button", { "aria-label": `${W.copy}: ${text}` }, W.copy);
  button.addEventListener("click", async () => { await navigator.clipboard?.writeText(text); put(button, W.copied); setTimeout(() => put(button, W.copy), 1500); });
  return h("div", { class: "copy" }, h("code", {}, text), button);
};

export function connect(status) {
  if (at("v-connect").children.length) return;
  at("v-connect").append(h("section", {}, h("h2", {}, W.connectIt), h("p", { class: "soft" }, W.connectIntro), h("div", { class: "commands" }, CLIENTS.map((name) => copies(`penstock connect ${name}`)))),
    h("section", {}, h("h2", {}, W.connectAny), h("div", { class: "commands" }, copies(`${status.url}/v1`), copies(status.url))));
}

const options = (models) => models.map((id) => h("option", { value: id }, short(id)));

export function tryIt(status, refused) {
  const models = [...new Set(status.upstreams.filter((u) => u.state !== "unreachable").flatMap((u) => u.models.map((m) => m.id)))].slice(0, 200);
  const select = at("try-model");
  if (select) {
    const has = [...select.options].map((o) => o.value), chosen = select.value;
    if (has.join("\n") === models.join("\n")) return;
    select.replaceChildren(...options(models));
    if (models.includes(chosen)) select.value = chosen;
    return;
  }
  let stop = null;
  const answer = h("div", { id: "try-answer", class: "card answer", "aria-live": "polite", hidden: true }), said = h("div", { id: "try-said" });
  const button = h("button", { class: "main" }, W.send);
  const text = h("textarea", { id: "try-text", rows: 4, required: true });
  const form = h("form", { class: "card try" }, h("label", { for: "try-model" }, W.model_), h("select", { id: "try-model" }, options(models)),
    h("label", { for: "try-text" }, W.prompt), text, h("div", { class: "bar" }, button));
  const run = async () => {
    stop = new AbortController();
    put(button, W.stop);
    answer.replaceChildren(); answer.hidden = false; said.replaceChildren();
    const facts = [];
    const tell = (pairs) => { facts.push(...pairs); said.replaceChildren(h("h3", {}, W.announced), h("dl", { class: "facts card" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))); };
    try {
      const got = await fetch("/v1/chat/completions", { method: "POST", signal: stop.signal, headers: headers({ "content-type": "application/json" }),
        body: JSON.stringify({ model: at("try-model").value || "any", messages: [{ role: "user", content: text.value }], stream: true, stream_options: { include_usage: true } }) });
      tell([...got.headers].filter(([name]) => name.startsWith("penstock-")));
      if (!got.ok) { const error = (await got.json().catch(() => ({}))).error ?? {}; if (got.status === 401) refused(); answer.append(h("p", { class: "trouble" }, error.message ?? `HTTP ${got.status}`)); return; }
      await events(got, (name, data) => {
        if (name === "penstock") { tell(Object.entries(JSON.parse(data)).map(([k, v]) => [k, typeof v === "object" ? JSON.stringify(v) : String(v)])); return; }
        if (data === "[DONE]") return;
        const one = JSON.parse(data);
        if (one.error) answer.append(h("p", { class: "trouble" }, one.error.message));
        const delta = one.choices?.[0]?.delta;
        if (delta?.reasoning_content) answer.append(h("span", { class: "soft" }, delta.reasoning_content));
        if (delta?.content) answer.append(delta.content);
      });
    } catch (error) { if (error.name !== "AbortError") answer.append(h("p", { class: "trouble" }, W.away)); } finally { stop = null; put(button, W.send); }
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); if (stop) stop.abort(); else run(); });
  at("v-try").append(h("section", {}, h("h2", {}, W.views.try), h("p", { class: "soft" }, W.tryIntro), form, answer, said));
}

export async function settings(act) {
  const got = await (await ask("/penstock/settings")).json();
  const rows = [];
  const walk = (value, path) => {
    if (value && typeof value === "object" && Object.keys(value).length) for (const [name, inner] of Object.entries(value)) walk(inner, path ? `${path}.${name}` : name);
    else rows.push([path, value === null ? "–" : typeof value === "object" ? "none" : String(value), origin(got.origins, path)]);
  };
  walk(got.settings, "");
  const filter = h("input", { type: "search", id: "set-filter", placeholder: W.filter, "aria-label": W.filter });
  const only = h("input", { type: "checkbox", id: "set-only" });
  const body = h("tbody");
  const show = () => body.replaceChildren(...rows.filter(([name, , from]) => name.includes(filter.value.trim().toLowerCase()) && (!only.checked || from)).map(([name, value, from]) => h("tr", {}, h("td", {}, h("code", {}, name)), h("td", {}, value), h("td", { class: "soft" }, from || W.byDefault))));
  for (const one of [filter, only]) one.addEventListener("input", show);
  show();
  at("v-settings").replaceChildren(h("section", {}, h("h2", {}, W.views.settings), h("p", { class: "soft" }, W.settingsIntro(got.file)), got.warnings.length ? h("ul", {}, got.warnings.map((w) => h("li", {}, w))) : "",
    h("div", { class: "bar" }, filter, h("label", {}, only, ` ${W.onlySet}`), h("button", { onclick: () => act("reload", {}).then(() => settings(act)) }, W.reload)),
    h("div", { class: "card wide", tabindex: 0, role: "group", "aria-label": W.views.settings }, h("table", {}, h("thead", {}, h("tr", {}, [W.setting, W.value, W.source].map((t) => h("th", { scope: "col" }, t)))), body))));
}

function origin(origins, path) {
  for (let p = path; p; p = p.slice(0, Math.max(0, p.lastIndexOf(".")))) if (origins[p]) return origins[p];
  return "";
}

export const foot = (status) => put(at("foot"), W.foot(status, seconds(status.uptime_s)));
