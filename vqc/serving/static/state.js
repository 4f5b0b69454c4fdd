// What the page knows and shows.

export const $ = (id) => document.getElementById(id);

export const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];

export const state = {
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
  awaited: false, // whether the verdict on the file last brought is not on the screen; after a failure it stays so
  draft: null, // boxes being edited: {etag, boxes, chosen, category, empty}
  heat: null, // "loading" | "shown" for the inspection on the screen
  zoom: 1,
};

/** What outlasts a reload, until the tab is closed. */
export const memory = {
  get: (key, other = "") => sessionStorage.getItem(`vqc.${key}`) ?? other,
  set: (key, value) => sessionStorage.setItem(`vqc.${key}`, value),
};
