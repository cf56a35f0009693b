// Charts over time, drawn as SVG: an area, a line over it, a line for the limit. Bounded by what the gateway remembers.
import { h, put } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const W = 600, H = 120;
const s = (tag, props) => {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  return node;
};

export function chart(title, legend, ago) {
  const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const y of [0.5, H / 2, H - 0.5]) svg.append(s("line", { x1: 0, x2: W, y1: y, y2: y, class: "grid" }));
  const paths = legend.map(([kind]) => s("path", { class: kind, d: "" }));
  svg.append(...paths);
  const now = h("p", { class: "now" }), top = h("span", { class: "peak" });
  const from = h("span");
  const names = h("p", { class: "legend" }, legend.map(([kind, name]) => h("span", {}, h("i", { class: kind }), name)));
  const node = h("figure", { class: "card chart" }, h("figcaption", {}, h("h3", {}, title), now), h("div", { class: "plot" }, top, svg), h("p", { class: "axis" }, from, h("span", {}, "now")), names);
  return {
    node,
    draw(series, told, span, floor = 1) {
      const most = Math.max(floor, ...series.flat().filter((v) => v != null));
      put(now, told);
      put(top, most >= 10 ? Math.round(most) : Math.round(most * 10) / 10);
      put(from, ago(span));
      series.forEach((values, place) => {
        const step = W / Math.max(1, values.length - 1);
        let line = "", pen = false, from = 0;
        values.forEach((v, i) => {
          if (v == null) { pen = false; return; }
          line += `${pen ? "L" : "M"}${(i * step).toFixed(1)} ${(H - 1 - (v / most) * (H - 8)).toFixed(1)}`;
          pen = true;
          if (line.startsWith("M") && !line.includes("L")) from = i * step;
        });
        const area = legend[place][0].startsWith("area");
        const d = area && line ? `${line}L${W} ${H}L${from.toFixed(1)} ${H}Z` : line;
        if (paths[place].getAttribute("d") !== d) paths[place].setAttribute("d", d);
      });
    },
  };
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
