// The six charts of the overview, from the gateway's own history: a page that was just opened has the last half hour.
import { chart } from "./charts.js";
import { at, bytes, h, number, put, seconds } from "./dom.js";
import { ask } from "./stream.js";
import { WORDS as W } from "./words.js";

const LEAST_SAMPLES = 60, MOST_SAMPLES = 360;
let samples = [], everyS = 5, asking = false, askedAt = -Infinity;

const words = { about: W.chart, ago: W.ago, now: W.now, spoken: (text) => put(at("pointed"), text) };
const tenth = (v) => (v >= 100 ? number(v) : v ? (Math.round(v * 10) / 10).toString() : "0");
const percent = (v) => `${Math.round(v * 100)} %`;
const T = W.tile;
const running = chart(T.running, [["area", T.running], ["limit", W.limit]], { ...words, text: tenth });
const waiting = chart(T.waiting, [["area wait", T.waiting]], { ...words, text: number });
const speed = chart(T.speed, [["area speed", T.speed]], { ...words, text: tenth, floor: 10 });
const first = chart(T.first, [["first", T.first]], { ...words, text: seconds, floor: 1 });
const failed = chart(T.failed, [["area fail", T.failed]], { ...words, text: number });
const memory = chart(T.memory, [["area mem", W.memory], ["gpu", W.gpu]], { ...words, text: percent, floor: 1 });
const gpus = h("ul", { class: "gpus" });
memory.node.append(gpus);
at("charts").append(running.node, waiting.node, speed.node, first.node, failed.node, memory.node);

export const restart = () => { samples = []; askedAt = -Infinity; };

// New samples, when it is time for some. `soon` draws.
export async function more(soon) {
  if (asking || document.hidden || performance.now() - askedAt < everyS * 1000) return;
  asking = true;
  askedAt = performance.now();
  try {
    const got = await (await ask(`/penstock/history?since=${samples.at(-1)?.at ?? 0}`)).json();
    everyS = got.every_s;
    const known = new Map(samples.map((one) => [one.at, one]));
    for (const one of got.samples) known.set(one.at, one); // also those that changed: tokens are counted when an answer ends
    samples = [...known.values()].slice(-MOST_SAMPLES);
    soon();
  } catch { /* the stream tells when the gateway is away */ } finally { asking = false; }
}

export function trends(status) {
  at("charts").hidden = !status.upstreams.length;
  const mark = `${samples.length} ${samples.at(-1)?.at}`;
  const missing = Math.max(0, LEAST_SAMPLES - samples.length), span = (samples.length + missing - 1) * everyS;
  const all = (take) => [...Array(missing).fill(null), ...samples.map(take)];
  const sum = (place) => all((one) => Object.values(one.upstreams).reduce((total, of) => total + (of[place] ?? 0), 0));
  const made = (...series) => () => ({ series: series.map((one) => one()), at: all((one) => one.at) });
  const count = (name) => status.upstreams.reduce((total, u) => total + (u.concurrency[name] ?? 0), 0);
  const limit = count("limit"), waits = count("queued") + count("held");
  const longest = Math.max(0, ...status.upstreams.map((u) => (u.concurrency.queued ? u.concurrency.expected_wait_s : 0)));
  running.draw(number(count("in_flight")), W.ofLimit(limit), mark, span, made(() => sum(0), () => sum(2)));
  waiting.draw(number(waits), waits ? (longest ? W.newcomer(seconds(longest)) : W.heldNote) : "", mark, span, made(() => sum(1)));
  speed.draw(tenth(samples.at(-1)?.pieces_per_s ?? 0), W.speedNote, mark, span, made(() => all((one) => one.pieces_per_s)));
  const firsts = status.requests.recent.map((r) => r.ttft_s).filter((v) => v != null).sort((a, b) => a - b);
  first.draw(firsts.length ? seconds(firsts[firsts.length >> 1]) : "–", W.median, mark, span, made(() => all((one) => one.first_token_s)));
  failed.draw(number(status.errors.reduce((total, e) => total + e.count, 0)), W.failedOf, mark, span, made(() => all((one) => one.failed)));
  const m = status.memory;
  const total = m && (m.limit_bytes ? Math.min(m.limit_bytes, m.total_bytes) : m.total_bytes);
  memory.draw(m ? percent(m.used_share) : "–", m ? `${W.used(bytes(m.used_share * total), bytes(total))}, ${W.calm[m.pressure]}` : W.noMemory, mark, span,
    made(() => all((one) => one.memory_share), () => all((one) => (one.gpu_shares.length ? Math.max(...one.gpu_shares) : null))));
  memory.node.classList.toggle("no-gpu", !m?.gpus.length);
  const told = (m?.gpus ?? []).map((g) => [g.name || W.gpu, g.total_bytes && g.free_bytes != null ? W.used(bytes(g.total_bytes - g.free_bytes), bytes(g.total_bytes)) : "", g.utilisation == null ? "" : W.busy(percent(g.utilisation))].filter(Boolean).join(" · "));
  if (gpus.dataset.was !== told.join()) { gpus.dataset.was = told.join(); gpus.replaceChildren(...told.map((text) => h("li", {}, text))); }
}
