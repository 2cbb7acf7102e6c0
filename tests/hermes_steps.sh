#!/bin/sh
# Checks, with curl against a running server, what a client that lost its connection may rely on.
#
#   cargo run --release
#   tests/hermes_steps.sh [http://127.0.0.1:8642]
#
# The server's demo model must answer: it takes its time when asked to, and remembers codewords. TALARIA_API_KEY is
# sent where it is set. Takes about 15 seconds; ends with 1 if a check failed.
set -u

base=${1:-http://127.0.0.1:8642}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# Keys and names that no earlier run of this script has used.
unique=$(date +%s)-$$
failures=0

# call OUTPUT [curl's arguments…]: the body in the file OUTPUT, headers in OUTPUT.head; prints the status.
call() {
    output=$work/$1
    shift
    if [ -n "${TALARIA_API_KEY:-}" ]; then
        set -- -H "Authorization: Bearer $TALARIA_API_KEY" "$@"
    fi
    curl -sS -N --max-time 60 -o "$output" -D "$output.head" -w '%{http_code}' "$@" 2>"$output.error"
}

# create OUTPUT BODY [curl's arguments…]
create() {
    output_name=$1
    body=$2
    shift 2
    call "$output_name" "$base/v1/responses" -H 'Content-Type: application/json' -d "$body" "$@"
}

# get OUTPUT ID
get() {
    call "$1" "$base/v1/responses/$2"
}

# The first response id in a file.
id_in() {
    grep -o '"id":"resp_[0-9a-f]*"' "$work/$1" | head -n 1 | cut -d '"' -f 4
}

# The status of the response object in a file: the first one there.
status_in() {
    grep -o '"status":"[a-z_]*"' "$work/$1" | head -n 1 | cut -d '"' -f 4
}

# The names of a stream's events, one a line.
events_in() {
    sed -n 's/^event: //p' "$work/$1"
}

# The last line that is not empty.
last_line_of() {
    grep -v '^$' "$work/$1" | tail -n 1
}

contains() {
    grep -qi -- "$2" "$work/$1"
}

lacks() {
    ! contains "$@"
}

same() {
    if [ "$1" = "$2" ]; then return 0; fi
    echo "    expected '$2', got '$1'"
    return 1
}

title() {
    printf '\n%s\n' "$1"
}

# check DESCRIPTION COMMAND…
check() {
    description=$1
    shift
    if "$@"; then
        printf '  OK      %s\n' "$description"
    else
        printf '  FAILED  %s\n' "$description"
        failures=$((failures + 1))
    fi
}

if [ "$(call health "$base/health")" != 200 ]; then
    echo "No server answers at $base: $(cat "$work/health.error")" >&2
    exit 1
fi

title 'Step 2: a stream that is not stored'
status=$(create ephemeral '{"input":"Reply with exactly: ephemeral","stream":true,"store":false}')
check 'it is answered with 200' same "$status" 200
check 'its first event is response.created' same "$(events_in ephemeral | head -n 1)" response.created
check 'its last event is response.completed' same "$(events_in ephemeral | tail -n 1)" response.completed
check 'it ends with data: [DONE]' same "$(last_line_of ephemeral)" 'data: [DONE]'
check 'GET of its id is 404' same "$(get missing "$(id_in ephemeral)")" 404

title 'Step 3: an Idempotency-Key needs a stored response'
status=$(create unstored '{"input":"Hello!","stream":true,"store":false}' -H "Idempotency-Key: unstored-$unique")
check 'it is refused with 400' same "$status" 400
check 'the code is idempotency_requires_store' contains unstored '"code":"idempotency_requires_store"'

title 'Step 4: a stored stream survives its client'
slow='{"input":"Please take a little time.","stream":true}'
key="Idempotency-Key: slow-$unique"
create cut "$slow" -H "$key" --max-time 2 >"$work/cut.status"
id=$(id_in cut)
check 'the stream began with response.created' same "$(events_in cut | head -n 1)" response.created
check 'curl left before its end' lacks cut 'event: response.completed'
check 'GET finds it' same "$(get active "$id")" 200
check 'GET shows it in_progress' same "$(status_in active)" in_progress

title 'Step 5: a retry with the same key while it runs'
create retry "$slow" -H "$key" --max-time 2 >"$work/retry.status"
check 'it is the same response' same "$(id_in retry)" "$id"
check 'its first event is response.snapshot' same "$(events_in retry | head -n 1)" response.snapshot
check 'it goes on with text' contains retry 'event: response.output_text.delta'
check 'Idempotency-Replayed is true' contains retry.head '^idempotency-replayed: true'

title 'Step 6: the same key with another request'
status=$(create conflict '{"input":"Something else.","stream":true}' -H "$key")
check 'it is refused with 409' same "$status" 409
check 'the code is idempotency_key_conflict' contains conflict '"code":"idempotency_key_conflict"'

title 'Step 7: an ephemeral turn leaves no trace in a conversation'
conversation=steps-$unique
turn() {
    create "$1" "{\"input\":\"$2\",\"conversation\":\"$conversation\",\"stream\":$3,\"store\":$4}"
}
status=$(turn told 'Remember the codeword swordfish.' false true)
check 'a stored turn is told the codeword swordfish' same "$status $(status_in told)" '200 completed'
status=$(turn pineapple 'The codeword is pineapple.' true false)
check 'an ephemeral turn is told pineapple instead' same "$status" 200
check 'GET of the ephemeral turn is 404' same "$(get missing "$(id_in pineapple)")" 404
status=$(turn asked 'What is the codeword?' false true)
check 'the next stored turn completes' same "$status $(status_in asked)" '200 completed'
check 'it knows swordfish' contains asked swordfish
check 'it does not know pineapple' lacks asked pineapple

title 'Step 8: one response of a conversation at a time'
status=$(create busy "{\"input\":\"Please take a little time.\",\"conversation\":\"$conversation\",\"background\":true}")
check 'a stored response of the conversation is active' same "$status" 200
status=$(turn second 'Are you there?' false true)
check 'another stored request is refused with 409' same "$status" 409
check 'the code is conversation_response_not_completed' contains second '"code":"conversation_response_not_completed"'
status=$(turn third 'Are you there?' true false)
check 'so is one that is not stored' same "$status" 409
check 'DELETE ends the active one' same "$(call deleted -X DELETE "$base/v1/responses/$(id_in busy)")" 200
status=$(turn fourth 'What is the codeword?' false true)
check 'then the conversation goes on' same "$status $(status_in fourth)" '200 completed'
check 'from where it was' contains fourth swordfish

title 'Steps 4 and 5 again, when the run has ended'
status=$(call rest "$base/v1/responses/$id?stream=true")
check 'its stream can be followed to the end' same "$status $(last_line_of rest)" '200 data: [DONE]'
check 'GET finds it' same "$(get ended "$id")" 200
check 'GET shows it completed' same "$(status_in ended)" completed
text=$(sed -n '/^event: response.output_text.done/{n;p;}' "$work/rest" | grep -o '"text":"[^"]*"')
check 'with the whole text' contains ended "$text"
check 'of which the client had seen only the beginning' lacks cut "$text"
status=$(create replay "$slow" -H "$key")
check 'a retry with the same key is the same response' same "$status $(id_in replay)" "200 $id"
check 'and the same stream, from response.created to [DONE]' cmp -s "$work/replay" "$work/rest"
check 'Idempotency-Replayed is true' contains replay.head '^idempotency-replayed: true'

if [ "$failures" -gt 0 ]; then
    printf '\n%s checks FAILED\n' "$failures"
    exit 1
fi
printf '\nAll is as it should be.\n'
