#!/bin/sh
# Builds the web pages (`build`), or says whether what is committed is what their source builds to (`check`).
set -eu
cd "$(dirname "$0")"
static=../static
openapi=../../../docs/openapi.json
types=src/lib/schema.d.ts

if ! command -v npm >/dev/null; then
  if [ "$1" = check ] && [ "${HUESHIFT_REQUIRE_ALL:-}" != 1 ]; then
    echo 'make ui-check: skipped, it needs the Debian package npm'
    exit 0
  fi
  echo "make ui: needs Node 18 or newer with npm (Debian: apt-get install npm)" >&2
  exit 1
fi

# node_modules is as the lock says: installed anew only when that has changed.
if ! cmp -s package-lock.json node_modules/.hueshift-lock; then
  npm ci --silent --no-audit --no-fund
  cp package-lock.json node_modules/.hueshift-lock
fi

write_types() {
  npx --no-install openapi-typescript "$openapi" --output "$1" >/dev/null 2>&1
}

case $1 in
build)
  if [ -e "$openapi" ]; then write_types "$types"; fi
  npm run --silent build -- --logLevel warn
  ;;
check)
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
  if [ -e "$openapi" ]; then
    write_types "$out/schema.d.ts"
    cmp -s "$out/schema.d.ts" "$types" || {
      echo 'controlplane/ui/web: the types are not those of docs/openapi.json: run make ui' >&2
      exit 1
    }
  fi
  npm run --silent check >"$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }
  npm run --silent build -- --outDir "$out/static" --emptyOutDir --logLevel warn
  diff -r "$out/static" "$static" >&2 || {
    echo 'controlplane/ui/static is not what controlplane/ui/web builds to: run make ui' >&2
    exit 1
  }
  ;;
*)
  echo "usage: build.sh build|check" >&2
  exit 2
  ;;
esac
