// The operator's page: its start, and what the operator does. There is one state (state.js), which the server's answers
// and events (server.js, connection.js) and the operator change, and render() (drawing.js), which draws all of it.
// The other modules do nothing when they are imported.

import { renderBoxes } from "./boxes.js";
import { keepConnected } from "./connection.js";
import { decide, save } from "./correction.js";
import { render } from "./drawing.js";
import { addBox, choose, edit, leave, nudge, removeBox, setCategory, startDrag } from "./editor.js";
import { goLive, inspect, move, readHistory, show } from "./inspections.js";
import { setThreshold } from "./model.js";
import { explain, shoot, toggleCamera, zoom } from "./photographs.js";
import { askForTokenWith, attempt } from "./server.js";
import { askForToken, openSettings } from "./settings.js";
import { $, memory, state } from "./state.js";
import { nearestPoint } from "./threshold.js";
import { hush } from "./words.js";

const KEYS = {
  o: () => decide("good"),
  n: () => decide("defective"),
  e: edit,
  h: explain,
  " ": () => $("video").srcObject && inspectShot(),
  Escape: goLive,
  ArrowUp: () => move(-1),
  ArrowLeft: () => move(-1),
  ArrowDown: () => move(1),
  ArrowRight: () => move(1),
};
const EDITOR_KEYS = {
  o: KEYS.o,
  n: KEYS.n,
  a: addBox,
  Delete: removeBox,
  Backspace: removeBox,
  Enter: save,
  Escape: leave,
  ArrowUp: (event) => nudge(0, -1, event.shiftKey),
  ArrowDown: (event) => nudge(0, 1, event.shiftKey),
  ArrowLeft: (event) => nudge(-1, 0, event.shiftKey),
  ArrowRight: (event) => nudge(1, 0, event.shiftKey),
};

function pressed(event) {
  const { target, key } = event;
  const letter = key.length === 1;
  if (event.ctrlKey || event.metaKey || event.altKey || $("settings").open) return;
  if (target.matches("input, select, textarea") && key !== "Escape") return;
  if (target.matches("button") && (key === "Enter" || key === " ")) return;
  if (letter && memory.get("keys", "on") !== "on") return;
  const category = state.draft && state.model.categories[Number(key) - 1];
  const action = category
    ? () => setCategory(category.id)
    : (state.draft ? EDITOR_KEYS : KEYS)[letter ? key.toLowerCase() : key];
  if (!action) return;
  event.preventDefault();
  void attempt(async () => action(event));
}

async function inspectShot() {
  await inspect([await shoot()]);
}

function takeFiles(event, data) {
  const files = [...(data?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  void inspect(files);
}

function bind() {
  const click = (id, action) => $(id).addEventListener("click", () => void attempt(async () => action()));
  click("operator", () => openSettings());
  click("dismiss", hush);
  click("live", goLive);
  click("choose", () => $("files").click());
  click("camera", toggleCamera);
  click("shoot", inspectShot);
  click("larger", () => zoom(1));
  click("smaller", () => zoom(-1));
  click("good", () => decide("good"));
  click("defective", () => decide("defective"));
  click("edit", edit);
  click("explain", explain);
  click("add", addBox);
  click("remove", removeBox);
  click("save", save);
  click("cancel", leave);
  click("older", () => readHistory({ older: true }));
  click("apply", () => setThreshold(state.chosen));
  click("reset", () => setThreshold(null));
  $("list").addEventListener("click", (event) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    const item = state.items.find((one) => one.id === id);
    if (item) show(item);
  });
  $("category").onchange = () => setCategory(Number($("category").value));
  $("filter").onchange = () => void attempt(readHistory);
  $("files").onchange = () => void inspect([...$("files").files]).then(() => ($("files").value = ""));
  $("slider").oninput = () => {
    state.chosen = nearestPoint($("slider").valueAsNumber);
    render();
  };
  $("boxes").addEventListener("pointerdown", startDrag);
  $("boxes").addEventListener("focusin", (event) => {
    const index = Number(event.target.dataset.box);
    if (state.draft && index !== state.draft.chosen) {
      choose(index);
      render();
    }
  });
  new ResizeObserver(renderBoxes).observe($("boxes"));
  document.addEventListener("keydown", pressed);
  document.addEventListener("paste", (event) => takeFiles(event, event.clipboardData));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    event.preventDefault();
    takeFiles(event, event.dataTransfer);
  });
}

askForTokenWith(askForToken);
bind();
$("threshold").open = window.innerHeight >= 1000 && window.innerWidth >= 1000;
render();
void keepConnected();
