/** One photo as a card shows it: on its way first, then the job that it became. */

import { makeId, type Job } from "./api";
import type { Sending } from "./send";

/** A job as the stream tells of it; *place* is its number among those that wait. */
export type FollowedJob = Job & { place: number | null };

const FINAL = new Set(["done", "dead", "cancelled"]);
export const hasEnded = (job: Job) => FINAL.has(job.state);
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** What is asked for with a photo that is to be sent. */
export interface Order {
  id: string;
  query: Record<string, string>;
  at: number;
}

export class Photo {
  /** What its card is known by, for as long as the page is open. */
  readonly key: string;
  /** The photo itself, where it came from this browser. */
  readonly file: Blob | null;
  readonly order: Order | null;
  name = $state("");
  job = $state.raw<Job | null>(null);
  place = $state<number | null>(null);
  /** Where it stands while it is no job yet. */
  sending = $state<"unsent" | "sending" | "refused">("unsent");
  /** How much was sent, 0 to 1. */
  share = $state(0);
  /** What went wrong last, in a sentence. */
  problem = $state("");
  /** Whether a photo that was refused may be taken a little later. */
  mayPass = $state(false);
  /** How often the stream has told of its job. */
  told = 0;

  // Only the line of uploads looks at these.
  tries = 0;
  isResting = false;
  isKept = false;
  handle: Sending | null = null;

  constructor(from: { file: Blob; name: string; order: Order } | { job: Job; name: string }) {
    this.name = from.name;
    this.job = "job" in from ? from.job : null;
    this.file = "file" in from ? from.file : null;
    this.order = "order" in from ? from.order : null;
    this.key = "order" in from ? from.order.id : from.job.id;
  }

  get state(): string {
    return this.job?.state ?? this.sending;
  }

  get title(): string {
    if (this.name || !this.job) return this.name;
    return this.job.task_id === this.job.id ? `Photo of ${DAY.format(new Date(this.job.submitted_at))}` : this.job.task_id;
  }

  /** What is known beyond its state: how far it is, which number it has, who coloured it. */
  get where(): string {
    const job = this.job;
    if (!job) {
      const percent = Math.floor(100 * this.share);
      return this.sending !== "sending" ? "" : percent < 100 ? `${percent} %` : "arriving";
    }
    if (job.state === "waiting" && job.attempts > 0) return `after attempt ${job.attempts}`;
    if (job.state === "waiting") return this.place === 1 ? "next" : this.place ? `about number ${this.place}` : "";
    if (job.state === "running") return job.attempts > 1 ? `attempt ${job.attempts}` : "";
    return job.state === "done" ? [job.version, `${job.size} px`].filter(Boolean).join(", ") : "";
  }

  /** Why it failed, or what a button's request came to. */
  get words(): string {
    const said = this.problem || (this.job && this.job.state !== "cancelled" ? this.job.words : "");
    return said.slice(0, 1).toUpperCase() + said.slice(1);
  }

  /** Pictures go a while after a job's end, its row stays. */
  get hasResult(): boolean {
    return this.job?.state === "done" && this.job.result !== null;
  }
}

export const makeOrder = (query: Record<string, string>): Order => ({ id: makeId(), query, at: Date.now() });
