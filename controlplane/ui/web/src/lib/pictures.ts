/** Pictures of jobs: two at a time and only those in sight, drawn small where a card shows them. */

import { ask, jobPath } from "./api";

const WIDTH_PX = 480;
/** The browser has six connections, and uploads want most of them. */
const AT_ONCE = 2;

let running = 0;
const line: (() => Promise<void>)[] = [];

function inTurn<T>(work: () => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    line.push(() => work().then(resolve, reject));
    next();
  });
}

function next(): void {
  if (running >= AT_ONCE) return;
  const work = line.shift();
  if (!work) return;
  running += 1;
  void work().finally(() => {
    running -= 1;
    next();
  });
}

/** Return a job's photo or result. Throws a Problem. */
export const fetchPicture = (job: string, what: "photo" | "result") =>
  inTurn(async () => (await ask(jobPath(job, `/${what}`))).blob());

async function draw(canvas: HTMLCanvasElement, blob: Blob): Promise<void> {
  const bitmap = await createImageBitmap(blob, { resizeWidth: WIDTH_PX, resizeQuality: "medium" });
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d")!.drawImage(bitmap, 0, 0);
  bitmap.close();
}

/** Draw what *source* returns once *canvas* is in sight; *drawn* hears whether this browser could. Return what ends it. */
export function drawInSight(canvas: HTMLCanvasElement, source: () => Promise<Blob>, drawn: (is: boolean) => void): () => void {
  let isOver = false;
  const watcher = new IntersectionObserver(
    async (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      try {
        const blob = await source();
        watcher.disconnect();
        if (isOver) return;
        await draw(canvas, blob);
        drawn(true);
      } catch {
        if (!isOver) drawn(false); // a TIFF, say; or no answer: then it is asked for when it comes into sight again
      }
    },
    { rootMargin: "200px" },
  );
  watcher.observe(canvas);
  return () => {
    isOver = true;
    watcher.disconnect();
  };
}

const ENDINGS: Record<string, string> = {
  "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/tiff": "tiff", "image/bmp": "bmp",
};

/** Have the browser save *blob*, named after the photo that it is the result of. */
export function save(blob: Blob, title: string, mediaType: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${title.replace(/\.\w{1,5}$/, "").replace(/[/\\:]/g, "-")}-coloured.${ENDINGS[mediaType] ?? "bin"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
