/** Which page is open: paths without a hash, which the server answers with this app. */

export type Route =
  | { page: "services" }
  | { page: "rollout"; service: string }
  | { page: "pictures"; service: string }
  | { page: "jobs" }
  | { page: "audit" }
  | { page: "login" }
  | { page: "unknown" };

export const place = $state({ path: location.pathname, search: location.search });

export function routeOf(path: string): Route {
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const [first, second, third] = parts;
  if (first === undefined) return { page: "services" };
  if (first === "login" && parts.length === 1) return { page: "login" };
  if (first === "jobs" && parts.length === 1) return { page: "jobs" };
  if (first === "audit" && parts.length === 1) return { page: "audit" };
  if (first === "services" && second !== undefined && parts.length === 2) return { page: "rollout", service: second };
  if (first === "services" && second !== undefined && third === "pictures" && parts.length === 3) {
    return { page: "pictures", service: second };
  }
  return { page: "unknown" };
}

function follow(): void {
  place.path = location.pathname;
  place.search = location.search;
}

export function go(path: string, { replace = false } = {}): void {
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  follow();
  scrollTo(0, 0);
  // What a browser does after a load: whoever listens hears the new page's name.
  queueMicrotask(() => document.querySelector<HTMLElement>("h1")?.focus());
}

/** Follow clicks on links to pages of this app without loading them anew. */
export function listen(): void {
  addEventListener("popstate", follow);
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) {
      return;
    }
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.target || link.origin !== location.origin || link.hasAttribute("download")) return;
    if (link.hash || routeOf(link.pathname).page === "unknown") return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}

export const serviceUrl = (name: string) => `/services/${encodeURIComponent(name)}`;
