// All English text of the page.
export const WORDS = {
  upstreams: "Upstreams", live: "Running now", recent: "Recent requests", acts: "What happened",
  noUpstreams: "No model server was found. Start one, then run: penstock upstream add URL",
  noLive: "Nothing runs.", noRecent: "No request yet. Connect a client: penstock connect", noActs: "Nothing yet.",
  away: "The gateway does not answer. Trying again.",
  readOnly: "To switch something here, open this page with: penstock open",
  pause: "Pause", resume: "Resume", drain: "Drain", bypassOn: "Pass through unchanged", bypassOff: "Tune again",
  probe: "Look again", forget: "Forget",
  sureDrain: (name) => `Drain ${name}? Running requests end, new ones are refused until you resume it.`,
  sureForget: (name) => `Forget ${name}? It gets no more requests until it is added again.`,
  state: { ok: "ready", loading: "loading", unreachable: "cannot be reached", unknown: "not asked yet", cloud: "cloud" },
  overall: { ok: "All is well", starting: "Starting", degraded: "Not every server can be reached", error: "No server can be reached", draining: "Ending" },
  load: (c) => `${c.in_flight} of ${c.limit ?? "any number"} running, ${c.queued} queued, ${c.held} held`,
  breaker: (b) => `breaker ${b.state.replace("_", " ")}${b.why ? `: ${b.why}` : ""}`,
  window: (m) => m.context_window ? `${m.context_window.toLocaleString("en")} tokens (${m.window_source})` : "window not known",
  paused: "paused", drained: "drained", bypass: "passes through unchanged",
  columns: ["Model", "Client", "Stage", "Time", "First token", "Tokens", "Changes"],
};
