/**
 * A typed client of `vqc serve`. Paths, parameters and answers are those of openapi.json:
 *
 *     const client = connect({ url: "http://127.0.0.1:8000", token });
 *     const { data } = await client.GET("/v1/inspections", { params: { query: { verdict: "defective" } } });
 *
 * `inspect` sends a photograph, and says in one value what came of it.
 */
import createClient, { type Client } from "openapi-fetch";

import type { components, paths } from "./openapi.js";

export type Inspection = components["schemas"]["Inspection"];

/** What every error answers (RFC 9457). */
export type Problem = paths["/v1/inspections"]["post"]["responses"]["default"]["content"]["application/problem+json"];

/** An inspection, or why there is none. */
export type Outcome = { ok: true; inspection: Inspection } | { ok: false; problem: Problem };

export type InspectionServer = Client<paths>;

/** @param token that of `vqc serve --token`; none on the loopback. Not for a browser: whoever has it may change the model. */
export function connect({ url, token }: { url: string; token?: string | undefined }): InspectionServer {
  return createClient<paths>({ baseUrl: url, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

/** Have a photograph looked at. Waits no longer than `timeoutMs`; never throws because of the server or the network. */
export async function inspect(
  server: InspectionServer,
  photograph: Blob,
  { name, timeoutMs = 30_000 }: { name?: string; timeoutMs?: number } = {},
): Promise<Outcome> {
  const form = new FormData();
  form.set("image", photograph, name ?? (photograph instanceof File ? photograph.name : "photograph"));
  try {
    const { data, error, response } = await server.POST("/v1/inspections", {
      body: { image: "" }, // the types know a file only as a string; the form takes its place
      bodySerializer: () => form,
      signal: AbortSignal.timeout(timeoutMs),
    });
    // openapi-fetch forgets that a box has four numbers.
    return data
      ? { ok: true, inspection: data as Inspection }
      : { ok: false, problem: asProblem(error, response.status) };
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    return { ok: false, problem: late ? noAnswer(`no answer within ${timeoutMs} ms`) : noAnswer("cannot be reached") };
  }
}

function noAnswer(why: string): Problem {
  return { type: "about:blank", title: "Service Unavailable", status: 503, detail: `the inspection server: ${why}` };
}

/** A proxy in between may answer with something else. */
function asProblem(error: unknown, status: number): Problem {
  const isProblem = typeof error === "object" && error !== null && "detail" in error;
  return isProblem ? (error as Problem) : { type: "about:blank", title: "Error", status, detail: String(error) };
}
