// The model in use: what the server says of it, and its threshold.

import { render } from "./drawing.js";
import { round } from "./geometry.js";
import { api, read } from "./server.js";
import { askForToken } from "./settings.js";
import { $, memory, state } from "./state.js";
import { digits, say } from "./words.js";

export async function readModel() {
  state.model = await read("/v1/model");
  render();
  state.curve = await read("/v1/operating-curve").catch(() => null); // null: the model was never measured
  state.chosen = null;
  render();
}

export async function readDrift() {
  const drift = await read("/v1/drift").catch(() => null);
  const worst = drift?.alarm ? [...drift.statistics].sort((a, b) => (a.p_value ?? 1) - (b.p_value ?? 1))[0] : null;
  $("drift").hidden = !drift?.alarm;
  $("drift").textContent = drift?.alarm
    ? `The photographs no longer look like those the model was measured on${worst ? `: ${worst.name} is ${round(worst.recent_mean)}, it was ${round(worst.reference_mean)}` : ""}. Check light, lens and parts.`
    : "";
}

export async function setThreshold(threshold) {
  if (!memory.get("token"))
    await askForToken("Whoever changes the threshold needs the token that the server was started with.");
  if (!memory.get("token")) return;
  await api("/v1/operating-point", { method: "PUT", json: { threshold } });
  await readModel();
  say(`The threshold is ${digits(state.curve.threshold)} from the next photograph on.`, { passing: true });
}
