/** What happens, as it happens: server-sent events by fetch, which can send a key, and come back by themselves. */

import { ask, Problem } from "./api";
import { expired } from "./session.svelte";

const SILENT_FOR_MS = 45_000; // three keep-alives that did not come: the connection is dead
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
/** A tab in the background lets go of its stream after this while: a browser has few connections to one host. */
const REST_AFTER_MS = 60_000;

export type Heard = (type: string, data: Record<string, unknown>, id: string) => void;
export type Link = "connecting" | "live" | "lost" | "refused";

/** How the connection stands, for everybody to see. */
export const link = $state({ state: "connecting" as Link, words: "", since: 0 });

/** Follow *path*; return what ends it. Whoever is not let in any more is asked to come in again. */
export function follow(path: string, heard: Heard): () => void {
  const over = new AbortController();
  void run(path, heard, over.signal);
  return () => over.abort();
}

async function run(path: string, heard: Heard, over: AbortSignal): Promise<void> {
  let last = "";
  let pause = FIRST_PAUSE_MS;
  tell("connecting");
  while (!over.aborted) {
    try {
      last = await read(path, last, heard, over, () => (pause = FIRST_PAUSE_MS));
      if (!over.aborted) tell("lost", "the stream ended");
    } catch (error) {
      if (over.aborted) return;
      if (error instanceof Problem && [401, 403, 404].includes(error.status)) {
        tell("refused", error.message);
        if (error.status === 401) expired();
        return;
      }
      if (error instanceof Interrupted) last = error.last;
      if (error instanceof Problem) pause = Math.max(pause, error.retryAfterS * 1000);
      tell("lost", error instanceof Error ? error.message : "");
    }
    if (document.hidden) await waitShown(over);
    else await wait(pause, over);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

function tell(state: Link, words = ""): void {
  if (link.state !== state) link.since = Date.now();
  link.state = state;
  link.words = words;
}

function wait(ms: number, over: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      over.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    over.addEventListener("abort", done);
  });
}

function waitShown(over: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !over.aborted) return;
      document.removeEventListener("visibilitychange", look);
      over.removeEventListener("abort", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    over.addEventListener("abort", look);
    look();
  });
}

/** Call *rest* once the page has been in the background for long; return what ends the watch. */
function watchHidden(rest: () => void): () => void {
  let timer = 0;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = window.setTimeout(rest, REST_AFTER_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}

/** The connection broke after the event with the id *last*. */
class Interrupted extends Error {
  constructor(readonly last: string) {
    super("the connection broke");
  }
}

async function read(path: string, since: string, heard: Heard, over: AbortSignal, begun: () => void): Promise<string> {
  // One of its own, let go at the end: what `AbortSignal.any` makes of two is kept, with the answer, as long as either.
  const connection = new AbortController();
  const leave = () => connection.abort();
  over.addEventListener("abort", leave);
  let timer = 0;
  const awake = () => {
    clearTimeout(timer);
    timer = window.setTimeout(leave, SILENT_FOR_MS);
  };
  awake();
  const unwatch = watchHidden(leave);
  let last = since;
  try {
    const headers: Record<string, string> = since ? { "Last-Event-ID": since } : {};
    const answer = await ask(path, { headers, signal: connection.signal });
    tell("live");
    begun();
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new Parser((type, data, id) => {
      if (id) last = id;
      if (data) heard(type, JSON.parse(data) as Record<string, unknown>, id);
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return last;
      awake();
      parser.push(value);
    }
  } catch (error) {
    if (error instanceof Problem || over.aborted) throw error;
    throw new Interrupted(last);
  } finally {
    clearTimeout(timer);
    unwatch();
    over.removeEventListener("abort", leave);
    leave();
  }
}

/** Reads events out of text that comes in any pieces. */
export class Parser {
  #rest = "";
  #type = "message";
  #data = "";
  #id = "";

  constructor(readonly found: (type: string, data: string, id: string) => void) {}

  push(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#take(line);
  }

  #take(line: string): void {
    if (line === "") {
      if (this.#data || this.#id) this.found(this.#type, this.#data, this.#id);
      this.#type = "message";
      this.#data = this.#id = "";
    } else if (line.startsWith("event: ")) this.#type = line.slice(7);
    else if (line.startsWith("data: ")) this.#data += (this.#data ? "\n" : "") + line.slice(6);
    else if (line.startsWith("id: ")) this.#id = line.slice(4);
  }
}
