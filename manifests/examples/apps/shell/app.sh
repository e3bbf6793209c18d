#!/bin/sh
# Calls a service with the token that podtoken keeps fresh: it reads the file for each request. Reading costs microseconds:
# the file is in memory, and complete at any time.
set -eu

before=
while true; do
  token=$(cat "$VAULT_TOKEN_FILE")
  if [ -n "$before" ] && [ "$token" != "$before" ]; then
    # Sessions that were opened with the old token would be opened again here.
    echo "the token has changed" >&2
  fi
  before=$token
  # curl reads the header from its input: arguments can be read by whoever sees the process. printf is a part of the shell.
  if status=$(printf 'Authorization: Bearer %s\n' "$token" |
    curl --silent --show-error --max-time 10 --header @- --output /dev/null --write-out '%{http_code}' "$SERVICE_URL"); then
    echo "the service answered $status" >&2
  else
    echo "the call failed" >&2
  fi
  sleep "$EVERY_SECONDS"
done
