// What `tests/bench_ui.py` has each page run before the page's own script: notes when it is ready, and when it shows what.
(() => {
  const all = (selector) => document.querySelectorAll(selector);
  const first = (selector) => document.querySelector(selector);
  const text = (id) => first(`[data-testid="${id}"]`)?.textContent.trim() ?? "–";
  const isKnown = (id) => !text(id).startsWith("–");
  const charts = () => [...all(".chart")];

  // What somebody needs who looks after a rollout; then a button that must react.
  const rollout = {
    isThere: () =>
      ["set", "actual", "acked"].every(isKnown) && all(".chain li").length > 0 && charts().length > 0 &&
      charts().every((chart) => chart.dataset.points !== "0") && first(".timeline li[data-kind]") !== null &&
      first(".fleet li[data-rank]") !== null && first('.link[data-state="live"]') !== null,
    act: () => first('[aria-label="Steer the rollout"] button:not([aria-disabled])').click(),
    hasReacted: () => first("dialog").open,
  };
  // A service that never had a rollout.
  const quiet = {
    isThere: () => charts().length > 0 && charts().every((chart) => chart.dataset.points !== "0") && first('.link[data-state="live"]') !== null,
    act: () => {},
    hasReacted: () => true,
  };
  // Fifty services are there, and the search leads to the one that is wanted.
  const list = {
    isThere: () => all(".services li").length >= 50,
    act: () => {
      first('input[type="search"]').value = "veteran";
      first('input[type="search"]').dispatchEvent(new Event("input", { bubbles: true }));
    },
    hasReacted: () => all(".services li").length === 1 && first('.services li[data-service="veteran"]') !== null,
  };

  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const until = async (test) => {
    while (!test()) await frame();
  };

  /** `ready` becomes how long after the navigation (ms) the page was. */
  window.watchReady = (name) => {
    const { isThere, act, hasReacted } = { rollout, list, quiet }[name];
    const watch = async () => {
      await until(isThere);
      act();
      await until(hasReacted);
      return performance.now();
    };
    window.ready = watch();
  };
  /** When (unix milliseconds) what has the test id *id* begins with *words*. */
  window.whenShown = async ([id, words]) => {
    await until(() => text(id).startsWith(words));
    return Date.now();
  };
  const rate = () => Number(first(".chart .legend b").textContent.replaceAll(",", ""));
  /** When the first chart, which shows requests a second, has nothing at its end. */
  window.whenQuiet = () => until(() => !(rate() > 0));
  /** When (unix milliseconds) it has something. */
  window.whenBusy = async () => {
    await until(() => rate() > 0);
    return Date.now();
  };
  /** Ask for the year; return how long that took (ms), and what the charts then span (s). */
  window.showYear = async () => {
    const begun = performance.now();
    [...all('[aria-label="Span of time"] button')].find((button) => button.textContent === "1 y").click();
    const span = () => Math.min(...charts().map((chart) => chart.dataset.end - chart.dataset.begin));
    await until(() => span() > 31 * 86_400 && charts().every((chart) => chart.dataset.points > 300));
    await frame();
    return [performance.now() - begun, span()];
  };
})();
