// The connection to the server: what is read anew with each, and where its events go.

import { render } from "./drawing.js";
import { arrived, changed, readHistory } from "./inspections.js";
import { readDrift, readModel } from "./model.js";
import { attempt, listen } from "./server.js";
import { state } from "./state.js";
import { say, time } from "./words.js";

const events = {
  inspection: (data) => arrived(JSON.parse(data)),
  review: (data) => changed(JSON.parse(data)),
  model: () => void attempt(readModel),
  drift: () => void attempt(readDrift),
};

async function connected() {
  const regained = state.connected === false && state.lostAt;
  state.connected = true;
  if (regained)
    say(`Connected again; photographs inspected since ${time(state.lostAt)} are in the history.`, { passing: true });
  await Promise.all([readModel(), readDrift(), readHistory()]);
}

function lost() {
  if (state.connected !== false) Object.assign(state, { connected: false, lostAt: new Date() });
  render();
}

export const keepConnected = () => listen({ connected, lost, events });
