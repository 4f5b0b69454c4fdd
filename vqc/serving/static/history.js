// The list of inspections.

import { element, sign } from "./elements.js";
import { $, state } from "./state.js";
import { boxesOf, verdictOf, WORDS } from "./verdict.js";
import { time } from "./words.js";

export function renderHistory() {
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
 * Instead of the photograph, which would have to be loaded in full, a map of where its boxes are. app.js is told by
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
