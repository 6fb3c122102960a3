/** Photos on their way: four at once, each with a key of its own, so that sending one again is no second job.
 *
 * They go on while other pages are open. What a reload would lose is kept, see `kept.ts`.
 */

import { Problem, type Job } from "./api";
import { drop, dropAll, keep, listKept } from "./kept";
import { makeOrder, Photo } from "./photo.svelte";
import { send } from "./send";
import { expired, session } from "./session.svelte";

export const MAX_PHOTO_BYTES = 33_554_432;
const AT_ONCE = 4;
const TRIES = 5;
const LONGEST_WAIT_S = 60;
const MAX_KEPT_BYTES = 500 * 1024 * 1024;
const NAMES = "hueshift.names";
/** Where the tab keeps what was asked for last. */
export const CHOICE = "hueshift.choice";
const MAX_NAMES = 500;

class Uploads {
  /** The newest first. */
  all = $state.raw<Photo[]>([]);
  /** Hears of a photo that has become a job. */
  onJob: (photo: Photo, job: Job) => void = () => {};
  #underway = new Set<Photo>();

  constructor() {
    addEventListener("beforeunload", (event) => {
      if (this.all.some((photo) => photo.sending !== "refused" && !photo.isKept)) event.preventDefault();
    });
  }

  /** Whether an answer is on its way that will tell which job a photo is. */
  get areUnderway(): boolean {
    return this.#underway.size > 0;
  }

  /** Go on with what was not sent before the page was loaded again. */
  async goOn(): Promise<void> {
    for (const { id, name, file, query, at } of await listKept(session.name)) {
      if (this.all.some((photo) => photo.key === id)) continue;
      const photo = new Photo({ file, name, order: { id, query, at } });
      photo.isKept = true;
      this.all = [photo, ...this.all];
    }
    this.#next();
  }

  /** Take a photo in; *query* is what is asked for. */
  add(file: File, query: Record<string, string>): void {
    const order = makeOrder(query);
    const photo = new Photo({ file, name: file.name, order });
    this.all = [photo, ...this.all];
    if (file.size > MAX_PHOTO_BYTES) {
      refuse(photo, "It is larger than 32 MiB; send a smaller one.", false);
      return;
    }
    const bytes = this.all.reduce((sum, { file: each }) => sum + (each?.size ?? 0), 0);
    if (bytes <= MAX_KEPT_BYTES) void this.#keep(photo, file);
    this.#next();
  }

  again(photo: Photo): void {
    photo.tries = 0;
    photo.sending = "unsent";
    photo.problem = "";
    this.#next();
  }

  /** Give an upload up. If it has arrived all the same, it is a job like any other. */
  remove(photo: Photo): void {
    this.#leave(photo);
    photo.handle?.abort();
  }

  /** Send nothing more; what is kept can be gone on with. */
  stop(): void {
    const left = this.all;
    this.all = [];
    for (const photo of left) photo.handle?.abort();
  }

  /** Forget everything, the kept photos and the names too: somebody else may sit down here. */
  async forget(): Promise<void> {
    this.stop();
    for (const name of [NAMES, CHOICE]) sessionStorage.removeItem(name);
    await dropAll();
  }

  async #keep(photo: Photo, file: Blob): Promise<void> {
    const { id, query, at } = photo.order!;
    photo.isKept = await keep({ id, owner: session.name, name: photo.name, file, query, at });
    if (!this.all.includes(photo)) await drop(id); // it was sent, or given up, meanwhile
  }

  #leave(photo: Photo): void {
    this.all = this.all.filter((other) => other !== photo);
    void drop(photo.key);
  }

  #next(): void {
    for (const photo of [...this.all].reverse()) {
      if (this.#underway.size >= AT_ONCE) return;
      if (photo.sending === "unsent" && !photo.isResting) void this.#send(photo);
    }
  }

  async #send(photo: Photo): Promise<void> {
    this.#underway.add(photo);
    Object.assign(photo, { sending: "sending", share: 0, problem: "" });
    try {
      const onProgress = (share: number) => (photo.share = share);
      photo.handle = send(photo.file!, { idempotencyKey: photo.key, query: photo.order!.query, onProgress });
      const job = await photo.handle.done;
      rememberName(job.id, photo.name);
      this.#leave(photo);
      this.onJob(photo, job);
    } catch (error) {
      this.#failed(photo, error);
    } finally {
      this.#underway.delete(photo);
      this.#next();
    }
  }

  #failed(photo: Photo, error: unknown): void {
    if (!(error instanceof Problem)) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      throw error;
    }
    if (error.status === 401) {
      this.stop();
      expired();
      return;
    }
    photo.tries += 1;
    const waitS = Math.max(error.retryAfterS, 2 ** photo.tries);
    const words = error.message.replace(/^image: /, "This file ");
    if (!error.passes || photo.tries >= TRIES || waitS > LONGEST_WAIT_S) {
      if (!error.passes) void drop(photo.key);
      refuse(photo, words, error.passes);
      return;
    }
    Object.assign(photo, { isResting: true, sending: "unsent", problem: `${words}; it is sent again in ${waitS} s` });
    setTimeout(() => {
      photo.isResting = false;
      this.#next();
    }, waitS * 1000);
  }
}

function refuse(photo: Photo, words: string, mayPass: boolean): void {
  Object.assign(photo, { sending: "refused", problem: words, mayPass });
}

/** What this tab called its photos, by job: the API keeps no file names. */
export function namesOfJobs(): Record<string, string> {
  return JSON.parse(sessionStorage.getItem(NAMES) ?? "{}") as Record<string, string>;
}

function rememberName(job: string, name: string): void {
  const newest = Object.entries({ ...namesOfJobs(), [job]: name }).slice(-MAX_NAMES);
  sessionStorage.setItem(NAMES, JSON.stringify(Object.fromEntries(newest)));
}

export const uploads = new Uploads();
