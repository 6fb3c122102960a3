// One card per photo: an upload first, then the job that it became.

import { fetchPicture } from "./pictures.js";

export const FINAL = new Set(["done", "dead", "cancelled"]);
const BADGES = { waiting: "Waiting", running: "Colouring", done: "Done", dead: "Failed", cancelled: "Cancelled" };
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const set = (element, words) => {
  if (element.textContent !== words) element.textContent = words;
};

export class Card {
  /** *acts* has a function for each button: compare, download, again, cancel, delete; each gets the card. */
  constructor(template, thumbnails, acts) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.thumbnails = thumbnails;
    this.upload = null;
    this.job = null;
    this.name = "";
    this.photo = null;
    const find = (selector) => this.element.querySelector(selector);
    this.canvas = find("canvas");
    this.look = find(".look");
    this.nothing = find(".nothing");
    this.heading = find("h3");
    this.badge = find(".badge");
    this.where = find(".where");
    this.bar = find("progress");
    this.words = find(".words");
    this.buttons = {};
    for (const act of Object.keys(acts)) {
      this.buttons[act] = find(`button.${act}`);
      this.buttons[act].addEventListener("click", () => acts[act](this));
    }
    this.look.addEventListener("click", () => acts.compare(this));
  }

  showUpload(one) {
    this.upload = one;
    this.photo = one.photo;
    this.setName(one.name);
    const sending = one.state === "sending";
    const percent = Math.floor(100 * one.share);
    this.mark(one.state === "refused" ? "dead" : "sending", one.state === "refused" ? "Not taken" : sending ? "Sending" : "To be sent");
    set(this.where, sending ? (percent < 100 ? `${percent} %` : "arriving") : "");
    this.bar.hidden = !sending;
    this.bar.value = percent;
    this.say(one.words);
    this.offer({ again: one.state === "refused" && one.passes, cancel: one.state !== "refused", delete: one.state === "refused" });
    this.draw(`file-${one.id}`, async () => one.photo);
  }

  showJob(job, { place, name, mayRetry }) {
    this.upload = null;
    this.job = job;
    this.setName(name || nameOf(job));
    this.mark(job.state, BADGES[job.state] ?? job.state);
    set(this.where, whereabouts(job, place));
    this.bar.hidden = true;
    const said = job.state === "cancelled" ? "" : job.words;
    this.say(said && said[0].toUpperCase() + said.slice(1));
    const done = job.state === "done" && job.result !== null; // pictures go after a time, rows stay
    const ended = FINAL.has(job.state);
    this.offer({ compare: done, download: done, again: ended && job.state !== "done" && mayRetry, cancel: !ended, delete: ended });
    this.look.disabled = !done;
    if (done) this.draw(`result-${job.id}`, () => fetchPicture(job.id, "result"));
    else if (job.photo) this.draw(`photo-${job.id}`, async () => this.photo ?? fetchPicture(job.id, "photo"));
  }

  setName(name) {
    this.name = name;
    set(this.heading, name);
    set(this.look.querySelector(".unseen"), `Compare ${name} before and after`);
    for (const [act, button] of Object.entries(this.buttons)) {
      button.setAttribute("aria-label", `${button.textContent}: ${name}`);
      button.dataset.act = act;
    }
  }

  mark(state, words) {
    this.element.dataset.state = state;
    set(this.badge, words);
  }

  say(words) {
    set(this.words, words);
    this.words.hidden = !words;
  }

  offer(offered) {
    for (const [act, button] of Object.entries(this.buttons)) {
      const hide = !offered[act];
      // Whoever pressed a button that goes away goes on from this card.
      if (hide && button === document.activeElement) focusOn(this.element);
      button.hidden = hide;
      button.disabled = false;
    }
  }

  draw(name, source) {
    if (this.job && this.canvas.dataset.name?.startsWith("file-") && !name.startsWith("result-")) return; // the same photo
    this.thumbnails.want(this.canvas, name, source, (drawn) => {
      this.element.classList.toggle("drawn", drawn);
      set(this.nothing, drawn ? "" : "No preview");
    });
  }

  remove() {
    this.thumbnails.forget(this.canvas);
    if (this.element.contains(document.activeElement)) {
      focusOn(this.element.nextElementSibling ?? this.element.previousElementSibling ?? document.getElementById("choose"));
    }
    this.element.remove();
  }
}

function focusOn(element) {
  if (element.matches("li")) element.tabIndex = -1;
  element.focus({ preventScroll: true });
}

function nameOf(job) {
  return job.task_id === job.id ? `Photo of ${DAY.format(new Date(job.submitted_at))}` : job.task_id;
}

function whereabouts(job, place) {
  if (job.state === "waiting" && job.attempts === 0) {
    if (place === 1) return "next";
    return place ? `about number ${place}` : "";
  }
  if (job.state === "waiting") return `after attempt ${job.attempts}`;
  if (job.state === "running") return job.attempts > 1 ? `attempt ${job.attempts}` : "";
  if (job.state === "done") return [job.version, `${job.size} px`].filter(Boolean).join(", ");
  return "";
}
