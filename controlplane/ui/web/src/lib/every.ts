/** Do *act* every *ms*, never beside itself: what does not answer is not asked again and again. Returns what ends it. */
export function every(ms: number, act: () => Promise<void>): () => void {
  let isBusy = false;
  const timer = setInterval(() => {
    if (isBusy) return;
    isBusy = true;
    void act().finally(() => (isBusy = false));
  }, ms);
  return () => clearInterval(timer);
}
