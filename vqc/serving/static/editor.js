// The boxes that the operator edits, until they are saved or left.

import { renderBoxes } from "./boxes.js";
import { render } from "./drawing.js";
import { between, moved, pointOf, round, unitsPerPixel } from "./geometry.js";
import { $, state } from "./state.js";
import { boxesOf } from "./verdict.js";
import { hush } from "./words.js";

const SMALLEST_BOX = 4; // pixels of the screen

/** Without a box the part is good, unless it is already known to be defective without one. */
export function edit() {
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

export function leave() {
  state.draft = null;
  render();
  $("edit").focus({ preventScroll: true });
}

export function choose(index) {
  state.draft.chosen = index;
  if (index !== null) state.draft.category = state.draft.boxes[index].category_id;
}

export function setCategory(id) {
  state.draft.category = id;
  if (state.draft.chosen !== null) state.draft.boxes[state.draft.chosen].category_id = id;
  render();
}

export function addBox() {
  const { width, height } = state.shown.image;
  state.draft.boxes.push({
    category_id: state.draft.category,
    bbox: [0.4 * width, 0.4 * height, 0.2 * width, 0.2 * height].map(round),
  });
  choose(state.draft.boxes.length - 1);
  render();
  $("boxes").querySelector(".chosen").focus({ preventScroll: true });
}

export function removeBox() {
  if (state.draft.chosen === null) return;
  state.draft.boxes.splice(state.draft.chosen, 1);
  choose(state.draft.boxes.length ? Math.min(state.draft.chosen, state.draft.boxes.length - 1) : null);
  render();
  ($("boxes").querySelector(".chosen") ?? $("save")).focus({ preventScroll: true });
}

/** Arrows move the chosen box by a pixel of the screen and, with Shift, resize it. */
export function nudge(dx, dy, resize) {
  if (state.draft.chosen === null) return;
  const box = state.draft.boxes[state.draft.chosen];
  const step = Math.max(1, unitsPerPixel());
  const [x, y, w, h] = box.bbox;
  box.bbox = resize
    ? between([x, y], [Math.max(x + 1, x + w + step * dx), Math.max(y + 1, y + h + step * dy)])
    : moved(box.bbox, [x + step * dx, y + step * dy]);
  render();
}

/** Draw, move or resize: what the pointer does until it is released, a function from its point to the box. */
export function startDrag(event) {
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
