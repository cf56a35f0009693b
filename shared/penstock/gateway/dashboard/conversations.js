// The last conversations: how full the model's window is, what of the prompt was reused, and what was left out to fit.
import { at, h, number, short, sync } from "./dom.js";
import { bar, legend } from "./charts.js";
import { WORDS as W } from "./words.js";

const MOST = 6;
const SHOWN = ["id", "prompt_tokens", "prompt_tokens_planned", "prompt_tokens_original", "cached_tokens", "completion_tokens", "window"];

// The gauge of one request; null while nothing is known of its prompt.
export function gauge(r) {
  const prompt = r.prompt_tokens ?? r.prompt_tokens_planned;
  if (!prompt) return null;
  const cached = Math.min(r.cached_tokens ?? 0, prompt), answer = r.completion_tokens ?? 0;
  const dropped = Math.max(0, (r.prompt_tokens_original ?? 0) - (r.prompt_tokens_planned ?? prompt));
  const whole = Math.max(r.window ?? 0, prompt + answer);
  const P = W.contextParts, told = [["p-reused", P.reused, number(cached || null)], ["p-read", P.read, number(prompt - cached)], ["p-answer", P.answer, number(answer || null)], ["p-dropped", P.dropped, number(dropped || null)]];
  return h("div", {}, bar([["p-reused", cached / whole], ["p-read", (prompt - cached) / whole], ["p-answer", answer / whole]], told.filter(([, , v]) => v).map(([, name, v]) => `${name} ${v}`).join(", ")),
    legend([...told, ["empty", "", r.window ? W.windowOf(r.window) : ""]]));
}

// Requests -> conversations, the last one first. Where a client does not say which it is, one client with one model is one.
function grouped(requests) {
  const found = new Map();
  for (const r of requests) {
    if (!(r.prompt_tokens ?? r.prompt_tokens_planned) || !r.upstream) continue;
    const of = r.conversation ?? `${r.client} ${r.user_agent} ${r.model}`;
    const known = found.get(of);
    if (known) known.count += 1;
    else found.set(of, { of, last: r, count: 1 });
  }
  return [...found.values()].slice(0, MOST);
}

export function conversations(requests) {
  const shown = grouped(requests);
  at("s-conv").hidden = !shown.length;
  sync(at("conversations"), shown, (c) => c.of, (c) => JSON.stringify([c.count, ...SHOWN.map((name) => c.last[name])]), (c) => {
    const r = c.last, used = (r.prompt_tokens ?? r.prompt_tokens_planned) + (r.completion_tokens ?? 0);
    return h("article", { class: "card talk" },
      h("div", { class: "line" }, h("strong", {}, short(r.model)), h("span", { class: "soft who" }, [W.requests(c.count), r.client === "anonymous" ? "" : r.client, (r.user_agent || "").split("/")[0]].filter(Boolean).join(" · ")),
        r.window ? h("span", { class: "num" }, W.full(Math.round((100 * used) / r.window))) : ""), gauge(r));
  });
}
