// How to connect a client, and the settings in force.
import { at, h, put, seconds } from "./dom.js";
import { ask } from "./stream.js";
import { WORDS as W } from "./words.js";

const CLIENTS = ["claude", "codex", "opencode", "qwen", "aider", "continue", "cline", "zed", "open-webui", "litellm", "env"];
export const copies = (text) => {
  const button = h("button", { "aria-label": `${W.copy}: ${text}` }, W.copy), code = h("code", {}, text);
  button.addEventListener("click", async () => {
    // There is no clipboard over plain HTTP on another machine, and it may be refused: then the text is selected.
    const done = await copied(text);
    if (!done) getSelection().selectAllChildren(code);
    put(button, done ? W.copied : W.selected);
    setTimeout(() => put(button, W.copy), 1500);
  });
  return h("div", { class: "copy" }, code, button);
};

async function copied(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { return false; }
}

export function connect(status) {
  if (at("v-connect").children.length) return;
  at("v-connect").append(h("section", {}, h("h2", {}, W.connectIt), h("p", { class: "soft" }, W.connectIntro), h("div", { class: "commands" }, CLIENTS.map((name) => copies(`penstock connect ${name}`)))),
    h("section", {}, h("h2", {}, W.connectAny), h("div", { class: "commands" }, copies(`${status.url}/v1`), copies(status.url))));
}

// failed(error): says why there is nothing to show.
export async function settings(act, failed) {
  let got;
  try { got = await (await ask("/penstock/settings")).json(); } catch (error) { failed(error); return; }
  const rows = [];
  const walk = (value, path) => {
    if (value && typeof value === "object" && Object.keys(value).length) for (const [name, inner] of Object.entries(value)) walk(inner, path ? `${path}.${name}` : name);
    else rows.push([path, value === null ? "–" : typeof value === "object" ? W.empty : String(value), origin(got.origins, path)]);
  };
  walk(got.settings, "");
  const filter = h("input", { type: "search", id: "set-filter", placeholder: W.filter, "aria-label": W.filter });
  const only = h("input", { type: "checkbox", id: "set-only" });
  const body = h("tbody");
  const show = () => body.replaceChildren(...rows.filter(([name, , from]) => name.includes(filter.value.trim().toLowerCase()) && (!only.checked || from)).map(([name, value, from]) => h("tr", {}, h("td", {}, h("code", {}, name)), h("td", {}, value), h("td", { class: "soft" }, from || W.byDefault))));
  for (const one of [filter, only]) one.addEventListener("input", show);
  show();
  at("v-settings").replaceChildren(h("section", {}, h("h2", {}, W.views.settings), h("p", { class: "soft" }, W.settingsIntro(got.file)), got.warnings.length ? h("ul", {}, got.warnings.map((w) => h("li", {}, w))) : "",
    h("div", { class: "bar" }, filter, h("label", {}, only, ` ${W.onlySet}`), h("button", { onclick: () => act("reload", {}).then((done) => done && settings(act, failed)) }, W.reload)),
    h("div", { class: "card wide", tabindex: 0, role: "group", "aria-label": W.views.settings }, h("table", {}, h("thead", {}, h("tr", {}, [W.setting, W.value, W.source].map((t) => h("th", { scope: "col" }, t)))), body))));
}

function origin(origins, path) {
  for (let p = path; p; p = p.slice(0, Math.max(0, p.lastIndexOf(".")))) if (origins[p]) return origins[p];
  return "";
}

export const foot = (status) => put(at("foot"), W.foot(status, seconds(status.uptime_s)));
