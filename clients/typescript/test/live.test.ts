/** Against a running server, which tests/vqc/serving/test_openapi.py starts. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { before, test } from "node:test";

import { inspectPhotograph } from "../src/actions.js";
import { connect, inspect } from "../src/client.js";

const url = setting("VQC_SERVER_URL");
const token = setting("VQC_SERVE_TOKEN");
const path = setting("VQC_PHOTOGRAPH");
const server = connect({ url, token });
let photograph: File;

before(async () => {
  photograph = new File([await readFile(path)], basename(path), { type: "image/jpeg" });
});

test("a form with a photograph becomes an inspection, which is in the history", async () => {
  const form = new FormData();
  form.set("photograph", photograph);
  const outcome = await inspectPhotograph(null, form);
  assert.ok(outcome.ok);
  const { inspection } = outcome;
  assert.equal(inspection.name, photograph.name);
  assert.equal(inspection.image.bytes, photograph.size);
  assert.ok(inspection.detections.length > 0);
  const { data } = await server.GET("/v1/inspections/{id}", { params: { path: { id: inspection.id } } });
  assert.deepEqual(data, inspection);
});

test("a form without a photograph is refused before anything is sent", async () => {
  const outcome = await inspectPhotograph(null, new FormData());
  assert.equal(!outcome.ok && outcome.problem.status, 400);
});

test("a photograph that cannot be read is a problem", async () => {
  const outcome = await inspect(server, photograph.slice(0, 900), { name: "torn.jpg" });
  assert.equal(!outcome.ok && outcome.problem.status, 422);
});

test("a wrong token is a problem", async () => {
  const outcome = await inspect(connect({ url, token: "of another server" }), photograph);
  assert.equal(!outcome.ok && outcome.problem.status, 401);
});

test("a server that is not there is a problem", async () => {
  const outcome = await inspect(connect({ url: "http://127.0.0.1:9", token }), photograph);
  assert.equal(!outcome.ok && outcome.problem.status, 503);
});

test("a server that does not answer in time is a problem", async () => {
  const outcome = await inspect(server, photograph, { timeoutMs: 0 });
  assert.match(outcome.ok ? "" : outcome.problem.detail, /no answer within 0 ms/);
});

test("the operator's correction is taken once", async () => {
  const outcome = await inspect(server, photograph);
  assert.ok(outcome.ok);
  const { id, etag } = outcome.inspection;
  const request = {
    params: { path: { id }, header: { "if-match": `"${etag}"` } },
    body: { verdict: "good" as const, boxes: [], reviewer: "E. Xample" },
  };
  const first = await server.PUT("/v1/inspections/{id}/review", request);
  assert.equal(first.data?.review?.reviewer, "E. Xample");
  const second = await server.PUT("/v1/inspections/{id}/review", request);
  assert.equal(second.error?.status, 412);
});

function setting(name: string): string {
  const value = process.env[name];
  assert.ok(value, `set ${name}`);
  return value;
}
