/** The way to the API: typed by its own document, with refusals as one line. */

import type { components } from "./schema";

type Schemas = components["schemas"];
export type Summary = Schemas["SummaryView"];
export type Rollout = Schemas["RolloutView"];
export type Status = Schemas["StatusView"];
export type Service = Schemas["ServiceView"];
export type HistoryEntry = Schemas["EventView"];
export type Explanation = Schemas["ExplanationView"];
export type Proxy = Schemas["ProxyView"];
export type SeriesAnswer = Schemas["SeriesView"];
export type VersionSeries = Schemas["VersionSeriesView"];
export type QualityRun = Schemas["QualityRunView"];
export type QualityReport = Schemas["QualityReportView"];
export type Measure = Schemas["MeasureView"];
export type Job = Schemas["JobView"];
export type JobPage = Schemas["JobPage"];
export type Kind = Schemas["KindDocument-Output"];
export type Figures = Schemas["FiguresView"];
export type KindFigures = Schemas["KindFiguresView"];
export type VersionFigures = Schemas["VersionFiguresView"];

const KEY = "hueshift.key";

/** What proves who asks: a key of this tab, or a session's cookie with what a change by it must repeat. */
export const credentials = {
  csrf: "",
  get key(): string | null {
    return sessionStorage.getItem(KEY);
  },
  set key(value: string | null) {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  },
};

/** A refusal in the API's own sentence; status 0 means that there was no answer. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    words: string,
    readonly code = "",
    readonly retryAfterS = 0,
  ) {
    super(words);
  }

  /** Whether the same request may well succeed a little later. */
  get passes(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export interface Asked {
  method?: "GET" | "POST" | "PUT" | "DELETE";
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** The headers that prove who asks. */
export function proof(method: string): Record<string, string> {
  if (credentials.key !== null) return { Authorization: `Bearer ${credentials.key}` };
  return credentials.csrf && method !== "GET" ? { "X-Hueshift-CSRF": credentials.csrf } : {};
}

function headersOf({ method = "GET", body, headers = {} }: Asked): Record<string, string> {
  return { ...headers, ...proof(method), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
}

/** Ask for *path*; return the answer, or throw a Problem. */
export async function ask(path: string, asked: Asked = {}): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, {
      method: asked.method ?? "GET",
      headers: headersOf(asked),
      cache: "no-store",
      ...(asked.body === undefined ? {} : { body: JSON.stringify(asked.body) }),
      ...(asked.signal ? { signal: asked.signal } : {}),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw noAnswer();
  }
  if (!answer.ok) throw problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

export const noAnswer = () => new Problem(0, "the control plane does not answer; check your connection");

/** What a refusal says: in the API's own sentence, where it has one. */
export function problemOf(status: number, text: string, retryAfter: string | null): Problem {
  let told: { detail?: string; code?: string } = {};
  try {
    told = JSON.parse(text) as typeof told;
  } catch {
    // a proxy's page, say
  }
  return new Problem(status, told.detail ?? `the control plane answered ${status}`, told.code, Number(retryAfter) || 0);
}

export async function askJson<T>(path: string, asked: Asked = {}): Promise<T> {
  const answer = await ask(path, asked);
  return answer.status === 204 ? (undefined as T) : ((await answer.json()) as T);
}

/** Return an id of its own; crypto.randomUUID is missing without https. */
export function makeId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Change something once, however often the network makes us say it. */
export function change<T>(path: string, body: unknown, method: "POST" | "PUT" = "POST"): Promise<T> {
  return askJson<T>(path, { method, body, headers: { "Idempotency-Key": makeId() } });
}

export interface Page<T> {
  items: T[];
  next: string | null;
}

/** Return one page of a list; lists that are answered whole are one page. */
export async function askPage<T>(path: string, cursor: string | null = null): Promise<Page<T>> {
  const url = cursor === null ? path : `${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}`;
  const told = await askJson<T[] | Page<T>>(url);
  return Array.isArray(told) ? { items: told, next: null } : told;
}

/** Return all items of a list, page by page. */
export async function askAll<T>(path: string): Promise<T[]> {
  const found: T[] = [];
  let cursor: string | null = null;
  do {
    const page: Page<T> = await askPage<T>(path, cursor);
    found.push(...page.items);
    cursor = page.next;
  } while (cursor !== null);
  return found;
}

export const servicePath = (name: string, rest = "") => `/v1/services/${encodeURIComponent(name)}${rest}`;
export const jobPath = (id: string, rest = "") => `/v1/jobs/${encodeURIComponent(id)}${rest}`;
export const rolloutPath = (id: string, rest = "") => `/v1/rollouts/${encodeURIComponent(id)}${rest}`;
export const wordsOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
