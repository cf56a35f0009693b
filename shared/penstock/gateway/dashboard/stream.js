// Asking the gateway, and its event stream. Not EventSource: that can neither send a key nor tell why it was refused.

let key = "";
export const useKey = (value) => { key = value; };
export const headers = (more) => ({ ...(key ? { authorization: `Bearer ${key}` } : {}), ...more });

export async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? { headers: headers() }
    : { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body) });
  if (!answer.ok) {
    const told = (await answer.json().catch(() => ({}))).error ?? {};
    throw Object.assign(new Error(told.message ?? `HTTP ${answer.status}`), { code: told.code, status: answer.status, hint: told.hint });
  }
  return answer;
}

// Reads server-sent events: `on(name, data)` for each.
export async function events(answer, on) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      let name = "message", data = "";
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
        else if (line.startsWith(": penstock ")) on("penstock", line.slice(11));
      }
      if (data) on(name, data);
    }
  }
}

// For ever: `on` gets each event, `gone(error)` is told why there is none now. Returns what starts it at once.
export function follow(on, gone) {
  let wake = null, running = null;
  const loop = async () => {
    for (;;) {
      while (document.hidden) await new Promise((go) => { wake = go; });
      const mine = running = new AbortController();
      let why = null;
      try {
        const answer = await fetch("/penstock/events?every_s=1", { headers: headers(), signal: mine.signal });
        if (answer.ok) await events(answer, (name, data) => on(name, JSON.parse(data)));
        else { why = { status: answer.status }; await answer.body?.cancel(); }
      } catch (error) {
        if (mine.signal.aborted) continue;
        why = { error };
      } finally { mine.abort(); }
      gone(why ?? {});
      await new Promise((go) => { wake = go; setTimeout(go, 2000); });
    }
  };
  // A browser opens six connections to one place: pages that nobody looks at leave theirs to the others.
  document.addEventListener("visibilitychange", () => { if (document.hidden) running?.abort(); else wake?.(); });
  loop();
  return () => { wake?.(); };
}
