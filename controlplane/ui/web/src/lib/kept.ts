/** Photos that are not sent yet, kept in the browser's own database, so that a page that is loaded again goes on. */

import { makeId } from "./api";

const TAB = "hueshift.tab";
const STORE = "uploads";
const OLD_AFTER_MS = 24 * 3_600_000;

/** A photo that waits: *id* is its idempotency key, *owner* whose session it is to be sent in. */
export interface Kept {
  id: string;
  owner: string;
  name: string;
  file: Blob;
  query: Record<string, string>;
  at: number;
}

interface Row extends Kept {
  tab: string;
}

/** Two tabs must not send the same photo, so each goes on with its own only. */
function tab(): string {
  const known = sessionStorage.getItem(TAB) ?? makeId();
  sessionStorage.setItem(TAB, known);
  return known;
}

let opened: Promise<IDBDatabase> | null = null;

function database(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("hueshift", 2);
    request.onupgradeneeded = () => {
      // Version 1 did not know whose photos they were.
      if (request.result.objectStoreNames.contains(STORE)) request.result.deleteObjectStore(STORE);
      request.result.createObjectStore(STORE, { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error ?? new Error("another tab has it open"));
  });
  return opened;
}

/** Private windows and full disks refuse to keep anything: then the answer is null, and leaving the page asks first. */
async function tryIn<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | null> {
  try {
    const change = (await database()).transaction(STORE, mode);
    const request = work(change.objectStore(STORE));
    return await new Promise((resolve, reject) => {
      change.oncomplete = () => resolve(request.result);
      change.onabort = () => reject(change.error);
    });
  } catch {
    return null;
  }
}

/** Keep a photo; return whether it will be there after a reload. */
export async function keep(photo: Kept): Promise<boolean> {
  return (await tryIn("readwrite", (store) => store.put({ ...photo, tab: tab() }))) !== null;
}

export async function drop(id: string): Promise<void> {
  await tryIn("readwrite", (store) => store.delete(id));
}

/** Return what this tab has kept for *owner*, the oldest first; what other tabs have left long ago is dropped. */
export async function listKept(owner: string): Promise<Kept[]> {
  const rows = ((await tryIn("readonly", (store) => store.getAll())) ?? []) as Row[];
  for (const row of rows) if (row.tab !== tab() && Date.now() - row.at > OLD_AFTER_MS) await drop(row.id);
  return rows.filter((row) => row.tab === tab() && row.owner === owner).sort((a, b) => a.at - b.at);
}

/** Forget all that this tab has kept, and the tab's name. */
export async function dropAll(): Promise<void> {
  const rows = ((await tryIn("readonly", (store) => store.getAll())) ?? []) as Row[];
  for (const row of rows) if (row.tab === tab()) await drop(row.id);
  sessionStorage.removeItem(TAB);
}
