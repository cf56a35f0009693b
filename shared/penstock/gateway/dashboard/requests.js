// Requests: those that run, with their progress, and those that ended, with what Penstock changed and why.
import { at, clock, h, put, seconds, short, sync } from "./dom.js";
import { bar, legend } from "./charts.js";
import { gauge } from "./conversations.js";
import { WORDS as W } from "./words.js";

const MOST = 50, RECENT_MS = 1000;
const tag = (text, kind = "") => h("span", { class: `tag ${kind}` }, text);
const title = (r) => short(r.model) || r.path;
const who = (r) => [r.client === "anonymous" ? "" : r.client, (r.user_agent || "").split("/")[0], r.upstream].filter(Boolean).join(" · ");

// Live rows change with every snapshot: their nodes stay, their texts are set.
const rows = new Map();
export function live(requests) {
  const shown = requests.slice(0, MOST);
  sync(at("live"), shown, (r) => r.id, () => "", (r) => {
    const row = { stage: h("span"), told: h("span", { class: "soft" }), age: h("span", { class: "num" }), fill: h("progress", { max: 1, "aria-label": title(r) }) };
    row.node = h("div", { class: "row" }, h("div", { class: "line" }, h("strong", {}, title(r)), h("span", { class: "soft who" }, who(r)), row.age),
      h("div", { class: "line" }, row.stage, row.told), row.fill);
    rows.set(r.id, row);
    return row.node;
  }, () => h("p", { class: "none" }, W.noLive));
  for (const r of shown) {
    const row = rows.get(r.id), { prefill, queue } = r;
    put(row.stage, W.stage[r.stage] ?? r.stage);
    row.stage.className = `stage ${r.stage}`;
    put(row.age, seconds(r.age_s));
    const made = r.completion_tokens ?? r.chunks, rate = r.answering_s > 0.5 ? made / r.answering_s : 0;
    const first = r.ttft_s == null ? "" : W.firstAfter(seconds(r.ttft_s)), count = r.completion_tokens == null ? W.pieces(made, rate) : W.made(made, rate);
    put(row.told, r.stage === "prefilling" && prefill ? W.prefill(prefill) : queue ? W.place(queue) : r.stage === "streaming" ? [count, first].filter(Boolean).join(" · ") : "");
    if (r.stage === "prefilling" && prefill) row.fill.value = prefill.processed / prefill.total;
    else row.fill.value = r.stage === "streaming" ? 1 : 0;
    row.fill.classList.toggle("read", r.stage === "streaming"); // the prompt is; nothing moves by itself, it would cost the model its cores
    row.fill.hidden = r.stage !== "prefilling" && r.stage !== "streaming";
  }
  const now = new Set(shown.map((r) => r.id));
  for (const id of rows.keys()) if (!now.has(id)) rows.delete(id);
  put(at("live-more"), requests.length > MOST ? W.moreRunning(requests.length - MOST) : "");
}

// Under load all of them are new each time, and none can be read: once a second is enough.
let wanted = [], shown = [], waits = null, drawnAt = -Infinity;
export function recent(requests) {
  wanted = requests;
  waits ??= setTimeout(drawRecent, Math.max(0, drawnAt + RECENT_MS - performance.now()));
}

// A row that a person opened or stands at stays until it is closed, after those that are newer.
function drawRecent() {
  waits = null;
  drawnAt = performance.now();
  const latest = wanted.slice(0, MOST), ids = new Set(latest.map((r) => r.id));
  const used = new Set([...at("recent").children].filter((node) => node.open || node.contains(document.activeElement)).map((node) => node.dataset.k));
  shown = [...latest, ...shown.filter((r) => used.has(r.id) && !ids.has(r.id))];
  sync(at("recent"), shown, (r) => r.id, () => "", ended,
    () => h("p", { class: "none" }, W.noRecent, h("a", { href: "#connect" }, W.connectIt)));
}

function ended(r) {
  const bad = r.error_code || (r.status >= 400 && !r.client_gone);
  const tags = [
    r.client_gone && tag(W.hungUp), bad && tag(r.error_code ?? r.status, "bad"), r.resumed && tag(W.resumed, "good"), r.fitted && tag(W.fitted, "note"),
    r.repaired && tag(W.repaired(r.repaired), "note"), r.loop_ended && tag(W.loopEnded, "note"), r.attempts.length > 1 && tag(W.attempts(r.attempts.length), "note"),
    r.changes.length ? tag(W.changes(r.changes.length), "note") : !bad && tag(W.noChanges),
  ].filter(Boolean);
  const line = h("summary", { "data-k": `s:${r.id}` },
    h("span", { class: `dot ${bad ? "bad" : r.client_gone ? "soft" : "good"}`, title: bad ? r.error_code : "" }),
    h("time", { class: "soft num" }, clock(r.arrived_at)), h("strong", {}, title(r)), h("span", { class: `who ${bad ? "trouble" : "soft"}` }, (bad && r.error_message) || who(r)),
    h("span", { class: "tags" }, tags), h("span", { class: "num soft tok" }, r.completion_tokens == null ? "" : W.tokens(r.completion_tokens)), h("span", { class: "num dur" }, seconds(r.duration_s)));
  const node = h("details", { class: "row", "data-k": r.id }, line);
  node.addEventListener("toggle", () => { if (node.open && node.children.length === 1) node.append(details(r)); });
  return node;
}

function details(r) {
  const parts = [];
  if (r.error_code) parts.push(h("h3", {}, W.failedWhy), h("p", {}, r.error_message ?? r.error_code));
  parts.push(h("h3", {}, W.why));
  if (!r.changes.length) parts.push(h("p", { class: "soft" }, r.attempts.length ? W.whyNone : W.whyUnsent));
  else {
    const steps = new Map();
    for (const c of r.changes) steps.set(c.step, [...(steps.get(c.step) ?? []), c]);
    parts.push(h("dl", { class: "changes" }, [...steps].flatMap(([step, all]) => [h("dt", {}, W.step[step] ?? step),
      h("dd", {}, h("ul", {}, all.map((c) => h("li", {}, h("code", {}, c.field), ` ${W.action[c.action] ?? c.action}`, c.detail && h("span", { class: "soft" }, ` – ${c.detail}`)))))])));
  }
  const side = [];
  const full = gauge(r);
  if (full) side.push(h("h3", {}, W.context), full);
  if (r.duration_s) side.push(h("h3", {}, W.time), times(r));
  if (r.warnings.length) parts.push(h("h3", {}, W.warnings), h("ul", {}, r.warnings.map((text) => h("li", {}, text))));
  if (r.attempts.some((a) => a.code)) parts.push(h("h3", {}, W.tries), h("ol", {}, r.attempts.map((a) => h("li", {}, `${a.upstream} · ${seconds(a.seconds)} · `, h("span", { class: "soft" }, a.code ? `${a.code}: ${a.message}` : `${a.status}`)))));
  const facts = [[W.requestId, r.id], [W.path, `${r.method} ${r.path}`], [W.model, r.upstream_model], [W.status, r.status], [W.client, r.user_agent]];
  side.push(h("dl", { class: "facts" }, facts.filter(([, v]) => v).flatMap(([name, v]) => [h("dt", {}, name), h("dd", {}, String(v))])));
  return h("div", { class: "two inside" }, h("div", {}, parts), h("div", {}, side));
}

function times(r) {
  const P = W.timeParts, ttft = r.ttft_s ?? 0, answer = Math.max(0, r.duration_s - r.waited_s - ttft);
  const told = [["p-wait", P.waited, r.waited_s > 0.005 ? seconds(r.waited_s) : ""], ["p-read", P.prefill, ttft ? seconds(ttft) : ""], ["p-answer", P.answer, answer ? seconds(answer) : ""]];
  const rate = r.completion_tokens > 1 && answer > 0.05 ? W.perSecond(r.completion_tokens / answer) : "";
  return h("div", {}, bar([["p-wait", r.waited_s / r.duration_s], ["p-read", ttft / r.duration_s], ["p-answer", answer / r.duration_s]], told.map(([, name, v]) => `${name} ${v}`).join(", ")), legend([...told, ["empty", "", rate]]));
}
