// The threshold: the slider, and what it would cost by the curve that was measured.

import { element } from "./elements.js";
import { $, state } from "./state.js";
import { digits, percent } from "./words.js";

/** Figures of the curve at a threshold, or null above its last one: the verdicts change at its points only. */
const figuresAt = (threshold) => state.curve.points.find((point) => point.threshold >= threshold) ?? null;

/** The threshold of the curve that is nearest: only there its figures are exact. */
export function nearestPoint(value) {
  const distance = (point) => Math.abs(point.threshold - value);
  return state.curve.points.reduce((best, point) => (distance(point) < distance(best) ? point : best)).threshold;
}

/** Whether classes have thresholds of their own; the curve is of one for all. */
const perCategory = () => new Set(Object.values(state.model.thresholds ?? {})).size > 1;

export function renderThreshold() {
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
