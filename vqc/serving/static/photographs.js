// Photographs and heat maps on their canvases, because an <img> sends no token; and the camera.

import { render } from "./drawing.js";
import { clamp } from "./geometry.js";
import { api, attempt, pause, Problem, read } from "./server.js";
import { $, state, ZOOMS } from "./state.js";
import { say } from "./words.js";

const LARGEST_CANVAS_PX = 16e6; // pixels of a photograph as it is shown; browsers refuse much larger canvases

export function clearCanvas(canvas) {
  Object.assign(canvas, { width: 1, height: 1 });
}

/** Draw a picture, scaled down where a canvas could not hold it, unless something else is wanted by then. */
export async function drawBlob(blob, wanted, canvas = $("photo")) {
  let picture;
  try {
    picture = await createImageBitmap(blob);
  } catch {
    if (wanted()) $("empty").textContent = "This browser cannot show this kind of picture.";
    return;
  }
  if (wanted()) {
    const scale = Math.min(1, Math.sqrt(LARGEST_CANVAS_PX / (picture.width * picture.height)));
    Object.assign(canvas, { width: Math.round(picture.width * scale), height: Math.round(picture.height * scale) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    document.body.classList.add("drawn");
  }
  picture.close();
}

export async function drawPhotograph(item) {
  document.body.classList.remove("drawn");
  clearCanvas($("photo"));
  clearCanvas($("heat"));
  $("empty").textContent = item ? "" : "Drop a photograph of a part here";
  if (!item?.image.width) {
    if (item) $("empty").textContent = "This file could not be read as a photograph.";
    return;
  }
  await attempt(async () => drawBlob(await (await api(item.image.url)).blob(), () => state.shown?.id === item.id));
}

/** Ask for the heat map, wait until it is there, and draw it; a second time hides it. */
export async function explain() {
  const item = state.shown;
  if (!item?.image.width || state.heat === "loading") return;
  if (state.heat === "shown") {
    state.heat = null;
    return render();
  }
  const wanted = () => state.shown?.id === item.id && state.heat === "loading";
  state.heat = "loading";
  render();
  await attempt(async () => {
    let job = await (await api(`/v1/inspections/${item.id}/explanations`, { method: "POST" })).json();
    while (wanted() && (job.status === "queued" || job.status === "running")) {
      await pause(400);
      job = await read(`/v1/explanations/${job.id}`);
    }
    if (!wanted()) return;
    if (job.status === "failed") throw new Problem(0, `No heat map: ${job.reason}.`);
    await drawBlob(await (await api(job.image_url)).blob(), wanted, $("heat"));
    if (wanted()) state.heat = "shown";
  });
  if (wanted()) state.heat = null;
  return render();
}

export function zoom(step) {
  const { scrollWidth, scrollHeight, scrollLeft, scrollTop, clientWidth, clientHeight } = $("view");
  const [x, y] = [(scrollLeft + clientWidth / 2) / scrollWidth, (scrollTop + clientHeight / 2) / scrollHeight];
  state.zoom = ZOOMS[clamp(ZOOMS.indexOf(state.zoom) + step, 0, ZOOMS.length - 1)];
  render();
  $("view").scrollTo($("view").scrollWidth * x - clientWidth / 2, $("view").scrollHeight * y - clientHeight / 2);
}

export async function toggleCamera() {
  const video = $("video");
  if (video.srcObject) {
    video.srcObject.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    return render();
  }
  try {
    const size = { width: { ideal: 4096 }, height: { ideal: 2160 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", ...size } });
    await video.play();
  } catch (error) {
    say(`No camera: ${error.message}`);
  }
  return render();
}

/** What the camera sees, as a file. */
export async function shoot() {
  const video = $("video");
  const frame = document.createElement("canvas");
  Object.assign(frame, { width: video.videoWidth, height: video.videoHeight });
  frame.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.95));
  return new File([blob], `camera-${new Date().toISOString().replaceAll(":", "")}.jpg`, { type: "image/jpeg" });
}
