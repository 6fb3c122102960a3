// Before and after, one above the other, with a divider that pointers, fingers and keys move.

import { fetchPicture } from "./pictures.js";

const byId = (id) => document.getElementById(id);

export class Compare {
  constructor({ onDownload }) {
    this.dialog = byId("compare");
    this.stage = byId("stage");
    this.split = byId("split");
    this.urls = [];
    this.job = null;
    this.split.addEventListener("input", () => this.show());
    byId("compare-close").addEventListener("click", () => this.dialog.close());
    byId("compare-download").addEventListener("click", () => onDownload(this.job, this.name));
    this.dialog.addEventListener("close", () => this.forget());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.followPointer();
  }

  followPointer() {
    const move = (event) => {
      const box = this.stage.getBoundingClientRect();
      this.split.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
      this.show();
    };
    this.stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.stage.setPointerCapture(event.pointerId);
      this.split.focus({ preventScroll: true });
      event.preventDefault();
      move(event);
    });
    this.stage.addEventListener("pointermove", (event) => {
      if (this.stage.hasPointerCapture(event.pointerId)) move(event);
    });
  }

  show() {
    const share = Number(this.split.value);
    this.stage.style.setProperty("--split", `${share}%`);
    this.split.setAttribute("aria-valuetext", `${share} % before, ${100 - share} % after`);
  }

  async open(job, name) {
    this.forget();
    this.job = job;
    this.name = name;
    byId("compare-name").textContent = name;
    this.split.value = "50";
    this.show();
    this.stage.classList.add("loading");
    if (!this.dialog.open) this.dialog.showModal();
    this.split.focus();
    const loaded = [this.load("before", "photo"), this.load("after", "result")];
    const problems = (await Promise.all(loaded)).filter((problem) => problem);
    if (this.job !== job) return;
    this.stage.classList.remove("loading");
    this.say(problems.join(" "));
  }

  /** Load one of the two; return a sentence when it cannot be shown. */
  async load(place, what) {
    const { job } = this;
    const image = byId(place);
    try {
      const blob = await fetchPicture(job.id, what);
      if (this.job !== job) return null;
      const url = URL.createObjectURL(blob);
      this.urls.push(url);
      image.src = url;
      await image.decode();
      image.hidden = false;
      this.stage.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight));
      return null;
    } catch (error) {
      image.hidden = true;
      if (error.status === undefined) return `This browser cannot show the ${what} (${job[what]?.media_type ?? "unknown"}).`;
      return `The ${what} cannot be loaded: ${error.message}.`;
    }
  }

  say(words) {
    const line = byId("compare-problem");
    line.textContent = words;
    line.hidden = !words;
  }

  forget() {
    this.job = null;
    this.say("");
    for (const place of ["before", "after"]) {
      byId(place).removeAttribute("src");
      byId(place).hidden = true;
    }
    for (const url of this.urls.splice(0)) URL.revokeObjectURL(url);
  }
}
