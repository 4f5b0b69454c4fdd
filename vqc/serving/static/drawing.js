// Draws all of the state.

import { renderBoxes } from "./boxes.js";
import { element } from "./elements.js";
import { renderHistory } from "./history.js";
import { $, memory, state, ZOOMS } from "./state.js";
import { renderThreshold } from "./threshold.js";
import { draftVerdict, renderVerdict } from "./verdict.js";
import { count, time } from "./words.js";

export function render() {
  renderHeader();
  renderVerdict();
  renderPart();
  renderBoxes();
  renderHistory();
  renderThreshold();
}

function renderHeader() {
  const { model, connected: live } = state;
  $("model").textContent = model ? `${model.name}, version ${model.version}` : "";
  $("model").title = model ? `sha256 ${model.sha256}` : "";
  const text = live === null ? "Connecting" : live ? "Connected" : `No connection since ${time(state.lostAt)}`;
  if ($("connection").textContent !== text) $("connection").textContent = text;
  $("operator").textContent = memory.get("reviewer") ? `Operator: ${memory.get("reviewer")}` : "Operator";
  document.body.classList.toggle("lost", live === false);
}

function renderPart() {
  const { shown: item, draft } = state;
  const pictured = Boolean(item?.image.width);
  const camera = Boolean($("video").srcObject);
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("camera").textContent = camera ? "Close the camera" : "Camera";
  $("shoot").hidden = $("video").hidden = !camera;
  $("stage").classList.toggle("vacant", !item && !state.busy);
  $("photo").setAttribute(
    "aria-label",
    item ? `Photograph ${item.name ?? ""} of ${item.image.width} by ${item.image.height} pixels` : "No photograph",
  );
  $("layers").style.setProperty("--zoom", state.zoom);
  $("larger").disabled = !pictured || state.zoom === ZOOMS.at(-1);
  $("smaller").disabled = !pictured || state.zoom === 1;
  $("heat").hidden = state.heat !== "shown";
  $("actions").hidden = Boolean(draft);
  $("editor").hidden = !draft;
  $("good").disabled = $("defective").disabled = !item;
  $("edit").disabled = !pictured;
  $("explain").disabled = !pictured || !item.detections.length || state.heat === "loading";
  $("explain").setAttribute("aria-pressed", String(state.heat === "shown"));
  $("explain").classList.toggle("loading", state.heat === "loading");
  for (const name of ["good", "defective"])
    $(name).setAttribute("aria-pressed", String(item?.review?.verdict === name));
  if (!draft) return;
  const number = draft.boxes.length;
  $("save").replaceChildren(
    `Save: ${draftVerdict()}, ${number ? count(number, "box", "boxes") : "no box"} `,
    element("kbd", {}, "Enter"),
  );
  $("remove").disabled = draft.chosen === null;
  const categories = state.model.categories;
  if ($("category").childElementCount !== categories.length || $("category").options[0].text !== categories[0].name)
    $("category").replaceChildren(...categories.map(({ id, name }) => element("option", { value: id }, name)));
  $("category").value = draft.category;
}
