// Boxes are COCO xywh in pixels of the upright photograph, here as in the server's answers; the overlay's viewBox has
// the photograph's size, so that none is ever converted.

import { $, state } from "./state.js";

export const round = (value) => Math.round(10 * value) / 10;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Photograph pixels to one CSS pixel. */
export function unitsPerPixel() {
  const { width, height } = $("boxes").getBoundingClientRect();
  const image = state.shown?.image;
  return image?.width && width ? 1 / Math.min(width / image.width, height / image.height) : 1;
}

export function pointOf(event) {
  const { left, top, width, height } = $("boxes").getBoundingClientRect();
  const [scale, image] = [unitsPerPixel(), state.shown.image];
  const x = (event.clientX - left - (width - image.width / scale) / 2) * scale;
  const y = (event.clientY - top - (height - image.height / scale) / 2) * scale;
  return [clamp(x, 0, image.width), clamp(y, 0, image.height)];
}

/** The box of two corners, within the photograph. */
export function between([x1, y1], [x2, y2]) {
  const { width, height } = state.shown.image;
  const [left, right] = [x1, x2].map((x) => clamp(x, 0, width)).sort((a, b) => a - b);
  const [top, bottom] = [y1, y2].map((y) => clamp(y, 0, height)).sort((a, b) => a - b);
  return [left, top, right - left, bottom - top].map(round);
}

/** The box with its upper left corner elsewhere, within the photograph. */
export function moved([, , w, h], [x, y]) {
  const { width, height } = state.shown.image;
  return [clamp(x, 0, width - w), clamp(y, 0, height - h), w, h].map(round);
}
