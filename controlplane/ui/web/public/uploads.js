// Photos on their way to the server: four at once, each with a key of its own, so that sending one again is no second
// job. What is not sent yet is kept in the browser's database, so that a reload goes on with it.

import { Problem, upload } from "./api.js";

export const MAX_PHOTO_BYTES = 33554432;
const AT_ONCE = 4;
const TRIES = 5;
const MAX_KEPT_BYTES = 500 * 1024 * 1024;
const OLD_AFTER_MS = 24 * 3600 * 1000;
const TAB = "hueshift.tab";

export function makeId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing without https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function tab() {
  if (!sessionStorage.getItem(TAB)) sessionStorage.setItem(TAB, makeId());
  return sessionStorage.getItem(TAB);
}

// -- what is kept ----------------------------------------------------------------------------------------------------

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("hueshift", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("uploads", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function inStore(mode, work) {
  const open = await database();
  return new Promise((resolve, reject) => {
    const change = open.transaction("uploads", mode);
    const request = work(change.objectStore("uploads"));
    change.oncomplete = () => resolve(request.result);
    change.onabort = () => reject(change.error);
  });
}

/** Private windows and full disks refuse to keep anything; then a reload asks first. */
async function tryTo(work) {
  try {
    return await work();
  } catch {
    return null;
  }
}

const keep = (row) => tryTo(() => inStore("readwrite", (store) => store.put(row)));
const drop = (id) => tryTo(() => inStore("readwrite", (store) => store.delete(id)));

async function kept() {
  const rows = (await tryTo(() => inStore("readonly", (store) => store.getAll()))) ?? [];
  const mine = [];
  for (const row of rows) {
    if (row.tab === tab()) mine.push(row);
    else if (Date.now() - row.at > OLD_AFTER_MS) await drop(row.id);
  }
  return mine.sort((a, b) => a.at - b.at);
}

// -- the line --------------------------------------------------------------------------------------------------------

/**
 * *onChange* hears of each upload as { id, name, photo, state, share, words, passes }; *state* is "waiting", "sending",
 * "refused" or "gone". *onJob* hears of the job that an upload became, *onRefused* of a key that is no longer good.
 */
export class Uploads {
  constructor({ onChange, onJob, onRefused }) {
    this.all = new Map();
    this.sending = 0;
    this.keptBytes = 0;
    this.stopped = false;
    this.tell = { onChange, onJob, onRefused };
    this.warn = (event) => {
      if ([...this.all.values()].some((one) => one.state !== "refused" && !one.isKept)) event.preventDefault();
    };
    window.addEventListener("beforeunload", this.warn);
  }

  /** Send no more and say no more; what is kept can be gone on with. */
  stop() {
    this.stopped = true;
    this.tell = { onChange() {}, onJob() {}, onRefused() {} };
    window.removeEventListener("beforeunload", this.warn);
    for (const one of this.all.values()) one.handle?.abort();
    this.all.clear();
  }

  /** Go on with what was not sent before the page was loaded again. */
  async goOn() {
    for (const row of await kept()) {
      if (!this.all.has(row.id)) this.enter({ ...row, state: "waiting", share: 0, words: "", tries: 0, isKept: true });
    }
    this.next();
  }

  /** Take a photo in; *query* is what is asked for. */
  add(photo, query) {
    const one = { id: makeId(), name: photo.name, photo, query, at: Date.now(), state: "waiting", share: 0, words: "", tries: 0 };
    if (photo.size > MAX_PHOTO_BYTES) {
      this.enter({ ...one, state: "refused", words: "It is larger than 32 MiB; send a smaller one." });
      return;
    }
    this.enter(one);
    if (this.keptBytes + photo.size <= MAX_KEPT_BYTES) {
      this.keptBytes += photo.size;
      const { id, name, at } = one;
      keep({ id, name, photo, query, at, tab: tab() }).then((done) => (one.isKept = done !== null));
    }
    this.next();
  }

  again(id) {
    this.set(this.all.get(id), { state: "waiting", tries: 0, words: "" });
    this.next();
  }

  /** Give an upload up. If it has arrived all the same, it is a job like any other. */
  remove(id) {
    const one = this.all.get(id);
    one.handle?.abort();
    this.leave(one);
    this.set(one, { state: "gone" });
  }

  /** Forget everything, the kept photos too. */
  async clear() {
    this.stop();
    for (const row of await kept()) await drop(row.id);
  }

  enter(one) {
    this.all.set(one.id, one);
    this.tell.onChange(one);
  }

  leave(one) {
    this.all.delete(one.id);
    if (one.photo.size <= this.keptBytes) this.keptBytes -= one.photo.size;
    drop(one.id);
  }

  set(one, facts) {
    Object.assign(one, facts);
    this.tell.onChange(one);
  }

  next() {
    for (const one of this.all.values()) {
      if (this.sending >= AT_ONCE || this.stopped) return;
      if (one.state === "waiting" && !one.resting) this.send(one);
    }
  }

  async send(one) {
    this.sending += 1;
    this.set(one, { state: "sending", share: 0, words: "" });
    try {
      const onProgress = (share) => this.set(one, { share });
      one.handle = upload(one.photo, { idempotencyKey: one.id, query: one.query, onProgress });
      const job = await one.handle.done;
      this.leave(one);
      this.tell.onJob(one, job);
    } catch (error) {
      this.failed(one, error);
    } finally {
      this.sending -= 1;
      this.next();
    }
  }

  failed(one, error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) {
      this.stopped = true;
      this.set(one, { state: "waiting" });
      this.tell.onRefused(error);
      return;
    }
    one.tries += 1;
    const wait = Math.max(error.retryAfterS ?? 0, 2 ** one.tries);
    if (!error.passes || one.tries >= TRIES || wait > 60) {
      if (!error.passes) drop(one.id);
      this.set(one, { state: "refused", words: error.message, passes: error.passes });
      return;
    }
    one.resting = true;
    this.set(one, { state: "waiting", words: `${error.message}; it is sent again in ${wait} s` });
    setTimeout(() => {
      one.resting = false;
      if (this.all.has(one.id)) this.next();
    }, wait * 1000);
  }
}
