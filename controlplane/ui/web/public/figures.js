// How the jobs do: shares and waits per kind and per version, for as long as the section is open.

import { Problem, askJson } from "./api.js";

const EVERY_MS = 10000;

const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(value > 0.995 && value < 1 ? 2 : 1)} %`);

function seconds(value) {
  if (value === null) return "–";
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 120) return `${value.toFixed(0)} s`;
  return value < 7200 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`;
}

const spans = ({ p50_s, p95_s }) => (p50_s === null ? "–" : `${seconds(p50_s)} / ${seconds(p95_s)}`);

function cell(words, tag = "td") {
  const made = document.createElement(tag);
  made.textContent = words;
  if (tag === "th") made.scope = "row";
  return made;
}

function row(name, line, now, isVersion) {
  const made = document.createElement("tr");
  made.className = isVersion ? "version" : "";
  const ended = [line.done, line.dead, share(isVersion ? line.attempt_share : line.job_share)].map(String);
  const moment = now ? [now.waiting, now.running, seconds(now.oldest_s)].map(String) : ["", "", ""];
  made.append(cell(name, "th"), ...[...ended, spans(line.wait), spans(line.run), ...moment].map((words) => cell(words)));
  return made;
}

const rowsOf = (kind) => [
  row(kind.kind, kind, kind.now, false),
  ...kind.versions.map((one) => row(one.version || "no answer", one, null, true)),
];

/** *section* is a details element with a select, a table and a line for what went wrong. */
export class Figures {
  #section;
  #timer = 0;

  constructor(section) {
    this.#section = section;
    section.addEventListener("toggle", () => this.#look());
    section.querySelector("select").addEventListener("change", () => this.#look());
  }

  close() {
    this.#section.open = false;
  }

  async #look() {
    clearTimeout(this.#timer);
    if (!this.#section.open) return;
    const problem = this.#section.querySelector(".problem");
    const since = this.#section.querySelector("select").value;
    try {
      const { kinds } = await askJson(`/v1/job-figures?since=${since}`);
      this.#section.querySelector("tbody").replaceChildren(...kinds.flatMap(rowsOf));
      problem.hidden = true;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), EVERY_MS);
  }
}
