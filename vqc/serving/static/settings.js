// The operator's settings: name, token, keys.

import { render } from "./drawing.js";
import { Problem, tokenGiven } from "./server.js";
import { $, memory } from "./state.js";

let asking = null;

/** The dialog, with the reason why it opens where the server asked; resolves when it is closed. */
export function askForToken(reason) {
  asking ??= openSettings(reason).then((saved) => {
    asking = null;
    if (!saved) throw new Problem(401, "Without the token the server does not do this.");
  });
  return asking;
}

export function openSettings(reason = "") {
  const dialog = $("settings");
  $("asked").hidden = !reason;
  $("asked").textContent = reason;
  $("reviewer").value = memory.get("reviewer");
  $("token").value = memory.get("token");
  $("keys").checked = memory.get("keys", "on") === "on";
  dialog.returnValue = "";
  dialog.showModal();
  $(reason ? "token" : "reviewer").focus();
  dialog.firstElementChild.onsubmit = ({ submitter }) => {
    if (submitter.value !== "save") return; // here, because the next key may arrive before the dialog says that it closed
    memory.set("reviewer", $("reviewer").value.trim());
    memory.set("token", $("token").value.trim());
    memory.set("keys", $("keys").checked ? "on" : "off");
  };
  return new Promise((done) => {
    dialog.onclose = () => {
      const saved = dialog.returnValue === "save";
      if (saved) tokenGiven();
      render();
      done(saved);
    };
  });
}
