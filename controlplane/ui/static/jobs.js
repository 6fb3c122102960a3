// The page: asks for the key, takes photos, lists jobs and keeps the list true. Everything it shows is the API's.

import { Problem, ask, askJson, follow, key, session } from "./api.js";
import { Card, FINAL } from "./cards.js";
import { Compare } from "./compare.js";
import { Figures } from "./figures.js";
import { Thumbnails, fetchPicture } from "./pictures.js";
import { Uploads } from "./uploads.js";

const PAGE = 30;
const MAX_FOLLOWED = 500; // the stream's first event has no more open jobs than these
const HOLD_MS = 2000;
const AGAIN_MS = 5000;
const NAMES = "hueshift.names";
const CHOICE = "hueshift.choice";
const ENDINGS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/tiff": "tiff", "image/bmp": "bmp" };
const ENDS = { done: "is done", dead: "failed", cancelled: "was cancelled" };

const byId = (id) => document.getElementById(id);
const show = (id, shown) => (byId(id).hidden = !shown);

function say(id, words) {
  byId(id).textContent = words;
  show(id, Boolean(words));
}

// -- what is known ---------------------------------------------------------------------------------------------------

const jobs = new Map();
const places = new Map();
const cards = new Map(); // by the id of an upload or a job
const held = new Set(); // new jobs that may turn out to be uploads whose answer is still on its way
let names = JSON.parse(sessionStorage.getItem(NAMES) ?? "{}");
const retries = { asked: false, offered: false };
let kinds = [];
let uploads = null;
let stopFollowing = null;
let isWhole = false; // the oldest job is listed

const thumbnails = new Thumbnails();
const compare = new Compare({ onDownload: download });
const figures = new Figures(byId("figures"));

function rememberName(job, name) {
  names[job] = name;
  const newest = Object.entries(names).slice(-500);
  names = Object.fromEntries(newest);
  sessionStorage.setItem(NAMES, JSON.stringify(names));
}

/** Take in what is said of a job; what has ended does not begin again because an older answer comes late. */
function learn(job, { place, isLate = false } = {}) {
  const before = jobs.get(job.id);
  if (isLate && before && FINAL.has(before.state)) return;
  if (before && !FINAL.has(before.state) && FINAL.has(job.state)) announce(job);
  jobs.set(job.id, job);
  if (place !== undefined) places.set(job.id, place);
  if (cards.has(job.id) || uploads.sending === 0 || isLate) return draw(job.id);
  held.add(job.id);
  setTimeout(() => held.delete(job.id) && draw(job.id), HOLD_MS);
}

function draw(id) {
  const job = jobs.get(id);
  if (!job) return;
  if (!cards.has(id)) place(id, makeCard());
  if (job.state === "dead" || job.state === "cancelled") askForRetries();
  cards.get(id).showJob(job, { place: places.get(id), name: names[id], mayRetry: retries.offered });
  tidy();
}

/** Jobs that failed can be run again where the API has a way to; ask once, and only when there is one. */
async function askForRetries() {
  if (retries.asked) return;
  retries.asked = true;
  const found = await askJson("/openapi.json").catch(() => ({ paths: {} }));
  retries.offered = "/v1/jobs/{job}/retry" in found.paths;
  for (const id of jobs.keys()) if (retries.offered && cards.has(id)) draw(id);
}

function forget(id) {
  jobs.delete(id);
  held.delete(id);
  cards.get(id)?.remove();
  cards.delete(id);
  tidy();
}

// -- the list --------------------------------------------------------------------------------------------------------

function makeCard() {
  return new Card(byId("card"), thumbnails, {
    compare: (card) => compare.open(card.job, card.name),
    download: (card) => download(card.job, card.name),
    again: (card) => (card.upload ? uploads.again(card.upload.id) : act(card, "again")),
    cancel: (card) => (card.upload ? uploads.remove(card.upload.id) : act(card, "cancel")),
    delete: (card) => (card.upload ? uploads.remove(card.upload.id) : act(card, "delete")),
  });
}

/** Uploads come first, then jobs, the newest first. */
function place(id, card) {
  cards.set(id, card);
  const job = jobs.get(id);
  const list = byId("list");
  if (!job) return void list.prepend(card.element);
  const isOlder = (other) => {
    const found = jobs.get(other);
    return found && found.submitted_at < job.submitted_at;
  };
  const next = [...list.children].find((element) => isOlder(element.dataset.id));
  card.element.dataset.id = id;
  list.insertBefore(card.element, next ?? null);
}

let tidying = 0;

function tidy() {
  if (tidying) return;
  tidying = requestAnimationFrame(() => {
    tidying = 0;
    show("empty", cards.size === 0 && isWhole);
    show("more", !isWhole);
    const counts = {};
    for (const { state } of jobs.values()) counts[state] = (counts[state] ?? 0) + 1;
    const outside = [...(uploads?.all.values() ?? [])];
    const refused = outside.filter((one) => one.state === "refused").length;
    const parts = [
      [outside.length - refused, "to be sent"], [refused, "not taken"], [counts.waiting, "waiting"], [counts.running, "being coloured"],
      [counts.done, "done"], [counts.dead, "failed"],
    ];
    const words = parts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`);
    byId("sum").textContent = words.join(" · ") + (words.length && !isWhole ? " · earlier ones below" : "");
  });
}

let spoken = [];

function announce(job) {
  spoken.push(`${names[job.id] || "A photo"} ${ENDS[job.state]}.`);
  if (spoken.length > 1) return;
  setTimeout(() => {
    byId("said").textContent = spoken.length > 3 ? `${spoken.length} photos have ended.` : spoken.join(" ");
    spoken = [];
  }, 1000);
}

async function listEarlier() {
  const ids = [...jobs.values()].sort((a, b) => (a.submitted_at < b.submitted_at ? -1 : 1)).map((job) => job.id);
  const query = new URLSearchParams({ limit: PAGE, ...(ids.length ? { before: ids[0] } : {}) });
  let found = { items: [], next: null };
  try {
    found = await askJson(`/v1/jobs?${query}`);
  } catch (error) {
    if (error.status !== 404 || !ids.length) throw error;
    forget(ids[0]); // deleted elsewhere
    return listEarlier();
  }
  isWhole = found.next === null;
  for (const job of found.items) learn(job, { isLate: true });
  tidy();
}

// -- what a card's buttons do ----------------------------------------------------------------------------------------

async function act(card, what) {
  const { id } = card.job;
  const button = card.buttons[what];
  button.disabled = true;
  try {
    if (what === "cancel") learn(await askJson(`/v1/jobs/${id}/cancel`, { method: "POST" }));
    else if (what === "again") learn(await askJson(`/v1/jobs/${id}/retry`, { method: "POST" }));
    else {
      await ask(`/v1/jobs/${id}`, { method: "DELETE" });
      forget(id);
    }
  } catch (error) {
    failed(card, id, error);
  } finally {
    button.disabled = false;
  }
}

function failed(card, id, error) {
  if (error.status === 401) leave(error.message);
  else if (error.status === 404) forget(id);
  else if (error instanceof Problem) card.say(error.message);
  else throw error;
}

async function download(job, name) {
  try {
    const blob = await fetchPicture(job.id, "result");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name.replace(/\.\w{1,5}$/, "").replace(/[/\\:]/g, "-")}-coloured.${ENDINGS[job.result.media_type] ?? "bin"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    failed(cards.get(job.id), job.id, error);
  }
}

// -- photos come in --------------------------------------------------------------------------------------------------

function take(photos) {
  const size = byId("size");
  if (!kinds.length) return say("order-problem", "There are no kinds of tasks yet: hueshift jobs kinds apply -f FILE.");
  if (!size.checkValidity()) return say("order-problem", `Size: use ${size.min} to ${size.max} pixels.`);
  say("order-problem", "");
  const query = { workflow_type: kind().workflow, size: size.value, model: byId("model").value };
  if (byId("vip").checked) query.priority = "vip";
  for (const photo of photos) uploads.add(photo, query);
}

function takeDropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const photos = items.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile());
  take(photos.filter(Boolean));
  if (photos.length < items.length) say("order-problem", "Folders cannot be dropped; drop the photos in them.");
}

function showUpload(one) {
  if (one.state === "gone") return forget(one.id);
  if (!cards.has(one.id)) place(one.id, makeCard());
  cards.get(one.id).showUpload(one);
  tidy();
}

/** An upload has become a job: its card goes on as the job's, unless the job has one already. */
function becomeJob(one, job) {
  const card = cards.get(one.id);
  cards.delete(one.id);
  rememberName(job.id, one.name);
  if (!jobs.has(job.id)) jobs.set(job.id, job);
  if (cards.has(job.id)) card.remove();
  else {
    cards.set(job.id, card);
    card.element.dataset.id = job.id;
  }
  draw(job.id);
  held.delete(job.id);
}

// -- the order's fields ----------------------------------------------------------------------------------------------

const kind = () => kinds.find((one) => one.kind === byId("kind").value) ?? kinds[0];
const option = (value) => Object.assign(document.createElement("option"), { value, textContent: value });

function showKind() {
  const { sizes, models } = kind();
  Object.assign(byId("size"), { min: sizes.min, max: sizes.max, value: sizes.default ?? sizes.max });
  byId("size-range").textContent = `${sizes.min} to ${sizes.max} px`;
  byId("model").replaceChildren(...models.map(option));
  show("model-field", models.length > 1);
}

function rememberChoice() {
  const choice = { kind: byId("kind").value, size: byId("size").value, vip: byId("vip").checked, model: byId("model").value };
  sessionStorage.setItem(CHOICE, JSON.stringify(choice));
}

function showKinds() {
  byId("kind").replaceChildren(...kinds.map((one) => option(one.kind)));
  if (!kinds.length) return say("order-problem", "There are no kinds of tasks yet: hueshift jobs kinds apply -f FILE.");
  const choice = JSON.parse(sessionStorage.getItem(CHOICE) ?? "{}");
  const known = kinds.some((one) => one.kind === choice.kind);
  if (known) byId("kind").value = choice.kind;
  showKind();
  if (known && choice.size) byId("size").value = choice.size;
  if (known && kind().models.includes(choice.model)) byId("model").value = choice.model;
  byId("vip").checked = Boolean(choice.vip);
}

// -- in and out ------------------------------------------------------------------------------------------------------

function hear(news) {
  for (const job of news.jobs) learn(job, { place: job.place });
  for (const [id, number] of Object.entries(news.places)) {
    places.set(id, number);
    if (cards.has(id)) draw(id);
  }
  for (const id of news.gone) forget(id);
  if (!news.first || news.jobs.filter((job) => !FINAL.has(job.state)).length >= MAX_FOLLOWED) return;
  const told = new Set(news.jobs.map((job) => job.id));
  for (const job of [...jobs.values()]) {
    if (!FINAL.has(job.state) && !told.has(job.id)) look(job.id);
  }
}

/** Ask for a job that the stream does not speak of. */
async function look(id) {
  try {
    learn(await askJson(`/v1/jobs/${id}`));
  } catch (error) {
    if (error.status === 404) forget(id);
  }
}

function showLink(state) {
  const words = { live: "Live" }[state] ?? `Connection lost; again in ${state} s`;
  byId("link").dataset.state = state === "live" ? "live" : "lost";
  byId("link").textContent = words;
  show("link", true);
}

async function enter() {
  kinds = await askJson("/v1/job-kinds");
  await askJson("/v1/jobs?limit=1"); // kinds may be public, jobs are not
  show("enter", false);
  show("work", true);
  show("leave", key.get() !== null); // a session is left where it was begun
  showKinds();
  uploads = new Uploads({ onChange: showUpload, onJob: becomeJob, onRefused: (problem) => leave(problem.message) });
  await listEarlier();
  stopFollowing?.();
  stopFollowing = follow({ onNews: hear, onLink: showLink, onRefused: (problem) => leave(problem.message) });
  await uploads.goOn();
}

/** Ask for a key again, and say why. */
function leave(words, { keepsKey = false } = {}) {
  stopFollowing?.();
  stopFollowing = null;
  uploads?.stop();
  if (!keepsKey) key.forget();
  for (const id of [...cards.keys()]) forget(id);
  jobs.clear();
  isWhole = false;
  if (byId("compare").open) byId("compare").close();
  figures.close();
  for (const id of ["work", "leave", "link"]) show(id, false);
  show("enter", true);
  say("key-problem", words);
  byId("key").focus();
}

async function tryKey() {
  const button = byId("enter").querySelector("button");
  button.disabled = true;
  try {
    await enter();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) leave("This key is not known, or was revoked. Check it, or make another one.");
    else {
      leave(`${error.message}; it is tried again.`, { keepsKey: true });
      setTimeout(() => (key.get() || session.csrf) && byId("work").hidden && tryKey(), AGAIN_MS);
    }
  } finally {
    button.disabled = false;
  }
}

function start() {
  byId("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(given)) return leave("A key is letters and digits, beginning with hs_.");
    key.set(given);
    byId("key").value = "";
    return tryKey();
  });
  byId("leave").addEventListener("click", async () => {
    await uploads.clear();
    for (const name of [NAMES, CHOICE]) sessionStorage.removeItem(name);
    names = {};
    leave("");
  });
  byId("order").addEventListener("submit", (event) => event.preventDefault());
  byId("order").addEventListener("change", rememberChoice);
  byId("kind").addEventListener("change", showKind);
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", ({ target }) => {
    take([...target.files]);
    target.value = "";
  });
  byId("more").addEventListener("click", () => listEarlier().catch((error) => say("order-problem", error.message)));
  const drop = byId("drop");
  let inside = 0;
  for (const [name, step] of [["dragenter", 1], ["dragleave", -1]]) {
    drop.addEventListener(name, () => drop.classList.toggle("over", (inside += step) > 0));
  }
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    inside = 0;
    if (!byId("work").hidden) takeDropped(event.dataTransfer);
  });
  if (key.get()) tryKey();
  else session.recall().then((isIn) => (isIn ? tryKey() : leave("")));
}

start();
