/** One photo's way to the API. fetch cannot tell how much was sent, XMLHttpRequest can. */

import { noAnswer, problemOf, proof, type Job } from "./api";

export interface Sending {
  done: Promise<Job>;
  abort: () => void;
}

export interface Sent {
  /** Sending the same photo again with the same key is no second job. */
  idempotencyKey: string;
  query: Record<string, string>;
  /** Hears the share that was sent, 0 to 1. */
  onProgress: (share: number) => void;
}

/** Send *photo*; *done* is a promise of the job, and fails with a Problem, or an AbortError after *abort*. */
export function send(photo: Blob, { idempotencyKey, query, onProgress }: Sent): Sending {
  const request = new XMLHttpRequest();
  const done = new Promise<Job>((resolve, reject) => {
    request.open("POST", `/v1/jobs?${new URLSearchParams(query)}`);
    for (const [name, value] of Object.entries(proof("POST"))) request.setRequestHeader(name, value);
    request.setRequestHeader("Idempotency-Key", idempotencyKey);
    const isImage = /^image\/[\w.+-]+$/.test(photo.type);
    request.setRequestHeader("Content-Type", isImage ? photo.type : "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 202) resolve(JSON.parse(request.responseText) as Job);
      else reject(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(noAnswer());
    request.onabort = () => reject(new DOMException("given up", "AbortError"));
    request.send(photo);
  });
  return { done, abort: () => request.abort() };
}
