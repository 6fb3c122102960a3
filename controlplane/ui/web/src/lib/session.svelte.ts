/** Who looks at these pages, and what they may do. */

import { ask, askJson, credentials, Problem } from "./api";

export const ROLES = ["viewer", "operator", "approver", "admin"] as const;
export type Role = (typeof ROLES)[number];

export interface Grant {
  role: Role;
  service: string;
}

interface Told {
  name: string;
  kind: string;
  grants: Grant[];
  csrf?: string;
  expires_at?: string | null;
}

/** *grants* is null where the control plane does not tell: then it decides at each request, and says why not. */
export const session = $state({
  known: false,
  isIn: false,
  name: "",
  kind: "",
  grants: null as Grant[] | null,
  expiresAt: null as string | null,
  /** Whether people may come by their company's account. */
  oidc: false,
});

function enter(told: Told | null): void {
  session.known = true;
  session.isIn = true;
  session.name = told?.name ?? "";
  session.kind = told?.kind ?? "key";
  session.grants = told?.grants ?? null;
  session.expiresAt = told?.expires_at ?? null;
  credentials.csrf = told?.csrf ?? "";
}

function leave(): void {
  session.known = true;
  session.isIn = false;
  session.name = session.kind = "";
  session.grants = session.expiresAt = null;
  credentials.csrf = "";
  credentials.key = null;
}

const isAbsent = (error: unknown) => error instanceof Problem && (error.status === 404 || error.status === 405);

/** Find out who is here already: by this tab's key, or by a session's cookie. */
export async function recall(): Promise<void> {
  try {
    const about = await askJson<{ oidc: boolean; session: boolean }>("/ui/about.json");
    session.oidc = about.oidc;
    if (credentials.key === null && !about.session) {
      leave();
      return;
    }
    enter(await askJson<Told>("/v1/session"));
  } catch (error) {
    if (isAbsent(error) && credentials.key !== null) enter(null);
    else leave();
  }
}

/** Come in by an API key. Throws a Problem where it is not known. */
export async function login(key: string): Promise<void> {
  credentials.key = null;
  try {
    enter(await askJson<Told>("/v1/session", { method: "POST", body: { key } }));
  } catch (error) {
    if (!isAbsent(error)) throw error;
    credentials.key = key;
    try {
      await ask("/v1/services?limit=1");
    } catch (refused) {
      credentials.key = null;
      throw refused;
    }
    enter(null);
  }
}

export async function logout(): Promise<void> {
  try {
    if (credentials.key === null) await ask("/v1/session", { method: "DELETE" });
  } finally {
    leave();
  }
}

/** The session has ended somewhere else: ask to come in again. */
export function expired(): void {
  leave();
}

export function roleOn(service: string): Role | null {
  const ranks = (session.grants ?? [])
    .filter((grant) => grant.service === "*" || grant.service === service)
    .map((grant) => ROLES.indexOf(grant.role));
  return ranks.length ? (ROLES[Math.max(...ranks)] ?? null) : null;
}

/** Why one may not do what takes *role* on *service*; "" where one may. */
export function whyNot(role: Role, service: string): string {
  if (session.grants === null) return "";
  const has = roleOn(service);
  if (has !== null && ROLES.indexOf(has) >= ROLES.indexOf(role)) return "";
  const where = service === "*" ? "all services" : service;
  return `Takes the role ${role} on ${where}; you have ${has === null ? "none" : `only ${has}`}.`;
}
