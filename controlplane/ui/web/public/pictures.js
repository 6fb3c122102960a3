// Pictures of jobs: fetched with the key, two at a time and only those in sight, and kept as small drawings.

import { ask } from "./api.js";

const WIDTH_PX = 480;
const AT_ONCE = 2;

let running = 0;
const line = [];

/** Run *work* when fewer than two others run: the browser has six connections, and uploads want most of them. */
function inTurn(work) {
  return new Promise((resolve, reject) => {
    line.push(() => work().then(resolve, reject));
    next();
  });
}

function next() {
  if (running >= AT_ONCE || line.length === 0) return;
  running += 1;
  line.shift()().finally(() => {
    running -= 1;
    next();
  });
}

export const fetchPicture = (id, what) => inTurn(async () => (await ask(`/v1/jobs/${id}/${what}`)).blob());

/** Draw *blob* small on *canvas*; say whether this browser can. */
async function draw(canvas, blob) {
  try {
    const bitmap = await createImageBitmap(blob, { resizeWidth: WIDTH_PX, resizeQuality: "medium" });
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    return true;
  } catch {
    return false; // a TIFF, say
  }
}

/** Draws what cards ask for once they are in sight. */
export class Thumbnails {
  constructor() {
    this.wanted = new Map();
    this.watcher = new IntersectionObserver((entries) => entries.forEach((entry) => this.seen(entry)), {
      rootMargin: "200px",
    });
  }

  /** Have *source* (a function to a promise of a blob) drawn on *canvas*; *name* tells it from what is there already. */
  want(canvas, name, source, onDrawn) {
    if (canvas.dataset.name === name) return;
    canvas.dataset.name = name;
    this.wanted.set(canvas, { name, source, onDrawn });
    this.watcher.unobserve(canvas);
    this.watcher.observe(canvas);
  }

  forget(canvas) {
    this.wanted.delete(canvas);
    this.watcher.unobserve(canvas);
  }

  async seen({ isIntersecting, target }) {
    const wanted = this.wanted.get(target);
    if (!isIntersecting || !wanted) return;
    this.forget(target);
    try {
      const blob = await wanted.source();
      if (target.dataset.name === wanted.name) wanted.onDrawn(await draw(target, blob));
    } catch {
      if (target.dataset.name === wanted.name) {
        delete target.dataset.name; // whatever asks next tries again
        wanted.onDrawn(false);
      }
    }
  }
}
