/** Versions over time, in a bounded number of points however long the page stays open. */

import type { SeriesAnswer, VersionSeries } from "./api";

/** As many points as a line may have. */
export const MAX_POINTS = 900;

export interface Point {
  requests: number | null;
  errors: number | null;
  errorRate: number | null;
  errorLow: number | null;
  errorHigh: number | null;
  /** Value, low and high in ms for each of `QUANTILES`. */
  latency: [number | null, number | null, number | null][];
}
export const QUANTILES = [0.5, 0.95, 0.99] as const;

interface Row {
  at: number;
  step: number;
  by: Record<string, Point>;
}

export class Series {
  rows: Row[] = [];
  step = 1;
  /** The newest points are finer than the others, and have become too many: read all of it anew. */
  isFull = false;

  /** When the control plane was asked last; a second that has begun counts as a whole one. */
  #until = 0;

  constructor(public windowS: number) {}

  /** Until when everything is known, in unix seconds. */
  get end(): number {
    const last = this.rows.at(-1);
    return last ? last.at + last.step : 0;
  }

  clear(): void {
    this.rows = [];
    this.isFull = false;
  }

  /** Take what the server told; its points replace those that began at the same time or after. */
  merge(told: SeriesAnswer): void {
    const first = told.at[0];
    if (first === undefined) return;
    this.#until = Date.parse(told.until) / 1000;
    if (!this.rows.length) this.step = told.step_s;
    while (this.rows.length && (this.rows.at(-1) as Row).at >= first) this.rows.pop();
    told.at.forEach((at, place) => {
      const by: Record<string, Point> = {};
      for (const version of told.versions) by[version.version] = pointOf(version, place);
      this.rows.push({ at, step: told.step_s, by });
    });
    const begin = this.end - this.windowS;
    let old = 0;
    while (old < this.rows.length && (this.rows[old] as Row).at < begin) old += 1;
    this.isFull = this.rows.length - old >= MAX_POINTS;
    old = Math.max(old, this.rows.length - MAX_POINTS);
    if (old > 0) this.rows.splice(0, old);
  }

  /** All but the point that is not over yet. */
  get settled(): Row[] {
    const isOver = this.step > 1 && this.end <= this.#until;
    return isOver ? this.rows : this.rows.slice(0, -1);
  }

  get at(): number[] {
    return this.settled.map((row) => row.at);
  }

  column(version: string, read: (point: Point, step: number) => number | null): (number | null)[] {
    return this.settled.map((row) => {
      const point = row.by[version];
      return point ? read(point, row.step) : null;
    });
  }

  /** The error rate of the *seconds* before each point: one second alone has too few requests to say much. */
  failing(version: string, seconds: number): { name: string; values: (number | null)[]; low: (number | null)[]; high: (number | null)[] } {
    const rows = this.settled;
    const found = { name: version, values: [] as (number | null)[], low: [] as (number | null)[], high: [] as (number | null)[] };
    let [requests, errors, oldest] = [0, 0, 0];
    for (const row of rows) {
      requests += row.by[version]?.requests ?? 0;
      errors += row.by[version]?.errors ?? 0;
      for (; (rows[oldest]?.at ?? row.at) <= row.at - seconds; oldest += 1) {
        requests -= rows[oldest]?.by[version]?.requests ?? 0;
        errors -= rows[oldest]?.by[version]?.errors ?? 0;
      }
      const interval = wilson(errors, requests);
      found.values.push(requests ? errors / requests : null);
      found.low.push(interval?.[0] ?? null);
      found.high.push(interval?.[1] ?? null);
    }
    return found;
  }

  /** Sum up the last *seconds* that are known. */
  recent(version: string, seconds: number): { requests: number; errors: number; seconds: number; p95: number | null } {
    const rows = this.settled;
    const last = rows.at(-1);
    const begin = (last ? last.at + last.step : 0) - seconds;
    const found = { requests: 0, errors: 0, seconds: 0, p95: null as number | null };
    for (const row of rows) {
      const point = row.at >= begin ? row.by[version] : undefined;
      if (!point || point.requests === null) continue;
      found.requests += point.requests;
      found.errors += point.errors ?? 0;
      found.seconds += row.step;
      found.p95 = point.latency[1]?.[0] ?? found.p95;
    }
    return found;
  }
}

/** Where a share lies with 95 % confidence (E. B. Wilson 1927), as the control plane computes it. */
export function wilson(bad: number, total: number): [number, number] | null {
  if (total === 0) return null;
  const z = 1.959964;
  const share = bad / total;
  const spread = 1 + z ** 2 / total;
  const centre = (share + z ** 2 / (2 * total)) / spread;
  const half = (z * Math.sqrt((share * (1 - share)) / total + z ** 2 / (4 * total ** 2))) / spread;
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

function pointOf(version: VersionSeries, place: number): Point {
  return {
    requests: version.requests[place] ?? null,
    errors: version.errors[place] ?? null,
    errorRate: version.error_rate[place] ?? null,
    errorLow: version.error_low[place] ?? null,
    errorHigh: version.error_high[place] ?? null,
    latency: version.latency.map((each) => [each.value[place] ?? null, each.low[place] ?? null, each.high[place] ?? null]),
  };
}
