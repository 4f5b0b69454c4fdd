// The operator's page: one state, which events and operators change, and render(), which draws all of it.
// Boxes are COCO xywh in pixels of the upright photograph, here as in the server's answers; the overlay's viewBox has
// the photograph's size, so that none is ever converted. Pictures are drawn on canvases, because an <img> sends no token.

const $ = (id) => document.getElementById(id);
const LONGEST_LIST = 500; // inspections held before the list is read anew
const PAGE = 50; // inspections asked for at a time
const SETTLED_MS = 500; // a photograph that has just appeared by itself cannot be corrected: another one was meant
const SILENCE_MS = 40_000; // without a byte of the event stream the connection is taken for lost
const LARGEST_CANVAS_PX = 16e6; // pixels of a photograph as it is shown; browsers refuse much larger canvases
const FAINT = 0.7; // share of the threshold from which a detection that rejects nothing is shown
const SMALLEST_BOX = 4; // pixels of the screen
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];

const state = {
  connected: null, // null until the first answer
  lostAt: null,
  model: null,
  curve: null,
  chosen: null, // threshold under the slider; null: the one in use
  items: [], // newest first
  cursor: null, // of the page after them
  shown: null, // the inspection on the screen
  shownBy: { itself: false, at: 0 },
  following: true, // whether the next inspection takes its place
  missed: 0, // inspections that came while an older one was looked at
  busy: null, // name of the file that is being inspected
  draft: null, // boxes being edited: {etag, boxes, chosen, category, empty}
  heat: null, // "loading" | "shown" for the inspection on the screen
  zoom: 1,
};
const memory = {
  get: (key, other = "") => sessionStorage.getItem(`vqc.${key}`) ?? other,
  set: (key, value) => sessionStorage.setItem(`vqc.${key}`, value),
};

// ---- the server

let askToken; // given at the start, because a dialog is drawn, and what asks the server draws nothing
let unlock = () => {}; // called when the operator has given a token
const askForTokenWith = (ask) => (askToken = ask);
const tokenGiven = () => unlock();

class Problem extends Error {
  /** `answer`: its JSON; `retryAfter_s`: when to come again. */
  constructor(status, detail, { answer = {}, retryAfter_s = null } = {}) {
    super(detail);
    Object.assign(this, { status, answer, retryAfter_s });
  }
}

/** The answer to a request; a Problem, with the detail of the server's problem+json, for whatever is not 2xx. */
async function api(path, { method = "GET", json, body = json && JSON.stringify(json), headers = {}, signal } = {}) {
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

const read = async (path) => (await api(path)).json();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Read the event stream for ever; fetch instead of EventSource, which sends no token. `events`: what is done with the
 * data of each kind of event.
 */
async function listen({ connected, lost, events }) {
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

const events = {
  inspection: (data) => arrived(JSON.parse(data)),
  review: (data) => changed(JSON.parse(data)),
  model: () => void attempt(readModel),
  drift: () => void attempt(readDrift),
};

async function connected() {
  const regained = state.connected === false && state.lostAt;
  state.connected = true;
  if (regained)
    say(`Connected again; photographs inspected since ${time(state.lostAt)} are in the history.`, { passing: true });
  await Promise.all([readModel(), readDrift(), readHistory()]);
}

function lost() {
  if (state.connected !== false) Object.assign(state, { connected: false, lostAt: new Date() });
  render();
}

const keepConnected = () => listen({ connected, lost, events });

async function readModel() {
  state.model = await read("/v1/model");
  render();
  state.curve = await read("/v1/operating-curve").catch(() => null); // null: the model was never measured
  state.chosen = null;
  render();
}

async function readDrift() {
  const drift = await read("/v1/drift").catch(() => null);
  const worst = drift?.alarm ? [...drift.statistics].sort((a, b) => (a.p_value ?? 1) - (b.p_value ?? 1))[0] : null;
  $("drift").hidden = !drift?.alarm;
  $("drift").textContent = drift?.alarm
    ? `The photographs no longer look like those the model was measured on${worst ? `: ${worst.name} is ${round(worst.recent_mean)}, it was ${round(worst.reference_mean)}` : ""}. Check light, lens and parts.`
    : "";
}

async function readHistory({ older = false } = {}) {
  const query = new URLSearchParams(`limit=${PAGE}&${$("filter").value}`);
  if (older) query.set("cursor", state.cursor);
  const page = await read(`/v1/inspections?${query}`);
  state.items = older ? [...state.items, ...page.items] : page.items;
  state.cursor = page.next_cursor;
  const same = state.items.find((item) => item.id === state.shown?.id);
  if (same) state.shown = same;
  if (state.following && !older && !state.draft && state.items[0] && !$("filter").value)
    show(state.items[0], { itself: true });
  render();
}

/** Do what may fail, and tell the operator what the server said. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(error.message);
    return null;
  }
}

// ---- inspections

const verdictOf = (item) => item.review?.verdict ?? item.verdict;
const defects = (item) => item.detections.filter((found) => found.defect);
const boxesOf = (item) =>
  (item.review ? item.review.boxes : defects(item)).map(({ category_id, bbox }) => ({ category_id, bbox: [...bbox] }));
const categoryName = (id) => state.model?.categories.find((category) => category.id === id)?.name ?? `category ${id}`;

function listed(item) {
  const [name, value] = $("filter").value.split("=");
  return !name || (name === "verdict" ? item.verdict === value : String(Boolean(item.review)) === value);
}

function arrived(item) {
  if (state.items.some((known) => known.id === item.id) || state.shown?.id === item.id) return changed(item);
  if (listed(item)) state.items.unshift(item);
  if (state.items.length > LONGEST_LIST) void attempt(readHistory);
  if (state.following && !state.draft && !state.busy) show(item, { itself: true });
  else Object.assign(state, { missed: state.missed + 1, following: Boolean(state.busy) });
  return render();
}

function changed(item) {
  state.items = state.items.map((known) => (known.id === item.id ? item : known));
  if (state.shown?.id === item.id) state.shown = item;
  render();
}

function show(item, { itself = false } = {}) {
  if (item?.id !== state.shown?.id) {
    Object.assign(state, { shown: item, heat: null, zoom: 1, shownBy: { itself, at: performance.now() } });
    void drawPhotograph(item);
  }
  if (!itself) Object.assign(state, { draft: null, shownBy: { itself: false, at: 0 } });
  state.following = !item || item.id === state.items[0]?.id || itself;
  if (state.following) state.missed = 0;
  render();
}

/** The newest inspection, whatever the filter, and those that follow. */
async function goLive() {
  $("filter").value = "";
  Object.assign(state, { following: true, draft: null, missed: 0 });
  await attempt(readHistory);
}

function move(step) {
  const place = state.items.findIndex((item) => item.id === state.shown?.id);
  const item = state.items[Math.max(0, place + step)];
  if (item) show(item);
  document.querySelector("#list [aria-current]")?.scrollIntoView({ block: "nearest" });
}

async function inspect(files) {
  for (const file of files) {
    Object.assign(state, {
      busy: file.name || "photograph",
      shown: null,
      draft: null,
      heat: null,
      following: true,
      zoom: 1,
    });
    void drawBlob(file, () => state.busy && !state.shown);
    render();
    const item = await attempt(() => post(file));
    state.busy = null;
    if (item) {
      if (!state.items.some((known) => known.id === item.id) && listed(item)) state.items.unshift(item);
      show(item);
      state.following = true;
    } else if (!state.shown) {
      clearCanvas($("photo"));
    }
    render();
  }
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

// ---- the operator's correction

/** O and N: the verdict on the inspection shown, with the boxes as they are on the screen. */
async function decide(verdict) {
  const item = state.shown;
  if (!item) return;
  if (state.shownBy.itself && performance.now() - state.shownBy.at < SETTLED_MS) {
    say("The photograph had just changed, so nothing was corrected. Look at it and correct it again.", {
      passing: true,
    });
    return;
  }
  const boxes = verdict === "good" ? [] : (state.draft?.boxes ?? boxesOf(item));
  const stored = await review(item, { verdict, boxes, etag: state.draft?.etag ?? item.etag });
  if (stored && verdict === "defective" && !boxes.length && state.shown?.id === stored.id) edit();
}

/** The inspection as it is then, or null where it was not stored. */
async function review(item, { verdict, boxes, etag }) {
  const json = { verdict, boxes, reviewer: memory.get("reviewer") };
  try {
    const answer = await api(`/v1/inspections/${item.id}/review`, {
      method: "PUT",
      json,
      headers: { "If-Match": `"${etag}"` },
    });
    const stored = await answer.json();
    if (state.shown?.id === item.id) state.draft = null;
    hush();
    changed(stored);
    return stored;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    const current = error.status === 412 ? await attempt(() => read(`/v1/inspections/${item.id}`)) : null;
    if (!current) {
      say(`Not corrected: ${error.message}`);
      return null;
    }
    if (state.draft && state.shown.id === item.id) state.draft.etag = current.etag;
    const { review: theirs } = current;
    say(
      `Not corrected: meanwhile ${theirs?.reviewer || "someone else"} corrected this photograph to ${theirs?.verdict ?? current.verdict}. ` +
        `${state.draft ? "Your boxes are still here: save again to replace that, Escape to keep it." : "Correct it again to replace that."}`,
    );
    changed(current);
    return null;
  }
}

/** Without a box the part is good, unless it is already known to be defective without one. */
function edit() {
  const item = state.shown;
  if (!item?.image.width || !state.model) return;
  const boxes = boxesOf(item);
  const empty = item.review?.verdict === "defective" && !boxes.length ? "defective" : "good";
  // The etag is that of what is being edited: somebody else's correction meanwhile must not be replaced unseen.
  state.draft = {
    etag: item.etag,
    boxes,
    chosen: boxes.length ? 0 : null,
    category: boxes[0]?.category_id ?? state.model.categories[0].id,
    empty,
  };
  hush();
  render();
  $("boxes").querySelector(".chosen")?.focus({ preventScroll: true });
}

const draftVerdict = () => (state.draft.boxes.length ? "defective" : state.draft.empty);

function choose(index) {
  state.draft.chosen = index;
  if (index !== null) state.draft.category = state.draft.boxes[index].category_id;
}

function setCategory(id) {
  state.draft.category = id;
  if (state.draft.chosen !== null) state.draft.boxes[state.draft.chosen].category_id = id;
  render();
}

function addBox() {
  const { width, height } = state.shown.image;
  state.draft.boxes.push({
    category_id: state.draft.category,
    bbox: [0.4 * width, 0.4 * height, 0.2 * width, 0.2 * height].map(round),
  });
  choose(state.draft.boxes.length - 1);
  render();
  $("boxes").querySelector(".chosen").focus({ preventScroll: true });
}

function removeBox() {
  if (state.draft.chosen === null) return;
  state.draft.boxes.splice(state.draft.chosen, 1);
  choose(state.draft.boxes.length ? Math.min(state.draft.chosen, state.draft.boxes.length - 1) : null);
  render();
  ($("boxes").querySelector(".chosen") ?? $("save")).focus({ preventScroll: true });
}

/** Arrows move the chosen box by a pixel of the screen and, with Shift, resize it. */
function nudge(dx, dy, resize) {
  if (state.draft.chosen === null) return;
  const box = state.draft.boxes[state.draft.chosen];
  const step = Math.max(1, unitsPerPixel());
  const [x, y, w, h] = box.bbox;
  box.bbox = resize
    ? between([x, y], [Math.max(x + 1, x + w + step * dx), Math.max(y + 1, y + h + step * dy)])
    : moved(box.bbox, [x + step * dx, y + step * dy]);
  render();
}

// ---- geometry, in pixels of the photograph

const round = (value) => Math.round(10 * value) / 10;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Photograph pixels to one CSS pixel. */
function unitsPerPixel() {
  const { width, height } = $("boxes").getBoundingClientRect();
  const image = state.shown?.image;
  return image?.width && width ? 1 / Math.min(width / image.width, height / image.height) : 1;
}

function pointOf(event) {
  const { left, top, width, height } = $("boxes").getBoundingClientRect();
  const [scale, image] = [unitsPerPixel(), state.shown.image];
  const x = (event.clientX - left - (width - image.width / scale) / 2) * scale;
  const y = (event.clientY - top - (height - image.height / scale) / 2) * scale;
  return [clamp(x, 0, image.width), clamp(y, 0, image.height)];
}

/** The box of two corners, within the photograph. */
function between([x1, y1], [x2, y2]) {
  const { width, height } = state.shown.image;
  const [left, right] = [x1, x2].map((x) => clamp(x, 0, width)).sort((a, b) => a - b);
  const [top, bottom] = [y1, y2].map((y) => clamp(y, 0, height)).sort((a, b) => a - b);
  return [left, top, right - left, bottom - top].map(round);
}

/** The box with its upper left corner elsewhere, within the photograph. */
function moved([, , w, h], [x, y]) {
  const { width, height } = state.shown.image;
  return [clamp(x, 0, width - w), clamp(y, 0, height - h), w, h].map(round);
}

/** Draw, move or resize: what the pointer does until it is released, a function from its point to the box. */
function startDrag(event) {
  if (!state.draft || event.button !== 0) return;
  event.preventDefault();
  const start = pointOf(event);
  const group = event.target.closest("[data-box]");
  const corner = event.target.dataset.corner;
  let follow;
  if (group) {
    choose(Number(group.dataset.box));
    const [x, y, w, h] = state.draft.boxes[state.draft.chosen].bbox;
    if (corner) follow = (to) => between([corner.includes("w") ? x + w : x, corner.includes("n") ? y + h : y], to);
    else follow = (to) => moved([x, y, w, h], [x + to[0] - start[0], y + to[1] - start[1]]);
  } else {
    state.draft.boxes.push({ category_id: state.draft.category, bbox: [...start, 0, 0] });
    choose(state.draft.boxes.length - 1);
    follow = (to) => between(start, to);
  }
  const { boxes, chosen } = state.draft;
  const overlay = $("boxes");
  overlay.setPointerCapture(event.pointerId);
  overlay.onpointermove = (next) => {
    boxes[chosen].bbox = follow(pointOf(next));
    renderBoxes();
  };
  overlay.onpointerup = overlay.onpointercancel = () => {
    overlay.onpointermove = overlay.onpointerup = overlay.onpointercancel = null;
    const least = SMALLEST_BOX * unitsPerPixel();
    if (!group && Math.min(boxes[chosen].bbox[2], boxes[chosen].bbox[3]) < least) {
      boxes.splice(chosen, 1);
      if (state.draft) choose(null);
    }
    render();
    overlay.querySelector(".chosen")?.focus({ preventScroll: true });
  };
  render();
}

// ---- photographs

function clearCanvas(canvas) {
  Object.assign(canvas, { width: 1, height: 1 });
}

/** Draw a picture, scaled down where a canvas could not hold it, unless something else is wanted by then. */
async function drawBlob(blob, wanted, canvas = $("photo")) {
  let picture;
  try {
    picture = await createImageBitmap(blob);
  } catch {
    if (wanted()) $("empty").textContent = "This browser cannot show this kind of picture.";
    return;
  }
  if (wanted()) {
    const scale = Math.min(1, Math.sqrt(LARGEST_CANVAS_PX / (picture.width * picture.height)));
    Object.assign(canvas, { width: Math.round(picture.width * scale), height: Math.round(picture.height * scale) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    document.body.classList.add("drawn");
  }
  picture.close();
}

async function drawPhotograph(item) {
  document.body.classList.remove("drawn");
  clearCanvas($("photo"));
  clearCanvas($("heat"));
  $("empty").textContent = item ? "" : "Drop a photograph of a part here";
  if (!item?.image.width) {
    if (item) $("empty").textContent = "This file could not be read as a photograph.";
    return;
  }
  await attempt(async () => drawBlob(await (await api(item.image.url)).blob(), () => state.shown?.id === item.id));
}

/** Ask for the heat map, wait until it is there, and draw it; a second time hides it. */
async function explain() {
  const item = state.shown;
  if (!item?.image.width || state.heat === "loading") return;
  if (state.heat === "shown") {
    state.heat = null;
    return render();
  }
  const wanted = () => state.shown?.id === item.id && state.heat === "loading";
  state.heat = "loading";
  render();
  await attempt(async () => {
    let job = await (await api(`/v1/inspections/${item.id}/explanations`, { method: "POST" })).json();
    while (wanted() && (job.status === "queued" || job.status === "running")) {
      await pause(400);
      job = await read(`/v1/explanations/${job.id}`);
    }
    if (!wanted()) return;
    if (job.status === "failed") throw new Problem(0, `No heat map: ${job.reason}.`);
    await drawBlob(await (await api(job.image_url)).blob(), wanted, $("heat"));
    if (wanted()) state.heat = "shown";
  });
  if (wanted()) state.heat = null;
  return render();
}

async function toggleCamera() {
  const video = $("video");
  if (video.srcObject) {
    video.srcObject.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    return render();
  }
  try {
    const size = { width: { ideal: 4096 }, height: { ideal: 2160 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", ...size } });
    await video.play();
  } catch (error) {
    say(`No camera: ${error.message}`);
  }
  return render();
}

/** What the camera sees, as a file. */
async function shoot() {
  const video = $("video");
  const frame = document.createElement("canvas");
  Object.assign(frame, { width: video.videoWidth, height: video.videoHeight });
  frame.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.95));
  return new File([blob], `camera-${new Date().toISOString().replaceAll(":", "")}.jpg`, { type: "image/jpeg" });
}

// ---- the threshold

/** Figures of the curve at a threshold, or null above its last one: the verdicts change at its points only. */
const figuresAt = (threshold) => state.curve.points.find((point) => point.threshold >= threshold) ?? null;

/** The threshold of the curve that is nearest: only there its figures are exact. */
function nearestPoint(value) {
  const distance = (point) => Math.abs(point.threshold - value);
  return state.curve.points.reduce((best, point) => (distance(point) < distance(best) ? point : best)).threshold;
}

/** Whether classes have thresholds of their own; the curve is of one for all. */
const perCategory = () => new Set(Object.values(state.model.thresholds ?? {})).size > 1;

async function setThreshold(threshold) {
  if (!memory.get("token"))
    await askForToken("Whoever changes the threshold needs the token that the server was started with.");
  if (!memory.get("token")) return;
  await api("/v1/operating-point", { method: "PUT", json: { threshold } });
  await readModel();
  say(`The threshold is ${digits(state.curve.threshold)} from the next photograph on.`, { passing: true });
}

// ---- words

const digits = (value) => (value == null ? "–" : Number(value.toFixed(4)).toString());
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

/** With enough digits to differ from 0 and 100. */
function percent(share) {
  if (share == null) return "not stated";
  let places = 1;
  while (places < 4 && share > 0 && share < 1 && [0, 100].includes(Number((100 * share).toFixed(places)))) places += 1;
  return `${(100 * share).toFixed(places)}\u00a0%`;
}

function time(when) {
  const date = new Date(when);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString("en-GB", { timeStyle: "medium", ...(today ? {} : { dateStyle: "medium" }) });
}

/** What rejects the part: "2 × scratch, dent". */
function causes(boxes) {
  const numbers = new Map();
  for (const { category_id } of boxes) numbers.set(category_id, (numbers.get(category_id) ?? 0) + 1);
  return [...numbers]
    .map(([id, number]) => (number > 1 ? `${number} × ${categoryName(id)}` : categoryName(id)))
    .join(", ");
}

let passing;
function say(text, { passing: passes = false } = {}) {
  clearTimeout(passing);
  $("notice").querySelector("p").textContent = text;
  $("notice").classList.toggle("passing", passes);
  $("notice").hidden = false;
  if (passes) passing = setTimeout(hush, 6000);
}

function hush() {
  $("notice").hidden = true;
}

/** For who does not see the screen; nothing is said twice. */
function announce(text) {
  if ($("announcement").textContent !== text) $("announcement").textContent = text;
}

// ---- drawing

/** An element with attributes and children; texts are texts, never HTML. */
function element(name, attributes = {}, ...children) {
  const made = SHAPES.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value != null && value !== false) made.setAttribute(key, value === true ? "" : value);
  made.append(...children);
  return made;
}
const SHAPES = new Set(["svg", "g", "rect", "text", "use", "path", "polyline", "line"]);
const WORDS = { good: "Good", defective: "Defective", unreadable: "Unreadable" };
const sign = (name) =>
  element("svg", { class: `sign ${name}`, "aria-hidden": "true" }, element("use", { href: `#sign-${name}` }));

function render() {
  renderHeader();
  renderVerdict();
  renderPart();
  renderBoxes();
  renderHistory();
  renderThreshold();
}

function renderHeader() {
  const { model, connected: live } = state;
  $("model").textContent = model ? `${model.name}, version ${model.version}` : "";
  $("model").title = model ? `sha256 ${model.sha256}` : "";
  const text = live === null ? "Connecting" : live ? "Connected" : `No connection since ${time(state.lostAt)}`;
  if ($("connection").textContent !== text) $("connection").textContent = text;
  $("operator").textContent = memory.get("reviewer") ? `Operator: ${memory.get("reviewer")}` : "Operator";
  document.body.classList.toggle("lost", live === false);
}

function renderVerdict() {
  const { shown: item, busy } = state;
  const verdict = item ? verdictOf(item) : "none";
  const word = item ? WORDS[verdict] : busy ? "Inspecting" : "Ready";
  const boxes = item ? boxesOf(item) : [];
  const why = !item
    ? ""
    : item.review
      ? causes(boxes) || (verdict === "good" ? "no defect" : "no box drawn")
      : verdict === "unreadable"
        ? "Not inspected: photograph it again"
        : causes(boxes) || "no defect found";
  $("verdict").dataset.verdict = verdict;
  $("verdict").classList.toggle("busy", Boolean(busy));
  $("sign").firstElementChild.setAttribute("href", `#sign-${verdict}`);
  $("word").textContent = word;
  $("why").replaceChildren(
    why,
    item && verdict !== "unreadable"
      ? element("small", {}, `highest score ${item.score.toFixed(2)}, rejects from ${digits(item.threshold)}`)
      : "",
  );
  $("subject").textContent = busy ?? (item ? `${item.name ?? "photograph"}, ${time(item.created_at)}` : "");
  $("correction").textContent = item?.review
    ? `${item.review.verdict === item.verdict ? "Confirmed" : `Corrected, the detector said ${item.verdict};`} ${item.review.reviewer ? `by ${item.review.reviewer}, ` : ""}${time(item.review.reviewed_at)}`
    : item?.review_requested
      ? `Please check: ${item.review_requested === "unsure" ? "the detector is unsure" : "taken at random"}`
      : "";
  $("live").hidden = state.following || !item;
  $("live").textContent = state.missed
    ? `${count(state.missed, "new photograph", "new photographs")}: show the newest`
    : "Show the newest";
  document.title = `${word} – Inspection`;
  if (item) announce(`${word}: ${why}. ${$("correction").textContent} ${item.name ?? ""}`);
  else if (busy) announce(`Inspecting ${busy}`);
}

function renderPart() {
  const { shown: item, draft } = state;
  const pictured = Boolean(item?.image.width);
  const camera = Boolean($("video").srcObject);
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("camera").textContent = camera ? "Close the camera" : "Camera";
  $("shoot").hidden = $("video").hidden = !camera;
  $("stage").classList.toggle("vacant", !item && !state.busy);
  $("photo").setAttribute(
    "aria-label",
    item ? `Photograph ${item.name ?? ""} of ${item.image.width} by ${item.image.height} pixels` : "No photograph",
  );
  $("layers").style.setProperty("--zoom", state.zoom);
  $("larger").disabled = !pictured || state.zoom === ZOOMS.at(-1);
  $("smaller").disabled = !pictured || state.zoom === 1;
  $("heat").hidden = state.heat !== "shown";
  $("actions").hidden = Boolean(draft);
  $("editor").hidden = !draft;
  $("good").disabled = $("defective").disabled = !item;
  $("edit").disabled = !pictured;
  $("explain").disabled = !pictured || !item.detections.length || state.heat === "loading";
  $("explain").setAttribute("aria-pressed", String(state.heat === "shown"));
  $("explain").classList.toggle("loading", state.heat === "loading");
  for (const name of ["good", "defective"])
    $(name).setAttribute("aria-pressed", String(item?.review?.verdict === name));
  if (!draft) return;
  const number = draft.boxes.length;
  $("save").replaceChildren(
    `Save: ${draftVerdict()}, ${number ? count(number, "box", "boxes") : "no box"} `,
    element("kbd", {}, "Enter"),
  );
  $("remove").disabled = draft.chosen === null;
  const categories = state.model.categories;
  if ($("category").childElementCount !== categories.length || $("category").options[0].text !== categories[0].name)
    $("category").replaceChildren(...categories.map(({ id, name }) => element("option", { value: id }, name)));
  $("category").value = draft.category;
}

function renderBoxes() {
  const { shown: item, draft } = state;
  const overlay = $("boxes");
  const focused = overlay.contains(document.activeElement);
  overlay.classList.toggle("editing", Boolean(draft));
  overlay.setAttribute("viewBox", `0 0 ${item?.image.width || 1} ${item?.image.height || 1}`);
  if (!item) return overlay.replaceChildren();
  const size = unitsPerPixel();
  const found = item.detections.map((one) => ({ ...one, kind: kindOf(one, item) })).filter((one) => one.kind);
  const own = item.review ? item.review.boxes.map((one) => ({ ...one, kind: "own" })) : [];
  const boxes = draft ? draft.boxes.map((one, index) => ({ ...one, kind: "drawn", index })) : [...found, ...own];
  overlay.replaceChildren(...boxes.map((box) => boxElement(box, size, draft)));
  if (focused) overlay.querySelector(".chosen")?.focus({ preventScroll: true });
  return undefined;
}

/** How a detection is drawn; null: not at all. */
function kindOf(one, item) {
  const rejects = state.chosen === null ? one.defect : one.score >= state.chosen;
  if (item.review) return one.defect ? "replaced" : null;
  return rejects ? "found" : one.score >= FAINT * item.threshold ? "faint" : null;
}

/** `size`: photograph pixels to a CSS pixel, so that text and corners look the same at every zoom. */
function boxElement({ bbox: [x, y, width, height], category_id, score, kind, index }, size, draft) {
  const chosen = draft && index === draft.chosen;
  const place = { x, y, width, height };
  const text = score === undefined ? categoryName(category_id) : `${categoryName(category_id)} ${score.toFixed(2)}`;
  const where = `${text}, ${Math.round(width)} by ${Math.round(height)} pixels at ${Math.round(x)}, ${Math.round(y)}`;
  const above = y > 22 * size;
  const group = element(
    "g",
    {
      class: `box ${kind}${chosen ? " chosen" : ""}`,
      "data-box": index,
      tabindex: draft && 0,
      role: draft ? "button" : "img",
      "aria-label": where,
      "aria-pressed": draft && String(chosen),
    },
    element("rect", { class: "halo", ...place }),
    element("rect", { class: "edge", ...place }),
  );
  if (kind === "found" || kind === "own" || kind === "drawn")
    group.append(
      element(
        "text",
        { x, y: above ? y - 7 * size : y + height + 17 * size, "font-size": 14 * size, "stroke-width": 4 * size },
        text,
      ),
    );
  const half = 6 * size;
  const corners = { nw: [x, y], ne: [x + width, y], sw: [x, y + height], se: [x + width, y + height] };
  if (chosen)
    for (const [corner, [cx, cy]] of Object.entries(corners))
      group.append(
        element("rect", {
          class: "corner",
          "data-corner": corner,
          x: cx - half,
          y: cy - half,
          width: 2 * half,
          height: 2 * half,
        }),
      );
  return group;
}

function renderHistory() {
  const focused = document.activeElement?.dataset?.id;
  $("list").replaceChildren(...state.items.map(historyEntry));
  if (!state.items.length) $("list").append(element("li", { class: "hint" }, "Nothing yet"));
  $("older").hidden = !state.cursor;
  if (focused)
    $("list")
      .querySelector(`[data-id="${CSS.escape(focused)}"]`)
      ?.focus({ preventScroll: true });
}

/**
 * Instead of the photograph, which would have to be loaded in full, a map of where its boxes are. bind() is told by
 * `data-id` which entry was clicked.
 */
function historyEntry(item) {
  const verdict = verdictOf(item);
  const { width, height } = item.image;
  const map = element(
    "svg",
    { class: "map", viewBox: `0 0 ${width || 4} ${height || 3}`, "aria-hidden": "true" },
    element("rect", { class: "ground", width: width || 4, height: height || 3 }),
  );
  for (const { bbox } of boxesOf(item)) {
    const least = 0.07 * Math.max(width, height);
    const [w, h] = [Math.max(bbox[2], least), Math.max(bbox[3], least)];
    map.append(
      element("rect", {
        class: verdict,
        x: bbox[0] + (bbox[2] - w) / 2,
        y: bbox[1] + (bbox[3] - h) / 2,
        width: w,
        height: h,
      }),
    );
  }
  const label = item.review
    ? item.review.verdict === item.verdict
      ? "confirmed"
      : "corrected"
    : item.review_requested
      ? "check"
      : "";
  const entry = element(
    "button",
    { "data-id": item.id, "aria-current": item.id === state.shown?.id && "true" },
    map,
    element(
      "span",
      { class: "entry" },
      sign(verdict),
      element("b", {}, WORDS[verdict]),
      label ? element("em", {}, label) : "",
    ),
    element("small", {}, `${time(item.created_at)}${item.name ? `, ${item.name}` : ""}`),
  );
  return element("li", {}, entry);
}

function renderThreshold() {
  const { curve, shown: item } = state;
  $("threshold").hidden = !curve?.points.length;
  if ($("threshold").hidden) return;
  const chosen = state.chosen ?? curve.threshold;
  const various = perCategory();
  const most = Math.max(curve.points.at(-1).threshold, curve.threshold);
  $("slider").max = most;
  if (state.chosen === null) $("slider").value = curve.threshold;
  const used = various ? null : figuresAt(curve.threshold);
  const next = state.chosen === null ? used : figuresAt(chosen);
  $("used").textContent = $("now").textContent = various ? "by category" : digits(curve.threshold);
  $("chosen").textContent = state.chosen === null ? $("used").textContent : digits(chosen);
  for (const rate of ["escape", "overkill"]) {
    renderRate($(`${rate}-used`), used, rate);
    renderRate($(`${rate}-chosen`), next, rate);
  }
  $("slider").setAttribute(
    "aria-valuetext",
    `${$("chosen").textContent}: escape ${percent(next?.escape_rate)}, overkill ${percent(next?.overkill_rate)}`,
  );
  const same = state.chosen === null || (chosen === curve.threshold && !various);
  $("apply").disabled = same;
  $("apply").textContent = same ? "Apply" : `Apply ${digits(chosen)}`;
  const would = item && item.verdict !== "unreadable" ? (item.score >= chosen ? "defective" : "good") : null;
  $("effect").textContent =
    state.chosen !== null && would
      ? `With ${digits(chosen)} this photograph ${would === item.verdict ? "stays" : "would be"} ${would}.`
      : "Measured on the test parts; at most: upper bound of the 95 % interval.";
  renderCurve(most, chosen);
}

function renderRate(cell, figures, rate) {
  const upper = figures?.[`${rate}_upper`];
  cell.replaceChildren(
    element("b", {}, figures ? percent(figures[`${rate}_rate`]) : "not measured"),
    upper == null ? "" : element("small", {}, `at most ${percent(upper)}`),
  );
}

function renderCurve(most, chosen) {
  const [wide, high] = [200, 70];
  const x = (threshold) => (threshold / most) * wide;
  const y = (share) => high - 2 - share * (high - 4);
  const parts = [];
  for (const rate of ["overkill", "escape"]) {
    const known = state.curve.points.filter((point) => point[`${rate}_upper`] != null);
    const bounds = known.map((point) => `${x(point.threshold)},${y(point[`${rate}_upper`])}`);
    if (known.length)
      parts.push(
        element("path", {
          class: `bound ${rate}`,
          d: `M${x(known[0].threshold)},${high} L${bounds.join(" L")} L${x(known.at(-1).threshold)},${high}Z`,
        }),
      );
    const rates = state.curve.points.filter((point) => point[`${rate}_rate`] != null);
    parts.push(
      element("polyline", {
        class: rate,
        points: rates.map((point) => `${x(point.threshold)},${y(point[`${rate}_rate`])}`).join(" "),
      }),
    );
  }
  parts.push(
    element("line", { class: "used", x1: x(state.curve.threshold), x2: x(state.curve.threshold), y1: 0, y2: high }),
  );
  parts.push(element("line", { class: "now", x1: x(chosen), x2: x(chosen), y1: 0, y2: high }));
  $("curve").replaceChildren(...parts);
}

// ---- what the operator does

/** The dialog, with the reason why it opens where the server asked; resolves when it is closed. */
let asking = null;
function askForToken(reason) {
  asking ??= openSettings(reason).then((saved) => {
    asking = null;
    if (!saved) throw new Problem(401, "Without the token the server does not do this.");
  });
  return asking;
}

function openSettings(reason = "") {
  const dialog = $("settings");
  $("asked").hidden = !reason;
  $("asked").textContent = reason;
  $("reviewer").value = memory.get("reviewer");
  $("token").value = memory.get("token");
  $("keys").checked = memory.get("keys", "on") === "on";
  dialog.returnValue = "";
  dialog.showModal();
  $(reason ? "token" : "reviewer").focus();
  dialog.firstElementChild.onsubmit = ({ submitter }) => {
    if (submitter.value !== "save") return; // here, because the next key may arrive before the dialog says that it closed
    memory.set("reviewer", $("reviewer").value.trim());
    memory.set("token", $("token").value.trim());
    memory.set("keys", $("keys").checked ? "on" : "off");
  };
  return new Promise((done) => {
    dialog.onclose = () => {
      const saved = dialog.returnValue === "save";
      if (saved) tokenGiven();
      render();
      done(saved);
    };
  });
}

const KEYS = {
  o: () => decide("good"),
  n: () => decide("defective"),
  e: edit,
  h: explain,
  " ": () => $("video").srcObject && inspectShot(),
  Escape: goLive,
  ArrowUp: () => move(-1),
  ArrowLeft: () => move(-1),
  ArrowDown: () => move(1),
  ArrowRight: () => move(1),
};
const EDITOR_KEYS = {
  o: KEYS.o,
  n: KEYS.n,
  a: addBox,
  Delete: removeBox,
  Backspace: removeBox,
  Enter: save,
  Escape: leave,
  ArrowUp: (event) => nudge(0, -1, event.shiftKey),
  ArrowDown: (event) => nudge(0, 1, event.shiftKey),
  ArrowLeft: (event) => nudge(-1, 0, event.shiftKey),
  ArrowRight: (event) => nudge(1, 0, event.shiftKey),
};

function save() {
  const { boxes, etag } = state.draft;
  return review(state.shown, { verdict: draftVerdict(), boxes, etag });
}

function leave() {
  state.draft = null;
  render();
  $("edit").focus({ preventScroll: true });
}

function pressed(event) {
  const { target, key } = event;
  const letter = key.length === 1;
  if (event.ctrlKey || event.metaKey || event.altKey || $("settings").open) return;
  if (target.matches("input, select, textarea") && key !== "Escape") return;
  if (target.matches("button") && (key === "Enter" || key === " ")) return;
  if (letter && memory.get("keys", "on") !== "on") return;
  const category = state.draft && state.model.categories[Number(key) - 1];
  const action = category
    ? () => setCategory(category.id)
    : (state.draft ? EDITOR_KEYS : KEYS)[letter ? key.toLowerCase() : key];
  if (!action) return;
  event.preventDefault();
  void attempt(async () => action(event));
}

function zoom(step) {
  const { scrollWidth, scrollHeight, scrollLeft, scrollTop, clientWidth, clientHeight } = $("view");
  const [x, y] = [(scrollLeft + clientWidth / 2) / scrollWidth, (scrollTop + clientHeight / 2) / scrollHeight];
  state.zoom = ZOOMS[clamp(ZOOMS.indexOf(state.zoom) + step, 0, ZOOMS.length - 1)];
  render();
  $("view").scrollTo($("view").scrollWidth * x - clientWidth / 2, $("view").scrollHeight * y - clientHeight / 2);
}

async function inspectShot() {
  await inspect([await shoot()]);
}

function takeFiles(event, data) {
  const files = [...(data?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  void inspect(files);
}

function bind() {
  const click = (id, action) => $(id).addEventListener("click", () => void attempt(async () => action()));
  click("operator", () => openSettings());
  click("dismiss", hush);
  click("live", goLive);
  click("choose", () => $("files").click());
  click("camera", toggleCamera);
  click("shoot", inspectShot);
  click("larger", () => zoom(1));
  click("smaller", () => zoom(-1));
  click("good", () => decide("good"));
  click("defective", () => decide("defective"));
  click("edit", edit);
  click("explain", explain);
  click("add", addBox);
  click("remove", removeBox);
  click("save", save);
  click("cancel", leave);
  click("older", () => readHistory({ older: true }));
  click("apply", () => setThreshold(state.chosen));
  click("reset", () => setThreshold(null));
  $("list").addEventListener("click", (event) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    const item = state.items.find((one) => one.id === id);
    if (item) show(item);
  });
  $("category").onchange = () => setCategory(Number($("category").value));
  $("filter").onchange = () => void attempt(readHistory);
  $("files").onchange = () => void inspect([...$("files").files]).then(() => ($("files").value = ""));
  $("slider").oninput = () => {
    state.chosen = nearestPoint($("slider").valueAsNumber);
    render();
  };
  $("boxes").addEventListener("pointerdown", startDrag);
  $("boxes").addEventListener("focusin", (event) => {
    const index = Number(event.target.dataset.box);
    if (state.draft && index !== state.draft.chosen) {
      choose(index);
      render();
    }
  });
  new ResizeObserver(renderBoxes).observe($("boxes"));
  document.addEventListener("keydown", pressed);
  document.addEventListener("paste", (event) => takeFiles(event, event.clipboardData));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    event.preventDefault();
    takeFiles(event, event.dataTransfer);
  });
}

askForTokenWith(askForToken);
bind();
$("threshold").open = window.innerHeight >= 1000 && window.innerWidth >= 1000;
render();
void keepConnected();
