// Figures and times in words, and what the page says: notices, and announcements for screen readers.

import { $ } from "./state.js";

export const digits = (value) => (value == null ? "–" : Number(value.toFixed(4)).toString());
export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

/** With enough digits to differ from 0 and 100. */
export function percent(share) {
  if (share == null) return "not stated";
  let places = 1;
  while (places < 4 && share > 0 && share < 1 && [0, 100].includes(Number((100 * share).toFixed(places)))) places += 1;
  return `${(100 * share).toFixed(places)}\u00a0%`;
}

export function time(when) {
  const date = new Date(when);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString("en-GB", { timeStyle: "medium", ...(today ? {} : { dateStyle: "medium" }) });
}

let passing;
export function say(text, { passing: passes = false } = {}) {
  clearTimeout(passing);
  $("notice").querySelector("p").textContent = text;
  $("notice").classList.toggle("passing", passes);
  $("notice").hidden = false;
  if (passes) passing = setTimeout(hush, 6000);
}

export function hush() {
  $("notice").hidden = true;
}

/** For who does not see the screen; nothing is said twice. */
export function announce(text) {
  if ($("announcement").textContent !== text) $("announcement").textContent = text;
}
