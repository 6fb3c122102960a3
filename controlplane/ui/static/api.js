// The way to the API: the key, requests, uploads and the stream of what becomes of jobs.

const KEY = "hueshift.key";
const SILENT_FOR_MS = 45000; // three keep-alives that did not come: the connection is dead
const LONGEST_PAUSE_MS = 30000;

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A session of the other pages, in place of a key. */
export const session = {
  csrf: "",
  /** Find out whether there is one. */
  async recall() {
    try {
      const about = await askJson("/ui/about.json"); // the cookie itself cannot be seen
      this.csrf = about.session ? ((await askJson("/v1/session")).csrf ?? "") : "";
    } catch {
      this.csrf = "";
    }
    return this.csrf !== "";
  },
};

/** What proves who asks. */
function proof(method) {
  if (key.get()) return { Authorization: `Bearer ${key.get()}` };
  return session.csrf && method !== "GET" ? { "X-Hueshift-CSRF": session.csrf } : {};
}

/** What the API refused, in its own sentence; status 0 means that there was no answer. */
export class Problem extends Error {
  constructor(status, words, retryAfterS = null) {
    super(words);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same request may well succeed a little later. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

function problemOf(status, text, retryAfter) {
  let words = "";
  try {
    words = JSON.parse(text).detail.replace(/^image: /, "This file ");
  } catch {
    words = "";
  }
  return new Problem(status, words || `the server answered ${status}`, Number(retryAfter) || null);
}

const NO_ANSWER = "the server does not answer; check your connection";

/** Ask for *path*; return the answer, or throw a Problem. */
export async function ask(path, { method = "GET", signal, headers = {} } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: { ...proof(method), ...headers },
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, NO_ANSWER);
  }
  if (!answer.ok) throw problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

/**
 * Send a photo. *onProgress* hears the share that was sent, 0 to 1. fetch cannot tell it, XMLHttpRequest can.
 * Return { done, abort }: *done* is a promise of the job, or a Problem.
 */
export function upload(photo, { idempotencyKey, query, onProgress }) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.open("POST", `/v1/jobs?${new URLSearchParams(query)}`);
    for (const [name, value] of Object.entries(proof("POST"))) request.setRequestHeader(name, value);
    request.setRequestHeader("Idempotency-Key", idempotencyKey);
    const known = /^image\/[\w.+-]+$/.test(photo.type);
    request.setRequestHeader("Content-Type", known ? photo.type : "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 202) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new Problem(0, NO_ANSWER));
    request.onabort = () => reject(new DOMException("given up", "AbortError"));
    request.send(photo);
  });
  return { done, abort: () => request.abort() };
}

/** Take a stream of server-sent events apart. */
async function* eventsOf(answer, onLife) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    onLife();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const event = { name: "message", data: "", id: null };
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) event.name = line.slice(7);
        else if (line.startsWith("data: ")) event.data += line.slice(6);
        else if (line.startsWith("id: ")) event.id = line.slice(4);
      }
      if (event.data) yield event;
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Follow all jobs of the key's owner until *stop* is called, however often the connection is lost.
 * *onNews* gets each event's data, *onLink* "live" or the seconds until the next try, *onRefused* a Problem with the key.
 */
export function follow({ onNews, onLink, onRefused }) {
  let current = new AbortController();
  let stopped = false;
  let lastId = null;

  async function once() {
    current = new AbortController();
    const { signal } = current;
    let alive = Date.now();
    const watch = setInterval(() => Date.now() - alive > SILENT_FOR_MS && current.abort(), 5000);
    try {
      const headers = lastId === null ? {} : { "Last-Event-ID": lastId };
      const answer = await ask("/v1/jobs/events", { signal, headers });
      onLink("live");
      for await (const event of eventsOf(answer, () => (alive = Date.now()))) {
        lastId = event.id ?? lastId;
        onNews(JSON.parse(event.data));
      }
    } finally {
      clearInterval(watch);
    }
  }

  async function run() {
    let failures = 0;
    while (!stopped) {
      const begun = Date.now();
      let wanted = 0;
      try {
        await once();
      } catch (error) {
        if (stopped) return;
        if (error.status === 401) return void onRefused(error);
        wanted = (error.retryAfterS ?? 0) * 1000;
      }
      if (stopped) return;
      failures = Date.now() - begun > 10000 ? 1 : failures + 1;
      if (document.hidden) await shown(); // each tab's stream takes one of the browser's few connections
      const backOff = Math.min(LONGEST_PAUSE_MS, 500 * 2 ** failures) * (0.75 + Math.random() / 2);
      const wait = Math.max(wanted, backOff);
      onLink(Math.ceil(wait / 1000));
      await pause(wait);
    }
  }

  const shown = () =>
    new Promise((resolve) => {
      const look = () => {
        if (document.hidden) return;
        document.removeEventListener("visibilitychange", look);
        resolve();
      };
      document.addEventListener("visibilitychange", look);
      look();
    });

  let away = 0;
  const onHidden = () => {
    clearTimeout(away);
    if (document.hidden) away = setTimeout(() => current.abort(), 60000);
  };
  document.addEventListener("visibilitychange", onHidden);
  run();
  return () => {
    stopped = true;
    document.removeEventListener("visibilitychange", onHidden);
    clearTimeout(away);
    current.abort();
  };
}
