// Charts over time, drawn as SVG: areas and lines over an axis of round numbers. All charts share one pointer: whatever
// moment is pointed at (mouse, finger, arrow keys), each shows its value of then in place of its value of now.
import { clock, h, put } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const W = 600, H = 100;
const s = (tag, props) => {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  return node;
};

const all = [];
let back = null; // samples before the last one; null: nothing is pointed at
function point(to) {
  if (to === back) return;
  back = to;
  for (const one of all) one.show();
}

// The end of the axis: a round number of which half is round too.
function roof(most) {
  const size = 10 ** Math.floor(Math.log10(most));
  return size * [1, 2, 4, 6, 8, 10].find((n) => n * size >= most * 0.999);
}

// Pairs as a legend: [class, name, value]; what has no value is left out.
export const legend = (pairs) => h("p", { class: "legend" }, pairs.filter(([, , v]) => v).map(([kind, name, v]) => h("span", {}, h("i", { class: kind }), `${name} ${v}`)));

// lines: [[class, name]...]; text(value) -> what a value is called; spoken(text): told to who does not see it.
export function chart(title, lines, { text, floor = 2, tick = text, about, ago, now: nowWord, spoken }) {
  const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const y of [0.5, H / 2, H - 0.5]) svg.append(s("line", { x1: 0, x2: W, y1: y, y2: y, class: "grid" }));
  const paths = lines.map(([kind]) => s("path", { class: kind.replace("area", "edge"), d: "" }));
  const cursor = s("line", { y1: 0, y2: H, class: "cursor", visibility: "hidden" });
  const fills = lines.map(([kind]) => (kind.startsWith("area") ? s("path", { class: kind, d: "" }) : null));
  svg.append(...fills.filter(Boolean), ...paths, cursor);
  const value = h("p", { class: "now" }), note = h("p", { class: "note" });
  const ticks = [h("span"), h("span")], from = h("span");
  const names = lines.length > 1 ? h("p", { class: "legend" }, lines.map(([kind, name]) => h("span", {}, h("i", { class: kind }), name))) : null;
  const plot = h("div", { class: "plot" }, h("div", { class: "ticks", "aria-hidden": "true" }, ticks), svg);
  const node = h("figure", { class: "card chart", tabindex: 0, role: "group", "aria-roledescription": about },
    h("figcaption", {}, h("h3", {}, title), names, value, note), plot, h("p", { class: "axis", "aria-hidden": "true" }, from, h("span", {}, nowWord)));
  let series = [], at = [], told = "", more = "", drawn = "";
  const count = () => series[0]?.length ?? 0;
  const me = {
    node,
    show() {
      const i = back === null ? -1 : count() - 1 - back;
      cursor.setAttribute("visibility", i >= 0 && at[i] ? "visible" : "hidden");
      if (i < 0 || !at[i]) { put(value, told); put(note, more); return; }
      const x = (i / Math.max(1, count() - 1)) * W;
      cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
      put(value, series[0][i] == null ? "–" : text(series[0][i]));
      put(note, [clock(at[i]), ...lines.slice(1).map(([, name], n) => (series[n + 1]?.[i] == null ? "" : `${name.toLowerCase()} ${text(series[n + 1][i])}`))].filter(Boolean).join(" · "));
    },
    // mark: the same as long as the samples are the same.
    draw(now, aside, mark, span, make) {
      told = now; more = aside;
      node.setAttribute("aria-label", `${title}: ${[now, aside].filter(Boolean).join(", ")}`);
      if (mark !== drawn) {
        drawn = mark;
        ({ series, at } = make());
        const top = roof(Math.max(floor, ...series.flat().filter((v) => v != null)));
        put(ticks[0], tick(top)); put(ticks[1], tick(top / 2)); put(from, ago(span));
        series.forEach((values, place) => {
          const [line, area] = path(values, top);
          paths[place].setAttribute("d", line);
          fills[place]?.setAttribute("d", area);
        });
      }
      me.show();
    },
  };
  const seek = (event) => {
    const box = svg.getBoundingClientRect();
    const i = Math.round(((event.clientX - box.left) / box.width) * (count() - 1));
    point(i >= 0 && i < count() && at[i] ? count() - 1 - i : null);
  };
  plot.addEventListener("pointermove", seek);
  plot.addEventListener("pointerdown", seek);
  plot.addEventListener("pointerleave", () => point(null));
  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 1, ArrowRight: -1, PageUp: 12, PageDown: -12 }[event.key];
    if (event.key === "Escape") point(null);
    else if (event.key === "Home") point(at.length - 1 - at.findIndex(Boolean));
    else if (event.key === "End") point(0);
    else if (step) point(Math.max(0, Math.min(at.filter(Boolean).length - 1, (back ?? -1) + step)));
    else return;
    event.preventDefault();
    spoken(`${title}: ${value.textContent}, ${note.textContent}`);
  });
  node.addEventListener("blur", () => point(null));
  all.push(me);
  return me;
}

// The line and the area below it. A moment without a value is passed over; one that stands alone is a dot.
function path(values, top) {
  const step = W / Math.max(1, values.length - 1);
  let line = "", first = 0, last = 0;
  values.forEach((v, i) => {
    if (v == null) return;
    last = i * step;
    if (!line) first = last;
    line += `${line ? "L" : "M"}${last.toFixed(1)} ${(H - 1 - (v / top) * (H - 2)).toFixed(1)}`;
  });
  return line ? [`${line}h.1`, `${line}L${last.toFixed(1)} ${H}L${first.toFixed(1)} ${H}Z`] : ["", ""];
}

// One bar of parts: [[class, share, name]...] of a whole; the rest stays empty.
export function bar(parts, label) {
  const svg = s("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", class: "gauge", role: "img", "aria-label": label });
  svg.append(s("rect", { width: 1000, height: 10, class: "empty" }));
  let x = 0;
  for (const [kind, share] of parts) {
    const width = Math.max(0, Math.min(1000 - x, share * 1000));
    if (width) svg.append(s("rect", { x, width, height: 10, class: kind }));
    x += width;
  }
  return svg;
}
