/** How numbers and moments are written. Times are the reader's; UTC stands in the title. */

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const percent = (share: number | null | undefined, digits = 2) =>
  share === null || share === undefined ? "–" : `${trim((share * 100).toFixed(digits))} %`;
export const weight = (bp: number | null | undefined) =>
  bp === null || bp === undefined ? "–" : `${trim((bp / 100).toFixed(2))} %`;
export const count = (number: number | null | undefined) =>
  number === null || number === undefined ? "–" : whole.format(number);
export const rate = (number: number | null) =>
  number === null ? "–" : number < 10 ? trim(number.toFixed(1)) : whole.format(number);
export const latency = (ms: number | null | undefined) =>
  ms === null || ms === undefined ? "–" : ms < 10 ? `${trim(ms.toFixed(1))} ms` : ms < 10_000 ? `${whole.format(ms)} ms` : `${trim((ms / 1000).toFixed(1))} s`;
/** Evidence against a version as the control plane writes it; what speaks for the version is no evidence. */
export const odds = (number: number | null | undefined) => {
  if (number === null || number === undefined) return "–";
  return number < 1e6 ? `1:${whole.format(Math.max(1, number))}` : `at least 1:${whole.format(1e6)}`;
};

function trim(text: string): string {
  return text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
}

export function moment(iso: string, now = Date.now()): string {
  const at = new Date(iso);
  return now - at.getTime() < 18 * 3_600_000 && new Date(now).getDate() === at.getDate() ? clock.format(at) : full.format(at);
}

export const utc = (iso: string) => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;

export function span(seconds: number): string {
  if (seconds < 0) return "0 s";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${trim((seconds / 3600).toFixed(1))} h` : `${Math.round(seconds / 86_400)} d`;
}

const STATES: Record<string, string> = {
  preparing: "Preparing",
  shifting: "Shifting",
  baking: "Baking",
  paused: "Paused",
  rolling_back: "Rolling back",
  rolled_back: "Rolled back",
  promoted: "Promoted",
  unsent: "To be sent",
  sending: "Sending",
  refused: "Not taken",
  waiting: "Waiting",
  running: "Colouring",
  done: "Done",
  dead: "Failed",
  cancelled: "Cancelled",
};
export const stateWords = (state: string) => STATES[state] ?? state.replaceAll("_", " ");
const SIGNS: Record<string, string> = {
  preparing: "◌",
  shifting: "◐",
  baking: "◑",
  paused: "❚❚",
  rolling_back: "↩",
  rolled_back: "✕",
  promoted: "✓",
  sending: "↑",
  refused: "✕",
  running: "◐",
  done: "✓",
  dead: "✕",
};
export const stateSign = (state: string) => SIGNS[state] ?? "•";
