#!/usr/bin/env bash
# Tries docker-compose.yml as a whole, on a machine with Docker, and says what it does:
# from a request to the topic, through restarts, with nothing lost and nothing doubled.
#
#   bash compose/smoke.sh           starts a project of its own beside any other (wenming-smoke), and leaves it running
#   bash compose/smoke.sh --clean   stops that project and deletes its volumes, nothing else
#
# A second run goes on with the ledger of the first. Needs Docker Compose 2.23.1 or newer, bash and curl.
set -euo pipefail
cd "$(dirname "$0")/.."
export COMPOSE_PROJECT_NAME=wenming-smoke
export WENMING_PUBLISHED_PORT=${WENMING_PUBLISHED_PORT:-18000}
base=http://127.0.0.1:$WENMING_PUBLISHED_PORT
topic=volunteer.ledger.events.v1
patience_seconds=${WENMING_SMOKE_SECONDS:-300}

say() { printf '\n== %s\n' "$*"; }
fail() { printf '\n!! %s\n' "$*" >&2; exit 1; }

# The command's output once it succeeds; what it said last if it never does.
eventually() {
  local until=$((SECONDS + patience_seconds)) said
  until said=$("$@" 2>&1); do
    ((SECONDS < until)) || fail "in $patience_seconds s not: $*"$'\n'"$said"
    sleep 1
  done
  printf '%s\n' "$said"
}

in_service() { docker compose exec -T "$@"; }

is_healthy() {
  local all service
  all=$(docker compose ps --format '{{.Service}} {{.Health}}')
  echo "$all"
  for service in "$@"; do
    grep -qx "$service healthy" <<<"$all" || return 1
  done
}

ask() { curl -sS --fail-with-body -H "Authorization: Bearer $key" "$@"; }

# Tells the ledger of a unit, which may be sent twice. Prints the position of the fact.
establish() { # what it is, its division
  local answer
  answer=$(ask "$base/v1/units" -H "Idempotency-Key: smoke-$2" -H 'Content-Type: application/json' \
    -d '{"name": "试用'"$2"'", "division_code": "'"$2"'", '"$1"'}') || { echo "$answer" >&2; return 1; }
  sed -n 's/.*"last_position":\([0-9]*\).*/\1/p' <<<"$answer"
}

# One more fact by the API: an institute of the one centre.
record() { establish '"kind": "institute", "parent_id": "'"$centre"'"' "$1"; }

# A division that no run has used: the ledger grows with each.
new_code() {
  local answer
  answer=$(curl -sS --fail-with-body "$base/healthz") || return 1
  [[ $answer =~ \"head\":([0-9]+) ]] || return 1
  printf '999999%03d' $((BASH_REMATCH[1] % 1000))
}

units() { ask "$base/v1/units" "$@"; }

the_centre() { # the first of all units
  local answer
  answer=$(units) || return 1
  [[ $answer =~ \"unit_id\":\"([^\"]+)\" ]] && echo "${BASH_REMATCH[1]}"
}

figures_show() { # a position, a code
  units -H "Ledger-Min-Position: $1" | grep "\"$2\"" >/dev/null
}

relay_is_at_the_head() { in_service relay wenming relay --status --lag-max 0; }

# Every committed message, a line each, as any Kafka client reads them.
messages() {
  in_service -e KAFKA_HEAP_OPTS=-Xmx128m kafka /opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:9092 \
    --topic "$topic" --from-beginning --isolation-level read_committed --timeout-ms 10000 2>/dev/null || true
}

topic_holds() { # how many facts, and which codes, each once
  local read count code
  read=$(messages)
  count=$(grep -c '"specversion"' <<<"$read" || true)
  echo "the topic holds $count facts"
  [ "$count" -eq "$1" ] || return 1
  shift
  for code in "$@"; do
    [ "$(grep -c "\"division_code\":\"$code\"" <<<"$read" || true)" -eq 1 ] || { echo "not once: $code"; return 1; }
  done
}

signed_up_to() { # a position
  local size
  size=$(in_service signer wenming checkpoint --vkey "$vkey" 2>/dev/null | sed -n 2p)
  echo "signed up to ${size:-nothing}"
  [ "${size:-0}" -ge "$1" ]
}

if [ "${1:-}" = --clean ]; then
  say "stopping $COMPOSE_PROJECT_NAME and deleting its volumes"
  docker compose down --volumes --remove-orphans
  exit
fi
[ $# -eq 0 ] || fail "only --clean is understood"
docker compose version >/dev/null || fail "Docker Compose is not here"

say "passwords"
sh compose/secrets.sh

say "starting everything"
docker compose up -d
eventually is_healthy postgres kafka api
docker compose ps

key=$(docker compose logs --no-log-prefix init | sed -n 's/^admin key *\(wm_[^ ]*\).*/\1/p' | tail -n 1)
if [ -z "$key" ]; then
  say "the first admin key was shown in an earlier run: making another"
  key=$(in_service api wenming user add admin | sed -n 's/^key *\(wm_[^ ]*\).*/\1/p')
fi
vkey=$(docker compose logs --no-log-prefix signing-key | grep -E '^[^ ]+\+[0-9a-f]{8}\+' | tail -n 1)
echo "the log's public key: $vkey"

say "a fact by the API"
establish '"kind": "centre"' 999999 >/dev/null 2>&1 || echo "there is a centre already"
centre=$(eventually the_centre)
first=$(new_code)
position=$(record "$first")
echo "position $position"

say "figures show it"
eventually figures_show "$position" "$first"
in_service follower wenming follow --status --lag-seconds-max 10

say "the relay has sent it, and the topic holds every fact once"
eventually relay_is_at_the_head
eventually topic_holds "$position" "$first"

say "a checkpoint covers it, and everything verifies"
eventually signed_up_to "$position"
in_service follower wenming verify --vkey "$vkey"

say "without Kafka the ledger goes on, and the relay catches up"
docker compose stop kafka
second=$(new_code)
position=$(record "$second")
echo "position $position"
docker compose start kafka
eventually relay_is_at_the_head
eventually topic_holds "$position" "$first" "$second"

say "PostgreSQL restarts, and nothing is lost"
docker compose restart postgres
third=$(eventually new_code)
position=$(eventually record "$third")
echo "position $position"
eventually figures_show "$position" "$third"
eventually relay_is_at_the_head
eventually topic_holds "$position" "$first" "$second" "$third"
eventually signed_up_to "$position"
in_service follower wenming verify --vkey "$vkey"

say "everybody says they are well"
eventually is_healthy postgres kafka api follower signer relay

say "done: $position facts, each on the topic once. It is running; bash compose/smoke.sh --clean removes it."
