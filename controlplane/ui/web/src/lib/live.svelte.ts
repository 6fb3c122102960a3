/** All that a rollout page shows, brought up to date by the stream and by a look at the series once a second. */

import {
  askJson, askPage, Problem, servicePath, wordsOf,
  type Explanation, type HistoryEntry, type Proxy, type Rollout, type SeriesAnswer, type Service, type Status,
} from "./api";
import { every } from "./every";
import { MAX_POINTS, Series } from "./series";
import type { Happened, Judged } from "./shapes";
import { whyNot } from "./session.svelte";
import { follow } from "./stream.svelte";

/** As many events as are kept in the page. */
export const MAX_EVENTS = 500;
const SERIES_EVERY_MS = 1_000;
const FLEET_EVERY_MS = 5_000;
const EXPLAIN_EVERY_MS = 5_000;
/** The newest seconds are read again: Envoys' reports of them may still come in. */
const UNSETTLED_S = 3;

export const WINDOWS = [
  { name: "10 min", seconds: 600 },
  { name: "1 h", seconds: 3_600 },
  { name: "6 h", seconds: 21_600 },
  { name: "24 h", seconds: 86_400 },
  { name: "30 d", seconds: 30 * 86_400 },
  { name: "1 y", seconds: 365 * 86_400 },
];

export interface Weights {
  set: Record<string, number>;
  acked: Record<string, number> | null;
  envoys: number;
  envoys_acked: number;
  waiting: string[];
  refusals: string[];
}

export class Live {
  status = $state.raw<Status | null>(null);
  rollout = $state.raw<Rollout | null>(null);
  phase = $state("");
  cause = $state<string | null>(null);
  words = $state("");
  weights = $state.raw<Weights | null>(null);
  judged = $state.raw<Judged[]>([]);
  sentence = $state("");
  next = $state("");
  events = $state.raw<Happened[]>([]);
  proxies = $state.raw<Proxy[]>([]);
  fleetProblem = $state("");
  versions = $state.raw<string[]>([]);
  rollouts = $state.raw<Rollout[]>([]);
  #earlier = $state<string | null>(null);
  problem = $state("");
  objectives = $state.raw<SeriesAnswer["objectives"]>([]);
  /** Counts the changes of `series`, which is too large to be watched itself. */
  drawn = $state(0);
  windowS = $state(600);
  readonly series = new Series(600);
  /** Seconds, for the figures of this moment, while the points of `series` are longer. */
  readonly #newest = new Series(60);

  #ends: (() => void)[] = [];
  #end = () => {};
  #isGone = false;
  #isLoading = false;
  #again = false;
  #isReading = false;
  /** Counts how often what seldom changes was asked for. */
  #readings = 0;
  /** Counts the spans of time that were asked for. */
  #span = 0;
  /** How the rollout stood by the stream while all of it was asked for: the answer may be of an earlier moment. */
  #told: Record<string, unknown> | null = null;
  #words = new Map<string, string>();

  constructor(readonly service: string) {}

  async start(): Promise<void> {
    // All that a person looks at first is asked for at once; the rest must not be in its way.
    this.#end = follow(`/v1/events?service=${encodeURIComponent(this.service)}`, (type, data, id) => this.#hear(type, data, id));
    void this.readSeries();
    await this.load();
    if (this.#isGone) return;
    if (!this.status) {
      this.#end();
      return;
    }
    this.#every(SERIES_EVERY_MS, () => this.readSeries());
    this.#every(FLEET_EVERY_MS, () => this.readFleet());
    this.#every(EXPLAIN_EVERY_MS, () => this.explain());
    void this.readFleet();
    void this.readOnce();
    void this.explain();
  }

  stop(): void {
    this.#isGone = true;
    this.#ends.forEach((end) => end());
    this.#end();
  }

  /** Read how the service stands, all of it. */
  async load(): Promise<void> {
    if (this.#isLoading) {
      this.#again = true;
      return;
    }
    this.#isLoading = true;
    this.#told = null;
    try {
      const status = await askJson<Status>(servicePath(this.service, "/status?events=100"));
      this.status = status;
      this.rollout = status.rollout ?? null;
      this.phase = status.rollout?.phase ?? "";
      this.cause = status.rollout?.cause ?? null;
      this.words = status.rollout?.words ?? "";
      this.#remember(status.events.map(happened));
      this.problem = "";
      if (this.versions.length && this.rollouts[0]?.id !== status.rollout?.id) void this.readOnce();
    } catch (error) {
      this.problem = wordsOf(error);
    } finally {
      this.#isLoading = false;
      if (this.#told && !this.#isGone) this.#stand(this.#told);
      if (this.#again && !this.#isGone) {
        this.#again = false;
        void this.load();
      }
    }
  }

  /** Read what seldom changes: the versions there are, and the rollouts there were. */
  async readOnce(): Promise<void> {
    const reading = ++this.#readings;
    try {
      const [service, rollouts] = await Promise.all([
        askJson<Service>(servicePath(this.service)),
        askPage<Rollout>(servicePath(this.service, "/rollouts?limit=50")),
      ]);
      if (reading !== this.#readings) return; // a newer one is on its way, or was here first
      this.versions = service.document.versions.map((version) => version.name);
      this.rollouts = rollouts.items;
      this.#earlier = rollouts.next;
    } catch (error) {
      this.problem = wordsOf(error);
    }
  }

  get hasEarlier(): boolean {
    return this.#earlier !== null;
  }

  /** Read rollouts that are further back than those that are known. */
  async readEarlier(): Promise<void> {
    const told = await askPage<Rollout>(servicePath(this.service, "/rollouts?limit=50"), this.#earlier);
    this.rollouts = [...this.rollouts, ...told.items];
    this.#earlier = told.next;
  }

  async explain(): Promise<void> {
    if (!this.rollout) return;
    try {
      const told = await askJson<Explanation>(servicePath(this.service, "/explain"));
      this.#words = new Map(told.objectives.map((each) => [each.name, each.words]));
      if (!this.judged.length || !this.rollout.active) this.judged = told.objectives as Judged[];
      this.sentence = told.summary;
      this.next = told.next;
    } catch (error) {
      if (!(error instanceof Problem && error.status === 0)) this.sentence = wordsOf(error);
    }
  }

  async readFleet(): Promise<void> {
    // Envoys carry all services, so that they are shown to those alone who may see them all.
    this.fleetProblem = whyNot("viewer", "*");
    if (document.hidden || this.fleetProblem) return;
    try {
      this.proxies = (await askPage<Proxy>("/v1/proxies?limit=200")).items;
    } catch (error) {
      this.fleetProblem = wordsOf(error);
      if (error instanceof Problem && error.status === 403) this.proxies = [];
    }
  }

  /** Show another span of time. */
  show(seconds: number): void {
    this.#span += 1;
    this.windowS = this.series.windowS = seconds;
    this.series.clear();
    this.drawn += 1;
    void this.readSeries();
  }

  /** The newest seconds that are known. */
  get seconds(): Series {
    return this.series.step === 1 ? this.series : this.#newest;
  }

  async readSeries(): Promise<void> {
    if (this.#isReading || document.hidden) return;
    this.#isReading = true;
    const span = this.#span;
    try {
      await this.#bring(this.series);
      if (this.series.step > 1) await this.#bring(this.#newest);
    } catch (error) {
      if (error instanceof Problem && error.status !== 0 && error.status < 500) this.problem = wordsOf(error);
    } finally {
      this.#isReading = false;
      if (span !== this.#span) void this.readSeries();
    }
  }

  /** Bring *series* up to date. */
  async #bring(series: Series): Promise<void> {
    const now = Date.now() / 1000;
    const behind = now - series.end;
    const last = series.rows.at(-1);
    const isFresh = last !== undefined && behind < series.windowS && !series.isFull;
    // The last point is not over when it is read: a second's is read again each second, a longer one's when it is over.
    if (isFresh && series.step > 1 && behind < 0) return;
    const query = new URLSearchParams();
    if (isFresh) {
      const from = series.step === 1 ? series.end - UNSETTLED_S : last.at;
      query.set("since", new Date(from * 1000).toISOString());
      query.set("max_points", String(series.step === 1 ? MAX_POINTS : 2));
    } else {
      query.set("since", new Date((now - series.windowS) * 1000).toISOString());
      query.set("max_points", String(Math.min(series.windowS + 2, 722)));
      series.clear();
    }
    const span = this.#span;
    const told = await askJson<SeriesAnswer>(servicePath(this.service, `/series?${query}`));
    // An answer to what is shown no more would pass for the beginning of what is.
    if (this.#isGone || span !== this.#span) return;
    this.objectives = told.objectives;
    series.merge(told);
    this.drawn += 1;
  }

  async loadEvents(rollout: string): Promise<Happened[]> {
    const told = await askPage<HistoryEntry>(servicePath(this.service, `/history?rollout=${encodeURIComponent(rollout)}`));
    return told.items.map(happened);
  }

  #every(ms: number, act: () => Promise<void>): void {
    this.#ends.push(every(ms, act));
  }

  #hear(type: string, data: Record<string, unknown>, id: string): void {
    switch (type) {
      case "reset":
      case "delete":
        void this.load();
        break;
      case "state":
        this.#stand(data["rollout"] as Record<string, unknown> | null);
        break;
      case "weights":
        this.weights = data as unknown as Weights;
        void this.readFleet();
        break;
      case "evidence":
        // The explanation's words know how fast requests come; the stream's do not.
        this.judged = (data["objectives"] as Judged[]).map((each) => ({ ...each, words: this.#words.get(each.name) ?? each.words }));
        if (typeof data["sentence"] === "string") this.sentence = data["sentence"];
        break;
      case "begin":
        break;
      default:
        if (id && typeof data["sentence"] === "string") {
          this.#remember([{ id: Number(id), at: data["at"] as string, kind: type, words: data["sentence"], state: (data["after"] as string) ?? "" }]);
        }
        if (type === "apply") void this.readOnce();
        this.#follow(data["rollout"], data["after"]);
    }
  }

  #stand(told: Record<string, unknown> | null): void {
    if (!told) return;
    if (this.#isLoading) this.#told = told;
    if (this.status === null) return;
    const known = this.rollout;
    if (known === null || known.id !== told["id"]) {
      this.judged = [];
      void this.load().then(() => Promise.all([this.readOnce(), this.explain()]));
      return;
    }
    const state = told["state"] as string;
    const hasEnded = known.active && !told["active"];
    this.phase = told["phase"] as string;
    this.cause = (told["cause"] as string | null) ?? null;
    this.words = told["words"] as string;
    this.rollout = {
      ...known,
      state,
      phase: this.phase,
      active: told["active"] as boolean,
      cause: this.cause,
      words: this.words,
      step: (told["step"] as number | null) ?? (state === "promoted" ? known.steps : 0),
      weight_bp: told["weight_bp"] as number,
      since: told["since"] as string,
      outcome: state === "promoted" ? "promoted" : state === "rolled_back" ? "rolled_back" : null,
    };
    if (state !== known.state) void this.explain();
    if (hasEnded) void this.load().then(() => this.readOnce());
  }

  /** Look again where an event tells of a rollout, or of an end, that no state has told of: it may be over already. */
  #follow(rollout: unknown, after: unknown): void {
    if (typeof rollout !== "string" || this.status === null) return;
    const isOver = after === "Promoted" || after === "RolledBack";
    if (rollout !== this.rollout?.id || (isOver && this.rollout.active)) void this.load().then(() => this.explain());
  }

  #remember(found: Happened[]): void {
    const known = new Map(this.events.map((event) => [event.id, event]));
    // The stream's sentences are fuller than the rows' own.
    for (const event of found) if (!known.has(event.id) || event.kind !== "row") known.set(event.id, event);
    this.events = [...known.values()].sort((a, b) => b.id - a.id).slice(0, MAX_EVENTS);
  }
}

function happened(entry: HistoryEntry): Happened {
  return { id: entry.number, at: entry.at, kind: "row", words: entry.words, state: entry.after };
}
