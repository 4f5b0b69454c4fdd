// The inspections: the list, the one on the screen, and those that the operator asks for.

import { render } from "./drawing.js";
import { clearCanvas, drawBlob, drawPhotograph } from "./photographs.js";
import { api, attempt, pause, read } from "./server.js";
import { $, state } from "./state.js";
import { say } from "./words.js";

const LONGEST_LIST = 500; // inspections held before the list is read anew
const PAGE = 50; // inspections asked for at a time

let reads = 0; // of the history: only the answer to the latest counts
let inspecting = null; // the file
let done = Promise.resolve(); // once all files brought so far were inspected

export async function readHistory({ older = false } = {}) {
  const number = (reads += 1);
  const known = new Set(state.items.map((item) => item.id));
  const query = new URLSearchParams(`limit=${PAGE}&${$("filter").value}`);
  if (older) query.set("cursor", state.cursor);
  const page = await read(`/v1/inspections?${query}`);
  if (number !== reads) return;
  page.items.forEach((item) => known.add(item.id));
  const since = state.items.filter((item) => !known.has(item.id)); // those that came while it was read
  state.items = older ? [...state.items, ...page.items] : [...since, ...page.items];
  state.cursor = page.next_cursor;
  const same = state.items.find((item) => item.id === state.shown?.id);
  if (same) state.shown = same;
  // The verdict on an earlier part must not appear where that on a photograph just brought is waited for.
  if (state.following && !older && !state.draft && !state.awaited && state.items[0] && !$("filter").value)
    show(state.items[0], { itself: true });
  render();
}

function listed(item) {
  const [name, value] = $("filter").value.split("=");
  return !name || (name === "verdict" ? item.verdict === value : String(Boolean(item.review)) === value);
}

/** Into the list, unless it is there or filtered out; newest first: an id sorts after all earlier ones. */
function insert(item) {
  if (!listed(item) || state.items.some((known) => known.id === item.id)) return;
  state.items = [item, ...state.items].sort((one, other) => (one.id < other.id ? 1 : -1));
}

export function arrived(item) {
  if (state.items.some((known) => known.id === item.id) || state.shown?.id === item.id) return changed(item);
  insert(item);
  if (state.items.length > LONGEST_LIST) void attempt(readHistory);
  if (state.following && !state.draft && !state.busy) {
    if (!state.shown || item.id > state.shown.id) show(item, { itself: true });
  } else Object.assign(state, { missed: state.missed + 1, following: Boolean(state.busy) });
  return render();
}

export function changed(item) {
  state.items = state.items.map((known) => (known.id === item.id ? item : known));
  if (state.shown?.id === item.id) state.shown = item;
  render();
}

export function show(item, { itself = false } = {}) {
  if (item?.id !== state.shown?.id) {
    Object.assign(state, { shown: item, heat: null, zoom: 1, shownBy: { itself, at: performance.now() } });
    void drawPhotograph(item);
  }
  if (!itself) Object.assign(state, { draft: null, shownBy: { itself: false, at: 0 } });
  state.awaited = false;
  state.following = !item || item.id === state.items[0]?.id || itself;
  if (state.following) state.missed = 0;
  render();
}

/** The photograph that is being inspected, else the newest inspection, whatever the filter, and those that follow. */
export async function goLive() {
  $("filter").value = "";
  Object.assign(state, { following: true, draft: null, missed: 0, awaited: false });
  if (state.busy) awaitVerdict();
  await attempt(readHistory);
}

export function move(step) {
  const place = state.items.findIndex((item) => item.id === state.shown?.id);
  const item = state.items[Math.max(0, place + step)];
  if (item) show(item);
  document.querySelector("#list [aria-current]")?.scrollIntoView({ block: "nearest" });
}

/** One after the other, those too that are brought while others are inspected. */
export function inspect(files) {
  for (const file of files) done = done.catch(() => {}).then(() => inspectOne(file));
  return done;
}

async function inspectOne(file) {
  inspecting = file;
  Object.assign(state, { busy: file.name || "photograph", draft: null, following: true });
  awaitVerdict();
  let item = null;
  try {
    item = await attempt(() => post(file));
  } finally {
    state.busy = null;
    render();
  }
  if (item) {
    insert(item);
    show(item);
    state.following = true;
  } else if (!state.shown) {
    clearCanvas($("photo"));
  }
  render();
}

/** Show the photograph that is being inspected, which has no verdict yet. */
function awaitVerdict() {
  const file = inspecting;
  Object.assign(state, { awaited: true, shown: null, heat: null, zoom: 1 });
  void drawBlob(file, () => state.busy && file === inspecting && !state.shown);
  render();
}

/** The inspection of a photograph. Where the queue is full, the server says how long to wait. */
async function post(file) {
  const body = new FormData();
  body.set("image", file, file.name || "photograph");
  for (let tries = 0; ; tries += 1) {
    try {
      return await (await api("/v1/inspections", { method: "POST", body })).json();
    } catch (error) {
      if (error.answer?.inspection) {
        say(error.message);
        return error.answer.inspection; // recorded as unreadable
      }
      if (error.status !== 429 || tries === 5) throw error;
      await pause(1000 * (error.retryAfter_s ?? 1));
    }
  }
}
