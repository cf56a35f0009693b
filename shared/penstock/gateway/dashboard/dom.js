// Building and keeping nodes. A list is brought up to date by key: what did not change is not touched, so that focus,
// open details and a pressed button stay what they are.

export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value == null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== ""));
  return node;
}

export const at = (id) => document.getElementById(id);

export function put(node, value) {
  const text = String(value ?? "");
  if (node.textContent !== text) node.textContent = text;
}

const known = new WeakMap();

// items -> nodes: `build(item)` once for each key, again when `print(item)` differs from the time before.
export function sync(parent, items, keyOf, print, build, empty) {
  const before = known.get(parent) ?? new Map();
  const now = new Map();
  const nodes = [];
  for (const item of items) {
    const key = keyOf(item);
    const mark = print(item);
    let kept = before.get(key);
    if (!kept || kept.mark !== mark) {
      const node = build(item);
      if (kept) keep(kept.node, node);
      kept = { node, mark };
    }
    now.set(key, kept);
    nodes.push(kept.node);
  }
  if (!nodes.length && empty) {
    const kept = before.get("") ?? { node: empty(), mark: "" };
    now.set("", kept);
    nodes.push(kept.node);
  }
  known.set(parent, now);
  for (const [key, kept] of before) if (now.get(key)?.node !== kept.node && !nodes.some((n) => n === kept.node)) kept.node.remove();
  nodes.forEach((node, place) => { if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null); });
}

// What a person did to the old node goes over to the new one.
function keep(old, fresh) {
  for (const one of old.querySelectorAll("details[open]")) {
    const same = fresh.querySelector(`[data-k="${CSS.escape(one.dataset.k ?? "")}"]`);
    if (same) same.open = true;
  }
  if (old.open) fresh.open = true;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.dataset.k;
  old.replaceWith(fresh);
  if (key) fresh.querySelector(`[data-k="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

export const seconds = (s) => (s == null ? "" : s < 0.0995 ? `${Math.round(s * 1000)} ms` : s < 9.95 ? `${s.toFixed(1)} s` : s < 100 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
export const number = (n) => (n == null ? "" : Math.round(n).toLocaleString("en"));
export const bytes = (b) => (b >= 1e9 ? `${(b / 2 ** 30).toFixed(1)} GiB` : `${Math.round(b / 2 ** 20)} MiB`);
// A server that was started with a file calls its model by the whole path; the end of it is the name.
export const short = (id) => (id.startsWith("/") || /^[A-Za-z]:\\/.test(id) ? id.split(/[\\/]/).pop() : id);
export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
