// The end of the gateway's log, and of those of servers that it runs. Asked for again while it is looked at.
import { at, h, put } from "./dom.js";
import { ask } from "./stream.js";
import { WORDS as W } from "./words.js";

const LINES = 300, EVERY_MS = 2000;
let timer = null, out = null, file = null, choice = null, problem = null;

export const leave = () => { clearTimeout(timer); timer = null; };

export function log(status) {
  const servers = status.upstreams.filter((u) => u.supervised).map((u) => u.name);
  if (!out) {
    out = h("pre", { class: "card log", tabindex: 0, "aria-label": W.views.log });
    file = h("p", { class: "soft small" });
    problem = h("p", { class: "none card", role: "status", hidden: true });
    choice = h("select", { "aria-label": W.logOf }, h("option", { value: "" }, W.logGateway), servers.map((name) => h("option", { value: name }, name)));
    choice.hidden = !servers.length;
    choice.addEventListener("change", () => { put(out, ""); look(); });
    at("v-log").append(h("section", {}, h("h2", {}, W.views.log), h("div", { class: "bar" }, choice, file), problem, out));
  }
  if (timer === null) look();
}

async function look() {
  clearTimeout(timer);
  timer = setTimeout(look, EVERY_MS);
  if (document.hidden) return;
  const of = choice.value;
  try {
    const got = await (await ask(`/penstock/log?lines=${LINES}${of ? `&server=${encodeURIComponent(of)}` : ""}`)).json();
    if (of !== choice.value) return; // another one is looked at meanwhile
    const atEnd = out.scrollTop + out.clientHeight >= out.scrollHeight - 20;
    put(out, got.lines.join("\n"));
    put(file, got.file);
    if (atEnd) out.scrollTop = out.scrollHeight;
    problem.hidden = true; out.hidden = false;
  } catch (error) {
    if (of !== choice.value) return;
    put(problem, error.code === "admin_token_required" ? W.logNeeds : error.status ? [error.message, error.hint].filter(Boolean).join(" ") : W.away);
    problem.hidden = false; out.hidden = true;
  }
}
