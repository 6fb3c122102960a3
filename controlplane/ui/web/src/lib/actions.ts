/** What one can do with a rollout as it stands. */

import type { Rollout } from "./api";
import type { Action } from "./shapes";

const MOVING = ["preparing", "shifting", "baking"];

export function actionsOf(rollout: Rollout | null, cause: string | null): Action[] {
  const state = rollout?.active ? rollout.state : "";
  const isMoving = MOVING.includes(state);
  const isPaused = state === "paused";
  const isAtGate = isPaused && cause === "gate";
  const candidate = rollout?.candidate ?? "the new version";
  const none = "No rollout is active.";
  const standing = (words: string) => (rollout?.active ? words : none);
  const found: Action[] = [];
  if (!rollout?.active) {
    found.push({ verb: "start", label: "Start", role: "operator", why: "", main: true, says: "Starts a rollout: traffic moves step by step, as far as the evidence carries it." });
  }
  if (isAtGate) {
    found.push({ verb: "promote", label: "Approve", role: "approver", why: "", main: true, says: `Lets ${candidate} past this gate, to the next step.` });
    found.push({ verb: "abort", label: "Reject", role: "operator", why: "", danger: true, says: `Gives all traffic back to ${rollout?.baseline}.` });
  } else if (isPaused) {
    found.push({ verb: "resume", label: "Resume", role: "operator", why: "", main: true, says: "Lets the rollout go on." });
  } else {
    found.push({ verb: "pause", label: "Pause", role: "operator", why: isMoving ? "" : standing("It is going back."), says: "Stops where it is. The judge watches on: a breach still rolls back." });
  }
  if (!isAtGate) {
    found.push({ verb: "promote", label: "Promote", role: "approver", why: isMoving || isPaused ? "" : standing("It is going back."), says: "Takes the next step without waiting for the judge." });
  }
  found.push({ verb: "full", label: "Promote fully", role: "approver", why: isMoving || isPaused ? "" : standing("It is going back."), says: `Gives ${candidate} all traffic now, without waiting for the judge.` });
  if (!isAtGate) {
    found.push({ verb: "abort", label: "Abort", role: "operator", danger: true, why: isMoving || isPaused ? "" : standing("It is going back already."), says: `Gives all traffic back to ${rollout?.baseline ?? "the old version"}.` });
  }
  if (rollout && !rollout.active) {
    found.push({ verb: "undo", label: "Undo", role: "operator", danger: true, why: rollout.outcome === "promoted" ? "" : "Nothing was promoted.", says: `Gives traffic back to ${rollout.baseline}, the version before the last promotion.` });
    found.push({ verb: "retry", label: "Retry", role: "operator", why: rollout.outcome === "rolled_back" ? "" : "It did not fail.", says: `Starts the rollout to ${candidate} again.` });
  }
  return found;
}
