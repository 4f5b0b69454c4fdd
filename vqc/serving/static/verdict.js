// The verdict on a part, and what it rests on: the detector's answer until an operator has corrected it.

import { element } from "./elements.js";
import { $, state } from "./state.js";
import { announce, count, digits, time } from "./words.js";

export const WORDS = { good: "Good", defective: "Defective", unreadable: "Unreadable" };

export const verdictOf = (item) => item.review?.verdict ?? item.verdict;
const defects = (item) => item.detections.filter((found) => found.defect);
export const boxesOf = (item) =>
  (item.review ? item.review.boxes : defects(item)).map(({ category_id, bbox }) => ({ category_id, bbox: [...bbox] }));
export const categoryName = (id) =>
  state.model?.categories.find((category) => category.id === id)?.name ?? `category ${id}`;
export const draftVerdict = () => (state.draft.boxes.length ? "defective" : state.draft.empty);

/** What rejects the part: "2 × scratch, dent". */
function causes(boxes) {
  const numbers = new Map();
  for (const { category_id } of boxes) numbers.set(category_id, (numbers.get(category_id) ?? 0) + 1);
  return [...numbers]
    .map(([id, number]) => (number > 1 ? `${number} × ${categoryName(id)}` : categoryName(id)))
    .join(", ");
}

export function renderVerdict() {
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
  $("subject").textContent = item ? `${item.name ?? "photograph"}, ${time(item.created_at)}` : (busy ?? "");
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
