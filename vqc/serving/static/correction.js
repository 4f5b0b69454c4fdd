// The operator's correction of an inspection.

import { edit } from "./editor.js";
import { changed } from "./inspections.js";
import { api, attempt, Problem, read } from "./server.js";
import { memory, state } from "./state.js";
import { boxesOf, draftVerdict } from "./verdict.js";
import { hush, say } from "./words.js";

const SETTLED_MS = 500; // a photograph that has just appeared by itself cannot be corrected: another one was meant

/** O and N: the verdict on the inspection shown, with the boxes as they are on the screen. */
export async function decide(verdict) {
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

export function save() {
  const { boxes, etag } = state.draft;
  return review(state.shown, { verdict: draftVerdict(), boxes, etag });
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
