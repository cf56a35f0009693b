// The try-it box: a chat through the gateway, as any client has it, and what the gateway announced about each answer.
// It lives in this page only, and is gone when the page is.
import { at, h, put, short } from "./dom.js";
import { events, headers } from "./stream.js";
import { WORDS as W } from "./words.js";

const MOST_MODELS = 200;
const options = (models) => models.map((id) => h("option", { value: id }, short(id)));
let turns = [], stop = null;

export function tryIt(status, refused) {
  const models = [...new Set(status.upstreams.filter((u) => u.state !== "unreachable").flatMap((u) => u.models.map((m) => m.id)))].slice(0, MOST_MODELS);
  const select = at("try-model");
  if (!select) { build(models, refused); return; }
  if ([...select.options].map((o) => o.value).join("\n") === models.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...options(models));
  if (models.includes(chosen)) select.value = chosen;
}

function build(models, refused) {
  const said = h("div", { id: "try-said", class: "talked", "aria-live": "polite" });
  const text = h("textarea", { id: "try-text", rows: 3, required: true });
  const send = h("button", { class: "main" }, W.send), fresh = h("button", { type: "button", hidden: true }, W.fresh);
  const form = h("form", { class: "card try" }, h("label", { for: "try-model" }, W.model_), h("select", { id: "try-model" }, options(models)),
    h("label", { for: "try-text" }, W.prompt), text, h("div", { class: "bar" }, send, fresh));
  fresh.addEventListener("click", () => { stop?.abort(); stop = null; turns = []; put(send, W.send); said.replaceChildren(); fresh.hidden = true; text.focus(); });
  text.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
  // Not by the form: that has a word to say against an empty text.
  send.addEventListener("click", (event) => { if (stop) { event.preventDefault(); stop.abort(); } });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (stop) return;
    turns.push({ role: "user", content: text.value });
    said.append(h("div", { class: "turn mine" }, text.value));
    text.value = ""; fresh.hidden = false;
    put(send, W.stop);
    await answer(said, refused);
    if (!stop) put(send, W.send);
  });
  at("v-try").append(h("section", {}, h("h2", {}, W.views.try), h("p", { class: "soft" }, W.tryIntro), said, form));
}

async function answer(said, refused) {
  const mine = stop = new AbortController(), asked = turns;
  const thought = h("span", { class: "soft" }), told = h("span"), facts = h("dl", { class: "facts" });
  const announced = h("details", { class: "announced", hidden: true, open: true }, h("summary", {}, W.announced), facts);
  const node = h("div", { class: "turn" }, thought, told);
  said.append(node, announced);
  said.setAttribute("aria-busy", "true"); // spoken as a whole, once it is complete
  const trouble = (text) => node.append(h("p", { class: "trouble" }, text));
  const announce = (pairs) => { announced.hidden = false; facts.append(...pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])); };
  let whole = "";
  try {
    const got = await fetch("/v1/chat/completions", { method: "POST", signal: mine.signal, headers: headers({ "content-type": "application/json" }),
      body: JSON.stringify({ model: at("try-model").value || "any", messages: asked, stream: true, stream_options: { include_usage: true } }) });
    announce([...got.headers].filter(([name]) => name.startsWith("penstock-")));
    if (!got.ok) {
      const error = (await got.json().catch(() => ({}))).error ?? {};
      if (got.status === 401) refused();
      trouble([error.message ?? `HTTP ${got.status}`, error.hint].filter(Boolean).join(" "));
      return;
    }
    await events(got, (name, data) => {
      if (name === "penstock") { announce(Object.entries(JSON.parse(data)).map(([k, v]) => [k, typeof v === "object" ? JSON.stringify(v) : String(v)])); return; }
      if (data === "[DONE]") return;
      const one = JSON.parse(data);
      if (one.error) trouble(one.error.message);
      const delta = one.choices?.[0]?.delta;
      if (delta?.reasoning_content) thought.append(delta.reasoning_content);
      if (delta?.content) { whole += delta.content; told.append(delta.content); }
    });
  } catch (error) { if (error.name !== "AbortError") trouble(W.away); } finally {
    if (stop === mine) stop = null;
    if (!stop) said.removeAttribute("aria-busy");
    // A question without an answer is no part of what the model is asked next. A new chat has turns of its own.
    if (whole) asked.push({ role: "assistant", content: whole }); else asked.pop();
  }
}
