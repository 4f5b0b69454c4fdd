"use server";

import { connect, inspect, type Outcome } from "./client.js";

/**
 * The server action behind an upload form of Next.js, as `useActionState` calls it:
 *
 *     const [outcome, send, pending] = useActionState(inspectPhotograph, null);
 *     <form action={send}><input type="file" name="photograph" accept="image/*" required /></form>
 *
 * The address and the token of the inspection server are in the environment, as VQC_SERVER_URL and VQC_SERVE_TOKEN,
 * and do not leave it. Anyone who reaches the site can call an action: check who it is first.
 */
export async function inspectPhotograph(_previous: Outcome | null, form: FormData): Promise<Outcome> {
  const photograph = form.get("photograph");
  if (!(photograph instanceof File) || photograph.size === 0) {
    return {
      ok: false,
      problem: { type: "about:blank", title: "Bad Request", status: 400, detail: "choose a photograph" },
    };
  }
  const server = connect({
    url: process.env["VQC_SERVER_URL"] ?? "http://127.0.0.1:8000",
    token: process.env["VQC_SERVE_TOKEN"],
  });
  return inspect(server, photograph);
}
