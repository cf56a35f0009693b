// Errors by kind, each with a sentence, and what happened at servers.
import { bar } from "./charts.js";
import { at, clock, h, number, sync } from "./dom.js";
import { WORDS as W } from "./words.js";

const MOST = 50;

export function activity(status) {
  const errors = [...status.errors].sort((a, b) => b.count - a.count).slice(0, MOST);
  const most = Math.max(1, ...errors.map((e) => e.count));
  sync(at("errors"), errors, (e) => `${e.upstream} ${e.code}`, (e) => `${e.count}/${most}`,
    (e) => h("div", { class: "fault" }, h("div", {}, h("code", {}, e.code), e.upstream === "none" ? "" : h("span", { class: "soft" }, ` ${e.upstream}`)),
      h("span", { class: "soft" }, e.meaning ?? ""), bar([["m-heavy", e.count / most]], `${e.code}: ${e.count}`), h("span", { class: "num" }, number(e.count))),
    () => h("p", { class: "none" }, W.noErrors));
  sync(at("acts"), [...status.acts].reverse().slice(0, MOST).map((a) => ({ ...a, k: `${a.at} ${a.act} ${a.upstream}` })), (a) => a.k, () => "",
    (a) => h("div", { class: "act" }, h("time", { class: "soft num" }, clock(a.at)), h("strong", {}, W.act[a.act] ?? a.act), h("span", {}, a.upstream), h("span", { class: "soft" }, a.why)),
    () => h("p", { class: "none" }, W.noActs));
}
