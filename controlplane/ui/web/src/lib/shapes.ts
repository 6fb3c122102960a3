/** What the parts of the rollout page are given. */

import type { Role } from "./session.svelte";

/** Something that one can do with a rollout. */
export interface Action {
  verb: "start" | "pause" | "resume" | "promote" | "full" | "abort" | "undo" | "retry";
  label: string;
  role: Role;
  /** Why it makes no sense now; "" if it does. */
  why: string;
  says: string;
  danger?: boolean;
  main?: boolean;
}

/** What the judge has seen of one objective: shares as fractions of 1, odds against the candidate. */
export interface Judged {
  name: string;
  words: string;
  candidate: number | null;
  baseline: number | null;
  bound: number;
  odds: number;
  odds_limit: number;
  still_needed: number | null;
  decides?: string;
}

/** One line of the timeline. */
export interface Happened {
  id: number;
  at: string;
  kind: string;
  words: string;
  state: string;
}
