// Requests to the server, and its stream of events.

import { memory } from "./state.js";
import { say } from "./words.js";

const SILENCE_MS = 40_000; // without a byte of the event stream the connection is taken for lost

let askToken; // given by app.js, because a dialog is drawn, and this module draws nothing
let unlock = () => {}; // called when the operator has given a token
export const askForTokenWith = (ask) => (askToken = ask);
export const tokenGiven = () => unlock();

export class Problem extends Error {
  /** `answer`: its JSON; `retryAfter_s`: when to come again. */
  constructor(status, detail, { answer = {}, retryAfter_s = null } = {}) {
    super(detail);
    Object.assign(this, { status, answer, retryAfter_s });
  }
}

/** The answer to a request; a Problem, with the detail of the server's problem+json, for whatever is not 2xx. */
export async function api(
  path,
  { method = "GET", json, body = json && JSON.stringify(json), headers = {}, signal } = {},
) {
  const sent = { ...headers };
  if (json) sent["Content-Type"] = "application/json";
  if (memory.get("token")) sent.Authorization = `Bearer ${memory.get("token")}`;
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: sent, signal });
  } catch {
    throw new Problem(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const detail = problem.detail || problem.title || `The server answered ${answer.status}.`;
  if (answer.status === 401) {
    await askToken(detail);
    return api(path, {
      method,
      body,
      headers: json ? { ...headers, "Content-Type": "application/json" } : headers,
      signal,
    });
  }
  throw new Problem(answer.status, detail, {
    answer: problem,
    retryAfter_s: Number(answer.headers.get("Retry-After")) || null,
  });
}

export const read = async (path) => (await api(path)).json();
export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Read the event stream for ever; fetch instead of EventSource, which sends no token. `events`: what is done with the
 * data of each kind of event.
 */
export async function listen({ connected, lost, events }) {
  for (let tries = 0; ; tries += 1) {
    const abort = new AbortController();
    let watchdog,
      locked = false;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    try {
      const answer = await api("/v1/events", { signal: abort.signal });
      tries = 0;
      heard();
      await connected();
      let rest = "";
      for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
        const { value, done } = await reader.read().catch(() => ({ done: true }));
        if (done) break;
        heard();
        const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
        rest = blocks.pop();
        blocks.forEach((block) => dispatch(block, events));
      }
    } catch (error) {
      if (!(error instanceof Problem)) console.error(error); // a fault of this page: begin anew
      locked = error.status === 401;
    }
    clearTimeout(watchdog);
    lost();
    await (locked ? new Promise((done) => (unlock = done)) : pause(Math.min(1000 * 2 ** tries, 10_000)));
  }
}

function dispatch(block, events) {
  const field = (name) =>
    block
      .split("\n")
      .filter((line) => line.startsWith(`${name}:`))
      .map((line) => line.slice(name.length + 1).trim())
      .join("\n");
  events[field("event")]?.(field("data"));
}

/** Do what may fail, and tell the operator what the server said. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(error.message);
    return null;
  }
}
