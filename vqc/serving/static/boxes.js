// The boxes over the photograph.

import { element } from "./elements.js";
import { unitsPerPixel } from "./geometry.js";
import { $, state } from "./state.js";
import { categoryName } from "./verdict.js";

const FAINT = 0.7; // share of the threshold from which a detection that rejects nothing is shown

export function renderBoxes() {
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
