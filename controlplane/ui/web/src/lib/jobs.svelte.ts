/** The list of one owner's photos: what is on its way, then jobs, kept true by the stream. */

import { ask, askJson, jobPath, Problem, type Job, type JobPage } from "./api";
import { hasEnded, Photo, type FollowedJob } from "./photo.svelte";
import { expired } from "./session.svelte";
import { follow } from "./stream.svelte";
import { namesOfJobs, uploads } from "./uploads.svelte";

const PAGE = 30;
/** The stream's first event has no more open jobs than these. */
const MAX_FOLLOWED = 500;
/** How long a new job may turn out to be an upload whose answer is still on its way. */
const HOLD_MS = 2_000;
const SPEAK_AFTER_MS = 1_000;
const ENDS: Record<string, string> = { done: "is done", dead: "failed", cancelled: "was cancelled" };

interface News {
  first: boolean;
  jobs: FollowedJob[];
  places: Record<string, number | null>;
  gone: string[];
}

export class JobList {
  /** Whether the oldest job is listed. */
  isWhole = $state(false);
  /** What has ended, for those who hear the page. */
  said = $state("");
  #listed = $state.raw<Photo[]>([]);
  #known = new Map<string, Photo>();
  #spoken: string[] = [];
  #end = () => {};

  /** Uploads come first, then jobs, the newest first. */
  readonly photos = $derived([...uploads.all, ...this.#listed.toSorted(byAge)]);
  readonly sum = $derived(this.#count());

  /** Read the newest jobs, and follow what becomes of all. Throws a Problem. */
  async open(): Promise<void> {
    uploads.onJob = (photo, job) => this.#arrived(photo, job);
    await this.listEarlier();
    this.#end = follow("/v1/jobs/events", (_, data) => this.#hear(data as unknown as News));
    await uploads.goOn();
  }

  close(): void {
    this.#end();
    uploads.onJob = () => {};
  }

  async listEarlier(): Promise<void> {
    const oldest = [...this.#known.values()].sort(byAge).at(-1);
    const query = new URLSearchParams({ limit: String(PAGE), ...(oldest ? { before: oldest.job!.id } : {}) });
    try {
      const found = await askJson<JobPage>(`/v1/jobs?${query}`);
      this.isWhole = found.next === null;
      for (const job of found.items) this.#learn(job, { isLate: true });
    } catch (error) {
      if (!oldest || !(error instanceof Problem) || error.status !== 404) throw error;
      this.#forget(oldest.job!.id); // deleted elsewhere
      await this.listEarlier();
    }
  }

  /** Do what a button of *photo* says. */
  async act(photo: Photo, what: "again" | "cancel" | "delete"): Promise<void> {
    if (!photo.job) {
      if (what === "again") uploads.again(photo);
      else uploads.remove(photo);
      return;
    }
    const { id } = photo.job;
    await this.attempt(photo, async () => {
      if (what === "cancel") await this.#ask(photo, jobPath(id, "/cancel"), "POST");
      else if (what === "again") await this.#ask(photo, jobPath(id, "/retry"), "POST");
      else {
        await ask(jobPath(id), { method: "DELETE" });
        this.#forget(id);
      }
    });
  }

  /** Do *work* for *photo*; what is refused stands in its card. */
  async attempt(photo: Photo, work: () => Promise<void>): Promise<void> {
    try {
      photo.problem = "";
      await work();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) expired();
      else if (error.status === 404 && photo.job) this.#forget(photo.job.id);
      else photo.problem = error.message;
    }
  }

  /** Ask about the job of *photo*, or change it. What the stream tells of it meanwhile is newer than the answer. */
  async #ask(photo: Photo, path: string, method: "GET" | "POST"): Promise<void> {
    const { told } = photo;
    const job = await askJson<Job>(path, { method });
    if (photo.told === told && this.#known.get(job.id) === photo) this.#learn(job);
  }

  /** Take in what is said of a job; what is told late says nothing of those that are known, which the stream follows. */
  #learn(job: Job, { place, isLate = false }: { place?: number | null; isLate?: boolean } = {}): void {
    const photo = this.#known.get(job.id);
    if (!photo) {
      this.#meet(job, place ?? null, isLate);
      return;
    }
    if (isLate) return;
    const before = photo.job!;
    if (!hasEnded(before) && hasEnded(job)) this.#announce(photo, job);
    if (before.state !== job.state) photo.problem = "";
    photo.job = job;
    if (place !== undefined) photo.place = place;
  }

  #meet(job: Job, place: number | null, isLate: boolean): void {
    const photo = new Photo({ job, name: namesOfJobs()[job.id] ?? "" });
    photo.place = place;
    this.#known.set(job.id, photo);
    const list = () => {
      if (this.#known.get(job.id) === photo) this.#listed = [...this.#listed, photo];
    };
    if (!isLate && uploads.areUnderway) setTimeout(list, HOLD_MS);
    else list();
  }

  /** An upload has become a job: its card goes on as the job's, unless the job has one already. */
  #arrived(photo: Photo, job: Job): void {
    const known = this.#known.get(job.id);
    if (known && this.#listed.includes(known)) {
      known.name = photo.name;
      return;
    }
    photo.job = known?.job ?? job;
    photo.place = known?.place ?? null;
    this.#known.set(job.id, photo);
    this.#listed = [...this.#listed, photo];
  }

  #forget(id: string): void {
    this.#known.delete(id);
    this.#listed = this.#listed.filter((photo) => photo.job!.id !== id);
  }

  #hear(news: News): void {
    for (const job of news.jobs) {
      this.#learn(job, { place: job.place });
      this.#known.get(job.id)!.told += 1;
    }
    for (const [id, place] of Object.entries(news.places)) {
      const photo = this.#known.get(id);
      if (photo) photo.place = place;
    }
    for (const id of news.gone) this.#forget(id);
    if (!news.first || news.jobs.filter((job) => !hasEnded(job)).length >= MAX_FOLLOWED) return;
    const told = new Set(news.jobs.map((job) => job.id));
    for (const [id, photo] of this.#known) if (!hasEnded(photo.job!) && !told.has(id)) void this.#look(photo);
  }

  /** Ask for a job that the stream does not speak of. */
  async #look(photo: Photo): Promise<void> {
    const { id } = photo.job!;
    try {
      await this.#ask(photo, jobPath(id), "GET");
    } catch (error) {
      if (error instanceof Problem && error.status === 404) this.#forget(id);
    }
  }

  #announce(photo: Photo, job: Job): void {
    this.#spoken.push(`${photo.name || "A photo"} ${ENDS[job.state]}.`);
    if (this.#spoken.length > 1) return;
    setTimeout(() => {
      this.said = this.#spoken.length > 3 ? `${this.#spoken.length} photos have ended.` : this.#spoken.join(" ");
      this.#spoken = [];
    }, SPEAK_AFTER_MS);
  }

  #count(): string {
    const counts: Record<string, number> = {};
    for (const { state } of this.photos) counts[state] = (counts[state] ?? 0) + 1;
    const parts: [number | undefined, string][] = [
      [(counts["unsent"] ?? 0) + (counts["sending"] ?? 0), "to be sent"],
      [counts["refused"], "not taken"],
      [counts["waiting"], "waiting"],
      [counts["running"], "being coloured"],
      [counts["done"], "done"],
      [counts["dead"], "failed"],
    ];
    const words = parts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`);
    return words.join(" · ") + (words.length && !this.isWhole ? " · earlier ones below" : "");
  }
}

function byAge(a: Photo, b: Photo): number {
  const [one, other] = [a.job!.submitted_at, b.job!.submitted_at];
  return one === other ? 0 : one < other ? 1 : -1;
}
